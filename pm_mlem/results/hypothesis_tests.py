"""Tests of hypotheses about the parameters of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr

from pm_mlem.estimate.covariance import clusters_of, curvature_of_rest, spread
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.inference.covariance import delta_covariance, variability
from pm_mlem.inference.hypotheses import (
    HypothesisTest,
    chi_square_tail,
    information_matrix_statistic,
    quadratic_form,
)
from pm_mlem.inference.information import split
from pm_mlem.results.estimates import parameters_and_deterministics
from pm_mlem.results.expressions import Expressions, Hypotheses, equations

MOST_CURVATURE = 2**26
"""Second derivatives by unit that are held in memory at once."""


def wald_test(
    estimate: Estimate, hypotheses: Hypotheses, kind: str, cluster, small_sample: bool, replicated: xr.DataArray | None
) -> HypothesisTest:
    """See :meth:`pm_mlem.Fit.wald_test`; ``replicated`` is the unconstrained covariance of a bootstrap."""
    sides = equations(hypotheses)
    if not sides:
        raise ValueError("There is no hypothesis; write an equation such as 'mu[a] = mu[b]' or 'b = 0'.")
    expressions = Expressions(parameters_and_deterministics(estimate))
    value, slopes = expressions.linearized(sides, estimate.jacobians)
    if replicated is not None:
        covariance = slopes @ replicated.values @ slopes.T
    else:
        covariance = delta_covariance(slopes, spread(estimate, kind, cluster, small_sample))
    name = "Wald test of " + ", ".join(f"{left} = {right}" for left, right in sides)
    if not np.all(np.isfinite(np.diag(covariance))) or np.any(estimate.diagnosis.leans(slopes)):
        raise ValueError(
            f"{name.replace('Wald test of ', '')} cannot be tested: there are estimates without standard errors in it; "
            "see the notes of summary()."
        )
    try:
        statistic = quadratic_form(value, covariance)
    except ValueError:
        raise ValueError(singular(estimate, kind, cluster, len(value))) from None
    note = outside(estimate, expressions, sides)
    return HypothesisTest(name, statistic, len(value), chi_square_tail(statistic, len(value)), note)


def outside(estimate: Estimate, expressions: Expressions, sides: Sequence[tuple[str, str]]) -> str:
    """A sentence about hypotheses that are not inside the parameter space."""
    found = []
    for equation in sides:
        solved = expressions.solution(equation)
        if solved is not None and solved[0] in estimate.target.space.names:
            try:
                estimate.target.space.unconstrain(dict([solved]), "")
            except ValueError:
                found.append(" = ".join(equation))
    if not found:
        return ""
    return (
        f"{', '.join(found)}: not inside the parameter space. On its boundary the statistic has no chi-square "
        "distribution, and the p-value is too large; use mlem.likelihood_ratio_test."
    )


def check_maximum(estimate: Estimate, test: str) -> None:
    """Refuse estimates that are no maximum of the likelihood.

    Raises
    ------
    ValueError
    """
    if estimate.reason:
        raise ValueError(f"{test} needs a maximum of the likelihood: {estimate.reason}.")


def singular(estimate: Estimate, kind: str, cluster, equations: int) -> str:
    """Why equations have no joint covariance."""
    if kind == "sandwich":
        weights = estimate.sample.weights
        labels = np.arange(len(weights)) if cluster is None else clusters_of(estimate, cluster)
        count = len(np.unique(labels[weights != 0]))
        if count <= equations:
            which = "clusters" if cluster is not None else "independent units"
            return f"{equations} equations need more {which} than that; there are {count}. Test fewer at once."
    return (
        "The hypotheses depend on each other, or on held parameters alone; leave out those that follow from the others."
    )


def score_test(estimate: Estimate, release: Sequence[str] | None, kind: str) -> HypothesisTest:
    """See :meth:`pm_mlem.Fit.score_test`."""
    fixed = dict(estimate.target.engine.choices.fixed)
    if estimate.target.estimator != "mle":
        raise ValueError("A score test needs maximum-likelihood estimates; fit with estimator='mle'.")
    if kind not in ("observed", "opg"):
        raise ValueError(f"kind={kind!r} is unknown; use 'observed' or 'opg'.")
    released = check_released(fixed, release)
    check_maximum(estimate, "A score test")
    larger = estimate.target.sibling(fixed={k: v for k, v in fixed.items() if k not in released})
    try:
        point = larger.space.unconstrain({n: estimate.reported[n] for n in larger.space.names})
    except ValueError:
        raise ValueError(
            "The hypothesis is on the boundary of the parameter space, where a score test does not apply; use "
            "mlem.likelihood_ratio_test."
        ) from None
    _, gradient, hessian = larger.derivatives(point)
    if kind == "observed":
        information = -0.5 * (hessian + hessian.T)
    else:
        wider = replace(estimate, target=larger, optimum=replace(estimate.optimum, point=point))
        rest = curvature_of_rest(wider)
        information = variability(wider.sample.mean(wider.scores), wider.sample.weights)
        information = information if rest is None else information - rest
    try:
        statistic = quadratic_form(gradient, information)
    except ValueError:
        raise ValueError(
            f"The information (kind='{kind}') of the larger model is not positive definite at the estimates: its "
            "parameters are not identified there, or the hypothesis is far from the data (then kind='opg', or a "
            "likelihood-ratio test)."
        ) from None
    df = larger.space.size - estimate.n_params
    return HypothesisTest(f"Score test of {held_in_words(fixed, released)}", statistic, df,
                          chi_square_tail(statistic, df))  # fmt: skip


def check_released(fixed: dict, release: Sequence[str] | None) -> list[str]:
    """What is tested of what is held.

    Raises
    ------
    ValueError
    """
    if not fixed:
        raise ValueError("Nothing is held in this fit: make it with fixed={name: value}, the hypothesis to be tested.")
    released = list(fixed) if release is None else list(release)
    for name in released:
        if name not in fixed:
            raise ValueError(f"release: '{name}' is not held in this fit; held are {', '.join(map(repr, fixed))}.")
    return released


def held_in_words(fixed, released: Sequence[str]) -> str:
    arrays = {name: fixed[name] for name in released}
    return ", ".join(
        f"{name} = {np.array2string(a, threshold=4) if a.ndim else format(float(a), 'g')}" for name, a in arrays.items()
    )


def information_matrix_test(estimate: Estimate, elements: str) -> HypothesisTest:
    """See :meth:`pm_mlem.Fit.information_matrix_test`; its table is made by :func:`ratios`."""
    if estimate.target.estimator != "mle":
        raise ValueError("The information-matrix test needs maximum-likelihood estimates; fit with estimator='mle'.")
    if elements not in ("all", "diagonal"):
        raise ValueError(f"elements={elements!r} must be 'all' or 'diagonal'.")
    check_maximum(estimate, "The information-matrix test")
    known = estimate.information
    free = known.unscaled(split(known.held.T)[1])
    objective, p = estimate.target.objective, free.shape[1]
    if not p:
        raise ValueError("The information-matrix test needs free parameters that are inside the parameter space.")
    sample = estimate.sample
    used = sample.weights != 0
    count, compared = np.count_nonzero(used), p if elements == "diagonal" else p * (p + 1) // 2
    if count <= p + compared:
        hint = "" if elements == "diagonal" else "; compare fewer with elements='diagonal'"
        raise ValueError(
            f"The information-matrix test compares {compared} elements for {p} parameters and needs more independent "
            f"units than both together; there are {count}{hint}."
        )
    if objective.backend != "jax":
        raise ValueError("The information-matrix test needs backend='jax'.")
    if objective.n_units * estimate.n_params**2 > MOST_CURVATURE:
        raise ValueError("There are too many units and parameters for second derivatives by unit.")
    hessians = estimate.target.score_slopes(estimate.point)
    statistic, df = information_matrix_statistic(
        sample.mean(estimate.scores)[used] @ free,
        free.T @ sample.mean(hessians)[used] @ free,
        sample.weights[used],
        elements == "diagonal",
    )
    if not df:
        raise ValueError(
            "There is nothing to compare: curvature and variability of the scores agree whatever the data are (each "
            "Bernoulli probability with parameters of its own, say)."
        )
    return HypothesisTest("Information-matrix test", statistic, df, chi_square_tail(statistic, df))


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Standard errors of the kinds side by side, and how they compare, from the summary of a fit."""
    columns = {name: table[name] for name in ("se_observed", "se_opg", "se_sandwich")}
    columns["opg_ratio"] = table["se_opg"] / table["se_observed"]
    columns["sandwich_ratio"] = table["se_sandwich"] / table["se_observed"]
    return pd.DataFrame(columns)
