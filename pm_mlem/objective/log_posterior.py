"""The log-density of the posterior in the unconstrained space."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.roles.transforms import log_jacobian
from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.objective import Objective


class LogPosterior:
    """Log-likelihood (latents summed out), log-prior and log-Jacobian of the unconstrained parameters, not normalized.

    It is what PyMC's ``Model.logp`` gives for the model without its latents.

    Parameters
    ----------
    objective : of a model with its priors (estimator "map")
    """

    def __init__(self, objective: Objective):
        self.objective = objective
        tables, space = objective.tables, objective.space
        inputs, total = log_jacobian(tables.structure, space.unconstrained_shapes, tables.context)
        constants = [v for v, _ in tables.data]
        self.jacobian = lower([*inputs, *constants], [total], objective.backend)

    def __call__(self, u, data) -> jax.Array:
        objective = self.objective
        weights = jnp.ones(objective.n_units)
        value = objective.log_likelihood(u, weights, data) + objective.log_prior(u, data)
        return value + self.jacobian(*objective.space.split(u), *data)[0]

    @cached_property
    def value_and_gradient(self) -> Callable:
        """``(u, data) -> (value, gradient)``."""
        return jax.jit(jax.value_and_grad(self))

    @cached_property
    def derivatives(self) -> Callable:
        """``(u, data) -> (value, gradient, Hessian)``."""

        def evaluate(u, data):
            def gradient(v):
                value, slope = jax.value_and_grad(self)(v, data)
                return slope, (value, slope)

            curvature, (value, slope) = self.objective.slopes(gradient)(u)
            return value, slope, curvature

        return jax.jit(evaluate)

    @cached_property
    def at_draws(self) -> Callable:
        """``(draws (n, p), data) -> (n,)``, one after the other."""
        return jax.jit(lambda draws, data: jax.lax.map(lambda u: self(u, data), draws))

    def on(self, points: np.ndarray, data) -> np.ndarray:
        """Log-densities at points (n, p)."""
        return np.asarray(self.at_draws(jnp.asarray(points), data))
