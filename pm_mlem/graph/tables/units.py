"""Which independent units belong together, and what they correspond to in the user's model.

The log-likelihood of a model is a sum over units. Observed variables and Potentials that share units form a **group**
(two observed variables that depend on one latent, say). The units of a group are named after the rows of an observed
variable, or after the elements of a latent, where they correspond to them one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pm_mlem.graph.elimination import Elimination
from pm_mlem.graph.roles.structure import Latent
from pm_mlem.graph.tables.model_tables import ModelTables

MANY_NAMES = 4
"""Names of more variables than this are abbreviated."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The axes of a variable along which the units run.

    ``name`` and ``ndim`` are those of the variable, ``axes`` its axes in their order; ``units`` are the numbers of
    the units, shaped like these axes.
    """

    name: str
    ndim: int
    axes: tuple[int, ...]
    units: np.ndarray

    @property
    def leading(self) -> bool:
        return self.axes == tuple(range(len(self.axes)))


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """Units of the data that hang together.

    Attributes
    ----------
    observed, potentials : names of the observed variables and Potentials, in the order of declaration
    units : numbers of the units among all units (of the elimination, or what is made of them), in the order in which
        they are reported; units that hold no data (their latents sum to one) are left out
    grid : the variable whose rows (or elements) the units are, or None
    """

    observed: tuple[str, ...]
    potentials: tuple[str, ...]
    units: np.ndarray
    grid: Grid | None

    @property
    def name(self) -> str:
        """The observed variable, or all of them; the Potentials where nothing is observed."""
        names = self.observed or self.potentials
        return "+".join(names) if len(names) <= MANY_NAMES else f"{names[0]}+...+{names[-1]}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.units.shape


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of one observed variable or Potential: flat positions (summed ones by the first) and their units."""

    name: str
    kind: str
    position: np.ndarray
    unit: np.ndarray
    shape: tuple[int, ...]
    ndim: int
    whole: bool


def unit_groups(tables: ModelTables, joined: np.ndarray | None = None) -> tuple[UnitGroup, ...]:
    """The groups of a model, in the order of their first variable.

    ``joined`` are larger units: for each unit of the elimination the one that it belongs to.
    """
    total = sum(tables.elimination.sizes)
    joined = np.arange(total) if joined is None else joined
    variables = [replace(v, unit=joined[v.unit]) for v in data_entries(tables)]
    label = connect(variables, total)
    of_element = units_of_elements(tables, joined)
    groups = []
    for number in dict.fromkeys(label):
        members = [v for v, n in zip(variables, label, strict=True) if n == number]
        units = np.unique(np.concatenate([v.unit for v in members]))
        members.sort(key=lambda v: v.kind == "potential")
        grid = next((g for g in grids(members, tables, of_element) if fits(g, units)), None)
        names = {kind: tuple(v.name for v in members if v.kind == kind) for kind in ("observed", "potential")}
        groups.append(
            UnitGroup(names["observed"], names["potential"], units if grid is None else grid.units, grid),
        )
    return tuple(groups)


def data_entries(tables: ModelTables) -> Iterator[Entries]:
    """The observed variables and Potentials with the units of their entries."""
    of_term: dict[str, list[int]] = {}
    for i, factor in enumerate(tables.factors):
        of_term.setdefault(factor.term, []).append(i)
    for indices in of_term.values():
        density = tables.densities[tables.factors[indices[0]].term_index]
        term = density.term
        if term.kind not in ("observed", "potential"):
            continue
        position = np.concatenate([tables.factors[i].entries for i in indices])
        unit = np.concatenate([tables.elimination.unit_of_row[i] for i in indices])
        value = density.lifted if term.value is None else term.value
        ndim = len(value.shape) - (term.family is not None)
        for name in term.members:
            start, shape = density.part_of(name)
            own = slice(None)
            if term.family is not None:
                own = (position >= start) & (position < start + math.prod(shape))
            yield Entries(name, term.kind, position[own] - start, unit[own], shape, ndim, density.whole)


def connect(variables: list[Entries], total: int) -> list[int]:
    """A label for each variable; variables with units in common have the same one."""
    n = len(variables)
    rows = np.repeat(np.arange(n), [len(v.unit) for v in variables])
    columns = n + np.concatenate([v.unit for v in variables]) if variables else rows
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n + total, n + total))
    return connected_components(graph, directed=False)[1][:n].tolist()


def units_of_elements(tables: ModelTables, joined: np.ndarray) -> np.ndarray:
    """The (joined) unit of every latent element, -1 where it has none."""
    vectors = tables.structure.vectors
    of_element = np.full(1 + max((int(v.elements.max()) for v in vectors), default=-1), -1)
    for factor, units in zip(tables.factors, tables.elimination.unit_of_row, strict=True):
        for view in factor.views:
            of_element[vectors[view.vector].elements[view.address]] = joined[units]
    return of_element


def fits(grid: Grid, units: np.ndarray) -> bool:
    """Whether there is one entry of the grid for each unit."""
    return np.array_equal(np.sort(grid.units, axis=None), units)


def grids(members: list[Entries], tables: ModelTables, of_element: np.ndarray) -> Iterator[Grid]:
    """Candidates for the names of the units: observed variables first, then Potentials, then latents."""
    for variable in members:
        if variable.whole:
            unit = np.full(math.prod(variable.shape), -1)
            unit[variable.position] = variable.unit
            yield from varying(variable.name, variable.ndim, unit.reshape(variable.shape))
    for latent in tables.structure.latents:
        yield from grid_of_latent(latent, of_element)


def grid_of_latent(latent: Latent, of_element: np.ndarray) -> Iterator[Grid]:
    unit = of_element[latent.base : latent.base + latent.n_elements]
    axes = [d for d in range(len(latent.shape)) if d not in latent.joined]
    for grid in varying(latent.name, len(latent.shape), unit.reshape([latent.shape[d] for d in axes])):
        yield Grid(grid.name, grid.ndim, tuple(axes[d] for d in grid.axes), grid.units)


def varying(name: str, ndim: int, unit: np.ndarray) -> Iterator[Grid]:
    """The axes of a variable along which the unit changes (-1: added to the first entry of its axis)."""
    reduced = unit
    for axis in range(unit.ndim):
        first, rest = np.split(reduced, [1], axis=axis)
        if np.all((rest == -1) | (rest == first)):
            reduced = first
    if np.any(reduced < 0):
        return
    axes = tuple(d for d in range(unit.ndim) if unit.shape[d] == 1 or reduced.shape[d] > 1)
    yield Grid(name, ndim, axes, reduced.reshape([unit.shape[d] for d in axes]))


def unit_vector(group: UnitGroup, elimination: Elimination) -> Variable:
    """The group's log-likelihood by unit, shaped like ``group.shape``: a function of the terms' placeholders."""
    offsets = np.concatenate([[0], np.cumsum(elimination.sizes)]).astype(int)
    numbers = group.units.ravel()
    vector_of_unit = np.searchsorted(offsets, numbers, side="right") - 1
    used = np.unique(vector_of_unit).tolist()
    starts = np.concatenate([[0], np.cumsum([elimination.sizes[v] for v in used])]).astype(int)
    where = starts[np.searchsorted(used, vector_of_unit)] + numbers - offsets[vector_of_unit]
    joined = elimination.units[used[0]] if len(used) == 1 else pt.concatenate([elimination.units[v] for v in used])
    if not np.array_equal(where, np.arange(starts[-1])):
        joined = joined[where]
    return joined if group.units.ndim == 1 else joined.reshape(group.shape)
