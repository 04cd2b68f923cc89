"""One EM iteration as a pure function: the E-step by differentiation, the M-step block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.m_step.blocks import MStepPlan, NewtonBlock
from pm_mlem.objective.m_step.coupling import coordinates
from pm_mlem.objective.m_step.newton import add_by_group, newton
from pm_mlem.objective.m_step.passes import passes_of
from pm_mlem.objective.m_step.recognise import recognise
from pm_mlem.objective.objective import Objective

ENOUGH = 1e-6
"""Gain in the expected log-likelihood below which the maximum is one Newton step away."""


def em_map(objective: Objective, plan: MStepPlan | None = None) -> Callable:
    """``(u, weights, data, given, use_given) -> (next u, value at u)``.

    The posterior weights of all tables are the gradient of the log-likelihood with respect to the log-density
    arrays, whatever the structure of the latents. With ``use_given`` the weights ``given`` take their place (a
    start from labels that were guessed, say; None where large arrays should not be passed in vain), without those of
    impossible states. Parameters with a closed form and those that the data reach through a few sums are updated by
    :mod:`passes <pm_mlem.objective.m_step.passes>` over the rows; the remaining ones take safeguarded Newton steps on
    the expected complete-data log-likelihood (plus the log-prior under "map"): to its maximum where they are arguments
    of distributions that many rows share, one step otherwise.
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
    """``(u, posterior weights, data) -> next u``: the passes over the rows, then Newton steps."""
    passes = passes_of(objective, plan)
    climb = lower_newton(objective, plan.newton) if plan.newton else None

    def maximise(u, posterior, data):
        u = jnp.asarray(u)
        for one in passes:
            u = one.update(one.statistics(posterior, objective.space.constrain(u), data), u, data)
        return climb(u, posterior, data) if climb else u

    return maximise


def e_step(objective: Objective, theta: Sequence, weights, data):
    """Log-likelihood and its derivative with respect to every log-density array."""
    value, posterior = objective.evaluator.e_step(theta, weights, data)
    return jnp.where(objective.allowed(theta, data), value, -jnp.inf), posterior


# --- Newton steps over the data ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DataSums:
    """What Newton steps over the data need to know of the rows at a point; the prior is no part of it.

    Attributes
    ----------
    values : ``(posterior, parameters, data) -> (groups,)``, the expected log-likelihood by group; additive over rows
    slopes : ``(posterior, u, data) -> (gradient, columns)`` of its sum by the block's coordinates, columns the products
        of the Hessian with ``groups.directions``; both additive over rows
    """

    values: Callable
    slopes: Callable


def data_sums(objective: Objective, block: NewtonBlock) -> DataSums:
    """The sums of a block over the rows."""
    groups = block.groups
    values = objective.evaluator.parts(block.terms, lambda at, arrays: add_by_group(arrays, groups.of_arrays(at)))

    def slopes(posterior, u, data):
        theta = objective.space.constrain(u)

        def expected(part):
            return objective.expected(put_in(objective, block, u, theta, part), posterior, data)

        return slopes_of(objective, block, expected)(u[coordinates(objective.space, block.names)])

    return DataSums(values, slopes)


def put_in(objective: Objective, block: NewtonBlock, u, theta: Sequence, part) -> list:
    """The parameters ``theta`` of a point with other coordinates of the block's; all others are left as they are."""
    space, moving = objective.space, set(block.names)
    moved = space.constrain(u.at[coordinates(space, block.names)].set(part))
    return [m if n in moving else t for n, t, m in zip(space.names, theta, moved, strict=True)]


def slopes_of(objective: Objective, block: NewtonBlock, function: Callable) -> Callable:
    """Gradient of a function of the block's coordinates, and its Hessian's products with the groups' directions."""
    gradient = jax.grad(function)
    columns = objective.along(gradient, block.groups.directions)
    return lambda part: (gradient(part), columns(part))


def lower_newton(objective: Objective, block: NewtonBlock) -> Callable:
    """``(u, posterior, data) -> next u``: Newton steps on the expected complete-data log-likelihood."""
    tables, groups = objective.tables, block.groups
    where = coordinates(objective.space, block.names)
    sums = data_sums(objective, block)
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    priors = lower(inputs, list(block.priors), objective.backend)
    others = groups.of_arrays([len(block.terms) + i for i in range(len(block.priors))])

    def maximise(u, posterior, data):
        theta = objective.space.constrain(u)

        def values(part):
            at = put_in(objective, block, u, theta, part)
            found = add_by_group(priors(*at, *data), others) + sums.values(posterior, at, data)
            return jnp.where(objective.allowed(at, data), found, -jnp.inf)

        def prior(part):
            return objective.prior(*put_in(objective, block, u, theta, part), *data)[0]

        def slopes(part):
            found = sums.slopes(posterior, u.at[where].set(part), data)
            if objective.estimator != "map":
                return found
            return jax.tree.map(jnp.add, found, slopes_of(objective, block, prior)(part))

        return u.at[where].set(newton(values, slopes, u[where], groups, block.iterations, ENOUGH))

    return maximise
