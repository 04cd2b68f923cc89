"""Which parameters have a closed-form M-step: found by evaluating the tables at two random points.

The two points differ in one model parameter only. An entry of a distribution's parameter is *selected* from it if it
equals (bit for bit, or through a link) the same one of its entries at both points; the positions form the selection
map, whose transpose adds up the sufficient statistics. Entries that are the same at both points do not depend on it. A parameter takes a closed form only if it owns every term of the objective that depends on it, so
nothing is forgotten (partly observed labels, a Potential, a second use in another distribution).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pymc.distributions.continuous import FlatRV, HalfFlatRV
from pymc.logprob.transforms import SimplexTransform
from pytensor import function
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.basic import BetaRV, DirichletRV, UniformRV
from pytensor.tensor.random.op import RandomVariable

from pm_mlem.graph.lift.core import materialize
from pm_mlem.graph.structure import PLAIN, Parameter
from pm_mlem.graph.tables import ModelTables, Site
from pm_mlem.graph.tabulate import dependencies
from pm_mlem.objective.m_step.bounds import Support, support
from pm_mlem.objective.m_step.closed_forms import CLOSED_FORMS, LINKS, ClosedForm, Link
from pm_mlem.objective.m_step.coupling import Groups, groups_of_terms, one_group
from pm_mlem.objective.space import ParameterSpace


@dataclass(frozen=True, eq=False)
class Use:
    """A parameter as one argument of a distribution: entry ``index`` of the flat parameter, -1 for constants."""

    site: int
    role: int
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class ClosedBlock:
    """A parameter that is updated by a closed form.

    ``maximise`` is a function of the sums and of the parameters of its ``prior``; ``link`` leads from the
    distribution's parameter back to the user's. A vector of probabilities has no ``support``.
    """

    name: str
    form: ClosedForm
    uses: tuple[Use, ...]
    maximise: Callable
    prior: tuple[np.ndarray, ...]
    link: Link
    support: Support | None


@dataclass(frozen=True, eq=False)
class ProbabilityBlock:
    """Probabilities that only enter as their logarithms: the update is normalized expected counts.

    ``uses`` are (term, index of the probability for each entry of its log-density).
    """

    name: str
    uses: tuple[tuple[int, np.ndarray], ...]
    prior: np.ndarray


@dataclass(frozen=True, eq=False)
class BinaryBlock:
    """Probabilities of two outcomes that only enter as ``log(p)`` and ``log(1 - p)``: expected successes and failures.

    ``uses`` are (term, index into the flat array of p followed by 1 - p, -1 for constants); ``prior`` holds the
    pseudo-counts of the two outcomes, ``(2, *shape)``.
    """

    name: str
    uses: tuple[tuple[int, np.ndarray], ...]
    prior: np.ndarray


@dataclass(frozen=True, eq=False)
class MStepPlan:
    """Closed blocks in the order of their updates; the other free parameters take a Newton step.

    ``terms`` are the terms and ``priors`` the prior densities that depend on the ``newton`` parameters, ``groups`` those
    of their coordinates (in the order of these names) that the terms and the priors couple.
    """

    sites: tuple[Site, ...]
    closed: tuple[ClosedBlock | ProbabilityBlock | BinaryBlock, ...]
    newton: tuple[str, ...]
    terms: tuple[int, ...] = ()
    priors: tuple[Variable, ...] = ()
    groups: Groups = one_group(0)


class Probing:
    """Values of symbolic arrays at random points of the parameter space, two for each parameter.

    The second differs from the first in that parameter only.
    """

    def __init__(self, tables: ModelTables, space: ParameterSpace, seed: int = 20):
        self.inputs = list(tables.free_inputs)
        self.data = tables.data
        rng = np.random.default_rng(seed)
        self.points = tuple(space.initial + rng.normal(scale=0.3, size=space.size) for _ in range(2))
        self.theta = [list(space.values(u).values()) for u in self.points]
        self.space, self.point = space, self.points[0]

    def pair(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """The two values of a parameter."""
        return self.theta[0][position], self.theta[1][position]

    def spans_unit_interval(self, name: str) -> bool:
        """Whether a parameter takes all values between 0 and 1 and no others."""
        where, bounds = self.space.slices[name], (0.0, 1.0)
        if self.space.unconstrained_shapes[name] != self.space.shapes[name]:
            return False
        for far, bound in zip((-60.0, 60.0), bounds, strict=True):
            moved = self.point.copy()
            moved[where] = far
            if not np.allclose(self.space.values(moved)[name], bound, rtol=0, atol=1e-12):
                return False
        return True

    def evaluate(self, array: Variable, position: int) -> list[np.ndarray]:
        """An array at the two points of a parameter."""
        first, second = list(self.theta[0]), list(self.theta[0])
        second[position] = self.theta[1][position]
        names = [v for v, _ in self.data]
        run = function([*self.inputs, *names], array, mode=PLAIN, on_unused_input="ignore")
        with np.errstate(all="ignore"):
            return [run(*theta, *[a for _, a in self.data]) for theta in (first, second)]


def recognise(tables: ModelTables, space: ParameterSpace, estimator: str) -> MStepPlan:
    """Find the closed forms of a model."""
    sites = tables.sites
    probing = Probing(tables, space)
    parameters = tables.structure.free
    users = {
        p.name: [i for i, d in enumerate(tables.densities) if dependencies([d.array], [p.placeholder])]
        for p in parameters
    }
    closed: list[tuple[int, ClosedBlock | ProbabilityBlock | BinaryBlock]] = []
    for position, parameter in enumerate(parameters):
        prior = conjugate_prior(parameter, tables) if estimator == "map" else ()
        if prior is None or not users[parameter.name]:
            continue
        found = probability_block(parameter, position, users[parameter.name], tables, probing, prior)
        if found is None:
            found = binary_block(parameter, position, users[parameter.name], tables, probing, prior)
        if found is None:
            found = closed_block(parameter, position, users[parameter.name], sites, tables, probing, prior)
        if found is not None:
            closed.append((found.form.order if isinstance(found, ClosedBlock) else 0, found))
    closed.sort(key=lambda pair: pair[0])
    names = {block.name for _, block in closed}
    newton = tuple(p.name for p in parameters if p.name not in names)
    blocks = tuple(block for _, block in closed)
    return MStepPlan(sites, blocks, newton, *newton_groups(newton, users, tables, probing, estimator))


def newton_groups(
    names: Sequence[str], users: Mapping[str, Sequence[int]], tables: ModelTables, probing: Probing, estimator: str
) -> tuple[tuple[int, ...], tuple[Variable, ...], Groups]:
    """The terms and priors that depend on parameters, and which of their coordinates they couple."""
    if not names:
        return (), (), one_group(0)
    slices = probing.space.slices
    where = np.concatenate([np.arange(slices[n].start, slices[n].stop) for n in names])
    terms = tuple(sorted({i for n in names for i in users[n]}))
    own = [p.placeholder for p in tables.structure.free if p.name in names]
    priors = prior_arrays(tables, own) if estimator == "map" else ()
    groups = groups_of_terms(tables, terms, priors, probing.space, probing.point, where)
    return terms, priors, groups


def prior_arrays(tables: ModelTables, inputs: Sequence[Variable]) -> tuple[Variable, ...]:
    """The prior log-densities that depend on some of the parameters."""
    structure, context = tables.structure, tables.context
    free = [t for t in structure.priors if t.name not in structure.fixed]
    arrays = [context.symbol(materialize(context.lift(t.density))) for t in free]
    return tuple(a for a in arrays if dependencies([a], inputs))


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


def selection(
    tables: Sequence[np.ndarray], theta: Sequence[np.ndarray], link: Link = LINKS[0], rtol: float | None = None
) -> np.ndarray | None:
    """For each entry of a table the flat position of the parameter entry it equals at both points.

    -1 where the entry does not depend on the parameter; None if any entry depends on it in another way.
    """
    rtol = link.rtol if rtol is None else rtol
    flat = [np.ravel(t) for t in theta]
    order = np.argsort(flat[0], kind="stable")
    ranked = flat[0][order]
    tables = [np.asarray(t, dtype=float) for t in tables]
    values = [np.asarray(link.user(t), dtype=float) for t in tables]
    place = np.clip(np.searchsorted(ranked, values[0]), 0, len(ranked) - 1)
    if rtol:
        left = np.clip(place - 1, 0, None)
        place = np.where(np.abs(ranked[left] - values[0]) < np.abs(ranked[place] - values[0]), left, place)
    index = order[place]
    matches = np.all(
        [np.abs(f[index] - v) <= rtol * np.abs(f[index]) for f, v in zip(flat, values, strict=True)], axis=0
    )
    unmoved = tables[0] == tables[1]
    if not np.all(matches | unmoved) or np.all(unmoved):
        return None
    return np.where(unmoved, -1, index)


def probability_block(parameter, position, users, tables, probing, prior) -> ProbabilityBlock | None:
    """A simplex whose entries only appear as ``log p[i]``."""
    if not isinstance(parameter.transform, SimplexTransform) or (prior and prior[0] is not DirichletRV):
        return None
    others = [p.placeholder for p in tables.structure.free if p is not parameter]
    uses = []
    for i in users:
        array = tables.densities[i].array
        if dependencies([array], others):
            return None
        values = probing.evaluate(array, position)
        with np.errstate(all="ignore"):
            index = selection([np.exp(v) for v in values], probing.pair(position), rtol=1e-10)
        if index is None or np.any(index < 0):
            return None
        uses.append((i, index))
    extra = prior[1] - 1.0 if prior else 0.0
    return ProbabilityBlock(parameter.name, tuple(uses), np.broadcast_to(extra, parameter.shape))


def binary_block(parameter, position, users, tables, probing, prior) -> BinaryBlock | None:
    """Probabilities whose entries only appear as ``log(p[i])`` and ``log(1 - p[i])``."""
    pseudo = beta_counts(prior)
    if pseudo is None or not probing.spans_unit_interval(parameter.name):
        return None
    others = [p.placeholder for p in tables.structure.free if p is not parameter]
    outcomes = [np.stack([p, 1.0 - p]) for p in probing.pair(position)]
    uses = []
    for i in users:
        array = tables.densities[i].array
        if dependencies([array], others):
            return None
        values = probing.evaluate(array, position)
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


def closed_block(parameter, position, users, sites, tables, probing, prior) -> ClosedBlock | None:
    """A parameter that is one argument of known distributions and nothing else."""
    arguments = roles_of(parameter, users, sites)
    if not arguments:
        return None
    forms = {(type(sites[i].op), role) for i, role in arguments}
    form = CLOSED_FORMS.get(*forms) if len(forms) == 1 else None
    if form is None:
        return None
    if form.simplex:
        limits = None
        if not isinstance(parameter.transform, SimplexTransform):
            return None
    else:
        limits = support(parameter, probing.space, probing.points)
        if limits is None:
            return None
    tables_of = [probing.evaluate(sites[i].parameters[role], position) for i, role in arguments]
    found = linked_selection(tables_of, probing.pair(position))
    if found is None:
        return None
    link, indices = found
    uses = tuple(Use(i, role, index) for (i, role), index in zip(arguments, indices, strict=True))
    if not prior:
        return ClosedBlock(parameter.name, form, uses, form.maximise, (), link, limits)
    maximise = form.with_prior.get((link.name, prior[0]))
    if maximise is None:
        return None
    constants = tuple(np.broadcast_to(a, parameter.shape) for a in prior[1:])
    return ClosedBlock(parameter.name, form, uses, maximise, constants, link, limits)


def roles_of(parameter: Parameter, users: Sequence[int], sites: Sequence[Site]) -> list[tuple[int, int]] | None:
    """(site, role) for every term that uses a parameter; None unless each uses it as one argument."""
    found = []
    for i in users:
        place = next((k for k, s in enumerate(sites) if s.term == i), None)
        if place is None:
            return None
        arrays = sites[place].parameters
        roles = [r for r, a in enumerate(arrays) if dependencies([a], [parameter.placeholder])]
        if len(roles) != 1:
            return None
        found.append((place, roles[0]))
    return found


def linked_selection(tables: Sequence, theta: Sequence[np.ndarray]) -> tuple[Link, list[np.ndarray]] | None:
    """The link through which all tables select entries of a parameter, and their selection maps."""
    for link in LINKS:
        indices = []
        for values in tables:
            with np.errstate(all="ignore"):
                index = selection(values, theta, link)
            if index is None:
                break
            indices.append(index)
        else:
            return link, indices
    return None
