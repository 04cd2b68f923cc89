"""Which parameters have a closed-form M-step, which are described by sums of the data, and which are neither.

The selection map from a parameter to a distribution's arguments is found by probing (see :mod:`probing
<pm_mlem.objective.m_step.probing>`); its transpose adds up the sufficient statistics. A parameter takes a closed form
only if it owns every term of the objective that depends on it, so nothing is forgotten (partly observed labels, a
Potential, a second use in another distribution).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pymc.distributions.continuous import FlatRV, HalfFlatRV
from pymc.logprob.transforms import SimplexTransform
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.basic import BetaRV, DirichletRV, MvNormalRV, UniformRV
from pytensor.tensor.random.op import RandomVariable

from pm_mlem.graph.roles.held import HeldSimplex
from pm_mlem.graph.roles.structure import Parameter
from pm_mlem.graph.tables.model_tables import ModelTables, Site
from pm_mlem.graph.tables.sites import rows_share
from pm_mlem.graph.tables.tabulate import dependencies
from pm_mlem.objective.lowering.lower import Backend
from pm_mlem.objective.m_step.blocks import (
    BinaryBlock,
    Block,
    ClosedBlock,
    MStepPlan,
    NewtonBlock,
    ProbabilityBlock,
    Use,
)
from pm_mlem.objective.m_step.bounds import support
from pm_mlem.objective.m_step.closed_forms import CLOSED_FORMS
from pm_mlem.objective.m_step.coupling import coordinates, groups_of_terms
from pm_mlem.objective.m_step.medians import LOCATION, median_block
from pm_mlem.objective.m_step.mvnormal import covariance_block, mean_block
from pm_mlem.objective.m_step.probing import Probing, linked_selection, selection
from pm_mlem.objective.m_step.reduced import reduced_block
from pm_mlem.objective.space import ParameterSpace

ITERATIONS = 10
"""Newton steps over the data in one M-step, where they go to the maximum."""
ROWS_OF_AN_ARGUMENT = 4
"""Entries of a log-density for each entry of an argument that many rows share, at least."""


def recognise(
    tables: ModelTables, space: ParameterSpace, estimator: str, backend: Backend = "jax", *, joint: bool = True
) -> MStepPlan:
    """Decide how each free parameter is updated.

    With ``joint`` closed forms that only climb give way to a maximum over all parameters of their distribution, where
    some of these have no closed form.
    """
    probing = Probing(tables, space)
    parameters = tables.structure.free
    users = {
        p.name: [
            i
            for i, d in enumerate(tables.densities)
            if i not in tables.of_prior and dependencies([d.array], [p.placeholder])
        ]
        for p in parameters
    }
    closed: list[Block] = []
    for parameter in parameters:
        prior = conjugate_prior(parameter, tables) if estimator == "map" else ()
        if prior is None or not users[parameter.name]:
            continue
        found = closed_form(parameter, users[parameter.name], tables, probing, prior)
        if found is not None:
            closed.append(found)
    if joint:
        closed = [b for b in closed if not gives_way(b, closed, tables)]
    closed.sort(key=lambda block: block.order)
    names = {block.name for block in closed}
    remaining = [p for p in parameters if p.name not in names and len(coordinates(space, [p.name]))]
    priors = tables.priors if estimator == "map" else ()
    # Newton steps on sums need derivatives forwards, which callbacks do not have
    reduced = reduced_block(remaining, users, tables, probing, priors) if backend == "jax" else None
    names |= set(reduced.names) if reduced else set()
    newton = newton_block([p for p in remaining if p.name not in names], users, tables, probing, priors)
    return MStepPlan(tables.sites, tuple(closed), reduced, newton)


def gives_way(block: Block, closed: Sequence[Block], tables: ModelTables) -> bool:
    """Whether a closed form only climbs where Newton steps in all parameters of its distributions find the maximum."""
    if not isinstance(block, ClosedBlock) or block.form.maximal:
        return False
    names = {b.name for b in closed}
    others = [p for p in tables.structure.free if p.name not in names]
    used = [tables.sites[use.site] for use in block.uses]
    coupled = any(dependencies(site.parameters, [p.placeholder for p in others]) for site in used)
    return coupled and many_rows_share(tables.structure.free, [site.term for site in used], tables)


def closed_form(
    parameter: Parameter, users: Sequence[int], tables: ModelTables, probing: Probing, prior: tuple
) -> Block | None:
    """The closed form of a parameter that only these terms depend on."""
    found = probability_block(parameter, users, tables, probing, prior)
    if found is None:
        found = binary_block(parameter, users, tables, probing, prior)
    arguments = roles_of(parameter, users, tables.sites, probing) if found is None else None
    if not arguments:
        return found
    kinds = {(type(tables.sites[i].op), role) for i, role in arguments}
    joint = {(MvNormalRV, 0), (MvNormalRV, 1)}
    if parameter.held is not None and kinds & joint:
        return None  # the maximum in some entries given the others is another one
    if kinds == {(MvNormalRV, 0)}:
        return mean_block(parameter, arguments, tables, probing, prior)
    if kinds == {(MvNormalRV, 1)}:
        return covariance_block(parameter, arguments, tables, probing, prior)
    if kinds == {LOCATION}:
        return median_block(parameter, arguments, tables, probing, prior)
    if len(kinds) == 1 and kinds <= set(CLOSED_FORMS):
        return closed_block(parameter, arguments, tables, probing, prior)
    return None


def newton_block(
    parameters: Sequence[Parameter],
    users: Mapping[str, Sequence[int]],
    tables: ModelTables,
    probing: Probing,
    priors: Sequence[Variable],
) -> NewtonBlock | None:
    """The parameters that nothing else is known of."""
    if not parameters:
        return None
    names = tuple(p.name for p in parameters)
    terms = tuple(sorted({i for n in names for i in users[n]}))
    own = tuple(a for a in priors if dependencies([a], [p.placeholder for p in parameters]))
    where = coordinates(probing.space, names)
    groups = groups_of_terms(tables, terms, own, probing.space, probing.point, where)
    return NewtonBlock(names, terms, own, groups, ITERATIONS if many_rows_share(parameters, terms, tables) else 1)


def many_rows_share(parameters: Sequence[Parameter], terms: Sequence[int], tables: ModelTables) -> bool:
    """Whether parameters reach terms through arguments of distributions that are the same for many rows.

    A single Newton step is as good as several where each row has its own, in regressions: they cost twice as much, and
    EM takes as many iterations all the same.
    """
    rvs = [p.rv for p in parameters]
    return all(rows_share(tables.densities[i], rvs, ROWS_OF_AN_ARGUMENT, tables.context) for i in terms)


def conjugate_prior(parameter: Parameter, tables: ModelTables) -> tuple | None:
    """What a parameter's prior adds to a closed form.

    ``()`` for a prior that is flat on its support, ``(type of the prior, its parameters...)`` with constant parameters,
    None where the prior does not allow a closed form.
    """
    for term in tables.structure.priors:
        if term.name != parameter.name and parameter.rv in set(ancestors([term.density])):
            return None
    node = parameter.rv.owner
    if isinstance(node.op, FlatRV | HalfFlatRV | UniformRV):
        return ()
    if not isinstance(node.op, RandomVariable):
        return None
    values = [tables.context.lift(p) for p in node.op.dist_params(node)]
    if any(not v.is_constant or v.slots for v in values):
        return None
    return (type(node.op), *[v.data for v in values])


def probability_block(parameter, users, tables, probing, prior) -> ProbabilityBlock | None:
    """A simplex whose entries only appear as ``log p[i]``."""
    simplex = isinstance(parameter.transform, SimplexTransform | HeldSimplex)
    if not simplex or (prior and prior[0] is not DirichletRV):
        return None
    others = [p.placeholder for p in tables.structure.free if p is not parameter]
    uses = []
    for i in users:
        array = tables.densities[i].array
        if dependencies([array], others):
            return None
        values = probing.evaluate(array, parameter)
        with np.errstate(all="ignore"):
            index = selection([np.exp(v) for v in values], probing.pair(parameter), rtol=1e-10)
        if index is None:
            return None
        uses.append((i, index))
    extra = prior[1] - 1.0 if prior else 0.0
    return ProbabilityBlock(parameter.name, tuple(uses), np.broadcast_to(extra, parameter.shape))


def binary_block(parameter, users, tables, probing, prior) -> BinaryBlock | None:
    """Probabilities whose entries only appear as ``log(p[i])`` and ``log(1 - p[i])``."""
    pseudo = beta_counts(prior)
    if pseudo is None or not probing.spans_unit_interval(parameter.name):
        return None
    others = [p.placeholder for p in tables.structure.free if p is not parameter]
    outcomes = [np.stack([p, 1.0 - p]) for p in probing.pair(parameter)]
    uses = []
    for i in users:
        array = tables.densities[i].array
        if dependencies([array], others):
            return None
        values = probing.evaluate(array, parameter)
        with np.errstate(all="ignore"):
            index = selection([np.exp(v) for v in values], outcomes, rtol=1e-10)
        if index is None:
            return None
        uses.append((i, index))
    extra = [np.broadcast_to(a, parameter.shape) for a in pseudo]
    return BinaryBlock(parameter.name, tuple(uses), np.stack(extra))


def beta_counts(prior: tuple) -> tuple | None:
    """What a prior adds to the counts of successes and failures; None where it is no Beta."""
    if not prior:
        return 0.0, 0.0
    if prior[0] is BetaRV:
        return prior[1] - 1.0, prior[2] - 1.0
    return None


def closed_block(parameter, arguments, tables, probing, prior) -> ClosedBlock | None:
    """A parameter that is one argument of one known distribution and nothing else."""
    sites = tables.sites
    form = CLOSED_FORMS[type(sites[arguments[0][0]].op), arguments[0][1]]
    limits = None if form.simplex else support(parameter, probing.space, probing.points)
    if limits is None and not (form.simplex and isinstance(parameter.transform, SimplexTransform)):
        return None
    arrays = [probing.evaluate(sites[i].parameters[role], parameter) for i, role in arguments]
    found = linked_selection(arrays, probing.pair(parameter))
    if found is None:
        return None
    link, indices = found
    uses = tuple(Use(i, role, index) for (i, role), index in zip(arguments, indices, strict=True))
    maximise = form.with_prior.get((link.name, prior[0])) if prior else form.maximise
    if maximise is None:
        return None
    constants = tuple(np.broadcast_to(a, parameter.shape) for a in prior[1:])
    return ClosedBlock(parameter.name, form, uses, maximise, constants, link, limits)


def roles_of(
    parameter: Parameter, users: Sequence[int], sites: Sequence[Site], probing: Probing
) -> list[tuple[int, int]] | None:
    """(site, role) for every term that uses a parameter; None unless each uses it as one argument.

    An argument may contain the parameter and not depend on it: a mean that is given the shape of a covariance.
    """
    found = []
    for i in users:
        place = next((k for k, s in enumerate(sites) if s.term == i), None)
        if place is None:
            return None
        arrays = dict(enumerate(sites[place].parameters))
        roles = [r for r, a in arrays.items() if dependencies([a], [parameter.placeholder])]
        if len(roles) > 1:
            roles = [r for r in roles if not np.array_equal(*probing.evaluate(arrays[r], parameter), equal_nan=True)]
        if len(roles) != 1:
            return None
        found.append((place, roles[0]))
    return found
