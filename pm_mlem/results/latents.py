"""Probabilities and decoded states of latents with the names of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from pm_mlem.estimate.labels import Labels, state_labels
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.graph.tables.units import unit_groups


def probabilities(tables: ModelTables, labels: Labels, values: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Posterior probabilities by latent (states first), with the states along a last dimension."""
    latents = {item.name: item for item in tables.structure.latents}
    return xr.Dataset(
        {
            name: labels.array(name, np.moveaxis(array, 0, -1), {f"{name}_state": state_labels(latents[name], labels)})
            for name, array in values.items()
        }
    )


def decoded(
    tables: ModelTables, labels: Labels, names: Sequence[str], states: Sequence, units: np.ndarray, weights: np.ndarray
) -> xr.Dataset:
    """States of the latents, and their log-probabilities by group of units.

    Parameters
    ----------
    names, states : the latents and their states
    units : log-probability of the states of each unit
    weights : of the units
    """
    arrays = {name: labels.array(name, np.asarray(values)) for name, values in zip(names, states, strict=True)}
    with_latents = units_with_latents(tables)
    for group in unit_groups(tables):
        if np.any(with_latents[group.units]):
            name = f"{group.name}_log_probability"
            arrays[name] = labels.units(group, units[group.units]).rename(name)
    return xr.Dataset(arrays, attrs={"log_probability": float(np.sum(np.where(weights == 0, 0.0, units)))})


def units_with_latents(tables: ModelTables) -> np.ndarray:
    """Whether each unit has latents."""
    result = np.zeros(sum(tables.elimination.sizes), dtype=bool)
    for factor, units in zip(tables.factors, tables.elimination.unit_of_row, strict=True):
        if factor.views:
            result[units] = True
    return result


def observed_at(tables: ModelTables, vector: int, elements: Sequence[int]) -> tuple[str, np.ndarray] | None:
    """Name and values of the one number that is observed for each of some elements of a vector, if there is one."""
    item = tables.structure.vectors[vector]
    order = np.argsort(item.elements)
    places = order[np.searchsorted(item.elements[order], elements)]
    found: dict[str, np.ndarray] = {}
    for factor in tables.factors:
        own = [v for v in factor.views if v.vector == vector]
        term = tables.densities[factor.term_index].term
        if not own or term.kind != "observed":
            continue
        count = 1 if term.value is None else int(np.prod(term.value.shape))
        if factor.rows != count or len(factor.summed) > 1 or term.value.data is None:
            return None
        values = np.full(item.n_elements, np.nan)
        values[own[0].address] = np.broadcast_to(term.value.data, term.value.shape).ravel()[factor.entries]
        if len(np.unique(own[0].address)) != factor.rows or np.any(np.isnan(values[places])):
            return None
        first, *others = term.members
        found.setdefault(f"{first} ... {others[-1]}" if others else first, values[places])
    return next(iter(found.items())) if len(found) == 1 else None
