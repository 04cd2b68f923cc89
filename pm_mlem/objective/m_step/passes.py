"""The M-step as a sequence of passes over the rows: sums, and what is made of them.

A pass is a pair of functions. ``statistics`` adds up over the rows and gives a *tree*, a pytree of arrays whose shapes
do not depend on the number of rows; ``update`` makes new parameters of it and reads no row. The trees of parts of the
data add up to that of the whole, so they may come from chunks, from blocks of a file, from several machines, or from a
decaying average. Where an update needs the result of an earlier one in its sums (a variance about the new mean), it
waits for the next pass; what does not is taken together, so there are as few passes as that allows. Means and
covariances of multivariate Normal distributions share one pass: their products about the old mean are moved to the new
one. A Normal distribution's squares are not: far from the mean the difference would lose the variance.

Who adds up where the data are no array in memory has to supply

1. the tree of every pass, for the posterior at the point where the M-step began and the parameters of the moment;
2. for the parameters of ``plan.newton``: the sums of :class:`DataSums <pm_mlem.objective.m_step.step.DataSums>`
   whenever the climb asks for them, values at every point that it tries and slopes at every one that it accepts;
3. what ``gather`` takes all rows for: weighted medians, which are no sums. A pass with one is not ``additive``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from pm_mlem.graph.tables.tabulate import dependencies
from pm_mlem.objective.evaluators.protocol import Summand
from pm_mlem.objective.m_step.blocks import (
    BinaryBlock,
    ClosedBlock,
    MedianBlock,
    MStepPlan,
    ProbabilityBlock,
)
from pm_mlem.objective.m_step.entries import lower_binary, lower_closed, lower_probabilities
from pm_mlem.objective.m_step.medians import lower_median
from pm_mlem.objective.m_step.mvnormal import LOWERED_MVNORMAL
from pm_mlem.objective.m_step.reduced import lower_reduced
from pm_mlem.objective.m_step.updates import Climb, Update
from pm_mlem.objective.objective import Objective

LOWERED = {
    ProbabilityBlock: lower_probabilities,
    BinaryBlock: lower_binary,
    ClosedBlock: lower_closed,
    MedianBlock: lower_median,
    **LOWERED_MVNORMAL,
}


@dataclass(frozen=True, eq=False)
class Pass:
    """One reading of the rows in an M-step.

    Attributes
    ----------
    names : the parameters that it updates
    additive : whether the trees of parts of the rows add up to that of all rows
    statistics : ``(posterior, parameters, data) -> tree``
    update : ``(tree, u, data) -> next u``, with ``u`` the point at which the tree was formed; of the data only what is
        the same for all rows is read
    """

    names: tuple[str, ...]
    additive: bool
    statistics: Callable
    update: Callable


def passes_of(objective: Objective, plan: MStepPlan) -> list[Pass]:
    """The passes of a plan, without the Newton steps over the data that come after them."""
    shared: dict = {}  # what several blocks make of the same rows
    steps: list[Update | Climb] = [LOWERED[type(b)](objective, plan.sites, b, shared) for b in plan.closed]
    if plan.reduced is not None:
        steps.append(lower_reduced(objective, plan.reduced))
    places = in_passes(objective, steps)
    return [
        pass_of(objective, [s for s, place in zip(steps, places, strict=True) if place == number])
        for number in range(max(places, default=-1) + 1)
    ]


def in_passes(objective: Objective, steps: Sequence[Update | Climb]) -> list[int]:
    """The number of the pass of each step, given in the order in which they are taken.

    Every sum sees the parameters that it would see if each step were a pass of its own.
    """
    structure = objective.tables.structure
    name_of = {p.placeholder: p.name for p in structure.free}

    def names(arrays) -> set[str]:
        return {name_of[v] for v in dependencies(list(arrays), list(name_of))}

    reads = [names(s.reads) for s in steps]
    looks = [names(s.follows) if isinstance(s, Update) else set(name_of.values()) for s in steps]
    places: list[int] = []
    for i, step in enumerate(steps):
        place = 0
        for j, earlier in enumerate(steps[:i]):
            if reads[i] & set(earlier.names):
                place = max(place, places[j] + 1)
            elif looks[i] & set(earlier.names) or (reads[j] | looks[j]) & set(step.names):
                place = max(place, places[j])
        places.append(place)
    return places


def pass_of(objective: Objective, steps: Sequence[Update | Climb]) -> Pass:
    """The pass that takes some steps, one after the other."""
    updates = [s for s in steps if isinstance(s, Update)]
    climbs = [s for s in steps if isinstance(s, Climb)]  # these come last
    summands: list[Summand] = list(dict.fromkeys(t for s in steps for t in s.summands))
    number = {summand: i for i, summand in enumerate(summands)}
    gathering = [s for s in updates if s.gather is not None]
    add_up = objective.evaluator.sums(summands)

    def statistics(posterior, theta, data):
        gathered = {s.name: s.gather(posterior, theta, data) for s in gathering}
        return {"sums": add_up(posterior, theta, data), "gathered": gathered}

    def sums_of(tree, step: Update | Climb) -> list:
        own = [tree["sums"][number[s]] for s in step.summands]
        return own if step not in gathering else [*own, tree["gathered"][step.name]]

    def update(tree, u, data):
        u = settled(objective, u, updates, lambda step: sums_of(tree, step), data) if updates else u
        for step in climbs:
            u = step.climb(sums_of(tree, step), u, data)
        return u

    return Pass(tuple(n for s in steps for n in s.names), not gathering, statistics, update)


def settled(objective: Objective, u, updates: Sequence[Update], sums_of: Callable, data):
    """The point after updates with closed forms; a parameter whose new value has no coordinates keeps the old ones."""
    space = objective.space
    before = list(space.constrain(u))
    now = list(before)
    where = [space.names.index(step.name) for step in updates]
    for i, step in zip(where, updates, strict=True):
        new = step.make(sums_of(step), now[i], before, now, data)
        now[i] = jnp.where(space.is_free(step.name), new, now[i])
    parts, moved = list(space.split(u)), space.unconstrain_arrays(*now)
    for i in where:
        parts[i] = jnp.where(jnp.all(jnp.isfinite(moved[i])), moved[i], parts[i])
    return space.join(parts)
