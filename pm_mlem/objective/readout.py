"""Everything a fit reports about the model at a point, as one function of the unconstrained vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.ops.semirings import Semiring
from pm_mlem.graph.tables.model_tables import DerivedValue
from pm_mlem.objective.evaluators.whole import joined, latent_probes
from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.m_step.step import e_step
from pm_mlem.objective.objective import CHEAP, Objective, product
from pm_mlem.objective.pullbacks import jacobian_by_reverse

MANY = 50
"""Deterministics from which on those of cheap models are not compiled."""


@dataclass(frozen=True, eq=False)
class Readout:
    """Estimates, Deterministics and posterior probabilities of the latents at a point.

    Attributes
    ----------
    estimands : ``(u, data) -> list``: constrained parameters, then Deterministics (their posterior mean where
        they depend on a latent), in the order of ``names``
    """

    objective: Objective
    derived: tuple[DerivedValue, ...]
    latent_names: tuple[str, ...]
    _arrays: Callable[..., list]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.objective.space.names, *[d.name for d in self.derived])

    def posterior(self, theta, data) -> dict[str, jax.Array]:
        """Joint posterior probabilities of the states in every probe (latents and Deterministics); differentiable."""
        return self.objective.whole.probabilities(theta, data)

    def posterior_and_units(self, theta, data) -> tuple[dict[str, jax.Array], jax.Array]:
        """:meth:`posterior` and the log-likelihood by unit (not differentiable)."""
        return self.objective.evaluator.posterior(theta, data)

    def estimands(self, u, data) -> list:
        theta = self.objective.space.constrain(u)
        posterior = self.posterior(theta, data) if any(d.lifted.slots for d in self.derived) else {}
        return [*theta, *self.deterministics(theta, data, posterior)]

    def deterministics(self, theta, data, posterior: Mapping[str, jax.Array]) -> list:
        values = []
        for d, array in zip(self.derived, self._arrays(*theta, *data), strict=True):
            if d.lifted.slots:
                mean = jnp.sum(product(d.joint(posterior), array), axis=tuple(range(len(d.lifted.slots))))
            else:
                mean = array
            values.append(jnp.broadcast_to(mean, d.lifted.shape))
        return values

    def marginal(self, name: str, posterior: Mapping[str, jax.Array]) -> jax.Array:
        """Posterior probabilities of one latent, ``(states, *shape)``."""
        structure = self.objective.tables.structure
        i, item = structure.vector_of(name)
        vector = structure.vectors[i]
        start = int(np.flatnonzero(vector.elements == item.base)[0])
        joint = posterior[vector.name][:, start : start + item.n_elements]
        joint = joint.reshape(-1, *structure.leaves[item.rv].slots[0].address.shape)
        if not item.joined:
            return joint
        domain = structure.leaves[item.rv].data
        return jnp.stack([jnp.sum(joint * (domain == item.lower + k), axis=0) for k in range(item.states)])

    # --- compiled ------------------------------------------------------------------------------------------

    @cached_property
    def decode(self) -> Callable:
        """``(u, data) -> (states, log-density)``: the jointly most probable configuration of the latents.

        States by latent, in the order of ``latent_names``, and for every unit its joint log-density with the
        observations.
        """
        return self.objective.jit_once(lambda u, data: self.configuration("max", u, data))

    def configuration(self, semiring: Semiring, u, data, key=None) -> tuple[list, jax.Array]:
        """One configuration of the latents: its states by latent, and the sums over the latents by unit."""
        objective = self.objective
        theta, weights = objective.space.constrain(u), jnp.ones(objective.n_units)
        _, chosen, vectors = objective.evaluator.choose(semiring, theta, weights, data, probes=True, key=key)
        names = [p.name for p in latent_probes(objective.tables)]
        indicators = dict(zip(names, chosen, strict=True))
        sums = joined(vectors)
        if objective.tables.mixed is not None:  # what latents say about parameters is no part of the likelihood
            whole, probes = objective.whole, [jnp.zeros(p.shape) for p in latent_probes(objective.tables)]
            sums = sums - joined(whole.sums_by_element(*whole.densities(*theta, *data), *probes, *data))
        units = jnp.zeros(objective.n_units).at[objective.unit_of_sum].add(sums)
        if objective.tables.mixed is not None:
            units = units + objective.units(objective.densities(*theta, *data), data)
        return [self.states(name, self.marginal(name, indicators)) for name in self.latent_names], units

    def states(self, name: str, indicator: jax.Array) -> jax.Array:
        """The states of a latent from their indicator, states first."""
        return self.objective.tables.structure.vector_of(name)[1].lower + jnp.argmax(indicator, axis=0)

    @cached_property
    def recovered(self) -> Callable:
        """``(parameters, keys, data, pointwise) -> (probabilities, states, units)`` at draws of the parameters.

        ``parameters`` are constrained and ``keys`` random, draws along their first axis. Probabilities of the latents
        (states first) are means over the draws. The states are exact draws from the joint posterior of
        the latents given the parameters, one configuration for each draw; ``units`` are log-likelihoods, if
        ``pointwise``. One draw is worked on after the other.
        """

        def one(total, item, data, pointwise):
            theta, key = item
            objective = self.objective
            weights = jnp.ones(objective.n_units)
            posterior, units = self.posterior_and_units(theta, data)
            probabilities = [self.marginal(name, posterior) for name in self.latent_names]
            states = []
            if self.latent_names:
                _, chosen, _ = objective.evaluator.choose("sample", theta, weights, data, probes=True, key=key)
                indicators = dict(zip([p.name for p in latent_probes(objective.tables)], chosen, strict=True))
                states = [self.states(name, self.marginal(name, indicators)) for name in self.latent_names]
            total = [t + p for t, p in zip(total, probabilities, strict=True)]
            return total, (states, units if pointwise else None)

        def everything(parameters, keys, data, pointwise):
            step = partial(one, data=data, pointwise=pointwise)
            first = jax.tree.map(lambda a: a[0], (parameters, keys))
            shapes = jax.eval_shape(lambda item: self._probabilities(item[0], data), first)
            zeros = [jnp.zeros(s.shape, s.dtype) for s in shapes]
            total, (states, units) = jax.lax.scan(step, zeros, (parameters, keys))
            return [t / len(keys) for t in total], states, units

        return jax.jit(everything, static_argnums=3)

    def _probabilities(self, theta, data) -> list[jax.Array]:
        posterior = self.posterior(theta, data)
        return [self.marginal(name, posterior) for name in self.latent_names]

    @cached_property
    def evaluate(self) -> Callable:
        """``(u, data) -> (estimands, latents, unit log-likelihoods)``."""

        def likelihood(u, data):
            theta = self.objective.space.constrain(u)
            posterior, units = self.posterior_and_units(theta, data)
            return theta, posterior, [self.marginal(name, posterior) for name in self.latent_names], units

        def everything(u, data, likelihood=likelihood):
            theta, posterior, latents, units = likelihood(u, data)
            return [*theta, *self.deterministics(theta, data, posterior)], latents, units

        if self.many:
            return partial(everything, likelihood=self.objective.jit_once(likelihood))
        return self.objective.jit_once(everything)

    @property
    def many(self) -> bool:
        """Whether there are so many small Deterministics that they are evaluated one by one: the compiler takes some 10
        ms for each, and longer the more there are.
        """
        return self.objective.backend == "jax" and len(self.derived) >= MANY and self.objective.work < CHEAP

    @cached_property
    def log_likelihood(self) -> Callable:
        """``(u, weights, data) -> log-likelihood``, weighted over the units."""
        return self.objective.jit_once(self.objective.log_likelihood)

    @cached_property
    def entropy(self) -> Callable:
        """``(u, weights, data) -> entropy`` of the latents given the data, weighted over the units.

        The log-likelihood less the expected log-density of data and latents together.
        """

        def difference(u, weights, data):
            theta = self.objective.space.constrain(u)
            value, posterior = e_step(self.objective, theta, weights, data)
            return value - self.objective.expected(theta, posterior, data)

        return self.objective.jit_once(difference)

    @cached_property
    def jacobian(self) -> Callable:
        """Derivatives of all estimands with respect to ``u`` (last axis)."""
        if self.many:
            return self.jacobian_by_parts()
        if self.objective.backend == "jax" and not any(d.lifted.slots for d in self.derived):
            return self.objective.jit_once(jax.jacfwd(self.estimands))
        by_reverse = partial(jacobian_by_reverse, self.estimands)  # a posterior mean is a derivative itself
        return self.objective.jit_once(by_reverse) if self.objective.backend == "jax" else by_reverse

    def jacobian_by_parts(self) -> Callable:
        """The same by the chain rule: what Deterministics are made of is compiled, they themselves are not."""
        names = list(dict.fromkeys(d.probe for d in self.derived if d.lifted.slots))

        def parts(u, data):
            theta = self.objective.space.constrain(u)
            posterior = self.posterior(theta, data) if names else {}
            return [*theta, *[posterior[name] for name in names]]

        values, slopes = map(self.objective.jit_once, (parts, partial(jacobian_by_reverse, parts)))
        size = len(self.objective.space.names)

        def evaluate(u, data):
            def made_of(found):
                return self.deterministics(found[:size], data, dict(zip(names, found[size:], strict=True)))

            at, columns = values(u, data), slopes(u, data)
            derived = jax.vmap(lambda t: jax.jvp(made_of, (at,), (t,))[1], in_axes=-1, out_axes=-1)(columns)
            return [*columns[:size], *derived]

        return evaluate

    @cached_property
    def entry_derivatives(self) -> Callable:
        """``(name, u, position, data) -> (value, gradient, Hessian)`` of one entry of a parameter or of a Deterministic
        that does not depend on a latent.
        """

        def evaluate(name, u, position, data):
            return self.second_order(lambda v: jnp.ravel(self.plain(name, v, data))[position], u)

        return jax.jit(evaluate, static_argnums=0)

    @cached_property
    def log_odds_derivatives(self) -> Callable:
        """``(name, u, top, rest, data) -> (value, gradient, Hessian)`` of the logarithm of the sum of some entries of a
        parameter over the sum of others, both picked by arrays of 0 and 1.
        """

        def evaluate(name, u, top, rest, data):
            def log_odds(v):
                value = self.plain(name, v, data)
                return jnp.log(jnp.sum(top * value)) - jnp.log(jnp.sum(rest * value))

            return self.second_order(log_odds, u)

        return jax.jit(evaluate, static_argnums=0)

    def plain(self, name: str, u, data) -> jax.Array:
        """A parameter, or a Deterministic that does not depend on a latent."""
        theta = self.objective.space.constrain(u)
        if name in self.objective.space.names:
            return theta[self.objective.space.names.index(name)]
        position = [d.name for d in self.derived].index(name)
        return jnp.broadcast_to(self._arrays(*theta, *data)[position], self.derived[position].lifted.shape)

    @property
    def of_latents(self) -> frozenset[str]:
        """Deterministics that depend on a latent."""
        return frozenset(d.name for d in self.derived if d.lifted.slots)

    def second_order(self, function: Callable, u) -> tuple:
        """Value, gradient and Hessian."""

        def gradient(v):
            value, slope = jax.value_and_grad(function)(v)
            return slope, (value, slope)

        curvature, (value, slope) = self.objective.slopes(gradient)(u)
        return value, slope, curvature


def build_readout(objective: Objective) -> Readout:
    tables = objective.tables
    placeholders = [v for v, _ in tables.data]
    arrays = lower([*tables.free_inputs, *placeholders], [d.array for d in tables.derived], objective.backend)
    probed = {p.name for p in tables.probes}
    latents = tables.structure.latents
    names = tuple(latents[i].name for v in tables.structure.vectors if v.name in probed for i in v.latents)
    return Readout(objective, tables.derived, names, arrays)
