"""The one loop: it owns stopping, history and status. An algorithm supplies ``init``, ``step`` and ``done``.

A step returns a state with at least ``point``, ``value`` and ``gain`` (the estimated distance to the optimum in
units of the objective). ``done`` looks at the state and returns a :class:`Verdict` to stop, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from pm_mlem.optimize.problem import Optimum, Problem, Status, Vector, Verdict


class State(Protocol):
    """What the loop reads of an algorithm's state."""

    point: Vector
    value: float
    gain: float


class Algorithm(Protocol):
    """An iterative maximiser."""

    @property
    def title(self) -> str: ...
    @property
    def max_iterations(self) -> int: ...

    def init(self, problem: Problem, point: Vector) -> Any: ...
    def step(self, problem: Problem, state: Any) -> Any: ...
    def done(self, state: Any) -> Verdict | None: ...


def run(
    algorithm: Algorithm,
    problem: Problem,
    start: Vector,
    *,
    max_iterations: int | None = None,
    observe: Callable[[int, float], None] | None = None,
    enough: float = 0.0,
) -> Optimum:
    """Iterate an algorithm from a start until it is done, the limit is reached, or the user interrupts.

    A start from which no more than ``enough`` could be gained is left as it is.
    """
    limit = algorithm.max_iterations if max_iterations is None else max_iterations
    start = np.asarray(start, dtype=float)
    state = algorithm.init(problem, start)
    history = [float(state.value)]
    if not np.isfinite(state.value):
        return Optimum(start, float(state.value), Status.NOT_FINITE, "The objective is not finite at the start.",
                       np.array(history), legs=((algorithm.title, 0),))  # fmt: skip
    verdict = algorithm.done(state)
    if verdict is None and state.gain <= enough:
        verdict = Verdict(Status.CONVERGED, "Converged.")
    try:
        while verdict is None and len(history) <= limit:
            state = algorithm.step(problem, state)
            history.append(float(state.value))
            if observe is not None:
                observe(len(history) - 1, history[-1])
            verdict = algorithm.done(state)
    except KeyboardInterrupt:
        verdict = Verdict(
            Status.INTERRUPTED, f"Interrupted after {len(history) - 1} iterations; the best point so far."
        )
    if verdict is None:
        verdict = Verdict(
            Status.MAX_ITERATIONS,
            f"Stopped at the limit of {limit} iterations, still rising by about {state.gain:.2g}; "
            "raise max_iterations.",
        )
    return Optimum(
        np.asarray(state.point), float(state.value), verdict.status, verdict.message, np.array(history),
        float(state.gain), ((algorithm.title, len(history) - 1),), verdict.edge,
    )  # fmt: skip
