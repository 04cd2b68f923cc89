"""Newton's method in a trust region, with the exact solution of the subproblem, in coordinates without units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pm_mlem.arguments import check_fields, not_negative, optional, positive, whole
from pm_mlem.optimize.curvature import Spectrum, sizes_of, spectrum
from pm_mlem.optimize.problem import Problem, Status, Vector, Verdict

NEXT_TO_NOTHING = 1e-11
"""A gain, relative to the objective, that is lost in rounding."""
AT_A_LIMIT = 1e-6
"""Log-likelihood that may be left where it rises towards a limit, or where rounding hides the rest."""
ACCEPTED = 0.05
"""Part of the predicted gain that a step has to bring."""
LEVEL = 1e-6
"""Slope in scaled coordinates below which nothing is looked for along a direction without curvature."""
AT_THE_EDGE = (
    "Converged to the edge of the region in which the data are possible: beyond, the likelihood is 0 (the support of "
    "an observed variable depends on parameters)."
)
LARGE = 1e150
"""Derivatives beyond count as infinite: their squares are."""
REJECTED = 40
"""Steps in a row that may fail."""


@dataclass(frozen=True)
class NewtonState:
    """Where the method stands.

    Attributes
    ----------
    spectrum : minus the curvature, in scaled coordinates
    slope : (p,) derivatives along its principal directions
    radius : longest step, in scaled coordinates: in standard errors of coordinates whose neighbours are known
    gain : what the quadratic model promises
    noise : by how much the last step that was rejected missed its prediction
    """

    point: Vector
    value: float
    spectrum: Spectrum
    slope: Vector
    radius: float
    gain: float
    rejected: int = 0
    slow: int = 0  # steps in a row that gained next to nothing, or left nearly as much to gain as before
    noise: float = np.inf
    edge: bool = False  # whether all steps that were rejected led to where the likelihood is 0


@dataclass(frozen=True)
class Newton:
    """Trust-region Newton (Moré & Sorensen 1983), quadratic convergence and a certificate of the maximum.

    Lengths are measured in coordinates with unit curvature, chosen anew in every iteration (Moré 1978), so that the
    units of data and parameters do not matter.

    Parameters
    ----------
    max_iterations : int
    tolerance : float
        Stop when the quadratic model predicts a further gain below this (log-likelihood units).
    radius : float, optional
        First radius of the trust region, in standard errors of coordinates whose neighbours are known. Default: the
        length of the first Newton step (where there are several maxima at most the root of the number of units).

    References
    ----------
    .. [1] Moré, J. J. & Sorensen, D. C. *Computing a trust region step*. SIAM J. Sci. Stat. Comput. 4 (1983).
       https://doi.org/10.1137/0904038
    .. [2] Moré, J. J. *The Levenberg-Marquardt algorithm: implementation and theory*. Lecture Notes in Mathematics 630
       (1978). https://doi.org/10.1007/BFb0067700 (the scaling)
    """

    max_iterations: int = 200
    tolerance: float = 1e-12
    radius: float | None = None
    title = "trust-region Newton"

    def __post_init__(self) -> None:
        check_fields(self, max_iterations=whole(1), tolerance=not_negative, radius=optional(positive))

    def init(self, problem: Problem, point: Vector) -> NewtonState:
        state = self.evaluated(problem, point)
        if self.radius is None:
            return replace(state, radius=min(first_radius(state), problem.reach))
        return replace(state, radius=self.radius)

    def evaluated(self, problem: Problem, point: Vector) -> NewtonState:
        value, gradient, hessian = problem.derivatives(point)
        value, gradient, hessian = float(value), np.asarray(gradient), np.asarray(hessian)
        if not (np.isfinite(value) and np.all(np.abs(gradient) < LARGE) and np.all(np.abs(hessian) < LARGE)):
            p = len(point)
            nothing = Spectrum(np.ones(p), np.ones(p), np.eye(p), np.zeros(p, dtype=bool))
            outside = value == -np.inf
            return NewtonState(point, -np.inf, nothing, np.zeros(p), 1.0, np.inf, edge=outside)
        still = problem.idle(gradient, np.diag(hessian))
        found = spectrum_at(problem, point, np.where(still | still[:, None], 0.0, hessian))
        slope = found.axes.T @ np.where(still, 0.0, gradient)
        return NewtonState(point, value, found, slope, 1.0, newton_gain(slope, found))

    def step(self, problem: Problem, state: NewtonState) -> NewtonState:
        step, length, predicted = trust_region_step(state)
        shorter = problem.shorter(step)
        if shorter < 1.0:
            step, length, predicted = shorter * step, shorter * length, along_step(state, shorter * step)
        new = self.evaluated(problem, state.point + step)
        actual = new.value - state.value
        accepted, radius = judged(state.value, new.value, predicted, length, state.radius)
        if not accepted:
            edge = new.edge and (state.edge or not state.rejected)
            missed = abs(actual - predicted) if np.isfinite(actual) else np.inf
            return replace(state, radius=radius, rejected=state.rejected + 1, noise=missed, edge=edge)
        creeping = actual <= NEXT_TO_NOTHING * (1.0 + abs(state.value)) or state.gain / 2 < new.gain <= AT_A_LIMIT
        slow = state.slow + 1 if creeping else 0
        return replace(new, radius=radius, slow=slow)

    def done(self, state: NewtonState) -> Verdict | None:
        if state.gain <= max(self.tolerance, 1e-14 * abs(state.value)):
            return Verdict(Status.CONVERGED, "Converged: the Newton decrement vanishes.")
        if state.slow >= 5 and state.gain <= AT_A_LIMIT:
            return Verdict(
                Status.CONVERGED,
                f"Converged: about {state.gain:.1g} of log-likelihood is left to gain along a direction in which it "
                "flattens out (a parameter on the boundary of its support?).",
            )
        hidden = state.rejected > 0 and predicted_within(state) <= 1e-13 * (1.0 + abs(state.value))
        if state.rejected <= REJECTED and not hidden:
            return None
        if state.edge:
            return Verdict(Status.CONVERGED, AT_THE_EDGE, edge=True)
        if state.gain <= max(AT_A_LIMIT, min(10.0 * state.noise, 1e3 * AT_A_LIMIT)):
            return Verdict(
                Status.CONVERGED,
                f"Converged: about {state.gain:.1g} of log-likelihood is left to gain, which rounding of its terms "
                "hides (a parameter at the limit of its range?).",
            )
        return stalled(state.gain)


def judged(value: float, reached: float, predicted: float, length: float, radius: float) -> tuple[bool, float]:
    """Whether a step of some length is taken, and the radius of the trust region after it."""
    noise = 1e-13 * (1.0 + abs(value))
    ratio = (reached - value + noise) / (predicted + noise) if np.isfinite(reached) else -1.0
    if ratio < 0.25:
        radius = 0.25 * length
    elif ratio > 0.75 and length > 0.9 * radius:
        radius = 2.0 * radius
    return ratio >= ACCEPTED, radius


def stalled(predicted: float) -> Verdict:
    return Verdict(
        Status.STALLED,
        f"No step improves the objective although the quadratic model predicts {predicted:.2g}; the objective may not "
        "be smooth here.",
    )


def spectrum_at(problem: Problem, point: Vector, hessian: np.ndarray) -> Spectrum:
    """Minus the curvature at a point, in coordinates with unit curvature."""
    matrix = -0.5 * (hessian + hessian.T)
    along = problem.products
    return spectrum(matrix, along and (lambda d: along(point, d)), sizes_of(matrix, 1.0 / (1.0 + np.abs(point))))


def newton_gain(slope: Vector, at: Spectrum) -> float:
    """Gain that the quadratic model predicts; within unit distance where it is flat; at a saddle that of leaving it."""
    rising, solid = at.rising, (at.values > 0) & ~at.flat
    gain = 0.5 * float(np.sum(slope[solid] ** 2 / at.values[solid]))
    gain += float(np.sum(0.5 * np.abs(at.values[rising]) + np.abs(slope[rising])))
    return gain + float(np.sum(np.abs(slope[at.flat])))


def first_radius(state: NewtonState) -> float:
    """The length of a Newton step that leaves saddles instead of going to them."""
    at = state.spectrum
    size = np.maximum(np.abs(at.values), np.where(at.flat, 1.0, 0.0))
    return max(1.0, float(np.linalg.norm(state.slope / np.maximum(size, 1e-300))))


def predicted_within(state: NewtonState) -> float:
    """What a step of the present radius can gain at most."""
    longest = float(np.linalg.norm(state.slope)) * state.radius
    bend = max(0.0, -float(np.min(state.spectrum.values, initial=0.0)))
    return min(longest + 0.5 * bend * state.radius**2, max(state.gain, 0.0))


def along_step(state: NewtonState, step: Vector) -> float:
    """What the quadratic model predicts for a step."""
    at = state.spectrum
    own = at.axes.T @ (at.sizes**2 * step)
    return float(state.slope @ own - 0.5 * own @ (at.values * own))


def trust_region_step(state: NewtonState) -> tuple[Vector, float, float]:
    """Maximise the quadratic model within the radius; returns the step, its scaled length and the predicted gain."""
    slope, curvature, radius = state.slope, state.spectrum.values, state.radius
    still = state.spectrum.flat & (np.abs(slope) < LEVEL)
    slope, curvature = np.where(still, 0.0, slope), np.where(still, 1.0, curvature)
    lowest = float(np.min(curvature))
    if lowest <= 0 and np.linalg.norm(slope[curvature <= lowest + 1e-12]) < 1e-10:
        slope = slope.copy()
        bottom = int(np.argmin(curvature))
        slope[bottom] = 1e-8 * (1.0 if slope[bottom] >= 0 else -1.0)  # leave a saddle

    def solution(shift: float) -> Vector:
        return slope / np.maximum(curvature + shift, 1e-300)

    shift = max(0.0, -lowest) + (1e-12 * max(1.0, abs(lowest)) if lowest <= 0 else 0.0)
    step = solution(shift)
    if np.linalg.norm(step) > radius:
        low, high = shift, shift + np.linalg.norm(slope) / radius + 1e-300
        while np.linalg.norm(solution(high)) > radius:
            high *= 2.0
        for _ in range(200):
            middle = 0.5 * (low + high) if low == 0.0 or high < 4.0 * low else np.sqrt(low * high)
            if np.linalg.norm(solution(middle)) > radius:
                low = middle
            else:
                high = middle
            if high - low <= 1e-6 * high:
                break
        step = solution(high)
    predicted = float(slope @ step - 0.5 * step @ (curvature * step))
    return state.spectrum.axes @ step, float(np.linalg.norm(step)), predicted
