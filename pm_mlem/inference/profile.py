"""The profile of an objective along a function of its parameters, and where it crosses a level.

The profile of an estimand g(u) at c is the largest objective f(u) with g(u) = c. Everything here is given f and g as
functions that return value, gradient and Hessian. A point of the profile is found by Newton's method on the tangent
space of the constraint, starting from its neighbour; the ends of an interval by Newton's method on
``f(u) = level, grad f = lambda grad g`` (Venzon & Moolgavkar 1988), and where that fails by following the profile
outwards until it has crossed the level and bracketing the crossing.

References
----------
.. [1] Venzon, D. J. & Moolgavkar, S. H. *A method for computing profile-likelihood-based confidence intervals*. Appl.
   Statist. 37 (1988). https://doi.org/10.2307/2347496
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pm_mlem.optimize.curvature import sizes_of

Vector = np.ndarray
Derivatives = Callable[[Vector], tuple[float, Vector, np.ndarray]]
"""Point -> (value, gradient, Hessian)."""

NEGLIGIBLE = 1e-9
"""Curvature, where that of the peak is 1, that counts as none."""
HIGHER = 1e-3
"""By how much (log-likelihood) a point has to exceed the peak to be called higher."""
SMALL = 0.25
"""Factor by which a step that fails is shortened."""
LARGE = 1e100
"""Derivatives beyond count as infinite."""
FAILURES = 8
"""Steps along a profile that may fail before it is given up."""


@dataclass(frozen=True, eq=False)
class Peak:
    """The maximum of the objective.

    Attributes
    ----------
    point, value, slope, curvature : the objective there and its derivatives
    scale : (p,), coordinates times these have an information with unit diagonal
    """

    point: Vector
    value: float
    slope: Vector
    curvature: np.ndarray
    scale: Vector

    @property
    def tolerance(self) -> float:
        """Differences of the objective that do not matter."""
        return 1e-8 + 1e-13 * abs(self.value)


@dataclass(frozen=True, eq=False)
class Frame:
    """The objective at a point, seen within the surface on which the estimand is constant (scaled coordinates).

    Attributes
    ----------
    multiplier : change of the objective with the estimand
    directions : (p, p - 1) principal directions of the surface
    bend : (p - 1,) minus the curvature of the objective along them
    slope : (p - 1,) its slopes
    response : (p,) how the best point moves with the estimand
    """

    multiplier: float
    directions: np.ndarray
    bend: Vector
    slope: Vector
    response: Vector

    @property
    def flat(self) -> Vector:
        return np.abs(self.bend) <= NEGLIGIBLE * max(1.0, np.max(np.abs(self.bend), initial=0.0))

    @property
    def concave(self) -> bool:
        """Whether the objective bends upwards in no direction."""
        return not np.any(self.rising)

    @property
    def rising(self) -> Vector:
        return (self.bend < 0) & ~self.flat

    @property
    def gain(self) -> float:
        """What is left to gain within the surface, by the quadratic approximation."""
        size = np.where(self.flat, 1.0, np.abs(self.bend))
        gains = np.where(self.flat, np.abs(self.slope), 0.5 * self.slope**2 / size)
        return float(np.sum(gains) + 0.5 * np.sum(np.abs(self.bend[self.rising])))

    @property
    def step(self) -> Vector:
        """Newton's step within the surface; away from a saddle."""
        size = np.where(self.flat, 1.0, np.abs(self.bend))
        along = self.slope / size
        away = np.where(self.slope < 0, -0.5, 0.5)
        along = np.where(self.rising & (np.abs(along) < 0.5), away, along)
        return self.directions @ along


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """A point of the profile.

    Attributes
    ----------
    at : value of the estimand
    point : where the objective is largest for it
    value : the objective there
    frame, local : its derivatives there
    """

    at: float
    point: Vector
    value: float
    frame: Frame
    local: Local


