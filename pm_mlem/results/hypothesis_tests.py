"""Tests of hypotheses about the parameters of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pm_mlem.graph.roles.held import as_array, by_variable
from pm_mlem.inference.covariance import delta_covariance, variability
from pm_mlem.inference.hypotheses import (
    HypothesisTest,
    chi_square_tail,
    information_matrix_statistic,
    quadratic_form,
)
from pm_mlem.inference.information import split
from pm_mlem.objective.engine import contents, engine_for
from pm_mlem.optimize.problem import Status
from pm_mlem.results.expressions import Expressions, Hypotheses, equations
from pm_mlem.results.uncertainty import clusters_of, spread

if TYPE_CHECKING:
    from pm_mlem.results.fit import Fit

MOST_CURVATURE = 2**26
"""Second derivatives by unit that are held in memory at once."""


def wald_test(fit: Fit, hypotheses: Hypotheses, kind: str, cluster, small_sample: bool) -> HypothesisTest:
    """See :meth:`pm_mlem.Fit.wald_test`."""
    sides = equations(hypotheses)
    if not sides:
        raise ValueError("There is no hypothesis; write an equation such as 'mu[a] = mu[b]' or 'b = 0'.")
    value, slopes = Expressions(fit.estimates).linearized(sides, fit._jacobians)
    if kind == "bootstrap":
        covariance = (
            slopes @ fit.covariance(kind, "unconstrained", cluster, small_sample=small_sample).values @ slopes.T
        )
    else:
        covariance = delta_covariance(slopes, spread(fit, kind, cluster, small_sample))
    name = "Wald test of " + ", ".join(f"{left} = {right}" for left, right in sides)
    if not np.all(np.isfinite(np.diag(covariance))) or np.any(fit._diagnosis.leans(slopes)):
        raise ValueError(
            f"{name.replace('Wald test of ', '')} cannot be tested: there are estimates without standard errors in it; "
            "see the notes of summary()."
        )
    try:
        statistic = quadratic_form(value, covariance)
    except ValueError:
        raise ValueError(singular(fit, kind, cluster, len(value))) from None
    return HypothesisTest(name, statistic, len(value), chi_square_tail(statistic, len(value)))


def check_maximum(fit: Fit, test: str) -> None:
    """Refuse estimates that are no maximum of the likelihood.

    Raises
    ------
    ValueError
    """
    if fit._curvature[1]:
        raise ValueError(f"{test} needs a maximum of the likelihood: {fit._curvature[1]}.")


def singular(fit: Fit, kind: str, cluster, equations: int) -> str:
    """Why equations have no joint covariance."""
    if kind == "sandwich":
        labels = np.arange(len(fit._weights)) if cluster is None else clusters_of(fit, cluster)
        count = len(np.unique(labels[fit._weights != 0]))
        if count <= equations:
            which = "clusters" if cluster is not None else "independent units"
            return f"{equations} equations need more {which} than that; there are {count}. Test fewer at once."
    return (
        "The hypotheses depend on each other, or on held parameters alone; leave out those that follow from the others."
    )


def score_test(fit: Fit, release: Sequence[str] | None, kind: str) -> HypothesisTest:
    """See :meth:`pm_mlem.Fit.score_test`."""
    fixed = dict(fit._engine.choices.fixed)
    if fit.estimator != "mle":
        raise ValueError("A score test needs maximum-likelihood estimates; fit with estimator='mle'.")
    if kind not in ("observed", "opg"):
        raise ValueError(f"kind={kind!r} is unknown; use 'observed' or 'opg'.")
    if not fixed:
        raise ValueError("Nothing is held in this fit: make it with fixed={name: value}, the hypothesis to be tested.")
    released = list(fixed) if release is None else [release] if isinstance(release, str) else list(release)
    check_data(fit)
    if not released:
        raise ValueError(f"release is empty; name what is tested, of {', '.join(map(repr, fixed))}.")
    for name in released:
        if name not in fixed:
            raise ValueError(f"release: '{name}' is not held in this fit; held are {', '.join(map(repr, fixed))}.")
    check_maximum(fit, "A score test")
    choices = replace(fit._engine.choices, fixed={k: v for k, v in fixed.items() if k not in released})
    engine = engine_for(fit.model, "mle", choices, backend=fit._engine.backend)
    objective = engine.objective
    values = {n: fit.estimates[n].values for n in objective.space.names}
    try:
        point = objective.space.unconstrain(values)
    except ValueError:
        raise ValueError(
            "The hypothesis is on the boundary of the parameter space, where a score test does not apply; use "
            "mlem.likelihood_ratio_test."
        ) from None
    _, gradient, hessian = objective.derivatives(point, fit._weights, engine.data)
    if kind == "observed":
        information = -0.5 * (np.asarray(hessian) + np.asarray(hessian).T)
    else:
        information = variability(np.asarray(objective.scores(point, engine.data)), fit._weights)
    try:
        statistic = quadratic_form(np.asarray(gradient), information)
    except ValueError:
        raise ValueError(
            f"The information (kind='{kind}') of the larger model is not positive definite at the estimates: its "
            "parameters are not identified there, or the hypothesis is far from the data (then kind='opg', or a "
            "likelihood-ratio test)."
        ) from None
    df = objective.space.size - fit.n_params
    return HypothesisTest(f"Score test of {held_in_words(fixed, released)}", statistic, df,
                          chi_square_tail(statistic, df))  # fmt: skip


def held_in_words(fixed, released: Sequence[str]) -> str:
    arrays = {name: as_array(fixed[name]) for name in released}
    return ", ".join(
        f"{name} = {np.array2string(a, threshold=4) if a.ndim else format(float(a), 'g')}" for name, a in arrays.items()
    )


def information_matrix_test(fit: Fit, elements: str) -> HypothesisTest:
    """See :meth:`pm_mlem.Fit.information_matrix_test`."""
    import jax

    if fit.estimator != "mle":
        raise ValueError("The information-matrix test needs maximum-likelihood estimates; fit with estimator='mle'.")
    if elements not in ("all", "diagonal"):
        raise ValueError(f"elements={elements!r} must be 'all' or 'diagonal'.")
    check_maximum(fit, "The information-matrix test")
    free = split(fit._information.held.T)[1]
    objective, p = fit._engine.objective, free.shape[1]
    if not p:
        raise ValueError("The information-matrix test needs free parameters that are inside the parameter space.")
    used = fit._weights != 0
    count, compared = np.count_nonzero(used), p if elements == "diagonal" else p * (p + 1) // 2
    if count <= p + compared:
        hint = "" if elements == "diagonal" else "; compare fewer with elements='diagonal'"
        raise ValueError(
            f"The information-matrix test compares {compared} elements for {p} parameters and needs more independent "
            f"units than both together; there are {count}{hint}."
        )
    if objective.backend != "jax":
        raise ValueError("The information-matrix test needs backend='jax'.")
    if objective.n_units * fit.n_params**2 > MOST_CURVATURE:
        raise ValueError("There are too many units and parameters for second derivatives by unit.")
    hessians = jax.jit(jax.jacfwd(objective.scores))(fit._optimum.point, fit._engine.data)
    statistic, df = information_matrix_statistic(
        fit._scores[used] @ free, free.T @ np.asarray(hessians)[used] @ free, fit._weights[used], elements == "diagonal"
    )
    if not df:
        raise ValueError(
            "There is nothing to compare: curvature and variability of the scores agree whatever the data are (each "
            "Bernoulli probability with parameters of its own, say)."
        )
    return HypothesisTest("Information-matrix test", statistic, df, chi_square_tail(statistic, df), table=ratios(fit))


def ratios(fit: Fit):
    """Standard errors of the kinds side by side, and how they compare."""
    table = fit.summary(kind=["observed", "opg", "sandwich"])
    table = table[["se_observed", "se_opg", "se_sandwich"]]
    return table.assign(
        opg_ratio=table["se_opg"] / table["se_observed"], sandwich_ratio=table["se_sandwich"] / table["se_observed"]
    )


# --- two fits ---------------------------------------------------------------------------------------------


def check_pair(null: Fit, alternative: Fit) -> None:
    """Refuse two fits that cannot be compared by their likelihoods.

    Raises
    ------
    ValueError
    """
    for fit in (null, alternative):
        if not hasattr(fit, "estimator"):
            raise TypeError(f"A likelihood-ratio test takes two fits, not {type(fit).__name__}.")
        if fit.estimator != "mle":
            raise ValueError("A likelihood-ratio test compares maximum-likelihood fits; fit with estimator='mle'.")
    if null.model is alternative.model and null._engine.contents != alternative._engine.contents:
        raise ValueError(
            "The data of the model were replaced (pm.set_data) between the fits; a likelihood-ratio test needs the "
            "same. Fit both again."
        )
    if null.model is not alternative.model:
        check_data(null)
        check_data(alternative)
    check_same_data(null, alternative, "the fits")
    if not same_weights(null._weights, alternative._weights):
        raise ValueError("The fits have different observation weights; a likelihood-ratio test needs the same.")
    if alternative.n_params <= null.n_params:
        raise ValueError(
            f"The alternative must have more parameters than the null; they have {alternative.n_params} and "
            f"{null.n_params}. The order is likelihood_ratio_test(null, alternative)."
        )
    gap = null.log_likelihood - alternative.log_likelihood
    if not gap <= 1e-6 * (1.0 + abs(null.log_likelihood)):
        raise ValueError(
            f"The alternative has the lower log-likelihood, by {gap:.4g}: the null is no special case of it, or its "
            "fit ended at a poor local maximum (try more starts=)."
        )


def check_same_data(first: Fit, second: Fit, where: str) -> None:
    """Refuse two fits whose models observe different variables or values.

    Raises
    ------
    ValueError
    """
    from pymc.backends.arviz import find_observations

    one, two = find_observations(first.model), find_observations(second.model)
    if set(one) != set(two):
        raise ValueError(
            f"Different variables are observed in {where}, {', '.join(map(repr, one))} and "
            f"{', '.join(map(repr, two))}; a comparison needs the same data under the same names."
        )
    for name, values in one.items():
        if not np.array_equal(np.asarray(values), np.asarray(two[name])):
            raise ValueError(f"The data of '{name}' differ between {where}; a comparison needs the same.")


def check_data(fit: Fit) -> None:
    """Refuse a fit whose model has other data by now.

    Raises
    ------
    ValueError
    """
    if fit._engine.contents != contents(fit.model):
        raise ValueError("The data of the model were replaced (pm.set_data) after the fit. Fit it again first.")


def same_weights(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether observation weights agree; units may be different where all weights are 1."""
    if first.shape == second.shape:
        return bool(np.allclose(first, second))
    return bool(np.all(first == 1.0) and np.all(second == 1.0))


