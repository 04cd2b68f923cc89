"""Start points made from the data: cluster the units, give the clusters to the latents, take an M-step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.factors import Factor
from pm_mlem.graph.tables import DensityTerm
from pm_mlem.objective.lower import lower
from pm_mlem.objective.objective import Objective


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
            sums = np.bincount(views[0].address, weights=column, minlength=item.n_elements)
            columns.append(sums / counts)
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


def random_points(
    objective: Objective, em_map: Callable, unit: np.ndarray, count: int, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Random starts: where they come from, and the unconstrained point.

    With latents, M-steps from clusters of the data; otherwise a perturbed initial point.
    """
    space = objective.space
    convert = posterior_from_assignments(objective) if objective.tables.structure.latents else None
    for _ in range(count):
        point = space.initial + rng.normal(scale=0.5, size=space.size)
        if convert is None:
            yield "perturbed initial point", point
            continue
        posterior = convert(assignments(objective, rng, purity=0.9), unit)
        for _ in range(3):
            point = np.asarray(em_map(point, unit, objective.data, posterior, True)[0])
        yield "clusters of the data", point


def seeds(table: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Cluster labels by k-means++ seeding (Arthur & Vassilvitskii 2007) and nearest seed."""
    centres = [table[rng.integers(len(table))]]
    for _ in range(k - 1):
        distance = np.min([((table - c) ** 2).sum(axis=1) for c in centres], axis=0)
        total = distance.sum()
        chosen = rng.choice(len(table), p=distance / total) if total > 0 else rng.integers(len(table))
        centres.append(table[chosen])
    return np.argmin([((table - c) ** 2).sum(axis=1) for c in centres], axis=0)


def assignments(objective: Objective, rng: np.random.Generator, purity: float) -> list[np.ndarray]:
    """For each vector of latents random state probabilities of its elements, (states, elements)."""
    result = []
    for i, item in enumerate(objective.tables.structure.vectors):
        table = features(objective, i) if item.states <= item.n_elements else None
        if table is None:
            weights = rng.dirichlet(np.ones(item.states), size=item.n_elements).T
        else:
            labels = seeds(table, item.states, rng)
            weights = np.full((item.states, item.n_elements), (1 - purity) / max(item.states - 1, 1))
            weights[labels, np.arange(item.n_elements)] = purity if item.states > 1 else 1.0
        result.append(weights)
    return result


def posterior_from_assignments(objective: Objective) -> Callable[[Sequence[np.ndarray], np.ndarray], list]:
    """Turns state probabilities of the elements into weights of the density arrays, as an E-step would give."""
    tables = objective.tables
    placeholders = [v for v, _ in tables.data]
    run = lower([*[d.input for d in tables.densities], *placeholders], [f.table for f in tables.factors], "jax")

    def convert(weights: Sequence[np.ndarray], unit: np.ndarray) -> list:
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
        zeros = [jnp.zeros(d.input.type.shape) for d in tables.densities]
        _, pullback = jax.vjp(lambda d: run(*d, *objective.data), zeros)
        return pullback([jnp.asarray(c) for c in cotangents])[0]

    return convert
