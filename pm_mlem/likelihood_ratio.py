"""The likelihood-ratio test of two fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pm_mlem.arguments import checked, flag, optional, replicates, seed, whole
from pm_mlem.precision import double
from pm_mlem.progress import progress

if TYPE_CHECKING:
    from pm_mlem.estimate.estimate import Estimate
    from pm_mlem.estimate.refits import Refitter
    from pm_mlem.inference.hypotheses import HypothesisTest
    from pm_mlem.results.fit import Fit

NAME = "Likelihood-ratio test"
STARTS = 5
"""Starts of the alternative in every bootstrap replicate."""


@checked(boundary=optional(whole(0)), bootstrap=replicates, starts=whole(1), random_seed=seed, progressbar=flag)
@double()
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
    from pm_mlem.inference.hypotheses import HypothesisTest
    from pm_mlem.results.fit import Fit
    from pm_mlem.results.pairs import check_pair, undetermined, why_no_reference

    for fit in (null, alternative):
        if not isinstance(fit, Fit):
            raise TypeError(f"A likelihood-ratio test takes two fits, not {type(fit).__name__}.")
    smaller, larger = null._estimate, alternative._estimate
    check_pair(smaller, larger)
    statistic = max(2.0 * (larger.log_likelihood - smaller.log_likelihood), 0.0)
    df = larger.n_params - smaller.n_params
    free = 0
    if not bootstrap and not why_no_reference(smaller, larger):
        free = undetermined(larger) - undetermined(smaller)
        df -= free
    if df < 1:
        raise ValueError(
            "There is nothing to test: the data do not determine what the alternative has more than the null; see "
            "its message."
        )
    if not bootstrap:
        return asymptotic(smaller, larger, statistic, df, boundary, free)
    count = 199 if bootstrap is True else bootstrap
    found, failed = refitted(smaller, larger, count, starts, random_seed, progressbar)
    p_value = (1 + np.sum(found >= statistic - 1e-8)) / (1 + len(found))
    note = f"Parametric bootstrap, {len(found)} replicates."
    if failed:
        note += f" {failed} more did not converge and do not count."
    return HypothesisTest(NAME, statistic, df, float(p_value), note, found)


def asymptotic(
    null: Estimate, alternative: Estimate, statistic: float, df: int, boundary: int | None, undetermined: int
) -> HypothesisTest:
    """The test by the chi-square distribution, or by a mixture of them on the boundary, with notes on both.

    Raises
    ------
    ValueError
        More parameters on the boundary than are tested.
    """
    from pm_mlem.inference.hypotheses import HypothesisTest, chi_square_tail
    from pm_mlem.results.pairs import is_restriction, on_boundary, why_no_reference

    if boundary is not None and not 0 <= boundary <= df:
        raise ValueError(f"boundary={boundary} must lie between 0 and {df}, the number of parameters that are tested.")
    nested, reason = is_restriction(null, alternative), why_no_reference(null, alternative)
    if reason and boundary is None:
        remedy = "" if "no maximum" in reason else " Use bootstrap=199."
        note = f"There is no chi-square distribution: {reason}.{remedy}"
        return HypothesisTest(NAME, statistic, df, float("nan"), note)
    held = min(on_boundary(null, alternative), df) if boundary is None and nested else boundary or 0
    notes = [f"{which}: {estimate.reason}." for which, estimate in (("Null", null), ("Alternative", alternative))
             if estimate.reason]  # fmt: skip
    if undetermined:
        notes.append(f"{undetermined} of the alternative's parameters are not determined by the data and do not count.")
    if held:
        notes.append(f"Mixture of chi-squares: {held} of the parameters that are tested on the boundary.")
    elif not nested:
        notes.append("That the null is a special case of the alternative, inside its space, is taken for granted.")
    if boundary is None and not held and alternative.diagnosis.border:
        notes.append("Estimates of the alternative are on the boundary; the p-value may be too large.")
    return HypothesisTest(NAME, statistic, df, chi_square_tail(statistic, df, held), " ".join(notes))


def refitted(
    null: Estimate, alternative: Estimate, count: int, starts: int, random_seed: int | None, progressbar: bool
) -> tuple[np.ndarray, int]:
    """Statistics of data drawn from the null, and how many could not be had."""
    from pm_mlem.estimate.refits import Refitter
    from pm_mlem.estimate.simulate import simulator
    from pm_mlem.estimate.starts import start_points

    if not np.all(null.target.weights == 1.0):
        raise ValueError("bootstrap= draws as many observations as there are; it cannot be used with weights.")
    draw, rng = simulator(null), np.random.default_rng(random_seed)
    refit = [Refitter(e, e.target.replaceable(e.point)) for e in (null, alternative)]
    points = [[e.point] for e in (null, alternative)]
    _, more = start_points(1, alternative.target, random_seed)
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
    target = refit.target.with_data(drawn)
    if not target.space.size:
        return target.log_likelihood(points[0])
    ends = [refit(target, point) for point in points]
    return max((end.log_likelihood for end in ends if end.converged), default=float("nan"))
