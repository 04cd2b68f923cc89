"""States of latents have no order of their own: draws of the parameters are given the fit's.

The states at a draw are matched with the states of the fit by their responsibilities for the fit's own data
(Papastamoulis 2016 compares such methods). Which axes of which parameters go with the states of a latent is found by
trying: the likelihood of every unit must stay the same, and the latent's posterior must be permuted, when they are
permuted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import jax
import numpy as np

from pm_mlem.graph.units import units_of_elements
from pm_mlem.objective.objective import Objective

if TYPE_CHECKING:
    from pm_mlem.results.fit import Fit

Axes = tuple[tuple[str, int], ...]
"""Axes of parameters: (name, axis)."""
Draws = Mapping[str, np.ndarray]
MOST_STATES = 30
"""Latents with more states than this are not components."""
MOST_AXES = 10
"""Axes among which the right ones are looked for."""


@dataclass(frozen=True, eq=False)
class Symmetry:
    """Latents whose states can be exchanged, all of them together.

    Attributes
    ----------
    latents : their names
    vectors : positions of the vectors of latents they make up
    states : the number of states
    axes : the axes of parameters that are permuted with the states
    """

    latents: tuple[str, ...]
    vectors: tuple[int, ...]
    states: int
    axes: Axes


@dataclass(frozen=True, eq=False)
class Alignment:
    """Permutations that bring draws into the order of a fit's states.

    Attributes
    ----------
    symmetries : what may be permuted; empty where no states can be exchanged
    permutations : for each symmetry ``(draws, states)``: state k of the fit is state ``permutations[d, k]`` of draw d
    margins : for each symmetry ``(draws,)``: how much better that is than the second best assignment, as a share of
        the responsibilities in the states in which the two differ (0: equally good; 1: not to be confused)
    """

    symmetries: tuple[Symmetry, ...]
    permutations: tuple[np.ndarray, ...]
    margins: tuple[np.ndarray, ...]

    def apply(self, draws: Draws) -> dict[str, np.ndarray]:
        """The draws with the states in the order of the fit."""
        result = dict(draws)
        for symmetry, permutation in zip(self.symmetries, self.permutations, strict=True):
            for name, axis in symmetry.axes:
                array = result[name]
                index = permutation.reshape([-1 if d == 0 else symmetry.states if d == axis + 1 else 1
                                             for d in range(array.ndim)])  # fmt: skip
                result[name] = np.take_along_axis(array, index, axis=axis + 1)
        return result

    def renamed(self, n: int) -> np.ndarray:
        """Which of n draws have states in another order than the fit."""
        changed = np.zeros(n, dtype=bool)
        for permutation in self.permutations:
            changed |= np.any(permutation != np.arange(permutation.shape[1]), axis=1)
        return changed


def align(fit: Fit, draws: Draws) -> Alignment:
    """Match the states of latents at draws of the parameters with those of a fit.

    Parameters
    ----------
    fit : the reference
    draws : ``{name: array (draws, *shape)}``, constrained values of all free parameters

    Returns
    -------
    Alignment

    References
    ----------
    .. [1] Papastamoulis, P. *label.switching: an R package for dealing with the label switching problem in MCMC
       outputs*. J. Stat. Softw. 69 (2016). https://doi.org/10.18637/jss.v069.c01
    """
    matcher = Matcher(fit)
    found = tuple(matcher.symmetries())
    confusions = matcher.confusions(found, draws)
    permutations, margins = [], []
    for matrices in confusions:
        pairs = [assign(m) for m in matrices]
        permutations.append(np.array([p for p, _ in pairs], dtype=int).reshape(len(pairs), -1))
        margins.append(np.array([m for _, m in pairs]))
    return Alignment(found, tuple(permutations), tuple(margins))


def assign(confusion: np.ndarray) -> tuple[np.ndarray, float]:
    """The best assignment of columns to rows and its margin over the second best."""
    from scipy.optimize import linear_sum_assignment  # half a second to import, for models with latents only

    if not np.all(np.isfinite(confusion)):
        return np.arange(len(confusion)), np.nan
    rows, best = linear_sum_assignment(confusion, maximize=True)
    margin, low = 1.0, -1.0 - len(rows) * np.max(np.abs(confusion), initial=0.0)
    for row in rows:  # the second best differs from the best in some row
        without = confusion.copy()
        without[row, best[row]] = low
        _, other = linear_sum_assignment(without, maximize=True)
        differ = other != best
        own, others = confusion[rows, best][differ].sum(), confusion[rows, other][differ].sum()
        margin = min(margin, (own - others) / own if own > 0 else 0.0)
    return best, float(margin)


class Matcher:
    """Responsibilities of the states of one fit's latents, at any parameters."""

    def __init__(self, fit: Fit):
        self.fit = fit
        self.objective: Objective = fit._engine.objective
        self.tables = self.objective.tables
        self.vectors = [i for i in range(len(self.tables.structure.vectors)) if self.usable(i)]

    def usable(self, vector: int) -> bool:
        structure = self.tables.structure
        item = structure.vectors[vector]
        plain = not any(structure.latents[j].cut or structure.latents[j].joined for j in item.latents)
        known = item.name in {p.name for p in self.tables.probes}
        return plain and known and 1 < item.states <= MOST_STATES

    # --- compiled ------------------------------------------------------------------------------------------

    def evaluate(self) -> Callable:
        """``theta -> (posterior by vector, log-likelihood by unit)``."""
        report, data = self.fit._engine.report, self.objective.data
        names = [self.tables.structure.vectors[i].name for i in self.vectors]

        @jax.jit
        def run(theta):
            posterior, units = report.posterior_and_units(theta, data)
            return [posterior[name] for name in names], units

        return run

    # --- which axes ----------------------------------------------------------------------------------------

    def symmetries(self) -> Iterator[Symmetry]:
        """The latents whose states can be exchanged, each with the fewest axes that go with them."""
        if not self.vectors:
            return
        structure = self.tables.structure
        self.run = self.evaluate()
        space = self.objective.space
        noise = np.random.default_rng(11).normal(scale=0.3, size=space.size)
        values = space.values(self.fit._optimum.point + noise)
        reference = self.at(values)
        covered: set[int] = set()
        for vector in self.vectors:
            if vector in covered:
                continue
            states = structure.vectors[vector].states
            candidates = [(n, d) for n in space.names for d, size in enumerate(space.shapes[n]) if size == states]
            for axes in subsets(candidates[:MOST_AXES]):
                moved = self.moved(values, reference, axes, states)
                if vector in moved:
                    covered |= moved
                    latents = [structure.latents[j].name for v in sorted(moved) for j in structure.vectors[v].latents]
                    yield Symmetry(tuple(latents), tuple(sorted(moved)), states, axes)
                    break

    def at(self, values: Draws) -> tuple[list[np.ndarray], np.ndarray]:
        posterior, units = self.run([np.asarray(values[n]) for n in self.objective.space.names])
        return [np.asarray(p) for p in posterior], np.asarray(units)

    def moved(self, values: Draws, reference, axes: Axes, states: int) -> set[int]:
        """The vectors whose states are permuted with some axes; none where that is no symmetry of the model."""
        result: set[int] | None = None
        for permutation in (np.r_[1, 0, 2:states], np.roll(np.arange(states), 1)):  # these generate all others
            chosen = self.moved_by(values, reference, axes, permutation)
            if result is not None and chosen != result:
                return set()
            result = chosen
        return result or set()

    def moved_by(self, values: Draws, reference, axes: Axes, permutation: np.ndarray) -> set[int]:
        permuted = dict(values)
        for name, axis in axes:
            permuted[name] = np.take(permuted[name], permutation, axis=axis)
        try:  # within the support, and with the same density of the prior
            points = [self.objective.space.unconstrain(v) for v in (permuted, values)]
        except ValueError:
            return set()
        if self.fit.estimator == "map" and not same(*map(self.prior, points)):
            return set()
        posterior, units = self.at(permuted)
        if not same(units, reference[1]):
            return set()
        result = set()
        for vector, new, old in zip(self.vectors, posterior, reference[0], strict=True):
            if len(old) == len(permutation) and same(new, old[permutation]) and not same(new, old):
                result.add(vector)
            elif not same(new, old):
                return set()
        return result

    def prior(self, u: np.ndarray) -> float:
        return float(self.objective.log_prior(u, self.objective.data))

    # --- which states --------------------------------------------------------------------------------------

    def confusions(self, symmetries: Sequence[Symmetry], draws: Draws) -> list[list[np.ndarray]]:
        """For each symmetry and draw how much responsibility states of the fit and of the draw share."""
        if not symmetries:
            return []
        objective = self.objective
        weights = np.append(self.fit._weights, 0.0)[units_of_elements(self.tables, np.arange(objective.n_units))]
        reference, _ = self.at(objective.space.values(self.fit._optimum.point))
        weighted = {
            v: r * weights[self.tables.structure.vectors[v].elements]
            for v, r in zip(self.vectors, reference, strict=True)
        }
        result: list[list[np.ndarray]] = [[] for _ in symmetries]
        for d in range(len(next(iter(draws.values())))):
            posterior, _ = self.run([draws[n][d] for n in objective.space.names])
            own = dict(zip(self.vectors, map(np.asarray, posterior), strict=True))
            for symmetry, matrices in zip(symmetries, result, strict=True):
                matrices.append(np.sum([weighted[v] @ own[v].T for v in symmetry.vectors], axis=0))
        return result


def subsets(axes: Sequence[tuple[str, int]]) -> Iterator[Axes]:
    """All but the empty one, the smallest first."""
    for size in range(1, len(axes) + 1):
        yield from combinations(axes, size)


def same(a, b) -> bool:
    return bool(np.allclose(a, b, rtol=1e-7, atol=1e-9, equal_nan=True))