@dataclass(frozen=True, eq=False)
class End:
    """One end of an interval, or why there is none.

    Attributes
    ----------
    at : value of the estimand; infinite where the profile never reaches the level, NaN where it could not be followed
    kind : "crossing"; "flat": it never reaches the level; "limit": the estimand has no values beyond; "higher": the
        profile rises above the peak; "lost"
    point : the parameters there, or where the profile is higher
    """

    at: float
    kind: Literal["crossing", "flat", "limit", "higher", "lost"]
    point: Vector


@dataclass(frozen=True, eq=False)
class Local:
    """Objective and estimand at a point, with their derivatives in scaled coordinates."""

    point: Vector
    value: float
    slope: Vector
    curvature: np.ndarray
    at: float
    normal: Vector
    warp: np.ndarray
    """Second derivatives of the estimand."""

    @property
    def finite(self) -> bool:
        numbers = (self.value, self.slope, self.curvature, self.at, self.normal, self.warp)
        return all(bool(np.all(np.abs(n) < LARGE)) for n in numbers) and bool(np.any(self.normal != 0))


def find_peak(objective: Derivatives, start: Vector, iterations: int = 20) -> Peak:
    """The maximum next to where an optimizer stopped, by a few Newton steps.

    Raises
    ------
    ValueError
        The objective or its derivatives are not finite there.
    """
    value, slope, curvature = objective(start)
    if not (np.isfinite(value) and np.all(np.isfinite(slope)) and np.all(np.isfinite(curvature))):
        raise ValueError("The objective has no finite derivatives at the estimates, so it has no profile there.")
    peak = Peak(np.array(start, dtype=float), float(value), slope, curvature, sizes_of(curvature))
    for _ in range(iterations):
        frame = free_frame(peak)
        if frame.gain <= 1e-3 * peak.tolerance:
            break
        for shorter in (1.0, SMALL, SMALL**2, SMALL**3):
            point = peak.point + shorter * frame.step / peak.scale
            value, slope, curvature = objective(point)
            if value > peak.value and np.all(np.isfinite(slope)) and np.all(np.isfinite(curvature)):
                peak = Peak(point, float(value), slope, curvature, peak.scale)
                break
        else:
            break
    return Peak(peak.point, peak.value, peak.slope, peak.curvature, sizes_of(peak.curvature))


def free_frame(peak: Peak) -> Frame:
    """The objective at a point without any constraint."""
    bend, directions = np.linalg.eigh(symmetric(-peak.curvature / np.outer(peak.scale, peak.scale)))
    return Frame(0.0, directions, bend, directions.T @ (peak.slope / peak.scale), np.zeros(len(peak.point)))


def symmetric(matrix: np.ndarray) -> np.ndarray:
    return 0.5 * (matrix + matrix.T)


