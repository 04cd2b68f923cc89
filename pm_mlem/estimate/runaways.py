"""Directions in which the objective has become flat: coefficients on the way to infinity, scales on that to 0.

At a maximum the objective falls by 1/2 at a distance of one standard error, on either side. Where it has a limit at
infinity instead of a maximum (separated outcomes, an empty cell), an optimizer stops where the curvature has nearly
vanished, and standard errors from that curvature are enormous; but a standard error further out the objective has not
fallen at all, and it does not fall ten standard errors further out either. That is what is looked for here. It does not
depend on units, on the initial point, or on the link; see Albert, A. & Anderson, J. A. *On the existence of maximum
likelihood estimates in logistic regression models*. Biometrika 71 (1984), https://doi.org/10.1093/biomet/71.1.1.

Coordinates with bounds (logarithms, log-odds) have a unit of their own: e-fold changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pm_mlem.estimate.names import Names
from pm_mlem.estimate.target import Target
from pm_mlem.inference.information import Information

DISTANCES = (1.0, 10.0)
"""Standard errors at which the objective is looked at."""
FALLS = 0.02
"""Of the fall that the curvature predicts, what counts as a fall."""
WILD = 20.0
"""Log-likelihood by which it falls at one standard error where the curvature means nothing (it says 1/2)."""
WITHIN = 0.3
"""Standard errors from 0 within which a coefficient that runs away is: its error grows faster than it does."""
WIDE = 30.0
"""Standard error of a logarithm or of log-odds beyond which they are on their way to a bound."""
AWAY = (10.0, 20.0, 40.0)
"""e-fold changes of such a coordinate at which the objective is looked at, to find on which side it falls."""
NOTHING = 1e-2
"""Of the largest component (in standard errors) those that do not belong to a direction."""
SHORTER = 30
"""Times that a step is halved until it leads to where the objective is finite."""


@dataclass(frozen=True, eq=False)
class Sides:
    """On which sides of a point the objective does not fall along a line.

    ``wild``: it falls so much more than its curvature says, on both sides, that the curvature is one of terms that have
    died out.
    """

    ahead: bool
    behind: bool
    wild: bool

    @property
    def any(self) -> bool:
        return self.ahead or self.behind

    @property
    def both(self) -> bool:
        return self.ahead and self.behind


class Lines:
    """The objective along lines through a point.

    Lines are straight in the unconstrained coordinates, but for variables whose support has no bounds and whose
    coordinates are no linear functions of them (ordered cutpoints): these move in a straight line themselves.

    Parameters
    ----------
    target : what is maximised
    point : (p,) unconstrained
    """

    def __init__(self, target: Target, point: np.ndarray, names: Names):
        self.target, self.point, self.names = target, point, names
        self.top, self.slope, _ = target.derivatives(point)  # known already; values alone are compiled when asked for
        values = target.space.values(point)
        self.bent = {n: values[n] for n in names.bent}

    @cached_property
    def natural(self) -> np.ndarray:
        """Derivatives (p, p) of what moves in a straight line by the unconstrained coordinates."""
        result = np.eye(len(self.point))
        for name in self.bent:
            where = self.target.space.slices[name]
            result[where, where] = self.target.jacobians(self.point)[name].reshape(-1, len(self.point))[:, where]
        return result

    @property
    def position(self) -> np.ndarray:
        """(p,) the point, entries of bent variables in their place."""
        result = np.array(self.point)
        for name, values in self.bent.items():
            result[self.target.space.slices[name]] = np.ravel(values)
        return result

    def at(self, direction: np.ndarray, logarithms: bool = True) -> Callable[[float], float]:
        """Step -> the objective; NaN outside of the support.

        ``logarithms``: coordinates that are logarithms move in a straight line; otherwise what they are logarithms of.
        """
        space, names = self.target.space, self.names
        along = self.natural @ direction
        logs = np.zeros(len(direction), dtype=bool) if logarithms else names.logarithms & (direction != 0)

        def value(step: float) -> float:
            u = self.point + step * direction
            with np.errstate(all="ignore"):
                u[logs] = self.point[logs] + np.log1p(step * direction[logs])
            moved = {}
            for name, values in self.bent.items():
                own = along[space.slices[name]]
                if np.any(own):
                    moved[name] = values + step * own.reshape(values.shape)
            if not np.all(np.isfinite(u)):
                return np.nan
            if moved:
                try:
                    there = space.unconstrain(moved)
                except ValueError:
                    return np.nan
                for name in moved:
                    u[space.slices[name]] = there[space.slices[name]]
            return self.target.value(u)

        return value

    def along(self, j: int) -> Callable[[float], float]:
        """Change of one unconstrained coordinate -> the objective."""

        def value(step: float) -> float:
            u = np.array(self.point)
            u[j] += step
            return self.target.value(u)

        return value

    def sides(self, direction: np.ndarray) -> Sides:
        """Where the objective does not fall, along a direction whose length is one standard error."""
        value = self.at(direction)
        ahead, behind = (all(self.stays(value, sign * d) for d in DISTANCES) for sign in (1.0, -1.0))
        if not ahead and not behind and np.any(np.abs(direction[self.names.logarithms]) > 1.0):
            other = self.at(direction, logarithms=False)
            ahead, behind = (all(self.stays(other, sign * d) for d in DISTANCES) for sign in (1.0, -1.0))
        wild = not ahead and not behind and all(not self.top - value(sign) <= WILD for sign in (1.0, -1.0))
        return Sides(ahead, behind, wild)

    def bends(self, direction: np.ndarray) -> bool:
        """Whether the objective falls as its curvature says, on both sides of a step of one standard error."""
        value = self.at(direction)
        falls = [self.top - value(step) for step in (1.0, -1.0)]
        return all(0.05 <= fall <= 5.0 for fall in falls)

    def stays(self, value: Callable[[float], float], step: float) -> bool:
        for _ in range(SHORTER):
            found = value(step)
            if np.isfinite(found):
                expected = FALLS * 0.5 * step**2
                return expected > self.rounding and self.top - found <= min(expected, FALLS)
            step *= 0.5
        return False

    @property
    def rounding(self) -> float:
        return 1e-11 * (1.0 + abs(self.top))


def towards_bounds(lines: Lines, matrix: np.ndarray) -> dict[int, int]:
    """Coordinates with bounds that are on their way to one: upwards (1), downwards (-1), or of no consequence (0).

    Parameters
    ----------
    matrix : (p, p) minus the second derivatives
    """
    found = {}
    for j in np.flatnonzero(~lines.names.line & (np.abs(np.diag(matrix)) < WIDE**-2)):
        value = lines.along(int(j))
        way = 0
        for far in AWAY:
            up, down = (bool(lines.top - np.nan_to_num(value(sign * far), nan=-np.inf) > FALLS) for sign in (1.0, -1.0))
            if up or down:
                way = None if up and down and far == AWAY[0] else (-1 if up else 1)
                break
        if way is not None:
            found[int(j)] = way
    return found


def runaway_directions(lines: Lines, information: Callable[..., Information]) -> tuple[np.ndarray, list[int]]:
    """Unconstrained directions (p, r) in which coefficients run away, and coordinates that change nothing.

    Parameters
    ----------
    information : (away=directions, more=coordinates) -> the information where these are held
    """
    p = len(lines.point)
    away, lost = np.zeros((p, 0)), []
    for _ in range(p):
        known = information(away, lost)
        rows = lines.natural @ known.root
        errors = np.linalg.norm(rows, axis=1)
        near = np.abs(lines.position) < WITHIN * errors
        forward, idle = {}, []
        for j in np.flatnonzero(near & (lines.names.line | lines.names.in_bent) & (errors > 0)):
            direction = known.root @ rows[j] / errors[j]
            sides = lines.sides(direction)
            if sides.both or (sides.wild and away.shape[1]):
                idle.append(int(j))
            elif sides.any:
                forward[int(j)] = (1.0 if sides.ahead else -1.0) * rows[j] / errors[j]
        if not forward and not idle:
            break
        if forward:
            found = way_out(lines, known, forward)
            away = np.concatenate([away, found[:, None]], axis=1)
        else:
            lost += [j for j in idle if j not in lost]
    return away, lost


def way_out(lines: Lines, known: Information, forward: dict[int, np.ndarray]) -> np.ndarray:
    """One direction in which coefficients run away, (p,): that of Newton's step, if it moves no others.

    Parameters
    ----------
    known : the information
    forward : by coefficient the whitened direction (r,) in which it does not let the objective fall
    """
    _, size, rows = np.linalg.svd(np.array(list(forward.values())), full_matrices=False)
    step = known.root.T @ lines.slope
    span = rows[size > 0.5]
    for way in (step, span.T @ (span @ step)):
        length = float(np.linalg.norm(way))
        if not length > 0:
            continue
        found = cleared(lines, known.root @ way / length, known)
        own = set(np.flatnonzero(lines.natural @ found).tolist()) <= set(forward) or way is not step
        if own and lines.sides(found).ahead:
            return found
    sign = np.sign(np.sum(np.array(list(forward.values())) @ rows[0]))
    return cleared(lines, known.root @ rows[0] * sign, known)


def cleared(lines: Lines, direction: np.ndarray, known: Information) -> np.ndarray:
    """A direction without components that are next to nothing, in standard errors."""
    back = np.linalg.inv(lines.natural)
    sizes = np.sqrt(np.abs(np.einsum("ij,ik,kj->j", back, known.matrix, back)))
    natural = lines.natural @ direction
    scaled = np.abs(natural * np.where(sizes > 0, sizes, 1.0))
    return back @ np.where(scaled > NOTHING * np.max(scaled), natural, 0.0)
