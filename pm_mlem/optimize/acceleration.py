"""Extrapolating a fixed-point iteration that climbs: SQUAREM and Anderson mixing, both with a way back.

An accelerator advances a :class:`Climb` by one iteration. It never accepts a point that is lower than the one it came
from, and it keeps an estimate of how slowly the plain iteration converges, from which the distance to the limit is
judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pm_mlem.optimize.problem import Vector, unmoved

Map = Callable[[Vector], tuple[Vector, float]]
"""point -> (next point, value at the point)"""
Projection = Callable[[Vector], Vector]
"""point -> the point moved to where the images of the map are, for points that were extrapolated"""

REMEMBERED = 30
"""Iterations whose rates of convergence are kept: the slowest of them counts."""
FEWEST = 4
"""Iterations before an estimate of what is left is trusted: near a saddle point the first gains are tiny, and grow."""
SLOWEST = 0.99999
"""A rate above this is taken for this: rounding does not tell it from 1."""


@dataclass(frozen=True)
class Climb:
    """A point of the iteration, and what is known about the way ahead.

    Attributes
    ----------
    point, value, next_point : where it stands, the value there, and the image of the point under the plain map
    gain : what is left to be gained, estimated
    rates : recent estimates of the rate by which the gains of plain steps shrink
    fell : how much the last plain step fell (0.0: it did not, as it should be)
    reach : longest extrapolation that SQUAREM may try, in steps
    images, steps : the last images of the map and steps to them, for Anderson mixing
    gains : that estimate in the last iterations; a single one can mislead near a saddle point
    """

    point: Vector
    value: float
    next_point: Vector
    gain: float = np.inf
    rates: tuple[float, ...] = ()
    fell: float = 0.0
    reach: float = 4.0
    images: tuple[Vector, ...] = ()
    steps: tuple[Vector, ...] = ()
    gains: tuple[float, ...] = ()

    def gained_within(self, tolerance: float) -> bool:
        """Whether the recent estimates agree that less than this is left."""
        return len(self.gains) >= FEWEST and max(self.gains[-2:]) <= tolerance


Accelerator = Callable[[Map, Climb, Projection], Climb]


def begin(go: Map, point: Vector) -> Climb:
    """The first point."""
    new, value = go(point)
    return Climb(point, float(value), np.asarray(new))


def noise(value: float) -> float:
    """A change of the value that rounding alone can make."""
    return 1e-12 * (1.0 + abs(value))


def remaining(change: float, rate: float) -> float:
    """Aitken's estimate of what is left after a plain step that gained ``change``, where gains shrink by ``rate``."""
    rate = min(rate, SLOWEST)
    return max(change, 0.0) * rate / (1.0 - rate)


def fallen(state: Climb, value: float) -> Climb | None:
    """The state to stop with where a plain step fell (or left the support)."""
    change = value - state.value
    if np.isfinite(value) and change >= -noise(state.value):
        return None
    return replace(state, fell=change if np.isfinite(change) else -np.inf)


def advanced(state: Climb, point: Vector, value: float, new: Vector, gain: float, **others) -> Climb:
    """The next state."""
    gain = max(gain, 0.0)
    gains = (*state.gains, gain)[-FEWEST:]
    return replace(state, point=point, value=value, next_point=new, gain=gain, gains=gains, **others)


def left(state: Climb, change: float, moves: tuple[Vector, Vector], rates: tuple[float, ...]) -> float:
    """What is left after plain steps: nothing is known while they grow, as they do on the way from a saddle point."""
    first, second = (float(np.linalg.norm(m)) for m in moves)
    if second > first and second > 1e-9 * (1.0 + float(np.linalg.norm(state.point))):
        return np.inf
    return remaining(change, max(rates))


def plain(go: Map, state: Climb, project: Projection = unmoved) -> Climb:
    """One step of the map; nothing is extrapolated."""
    new, value = go(state.next_point)
    if stop := fallen(state, value):
        return stop
    change = value - state.value
    moves = state.next_point - state.point, new - state.next_point
    rates = (*state.rates, contraction(*moves))[-REMEMBERED:]
    return advanced(state, state.next_point, value, new, left(state, change, moves, rates), rates=rates)


