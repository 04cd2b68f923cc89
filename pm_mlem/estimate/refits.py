"""Refits of one model from an estimate: to other weights, or to other data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.names import Names
from pm_mlem.estimate.simulate import simulator
from pm_mlem.estimate.target import Target
from pm_mlem.objective.collapse import Guard
from pm_mlem.optimize import EM, LBFGS, Newton
from pm_mlem.optimize.curvature import whitening
from pm_mlem.optimize.loop import run

COMPILED = 200
"""Parameters up to which replicates are refitted by one compiled function."""
HESSIANS = 300
"""Parameters up to which the ordinary optimizer forms Hessians."""
EM_ITERATIONS = 100
FLAT = 1e-2
"""Log-likelihood that going as far again would cost; below this it is flat out there."""
ROUNDING = 1e-8
"""Components of a unit vector that count as zero."""
FLATTENED = 1e-2
"""Of its curvature at the fit what a runaway may have left."""
ALWAYS_FLAT = 1e-9
"""Curvature, relative to that of the coordinates, along a direction that was flat from the beginning."""
OUTLYING = 4.0
"""Standard errors from the fit beyond which an estimate is asked whether it is on its way to infinity."""


class Replicate(NamedTuple):
    """A refit's unconstrained point, its log-likelihood, and whether it is an acceptable maximum."""

    point: np.ndarray
    log_likelihood: float
    converged: bool


class Refitter:
    """Refits from an estimate: compiled where that works, by the ordinary optimizer elsewhere.

    Parameters
    ----------
    estimate : where refits start
    target : what is refitted, with other weights or data each time; that of the estimate, or one whose data can be
        replaced
    """

    def __init__(self, estimate: Estimate, target: Target):
        self.estimate, self.target = estimate, target
        self.own = target.engine is estimate.target.engine

    @cached_property
    def transform(self) -> np.ndarray:
        return whitening(self.estimate.information.matrix)

    def __call__(self, target: Target, start: np.ndarray | None = None) -> Replicate:
        """Refit the target with what is put into it, from the estimate or from another point."""
        start, found = self.estimate.point if start is None else start, None
        if target.objective.backend == "jax" and target.space.size <= COMPILED:
            found = Replicate(*target.refit(start, self.transform))
        if found is None or not found.converged:
            found = self.ordinary(target, start)
        none = found.converged and (self.collapsed(found.point, target) or self.away(found.point, target, start))
        return found._replace(converged=False) if none else found

    def collapsed(self, point: np.ndarray, target: Target) -> bool:
        """Whether a state of a latent has run into a singularity of the likelihood."""
        if not self.own or not target.structure.components:
            return False
        return bool(Guard(target.engine.inspector, target.weights).collapse(point))

    @cached_property
    def errors(self) -> np.ndarray:
        """Standard errors of the unconstrained estimates; 0 for those that cannot run away in a replicate."""
        names = Names(self.target.objective)
        return np.where(names.line, np.sqrt(np.maximum(np.diag(self.estimate.information.inverse), 0.0)), 0.0)

    def away(self, point: np.ndarray, target: Target, start: np.ndarray) -> bool:
        """Whether coefficients are on their way to infinity: the replicate's outcomes are separated, the fit's are not.

        Only points far from the fit are looked at, up to ``HESSIANS`` parameters.
        """
        moved, known = point - start, self.errors > 0
        if len(point) > HESSIANS or not np.any(np.abs(moved[known]) > OUTLYING * self.errors[known]):
            return False
        size = np.where(known, self.errors, 1.0)
        after = -target.derivatives(point)[2]
        after, before = (m * np.outer(size, size) for m in (after, self.estimate.information.matrix))
        return on_the_way(moved / size, after, before, known)

    def ordinary(self, target: Target, start: np.ndarray) -> Replicate:
        problem, point = target.problem(), start
        if not self.own or not target.structure.complete_data:
            problem = replace(problem, em=None)
        if problem.em is not None:
            point = run(EM(max_iterations=EM_ITERATIONS, tolerance=1e-3), problem, point).point
        smooth = target.objective.kinks.none
        algorithm = Newton() if smooth and target.space.size <= HESSIANS else LBFGS()
        optimum = run(algorithm, problem, point)
        return Replicate(optimum.point, optimum.value - target.additions(optimum.point), optimum.converged)


def on_the_way(moved: np.ndarray, matrix: np.ndarray, before: np.ndarray, candidates: np.ndarray) -> bool:
    """Whether coordinates have run far in directions in which the objective has become flat.

    Parameters
    ----------
    moved : (p,) how far each coordinate has run, in standard errors of the fit
    matrix, before : (p, p) minus the second derivatives where they are now, and where they came from: a direction along
        which the objective was as flat there is not identified, but not a runaway either
    candidates : (p,) which coordinates may run away
    """
    far = np.flatnonzero(candidates & (np.abs(moved) > OUTLYING))
    if not len(far) or not np.all(np.isfinite(matrix)):
        return False
    by, own = moved[far], matrix[np.ix_(far, far)]
    costs, vectors = np.linalg.eigh(0.5 * own * np.outer(by, by))
    flat = vectors[:, np.abs(costs) < FLAT]
    flat = by[:, None] * np.where(np.abs(flat) > ROUNDING, flat, 0.0)
    if np.all(np.isfinite(before)):
        flat = flattened(flat, own, before[np.ix_(far, far)])
    basis, size, _ = np.linalg.svd(flat, full_matrices=False)
    basis = basis[:, size > 0]
    basis = np.where(np.abs(basis) > ROUNDING, basis, 0.0)
    return bool(np.linalg.norm(by @ basis) > OUTLYING)


def flattened(directions: np.ndarray, after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The part of the span of the directions, (p, k), along which the objective was not flat before."""
    size = np.sqrt(np.abs(np.diag(before)))
    size = np.where(size > 0, size, 1.0)
    basis, _ = np.linalg.qr(size[:, None] * directions)
    scaled = [basis.T @ (m / np.outer(size, size)) @ basis for m in (before, after)]
    values, vectors = np.linalg.eigh(scaled[0])
    left = np.einsum("ij,ik,kj->j", vectors, scaled[1], vectors)
    changed = np.abs(values) > np.maximum(ALWAYS_FLAT, np.abs(left) / FLATTENED)
    return (basis @ vectors[:, changed]) / size[:, None]


def resampled(estimate: Estimate, draw: Callable[[np.random.Generator], np.ndarray], rngs) -> Iterator[Replicate]:
    """Refits to the same data with weights that are drawn."""
    refit = Refitter(estimate, estimate.target)
    for rng in rngs:
        yield refit(estimate.target.with_weights(draw(rng)))


def simulated(estimate: Estimate, rngs) -> Iterator[Replicate]:
    """Refits to data drawn from the fitted model.

    Raises
    ------
    ValueError
        Data cannot be drawn from the model, or not be replaced in its compiled functions.
    """
    draw = simulator(estimate)
    target = estimate.target.replaceable(estimate.point)
    refit = Refitter(estimate, target)
    for rng in rngs:
        yield refit(target.with_data(draw(rng)))
