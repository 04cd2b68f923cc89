"""Newton's method in a trust region, with the exact solution of the quadratic subproblem."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pm_mlem.optimize.problem import Problem, Status, Vector, Verdict

NEXT_TO_NOTHING = 1e-11
"""A gain, relative to the objective, that is lost in rounding."""


@dataclass(frozen=True)
class NewtonState:
    point: Vector
    value: float
    gradient: Vector
    curvature: np.ndarray  # eigenvalues of minus the Hessian
    directions: np.ndarray
    radius: float
    gain: float
    rejected: int = 0
    slow: int = 0  # steps in a row that gained next to nothing


@dataclass(frozen=True)
class Newton:
    """Trust-region Newton (Moré & Sorensen 1983), quadratic convergence and a certificate of the maximum.

    Parameters
    ----------
    max_iterations : int
    tolerance : float
        Stop when the quadratic model predicts a further gain below this (log-likelihood units).
    radius : float
        First radius of the trust region in the unconstrained space.

    References
    ----------
    .. [1] Moré, J. J. & Sorensen, D. C. *Computing a trust region step*. SIAM J. Sci. Stat. Comput. 4 (1983).
       https://doi.org/10.1137/0904038
    """

    max_iterations: int = 200
    tolerance: float = 1e-12
    radius: float = 1.0
    title = "trust-region Newton"

    def init(self, problem: Problem, point: Vector) -> NewtonState:
        return self.evaluated(problem, point, self.radius)

    def evaluated(self, problem: Problem, point: Vector, radius: float) -> NewtonState:
        value, gradient, hessian = problem.derivatives(point)
        if not (np.isfinite(value) and np.all(np.isfinite(gradient)) and np.all(np.isfinite(hessian))):
            n = len(point)
            return NewtonState(point, -np.inf, np.zeros(n), np.ones(n), np.eye(n), radius, np.inf)
        curvature, directions = np.linalg.eigh(-0.5 * (hessian + hessian.T))
        gain = newton_gain(directions.T @ gradient, curvature)
        return NewtonState(point, float(value), gradient, curvature, directions, radius, gain)

    def step(self, problem: Problem, state: NewtonState) -> NewtonState:
        step, predicted = trust_region_step(state)
        new = self.evaluated(problem, state.point + step, state.radius)
        noise = 1e-13 * (1.0 + abs(state.value))
        actual = new.value - state.value
        ratio = (actual + noise) / (predicted + noise) if np.isfinite(new.value) else -1.0
        length = float(np.linalg.norm(step))
        radius = state.radius
        if ratio < 0.25:
            radius = 0.25 * length
        elif ratio > 0.75 and length > 0.9 * radius:
            radius = min(2.0 * radius, 1e4)
        if ratio < 1e-4:
            return replace(state, radius=radius, rejected=state.rejected + 1)
        slow = state.slow + 1 if actual <= NEXT_TO_NOTHING * (1.0 + abs(state.value)) else 0
        return replace(new, radius=radius, slow=slow)

    def done(self, state: NewtonState) -> Verdict | None:
        scale = max(self.tolerance, 1e-14 * abs(state.value))
        if state.gain <= scale:
            return Verdict(Status.CONVERGED, "Converged: the Newton decrement vanishes.")
        if state.slow >= 5 and state.gain <= 1e-6:
            return Verdict(
                Status.CONVERGED,
                f"Converged: about {state.gain:.1g} of log-likelihood is left to gain along a direction in which it "
                "flattens out (a parameter on the boundary of its support?).",
            )
        if state.rejected > 40 or state.radius < 1e-12:
            return Verdict(
                Status.STALLED,
                f"No step improves the objective although the quadratic model predicts {state.gain:.2g}; "
                "the objective may not be smooth here.",
            )
        return None


def newton_gain(slope: Vector, curvature: Vector) -> float:
    """Gain that the quadratic model predicts within unit distance; at a saddle that of leaving it."""
    top = max(float(np.max(np.abs(curvature), initial=0.0)), 1e-300)
    negligible = np.abs(curvature) <= 1e-10 * top
    rising = (curvature < 0) & ~negligible
    solid = (curvature > 0) & ~negligible
    gain = 0.5 * float(np.sum(slope[solid] ** 2 / curvature[solid]))
    gain += float(np.sum(0.5 * np.abs(curvature[rising]) + np.abs(slope[rising])))
    return gain + float(np.sum(np.abs(slope[negligible])))


def trust_region_step(state: NewtonState) -> tuple[Vector, float]:
    """Maximise the quadratic model within the radius; returns the step and the predicted gain."""
    slope = state.directions.T @ state.gradient
    curvature, radius = state.curvature, state.radius
    lowest = float(curvature[0])
    if lowest <= 0 and np.linalg.norm(slope[curvature <= lowest + 1e-12]) < 1e-10:
        slope = slope.copy()
        slope[0] = 1e-8 * (1.0 if slope[0] >= 0 else -1.0)  # leave a saddle

    def solution(shift: float) -> Vector:
        return slope / np.maximum(curvature + shift, 1e-300)

    shift = max(0.0, -lowest) + (1e-12 * max(1.0, abs(lowest)) if lowest <= 0 else 0.0)
    step = solution(shift)
    if np.linalg.norm(step) > radius:
        low, high = shift, shift + np.linalg.norm(slope) / radius + 1.0
        while np.linalg.norm(solution(high)) > radius:
            high *= 2.0
        for _ in range(100):
            middle = 0.5 * (low + high)
            if np.linalg.norm(solution(middle)) > radius:
                low = middle
            else:
                high = middle
            if high - low <= 1e-6 * high:
                break
        step = solution(high)
    predicted = float(slope @ step - 0.5 * step @ (curvature * step))
    return state.directions @ step, predicted
