"""The objective of a fit: pure JAX functions of (parameters, data, unit weights)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.ops.semirings import Semiring
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.objective.evaluators.chunks import build_chunks
from pm_mlem.objective.evaluators.protocol import Evaluator, Posterior
from pm_mlem.objective.evaluators.whole import Whole, largest_array
from pm_mlem.objective.kinks import Kinks, find_kinks
from pm_mlem.objective.lowering.lower import Backend, NotLowered, exact_derivatives, lower
from pm_mlem.objective.space import ParameterSpace, build_space
from pm_mlem.objective.weights import product

Estimator = Literal["mle", "map"]


@dataclass(frozen=True, eq=False)
class Objective:
    """Everything that depends on the model, the estimator and the shapes of the data; compiled once.

    All functions take the flat unconstrained vector ``u`` and one weight for every independent unit. The
    log-likelihood is that of the observed data (latents summed out, all constants); the value adds the
    log-prior in the constrained space under "map", and the penalty where there is one. The data are an argument
    of every function; :func:`data_of` gives those that the model was read with.
    """

    tables: ModelTables
    space: ParameterSpace
    estimator: Estimator
    backend: Backend
    whole: Whole
    """All rows in one piece, for what looks into single arrays"""
    evaluator: Evaluator
    """Who goes through the rows: ``whole``, or chunks of them where the data are large"""
    guards: Callable[..., list]
    prior: Callable[..., list]
    exact: int = 2
    """How many derivatives are exact; those of higher order are differences, behind callbacks"""
    penalty: Callable | None = None
    """theta list -> what is added to the log-likelihood to keep scales away from 0"""

    def data_with(self, data: Sequence, observed: Mapping[str, np.ndarray]) -> tuple:
        """Data with other values of the observed variables, where these are inputs (``replaceable=True``)."""
        changed = list(data)
        for i, (name, (symbol, _)) in enumerate(self.tables.structure.inputs.items()):  # the first of the data
            changed[i] = np.asarray(observed[name]).astype(symbol.type.dtype).reshape(symbol.type.shape)
        return tuple(changed)

    # --- pure functions ------------------------------------------------------------------------------------

    @property
    def densities(self) -> Callable[..., list]:
        """(theta list, data) -> the terms' log-density arrays."""
        return self.whole.densities

    def units(self, densities: Sequence, data: Sequence) -> jax.Array:
        """Log-likelihood of every unit, given the log-density arrays."""
        return self.whole.units_of(densities, data)

    def allowed(self, theta: Sequence, data: Sequence) -> jax.Array:
        """Whether all parameter conditions of the distributions hold."""
        conditions = jnp.stack([jnp.asarray(True), *self.guards(*theta, *data)])
        return jax.lax.optimization_barrier(jnp.all(conditions))  # every derivative reads it: not to be repeated

    def log_likelihood(self, u, weights, data) -> jax.Array:
        theta = self.space.constrain(u)
        total = self.evaluator.log_likelihood(theta, weights, data)
        return jnp.where(self.allowed(theta, data), total, -jnp.inf)

    def expected(self, theta: Sequence, posterior: Sequence, data: Sequence) -> jax.Array:
        """Expected complete-data log-likelihood: the log-density arrays weighted by the posterior."""
        return self.evaluator.expected(theta, posterior, data)

    def log_prior(self, u, data) -> jax.Array:
        theta = self.space.constrain(u)
        return self.prior(*theta, *data)[0]

    def value(self, u, weights, data) -> jax.Array:
        """The objective: the log-likelihood, plus the log-prior under "map", plus the penalty."""
        return self.log_likelihood(u, weights, data) + self.additions(u, data)

    def additions(self, u, data) -> jax.Array:
        """What the objective adds to the log-likelihood."""
        prior = self.log_prior(u, data) if self.estimator == "map" else jnp.zeros(())
        return prior if self.penalty is None else prior + self.penalty(self.space.constrain(u))

    def slopes(self, gradient: Callable) -> Callable:
        """Derivatives of ``u -> (gradient, more)`` beside ``more``; few columns at once where the arrays are large."""
        if self.backend != "jax":
            return jax.jacrev(gradient, has_aux=True)

        def evaluate(u):
            if len(u) <= self.directions_at_once:
                return jax.jacfwd(gradient, has_aux=True)(u)
            return self.along(lambda v: gradient(v)[0], np.eye(len(u)))(u), gradient(u)[1]

        return evaluate

    def along(self, gradient: Callable, directions: np.ndarray) -> Callable:
        """Derivatives of a gradient along directions, one a row."""
        rows = jnp.asarray(directions)

        def evaluate(u):
            if self.backend != "jax":  # callbacks only support reverse mode
                return jax.lax.map(lambda d: jax.grad(lambda v: gradient(v) @ d)(u), rows)

            def derivative(d):
                return jax.jvp(gradient, (u,), (d,))[1]

            if len(rows) <= self.directions_at_once:
                return jax.vmap(derivative)(rows)
            return jax.lax.map(derivative, rows, batch_size=self.directions_at_once)

        return evaluate

    # --- one configuration of the latents ------------------------------------------------------------------

    def decoded(self, theta: Sequence, weights, data: Sequence) -> tuple[jax.Array, list]:
        """The jointly most probable configuration of the latents in place of their posterior.

        Parameters
        ----------
        theta : constrained parameters
        weights : one for each unit
        data : the model's data

        Returns
        -------
        value
            Weighted sum over the units of the joint log-density of observations and latents there.
        posterior : list of arrays
            For each log-density array how often its entries are read by that configuration, times the weights: what an
            E-step would give if the configuration were known. Of several that are equally probable the first, never a
            mean of them.
        """
        return self.at_configuration("max", theta, weights, data)

    def sampled(self, theta: Sequence, weights, data: Sequence, key: jax.Array) -> tuple[jax.Array, list]:
        """A draw of the latents from their joint posterior in place of the posterior.

        Parameters
        ----------
        theta, weights, data : as for :meth:`decoded`
        key : ``jax.random.key``

        Returns
        -------
        value
            The log-likelihood (all configurations summed), weighted.
        posterior : list of arrays
            As for :meth:`decoded`, at the configuration that was drawn.
        """
        return self.at_configuration("sample", theta, weights, data, key)

    def at_configuration(self, semiring: Semiring, theta: Sequence, weights, data: Sequence, key=None):
        """:meth:`decoded` or :meth:`sampled`."""
        weights = jnp.asarray(weights)[self.unit_of_sum]
        total, posterior, _ = self.evaluator.choose(semiring, theta, weights, data, probes=False, key=key)
        return jnp.where(self.allowed(theta, data), total, -jnp.inf), posterior

    @cached_property
    def unit_of_sum(self) -> np.ndarray:
        """For each sum over the latents that chooses its unit: they come in another order than the units."""
        result = np.full(sum(self.tables.by_element.sizes), -1)
        by_element, plain = self.tables.by_element.unit_of_row, self.tables.elimination.unit_of_row
        for sums, units in zip(by_element, plain, strict=False):  # the probes come last
            result[sums] = units
        return result

    # --- sizes ---------------------------------------------------------------------------------------------

    @property
    def n_units(self) -> int:
        return sum(self.tables.elimination.sizes)

    @cached_property
    def work(self) -> int:
        """Entries of the largest log-density array: a measure of the cost of one evaluation."""
        return largest_array(self.tables)

    @property
    def cheap_hessian(self) -> bool:
        """Whether a few Hessians cost next to nothing."""
        return self.work * self.space.size <= CHEAP_HESSIAN

    @cached_property
    def kinks(self) -> Kinks:
        """Where the objective is not smooth."""
        return find_kinks(self.tables, self.backend)

    @property
    def scattered(self) -> bool:
        """Whether the model is many small pieces: the compiler is then dear, an evaluation cheap."""
        return self.work < CHEAP and len(self.tables.densities) + len(self.space.names) >= MANY_PIECES

    @property
    def directions_at_once(self) -> int:
        """How many directional derivatives are formed together."""
        return max(LARGEST_ARRAY // max(self.evaluator.entries, 1), 1)

    @cached_property
    def no_posterior(self) -> Posterior | None:
        """What the EM map is given where it finds the posterior itself: arrays of the right shapes, so that it is
        compiled once for both kinds of start; None where these would be large.
        """
        return self.evaluator.no_posterior

    # --- compiled functions --------------------------------------------------------------------------------

    def jit_once(self, function: Callable) -> Callable:
        """Compile a function that is evaluated once a fit: quickly where the evaluation is cheap."""
        return jax.jit(function, compiler_options=QUICK if self.work < CHEAP else None)

    @cached_property
    def value_and_gradient(self) -> Callable:
        return jax.jit(jax.value_and_grad(self.value))

    @cached_property
    def derivatives(self) -> Callable:
        """Value, gradient and Hessian."""

        def evaluate(u, weights, data):
            def gradient(v):
                value, slope = jax.value_and_grad(self.value)(v, weights, data)
                return slope, (value, slope)

            curvature, (value, slope) = self.slopes(gradient)(u)
            return value, slope, curvature

        return jax.jit(evaluate, compiler_options=QUICK if self.scattered else None)

    @cached_property
    def product(self) -> Callable:
        """``(u, direction, weights, data) -> (p,)``: the Hessian times a direction."""

        def evaluate(u, direction, weights, data):
            slope = jax.grad(self.value)
            if self.backend != "jax":  # callbacks only support reverse mode
                return jax.grad(lambda v: slope(v, weights, data) @ direction)(u)
            return jax.jvp(lambda v: slope(v, weights, data), (u,), (direction,))[1]

        return self.jit_once(evaluate)

    @cached_property
    def scores(self) -> Callable:
        """``(u, data) -> (units, p)``: derivative of every unit's log-likelihood, unweighted, without the prior."""

        def evaluate(u, data):
            return self.evaluator.scores(self.space.constrain, u, data, self.directions_at_once)

        return jax.jit(evaluate)

    @cached_property
    def prior_curvature(self) -> Callable:
        """``(u, data) -> (p, p)``: second derivatives of what the objective adds to the log-likelihood."""

        def evaluate(u, data):
            slopes = self.slopes(lambda v: (jax.grad(self.additions)(v, data), None))
            return slopes(u)[0]

        return jax.jit(evaluate)


CHEAP_HESSIAN = 50_000
"""Entries of a log-density array times parameters: below this a few Hessians cost next to nothing."""
LARGEST_ARRAY = 2**24
"""Entries of the largest array (128 MiB) that second derivatives may create beyond one of the model's own."""

CHEAP = 50_000
"""Entries of the largest log-density array up to which an evaluation costs less than its compilation."""
MANY_PIECES = 50
"""Terms and variables from which on Hessians of cheap models are compiled quickly."""
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiler options for functions that run once: a third less time in the compiler, slower code."""


def data_of(tables: ModelTables) -> tuple[jax.Array, ...]:
    """The data that a model was read with, for the functions of its objective."""
    return tuple(jnp.asarray(v) for _, v in tables.data)


def build_objective(tables: ModelTables, estimator: Estimator, backend: Backend) -> Objective:
    """Lower a model's tables; falls back to callbacks where JAX lacks an Op."""
    space = build_space(tables.structure, tables, backend)
    placeholders = [v for v, _ in tables.data]
    inputs = [*tables.free_inputs, *placeholders]
    infinite = any(a.dtype.kind == "f" and np.isinf(a).any() for _, a in tables.data)
    densities = lower(
        inputs, [d.array for d in tables.densities], backend, protect=tables.free_inputs, infinite=infinite
    )
    arrays = [d.input for d in tables.densities]
    partition = lower([*arrays, *placeholders], tables.elimination.units, "jax")
    probed = lower([*arrays, *[p.input for p in tables.probes], *placeholders], tables.probed.units, "jax")
    guards = lower(inputs, [*tables.guards, *tables.prior_guards], backend)
    prior = lower(inputs, [tables.log_prior], backend, protect=tables.free_inputs, infinite=infinite)
    whole = Whole(tables, backend, densities, partition, probed)
    chunks = build_chunks(whole, infinite) if backend == "jax" and tables.mixed is None else None
    exact = exact_derivatives(densities, prior)
    return Objective(tables, space, estimator, backend, whole, chunks or whole, guards, prior, exact)


__all__ = ["Backend", "Estimator", "NotLowered", "Objective", "build_objective", "data_of", "product"]
