"""Limited-memory BFGS with a weak-Wolfe line search that copes with points outside the support."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pm_mlem.arguments import check_fields, not_negative, whole
from pm_mlem.optimize.curvature import diagonal
from pm_mlem.optimize.problem import Problem, Status, Vector, Verdict


@dataclass(frozen=True)
class LBFGSState:
    """Where the method stands; all but the point in scaled coordinates.

    Attributes
    ----------
    point : (p,)
    sizes : (p,) factors from the coordinates to those in which their curvature was 1 at the start
    steps, changes : the last steps, and how the gradient changed along them
    gain : what the quasi-Newton model promises
    """

    point: Vector
    value: float
    gradient: Vector
    sizes: Vector
    steps: tuple[Vector, ...] = ()
    changes: tuple[Vector, ...] = ()
    gain: float = np.inf
    failed: bool = False

    @property
    def forgetful(self) -> LBFGSState:
        """The same without what was learned."""
        return replace(self, steps=(), changes=(), gain=np.inf, failed=False)


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS (Liu & Nocedal 1989) for many parameters.

    It works in coordinates whose curvature was 1 at the start (by the diagonal of the Hessian), so that the units of
    data and parameters do not matter.

    Parameters
    ----------
    max_iterations : int
    tolerance : float
        Stop when the quasi-Newton model predicts a further gain below this (log-likelihood units). ``mlem.fit`` does
        not take its word for it: see :func:`pm_mlem.fit`.
    memory : int
        Pairs of steps and gradient changes that are kept.

    References
    ----------
    .. [1] Liu, D. C. & Nocedal, J. *On the limited memory BFGS method for large scale optimization*.
       Math. Program. 45 (1989). https://doi.org/10.1007/BF01589116
    .. [2] Lewis, A. S. & Overton, M. L. *Nonsmooth optimization via quasi-Newton methods*. Math. Program. 141
       (2013). https://doi.org/10.1007/s10107-012-0514-2 (the line search)
    """

    max_iterations: int = 5000
    tolerance: float = 1e-10
    memory: int = 20
    title = "L-BFGS"

    def __post_init__(self) -> None:
        check_fields(self, max_iterations=whole(1), tolerance=not_negative, memory=whole(1))

    def init(self, problem: Problem, point: Vector) -> LBFGSState:
        value, gradient = problem.value_and_gradient(point)
        gradient = np.asarray(gradient)
        sizes = diagonal(problem, point) if np.isfinite(value) else np.ones(len(point))
        return LBFGSState(point, float(value), gradient / sizes, sizes)

    def step(self, problem: Problem, state: LBFGSState) -> LBFGSState:
        if problem.bounded is not None:
            still = problem.idle(state.gradient * state.sizes, np.zeros_like(state.sizes))
            state = replace(state, gradient=np.where(still, 0.0, state.gradient))
            if not np.any(state.gradient):
                return replace(state, gain=0.0)
        direction = ascent_direction(state)
        if direction @ state.gradient <= 0:
            state = state.forgetful
            direction = ascent_direction(state)
        found = line_search(problem, state, direction)
        if found is None:
            if state.steps:  # forget the model once before giving up
                return state.forgetful
            return replace(state, failed=True)
        step, value, gradient = found
        change = state.gradient - gradient
        steps, changes = state.steps, state.changes
        if step @ change > 1e-12 * np.linalg.norm(step) * np.linalg.norm(change):
            steps, changes = (*steps, step)[-self.memory :], (*changes, change)[-self.memory :]
        new = LBFGSState(state.point + step / state.sizes, value, gradient, state.sizes, steps, changes)
        gain = 0.5 * float(ascent_direction(new) @ gradient) if steps else np.inf
        return replace(new, gain=gain)

    def done(self, state: LBFGSState) -> Verdict | None:
        if not np.any(state.gradient) or state.gain <= max(self.tolerance, 1e-15 * abs(state.value)):
            return Verdict(Status.CONVERGED, "Converged: the quasi-Newton decrement vanishes.")
        if state.failed:
            return Verdict(
                Status.STALLED,
                "The line search found no better point (slopes of "
                f"{np.max(np.abs(state.gradient)):.2g} per standard error are left).",
            )
        return None


def ascent_direction(state: LBFGSState) -> Vector:
    """The two-loop recursion."""
    q = state.gradient.copy()
    pairs = list(zip(state.steps, state.changes, strict=True))
    factors = []
    for s, y in reversed(pairs):
        a = (s @ q) / (s @ y)
        q -= a * y
        factors.append(a)
    if pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ y)
    for (s, y), a in zip(pairs, reversed(factors), strict=True):
        q += s * (a - (y @ q) / (s @ y))
    return q


def line_search(problem: Problem, state: LBFGSState, direction: Vector, *, c1=1e-4, c2=0.9, limit=60):
    """Bisection for the weak Wolfe conditions; points that are not finite count as too far.

    Returns the step, the value and the gradient there (scaled); None where there is none.
    """
    slope = float(direction @ state.gradient)
    low, high, t = 0.0, np.inf, problem.shorter(direction / state.sizes)
    noise = 1e-14 * (1.0 + abs(state.value))
    for _ in range(limit):
        value, gradient = problem.value_and_gradient(state.point + t * direction / state.sizes)
        value, gradient = float(value), np.asarray(gradient) / state.sizes
        finite = np.isfinite(value) and np.all(np.isfinite(gradient))
        if not finite or value < state.value + c1 * t * slope - noise:
            high = t
        elif gradient @ direction > c2 * slope:
            low = t
        else:
            return t * direction, value, gradient
        t = 0.5 * (low + high) if np.isfinite(high) else 2.0 * t
        if high - low < 1e-14:
            break
    return None