def is_restriction(null: Fit, alternative: Fit) -> bool:
    """Whether the null is the model of the alternative with more held, as far as that is known."""
    if null.model is not alternative.model:
        return False
    flat = [dict(fit._engine.choices.fixed) for fit in (null, alternative)]
    return all(k in flat[0] and np.array_equal(as_array(flat[0][k]), as_array(v), equal_nan=True)
               for k, v in flat[1].items())  # fmt: skip


def on_boundary(null: Fit, alternative: Fit) -> int:
    """How many of the parameters that a restriction holds are on the boundary of the alternative's space."""
    structure, space = null._engine.objective.tables.structure, alternative._engine.objective.space
    names = by_variable(null._engine.choices.fixed, space.names)
    scales = {p.name: p.scale for p in alternative._engine.objective.tables.structure.free}
    count = 0
    for name in space.names:
        if name not in names:
            continue
        held = structure.fixed.get(name, structure.held.get(name))
        tested = space.is_free(name) & ~np.isnan(held)
        value = null.estimates[name].values
        if scales[name] in ("log", "simplex"):
            count += int(np.sum(tested & (value == 0)))
        elif scales[name] == "logodds":
            count += int(np.sum(tested & ((value == 0) | (value == 1))))
        elif scales[name] == "interval" and tested.any():
            count += int(not inside(alternative, name, value))
    return count


def inside(alternative: Fit, name: str, value: np.ndarray) -> bool:
    """Whether a value is inside the support."""
    try:
        alternative._engine.objective.space.unconstrain({name: value})
    except ValueError:
        return False
    return True


def flat(fit: Fit) -> int:
    """In how many directions the data do not determine the parameters."""
    information = fit._diagnosis.information
    return 0 if information is None else information.null.shape[1]


def states_of(fit: Fit) -> list[tuple[int, int]]:
    """States and elements of all latents."""
    return sorted((item.states, item.n_elements) for item in fit._engine.objective.tables.structure.latents)


def without_reference(null: Fit, alternative: Fit) -> str:
    """Why the statistic has no chi-square distribution: parameters that mean nothing under the null."""
    if states_of(null) != states_of(alternative):
        return "the numbers of hidden states differ, so that parameters of the alternative mean nothing under the null"
    for fit, which in ((null, "null"), (alternative, "alternative")):
        if fit.status is Status.DEGENERATE:
            return f"the objective of the {which} has no maximum"
    if is_restriction(null, alternative) and flat(null) > flat(alternative):
        return "some parameters are not identified under the null"
    return ""
