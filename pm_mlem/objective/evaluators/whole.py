"""All rows in one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.ops.semirings import Semiring, choosing
from pm_mlem.graph.tables.model_tables import ModelTables, Probe
from pm_mlem.objective.evaluators.protocol import Parts, Posterior, Summand, Sums, Tree
from pm_mlem.objective.lowering.lower import Backend, lower
from pm_mlem.objective.pullbacks import forward_by_reverse
from pm_mlem.objective.weights import product


@dataclass(frozen=True, eq=False)
class Whole:
    """Evaluates all rows in one piece; see :class:`Evaluator <pm_mlem.objective.evaluators.protocol.Evaluator>`."""

    tables: ModelTables
    backend: Backend
    densities: Callable[..., list]
    """(parameters, data) -> the terms' log-density arrays"""
    partition: Callable[..., list]
    """(density arrays, data) -> log-partition of every unit, one vector for each group of terms"""
    probed_partition: Callable[..., list]
    """(density arrays, probes, data) -> as ``partition``; its gradient by the probes is the posterior"""

    @property
    def entries(self) -> int:
        return largest_array(self.tables)

    @property
    def no_posterior(self) -> list[np.ndarray]:
        return [np.zeros(d.input.type.shape) for d in self.tables.densities]

    # --- the log-likelihood --------------------------------------------------------------------------------

    def units_of(self, densities: Sequence, data: Sequence) -> jax.Array:
        """Log-likelihood of every unit, given the log-density arrays."""
        return joined(self.partition(*densities, *data))

    def units(self, theta: Sequence, data: Sequence) -> jax.Array:
        return self.units_of(self.densities(*theta, *data), data)

    def log_likelihood(self, theta: Sequence, weights, data: Sequence) -> jax.Array:
        return jnp.sum(product(weights, self.units(theta, data)))

    def scores(self, constrain: Callable, u, data: Sequence, at_once: int) -> jax.Array:
        def units(v):
            return self.units(constrain(v), data)

        if self.backend != "jax":  # callbacks only support reverse mode
            rows = jnp.arange(sum(self.tables.elimination.sizes))
            return jax.lax.map(lambda i: jax.grad(lambda v: units(v)[i])(u), rows)
        return forward_by_reverse(units, u, at_once)

    # --- EM ------------------------------------------------------------------------------------------------

    def e_step(self, theta: Sequence, weights, data: Sequence, powers: Sequence | None = None):
        densities = self.densities(*theta, *data)
        if powers is not None:
            densities = [d * p for d, p in zip(densities, powers, strict=True)]
        return jax.value_and_grad(lambda d: jnp.sum(product(weights, self.units_of(d, data))))(densities)

    def possible(self, posterior: Posterior, theta: Sequence, data: Sequence) -> list[jax.Array]:
        return without_impossible(posterior, self.densities(*theta, *data))

    def expected(self, theta: Sequence, posterior: Posterior, data: Sequence) -> jax.Array:
        densities = self.densities(*theta, *data)
        return sum((jnp.sum(product(r, d)) for r, d in zip(posterior, densities, strict=True)), jnp.zeros(()))

    def sums(self, summands: Sequence[Summand]) -> Sums:
        inputs = [*self.tables.free_inputs, *[v for v, _ in self.tables.data]]
        runs = [lower(inputs, list(s.arrays), self.backend) if s.arrays else no_arrays for s in summands]

        def evaluate(posterior, theta, data):
            return [
                s.function(posterior[s.term], run(*theta, *data), *[i for i, _ in s.indices])
                for s, run in zip(summands, runs, strict=True)
            ]

        return evaluate

    def parts(self, terms: Sequence[int], function: Callable[[Sequence[int], Sequence], Tree]) -> Parts:
        def evaluate(posterior, theta, data):
            densities = self.densities(*theta, *data)
            return function(range(len(terms)), [product(posterior[i], densities[i]) for i in terms])

        return evaluate

    # --- posterior and configurations of the latents ----------------------------------------------------------

    def probabilities(self, theta: Sequence, data: Sequence) -> dict[str, jax.Array]:
        """The first of :meth:`posterior`, which can be differentiated here in reverse mode."""
        chosen = self.tables.probes
        if not chosen:
            return {}
        densities = self.densities(*theta, *data)
        zeros = [jnp.zeros(p.shape) for p in chosen]

        def total(tables):
            return sum(jnp.sum(v) for v in self.probed_partition(*densities, *tables, *data))

        return dict(zip([p.name for p in chosen], jax.grad(total)(zeros), strict=True))

    def posterior(self, theta: Sequence, data: Sequence) -> tuple[dict[str, jax.Array], jax.Array]:
        return self.probabilities(theta, data), self.units(theta, data)

    def choose(self, semiring: Semiring, theta: Sequence, weights, data: Sequence, *, probes: bool, key=None):
        choice = self.most_probable if semiring == "max" else self.drawn
        densities, keys = self.densities(*theta, *data), key_data(key)
        no_probes = [jnp.zeros(p.shape) for p in latent_probes(self.tables)]

        def value(arrays):
            chosen, tables = (densities, arrays) if probes else (arrays, no_probes)
            vectors = choice(*chosen, *tables, *data, *keys)
            return jnp.sum(product(weights, joined(vectors))), vectors

        (total, vectors), slopes = jax.value_and_grad(value, has_aux=True)(no_probes if probes else densities)
        return total, slopes, vectors

    @cached_property
    def sums_by_element(self) -> Callable[..., list]:
        """(density arrays, latents' probes, data) -> the sums over the latents of which the others choose a summand."""
        arrays = [*[d.input for d in self.tables.densities], *[p.input for p in latent_probes(self.tables)]]
        with jax.ensure_compile_time_eval():
            return lower([*arrays, *[v for v, _ in self.tables.data]], self.tables.by_element.units, "jax")

    @cached_property
    def most_probable(self) -> Callable[..., list]:
        return self.choices("max")

    @cached_property
    def drawn(self) -> Callable[..., list]:
        return self.choices("sample")

    def choices(self, semiring: Semiring) -> Callable[..., list]:
        """(density arrays, latents' probes, data[, data of a key]) -> the sums over the latents that choose.

        Their gradient by the density arrays and by the probes is the indicator of one configuration of the latents
        (see :mod:`pm_mlem.graph.ops.semirings`).
        """
        tables = self.tables
        arrays = [*[d.input for d in tables.densities], *[p.input for p in latent_probes(tables)]]
        inputs, outputs = choosing([*arrays, *[v for v, _ in tables.data]], tables.by_element.units, semiring)
        with jax.ensure_compile_time_eval():  # constants stay constants where this is first needed within a trace
            return lower(inputs, outputs, "jax")


def joined(vectors: Sequence):
    """The entries of all vectors."""
    return jnp.concatenate([jnp.zeros(0), *[jnp.ravel(v) for v in vectors]])


def without_impossible(posterior: Sequence, densities: Sequence) -> list:
    """Posterior weights without those of entries whose density is zero."""
    return [jnp.where(jnp.isneginf(d), 0.0, r) for r, d in zip(posterior, densities, strict=True)]


def no_arrays(*inputs) -> list:
    """The arrays of a summand that reads the posterior alone."""
    return []


def key_data(key: jax.Array | None) -> list[jax.Array]:
    """The input for a random key, if there is one."""
    return [] if key is None else [jax.random.key_data(key)]


def largest_array(tables: ModelTables) -> int:
    """Entries of the largest log-density array."""
    return max((int(np.prod(d.input.type.shape, dtype=np.int64)) for d in tables.densities), default=1)


def latent_probes(tables: ModelTables) -> list[Probe]:
    """The probes of the latents, without those of Deterministics."""
    vectors = {v.name for v in tables.structure.vectors}
    return [p for p in tables.probes if p.name in vectors]
