"""Data with few distinct values: their weights are sufficient for every distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import pytensor.tensor as pt
from pymc.logprob.abstract import _logprob
from pytensor.tensor.type_other import NoneConst

from pm_mlem.graph.lift import Context, parameter
from pm_mlem.graph.lift.core import materialize
from pm_mlem.graph.tables.model_tables import ModelTables, Site
from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.m_step.reductions import Reduction
from pm_mlem.objective.weights import product

MOST_VALUES = 512


def distinct_values(tables: ModelTables, site: Site, axes: Sequence[int]) -> np.ndarray | None:
    """The distinct observations of a distribution; None where they are many, or vectors, or not known."""
    value = tables.densities[site.term].term.value
    if not axes or site.op.ndim_supp or value is None or not value.is_constant:
        return None
    found = np.unique(value.data)
    if len(found) > min(MOST_VALUES, max(value.data.size // 4, 2)) or not np.all(np.isfinite(found)):
        return None
    return found


def distinct_reduction(tables: ModelTables, site: Site, axes: Sequence[int], values: np.ndarray) -> Reduction:
    """The weights of the distinct values, laid out along the first of the axes."""
    axis = axes[0]
    shape = [1] * len(tables.densities[site.term].input.type.shape)
    shape[axis] = len(values)
    density = lower_density(tables, site, values.reshape(shape))

    def sums(weights, parameters, value, axes):
        weights, which = jnp.broadcast_arrays(weights, jnp.searchsorted(jnp.asarray(values), value))
        kept = [d for d in range(weights.ndim) if d not in axes]
        cells = [weights.shape[d] for d in kept]
        rows, which = (jnp.transpose(a, [*kept, *axes]).reshape(int(np.prod(cells)), -1) for a in (weights, which))
        found = jnp.zeros((len(rows), len(values))).at[np.arange(len(rows))[:, None], which].add(rows)
        found = jnp.moveaxis(found.reshape(*cells, -1), -1, sum(d < axis for d in kept))
        lengths = dict(zip(kept, cells, strict=True)) | {axis: len(values)}
        return [found.reshape([lengths.get(d, 1) for d in range(weights.ndim)])]

    def expected(parameters, before, weights):
        [densities] = density(*parameters)
        return product(weights, densities).sum(axis=axis, keepdims=True)

    return Reduction(sums, expected)


def lower_density(tables: ModelTables, site: Site, values: np.ndarray) -> Callable[..., list]:
    """``(*parameters) -> [log-density]`` of a distribution at constants that broadcast against the parameters."""
    node = tables.densities[site.term].term.rv.owner
    inputs = [
        pt.tensor(f"parameter_{i}", dtype=p.type.dtype, shape=p.type.shape) for i, p in enumerate(site.parameters)
    ]
    graph = _logprob(site.op, (pt.constant(values),), node.inputs[0], NoneConst, *inputs)
    context = Context({v: parameter(v) for v in inputs})
    return lower(inputs, [context.symbol(materialize(context.lift(graph)))], "jax", protect=inputs)
