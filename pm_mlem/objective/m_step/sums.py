"""Sums over the data of a distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pm_mlem.graph.tables.model_tables import ModelTables, Site
from pm_mlem.objective.evaluators.protocol import Summand
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

    def of_site(weights, arrays, *own):
        *parameters, value = arrays
        return function(weights, parameters, value, *own)

    summand = Summand(site.term, (*site.parameters, site.value), of_site, tuple(indices))
    sums = objective.evaluator.sums([summand])
    return lambda posterior, theta, data: sums(posterior, theta, data)[0]


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
