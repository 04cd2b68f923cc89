"""Which parameters a function couples: the sum of its parts may fall into groups that share no parameter.

The parts of an expected log-likelihood are the entries (*cells*) of its arrays; two coordinates are coupled if a cell
depends on both. Whether it does is found by moving one coordinate at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pytensor.graph.basic import Variable
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.structure import PLAIN
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.graph.tables.rows import Place, RowTables, row_tables
from pm_mlem.objective.space import ParameterSpace

LONG = 64
"""Entries along an axis longer than this are taken together."""
SAMPLE = 256
"""Rows on which the arrays of many rows are evaluated."""
LARGEST = 2**22
"""Entries times coordinates up to which arrays whose rows cannot be told apart are evaluated."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Coordinates that are coupled with each other, and the cells that depend on them.

    Attributes
    ----------
    members : (groups, size of the largest), positions of coordinates, -1 where a group is smaller
    cells : for each array the group of each cell, ``count`` where a cell depends on none; None where all cells
        belong to the only group
    """

    members: np.ndarray
    cells: tuple[np.ndarray, ...] | None

    @property
    def count(self) -> int:
        return len(self.members)

    @property
    def directions(self) -> np.ndarray:
        """Sums of unit vectors, one coordinate of each group in each: (size of the largest, coordinates)."""
        n = int((self.members >= 0).sum())
        result = np.zeros((self.members.shape[1], n))
        for column, chosen in enumerate(self.members.T):
            result[column, chosen[chosen >= 0]] = 1.0
        return result

    def of_arrays(self, positions: Sequence[int]) -> Groups:
        """The same groups for some of the arrays."""
        return Groups(self.members, None if self.cells is None else tuple(self.cells[i] for i in positions))

    @property
    def of_coordinate(self) -> np.ndarray:
        """The group of each coordinate."""
        result = np.zeros(int((self.members >= 0).sum()), dtype=np.int64)
        for group, chosen in enumerate(self.members):
            result[chosen[chosen >= 0]] = group
        return result


def one_group(size: int) -> Groups:
    return Groups(np.arange(size).reshape(1, -1), None)


def long_axes(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(d for d, n in enumerate(shape) if n > LONG)


def group(patterns: Sequence[np.ndarray], size: int) -> Groups:
    """Groups from boolean arrays ``(coordinates, *cells)``; one where some coordinate moves nothing."""
    flat = np.concatenate([p.reshape(size, -1) for p in patterns], axis=1)
    if not np.all(flat.any(axis=1)):
        return one_group(size)
    coordinate, cell = np.nonzero(flat)
    n = size + flat.shape[1]
    graph = coo_array((np.ones(len(cell)), (coordinate, size + cell)), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    count = int(label[:size].max()) + 1  # labels are given in order, so those of coordinates come first
    if count == 1:
        return one_group(size)
    sizes = np.bincount(label[:size], minlength=count)
    members = np.full((count, sizes.max()), -1)
    for i in range(count):
        members[i, : sizes[i]] = np.flatnonzero(label[:size] == i)
    cells = np.minimum(label[size:], count)
    shapes = [p.shape[1:] for p in patterns]
    cuts = np.cumsum([math.prod(s) for s in shapes])[:-1]
    return Groups(members, tuple(c.reshape(s) for c, s in zip(np.split(cells, cuts), shapes, strict=True)))


def moved_cells(
    evaluate: Callable[[np.ndarray], Sequence[np.ndarray]], point: np.ndarray, coordinates: np.ndarray
) -> list[np.ndarray]:
    """For each array which cells change with each coordinate: ``(coordinates, *cells)``, long axes taken together."""
    before = evaluate(point)
    found: list[list[np.ndarray]] = [[] for _ in before]
    for i in coordinates:
        moved = point.copy()
        moved[i] += 0.37
        for rows, a, b in zip(found, before, evaluate(moved), strict=True):
            changed = ~((a == b) | (np.isnan(a) & np.isnan(b)))
            rows.append(changed.any(axis=long_axes(changed.shape), keepdims=True))
    return [np.stack(rows) for rows in found]


def coordinates(space: ParameterSpace, names: Sequence[str]) -> np.ndarray:
    """Positions of parameters in the flat vector."""
    return np.concatenate([np.arange(space.slices[n].start, space.slices[n].stop) for n in names])


def groups_of_terms(
    tables: ModelTables,
    terms: Sequence[int],
    others: Sequence[Variable],
    space: ParameterSpace,
    point: np.ndarray,
    coordinates: np.ndarray,
) -> Groups:
    """Groups of the coordinates by the log-density arrays of terms, and by other arrays without rows."""
    rows = row_tables(tables, SAMPLE) if tables.elimination.sizes else None
    if rows is not None:
        data = [sampled(a, place, rows) for (_, a), place in zip(tables.data, rows.data_places, strict=True)]
        inputs, densities = rows.data, rows.densities
    else:
        entries = sum(math.prod(tables.densities[i].input.type.shape) for i in terms)
        if entries * (len(coordinates) + 1) > LARGEST:
            return one_group(len(coordinates))
        data, inputs = [a for _, a in tables.data], [v for v, _ in tables.data]
        densities = [d.array for d in tables.densities]
    evaluate = evaluator([*tables.free_inputs, *inputs], [*[densities[i] for i in terms], *others], space, data)
    patterns = moved_cells(evaluate, point, coordinates)
    return group(patterns, len(coordinates))


def sampled(array: np.ndarray, place: Place, rows: RowTables) -> np.ndarray:
    """Some rows of an array, spread over all of them."""
    if place is None:
        return array
    chosen = np.linspace(0, rows.count - 1, rows.length).astype(int)
    entries = (chosen[:, None] * place.block + np.arange(place.block)).ravel()
    return np.take(array, entries, axis=place.axis)


def evaluator(
    inputs: Sequence[Variable], outputs: Sequence[Variable], space: ParameterSpace, data: Sequence[np.ndarray]
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Arrays at an unconstrained point; nothing is compiled."""
    run = function(list(inputs), list(outputs), mode=PLAIN, on_unused_input="ignore")

    def evaluate(point: np.ndarray) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            return [np.asarray(a) for a in run(*space.values(point).values(), *data)]

    return evaluate
