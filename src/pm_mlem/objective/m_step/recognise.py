"""Which parameters have a closed-form M-step: found by evaluating the tables at two random points.

An entry of a distribution's parameter is *selected* from a model parameter if it equals one of its entries
bit for bit at both points; the positions form the selection map, whose transpose adds up the sufficient
statistics. A parameter takes a closed form only if it owns every term of the objective that depends on it, so
nothing is forgotten (partly observed labels, a Potential, a second use in another distribution).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pymc.distributions.continuous import FlatRV, HalfFlatRV
from pymc.logprob.transforms import SimplexTransform
from pytensor import function
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.basic import DirichletRV
from pytensor.tensor.random.op import RandomVariable

from pm_mlem.graph.structure import PLAIN, Parameter
from pm_mlem.graph.tables import ModelTables, Site
from pm_mlem.graph.tabulate import dependencies
from pm_mlem.objective.m_step.closed_forms import CLOSED_FORMS, CONJUGATE, ClosedForm
from pm_mlem.objective.space import ParameterSpace


@dataclass(frozen=True, eq=False)
class Use:
    """A parameter as one argument of a distribution: entry ``index`` of the flat parameter, -1 for constants."""

    site: int
    role: int
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class ClosedBlock:
    """A parameter that is updated by a closed form; ``prior`` is added to its sums."""

    name: str
    form: ClosedForm
    uses: tuple[Use, ...]
    prior: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class ProbabilityBlock:
    """Probabilities that only enter as their logarithms: the update is normalized expected counts.

    ``uses`` are (term, index of the probability for each entry of its log-density).
    """

    name: str
    uses: tuple[tuple[int, np.ndarray], ...]
    prior: np.ndarray


@dataclass(frozen=True, eq=False)
class MStepPlan:
    """Closed blocks in the order of their updates; the other free parameters take a Newton step."""

    sites: tuple[Site, ...]
    closed: tuple[ClosedBlock | ProbabilityBlock, ...]
    newton: tuple[str, ...]


class Probing:
    """Values of symbolic arrays at two random points of the parameter space."""

    def __init__(self, tables: ModelTables, space: ParameterSpace, seed: int = 20):
        self.inputs = list(tables.free_inputs)
        self.data = tables.data
        rng = np.random.default_rng(seed)
        points = [space.initial + rng.normal(scale=0.3, size=space.size) for _ in range(2)]
        self.theta = [list(space.values(u).values()) for u in points]

    def evaluate(self, arrays: Sequence[Variable]) -> list[list[np.ndarray]]:
        """For each of the two points the values of the arrays."""
        names = [v for v, _ in self.data]
        run = function([*self.inputs, *names], list(arrays), mode=PLAIN, on_unused_input="ignore")
        with np.errstate(all="ignore"):
            return [run(*theta, *[a for _, a in self.data]) for theta in self.theta]


def recognise(tables: ModelTables, space: ParameterSpace, estimator: str) -> MStepPlan:
    """Find the closed forms of a model."""
    sites = tables.sites
    probing = Probing(tables, space)
    parameters = tables.structure.free
    users = {
        p.name: [i for i, d in enumerate(tables.densities) if dependencies([d.array], [p.placeholder])]
        for p in parameters
    }
    closed: list[tuple[int, ClosedBlock | ProbabilityBlock]] = []
    for position, parameter in enumerate(parameters):
        prior = conjugate_prior(parameter, tables) if estimator == "map" else ()
        if prior is None or not users[parameter.name]:
            continue
        found = probability_block(parameter, position, users[parameter.name], tables, probing, prior)
        if found is None:
            found = closed_block(parameter, position, users[parameter.name], sites, tables, probing, prior)
        if found is not None:
            closed.append((found.form.order if isinstance(found, ClosedBlock) else 0, found))
    closed.sort(key=lambda pair: pair[0])
    names = {block.name for _, block in closed}
    newton = tuple(p.name for p in parameters if p.name not in names)
    return MStepPlan(sites, tuple(block for _, block in closed), newton)


def conjugate_prior(parameter: Parameter, tables: ModelTables) -> tuple | None:
    """What a parameter's prior adds to a closed form.

    ``()`` for a flat prior, ``(type of the prior, its parameters...)`` with constant parameters (for a
    Dirichlet: the pseudo-counts), None where the prior does not allow a closed form.
    """
    for term in tables.structure.priors:
        if term.name != parameter.name and parameter.rv in set(ancestors([term.density])):
            return None
    node = parameter.rv.owner
    if isinstance(node.op, FlatRV | HalfFlatRV):
        return ()
    if not isinstance(node.op, RandomVariable):
        return None
    values = [tables.context.lift(p) for p in node.op.dist_params(node)]
    if any(not v.is_constant or v.slots for v in values):
        return None
    if isinstance(node.op, DirichletRV):
        return (values[0].data - 1.0,)
    return (type(node.op), *[v.data for v in values])


def selection(tables: Sequence[np.ndarray], theta: Sequence[np.ndarray], rtol: float = 0.0) -> np.ndarray | None:
    """For each entry of a table the flat position of the parameter entry it equals at both points.

    -1 where the entry is constant; None if any entry is neither.
    """
    flat = [np.ravel(t) for t in theta]
    order = np.argsort(flat[0], kind="stable")
    ranked = flat[0][order]
    values = [np.asarray(t, dtype=float) for t in tables]
    place = np.clip(np.searchsorted(ranked, values[0]), 0, len(ranked) - 1)
    if rtol:
        left = np.clip(place - 1, 0, None)
        place = np.where(np.abs(ranked[left] - values[0]) < np.abs(ranked[place] - values[0]), left, place)
    index = order[place]
    matches = np.all(
        [np.abs(f[index] - v) <= rtol * np.abs(f[index]) for f, v in zip(flat, values, strict=True)], axis=0
    )
    constant = (values[0] == values[1]) & ~matches
    if not np.all(matches | constant) or not np.any(matches):
        return None
    return np.where(matches, index, -1)


def probability_block(parameter, position, users, tables, probing, prior) -> ProbabilityBlock | None:
    """A simplex whose entries only appear as ``log p[i]``."""
    if not isinstance(parameter.transform, SimplexTransform):
        return None
    others = [p.placeholder for p in tables.structure.free if p is not parameter]
    uses = []
    for i in users:
        array = tables.densities[i].array
        if dependencies([array], others):
            return None
        values = [v[0] for v in probing.evaluate([array])]
        with np.errstate(all="ignore"):
            index = selection([np.exp(v) for v in values], [t[position] for t in probing.theta], rtol=1e-10)
        if index is None or np.any(index < 0):
            return None
        uses.append((i, index))
    extra = prior[0] if prior else np.zeros(parameter.shape)
    return ProbabilityBlock(parameter.name, tuple(uses), np.broadcast_to(extra, parameter.shape))


def closed_block(parameter, position, users, sites, tables, probing, prior) -> ClosedBlock | None:
    """A parameter that is one argument of known distributions and nothing else."""
    uses, forms = [], []
    for i in users:
        site = next((s for s in sites if s.term == i), None)
        if site is None:
            return None
        roles = [r for r, a in enumerate(site.parameters) if dependencies([a], [parameter.placeholder])]
        if len(roles) != 1 or (type(site.op), roles[0]) not in CLOSED_FORMS:
            return None
        values = [v[0] for v in probing.evaluate([site.parameters[roles[0]]])]
        index = selection(values, [t[position] for t in probing.theta])
        if index is None:
            return None
        uses.append(Use(sites.index(site), roles[0], index))
        forms.append((type(site.op), roles[0]))
    if len(set(forms)) != 1:
        return None
    if prior:
        if not isinstance(prior[0], type):
            return None
        additions = CONJUGATE.get((*forms[0], prior[0]))
        if additions is None:
            return None
        prior = tuple(np.broadcast_to(a, parameter.shape) for a in additions(*prior[1:]))
    return ClosedBlock(parameter.name, CLOSED_FORMS[forms[0]], tuple(uses), tuple(prior))
