"""Where runs start."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pm_mlem.estimate.target import Target
from pm_mlem.objective.collapse import Guard
from pm_mlem.objective.starts import StartMaker
from pm_mlem.optimize.multistart import Start

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
        if not points:
            raise ValueError("starts is an empty list; give a number or at least one {name: value}.")
        return [Start(f"starts[{i}]", point) for i, point in enumerate(points)], more
    if starts < 1:
        raise ValueError(f"starts={starts} must be at least 1.")
    return [Start(*maker.first()), *more(int(starts) - 1)], more
