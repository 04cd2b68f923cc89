"""Names, dims and coords: attached once, here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from pm_mlem.graph.roles.axis_labels import axis_labels
from pm_mlem.graph.roles.axis_labels import entry_names as names_of_entries
from pm_mlem.graph.roles.structure import Latent
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.graph.tables.units import UnitGroup

LARGE = 100
"""A Deterministic with more entries than this is not a row of a table."""


class Labels:
    """Turns arrays by variable name into labelled xarray objects, as ArviZ would label them.

    Parameters
    ----------
    dims : variable name -> names of its dimensions
    coords : dimension -> labels (None: 0, 1, ...)
    """

    def __init__(self, dims: Mapping[str, Sequence[str | None]], coords: Mapping[str, Sequence | None]):
        self.dims, self.coords = dict(dims), dict(coords)

    def dims_of(self, name: str, ndim: int) -> tuple[str, ...]:
        """Dimension names; ``<name>_dim_<i>`` where the model gives none."""
        given = self.dims.get(name) or (None,) * ndim
        if len(given) != ndim:
            given = (None,) * ndim
        return tuple(d if d is not None else f"{name}_dim_{i}" for i, d in enumerate(given))

    def coord(self, dim: str, length: int) -> np.ndarray:
        values = self.coords.get(dim)
        return np.arange(length) if values is None or len(values) != length else axis_labels(values)

    def array(self, name: str, values: np.ndarray, extra: Mapping[str, Sequence] | None = None) -> xr.DataArray:
        """One labelled array; ``extra`` names further dimensions at the end and their labels."""
        values = np.asarray(values)
        extra = dict(extra or {})
        dims = self.dims_of(name, values.ndim - len(extra))
        coords = {d: self.coord(d, n) for d, n in zip(dims, values.shape, strict=False)}
        return xr.DataArray(values, dims=(*dims, *extra), coords={**coords, **extra}, name=name)

    def units(self, group: UnitGroup, values: np.ndarray) -> xr.DataArray:
        """An array with one entry for each unit of a group."""
        grid = group.grid
        if grid is None:
            dims: tuple[str, ...] = (f"{group.name}_unit",)
        else:
            named = self.dims_of(grid.name, grid.ndim)
            dims = tuple(named[d] for d in grid.axes)
        coords = {d: self.coord(d, n) for d, n in zip(dims, values.shape, strict=True)}
        return xr.DataArray(values, dims=dims, coords=coords, name=group.name)

    def dataset(
        self, values: Mapping[str, np.ndarray], extra: Mapping[str, Sequence] | None = None, **attrs
    ) -> xr.Dataset:
        arrays = {name: self.array(name, value, extra) for name, value in values.items()}
        return xr.Dataset(arrays, attrs=attrs)


def unknown(name: str, known: Sequence[str], argument: str) -> str:
    """A sentence about a name that there is not."""
    close = difflib.get_close_matches(str(name), known, n=1)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    listed = ", ".join(map(repr, known[:6])) + (", ..." if len(known) > 6 else "")
    return f"{argument}: the fit has no '{name}'.{guess} It has {listed}."


def left_out(tables: ModelTables, name: str) -> str:
    """A sentence about a Deterministic that cannot be reported; empty for all other names."""
    return f" The Deterministic '{name}' is left out: {tables.skipped[name]}" if name in tables.skipped else ""


def state_labels(latent: Latent, labels: Labels) -> np.ndarray:
    """The labels of the dimension of a latent's probabilities; its states where that has none."""
    states = np.arange(latent.lower, latent.lower + latent.states)
    if latent.states_dim is None or labels.coords.get(latent.states_dim) is None:
        return states
    return labels.coord(latent.states_dim, latent.states)


def entry_names(array: xr.DataArray) -> list[str]:
    """Names of the entries of a labelled array, as in ``az.summary``: ``mu``, ``mu[a]``, ``p[a, b]``."""
    return names_of_entries(str(array.name), [array.coords[d].values for d in array.dims])
