"""Start points made from the data and the priors: guess what the latents are, take a few M-steps from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.elimination.factors import Factor
from pm_mlem.graph.roles.transforms import prior_sampler
from pm_mlem.graph.tables.model_tables import DensityTerm
from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.objective import Objective

PURITY = (0.7, 0.95)
"""Range of the probability that a guessed state gets; the others share the rest."""
EVENNESS = 5.0
"""Concentration of the random shares of the groups (Dirichlet)."""
EVENLY = 20.0
"""Concentration of state probabilities that are nearly the same for all states (Dirichlet)."""
M_STEPS = 3
"""M-steps from the guessed states: parameters without a closed form take a Newton step in each."""
SUBSAMPLE = 5_000
"""Elements among which seeds are looked for."""
TOWARDS_PRIOR = 0.3
"""Perturbed points lie this far on the way from the initial point to a draw from the prior."""

CLUSTERS, QUANTILES, SUBSETS = "clusters of the data", "quantiles of the data", "small subsets of the data"
NEARLY_EQUAL = "states that are nearly equal"
PRIOR, PERTURBED, INITIAL = "draw from the prior", "perturbed initial point", "initial point"
FOR_COMPONENTS = (CLUSTERS, QUANTILES, CLUSTERS, SUBSETS, PRIOR, CLUSTERS, PERTURBED)
"""Where the starts after the first come from, over and over."""
FOR_ALL_MODELS = (PERTURBED, PRIOR)


class StartMaker:
    """Makes start points of one objective, as many as are asked for.

    Parameters
    ----------
    objective
    em_map : the compiled EM map ``(u, weights, data, given, use_given) -> (next u, value)``
    unit : weights of the units
    data : the model's data
    rng : all that is random comes from here
    symmetric : whether EM would keep some states equal for ever at a point
    """

    def __init__(
        self,
        objective: Objective,
        em_map: Callable[[], Callable],
        unit: np.ndarray,
        data: Sequence,
        rng: np.random.Generator,
        symmetric: Callable[[np.ndarray], bool] = lambda point: True,
    ):
        self.symmetric = symmetric
        self.objective, self.em_map, self.unit, self.data, self.rng = objective, em_map, unit, data, rng
        self.made = 0

    # --- one after the other -----------------------------------------------------------------------------------

    def first(self) -> tuple[str, np.ndarray]:
        """The initial point; an M-step away from it where equal components would stay equal for ever."""
        initial = self.objective.space.initial
        if self.has_components and self.symmetric(initial):
            return INITIAL, self.from_guess(NEARLY_EQUAL)
        return INITIAL, np.array(initial)

    def further(self, count: int) -> Iterator[tuple[str, np.ndarray]]:
        """More starts: where they come from, and the unconstrained point."""
        kinds = FOR_COMPONENTS if self.has_components and self.sorts else FOR_ALL_MODELS
        for _ in range(count):
            kind = kinds[self.made % len(kinds)]
            self.made += 1
            yield self.make(kind)

    def make(self, kind: str) -> tuple[str, np.ndarray]:
        if kind in (CLUSTERS, QUANTILES, SUBSETS):
            return kind, self.from_guess(kind)
        drawn = self.from_prior()
        initial = self.objective.space.initial
        if drawn is None:
            return PERTURBED, initial + self.rng.normal(scale=0.5, size=len(initial))
        return kind, drawn if kind == PRIOR else initial + TOWARDS_PRIOR * (drawn - initial)

    # --- from the prior ----------------------------------------------------------------------------------------

    @cached_property
    def draw(self) -> Callable:
        return prior_sampler(self.objective.tables.structure)

    def from_prior(self) -> np.ndarray | None:
        """A draw from the prior of the parameters, unconstrained; None where there is none."""
        try:
            point = self.objective.space.unconstrain(self.draw(self.rng))
        except Exception:  # anything may happen in a user's random(); a start is not worth an error
            return None
        return point if np.all(np.abs(point) < 1e6) else None

    # --- from guessed states -----------------------------------------------------------------------------------

    @property
    def has_components(self) -> bool:
        return self.objective.tables.structure.components

    @cached_property
    def tables(self) -> list[np.ndarray | None]:
        """Features of the elements of each vector of latents; None where states are not groups of elements."""
        structure = self.objective.tables.structure
        result = []
        for i, vector in enumerate(structure.vectors):
            counted = any(structure.latents[j].cut for j in vector.latents)
            usable = 1 < vector.states <= vector.n_elements and not counted
            result.append(features(self.objective, i) if usable else None)
        return result

    @property
    def sorts(self) -> bool:
        """Whether there is a latent whose elements can be sorted into groups."""
        return any(table is not None for table in self.tables)

    @cached_property
    def convert(self) -> Callable:
        return posterior_from_assignments(self.objective)

    def from_guess(self, kind: str) -> np.ndarray:
        """Guess the states, and maximise as if that were their posterior."""
        posterior = self.convert(self.guess(kind), self.unit, self.data)
        point = np.array(self.objective.space.initial)
        run = self.em_map()
        for _ in range(M_STEPS):
            new = np.asarray(run(point, self.unit, self.data, posterior, True)[0])
            if not np.all(np.isfinite(new)):
                break
            point = new
        return point

    def guess(self, kind: str) -> list[np.ndarray]:
        """For each vector of latents state probabilities of its elements, (states, elements)."""
        result = []
        for vector, table in zip(self.objective.tables.structure.vectors, self.tables, strict=True):
            if kind == NEARLY_EQUAL:
                even = np.full(vector.states, EVENLY)
                result.append(self.rng.dirichlet(even, size=vector.n_elements).T)
            elif table is None:
                result.append(self.rng.dirichlet(np.ones(vector.states), size=vector.n_elements).T)
            elif kind == SUBSETS:
                result.append(subsets(vector.states, vector.n_elements, self.objective.space.size, self.rng))
            else:
                split = clusters if kind == CLUSTERS else quantiles
                labels = split(table, vector.states, self.rng)
                result.append(soft(labels, vector.states, self.rng.uniform(*PURITY)))
        return result


# --- groups of elements -----------------------------------------------------------------------------------


def clusters(table: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Labels by k-means++ seeding (Arthur & Vassilvitskii 2007) in a subsample, and the nearest seed."""
    sample = table if len(table) <= SUBSAMPLE else table[rng.choice(len(table), SUBSAMPLE, replace=False)]
    centre = sample[rng.integers(len(sample))]
    centres, distance = [centre], squared(sample, centre)
    for _ in range(k - 1):
        total = distance.sum()
        i = rng.choice(len(sample), p=distance / total) if total > 0 else rng.integers(len(sample))
        centres.append(sample[i])
        distance = np.minimum(distance, squared(sample, sample[i]))
    return nearest(table, centres)


