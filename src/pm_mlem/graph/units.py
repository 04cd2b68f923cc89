"""Which independent units belong together, and what they correspond to in the user's model.

The log-likelihood of a model is a sum over units. Terms that share units form a **group** (two observed variables
that depend on one latent, say). The units of a group are named after the rows of an observed variable, or after the
elements of a latent, where they correspond to them one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pm_mlem.graph.elimination import Elimination
from pm_mlem.graph.factors import Factor
from pm_mlem.graph.structure import Latent
from pm_mlem.graph.tables import DensityTerm

MANY_NAMES = 4
"""Names of more variables than this are abbreviated."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The axes of a variable along which the units run.

    ``name`` and ``ndim`` are those of the variable, ``axes`` its axes in their order; ``units`` are the unit's numbers,
    shaped like these axes.
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
    """Units of the terms that hang together.

    Attributes
    ----------
    observed, potentials : names of the terms, in the order of declaration
    units : numbers of the units among all units of the elimination, in the order in which they are reported; units
        that hold no data (their latents sum to one) are left out
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


def unit_groups(
    densities: Sequence[DensityTerm], factors: Sequence[Factor], latents: Sequence[Latent], elimination: Elimination
) -> tuple[UnitGroup, ...]:
    """The groups of a model that hold data, in the order of their first term."""
    label = connect(densities, factors, elimination)
    found = []
    for group in dict.fromkeys(label.values()):
        chosen = [i for i, f in enumerate(factors) if label[f.term] == group]
        terms = {factors[i].term: densities[factors[i].term_index].term.kind for i in chosen}
        observed = tuple(name for name, kind in terms.items() if kind == "observed")
        potentials = tuple(name for name, kind in terms.items() if kind == "potential")
        if not observed and not potentials:
            continue
        rows = [elimination.unit_of_row[i] for i in chosen if factors[i].term in (*observed, *potentials)]
        units = np.unique(np.concatenate(rows))
        named = grids(chosen, (*observed, *potentials), densities, factors, latents, elimination)
        grid = next((g for g in named if fits(g, units)), None)
        found.append(UnitGroup(observed, potentials, units if grid is None else grid.units, grid))
    return tuple(found)


def connect(densities: Sequence[DensityTerm], factors: Sequence[Factor], elimination: Elimination) -> dict[str, int]:
    """A label for each term; terms with units in common have the same one."""
    vector_of_unit = np.repeat(np.arange(len(elimination.sizes)), elimination.sizes)
    label = np.arange(len(elimination.sizes))
    touched: dict[str, set[int]] = {d.term.name: set() for d in densities}
    for factor, units in zip(factors, elimination.unit_of_row, strict=True):
        touched[factor.term] |= set(np.unique(vector_of_unit[units]).tolist())
    for vectors in touched.values():
        joined = label[list(vectors)]
        label[np.isin(label, joined)] = joined.min()
    return {name: int(label[min(vectors)]) for name, vectors in touched.items()}


def fits(grid: Grid, units: np.ndarray) -> bool:
    """Whether there is one entry of the grid for each unit."""
    return np.array_equal(np.sort(grid.units, axis=None), units)


def grids(
    chosen: Sequence[int],
    data: Sequence[str],
    densities: Sequence[DensityTerm],
    factors: Sequence[Factor],
    latents: Sequence[Latent],
    elimination: Elimination,
) -> Iterator[Grid]:
    """Candidates for the names of the units: observed variables first, then Potentials, then latents."""
    for name in data:
        own = [i for i in chosen if factors[i].term == name]
        density = densities[factors[own[0]].term_index]
        if density.whole:
            unit = np.full(int(np.prod(density.lifted.shape, dtype=np.int64)), -1)
            for i in own:
                unit[factors[i].entries] = elimination.unit_of_row[i]
            value = density.lifted if density.term.value is None else density.term.value
            yield from varying(name, len(value.shape), unit.reshape(density.lifted.shape))
    for position, latent in enumerate(latents):
        unit = np.full(latent.n_elements, -1)
        for i in chosen:
            for view in factors[i].views:
                if view.latent == position:
                    unit[view.address] = elimination.unit_of_row[i]
        yield from varying(latent.name, len(latent.shape), unit.reshape(latent.shape))


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
    """The group's log-likelihood by unit, shaped like ``group.shape``: a function of the density arrays' placeholders."""
    offsets = np.concatenate([[0], np.cumsum(elimination.sizes)]).astype(int)
    vector_of_unit = np.searchsorted(offsets, group.units.ravel(), side="right") - 1
    used = np.unique(vector_of_unit).tolist()
    starts = np.concatenate([[0], np.cumsum([elimination.sizes[v] for v in used])]).astype(int)
    where = starts[np.searchsorted(used, vector_of_unit)] + group.units.ravel() - offsets[vector_of_unit]
    joined = elimination.units[used[0]] if len(used) == 1 else pt.concatenate([elimination.units[v] for v in used])
    if not np.array_equal(where, np.arange(starts[-1])):
        joined = joined[where]
    return joined.reshape(group.shape) if group.units.ndim != 1 else joined