class Profile:
    """The profile of an objective along one estimand.

    Parameters
    ----------
    objective : point -> (value, gradient, Hessian)
    estimand : point -> (value, gradient, Hessian) of a scalar function
    peak : the maximum of the objective
    reach : values of the estimand beyond which nothing is looked for
    """

    def __init__(
        self,
        objective: Derivatives,
        estimand: Derivatives,
        peak: Peak,
        reach: tuple[float, float] = (-np.inf, np.inf),
    ):
        self.objective, self.estimand, self.peak, self.reach = objective, estimand, peak, reach
        local = self.seen(peak.point, peak.value, peak.slope, peak.curvature)
        self.constant = not local.finite or float(np.max(np.abs(local.normal))) <= 1e-12 * abs(local.at)
        if not self.constant:
            self.top = CurvePoint(local.at, local.point, local.value, frame_of(local), local)

    @property
    def error(self) -> float:
        """Standard error of the estimand by the curvature at the peak; infinite where there is none."""
        response = self.top.frame.response
        information = -float(response @ self.top.local.curvature @ response)
        reaches_flat = np.any(self.top.frame.flat & (np.abs(self.mixed(self.top.frame)) > 1e-6))
        return np.inf if information <= 0 or reaches_flat else information**-0.5

    def mixed(self, frame: Frame) -> Vector:
        """How much a principal direction and the estimand bend the objective together."""
        normal = self.top.local.normal / np.linalg.norm(self.top.local.normal)
        return frame.directions.T @ self.top.local.curvature @ normal

    def zeta(self, value: float) -> float:
        """Root of the deviance."""
        return float(np.sqrt(2.0 * max(self.peak.value - value, 0.0)))

    # --- points --------------------------------------------------------------------------------------------

    def seen(self, point: Vector, value: float, slope: Vector, curvature: np.ndarray) -> Local:
        """The estimand beside the objective, in scaled coordinates."""
        scale, outer = self.peak.scale, np.outer(self.peak.scale, self.peak.scale)
        at, normal, warp = self.estimand(point)
        return Local(point, float(value), slope / scale, curvature / outer, float(at), normal / scale, warp / outer)

    def local(self, point: Vector) -> Local:
        return self.seen(point, *self.objective(point))

    def restored(self, point: Vector, at: float) -> Vector | None:
        """The point moved to where the estimand has a value, along its gradient."""
        tolerance = 1e-10 * (abs(at) + abs(at - self.top.at)) + 1e-300
        value, normal, _ = self.estimand(point)
        size = 1.0
        for _ in range(100):
            miss, normal = at - float(value), normal / self.peak.scale
            square = float(normal @ normal)
            if abs(miss) <= tolerance:
                return point
            if not (np.isfinite(miss) and 0 < square < LARGE and size > 1e-9):
                return None
            trial = point + size * miss / square * normal / self.peak.scale
            there, slope, _ = self.estimand(trial)
            if abs(at - float(there)) < abs(miss):
                point, value, normal, size = trial, there, slope, 1.0
            else:
                normal, size = normal * self.peak.scale, 0.5 * size
        return None

    def follow(self, last: CurvePoint, at: float) -> CurvePoint | None:
        """The point of the profile at a value, from another one; None where it cannot be reached."""
        moved = last.point + (at - last.at) * last.frame.response / self.peak.scale
        return self.maximise(moved, at) or self.maximise(last.point, at)

    def maximise(self, start: Vector, at: float, iterations: int = 40) -> CurvePoint | None:
        """The largest objective where the estimand has a value."""
        point = self.restored(start, at)
        local = None if point is None else self.local(point)
        for _ in range(iterations):
            if local is None or not local.finite:
                return None
            frame = frame_of(local)
            if frame.gain <= self.peak.tolerance:
                return CurvePoint(at, local.point, local.value, frame, local)
            higher = self.ascended(local, frame, at)
            if higher is None:
                good = frame.gain <= 1e3 * self.peak.tolerance
                return CurvePoint(at, local.point, local.value, frame, local) if good else None
            local = higher
        return None

    def ascended(self, local: Local, frame: Frame, at: float) -> Local | None:
        """A higher point on the surface, by a Newton step that is shortened until it is one."""
        size = 1.0
        for _ in range(15):
            point = self.restored(local.point + size * frame.step / self.peak.scale, at)
            trial = None if point is None else self.local(point)
            if trial is not None and trial.finite and trial.value > local.value:
                return trial
            size *= SMALL
        return None

    # --- ends ----------------------------------------------------------------------------------------------

    def end(self, side: int, drop: float) -> End:
        """Where the profile has fallen by ``drop`` below the peak, on one side (-1 or 1) of it."""
        target = self.peak.value - drop
        with np.errstate(all="ignore"):
            found = self.crossing(self.top.local, target, (self.top.at, side * np.inf))
            return found or self.outwards(side, target)

    def crossing(self, local: Local, target: float, within: tuple[float, float]) -> End | None:
        """Where the profile has a value, by Newton's method on the level and the stationarity together.

        Every step goes to where a quadratic approximation of the profile reaches the level. None where it leaves the
        region in which that can be trusted.
        """
        inner, outer = within
        side, drop = np.sign(outer - inner), self.peak.value - target
        for _ in range(10):
            frame = frame_of(local)
            if not frame.concave:
                return None
            if abs(local.value - target) <= self.peak.tolerance and frame.gain <= self.peak.tolerance:
                return End(local.at, "crossing", local.point)
            change = self.towards(local, frame, target, side)
            if not np.isfinite(change):
                return None
            local = self.local(local.point + (frame.step + change * frame.response) / self.peak.scale)
            fallen = (self.peak.value - local.value) / drop
            if not (local.finite and 0.05 < fallen < 20.0 and min(inner, outer) < local.at < max(inner, outer)):
                return None
        return None

    def towards(self, local: Local, frame: Frame, target: float, side: float) -> float:
        """By how much the estimand has to change for the quadratic approximation to reach a level; NaN if never."""
        curvature, step, response = local.curvature, frame.step, frame.response
        constant = local.value - target + local.slope @ step + 0.5 * step @ curvature @ step
        linear = local.slope @ response + step @ curvature @ response
        quadratic = 0.5 * response @ curvature @ response
        if quadratic >= 0:
            return -constant / linear if linear else np.nan
        inside = linear**2 - 4.0 * quadratic * constant
        return float((-linear - side * np.sqrt(inside)) / (2.0 * quadratic)) if inside >= 0 else np.nan

    def outwards(self, side: int, target: float) -> End:
        """The end of the interval on one side, by following the profile until it has crossed the level."""
        level, last = self.zeta(target), self.top
        size = first = self.first_step(level)
        limit = self.reach[0] if side < 0 else self.reach[1]
        wall = side * np.inf  # the estimand has no values there
        largest = fall = np.inf
        calm = failures = 0
        for _ in range(150):
            size = min(size, largest, 0.5 * abs(wall - last.at))
            if size <= 1e-9 * (abs(last.at - self.top.at) + abs(last.at)) or failures > FAILURES:
                break
            at = last.at + side * size
            at = max(at, limit) if side < 0 else min(at, limit)
            if not self.possible(last, at):
                wall = at
                continue
            found = self.follow(last, at)
            higher = found if found is not None and found.value > self.peak.value + HIGHER else None
            if found is None or higher is not None:
                failures += 1
                if higher is not None and failures > FAILURES:
                    return End(np.nan, "higher", higher.point)
                largest = SMALL * size
                continue
            if found.value <= target:
                return self.between(last, found, target)
            if found.at == limit:
                return End(side * np.inf, "flat", found.point)
            before, fall, left = fall, self.fall(last, found), found.value - target
            level_out = fall <= 1e-7 * left or fall <= min(before, 1e-3 * left)  # less with every doubling
            calm = calm + 1 if level_out and self.far(found, first) else 0
            if calm == 2:
                return End(side * np.inf, "flat", found.point)
            last, size, largest = found, self.next_step(found, level, side, size), 2.0 * largest
        if abs(wall - last.at) < 1e-6 * abs(wall - self.top.at):
            return End(last.at, "limit", last.point)
        return End(np.nan, "lost", last.point)

    def possible(self, last: CurvePoint, at: float) -> bool:
        """Whether the estimand can take a value."""
        moved = last.point + (at - last.at) * last.frame.response / self.peak.scale
        return self.restored(moved, at) is not None or self.restored(last.point, at) is not None

    def first_step(self, level: float) -> float:
        """To the end of the Wald interval, unless that is out of all bounds."""
        furthest = 10.0 * (1.0 + abs(self.top.at)) if np.isinf(self.reach[1] - self.reach[0]) else 5.0
        return min(level * self.error, furthest)

    def next_step(self, found: CurvePoint, level: float, side: int, size: float) -> float:
        """To where the root of the deviance, continued as a line, reaches the level; at most three times as far."""
        away, root, falling = abs(found.at - self.top.at), self.zeta(found.value), -side * found.frame.multiplier
        if not (falling > 0 and root > 0):
            return max(size, away) if root < 0.1 * level else size
        return float(np.clip(1.05 * (level - root) * root / falling, 0.25 * away, 2.0 * away))

    def fall(self, last: CurvePoint, found: CurvePoint) -> float:
        """By how much the profile falls, or rises, with every factor e of distance from the peak."""
        away, before = abs(found.at - self.top.at), abs(last.at - self.top.at)
        return abs(last.value - found.value) / np.log(away / before) if before > 0 else np.inf

    def far(self, found: CurvePoint, first: float) -> bool:
        return abs(found.at - self.top.at) >= 10.0 * max(first, abs(self.top.at))

    def between(self, inner: CurvePoint, outer: CurvePoint, target: float) -> End:
        """The crossing between a point above the level and one below it."""
        level, beyond = self.zeta(target), outer.at
        known: CurvePoint | None = outer
        for _ in range(60):
            ends = [p for p in (inner, known) if p is not None]
            near = min(ends, key=lambda p: abs(self.zeta(p.value) - level))
            if abs(near.value - target) <= self.peak.tolerance:
                return End(near.at, "crossing", near.point)
            if 0.3 * level < self.zeta(near.value) < 3.0 * level:
                found = self.crossing(near.local, target, (inner.at, beyond))
                if found:
                    return found
            if abs(beyond - inner.at) <= 1e-9 * (abs(beyond) + abs(self.top.at - beyond)):
                break  # a jump: there is another branch, which is higher beyond
            part = 0.5
            if known is not None:
                here, there = self.zeta(inner.value), self.zeta(known.value)
                part = float(np.clip((level - here) / (there - here), 0.1, 0.9))
            at = inner.at + part * (beyond - inner.at)
            found = self.follow(inner, at)
            if found is not None and found.value > target:
                inner = found
            else:
                known, beyond = found, at
        return End(np.nan, "lost", inner.point)

    # --- curves --------------------------------------------------------------------------------------------

    def curve(self, values: Iterable[float]) -> list[CurvePoint | None]:
        """Points of the profile at given values of the estimand; None where it could not be followed."""
        values = [float(v) for v in values]
        found: dict[float, CurvePoint | None] = {}
        for side in (-1, 1):
            last = self.top
            for at in sorted((v for v in set(values) if side * (v - self.top.at) > 0), key=lambda v: side * v):
                with np.errstate(all="ignore"):
                    found[at] = self.advance(last, at)
                last = found[at] or last
        return [self.top if v == self.top.at else found.get(v) for v in values]

    def advance(self, last: CurvePoint, at: float, halvings: int = 6) -> CurvePoint | None:
        """:meth:`follow`, over points half way where that fails."""
        found = self.follow(last, at)
        if found is not None or halvings == 0:
            return found
        middle = self.advance(last, 0.5 * (last.at + at), halvings - 1)
        return None if middle is None else self.follow(middle, at)


def frame_of(local: Local) -> Frame:
    """The surface of constant estimand through a point."""
    square = float(local.normal @ local.normal)
    multiplier = float(local.normal @ local.slope) / square
    bend = symmetric(multiplier * local.warp - local.curvature)
    across = local.normal / square
    tangent = np.linalg.qr(local.normal[:, None], mode="complete")[0][:, 1:]
    values, vectors = np.linalg.eigh(tangent.T @ bend @ tangent)
    directions = tangent @ vectors
    flat = np.abs(values) <= NEGLIGIBLE * max(1.0, np.max(np.abs(values), initial=0.0))
    along = np.where(flat, 0.0, -(directions.T @ bend @ across) / np.where(flat, 1.0, values))
    return Frame(multiplier, directions, values, directions.T @ local.slope, across + directions @ along)