def nearest(table: np.ndarray, centres: Sequence[np.ndarray]) -> np.ndarray:
    """The number of the nearest centre of every row."""
    best, labels = squared(table, centres[0]), np.zeros(len(table), dtype=int)
    for i, centre in enumerate(centres[1:], start=1):
        distance = squared(table, centre)
        closer = distance < best
        labels[closer], best[closer] = i, distance[closer]
    return labels


def squared(table: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return ((table - centre) ** 2).sum(axis=1)


def quantiles(table: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Labels by groups of random sizes along a random direction."""
    along = table @ rng.normal(size=table.shape[1])
    along = along + 1e-9 * rng.normal(size=len(along))  # ties go to either side
    cuts = np.cumsum(rng.dirichlet(np.full(k, EVENNESS)))[:-1]
    return np.searchsorted(np.quantile(along, cuts), along)


def soft(labels: np.ndarray, k: int, purity: float) -> np.ndarray:
    """State probabilities that mostly follow labels, (states, elements)."""
    weights = np.full((k, len(labels)), (1.0 - purity) / max(k - 1, 1))
    weights[labels, np.arange(len(labels))] = purity
    return weights


def subsets(k: int, n: int, parameters: int, rng: np.random.Generator) -> np.ndarray:
    """A few random elements for each state, the others hardly count: groups that no distance shows (regressions)."""
    size = min(max(3, 2 * parameters // k), n // k)
    chosen = rng.permutation(n)[: size * k].reshape(k, size)
    weights = np.full((k, n), 1e-3 / k)
    weights[:, chosen.ravel()] = 0.0
    for state, members in enumerate(chosen):
        weights[state, members] = 1.0
    return weights


# --- what the elements look like --------------------------------------------------------------------------


def features(objective: Objective, vector: int) -> np.ndarray | None:
    """Observed data of each element of a vector of latents, standardized: (elements, columns)."""
    tables = objective.tables
    item = tables.structure.vectors[vector]
    columns = []
    for factor in tables.factors:
        density = tables.densities[factor.term_index]
        views = [v for v in factor.views if v.vector == vector]
        if density.term.kind != "observed" or len(views) != 1:
            continue
        rows = observed_rows(density, factor)
        if rows is None:
            continue
        counts = np.maximum(np.bincount(views[0].address, minlength=item.n_elements), 1)
        for column in rows.T:
            known = np.where(np.isfinite(column), column, 0.0)
            columns.append(np.bincount(views[0].address, weights=known, minlength=item.n_elements) / counts)
    if not columns:
        return None
    table = np.stack(columns, axis=1)
    spread = table.std(axis=0)
    return (table - table.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def observed_rows(density: DensityTerm, factor: Factor) -> np.ndarray | None:
    """The observations behind each row of a factor."""
    value = density.term.value
    if value is None or not value.is_constant:
        return None
    data = np.broadcast_to(np.asarray(value.data, dtype=float), value.shape)
    shape = density.lifted.shape
    if data.shape[: len(shape)] != shape:
        return None
    flat = data.reshape(int(np.prod(shape, dtype=np.int64)), -1)
    per_row = flat.shape[0] // factor.rows if factor.rows and flat.shape[0] % factor.rows == 0 else 0
    if per_row > 1 and len(factor.entries) == factor.rows:
        blocks = flat.reshape(factor.rows, -1)
        if np.array_equal(factor.entries, np.arange(factor.rows) * per_row):
            return blocks
    return flat[factor.entries]


def posterior_from_assignments(objective: Objective) -> Callable[..., list]:
    """Turns state probabilities of the elements into weights of the density arrays, as an E-step would give.

    ``(state probabilities by vector of latents, unit weights, data) -> weights``.
    """
    tables = objective.tables
    placeholders = [v for v, _ in tables.data]
    run = lower([*[d.input for d in tables.densities], *placeholders], [f.table for f in tables.factors], "jax")

    def pull_back(cotangents: Sequence, data: Sequence) -> list:
        zeros = [jnp.zeros(d.input.type.shape) for d in tables.densities]
        return jax.vjp(lambda d: run(*d, *data), zeros)[1](list(cotangents))[0]

    back = objective.jit_once(pull_back)

    def convert(weights: Sequence[np.ndarray], unit: np.ndarray, data: Sequence) -> list:
        cotangents = []
        for factor, rows in zip(tables.factors, tables.elimination.unit_of_row, strict=True):
            table = unit[rows]
            for axis, view in enumerate(factor.views):
                own = weights[view.vector][:, view.address]
                shape = [1] * len(factor.views) + [factor.rows]
                shape[axis] = view.states
                table = table * own.reshape(shape)
            shape = factor.table.type.shape
            table = np.broadcast_to(table, (*shape[:-1], factor.rows))
            cotangents.append(table.sum(axis=-1, keepdims=True) if shape[-1] == 1 else table)
        return back(cotangents, data)

    return convert
