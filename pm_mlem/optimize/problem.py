"""What an optimizer is given and what it returns; nothing here knows where the functions come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

Vector = np.ndarray
IDLE = 1e-9
"""Slope and curvature by a logarithm or log-odds below which they are left alone, ..."""
NOISY = 1e-5
"""... and by the logarithm of a number that grows to infinity: terms that cancel (log-gamma functions) lose digits."""
LEAP = 3.0
"""Change of a logarithm or of log-odds in one step."""


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


def not_given(*args):
    raise NotImplementedError("This variant of EM has no map here.")


def unmoved(point: Vector) -> Vector:
    """The projection where nothing is held."""
    return point


@dataclass(frozen=True)
class EMMaps:
    """One EM iteration, by what is done about the latents.

    Attributes
    ----------
    soft : point -> (next point, value at the point): their posterior probabilities
    hard : point -> (next point, joint log-likelihood at the point): their jointly most probable states
    stochastic : (point, number of the iteration) -> next point: a draw from their posterior
    tempered : (point, inverse temperature) -> next point: their posterior probabilities to that power
    project : point -> the point moved to where the steps stay
    """

    soft: Callable[[Vector], tuple[Vector, float]]
    hard: Callable[[Vector], tuple[Vector, float]] = not_given
    stochastic: Callable[[Vector, int], Vector] = not_given
    tempered: Callable[[Vector, float], Vector] = not_given
    project: Callable[[Vector], Vector] = unmoved


@dataclass(frozen=True)
class Problem:
    """A function to maximise over a flat unconstrained vector.

    Attributes
    ----------
    value_and_gradient : point -> (value, gradient)
    derivatives : point -> (value, gradient, Hessian)
    products : (point, direction) -> Hessian times direction; None: by the Hessian
    bounded : (p,) which coordinates are logarithms or log-odds, whose unit is an e-fold change; None: none
    logarithms : (p,) which of these are logarithms of numbers without an upper bound; None: all
    reach : longest first step of Newton's method, in coordinates with unit curvature: where there are several maxima it
        is not to leave the one it starts at
    curvature : like ``derivatives``, with what stands for a Hessian where the function has kinks; None: the Hessian
    em : the maps of EM; None where there are none
    """

    value_and_gradient: Callable[[Vector], tuple[float, Vector]]
    derivatives: Callable[[Vector], tuple[float, Vector, np.ndarray]]
    em: EMMaps | None = None
    products: Callable[[Vector, Vector], Vector] | None = None
    bounded: np.ndarray | None = None
    logarithms: np.ndarray | None = None
    reach: float = np.inf
    curvature: Callable[[Vector], tuple[float, Vector, np.ndarray]] | None = None

    def idle(self, gradient: Vector, curvature: Vector) -> np.ndarray:
        """Logarithms and log-odds on which next to nothing depends any more: they are left where they are.

        Their derivatives are little more than rounding, and a Newton step could carry them anywhere.
        """
        if self.bounded is None:
            return np.zeros(len(gradient), dtype=bool)
        grows = (gradient > 0) if self.logarithms is None else self.logarithms & (gradient > 0)
        level = np.where(grows, NOISY, IDLE)
        return self.bounded & (np.abs(gradient) <= level) & (np.abs(curvature) <= level)

    def shorter(self, step: Vector) -> float:
        """By how much a step is shortened, so that logarithms and log-odds do not leap."""
        if self.bounded is None or not np.any(self.bounded):
            return 1.0
        return min(1.0, LEAP / max(float(np.max(np.abs(step[self.bounded]))), 1e-300))


@dataclass(frozen=True)
class Optimum:
    """The end of a run.

    Attributes
    ----------
    point, value : where it ended (the best point seen)
    status, message : how; the message is a sentence
    history : value at the start and after every iteration
    gain : estimate of what is still to be gained (log-likelihood units), NaN if unknown
    legs : what was run, one after the other, and for how many iterations
    edge : whether it is the largest value at the edge of the region in which the objective is finite, no maximum inside
    checked : title of the algorithm that confirmed it without going on
    """

    point: Vector
    value: float
    status: Status
    message: str
    history: np.ndarray
    gain: float = np.nan
    legs: tuple[tuple[str, int], ...] = ()
    edge: bool = False
    checked: str = ""

    @property
    def method(self) -> str:
        return ", then ".join(title for title, _ in self.legs)

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
    edge: bool = False
