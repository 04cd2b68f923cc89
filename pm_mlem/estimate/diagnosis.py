"""What stands in the way of standard errors at an optimum: boundaries, runaways, flat directions.

Entries on the boundary of the support, and those that run away to infinity, have no standard errors. They are **held**:
the information is restricted to the directions that leave them as they are, entries that have a coordinate of their own
by that coordinate, probabilities of a simplex by their logarithms. All other standard errors are those of the model in
which the held entries are known. Coefficients that run away are held only in the directions in which they do: where two
of them do so with a finite sum, the sum is estimated like any other number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pm_mlem.estimate.names import AT_MOST, Masks, Names, listed
from pm_mlem.estimate.runaways import Lines, runaway_directions, towards_bounds
from pm_mlem.estimate.target import Target
from pm_mlem.graph.roles.held import HeldSimplex
from pm_mlem.inference.covariance import finite_rows
from pm_mlem.inference.information import Information, observed_information, sparse_directions
from pm_mlem.objective.objective import Objective
from pm_mlem.objective.space import ParameterSpace

BORDER = 1e-6
"""Probabilities nearer than this to 0 or 1 are on the boundary, unless the data say otherwise."""
COUNTED = 0.5
"""Curvature by the logarithm of a probability from which on it is not on the boundary: its expected count."""
ROUNDING = 1e-9
"""Components of a direction, of the largest, that are rounding."""
WIDEST = 100.0
"""Standard error of a logarithm or of log-odds whose curvature is hardly more than rounding."""
UPWARDS = 1e-3
"""Upward curvature, in coordinates with unit curvature, that is more than rounding."""
LEANS = 1e-3
"""Of all its slopes that by a held entry from which on a function depends on it."""
FAR_OFF = 100.0
"""Standard errors (of coordinates whose neighbours are known) at which a flat direction is looked at again."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is known about the directions at a point.

    Attributes
    ----------
    information : curvature at the point, restricted to what is not held; None where it was not looked at
    reasons : by variable, for every entry (in C order) why it has no standard error; empty strings for all others
    border : entries on the boundary, ``w[a] = 0``
    away : entries that run away to infinity
    lost : entries that these leave undetermined
    flat : for every flat direction the entries that it concerns, and a sentence
    steps : (held entries, p), unconstrained steps that move one held entry each
    units : (p,) what counts as a unit of each coordinate: an e-fold change, or a standard error
    """

    information: Information | None
    reasons: Mapping[str, list[str]]
    border: tuple[str, ...]
    away: tuple[str, ...]
    lost: tuple[str, ...]
    flat: tuple[tuple[tuple[str, ...], str], ...]
    steps: np.ndarray
    units: np.ndarray

    def leans(self, jacobian: np.ndarray) -> np.ndarray:
        """Which functions (..., p) would change with an entry that is on the boundary."""
        jacobian, _ = finite_rows(jacobian)
        size = np.linalg.norm(jacobian * self.units, axis=-1)
        return np.any(np.abs(jacobian @ self.steps.T) > LEANS * size[..., None], axis=-1)

    @property
    def saddle(self) -> bool:
        """Whether the objective bends upwards by more than rounding."""
        return self.information is not None and self.information.lowest < -UPWARDS

    def reason(self, name: str, entry: str, position: int) -> str:
        """Why an entry of a parameter or Deterministic has no standard error."""
        if name in self.reasons and self.reasons[name][position]:
            return self.reasons[name][position]
        if self.saddle:
            return "the estimate is a saddle point, not a maximum"
        own = [sentence for entries, sentence in self.flat if entry in entries]
        sentences = own or [sentence for _, sentence in self.flat]
        if sentences:
            return f"not identified: {'; '.join(sentences[:2])}"
        border = [e.split(" = ")[0] for e in self.border]
        if not border:
            return f"depends on {listed(self.away)} at infinity" if self.away else "not identified"
        have = "has" if len(border) + len(self.away) == 1 else "have"
        return f"depends on {listed([*border, *self.away])}, which {have} no standard error"


def diagnose(target: Target, point: np.ndarray, hessian: np.ndarray | None) -> Diagnosis:
    """Look for boundaries, runaways and flat directions.

    Parameters
    ----------
    hessian : second derivatives of the objective at the point; None: only probabilities at 0 or 1 are noticed
    """
    objective, space = target.objective, target.space
    names = Names(objective)
    matrix = None if hessian is None else -0.5 * (hessian + hessian.T)
    at_border = border_masks(objective, point, matrix)
    values = space.values(point)
    rows = [*border_rows(space, at_border, values)]
    bounded: dict[int, bool] = {}
    lost: list[int] = []
    directions, information, flat, lines = np.zeros((space.size, 0)), None, (), None
    if hessian is not None and np.all(np.isfinite(hessian)):
        lines = Lines(target, point, names)
        for j, way in towards_bounds(lines, matrix).items():
            if names.held_by(j, at_border):
                continue
            if way:
                bounded[j] = way > 0
            else:
                lost.append(j)

        def held(more: Sequence[int]) -> np.ndarray:
            chosen = [*rows, *np.eye(space.size)[[*bounded, *more]]]
            return np.array(chosen).reshape(len(chosen), space.size)

        def products(direction: np.ndarray) -> np.ndarray:
            return target.product(point, direction)

        along = None if target.objective.kinks.terms else products
        least = np.where(names.line, 0.0, 1.0 / WIDEST)
        directions, idle = runaway_directions(
            lines,
            lambda away, more: observed_information(hessian, held([*lost, *more]), away, products=along, least=least),
        )
        lost += idle
        caused = bool(directions.shape[1] or bounded or at_border)
        information = observed_information(
            hessian, held(lost if caused else []), directions, products=along, bends=lines.bends,
            least=least,
            null=None if caused else np.eye(space.size)[:, lost],
        )  # fmt: skip
        lost = lost if caused else []
        flat = tuple(flat_directions(names, target, point, information))
    elif hessian is not None:
        information = observed_information(hessian, np.array(rows).reshape(len(rows), space.size))
    moving = directions if lines is None else lines.natural @ directions
    away = [
        int(j)
        for j in np.flatnonzero(np.any(np.abs(moving) > ROUNDING * np.max(np.abs(moving), axis=0, initial=0.0), axis=1))
    ]

    reasons = {name: [""] * int(np.prod(shape, dtype=np.int64)) for name, shape in space.shapes.items()}
    cause = names.unique([*away, *bounded]) or tuple(
        entry for name, mask in at_border.items() for entry in np.array(names.known[name])[mask.ravel()].tolist()
    )
    outwards = [j for j, up in bounded.items() if up and names.in_bent[j]]
    where = "at infinity" if away else "on the boundary"
    for j in lost:
        note(reasons, names.variable(j), names.mask(j), f"not identified, as {listed(cause)} is {where}")
    for j in away:
        note(reasons, names.variable(j), names.mask(j), "runs away to infinity (separation)")
    for j, up in bounded.items():
        text = "runs away to infinity (separation)" if j in outwards else f"on the boundary: {names.side(j, up)}"
        note(reasons, names.variable(j), names.mask(j), text)
    for name, mask in at_border.items():
        for side, text in ((values[name] < 0.5, "a probability of 0"), (values[name] >= 0.5, "a probability of 1")):
            note(reasons, name, mask & side, f"on the boundary: {text}")
    border = dict.fromkeys(
        f"{entry} = {p:.2g}"
        for name, mask in at_border.items()
        for entry, p in zip(np.array(names.known[name])[mask.ravel()], values[name][mask], strict=True)
    ) | dict.fromkeys(names.with_value(j, point) for j in bounded if j not in outwards)

    steps = [
        log_step(space, name, names.scales[name], int(i)) for name, m in at_border.items() for i in np.flatnonzero(m)
    ]
    steps += list(np.eye(space.size)[[*bounded, *lost]])
    steps = np.array(steps).reshape(len(steps), space.size)
    sizes = np.ones(space.size) if information is None else information.sizes
    units = np.where(names.line, 1.0 / sizes, 1.0)
    return Diagnosis(
        information, reasons, tuple(border), names.unique([*away, *outwards]), names.unique(lost), flat, steps, units
    )


def note(reasons: dict[str, list[str]], name: str, mask: np.ndarray, text: str) -> None:
    """Write a reason to the entries of a variable."""
    for i in np.flatnonzero(mask):
        reasons[name][i] = text


# --- boundaries and runaways ------------------------------------------------------------------------------


def simplex_of(space: ParameterSpace, name: str) -> HeldSimplex:
    """Which coordinates the probabilities of a simplex have."""
    return HeldSimplex(space.held.get(name, np.full(space.shapes[name], np.nan)))


def coordinates_of(space: ParameterSpace, name: str, scale: str) -> np.ndarray:
    """Flat position of the entry of each coordinate."""
    return simplex_of(space, name).entries if scale == "simplex" else np.flatnonzero(space.is_free(name))


def border_masks(objective: Objective, point: np.ndarray, matrix: np.ndarray | None) -> Masks:
    """Probabilities at 0 or 1: entries of simplexes and of parameters on the log-odds scale.

    A small probability with data of its own is not on the boundary: the curvature by its logarithm is about the number
    of observations that it explains.
    """
    space = objective.space
    scales = {p.name: p.scale for p in objective.tables.structure.free}
    found = {}
    for name, value in space.values(point).items():
        if scales[name] not in ("simplex", "logodds") or 0 in space.unconstrained_shapes[name]:
            continue
        mask = np.array(space.is_free(name) & ((value < BORDER) | (value > 1.0 - BORDER)))
        if matrix is not None:
            for i in np.flatnonzero(mask):
                step = log_step(space, name, scales[name], int(i))
                mask.flat[i] = not step @ matrix @ step > COUNTED
            if scales[name] == "simplex":  # an entry at 1 is there because the others are at 0
                small = space.is_free(name) & (value <= 0.5)
                mask &= small | np.all(mask | ~small, axis=-1, keepdims=True)
        if np.any(mask):
            found[name] = mask
    return found


def log_step(space: ParameterSpace, name: str, scale: str, entry: int) -> np.ndarray:
    """The unconstrained step that raises the logarithm (log-odds) of a small probability by one."""
    step = np.zeros(space.size)
    where, entries = space.slices[name], coordinates_of(space, name, scale)
    own = step[where]
    if scale == "simplex":
        free = space.is_free(name)
        rows = np.arange(free.size).reshape(free.shape) // free.shape[-1]
        same = rows.ravel()[entries] == entry // free.shape[-1]
        own[same] = -1.0 / np.count_nonzero(free.reshape(-1, free.shape[-1])[entry // free.shape[-1]])
    own[entries == entry] += 1.0
    return step


def border_rows(space: ParameterSpace, masks: Masks, values: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Gradients of the logarithms of the probabilities at 0, and the coordinates of those on the log-odds scale."""
    for name, mask in masks.items():
        where = space.slices[name]
        if space.is_free(name).sum() == where.stop - where.start:  # log-odds, entry by entry
            yield from np.eye(space.size)[where][mask[space.is_free(name)]]
            continue
        simplex = simplex_of(space, name)
        width = mask.shape[-1]
        share = np.where(simplex.share > 0, simplex.share, 1.0)
        p = np.where(simplex.free, values[name] / share, 0.0).reshape(-1, width)
        last = simplex.last.reshape(-1, width)
        for i in np.flatnonzero(mask & (values[name] < 0.5)):
            row, column = divmod(int(i), width)
            own = simplex.entries // width == row
            columns = simplex.entries[own] % width
            slope = (columns == column) - 1.0 * last[row, column] - p[row, columns] + p[row][last[row]].item()
            gradient = np.zeros(space.size)
            gradient[where][own] = slope
            yield gradient


