"""The M-step in parameters that the data reach through a few sums: one pass over the data, then Newton steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from pytensor.graph.basic import Variable

from pm_mlem.graph.roles.structure import Parameter
from pm_mlem.graph.tables.model_tables import ModelTables, Site
from pm_mlem.graph.tables.tabulate import dependencies
from pm_mlem.objective.evaluators.protocol import Summand
from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.m_step.blocks import NewtonBlock
from pm_mlem.objective.m_step.coupling import coordinates, evaluator, group, moved_cells
from pm_mlem.objective.m_step.distinct import distinct_reduction, distinct_values
from pm_mlem.objective.m_step.newton import add_by_group, newton
from pm_mlem.objective.m_step.probing import Probing
from pm_mlem.objective.m_step.reductions import REDUCTIONS, Reduction
from pm_mlem.objective.m_step.sums import cell_shape, equal_axes, lower_parameters
from pm_mlem.objective.m_step.updates import Climb
from pm_mlem.objective.objective import Objective

ENTRIES_OF_A_CELL = 4
"""Entries of a log-density that one of its sums stands for, at least."""
ITERATIONS = 20
"""Newton steps of one M-step."""
ENOUGH = 1e-10
"""Gain in the expected log-likelihood below which the maximum is reached."""


def reduced_block(
    remaining: Sequence[Parameter],
    users: Mapping[str, Sequence[int]],
    tables: ModelTables,
    probing: Probing,
    priors: Sequence[Variable],
) -> NewtonBlock | None:
    """The parameters all of whose terms have reductions; ``priors`` are the prior densities under "map"."""
    reducible = {s.term for s in tables.sites if is_reducible(tables, s)}
    chosen = [p for p in remaining if all(i in reducible for i in users[p.name])]
    while True:  # a parameter of priors only stays with those it is coupled with
        others = [p.placeholder for p in remaining if p not in chosen]
        mixed = [a for a in priors if dependencies([a], others)]
        kept = [p for p in chosen if users[p.name] or not dependencies(mixed, [p.placeholder])]
        if len(kept) == len(chosen):
            break
        chosen = kept
    if not any(users[p.name] for p in chosen):
        return None
    names = tuple(p.name for p in chosen)
    terms = tuple(sorted({i for n in names for i in users[n]}))
    own = tuple(a for a in priors if dependencies([a], [p.placeholder for p in chosen]))
    where = coordinates(probing.space, names)
    patterns = [*cell_patterns(tables, terms, probing, where), *array_patterns(own, tables, probing, where)]
    return NewtonBlock(names, terms, own, group(patterns, len(where)), ITERATIONS)


def is_reducible(tables: ModelTables, site: Site) -> bool:
    axes = equal_axes(tables, site, range(len(site.parameters)))
    if axes is None:
        return False
    entries = math.prod(tables.densities[site.term].input.type.shape)
    if entries < ENTRIES_OF_A_CELL * math.prod(cell_shape(tables, site, axes)):
        return False
    return type(site.op) in REDUCTIONS or distinct_values(tables, site, axes) is not None


def site_of(tables: ModelTables, term: int) -> Site:
    return next(s for s in tables.sites if s.term == term)


def reduction_of(tables: ModelTables, site: Site, axes: Sequence[int]) -> Reduction:
    if type(site.op) in REDUCTIONS:
        return REDUCTIONS[type(site.op)]
    return distinct_reduction(tables, site, axes, distinct_values(tables, site, axes))


def cell_patterns(tables: ModelTables, terms: Sequence[int], probing: Probing, where: np.ndarray) -> list[np.ndarray]:
    """For each term which cells depend on each coordinate, through any parameter of the distribution."""
    found = []
    for term in terms:
        site = site_of(tables, term)
        ndim = len(tables.densities[term].input.type.shape)
        cells = cell_shape(tables, site, equal_axes(tables, site, range(len(site.parameters))))
        pattern = np.zeros((len(where), *cells), dtype=bool)
        for table in array_patterns(site.parameters, tables, probing, where):
            pattern = pattern | table.any(axis=tuple(range(1 + ndim, table.ndim)))
        found.append(pattern)
    return found


def array_patterns(
    arrays: Sequence[Variable], tables: ModelTables, probing: Probing, where: np.ndarray
) -> list[np.ndarray]:
    data = [a for _, a in tables.data]
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    return moved_cells(evaluator(inputs, arrays, probing.space, data), probing.point, where)


def lower_reduced(objective: Objective, block: NewtonBlock) -> Climb:
    """Newton steps on what the sums say of the expected log-likelihood."""
    tables, space = objective.tables, objective.space
    where, moving = coordinates(space, block.names), set(block.names)
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    own = [p.placeholder for p in tables.structure.free if p.name in moving]
    sites, reductions, summands = [], [], []
    for term in block.terms:
        site = site_of(tables, term)
        axes = equal_axes(tables, site, range(len(site.parameters)))
        reduction = reduction_of(tables, site, axes)
        sites.append(lower_parameters(objective, site))
        reductions.append(reduction)
        summands.append(summand_of(site, reduction, axes))
    priors = lower(inputs, list(block.priors), protect=tables.free_inputs)
    conditions = [g for g in [*tables.guards, *tables.prior_guards] if dependencies([g], own)]
    guards = lower(inputs, conditions)
    directions = jnp.asarray(block.groups.directions)

    def climb(totals, u, data):
        theta = space.constrain(u)
        before = [run(*theta, *data) for run in sites]
        before, totals = jax.lax.optimization_barrier((before, totals))

        def parts(part):
            moved = space.constrain(u.at[where].set(part))
            values = [m if n in moving else t for n, t, m in zip(space.names, theta, moved, strict=True)]
            cells = [
                r.expected(run(*values, *data), b, *s)
                for r, run, b, s in zip(reductions, sites, before, totals, strict=True)
            ]
            found = add_by_group([*cells, *priors(*values, *data)], block.groups)
            allowed = jnp.all(jnp.stack([jnp.asarray(True), *guards(*values, *data)]))
            return jnp.where(allowed, found, -jnp.inf)

        def slopes(part):
            gradient, along = jax.linearize(jax.grad(lambda v: jnp.sum(parts(v))), part)
            return gradient, jax.vmap(along)(directions)

        return u.at[where].set(newton(parts, slopes, u[where], block.groups, block.iterations, ENOUGH))

    return Climb(block.names, tuple(summands), climb, tuple(a for s in summands for a in s.arrays))


def summand_of(site: Site, reduction: Reduction, axes: Sequence[int]) -> Summand:
    """The sums of a reduction."""

    def function(weights, arrays):
        *parameters, value = arrays
        return reduction.sums(weights, parameters, value, axes)

    return Summand(site.term, (*site.parameters, site.value), function)
