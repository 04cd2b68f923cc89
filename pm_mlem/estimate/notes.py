"""Sentences about an optimum that is not a point inside the parameter space: boundaries, runaways, flat directions."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from pm_mlem.estimate.diagnosis import Diagnosis
from pm_mlem.estimate.labels import Labels, entry_names
from pm_mlem.estimate.names import Names, listed
from pm_mlem.estimate.target import Target
from pm_mlem.inference.information import Information
from pm_mlem.objective.m_step import MStepPlan, on_floor
from pm_mlem.objective.m_step.blocks import CholeskyBlock
from pm_mlem.objective.m_step.restraint import ScaleBlock
from pm_mlem.optimize.em import VARIANTS
from pm_mlem.optimize.newton import Newton
from pm_mlem.optimize.problem import Optimum

RISES = 0.5
"""Log-likelihood by which an objective without bound rises with every further e-fold change."""
LAST_DIGITS = 1e-14
"""Relative change of estimates that no data can tell from none."""
FURTHER = (10.0, 30.0)
"""e-fold changes after which an objective without bound is still rising."""
EXTREME = 100.0
"""Logarithms and log-odds beyond which numbers come near the smallest and largest there are."""
FLAT = 1e-2
"""Log-likelihood left to gain at most where a run that did not converge stands at a flat place."""
AS_GOOD = 1e-4
"""Log-likelihood left to gain at a point that is as good as a maximum: it is nearer than 0.015 standard errors."""


def optimum_notes(diagnosis: Diagnosis) -> Iterator[str]:
    """What a user should know about the estimates at a point."""
    if diagnosis.border:
        yield (
            f"On the boundary of the support: {listed(diagnosis.border)}; standard errors there do not apply, the "
            "others hold it where it is."
        )
    if diagnosis.away:
        runs = "runs" if len(diagnosis.away) == 1 else "run"
        lost = f" This leaves {listed(diagnosis.lost)} undetermined." if diagnosis.lost else ""
        yield (
            f"The likelihood rises to a limit as {listed(diagnosis.away)} {runs} away to infinity (separated "
            f"outcomes?): use a prior (estimator='map') or fewer predictors.{lost}"
        )
    if diagnosis.saddle:
        yield (
            "The estimates are a saddle point, not a maximum: the objective bends upwards in "
            f"{diagnosis.information.rising} direction(s). Start elsewhere (starts=...)."
        )
    if diagnosis.flat:
        entries = dict.fromkeys(entry for own, _ in diagnosis.flat for entry in own)
        sentences = "; ".join(sentence for _, sentence in diagnosis.flat[:3])
        more = f"; and {len(diagnosis.flat) - 3} more directions" if len(diagnosis.flat) > 3 else ""
        yield f"The data do not determine {listed(entries)}: {sentences}{more}."


def restraint_notes(target: Target, plan: MStepPlan, optimum: Optimum) -> Iterator[str]:
    """What keeping scales away from 0 did to the estimates."""
    objective, structure, point = target.objective, target.structure, optimum.point
    labels = Labels(structure.dims, structure.coords)
    floors = {b.name: b.hold.floor for b in plan.closed if isinstance(b, ScaleBlock) and b.hold is not None}
    useless = "there are no standard errors"
    matrices = {b.name for b in plan.closed if isinstance(b, CholeskyBlock)}
    for name, low in on_floor(plan, objective.space, point).items():
        where = entry_names(labels.array(name, low))
        entries = [e for e, hit in zip(where, low.ravel(), strict=True) if hit]
        if entries and name in matrices:
            yield f"The covariance of {name} is on its floor in some direction, min_scale={floors[name]:g}; {useless}."
        elif entries:
            are, their = ("is", "its") if len(entries) == 1 else ("are", "their")
            yield f"{listed(entries)} {are} on {their} floor, min_scale={floors[name]:g}; {useless}."
    if objective.penalty is not None:
        size = float(objective.penalty(objective.space.constrain(point)))
        yield (
            f"This is the maximum of a penalized log-likelihood, {optimum.value:.6g} with a penalty of {size:.4g}; "
            "unless it is as good as that of the likelihood there are no standard errors."
        )


def kink_notes(target: Target, optimum: Optimum) -> Iterator[str]:
    """What follows from a log-likelihood that is not smooth."""
    if not target.objective.kinks.terms:
        return
    where = listed(target.objective.kinks.terms)
    yield (
        f"The log-likelihood has kinks (absolute values in {where}, as in a Laplace distribution): its curvature says "
        "nothing about errors, and the outer product of the scores takes its place in standard errors."
    )
    if not optimum.converged and Newton.title in dict(optimum.legs):
        yield "Newton's method is made for smooth functions: use method='auto' or 'lbfgs'."


def no_maximum(target: Target, optimum: Optimum, information: Information, gradient: np.ndarray) -> str:
    """Why the curvature at estimates says nothing about their errors: they are no maximum, or not meant to be one.

    Empty where they are one after all, or as good as one.

    Parameters
    ----------
    information, gradient : curvature and derivatives of the objective at the estimates, the penalty included
    """
    objective, engine = target.objective, target.engine
    if optimum.edge:
        return "the estimate is at the edge of the region in which the data are possible"
    last = optimum.legs[-1][0] if optimum.legs else ""
    if engine.plan is None and last not in VARIANTS.values() and optimum.converged:
        return ""
    if objective.penalty is not None:
        penalty = objective.penalty
        gradient = gradient - np.asarray(jax.grad(lambda u: penalty(objective.space.constrain(u)))(optimum.point))
    if information.gain(gradient) <= AS_GOOD:
        return ""
    if last in VARIANTS.values():
        return f"{last} does not end at a maximum of the likelihood"
    if objective.penalty is not None:
        return "the maximum of a penalized likelihood is not one of the likelihood"
    if engine.plan is None:
        return f"the fit has not converged ({optimum.status})"
    return "min_scale= keeps the estimates from the maximum of the likelihood"


def dropped_priors(target: Target) -> Iterator[str]:
    """What maximum likelihood makes of priors that discrete latents choose."""
    if target.estimator == "mle":
        for name, latents in target.structure.chosen_priors.items():
            chosen = ", ".join(map(repr, latents))
            yield (
                f"Maximum likelihood drops the prior of '{name}', which {chosen} chooses, and so {chosen} learns "
                "nothing from it: estimator='map' counts it."
            )


def unresolved(target: Target, names: Names, point: np.ndarray, value: float) -> bool:
    """Whether the last digits of coordinates without bounds change the objective as only a perfect fit does."""
    change = LAST_DIGITS * np.random.default_rng(0).uniform(-1.0, 1.0, len(point))
    next_to_it = np.where(names.line, point * (1.0 + change), point)
    return abs(target.value(next_to_it) - value) > RISES


def without_bound(target: Target, optimum: Optimum) -> str:
    """Why an optimum is none: the objective rises without end with a logarithm or with log-odds.

    At a maximum on the boundary the objective flattens out; where it rises by ``RISES`` or more with every further
    e-fold change it has no bound (the scale of a hierarchy under "map", say). A run that counts as converged is asked
    only where the numbers are near the smallest or largest there are: it may have stopped for that (the scale of equal
    observations).
    """
    if not optimum.converged and not optimum.gain > FLAT:
        return ""
    names, point = Names(target.objective), optimum.point
    extremes = ~names.line & (np.abs(point) > EXTREME)
    if optimum.converged and not np.any(extremes):
        return ""
    value, gradient = target.value_and_gradient(point)

    def rises(j: int, step: float) -> float:
        other = point.copy()
        other[j] += step
        return target.value(other) - value

    if not optimum.converged and unresolved(target, names, point, value):
        cost = {int(j): rises(j, 1.0) for j in np.flatnonzero(~names.line)}
        what = f" with {names.with_value(min(cost, key=lambda j: cost[j]), point)}" if cost else ""
        return f"the objective grows without bound{what} (a perfect fit?)"
    for j in np.flatnonzero(~names.line):
        extreme = extremes[j]
        if optimum.converged and not extreme:
            continue
        sign = np.sign(point[j] if extreme else gradient[j])
        further = (1.0,) if optimum.converged else FURTHER
        if all(rises(j, sign * s) >= RISES * s for s in further) or (
            not optimum.converged and extreme and -rises(j, -sign) >= RISES
        ):
            vanishes = names.scales[names.variable(int(j))] == "log" and sign < 0
            perfect = " (a perfect fit?)" if vanishes and not target.structure.components else ""
            return f"the objective grows without bound with {names.with_value(int(j), point)}{perfect}"
    return ""
