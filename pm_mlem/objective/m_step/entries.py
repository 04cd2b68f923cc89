"""Parameters whose entries are updated one by one: counts and sums of statistics, added up by entry."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.tables.model_tables import Site
from pm_mlem.objective.evaluators.protocol import Summand
from pm_mlem.objective.m_step.blocks import BinaryBlock, ClosedBlock, ProbabilityBlock, Use, updated
from pm_mlem.objective.m_step.bounds import Support
from pm_mlem.objective.m_step.updates import Update
from pm_mlem.objective.objective import Objective

SMALLEST_PROBABILITY = 1e-100
"""Keeps the unconstrained coordinates of a vanishing probability finite, and its square positive."""


def collect(statistic, index, size: int):
    """Sum a statistic over all entries that use the same parameter entry."""
    shape = jnp.broadcast_shapes(statistic.shape, index.shape)
    statistic = jnp.broadcast_to(statistic, shape)
    lead = len(shape) - index.ndim
    index = index.reshape((1,) * lead + index.shape)
    axes = tuple(d for d in range(len(shape)) if index.shape[d] == 1 and shape[d] != 1)
    summed = statistic.sum(axis=axes, keepdims=True) if axes else statistic
    flat, target = summed.ravel(), index.ravel()
    if isinstance(target, np.ndarray) and np.array_equal(target, np.arange(size)):
        return flat
    target = jnp.where(target < 0, size, target)  # constants: a cell that is thrown away
    return jnp.zeros(size + 1, flat.dtype).at[target].add(flat)[:size]


# --- counts -----------------------------------------------------------------------------------------------


def counted(uses: Sequence[tuple[int, np.ndarray]], size: int) -> tuple[Summand, ...]:
    """The posterior weights by entry."""
    return tuple(Summand(term, (), lambda weights, arrays, i=i: collect(weights, i, size)) for term, i in uses)


def lower_probabilities(objective: Objective, sites: Sequence[Site], block: ProbabilityBlock, shared: dict) -> Update:
    """Expected counts, normalized to what the entries that are held leave to the free ones."""
    free = objective.space.is_free(block.name)

    def make(sums, old, before, now, data):
        counts = jnp.where(free, jnp.maximum(sum(sums).reshape(old.shape) + block.prior, 0.0), 0.0)
        total = counts.sum(axis=-1, keepdims=True)
        share = 1.0 - jnp.where(free, 0.0, old).sum(axis=-1, keepdims=True)
        new = jnp.maximum(share * counts / jnp.where(total > 0, total, 1.0), SMALLEST_PROBABILITY)
        return jnp.where(total > 0, new, old)

    return Update(block.name, counted(block.uses, free.size), make)


def lower_binary(objective: Objective, sites: Sequence[Site], block: BinaryBlock, shared: dict) -> Update:
    """Expected successes out of expected trials."""

    def make(sums, old, before, now, data):
        successes, failures = jnp.maximum(sum(sums).reshape((2, *old.shape)) + block.prior, 0.0)
        total = successes + failures
        new = successes / jnp.where(total > 0, total, 1.0)
        new = Support(np.zeros(()), np.ones(())).inside(new, old)
        return jnp.where(total > 0, new, old)

    return Update(block.name, counted(block.uses, block.prior.size), make)


# --- statistics -------------------------------------------------------------------------------------------


def lower_closed(objective: Objective, sites: Sequence[Site], block: ClosedBlock, shared: dict) -> Update:
    """What a closed form makes of its sums."""
    size = int(np.prod(objective.space.shapes[block.name], dtype=np.int64))

    def summand(use: Use) -> Summand:
        def function(weights, arrays, index):
            *parameters, value = arrays
            return [collect(s, index, size) for s in block.form.statistics(weights, parameters, value)]

        site = sites[use.site]
        return Summand(site.term, (*site.parameters, site.value), function, ((use.index, use.role),))

    def make(sums, old, before, now, data):
        totals = [sum(parts).reshape(old.shape) for parts in zip(*sums, strict=True)]
        new = block.link.user(updated(block, totals))
        new = block.support.inside(new, old) if block.support else jnp.maximum(new, SMALLEST_PROBABILITY)
        return jnp.where(jnp.isfinite(new), new, old)

    summands = tuple(summand(use) for use in block.uses)
    return Update(block.name, summands, make, tuple(a for s in summands for a in s.arrays))
