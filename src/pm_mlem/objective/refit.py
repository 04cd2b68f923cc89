"""Refits with other weights or data from a known optimum: one compiled function, called once for each replicate.

Newton's method in a trust region, as in :mod:`pm_mlem.optimize.newton`, but with its loop compiled. It works in
coordinates in which the curvature at the known optimum is that of a sphere, so a replicate's optimum is expected at a
distance of about the root of the number of parameters, whatever the units of the parameters are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.objective.objective import Objective

MAX_ITERATIONS = 60
TOLERANCE = 1e-8
"""Predicted gain (log-likelihood units) at which the last Newton step is taken; about its square is left after it."""
FLATTEST = 1e-6
"""Curvature, relative to its own diagonal, that coordinates are scaled by at most."""
SMALLEST_RADIUS = 1e-10
SOLID = 1e-10
"""Curvature relative to the largest that is not rounding."""


class Refit(NamedTuple):
    """Where a refit ended: the point, the log-likelihood there, and whether it is a maximum."""

    point: jax.Array
    log_likelihood: jax.Array
    converged: jax.Array
    iterations: jax.Array


class State(NamedTuple):
    """The best point so far, in the coordinates of the trust region, with its derivatives; and what comes next."""

    point: jax.Array
    value: jax.Array
    slope: jax.Array  # along the directions
    curvature: jax.Array  # eigenvalues of minus the Hessian
    directions: jax.Array
    gain: jax.Array
    radius: jax.Array
    step: jax.Array
    predicted: jax.Array  # gain of the step
    count: jax.Array


def whitening(information: np.ndarray) -> np.ndarray:
    """A matrix T such that the information is the identity in the coordinates v of ``u = u0 + T v``.

    Directions in which it is nearly flat are scaled by a bounded factor.
    """
    if not np.all(np.isfinite(information)):
        return np.eye(len(information))
    size = np.sqrt(np.abs(np.diag(information)))
    size = np.where(size > 1e-12 * np.max(size, initial=0.0), size, 1.0)
    values, vectors = np.linalg.eigh(information / np.outer(size, size))
    return vectors / np.sqrt(np.maximum(values, FLATTEST)) / size[:, None]


def refitting(objective: Objective) -> Callable[..., Refit]:
    """``(u0, T, weights, data) -> Refit``, compiled: maximises the objective from u0 in the coordinates of T."""

    def run(start, transform, weights, data) -> Refit:
        def gradient(u):
            value, slope = jax.value_and_grad(objective.value)(u, weights, data)
            return slope, (value, slope)

        def evaluate(point):
            """Value, slope, curvature, directions and predicted gain."""
            hessian, (value, slope) = objective.slopes(gradient)(start + transform @ point)
            matrix = transform.T @ (-0.5 * (hessian + hessian.T)) @ transform
            finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(slope)) & jnp.all(jnp.isfinite(matrix))
            curvature, directions = jnp.linalg.eigh(jnp.where(finite, matrix, jnp.eye(len(start))))
            slope = jnp.where(finite, directions.T @ (transform.T @ slope), 0.0)
            return jnp.where(finite, value, -jnp.inf), slope, curvature, directions, predicted_gain(slope, curvature)

        def going_on(state: State):
            rising = (state.gain > TOLERANCE) & (state.radius > SMALLEST_RADIUS) & jnp.isfinite(state.value)
            return (state.count == 0) | (rising & (state.count <= MAX_ITERATIONS))

        def iterate(state: State) -> State:
            """Evaluate the point that is proposed, accept it or not, propose the next."""
            point = state.point + state.step
            value, *derivatives = evaluate(point)
            noise = 1e-13 * (1.0 + jnp.abs(value))
            ratio = jnp.where(jnp.isfinite(value), (value - state.value + noise) / (state.predicted + noise), -1.0)
            length, radius = jnp.linalg.norm(state.step), state.radius
            wider = jnp.where((ratio > 0.75) & (length > 0.9 * radius), 2.0 * radius, radius)
            radius = jnp.where(state.count == 0, radius, jnp.where(ratio < 0.25, 0.25 * length, wider))
            accepted = (state.count == 0) | (ratio >= 1e-4)
            old = (state.point, state.value, state.slope, state.curvature, state.directions, state.gain)
            kept = [jnp.where(accepted, a, b) for a, b in zip((point, value, *derivatives), old, strict=True)]
            slope, curvature, directions = kept[2:5]
            move, predicted = trust_region_step(slope, curvature, radius)
            return State(*kept, radius, directions @ move, predicted, state.count + 1)

        p = len(start)
        zero, flat = jnp.zeros(()), jnp.zeros(p)
        first = 3.0 * (1.0 + jnp.sqrt(p))
        state = State(flat, zero, flat, flat, jnp.eye(p), zero, first, flat, zero, jnp.zeros((), int))
        state = jax.lax.while_loop(going_on, iterate, state)
        converged = state.gain <= TOLERANCE
        solid = state.curvature > SOLID * jnp.max(jnp.abs(state.curvature))
        last = state.directions @ jnp.where(solid, state.slope / jnp.where(solid, state.curvature, 1.0), 0.0)
        point = start + transform @ jnp.where(converged, state.point + last, state.point)
        log_likelihood = objective.log_likelihood(point, weights, data)
        return Refit(point, log_likelihood, converged & jnp.isfinite(log_likelihood), state.count)

    return jax.jit(run)


def predicted_gain(slope, curvature):
    """Gain that the quadratic model predicts within unit distance; at a saddle that of leaving it."""
    negligible = jnp.abs(curvature) <= SOLID * jnp.max(jnp.abs(curvature))
    newton = 0.5 * slope**2 / jnp.where(negligible, 1.0, jnp.abs(curvature))
    leaving = 0.5 * jnp.abs(curvature) + jnp.abs(slope)
    return jnp.sum(jnp.where(negligible, jnp.abs(slope), jnp.where(curvature > 0, newton, leaving)))


def trust_region_step(slope, curvature, radius):
    """Maximise the quadratic model within the radius, along its principal directions; the step and its gain."""
    lowest = curvature[0]
    stuck = (lowest <= 0) & (jnp.abs(slope[0]) < 1e-10)
    slope = slope.at[0].set(jnp.where(stuck, 1e-8, slope[0]))  # leave a saddle
    least = jnp.maximum(0.0, -lowest) + jnp.where(lowest <= 0, 1e-12 * jnp.maximum(1.0, jnp.abs(lowest)), 0.0)

    def solution(shift):
        return slope / jnp.maximum(curvature + shift, 1e-300)

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        long = jnp.linalg.norm(solution(middle)) > radius
        return jnp.where(long, middle, low), jnp.where(long, high, middle)

    inside = jnp.linalg.norm(solution(least)) <= radius
    _, high = jax.lax.fori_loop(0, 60, halve, (least, least + jnp.linalg.norm(slope) / radius))
    step = solution(jnp.where(inside, least, high))
    return step, slope @ step - 0.5 * step @ (curvature * step)
