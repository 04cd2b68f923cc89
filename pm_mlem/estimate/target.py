"""What is maximised: the functions of one model under one estimator, with data and weights put in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm

from pm_mlem.estimate.names import Names
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.graph.roles.dims import plain
from pm_mlem.graph.roles.rebuild import LOCK
from pm_mlem.graph.roles.snapshot import Snapshot, copy_with, snapshot
from pm_mlem.graph.roles.structure import ModelStructure
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.inference.covariance import variability
from pm_mlem.objective.engine import Engine, engine_for
from pm_mlem.objective.objective import Backend, Estimator, Objective
from pm_mlem.objective.readout import Readout
from pm_mlem.objective.space import ParameterSpace
from pm_mlem.objective.weights import unit_weights
from pm_mlem.optimize import EMMaps, Problem
from pm_mlem.precision import in_double

KEPT = 2
"""Points whose curvature is remembered: the optimum's is asked for again."""


@in_double
@dataclass(frozen=True, eq=False)
class Target:
    """The functions of one model under one estimator, with data and weights put in.

    All functions take unconstrained vectors ``(p,)`` and return NumPy arrays.

    Attributes
    ----------
    model : the user's
    engine : its compiled functions
    weights : (units,), one for every unit of the log-likelihood
    data : the values that the functions are evaluated for
    content : what the model held when it was read
    """

    model: pm.Model
    engine: Engine
    weights: np.ndarray
    data: tuple
    content: Snapshot
    _curvatures: dict[bytes, tuple[float, np.ndarray, np.ndarray]] = field(default_factory=dict, init=False)

    # --- parts ---------------------------------------------------------------------------------------------

    @property
    def objective(self) -> Objective:
        return self.engine.objective

    @property
    def estimator(self) -> Estimator:
        return self.engine.estimator

    @property
    def space(self) -> ParameterSpace:
        return self.objective.space

    @property
    def tables(self) -> ModelTables:
        return self.objective.tables

    @property
    def structure(self) -> ModelStructure:
        return self.tables.structure

    @property
    def readout(self) -> Readout:
        return self.engine.readout

    # --- values and derivatives ----------------------------------------------------------------------------

    def value_and_gradient(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient, ``(p,)``."""
        self.engine.verify("value_and_gradient")
        value, gradient = self.objective.value_and_gradient(u, self.weights, self.data)
        return float(value), np.asarray(gradient)

    def value(self, u: np.ndarray) -> float:
        """The objective, by what is compiled already."""
        known = self.engine.verified
        if "value_and_gradient" not in known and "derivatives" in known and self.objective.cheap_hessian:
            return float(self.objective.derivatives(u, self.weights, self.data)[0])
        return self.value_and_gradient(u)[0]

    def derivatives(self, u: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The objective, its gradient and its Hessian, ``(p, p)``."""
        key, kept = np.asarray(u).tobytes(), self._curvatures
        found = kept.get(key)
        if found is None:
            self.engine.verify("derivatives")
            found = numbers(self.objective.derivatives(u, self.weights, self.data))
            for old in list(kept)[: len(kept) + 1 - KEPT]:
                kept.pop(old, None)
            kept[key] = found
        return found

    def product(self, u: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """The Hessian of the objective times a direction, ``(p,)``; accurate where next to nothing bends along it."""
        self.engine.verify("derivatives")
        return np.asarray(self.objective.product(u, direction, self.weights, self.data))

    def curvature(self, u: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The objective, its gradient, and what stands for its Hessian where errors are concerned.

        Where the log-likelihood has kinks its Hessian says nothing, and minus the outer product of the units' scores
        takes its place.
        """
        value, gradient, hessian = self.derivatives(u)
        if self.objective.kinks.terms:
            hessian = self.prior_curvature(u) - variability(self.scores(u), self.weights)
        return value, gradient, hessian

    def scores(self, u: np.ndarray) -> np.ndarray:
        """Derivatives of the units' log-likelihoods, unweighted and without the prior, ``(units, p)``."""
        return np.asarray(self.objective.scores(u, self.data))

    def score_slopes(self, u: np.ndarray) -> np.ndarray:
        """Derivatives of the scores, ``(units, p, p)``."""
        return np.asarray(jax.jit(jax.jacfwd(self.objective.scores))(u, self.data))

    def prior_curvature(self, u: np.ndarray) -> np.ndarray:
        """Second derivatives of what the objective adds to the log-likelihood, ``(p, p)``."""
        return np.asarray(self.objective.prior_curvature(u, self.data))

    def additions(self, u: np.ndarray) -> float:
        """What the objective adds to the log-likelihood."""
        return float(self.objective.additions(u, self.data))

    @cached_property
    def _log_prior(self) -> Callable:
        return self.objective.jit_once(self.objective.log_prior)

    def log_prior(self, u: np.ndarray) -> float:
        return float(self._log_prior(u, self.data))

    def log_likelihood(self, u: np.ndarray) -> float:
        return float(self.readout.log_likelihood(u, self.weights, self.data))

    def densities(self, u: np.ndarray) -> dict[str, list[np.ndarray]]:
        """The log-density arrays by variable."""
        found: dict[str, list[np.ndarray]] = {}
        arrays = self.objective.densities(*self.space.constrain(u), *self.data)
        for density, array in zip(self.tables.densities, arrays, strict=True):
            found.setdefault(density.term.name, []).append(np.asarray(array))
        return found

    # --- what the model reports ----------------------------------------------------------------------------

    def report(self, u: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
        """Parameters and Deterministics, posterior probabilities of the latents, log-likelihoods of the units."""
        estimands, latents, units = self.readout.evaluate(u, self.data)
        return (
            dict(zip(self.readout.names, map(np.asarray, estimands), strict=True)),
            dict(zip(self.readout.latent_names, map(np.asarray, latents), strict=True)),
            np.asarray(units),
        )

    def jacobians(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """Derivatives of parameters and Deterministics, ``(*shape, p)``."""
        return dict(zip(self.readout.names, map(np.asarray, self.readout.jacobian(u, self.data)), strict=True))

    def entropy(self, u: np.ndarray) -> float:
        return float(self.readout.entropy(u, self.weights, self.data))

    def decode(self, u: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """The jointly most probable states of the latents, and by unit their log-density with the observations."""
        states, joint = self.readout.decode(u, self.data)
        return list(map(np.asarray, states)), np.asarray(joint)

    def posterior(
        self, parameters: Mapping[str, np.ndarray], names: tuple[str, ...]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Joint posteriors of some vectors of latents, and the units, at constrained parameters."""
        theta = [np.asarray(parameters[name]) for name in self.space.names]
        posterior, units = self._posterior(theta, self.data, names)
        return list(map(np.asarray, posterior)), np.asarray(units)

    @cached_property
    def _posterior(self) -> Callable:
        def evaluate(theta, data, names):
            posterior, units = self.readout.posterior_and_units(theta, data)
            return [posterior[name] for name in names], units

        return jax.jit(evaluate, static_argnums=2)

    def entry(self, name: str, position: int) -> Callable:
        """``u -> (value, gradient, Hessian)`` of an entry of a parameter or a Deterministic without latents."""
        return lambda u: numbers(self.readout.entry_derivatives(name, u, position, self.data))

    def log_odds(self, name: str, top: np.ndarray, rest: np.ndarray) -> Callable:
        """``u -> (value, gradient, Hessian)`` of the log-odds of some entries of a parameter against others."""
        return lambda u: numbers(self.readout.log_odds_derivatives(name, u, top, rest, self.data))

    # --- at many points ------------------------------------------------------------------------------------

    def constrained(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """Parameters at points ``(n, p)``, by name, ``(n, *shape)``."""
        if self.objective.backend == "jax":
            arrays = jax.jit(jax.vmap(self.space.constrain))(points)
        else:
            arrays = [np.stack(a) for a in zip(*[self.space.constrain(u) for u in points], strict=True)]
        return dict(zip(self.space.names, map(np.asarray, arrays), strict=True))

    def estimands(self, points: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """Some parameters and Deterministics at points ``(n, p)``, by name, ``(n, *shape)``."""
        chosen = [self.readout.names.index(name) for name in names]
        if not chosen:
            return {}
        evaluate = jax.jit(lambda u, data: [self.readout.estimands(u, data)[i] for i in chosen])
        rows = [evaluate(u, self.data) for u in points]
        return {name: np.stack([row[k] for row in rows]) for k, name in enumerate(names)}

    def units_at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted log-likelihood of every unit, ``(n, units)``, and the objective, ``(n,)``, at points ``(n, p)``.

        Both are minus infinity where a parameter condition fails.
        """
        objective = self.objective

        def at(u, data):
            theta = objective.space.constrain(u)
            units = objective.evaluator.units(theta, data)
            return jnp.where(objective.allowed(theta, data), units, -jnp.inf), objective.additions(u, data)

        units, more = jax.jit(lambda points, data: jax.lax.map(lambda u: at(u, data), points))(points, self.data)
        weighted = self.weights * np.where(self.weights == 0, 0.0, np.asarray(units))
        return weighted, weighted.sum(axis=1) + np.asarray(more)

    def recovered(self, parameters: Mapping[str, np.ndarray], seed: int, pointwise: bool) -> tuple:
        """Mean probabilities of the latents, their states and the units' log-likelihoods at draws of the parameters."""
        theta = [jnp.asarray(parameters[name]) for name in self.space.names]
        keys = jax.random.split(jax.random.key(seed), len(next(iter(parameters.values()))))
        readout = self.readout
        if self.estimator == "mle" and self.structure.chosen_priors:  # latents that priors read are informed by them
            readout = self.sibling("map").readout
        return readout.recovered(theta, keys, self.data, pointwise)

    # --- maximising ----------------------------------------------------------------------------------------

    def problem(self, random_seed: int | None = None) -> Problem:
        """What optimizers are given: every compiled function is checked before its first use."""
        seed = int(np.random.default_rng(random_seed).integers(2**31))
        engine, weights, data = self.engine, self.weights, self.data

        def hard(u):
            new, value = engine.hard_map(u, weights, data)
            return np.asarray(new), float(value)

        def tempered(u, power):
            return np.asarray(engine.tempered_map(u, weights, data, power))

        def stochastic(u, iteration):
            return np.asarray(engine.stochastic_map(u, weights, data, seed + iteration))

        def project(u):
            return np.asarray(engine.project(u))

        maps = EMMaps(self.em_step, hard, stochastic, tempered)
        maps = replace(maps, project=project) if engine.plan else maps
        names = Names(self.objective)
        reach = float(np.sqrt(max(np.sum(weights), 1.0))) if self.structure.local_optima else np.inf
        return Problem(
            self.value_and_gradient,
            self.derivatives,
            maps,
            self.product,
            ~names.line,
            names.logarithms,
            reach,
            self.curvature,
        )

    def refit(self, start: np.ndarray, transform: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Where one compiled refit from a point ends, the log-likelihood there, and whether it converged.

        ``transform``, ``(p, p)``: the coordinates in which it searches, see :func:`~pm_mlem.objective.compiled_refit`.
        """
        point, value, converged, _ = self.engine.refit(start, transform, self.weights, self.data)
        return np.asarray(point), float(value), bool(converged)

    def em_step(self, u: np.ndarray) -> tuple[np.ndarray, float]:
        """The next point of EM, and the objective at this one."""
        self.engine.verify("em_map")
        new, value = self.engine.em_map(u, self.weights, self.data, self.objective.no_posterior, False)
        return np.asarray(new), float(value)

    def expected(self, u: np.ndarray, to: np.ndarray) -> float:
        """Expected complete-data objective at ``to``, the expectation taken at ``u``."""
        return float(self.engine.expected(u, to, self.weights, self.data))

    # --- others of its kind --------------------------------------------------------------------------------

    @property
    def source(self) -> pm.Model:
        """The model of ordinary tensors with the data that were read, whatever the user's model holds by now."""
        return plain(self.model) if snapshot(self.model) == self.content else copy_with(self.model, self.content)

    def with_weights(self, weights: np.ndarray) -> Target:
        return replace(self, weights=weights)

    def with_data(self, observed: Mapping[str, np.ndarray]) -> Target:
        """Other values of the observed variables, where these are inputs (:meth:`replaceable`)."""
        return replace(self, data=self.objective.data_with(self.data, observed))

    def sibling(self, estimator: Estimator | None = None, **choices: Any) -> Target:
        """The same model, data and weights, read with other choices or for another estimator."""
        return self.at(self.content, estimator, **choices)

    def with_bounds(self, bounds: Mapping[str, int]) -> Target:
        """The same target with other bounds for latent counts, restraint included."""
        engine = self.engine
        choices = replace(engine.choices, bounds=bounds)
        engine = engine_for(self.source, self.estimator, choices, backend=engine.backend, restraint=engine.restraint)
        return replace(self, engine=engine, data=engine.data)

    def at(self, content: Snapshot, estimator: Estimator | None = None, **choices: Any) -> Target:
        """The same model read with other choices, holding something else (then all weights are 1)."""
        same = content == self.content
        model = self.source if same else copy_with(self.model, content)
        asked = replace(self.engine.choices, **choices)
        engine = engine_for(model, estimator or self.estimator, asked, backend=self.engine.backend)
        weights = self.weights if same else unit_weights(engine.objective.tables, None)
        return Target(self.model, engine, weights, engine.data, content)

    def replaceable(self, at: np.ndarray) -> Target:
        """The same target with the observed data as inputs.

        Parameters
        ----------
        at : (p,), where the two are compared

        Raises
        ------
        ValueError
            They cannot be: the values of the data decide which entries of an array are read, say.
        """
        try:
            other = self.sibling(replaceable=True)
        except Exception as error:  # whatever keeps a model from being read in this way
            raise ValueError(
                f"The observed data cannot be replaced in the compiled model ({error}); use kind='case'."
            ) from error
        if self.objective.penalty is not None:
            objective = replace(other.objective, penalty=self.objective.penalty)
            other = replace(other, engine=replace(other.engine, objective=objective))
        value, own = np.nan, self.value(at)
        if other.objective.n_units == self.objective.n_units and other.space.size == self.space.size:
            value = float(other.objective.value_and_gradient(at, other.weights, other.data)[0])
        if not abs(value - own) <= 1e-7 * (1.0 + abs(own)):
            raise ValueError(
                f"The log-density with observed data that can be replaced is {value:.8g} at the estimates and should "
                f"be {own:.8g}: the values of the data are part of the model's structure. Use kind='case'."
            )
        return other


def target_of(
    model: pm.Model,
    estimator: Estimator,
    choices: Choices,
    weights: Any = None,
    *,
    backend: Backend = "jax",
    restraint: Any = None,
) -> Target:
    """A model read under an estimator, with its own data and the user's observation weights."""
    with LOCK:  # no other thread may build anything of the same graphs meanwhile
        content = snapshot(model)
        engine = engine_for(model, estimator, choices, backend=backend, restraint=restraint)
    return Target(model, engine, unit_weights(engine.objective.tables, weights), engine.data, content)


def numbers(derivatives: tuple) -> tuple[float, np.ndarray, np.ndarray]:
    value, gradient, hessian = derivatives
    return float(value), np.asarray(gradient), np.asarray(hessian)
