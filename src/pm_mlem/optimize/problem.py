"""What an optimizer is given and what it returns; nothing here knows where the functions come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

Vector = np.ndarray


class Status(Enum):
    """How a run ended.

    ``DEGENERATE``: every start led to a point where the likelihood has no maximum (a component that collapsed, say).
    """

    CONVERGED = "converged"
    MAX_ITERATIONS = "iteration limit"
    STALLED = "stalled"
    NOT_FINITE = "not finite"
    INTERRUPTED = "interrupted"
    DEGENERATE = "degenerate"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Problem:
    """A function to maximise over a flat unconstrained vector.

    Attributes
    ----------
    value_and_gradient : point -> (value, gradient)
    derivatives : point -> (value, gradient, Hessian)
    em_map : point -> (next point, value at the point); None where there is nothing to expect over
    """

    value_and_gradient: Callable[[Vector], tuple[float, Vector]]
    derivatives: Callable[[Vector], tuple[float, Vector, np.ndarray]]
    em_map: Callable[[Vector], tuple[Vector, float]] | None = None


@dataclass(frozen=True)
class Optimum:
    """The end of a run.

    Attributes
    ----------
    point, value : where it ended (the best point seen)
    status, message : how; the message is a sentence
    history : value at the start and after every iteration
    gain : estimate of what is still to be gained (log-likelihood units), NaN if unknown
    """

    point: Vector
    value: float
    status: Status
    message: str
    history: np.ndarray
    gain: float = np.nan
    method: str = ""

    @property
    def converged(self) -> bool:
        return self.status is Status.CONVERGED

    @property
    def iterations(self) -> int:
        return len(self.history) - 1


@dataclass(frozen=True)
class Verdict:
    """An algorithm's opinion after a step: stop with this status, because of this."""

    status: Status
    message: str


@dataclass
class Stop:
    """When the loop ends by itself."""

    max_iterations: int = 1000
    observe: Callable[[int, float], None] = field(default=lambda iteration, value: None)
