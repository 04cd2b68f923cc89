"""Adam: many cheap steps where second derivatives are out of reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pm_mlem.arguments import check_fields, not_negative, positive, whole
from pm_mlem.optimize.curvature import diagonal
from pm_mlem.optimize.problem import Problem, Status, Vector, Verdict


@dataclass(frozen=True)
class AdamState:
    point: Vector
    value: float
    gradient: Vector
    first: Vector
    second: Vector
    count: int
    best_point: Vector
    best_value: float
    units: Vector
    gain: float = np.inf
    quiet: int = 0


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015) with a step size that falls as ``1 / sqrt(iteration)``.

    First-order and without a certificate of the maximum: prefer the other methods unless the objective is rough.

    Parameters
    ----------
    max_iterations : int
    learning_rate : float
        First step size, in units of the distance that a Newton step along single coordinates would go at the start.
    tolerance : float
        Stop when the best value has risen by less than this in 100 iterations (log-likelihood units).

    References
    ----------
    .. [1] Kingma, D. P. & Ba, J. *Adam: a method for stochastic optimization*. ICLR (2015).
       https://doi.org/10.48550/arXiv.1412.6980
    """

    max_iterations: int = 20_000
    learning_rate: float = 0.05
    tolerance: float = 1e-8
    title = "Adam"

    def __post_init__(self) -> None:
        check_fields(self, max_iterations=whole(1), learning_rate=positive, tolerance=not_negative)

    def init(self, problem: Problem, point: Vector) -> AdamState:
        value, gradient = problem.value_and_gradient(point)
        value, gradient, zeros = float(value), np.asarray(gradient), np.zeros_like(point)
        sizes = diagonal(problem, point) if np.isfinite(value) else np.ones_like(point)
        far = max(1.0, float(np.sqrt(np.mean((gradient / sizes) ** 2)))) if len(point) else 1.0
        return AdamState(point, value, gradient, zeros, zeros, 0, point, value, far / sizes)

    def step(self, problem: Problem, state: AdamState) -> AdamState:
        count = state.count + 1
        slope = state.gradient * state.units
        first = 0.9 * state.first + 0.1 * slope
        second = 0.999 * state.second + 0.001 * slope**2
        rate = self.learning_rate / np.sqrt(1.0 + count / 100.0)
        move = rate * (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.999**count)) + 1e-12)
        point = state.point + state.units * move
        value, gradient = problem.value_and_gradient(point)
        value, gradient = float(value), np.asarray(gradient)
        if not (np.isfinite(value) and np.all(np.isfinite(gradient))):  # forget the momentum, try half as far
            point, value, gradient = state.best_point, state.best_value, 0.5 * state.gradient
            first, second = np.zeros_like(first), np.zeros_like(second)
        rise = value - state.best_value
        better = rise > 0
        quiet = 0 if rise > self.tolerance else state.quiet + 1
        return AdamState(
            point, value, gradient, first, second, count, point if better else state.best_point,
            value if better else state.best_value, state.units, float(np.linalg.norm(gradient * state.units)), quiet,
        )  # fmt: skip

    def done(self, state: AdamState) -> Verdict | None:
        if state.quiet >= 100:
            return Verdict(Status.CONVERGED, "Stopped: no rise in 100 iterations (Adam has no sharper criterion).")
        return None
