"""Sums over the data of a distribution, in chunks of rows where the data are large."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.tables.model_tables import ModelTables, Site
from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.m_step.coupling import LONG
from pm_mlem.objective.objective import Objective

Sums = Callable[[Sequence, Sequence, Sequence], list]
"""(posterior weights, parameters, data) -> sums"""
MOST_CELLS = 2**12
"""Cells that a distribution's sums may have."""


def lower_sums(objective: Objective, site: Site, function: Callable, indices: Sequence[tuple] = ()) -> Sums:
    """Add up ``function(weights, parameters of the distribution, value, *indices) -> list of arrays`` over rows.

    ``indices`` are pairs of an integer array and the number of the distribution's parameter that it belongs to.
    """
    tables, chunks = objective.tables, objective.chunks
    arrays = [*site.parameters, site.value]
    place = None if chunks is None else chunks.tables.places[site.term]
    part = None if chunks is None or place is None else chunks.tables.part_of(arrays)
    if chunks is None or part is None:
        run = lower([*tables.free_inputs, *[v for v, _ in tables.data]], arrays, objective.backend)

        def at_once(posterior, theta, data):
            *parameters, value = run(*theta, *data)
            return function(posterior[site.term], parameters, value, *[i for i, _ in indices])

        return at_once
    variables, places = part
    run = lower([*tables.free_inputs, *chunks.tables.data], variables)
    moving = [(jnp.asarray(i), places[role]) for i, role in indices if places[role] is not None]

    def in_chunks(posterior, theta, data):
        def chunk(weights, data):
            *parameters, value = run(*theta, *data)
            along = iter(weights[1:])
            own = [i if places[role] is None else next(along) for i, role in indices]
            return function(weights[0], parameters, value, *own), []

        return chunks.accumulate(chunk, [(posterior[site.term], place), *moving], data, [])[0]

    return in_chunks


def lower_parameters(objective: Objective, site: Site, backend: str | None = None) -> Callable:
    """``(parameters, data) -> `` the distribution's parameters."""
    tables = objective.tables
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    return lower(inputs, list(site.parameters), backend or objective.backend, protect=tables.free_inputs)


def equal_axes(tables: ModelTables, site: Site, roles: Sequence[int]) -> tuple[int, ...] | None:
    """Axes of a density along which some parameters of the distribution are the same.

    None where what is left is too large for sums over these axes to be of use.
    """
    shape = tables.densities[site.term].input.type.shape
    lengths = [site.parameters[r].type.shape[: len(shape)] for r in roles]
    axes = tuple(d for d, n in enumerate(shape) if n != 1 and all(own[d] == 1 for own in lengths))
    kept = [n for d, n in enumerate(shape) if d not in axes]
    return None if max(kept, default=1) > LONG or np.prod(kept) > MOST_CELLS else axes


def cell_shape(tables: ModelTables, site: Site, axes: Sequence[int]) -> tuple[int, ...]:
    """The shape of a density with some axes added up."""
    shape = tables.densities[site.term].input.type.shape
    return tuple(1 if d in axes else n for d, n in enumerate(shape))
