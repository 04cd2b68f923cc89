"""Newton's method for many parameters: the Hessian is only multiplied with directions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pm_mlem.optimize.curvature import diagonal
from pm_mlem.optimize.newton import AT_A_LIMIT, REJECTED, judged, stalled
from pm_mlem.optimize.problem import Problem, Status, Vector, Verdict

ENOUGH = 5
"""Conjugate gradients in a row that gain next to nothing."""
NARROW = 1e-10
"""Curvature in scaled coordinates that counts as none."""


@dataclass(frozen=True)
class Model:
    """The maximum of a quadratic model within a radius, in scaled coordinates.

    Attributes
    ----------
    step : (p,)
    predicted : what the model promises for the step
    complete : whether the step is that of Newton's method; otherwise the radius or upward curvature ended it
    """

    step: Vector
    predicted: float
    complete: bool


def model_step(
    problem: Problem, point: Vector, gradient: Vector, sizes: Vector, radius: float, accuracy: float
) -> Model:
    """Conjugate gradients (Steihaug 1983), until what is still to be gained in the model is below ``accuracy``."""
    along = problem.products
    assert along is not None
    step = np.zeros_like(gradient)
    residual = gradient.copy()
    direction = residual.copy()
    square, predicted, small = float(residual @ residual), 0.0, 0
    for _ in range(2 * len(gradient) + 10):
        if square == 0.0:
            return Model(step, predicted, True)
        bent = -np.asarray(along(point, direction / sizes)) / sizes
        curvature = float(direction @ bent)
        if not np.isfinite(curvature):
            return Model(step, predicted, False)
        if curvature <= NARROW * float(direction @ direction):
            if square <= accuracy * NARROW**0.5:
                return Model(step, predicted, True)
            return Model(*to_the_edge(step, direction, residual, curvature, radius, predicted), False)
        length = square / curvature
        ahead = step + length * direction
        if np.linalg.norm(ahead) >= radius:
            return Model(*to_the_edge(step, direction, residual, curvature, radius, predicted), False)
        gained = 0.5 * length * square
        step, predicted = ahead, predicted + gained
        residual = residual - length * bent
        following = float(residual @ residual)
        direction = residual + (following / square) * direction
        small = small + 1 if gained <= 0.1 * accuracy else 0
        if small >= ENOUGH or gained <= 1e-16 * predicted:
            return Model(step, predicted, True)
        square = following
    return Model(step, predicted, True)


def to_the_edge(step, direction, residual, curvature, radius, predicted) -> tuple[Vector, float]:
    """The step prolonged along a direction until it is as long as the radius."""
    a, b, c = direction @ direction, 2.0 * step @ direction, step @ step - radius**2
    length = (-b + np.sqrt(max(b * b - 4.0 * a * c, 0.0))) / (2.0 * a)
    gained = length * float(residual @ direction) - 0.5 * length**2 * curvature
    return step + length * direction, predicted + gained


@dataclass(frozen=True)
class TruncatedState:
    """Where the method stands; the gradient is scaled."""

    point: Vector
    value: float
    gradient: Vector
    sizes: Vector
    radius: float
    model: Model
    rejected: int = 0

    @property
    def gain(self) -> float:
        return self.model.predicted if self.model.complete else np.inf


@dataclass(frozen=True)
class TruncatedNewton:
    """Newton's method with conjugate gradients in a trust region (Steihaug 1983), in coordinates with unit curvature.

    Parameters
    ----------
    max_iterations : int
    tolerance : float
        Stop when the quadratic model predicts a further gain below this (log-likelihood units).

    References
    ----------
    .. [1] Steihaug, T. *The conjugate gradient method and trust regions in large scale optimization*. SIAM J. Numer.
       Anal. 20 (1983). https://doi.org/10.1137/0720042
    """

    max_iterations: int = 200
    tolerance: float = 1e-9
    title = "truncated Newton"

    def init(self, problem: Problem, point: Vector) -> TruncatedState:
        value, gradient = problem.value_and_gradient(point)
        if not np.isfinite(value):
            nothing = Model(np.zeros_like(point), 0.0, False)
            return TruncatedState(point, float(value), np.asarray(gradient), np.ones_like(point), 1.0, nothing)
        sizes = diagonal(problem, point)
        return self.seen(problem, point, float(value), np.asarray(gradient) / sizes, sizes, np.inf)

    def seen(self, problem, point, value, gradient, sizes, radius) -> TruncatedState:
        accuracy = max(self.tolerance, 1e-14 * abs(value))
        bound = radius if np.isfinite(radius) else 10.0 * (1.0 + float(np.linalg.norm(gradient)))
        model = model_step(problem, point, gradient, sizes, bound, accuracy)
        if not np.isfinite(radius):
            radius = max(1.0, float(np.linalg.norm(model.step)))
        return TruncatedState(point, value, gradient, sizes, radius, model)

    def step(self, problem: Problem, state: TruncatedState) -> TruncatedState:
        step, predicted = state.model.step, state.model.predicted
        length = float(np.linalg.norm(step))
        point = state.point + step / state.sizes
        value, gradient = problem.value_and_gradient(point)
        value, gradient = float(value), np.asarray(gradient) / state.sizes
        reached = value if np.all(np.isfinite(gradient)) else np.nan
        accepted, radius = judged(state.value, reached, predicted, length, state.radius)
        if accepted:
            return self.seen(problem, point, value, gradient, state.sizes, radius)
        again = self.seen(problem, state.point, state.value, state.gradient, state.sizes, radius)
        return replace(again, rejected=state.rejected + 1)

    def done(self, state: TruncatedState) -> Verdict | None:
        if state.gain <= max(self.tolerance, 1e-14 * abs(state.value)):
            return Verdict(Status.CONVERGED, "Converged: the Newton decrement vanishes (by conjugate gradients).")
        if state.rejected <= REJECTED and state.radius > 1e-9:
            return None
        if state.gain <= AT_A_LIMIT:
            return Verdict(Status.CONVERGED, f"Converged: about {state.gain:.1g} of log-likelihood is left to gain.")
        return stalled(state.model.predicted)
