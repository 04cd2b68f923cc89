"""Sentences about an optimum that is not a point inside the parameter space: boundaries, runaways, flat directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from pm_mlem.inference.information import Information, involved
from pm_mlem.objective.m_step import MStepPlan, on_floor
from pm_mlem.objective.m_step.blocks import CholeskyBlock
from pm_mlem.objective.m_step.restraint import ScaleBlock
from pm_mlem.objective.objective import Objective
from pm_mlem.optimize.em import VARIANTS
from pm_mlem.optimize.problem import Optimum
from pm_mlem.results.labels import Labels, entry_names

if TYPE_CHECKING:
    from pm_mlem.objective.engine import Engine

BORDER = 1e-6
"""Probabilities nearer than this to 0 or 1 are on the boundary."""
FAR = 8.0
"""Unconstrained distance from the initial point that a parameter has to be away to be called a runaway."""
FLAT = 1e-2
"""Log-likelihood that going as far again would cost; below this it is flat out there."""
UPWARDS = 1e-3
"""Upward curvature (log-likelihood per unit squared) that is more than rounding."""
RISES = 0.5
"""Log-likelihood by which an objective without bound rises with every further unit."""
AS_GOOD = 1e-4
"""Log-likelihood left to gain at a point that is as good as a maximum: it is nearer than 0.015 standard errors."""
AT_MOST = 4
"""Entries that a sentence names."""


def optimum_notes(objective: Objective, point: np.ndarray, information: Information | None) -> Iterator[str]:
    """What a user should know about the estimates at a point.

    Parameters
    ----------
    information : the curvature there, or None if the method did not look at it; then only probabilities at 0 or 1
        are noticed
    """
    names = Names(objective)
    border = border_entries(objective, point)
    away: dict[int, str] = {}
    if information is not None:
        away = {j: names.of(j) for j in runaways(objective, point, information)}
    seen = {entry.split("[")[0].split(" ")[0] for entry in border}
    border |= {names.with_value(j, point): None for j in away if names.bounded(j) and names.variable(j) not in seen}
    if border:
        yield f"On the boundary of the support: {listed(border)}; standard errors there do not apply."
    free = list(dict.fromkeys(e for j, e in away.items() if not names.bounded(j)))
    if free:
        yield (
            f"The likelihood rises to a limit as {listed(free)} {'runs' if len(free) == 1 else 'run'} away to infinity "
            "(separated outcomes?): use a prior (estimator='map') or fewer predictors."
        )
    if information is None:
        return
    curvature = np.linalg.eigvalsh(information.matrix) if np.all(np.isfinite(information.matrix)) else np.zeros(0)
    if np.any(curvature < -UPWARDS):
        yield (
            f"The estimates are a saddle point, not a maximum: the objective bends upwards in {information.rising} "
            "direction(s). Start elsewhere (starts=...)."
        )
    known = {name.split("[")[0].split(" ")[0] for name in [*border, *free]}
    flat = [e for e in dict.fromkeys(involved(information, names.entries)) if e.split("[")[0] not in known]
    count = information.null.shape[1]
    if flat and count:
        yield f"The data do not determine {listed(flat)}: the objective is flat in {count} direction(s)."


def restraint_notes(objective: Objective, plan: MStepPlan, optimum: Optimum) -> Iterator[str]:
    """What keeping scales away from 0 did to the estimates."""
    structure, point = objective.tables.structure, optimum.point
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


def no_maximum(engine: Engine, optimum: Optimum, information: Information, gradient: np.ndarray) -> str:
    """Why the curvature at estimates says nothing about their errors: they are not meant to be a maximum.

    Empty where they are one after all, or as good as one.

    Parameters
    ----------
    information, gradient : curvature and derivatives of the objective at the estimates, the penalty included
    """
    objective = engine.objective
    last = optimum.legs[-1][0] if optimum.legs else ""
    if engine.plan is None and last not in VARIANTS.values():
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
    return "min_scale= keeps the estimates from the maximum of the likelihood"


def without_bound(objective: Objective, value: Callable[[np.ndarray], float], optimum: Optimum) -> str:
    """Why an optimum is none: a bounded parameter far out, and the objective rising with it.

    At a maximum on the boundary the objective flattens out; where it still changes by ``RISES`` or more with every
    factor e, eight of them away from the initial point, it has no bound (the scale of a hierarchy under "map", say).
    A run that counts as converged is asked what the next factor e would bring: it may only have come to the smallest
    numbers there are (the scale of equal observations).
    """
    if not optimum.converged and not optimum.gain > FLAT:
        return ""
    names, point = Names(objective), optimum.point
    moved = point - objective.space.initial
    for j in np.flatnonzero(np.abs(moved) > FAR):
        if not names.bounded(int(j)):
            continue
        other = point.copy()
        other[j] += np.sign(moved[j]) * (1.0 if optimum.converged else -1.0)
        change = value(other) - optimum.value
        if (change if optimum.converged else -change) >= RISES:
            return f"the objective grows without bound with {names.with_value(int(j), point)}"
    return ""


class Names:
    """Names of the entries of the unconstrained vector; the variable's where entries do not correspond."""

    def __init__(self, objective: Objective):
        space, structure = objective.space, objective.tables.structure
        self.space = space
        labels = Labels(structure.dims, structure.coords)
        scales = {p.name: p.scale for p in structure.free}
        self.entries: list[str] = []
        self.transformed: list[bool] = []
        for name in space.names:
            size = int(np.prod(space.unconstrained_shapes[name], dtype=np.int64))
            known = entry_names(labels.array(name, np.zeros(space.shapes[name])))
            known = [entry for entry, free in zip(known, space.is_free(name).ravel(), strict=True) if free]
            self.entries += known if len(known) == size else [name] * size
            self.transformed += [bool(scales[name])] * size

    def of(self, j: int) -> str:
        return self.entries[j]

    def bounded(self, j: int) -> bool:
        return self.transformed[j]

    def variable(self, j: int) -> str:
        return next(name for name, where in self.space.slices.items() if where.start <= j < where.stop)

    def with_value(self, j: int, point: np.ndarray) -> str:
        """The entry and its value, ``tau = 0``; only the name where entries do not correspond."""
        name = self.variable(j)
        free, where = self.space.is_free(name), self.space.slices[name]
        if np.count_nonzero(free) != where.stop - where.start:
            return self.of(j)
        value = self.space.values(point)[name][free][j - where.start]
        return f"{self.of(j)} = {value:.2g}"