# --- flat directions --------------------------------------------------------------------------------------


def flat_directions(
    names: Names, target: Target, point: np.ndarray, information: Information
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Sentences about what is not identified, one for each flat direction, with as few parameters as possible."""
    if not information.null.shape[1] or information.lowest < -UPWARDS:
        return
    for direction in sparse_directions(information.null):
        unscaled = direction / information.sizes
        parts = changes(names, target, point, unscaled)
        yield tuple(parts), flat_sentence(parts, is_straight(target, point, unscaled))


def changes(names: Names, target: Target, point: np.ndarray, direction: np.ndarray) -> dict[str, float]:
    """How the parameters change along a direction; positive parameters on the scale of their logarithm."""
    space, parts, jacobians = names.space, {}, None
    for name, where in space.slices.items():
        if not np.any(direction[where]):
            continue
        if names.entrywise(name) and names.scales[name] in ("", "log"):
            own = dict(zip(names.entries[where], direction[where], strict=True))
            parts |= {entry: float(v) for entry, v in own.items() if v != 0}
            continue
        jacobians = jacobians or target.jacobians(point)
        own = dict(zip(names.known[name], np.ravel(jacobians[name] @ direction), strict=True))
        largest = max(map(abs, own.values()))
        parts |= {entry: float(v) for entry, v in own.items() if abs(v) > 1e-4 * largest}
    return parts


def is_straight(target: Target, point: np.ndarray, direction: np.ndarray) -> bool:
    """Whether the objective stays the same far along a direction (in standard errors of its coordinates)."""
    value = target.value(point)
    ends = [target.value(point + step * direction) for step in (FAR_OFF, -2.0 * FAR_OFF)]
    return all(abs(end - value) <= 1e-7 * (1.0 + abs(value)) for end in ends)


def flat_sentence(parts: Mapping[str, float], straight: bool) -> str:
    """What a flat direction means."""
    entries, values = list(parts), np.array(list(parts.values()))
    values = values / values[0]
    if len(entries) == 1:
        return f"the data say nothing about {entries[0]}"
    if len(entries) == 2 and straight:
        return f"only {combination(entries, np.array([1.0, -1.0 / values[1]]))} is identified"
    named = listed(entries) if len(entries) > AT_MOST else f"{', '.join(entries[:-1])} and {entries[-1]}"
    where, why = ("", ": collinear predictors?") if straight else ("near the estimates ", "")
    along = combination(entries, values)
    return f"{named} are not separately identified ({where}the objective is flat along {along}{why})"


def combination(entries: Sequence[str], weights: np.ndarray) -> str:
    """A linear combination in words: ``a - 2 b``."""
    text = ""
    for entry, weight in list(zip(entries, weights, strict=True))[:AT_MOST]:
        size = "" if abs(abs(weight) - 1.0) < 1e-3 else f"{abs(weight):.3g} "
        sign = ("-" if weight < 0 else "") if not text else (" - " if weight < 0 else " + ")
        text += f"{sign}{size}{entry}"
    return text + (" ..." if len(entries) > AT_MOST else "")
