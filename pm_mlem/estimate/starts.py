"""Where runs start."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pm_mlem.estimate.names import Names
from pm_mlem.estimate.target import Target
from pm_mlem.objective.collapse import Guard
from pm_mlem.objective.starts import PERTURBED, StartMaker
from pm_mlem.optimize.multistart import Start

BESIDE = "initial point, moved to where there are derivatives"
POSSIBLE = "a possible point near the initial one"
NEARER = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-6, 0.0)
"""Factors of coefficients at the initial point that are tried where the objective is not finite there."""
EITHER_SIDE = (-1.0, 1.0, -2.0, 2.0, -4.0, 4.0, -8.0, 8.0, -16.0, 16.0)
"""e-fold changes of logarithms and log-odds that are tried then, all of them together."""
DRAWS = 20
"""Draws from the prior that are tried then."""
DEFAULT_STARTS = 8
"""Starts where a latent makes local optima likely and the user names no number."""


def start_points(starts, target: Target, random_seed: int | None) -> tuple[list[Start], Callable[[int], list[Start]]]:
    """The user's starts, or the initial point and others, and a function that makes further ones."""
    rng = np.random.default_rng(random_seed)
    guard = Guard(target.engine.inspector, target.weights)
    maker = StartMaker(
        target.objective, lambda: target.engine.em_map, target.weights, target.data, rng, guard.symmetric
    )

    def more(count: int) -> list[Start]:
        return [Start(origin, point) for origin, point in maker.further(count)]

    if starts is None:
        starts = DEFAULT_STARTS if target.structure.local_optima else 1
    if not isinstance(starts, int | np.integer):
        points = [target.space.unconstrain(given) for given in starts]
        return [Start(f"starts[{i}]", point) for i, point in enumerate(points)], more
    return [Start(*maker.first()), *more(int(starts) - 1)], more


def possible(target: Target, random_seed: int | None) -> Start | None:
    """A start at which the objective is finite, where the initial point is none: the best of many; None without any.

    Where the value is finite there and derivatives are not (a distance is 0, say) a point beside it. Otherwise
    coefficients are tried nearer to 0 (times in days in an exponential), logarithms and log-odds on either side, and
    draws from the prior.
    """
    rng = np.random.default_rng(random_seed)
    maker = StartMaker(target.objective, lambda: target.engine.em_map, target.weights, target.data, rng)
    if np.isfinite(target.value(target.space.initial)):
        return Start(BESIDE, maker.make(PERTURBED)[1])
    initial, line = target.space.initial, Names(target.objective).line
    points = [np.where(line, factor * initial, initial + change) for factor in NEARER for change in (0.0, *EITHER_SIDE)]
    points += [p for p in (maker.from_prior() for _ in range(DRAWS)) if p is not None]
    found = [(value, i) for i, value in enumerate(map(target.value, points)) if np.isfinite(value)]
    return Start(POSSIBLE, points[max(found)[1]]) if found else None
