"""Locations of Laplace distributions: weighted medians, which are no function of sums over the data."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from pytensor.tensor.random.basic import LaplaceRV

from pm_mlem.graph.roles.structure import Parameter
from pm_mlem.graph.tables.model_tables import ModelTables, Site
from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.m_step.blocks import MedianBlock, Use
from pm_mlem.objective.m_step.bounds import support
from pm_mlem.objective.m_step.probing import Probing, linked_selection
from pm_mlem.objective.m_step.updates import Update
from pm_mlem.objective.objective import Objective

LOCATION = (LaplaceRV, 0)
HALF = 1e-12
"""By how much, relative to the sum of the weights, a half of them is missed."""


def median_block(
    parameter: Parameter, arguments: Sequence[tuple[int, int]], tables: ModelTables, probing: Probing, prior: tuple
) -> MedianBlock | None:
    """A location of Laplace distributions with a flat prior."""
    limits = support(parameter, probing.space, probing.points)
    if limits is None or prior:
        return None
    arrays = [probing.evaluate(tables.sites[i].parameters[role], parameter) for i, role in arguments]
    found = linked_selection(arrays, probing.pair(parameter))
    if found is None:
        return None
    link, indices = found
    uses = tuple(Use(i, role, index) for (i, role), index in zip(arguments, indices, strict=True))
    return MedianBlock(parameter.name, uses, link, limits)


def lower_median(objective: Objective, sites: Sequence[Site], block: MedianBlock, shared: dict) -> Update:
    """Weighted medians of all rows at once."""
    tables = objective.tables
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    used = [sites[use.site] for use in block.uses]
    shape = objective.space.shapes[block.name]
    runs = [lower(inputs, [site.parameters[1], site.value], objective.backend) for site in used]

    def gather(posterior, theta, data):
        parts = []
        for use, site, run in zip(block.uses, used, runs, strict=True):
            scale, value = run(*theta, *data)
            weights = posterior[site.term] / scale
            arrays = jnp.broadcast_arrays(value, weights, aligned(use.index, weights.ndim))
            parts.append([a.ravel() for a in arrays])
        values, weights, index = (jnp.concatenate(a) for a in zip(*parts, strict=True))
        return weighted_medians(values, weights, index, int(np.prod(shape, dtype=np.int64))).reshape(shape)

    def make(sums, old, before, now, data):
        [medians] = sums
        new = block.support.inside(block.link.user(medians), old)
        return jnp.where(jnp.isfinite(new), new, old)

    reads = tuple(a for site in used for a in (site.parameters[1], site.value))
    return Update(block.name, (), make, reads, gather=gather)


def aligned(index: np.ndarray, ndim: int) -> np.ndarray:
    """An index with the axes of an array that has as many or more."""
    return index.reshape((1,) * (ndim - index.ndim) + index.shape)


def weighted_medians(values, weights, index, count: int):
    """For each of ``count`` groups the middle of the values at which half of the group's weight is reached.

    ``index`` is the group of each value, -1 for none; NaN for a group without weight.
    """
    index = jnp.where(index < 0, count, index)
    order = jnp.lexsort((values, index))
    values, weights, index = values[order], weights[order], index[order]
    total = jax.ops.segment_sum(weights, index, count + 1)
    share = (jnp.cumsum(weights) - (jnp.cumsum(total) - total)[index]) / jnp.where(total > 0, total, jnp.nan)[index]
    position = jnp.arange(values.size)

    def first(reached):
        found = jax.ops.segment_min(jnp.where(reached, position, values.size), index, count + 1)[:count]
        return jnp.where(found < values.size, values[jnp.minimum(found, values.size - 1)], jnp.nan)

    low, high = first(share >= 0.5 - HALF), first(share > 0.5 + HALF)
    return 0.5 * (low + jnp.where(jnp.isnan(high), low, high))
