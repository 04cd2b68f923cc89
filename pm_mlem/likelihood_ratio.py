"""The likelihood-ratio test of two fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pm_mlem.progress import progress

if TYPE_CHECKING:
    from pm_mlem.estimate.refits import Refitter
    from pm_mlem.inference.hypotheses import HypothesisTest
    from pm_mlem.results.fit import Fit

STARTS = 5
"""Starts of the alternative in every bootstrap replicate."""


def likelihood_ratio_test(
    null: Fit,
    alternative: Fit,
    *,
    boundary: int | None = None,
    bootstrap: int | bool = False,
    starts: int = STARTS,
    random_seed: int | None = None,
    progressbar: bool = True,
) -> HypothesisTest:
    """Test a restricted model against a larger one by twice the difference of their log-likelihoods.

    Parameters
    ----------
    null, alternative : Fit
        Maximum-likelihood fits to the same data. The null is a special case of the alternative: the same model with
        ``fixed=``, say, or another model (this is then taken for granted).
    boundary : int, optional
        How many of the tested parameters are on the boundary of their space under the null (a variance of 0). The
        reference distribution is then a mixture of chi-squares [1]_, for one parameter half a point mass at 0 and half
        the chi-square with one degree of freedom; for several the weights are binomial, which is exact for uncorrelated
        estimates. Default: values on the boundary that the null holds with ``fixed=`` are counted.
    bootstrap : int
        Number of replicates of the parametric bootstrap: data are drawn from the null fit, both models are refitted,
        and the p-value is ``(1 + larger) / (1 + replicates)``. This is what numbers of components ask for, where no
        chi-square applies [2]_. True: 199.
    starts : int
        In each replicate the alternative is refitted from its estimates and from this many points less one made from
        the data of the fit; the null from its estimates.
    random_seed : int, optional
    progressbar : bool
        Show the progress of the bootstrap.

    Returns
    -------
    HypothesisTest
        With ``statistic``, ``df``, ``p_value``, ``note`` and (bootstrap) ``replicates``.

    Raises
    ------
    ValueError
        Different data or weights, an alternative that has not more parameters or a lower log-likelihood, bootstrap
        replicates that cannot be drawn.

    References
    ----------
    .. [1] Self, S. G. & Liang, K.-Y. *Asymptotic properties of maximum likelihood estimators and likelihood ratio tests
       under nonstandard conditions*. JASA 82 (1987). https://doi.org/10.1080/01621459.1987.10478472
    .. [2] McLachlan, G. J. *On bootstrapping the likelihood ratio test statistic for the number of components in a
       normal mixture*. Applied Statistics 36 (1987). https://doi.org/10.2307/2347790

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_mlem as mlem
    >>> with pm.Model() as model:
    ...     p = pm.Beta("p", 1, 1)
    ...     flips = pm.Binomial("flips", 100, p, observed=60)
    >>> fair = mlem.fit(model, fixed={"p": 0.5}, progressbar=False)
    >>> mlem.likelihood_ratio_test(fair, mlem.fit(model, progressbar=False))
    Likelihood-ratio test: statistic 4.027, df 1, p-value 0.04477
    """
    from pm_mlem.inference.hypotheses import HypothesisTest, chi_square_tail
    from pm_mlem.results.hypothesis_tests import check_pair, flat, is_restriction, on_boundary, without_reference

    check_pair(null, alternative)
    statistic = max(2.0 * (alternative.log_likelihood - null.log_likelihood), 0.0)
    df = alternative.n_params - null.n_params
    undetermined = 0
    if not bootstrap and not without_reference(null, alternative):
        undetermined = flat(alternative) - flat(null)
        df -= undetermined
    if df < 1:
        raise ValueError(
            "There is nothing to test: the data do not determine what the alternative has more than the null; see "
            "its message."
        )
    nested = is_restriction(null, alternative)
    name = "Likelihood-ratio test"
    if bootstrap:
        count = 199 if bootstrap is True else int(bootstrap)
        if count < 1 or starts < 1:
            raise ValueError("bootstrap= and starts= must be at least 1.")
        found, failed = replicates(null, alternative, count, starts, random_seed, progressbar)
        p_value = (1 + np.sum(found >= statistic - 1e-8)) / (1 + len(found))
        note = f"Parametric bootstrap, {len(found)} replicates."
        if failed:
            note += f" {failed} more did not converge and do not count."
        return HypothesisTest(name, statistic, df, float(p_value), note, found)
    if boundary is not None and not 0 <= boundary <= df:
        raise ValueError(f"boundary={boundary} must lie between 0 and {df}, the number of parameters that are tested.")
    reason = without_reference(null, alternative)
    if reason and boundary is None:
        remedy = "" if "no maximum" in reason else " Use bootstrap=199."
        note = f"There is no chi-square distribution: {reason}.{remedy}"
        return HypothesisTest(name, statistic, df, float("nan"), note)
    held = min(on_boundary(null, alternative), df) if boundary is None and nested else boundary or 0
    notes = [f"{which}: {fit._curvature[1]}." for which, fit in (("Null", null), ("Alternative", alternative))
             if fit._curvature[1]]  # fmt: skip
    if undetermined:
        notes.append(f"{undetermined} of the alternative's parameters are not determined by the data and do not count.")
    if held:
        notes.append(f"Mixture of chi-squares: {held} of the parameters that are tested on the boundary.")
    elif not nested:
        notes.append("That the null is a special case of the alternative, inside its space, is taken for granted.")
    if boundary is None and not held and alternative._diagnosis.border:
        notes.append("Estimates of the alternative are on the boundary; the p-value may be too large.")
    return HypothesisTest(name, statistic, df, chi_square_tail(statistic, df, held), " ".join(notes))


def replicates(
    null: Fit, alternative: Fit, count: int, starts: int, random_seed: int | None, progressbar: bool
) -> tuple[np.ndarray, int]:
    """Statistics of data drawn from the null fit, and how many could not be had."""
    from pm_mlem.estimate.refits import Refitter, replaceable
    from pm_mlem.estimate.simulate import simulator
    from pm_mlem.fit import start_points

    if not np.all(null._weights == 1.0):
        raise ValueError("bootstrap= draws as many observations as there are; it cannot be used with weights.")
    draw, rng = simulator(null), np.random.default_rng(random_seed)
    refit = [Refitter(fit, replaceable(fit)) for fit in (null, alternative)]
    points = [[fit._optimum.point] for fit in (null, alternative)]
    _, more = start_points(1, alternative._engine, alternative._weights, random_seed)
    points[1] += [start.point for start in more(starts - 1)]
    found, failed = [], 0
    with progress("Likelihood-ratio bootstrap", enabled=progressbar) as observe:
        for i in range(count):
            drawn = draw(rng)
            values = [best(r, given, drawn) for r, given in zip(refit, points, strict=True)]
            if np.all(np.isfinite(values)):
                found.append(max(2.0 * (values[1] - values[0]), 0.0))
            else:
                failed += 1
            observe(i, found[-1] if found else float("nan"))
    if not found:
        raise ValueError("No bootstrap replicate converged.")
    return np.array(found), failed


def best(refit: Refitter, points: list[np.ndarray], drawn: Mapping[str, np.ndarray]) -> float:
    """The largest log-likelihood that refits to data reach from several points; NaN if none converges."""
    objective, weights = refit.objective, refit.fit._weights
    data = objective.data_with(refit.engine.data, drawn)
    if not objective.space.size:
        return float(objective.log_likelihood(points[0], weights, data))
    values = []
    for point in points:
        refit.start = point
        end = refit(weights, data)
        values += [end.log_likelihood] if end.converged else []
    return max(values, default=float("nan"))
