"""Refits of one model from a fit's optimum: to other weights, or to other data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pm_mlem.estimate.diagnosis import Names, runaway_directions
from pm_mlem.estimate.simulate import simulator
from pm_mlem.objective.collapse import Guard
from pm_mlem.objective.compiled_refit import refitting, whitening
from pm_mlem.objective.engine import Engine, engine_for
from pm_mlem.optimize import EM, LBFGS, EMMaps, Newton, Problem
from pm_mlem.optimize.loop import run

if TYPE_CHECKING:
    from pm_mlem.results.fit import Fit

COMPILED = 200
"""Parameters up to which replicates are refitted by one compiled function."""
HESSIANS = 300
"""Parameters up to which the ordinary optimizer forms Hessians."""
EM_ITERATIONS = 100
OUTLYING = 4.0
"""Standard errors from the fit beyond which an estimate is asked whether it is on its way to infinity."""

Data = Sequence[Any]


class Replicate(NamedTuple):
    """A refit's unconstrained point, its log-likelihood, and whether it is an acceptable maximum."""

    point: np.ndarray
    log_likelihood: float
    converged: bool


class Refitter:
    """Refits an objective from the fit's optimum: compiled where that works, by the ordinary optimizer elsewhere.

    Parameters
    ----------
    fit : where refits start
    engine : what is maximised; that of the fit, or one whose data can be replaced
    """

    def __init__(self, fit: Fit, engine: Engine):
        self.fit, self.engine, self.objective, self.start = fit, engine, engine.objective, fit._optimum.point
        self.own = engine is fit._engine

    @cached_property
    def transform(self) -> np.ndarray:
        return whitening(self.fit._information.matrix)

    @cached_property
    def compiled(self) -> Callable:
        return refitting(self.objective)

    def __call__(self, weights: np.ndarray, data: Data) -> Replicate:
        found = None
        if self.objective.backend == "jax" and self.objective.space.size <= COMPILED:
            point, value, converged, _ = self.compiled(self.start, self.transform, weights, data)
            found = Replicate(np.asarray(point), float(value), bool(converged))
        if found is None or not found.converged:
            found = self.ordinary(weights, data)
        none = found.converged and (self.collapsed(found.point, weights) or self.away(found.point, weights, data))
        return found._replace(converged=False) if none else found

    def collapsed(self, point: np.ndarray, weights: np.ndarray) -> bool:
        """Whether a state of a latent has run into a singularity of the likelihood."""
        if not self.own or not self.objective.tables.structure.latents:
            return False
        return bool(Guard(self.fit._engine.inspector, weights).collapse(point))

    @cached_property
    def errors(self) -> np.ndarray:
        """Standard errors of the fit's unconstrained parameters; 0 for those that cannot run away in a replicate."""
        names = Names(self.objective)
        unbounded = np.array([not names.bounded(j) for j in range(self.objective.space.size)])
        return np.where(unbounded, np.sqrt(np.maximum(np.diag(self.fit._information.inverse), 0.0)), 0.0)

    def away(self, point: np.ndarray, weights: np.ndarray, data: Data) -> bool:
        """Whether coefficients are on their way to infinity: the replicate's outcomes are separated, the fit's are not.

        Only points far from the fit are looked at, up to ``HESSIANS`` parameters.
        """
        moved, known = point - self.start, self.errors > 0
        if len(point) > HESSIANS or not np.any(np.abs(moved[known]) > OUTLYING * self.errors[known]):
            return False
        size = np.where(known, self.errors, 1.0)
        after = -np.asarray(self.objective.derivatives(point, weights, data)[2])
        after, before = (m * np.outer(size, size) for m in (after, self.fit._information.matrix))
        return runaway_directions(moved / size, after, before, known, OUTLYING).shape[1] > 0

    def ordinary(self, weights: np.ndarray, data: Data) -> Replicate:
        problem, point = self.problem(weights, data), self.start
        if problem.em is not None:
            point = run(EM(max_iterations=EM_ITERATIONS, tolerance=1e-3), problem, point).point
        smooth = self.objective.kinks.none
        algorithm = Newton() if smooth and self.objective.space.size <= HESSIANS else LBFGS()
        optimum = run(algorithm, problem, point)
        value = optimum.value - float(self.objective.additions(optimum.point, data))
        return Replicate(optimum.point, value, optimum.converged)

    def problem(self, weights: np.ndarray, data: Data) -> Problem:
        objective = self.objective

        def value_and_gradient(u):
            value, gradient = objective.value_and_gradient(u, weights, data)
            return float(value), np.asarray(gradient)

        def derivatives(u):
            value, gradient, hessian = objective.derivatives(u, weights, data)
            return float(value), np.asarray(gradient), np.asarray(hessian)

        def em_step(u):
            new, value = self.fit._engine.em_map(u, weights, data, objective.no_posterior, False)
            return np.asarray(new), float(value)

        has_em = self.own and objective.tables.structure.latents
        return Problem(value_and_gradient, derivatives, EMMaps(em_step) if has_em else None)


def resampled(fit: Fit, draw: Callable[[np.random.Generator], np.ndarray], rngs) -> Iterator[Replicate]:
    """Refits to the fit's own data with weights that are drawn."""
    refit = Refitter(fit, fit._engine)
    for rng in rngs:
        yield refit(draw(rng), fit._engine.data)


def simulated(fit: Fit, rngs) -> Iterator[Replicate]:
    """Refits to data drawn from the fitted model.

    Raises
    ------
    ValueError
        Data cannot be drawn from the model, or not be replaced in its compiled functions.
    """
    draw = simulator(fit)
    engine = replaceable(fit)
    refit = Refitter(fit, engine)
    for rng in rngs:
        yield refit(fit._weights, engine.objective.data_with(engine.data, draw(rng)))


def replaceable(fit: Fit) -> Engine:
    """The fit's engine with the observed data as inputs.

    Raises
    ------
    ValueError
        They cannot be: the values of the data decide which entries of an array are read, say. Or the model's data are
        no longer those of the fit.
    """
    try:
        engine = engine_for(
            fit.model, fit.estimator, replace(fit._engine.choices, replaceable=True), backend=fit._engine.backend
        )
    except Exception as error:
        raise ValueError(
            f"The observed data cannot be replaced in the compiled model ({error}); use kind='case'."
        ) from error
    objective = replace(engine.objective, penalty=fit._engine.objective.penalty)
    value = np.nan
    if objective.n_units == fit._engine.objective.n_units and objective.space.size == fit.n_params:
        value = float(objective.value_and_gradient(fit._optimum.point, fit._weights, engine.data)[0])
    if not abs(value - fit._optimum.value) <= 1e-7 * (1.0 + abs(fit._optimum.value)):
        raise ValueError(
            f"The model's log-density at the estimates is {value:.8g} now and was {fit._optimum.value:.8g} in the fit: "
            "its data were replaced since. Fit it again first."
        )
    return replace(engine, objective=objective)