def border_entries(objective: Objective, point: np.ndarray) -> dict[str, None]:
    """Probabilities at 0 or 1: entries of simplexes and of parameters on the log-odds scale (in order)."""
    space, structure = objective.space, objective.tables.structure
    labels = Labels(structure.dims, structure.coords)
    scales = {p.name: p.scale for p in structure.free}
    found: dict[str, None] = {}
    for name, value in space.values(point).items():
        if scales[name] not in ("simplex", "logodds"):
            continue
        entries = entry_names(labels.array(name, value))
        for entry, p, free in zip(entries, np.ravel(value), space.is_free(name).ravel(), strict=True):
            if free and (p < BORDER or p > 1.0 - BORDER):
                found[f"{entry} = {p:.2g}"] = None
    return found


def runaways(objective: Objective, point: np.ndarray, information: Information) -> Iterator[int]:
    """Unconstrained entries far from the initial point where going as far again would change nothing."""
    moved = np.asarray(point) - objective.space.initial
    far = np.flatnonzero(np.abs(moved) > FAR)
    if not len(far) or not np.all(np.isfinite(information.matrix)):
        return

    def cost(which: Sequence[int]) -> float:
        step = np.zeros_like(moved)
        step[which] = moved[which]
        return abs(0.5 * float(step @ information.matrix @ step))

    if cost(far) < FLAT:
        yield from map(int, far)
    else:
        yield from (int(j) for j in far if cost([j]) < FLAT)


def listed(entries: Sequence[str] | dict[str, None]) -> str:
    entries = list(entries)
    more = f" and {len(entries) - AT_MOST} more" if len(entries) > AT_MOST else ""
    return ", ".join(entries[:AT_MOST]) + more
