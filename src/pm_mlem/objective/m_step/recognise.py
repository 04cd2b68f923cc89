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
from pytensor.tensor.random.basic import BetaRV, DirichletRV, UniformRV
from pytensor.tensor.random.op import RandomVariable

from pm_mlem.graph.held import HeldSimplex
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
    """Closed blocks in the order of their updates; the other free parameters take a Newton step."""

    sites: tuple[Site, ...]
    closed: tuple[ClosedBlock | ProbabilityBlock | BinaryBlock, ...]
    newton: tuple[str, ...]


class Probing:
    """Values of symbolic arrays at two random points of the parameter space."""

    def __init__(self, tables: ModelTables, space: ParameterSpace, seed: int = 20):
        self.inputs = list(tables.free_inputs)
        self.data = tables.data
        rng = np.random.default_rng(seed)
        points = [space.initial + rng.normal(scale=0.3, size=space.size) for _ in range(2)]
        self.theta = [list(space.values(u).values()) for u in points]
        self.space, self.point = space, points[0]

    def spans_unit_interval(self, name: str) -> bool:
        """Whether a parameter takes all values between 0 and 1 and no others."""
        where, bounds = self.space.slices[name], (0.0, 1.0)
        free = self.space.is_free(name)
        if np.prod(self.space.unconstrained_shapes[name], dtype=np.int64) != np.count_nonzero(free):
            return False
        for far, bound in zip((-60.0, 60.0), bounds, strict=True):
            moved = self.point.copy()
            moved[where] = far
            if not np.allclose(self.space.values(moved)[name][free], bound, rtol=0, atol=1e-12):
                return False
        return True

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
    if not isinstance(parameter.transform, SimplexTransform | HeldSimplex):
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


def binary_block(parameter, position, users, tables, probing, prior) -> BinaryBlock | None:
    """Probabilities whose entries only appear as ``log(p[i])`` and ``log(1 - p[i])``."""
    pseudo = beta_counts(prior)
    if pseudo is None or not probing.spans_unit_interval(parameter.name):
        return None
    others = [p.placeholder for p in tables.structure.free if p is not parameter]
    outcomes = [np.stack([t[position], 1.0 - t[position]]) for t in probing.theta]
    uses = []
    for i in users:
        array = tables.densities[i].array
        if dependencies([array], others):
            return None
        values = [v[0] for v in probing.evaluate([array])]
        with np.errstate(all="ignore"):
            index = selection([np.exp(v) for v in values], outcomes, rtol=1e-10)
        if index is None:
            return None
        uses.append((i, index))
    extra = [np.broadcast_to(a, parameter.shape) for a in pseudo]
    return BinaryBlock(parameter.name, tuple(uses), np.stack(extra))


def beta_counts(prior: tuple) -> tuple | None:
    """What a prior adds to the counts of successes and failures; None where it is no Beta or Uniform."""
    if not prior:
        return 0.0, 0.0
    if prior[0] is BetaRV:
        return prior[1] - 1.0, prior[2] - 1.0
    return (0.0, 0.0) if prior[0] is UniformRV else None


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
        if parameter.held is not None and site.op.ndim_supp:
            return None  # the maximum in some entries given the others is another one
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
