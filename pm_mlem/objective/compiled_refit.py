"""Refits with other weights or data from a known optimum: one compiled function, called once for each replicate.

A quasi-Newton method (Broyden, Fletcher, Goldfarb & Shanno) in coordinates in which the curvature at the known optimum
is the identity. The curvature of a replicate is nearly the same, so even the first steps are nearly Newton's, whatever
the units of the parameters are, and no second derivatives are formed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pm_mlem.objective.objective import Objective

MAX_ITERATIONS = 100
TOLERANCE = 1e-10
"""Predicted gain (log-likelihood units) at which one last step is taken: 1e-5 standard errors are left before it."""
SMALLEST_STEP = 1e-10


class Refit(NamedTuple):
    """Where a refit ended: the point, the log-likelihood there, and whether it is a maximum."""

    point: jax.Array
    log_likelihood: jax.Array
    converged: jax.Array
    iterations: jax.Array


class State(NamedTuple):
    """The best point so far with its gradient, the inverse curvature, and the step that is tried next."""

    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    inverse: jax.Array
    step: jax.Array
    count: jax.Array

    @property
    def gain(self):
        """What is left to gain, by the quadratic model."""
        return 0.5 * self.gradient @ self.inverse @ self.gradient


def refitting(objective: Objective) -> Callable[..., Refit]:
    """``(u0, T, weights, data) -> Refit``, compiled: maximises the objective from u0 in the coordinates of T."""

    def run(start, transform, weights, data) -> Refit:
        p = len(start)
        longest = 3.0 * (1.0 + jnp.sqrt(p))
        gradient_of = jax.value_and_grad(lambda v: objective.value(start + transform @ v, weights, data))

        def going_on(state: State):
            moving = (state.gain > TOLERANCE) & (jnp.linalg.norm(state.step) > SMALLEST_STEP)
            return (state.count == 0) | (moving & (state.count <= MAX_ITERATIONS) & jnp.isfinite(state.value))

        def iterate(state: State) -> State:
            """Evaluate the point that is tried, accept it or not, choose the next."""
            step, first = state.step, state.count == 0
            value, gradient = gradient_of(state.point + step)
            finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
            least = state.value + 1e-4 * (state.gradient @ step) - 1e-13 * (1.0 + jnp.abs(state.value))
            accepted = first | (finite & (value >= least))
            inverse = jnp.where(first, state.inverse, updated(state.inverse, step, state.gradient - gradient))
            following = inverse @ gradient
            following *= jnp.minimum(1.0, longest / jnp.maximum(jnp.linalg.norm(following), 1e-300))
            new = State(state.point + step, jnp.where(finite, value, -jnp.inf), gradient, inverse, following, 0)
            kept = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, state._replace(step=0.25 * step))
            return kept._replace(count=state.count + 1)

        zero = jnp.zeros(p)
        state = State(zero, jnp.zeros(()), zero, jnp.eye(p), zero, jnp.zeros((), int))
        state = jax.lax.while_loop(going_on, iterate, state)
        converged = state.gain <= TOLERANCE
        point = start + transform @ jnp.where(converged, state.point + state.step, state.point)
        value = state.value + jnp.where(converged, state.gain, 0.0) - objective.additions(point, data)
        return Refit(point, value, converged & jnp.isfinite(value), state.count)

    return jax.jit(run)


def updated(inverse, step, change):
    """The inverse curvature after a step along which the gradient fell by ``change``; unchanged where it rose."""
    product = step @ change
    bends = product > 1e-10 * jnp.linalg.norm(step) * jnp.linalg.norm(change)
    scale = jnp.where(bends, 1.0 / jnp.where(bends, product, 1.0), 0.0)
    left = jnp.eye(len(step)) - scale * jnp.outer(step, change)
    return left @ inverse @ left.T + scale * jnp.outer(step, step)
