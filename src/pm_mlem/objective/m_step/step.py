"""One EM iteration as a pure function: the E-step by differentiation, the M-step block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.objective.lower import lower
from pm_mlem.objective.m_step.bounds import Support
from pm_mlem.objective.m_step.newton import newton_step
from pm_mlem.objective.m_step.recognise import (
    BinaryBlock,
    ClosedBlock,
    MStepPlan,
    ProbabilityBlock,
    Use,
    recognise,
)
from pm_mlem.objective.objective import Objective, product
from pm_mlem.objective.space import ParameterSpace

SMALLEST_PROBABILITY = 1e-100
"""Keeps the unconstrained coordinates of a vanishing probability finite, and its square positive."""


def em_map(objective: Objective, plan: MStepPlan | None = None) -> Callable:
    """``(u, weights, data, given, use_given) -> (next u, value at u)``.

    The posterior weights of all tables are the gradient of the log-likelihood with respect to the log-density
    arrays, whatever the structure of the latents. With ``use_given`` the weights ``given`` take their place (a
    start from labels that were guessed, say; None where large arrays should not be passed in vain), without those of
    impossible states. Blocks with a closed form are updated first, one after the other; the remaining parameters take
    one safeguarded Newton step on the expected complete-data log-likelihood (plus the log-prior under "map").
    """
    plan = recognise(objective.tables, objective.space, objective.estimator) if plan is None else plan
    maximise = m_step(objective, plan)

    def step(u, weights, data, given, use_given):
        theta = objective.space.constrain(u)
        if given is None:
            value, posterior = e_step(objective, theta, weights, data)
        else:
            value, posterior = jax.lax.cond(
                use_given,
                lambda: (jnp.nan, possible(given, objective.densities(*theta, *data))),
                lambda: e_step(objective, theta, weights, data),
            )
        if objective.estimator == "map":
            value = value + objective.log_prior(u, data)
        return maximise(u, posterior, data), value

    return step


def m_step(objective: Objective, plan: MStepPlan) -> Callable:
    """``(u, posterior weights, data) -> next u``."""
    site_sums = lower_sites(objective, plan)
    space = objective.space
    position = {name: i for i, name in enumerate(space.names)}

    def maximise(u, posterior, data):
        theta = list(space.constrain(u))
        for block in plan.closed:
            i = position[block.name]
            if isinstance(block, ProbabilityBlock):
                theta[i] = update_probabilities(block, posterior, theta[i])
            elif isinstance(block, BinaryBlock):
                theta[i] = update_binary(block, posterior, theta[i])
            else:
                theta[i] = update_closed(block, posterior, theta, theta[i], site_sums, data)
        parts = list(space.split(u))
        moved = space.unconstrain_arrays(*theta)
        for block in plan.closed:
            i = position[block.name]
            parts[i] = jnp.where(jnp.all(jnp.isfinite(moved[i])), moved[i], parts[i])
        new = space.join(parts)
        return newton_block(objective, plan, posterior, theta, new, data) if plan.newton else new

    return maximise


def possible(posterior: Sequence, densities: Sequence) -> list:
    """Posterior weights without those of entries whose density is zero."""
    return [jnp.where(jnp.isneginf(d), 0.0, r) for r, d in zip(posterior, densities, strict=True)]


def e_step(objective: Objective, theta: Sequence, weights, data):
    """Log-likelihood and its derivative with respect to every log-density array."""
    if objective.chunks is not None:
        value, posterior = objective.chunks.e_step(theta, weights, data)
    else:
        densities = objective.densities(*theta, *data)
        value, posterior = jax.value_and_grad(lambda d: jnp.sum(product(weights, objective.units(d, data))))(densities)
    return jnp.where(objective.allowed(theta, data), value, -jnp.inf), posterior


Sums = Callable[[Sequence, Sequence, Sequence], Sequence]
"""(posterior weights, parameters, data) -> the sufficient statistics of one use of a parameter, added up"""


def lower_sites(objective: Objective, plan: MStepPlan) -> Mapping[Use, Sums]:
    """The sums of sufficient statistics for each use of a parameter with a closed form."""
    blocks = [block for block in plan.closed if isinstance(block, ClosedBlock)]
    return {use: lower_use(objective, plan, block, use) for block in blocks for use in block.uses}


def lower_use(objective: Objective, plan: MStepPlan, block: ClosedBlock, use: Use) -> Sums:
    tables, chunks, site = objective.tables, objective.chunks, plan.sites[use.site]
    arrays = [*site.parameters, site.value]
    size = int(np.prod(next(p.shape for p in tables.structure.free if p.name == block.name), dtype=np.int64))

    def sums(weights, arrays, index):
        return [collect(s, index, size) for s in block.form.statistics(weights, arrays[:-1], arrays[-1])]

    place = None if chunks is None else chunks.tables.places[site.term]
    part = None if chunks is None or place is None else chunks.tables.part_of(arrays)
    if chunks is None or part is None:
        run = lower([*tables.free_inputs, *[v for v, _ in tables.data]], arrays, objective.backend)
        return lambda posterior, theta, data: sums(posterior[site.term], run(*theta, *data), use.index)
    variables, places = part
    run = lower([*tables.free_inputs, *chunks.tables.data], variables)
    fixed, along = (use.index, []) if places[use.role] is None else (None, [(jnp.asarray(use.index), places[use.role])])

    def in_chunks(posterior, theta, data):
        def chunk(weights, data):
            index = weights[1] if fixed is None else fixed
            return sums(weights[0], run(*theta, *data), index), []

        return chunks.accumulate(chunk, [(posterior[site.term], place), *along], data, [])[0]

    return in_chunks


# --- closed forms -----------------------------------------------------------------------------------------


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


def update_probabilities(block: ProbabilityBlock, posterior: Sequence, old):
    counts = sum(collect(posterior[term], index, old.size) for term, index in block.uses)
    counts = jnp.maximum(counts.reshape(old.shape) + block.prior, 0.0)
    total = counts.sum(axis=-1, keepdims=True)
    new = jnp.maximum(counts / jnp.where(total > 0, total, 1.0), SMALLEST_PROBABILITY)
    return jnp.where(total > 0, new, old)


def update_binary(block: BinaryBlock, posterior: Sequence, old):
    counts = sum(collect(posterior[term], index, 2 * old.size) for term, index in block.uses)
    successes, failures = jnp.maximum(counts.reshape((2, *old.shape)) + block.prior, 0.0)
    total = successes + failures
    new = successes / jnp.where(total > 0, total, 1.0)
    new = Support(np.zeros(()), np.ones(())).inside(new, old)
    return jnp.where(total > 0, new, old)


def update_closed(block: ClosedBlock, posterior, theta, old, site_sums, data):
    collected = [site_sums[use](posterior, theta, data) for use in block.uses]
    sums = [sum(parts).reshape(old.shape) for parts in zip(*collected, strict=True)]
    new = block.link.user(block.maximise(*sums, *block.prior))
    if block.support is None:
        new = jnp.maximum(new, SMALLEST_PROBABILITY)
    else:
        new = block.support.inside(new, old)
    return jnp.where(jnp.isfinite(new), new, old)


# --- the other parameters ---------------------------------------------------------------------------------


def newton_block(objective: Objective, plan: MStepPlan, posterior, theta, u, data):
    """One Newton step on the expected complete-data log-likelihood in the parameters without a closed form."""
    space, groups = objective.space, plan.groups
    where = coordinates(space, plan.newton)
    moving = set(plan.newton)
    parts_of = lower_parts(objective, plan)

    def values(part):
        moved = space.constrain(u.at[where].set(part))
        return [m if n in moving else t for n, t, m in zip(space.names, theta, moved, strict=True)]

    def expected(part):
        total = objective.expected(values(part), posterior, data)
        return total + objective.prior(*values(part), *data)[0] if objective.estimator == "map" else total

    def parts(part):
        arrays = values(part)
        found = jnp.reshape(expected(part), (1,)) if parts_of is None else parts_of(arrays, posterior, data)
        return jnp.where(objective.allowed(arrays, data), found, -jnp.inf)

    gradient = jax.grad(expected)
    columns = objective.along(gradient, groups.directions)
    new = newton_step(parts, gradient, columns, u[where], parts(u[where]), groups)[0]
    return u.at[where].set(new)


def lower_parts(objective: Objective, plan: MStepPlan) -> Callable | None:
    """``(parameters, posterior, data) -> (groups,)``, the expected log-likelihood of every group; None for one group."""
    groups, tables, chunks = plan.groups, objective.tables, objective.chunks
    if groups.cells is None:
        return None
    priors = lower([*tables.free_inputs, *[v for v, _ in tables.data]], plan.priors, objective.backend)
    cells = dict(zip(plan.terms, groups.cells, strict=False))
    places = [None] * len(tables.densities) if chunks is None else chunks.tables.places

    def total(weighted, chosen):
        axes = tuple(d for d, n in enumerate(chosen.shape) if n == 1 and weighted.shape[d] != 1)
        summed = jnp.broadcast_to(weighted.sum(axis=axes, keepdims=True), chosen.shape)
        return jnp.zeros(groups.count + 1).at[chosen.ravel()].add(summed.ravel())[:-1]

    def of_terms(terms, posterior, densities):
        return sum((total(product(posterior[i], densities[i]), cells[i]) for i in terms), jnp.zeros(groups.count))

    fixed = [i for i in plan.terms if places[i] is None]
    along = [i for i in plan.terms if places[i] is not None]

    def evaluate(theta, posterior, data):
        own = priors(*theta, *data)
        result = sum(map(total, own, groups.cells[len(plan.terms) :]), jnp.zeros(groups.count))
        if chunks is None:
            return result + of_terms(fixed, posterior, objective.densities(*theta, *data))
        every = chunks.merge(chunks.fixed_densities(*theta, *data), [None] * sum(p is not None for p in places))
        result = result + of_terms(fixed, posterior, every)

        def chunk(weights, data):
            rows = chunks.merge([None] * sum(p is None for p in places), chunks.row_densities(*theta, *data))
            return of_terms(along, dict(zip(along, weights, strict=True)), rows), []

        return result + chunks.accumulate(chunk, [(posterior[i], places[i]) for i in along], data, [])[0]

    return evaluate


def coordinates(space: ParameterSpace, names: Sequence[str]) -> np.ndarray:
    """Positions of parameters in the flat vector."""
    return np.concatenate([np.arange(space.slices[n].start, space.slices[n].stop) for n in names])