def contraction(first: Vector, second: Vector) -> float:
    """The rate by which gains shrink if steps shrink like these: gains are quadratic in the distance."""
    length = float(np.linalg.norm(first))
    return min(float(np.linalg.norm(second)) / length, 1.0) ** 2 if length > 0 else 0.0


def squarem(go: Map, state: Climb, project: Projection = unmoved) -> Climb:
    """Squared extrapolation (scheme S3): two evaluations, the second at the extrapolated point.

    References
    ----------
    .. [1] Varadhan, R. & Roland, C. *Simple and globally convergent methods for accelerating the convergence of any
       EM algorithm*. Scand. J. Stat. 35 (2008). https://doi.org/10.1111/j.1467-9469.2007.00585.x
    """
    second, value = go(state.next_point)
    if stop := fallen(state, value):
        return stop
    moves = state.next_point - state.point, second - state.next_point
    turn = moves[1] - moves[0]
    stretch = ratio_of_lengths(moves[0], turn)
    rates = (*state.rates, (1.0 - 1.0 / stretch) ** 2)[-REMEMBERED:]
    gain = left(state, value - state.value, moves, rates)
    factor = min(stretch, state.reach)
    reach = 4.0 * state.reach if factor == state.reach else state.reach
    if factor > 1.0:
        point = project(state.point + 2.0 * factor * moves[0] + factor**2 * turn)
        new, reached = go(point)
        if np.isfinite(reached) and reached >= value - noise(value) and np.all(np.isfinite(new)):
            return advanced(state, point, reached, new, gain, rates=rates, reach=reach)
        reach = max(4.0, factor / 4.0)
    new, reached = go(second)
    here = replace(state, point=state.next_point, value=value, next_point=second)
    if stop := fallen(here, reached):
        return stop
    return advanced(state, second, reached, new, gain, rates=rates, reach=reach)


def ratio_of_lengths(first: Vector, second: Vector) -> float:
    """At least 1, and 1 where the second is nothing."""
    length = float(np.linalg.norm(second))
    return max(float(np.linalg.norm(first)) / length, 1.0) if length > 0 else 1.0


def anderson(go: Map, state: Climb, project: Projection = unmoved, memory: int = 10) -> Climb:
    """Anderson mixing of the last images, restarted where it does not climb: one evaluation where it does.

    References
    ----------
    .. [1] Henderson, N. C. & Varadhan, R. *Damped Anderson acceleration with restarts and monotonicity control for
       accelerating EM and EM-like algorithms*. J. Comput. Graph. Stat. 28 (2019).
       https://doi.org/10.1080/10618600.2019.1594835
    """
    move = state.next_point - state.point
    images, steps = (*state.images, state.next_point)[-memory - 1 :], (*state.steps, move)[-memory - 1 :]
    if len(steps) > 1:
        point = project(mixed(images, steps))
        new, value = go(point)
        if np.isfinite(value) and value - state.value > noise(value) and np.all(np.isfinite(new)):
            rates = (*state.rates, (1.0 - 1.0 / ratio_of_lengths(point - state.point, move)) ** 2)[-REMEMBERED:]
            gain = max(value - state.value, remaining(value - state.value, 0.5))
            return advanced(state, point, value, new, gain, rates=rates, images=images, steps=steps)
        images, steps = (), ()
    new, value = go(state.next_point)  # the plain step: it always climbs, and tells how much is left
    if stop := fallen(state, value):
        return stop
    moves = move, new - state.next_point
    rates = (*state.rates, contraction(*moves))[-REMEMBERED:]
    gain = left(state, value - state.value, moves, rates)
    return advanced(state, state.next_point, value, new, gain, rates=rates, images=images, steps=steps)


def mixed(images: tuple[Vector, ...], steps: tuple[Vector, ...]) -> Vector:
    """The combination of images whose steps cancel best."""
    image, step = images[-1], steps[-1]
    differences = np.diff(np.stack(steps, axis=1), axis=1)
    moves = np.diff(np.stack(images, axis=1), axis=1)
    weights, *_ = np.linalg.lstsq(differences, step, rcond=1e-8)
    return image - moves @ weights


ACCELERATORS: dict[str | None, Accelerator] = {None: plain, "squarem": squarem, "anderson": anderson}
