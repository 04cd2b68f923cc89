"""One EM iteration as a pure function: the E-step by differentiation, the M-step block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.m_step.blocks import (
    BinaryBlock,
    Block,
    ClosedBlock,
    MedianBlock,
    MStepPlan,
    NewtonBlock,
    ProbabilityBlock,
    updated,
)
from pm_mlem.objective.m_step.bounds import Support
from pm_mlem.objective.m_step.coupling import coordinates
from pm_mlem.objective.m_step.medians import lower_median
from pm_mlem.objective.m_step.mvnormal import LOWERED_MVNORMAL
from pm_mlem.objective.m_step.newton import add_by_group, newton
from pm_mlem.objective.m_step.recognise import recognise
from pm_mlem.objective.m_step.reduced import lower_reduced
from pm_mlem.objective.m_step.sums import Sums, lower_sums
from pm_mlem.objective.objective import Objective

ENOUGH = 1e-6
"""Gain in the expected log-likelihood below which the maximum is one Newton step away."""
SMALLEST_PROBABILITY = 1e-100
"""Keeps the unconstrained coordinates of a vanishing probability finite, and its square positive."""


def em_map(objective: Objective, plan: MStepPlan | None = None) -> Callable:
    """``(u, weights, data, given, use_given) -> (next u, value at u)``.

    The posterior weights of all tables are the gradient of the log-likelihood with respect to the log-density
    arrays, whatever the structure of the latents. With ``use_given`` the weights ``given`` take their place (a
    start from labels that were guessed, say; None where large arrays should not be passed in vain), without those of
    impossible states. Blocks with a closed form are updated first, one after the other; then the parameters that the
    data reach through a few sums are maximised over; the remaining ones take safeguarded Newton steps on the expected
    complete-data log-likelihood (plus the log-prior under "map"): to its maximum where they are arguments of
    distributions that many rows share, one step otherwise.
    """
    plan = plan_of(objective) if plan is None else plan
    maximise = m_step(objective, plan)

    def step(u, weights, data, given, use_given):
        theta = objective.space.constrain(u)
        if given is None:
            value, posterior = e_step(objective, theta, weights, data)
        else:
            value, posterior = jax.lax.cond(
                use_given,
                lambda: (jnp.nan, objective.evaluator.possible(given, theta, data)),
                lambda: e_step(objective, theta, weights, data),
            )
        return maximise(u, posterior, data), value + objective.additions(u, data)

    return step


def plan_of(objective: Objective, *, joint: bool = True) -> MStepPlan:
    """The M-step of an objective; ``joint`` as for :func:`recognise`."""
    return recognise(objective.tables, objective.space, objective.estimator, objective.backend, joint=joint)


def m_step(objective: Objective, plan: MStepPlan) -> Callable:
    """``(u, posterior weights, data) -> next u``."""
    space = objective.space
    position = {name: i for i, name in enumerate(space.names)}
    closed = [(block.name, lower_block(objective, plan, block)) for block in plan.closed]
    reduced = lower_reduced(objective, plan.reduced) if plan.reduced else None
    newton = lower_newton(objective, plan.newton) if plan.newton else None

    def maximise(u, posterior, data):
        theta, memo = list(space.constrain(u)), {}
        for name, update in closed:
            i = position[name]
            theta[i] = jnp.where(space.is_free(name), update(posterior, theta, theta[i], data, memo), theta[i])
        parts = list(space.split(u))
        moved = space.unconstrain_arrays(*theta)
        for name, _ in closed:
            i = position[name]
            parts[i] = jnp.where(jnp.all(jnp.isfinite(moved[i])), moved[i], parts[i])
        u = space.join(parts)
        if reduced:
            u = reduced(u, posterior, space.constrain(u), data)
        return newton(u, posterior, space.constrain(u), data) if newton else u

    return maximise


Update = Callable[[Sequence, Sequence, Any, Sequence, dict], Any]
"""(posterior weights, parameters, old value, data, what blocks of this M-step share) -> new value"""


LOWERED = {MedianBlock: lower_median, **LOWERED_MVNORMAL}


def lower_block(objective: Objective, plan: MStepPlan, block: Block) -> Update:
    """The update of a parameter with a closed form."""
    if isinstance(block, ProbabilityBlock):
        free = objective.space.is_free(block.name)
        return lambda posterior, theta, old, data, memo: update_probabilities(block, posterior, old, free)
    if isinstance(block, BinaryBlock):
        return lambda posterior, theta, old, data, memo: update_binary(block, posterior, old)
    if isinstance(block, ClosedBlock):
        sums = lower_uses(objective, plan, block)
        return lambda posterior, theta, old, data, memo: update_closed(block, posterior, theta, old, sums, data)
    return LOWERED[type(block)](objective, plan.sites, block)


def e_step(objective: Objective, theta: Sequence, weights, data):
    """Log-likelihood and its derivative with respect to every log-density array."""
    value, posterior = objective.evaluator.e_step(theta, weights, data)
    return jnp.where(objective.allowed(theta, data), value, -jnp.inf), posterior


def lower_uses(objective: Objective, plan: MStepPlan, block: ClosedBlock) -> Sequence[Sums]:
    """The sums of sufficient statistics for each use of a parameter with a closed form."""
    size = int(np.prod(objective.space.shapes[block.name], dtype=np.int64))

    def sums(weights, parameters, value, index):
        return [collect(s, index, size) for s in block.form.statistics(weights, parameters, value)]

    return [lower_sums(objective, plan.sites[use.site], sums, [(use.index, use.role)]) for use in block.uses]


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


def update_probabilities(block: ProbabilityBlock, posterior: Sequence, old, free):
    """Expected counts, normalized to what the entries that are held leave to the free ones."""
    counts = sum(collect(posterior[term], index, old.size) for term, index in block.uses)
    counts = jnp.where(free, jnp.maximum(counts.reshape(old.shape) + block.prior, 0.0), 0.0)
    total = counts.sum(axis=-1, keepdims=True)
    share = 1.0 - jnp.where(free, 0.0, old).sum(axis=-1, keepdims=True)
    new = jnp.maximum(share * counts / jnp.where(total > 0, total, 1.0), SMALLEST_PROBABILITY)
    return jnp.where(total > 0, new, old)


def update_binary(block: BinaryBlock, posterior: Sequence, old):
    counts = sum(collect(posterior[term], index, 2 * old.size) for term, index in block.uses)
    successes, failures = jnp.maximum(counts.reshape((2, *old.shape)) + block.prior, 0.0)
    total = successes + failures
    new = successes / jnp.where(total > 0, total, 1.0)
    new = Support(np.zeros(()), np.ones(())).inside(new, old)
    return jnp.where(total > 0, new, old)


def update_closed(block: ClosedBlock, posterior, theta, old, sums_of_uses: Sequence[Sums], data):
    collected = [sums(posterior, theta, data) for sums in sums_of_uses]
    sums = [sum(parts).reshape(old.shape) for parts in zip(*collected, strict=True)]
    new = block.link.user(updated(block, sums))
    new = block.support.inside(new, old) if block.support else jnp.maximum(new, SMALLEST_PROBABILITY)
    return jnp.where(jnp.isfinite(new), new, old)


# --- the other parameters ---------------------------------------------------------------------------------


def lower_newton(objective: Objective, block: NewtonBlock) -> Callable:
    """``(u, posterior, theta, data) -> next u``: Newton steps on the expected complete-data log-likelihood."""
    space, groups = objective.space, block.groups
    where, moving = coordinates(space, block.names), set(block.names)
    parts_of = lower_parts(objective, block)

    def maximise(u, posterior, theta, data):
        def values(part):
            moved = space.constrain(u.at[where].set(part))
            return [m if n in moving else t for n, t, m in zip(space.names, theta, moved, strict=True)]

        def expected(part):
            total = objective.expected(values(part), posterior, data)
            return total + objective.prior(*values(part), *data)[0] if objective.estimator == "map" else total

        def parts(part):
            theta = values(part)
            return jnp.where(objective.allowed(theta, data), parts_of(theta, posterior, data), -jnp.inf)

        gradient = jax.grad(expected)
        columns = objective.along(gradient, groups.directions)

        def slopes(part):
            return gradient(part), columns(part)

        return u.at[where].set(newton(parts, slopes, u[where], groups, block.iterations, ENOUGH))

    return maximise


def lower_parts(objective: Objective, block: NewtonBlock) -> Callable:
    """``(parameters, posterior, data) -> (groups,)``, the expected log-likelihood by group."""
    tables, groups = objective.tables, block.groups
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    priors = lower(inputs, list(block.priors), objective.backend)
    others = groups.of_arrays([len(block.terms) + i for i in range(len(block.priors))])
    terms = objective.evaluator.parts(block.terms, lambda positions, a: add_by_group(a, groups.of_arrays(positions)))

    def evaluate(theta, posterior, data):
        return add_by_group(priors(*theta, *data), others) + terms(posterior, theta, data)

    return evaluate
