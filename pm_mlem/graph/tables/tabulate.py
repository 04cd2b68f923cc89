"""From roles to tables: the symbolic functions that everything else is computed from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.elimination import Elimination, eliminate
from pm_mlem.graph.elimination.factors import Factor, by_state, factorize
from pm_mlem.graph.lift import Context, Lifted, Refusal, Slot
from pm_mlem.graph.lift.core import materialize
from pm_mlem.graph.lift.parts import lift_parts
from pm_mlem.graph.roles.families import context_of, unfold
from pm_mlem.graph.roles.structure import LatentVector, ModelStructure, Parameter, Term, named
from pm_mlem.graph.roles.symbols import tensor
from pm_mlem.graph.roles.transforms import initial_values
from pm_mlem.graph.tables.mixed_priors import sum_out
from pm_mlem.graph.tables.model_tables import DensityTerm, DerivedValue, MixedPriors, ModelTables, Probe
from pm_mlem.graph.tables.sites import find_sites
from pm_mlem.graph.tables.undefined import check_missing


def tabulate(structure: ModelStructure, *, with_prior: bool) -> ModelTables:
    """Lift every term of a model and plan the summation of its latents.

    ``with_prior`` adds the prior densities of the parameters (``log_prior`` is 0 otherwise).
    """
    inputs = {id(array): (variable, array) for variable, array in structure.inputs.values()}

    def sample() -> dict[Variable, np.ndarray]:
        values = dict(zip([p.placeholder for p in structure.free], initial_values(structure), strict=True))
        return {**values, **dict(structure.inputs.values())}

    context = Context(dict(structure.leaves), inputs, sample=sample)
    densities, factors = [], []
    for term in structure.terms:
        with named(term.name):
            own = context_of(term.family, context)
            parts = [own.lift(term.density)] if term.only else lift_parts(term.density, own)
        for part in parts:
            lifted = unfold(part, term.family, context)
            density = density_term(term, lifted, len(densities), len(parts) == 1, context)
            if not term.only:
                factors += factorize(term.name, len(densities), stand_in(density), structure.vectors, context)
            densities.append(density)
        check_missing(context, term, structure)
    factors += conditional_factors(densities, structure, context)
    guards = tuple(context.guards)
    elimination = eliminate(factors, structure.vectors, context)
    priors, mixed = prior_densities(structure, densities, factors, context) if with_prior else ((), None)
    log_prior = pt.add(pt.constant(0.0), *[a.sum() for a in priors])
    prior_guards = tuple(context.guards[len(guards) :])
    derived, skipped = lift_deterministics(structure, context)
    sites = find_sites(densities, context)
    if mixed is not None:
        densities += mixed.densities
    known = [*factors, *(mixed.factors if mixed is not None else ())]
    probes = Probes(structure, context, len(densities), known, elimination)
    probes.add_all([(v.name, whole(v)) for v in structure.vectors])
    by_element = probes.probed
    reported = tuple(filter(None, map(probes.serve, derived)))
    check_missing(context, None, structure)
    return ModelTables(
        structure, tuple(densities), tuple(factors), elimination, log_prior, guards, prior_guards,
        reported, {**skipped, **probes.failed}, probes.chosen, probes.probed, by_element, sites, context,
        priors, mixed,
    )  # fmt: skip


def density_term(term: Term, lifted: Lifted, index: int, whole: bool, context: Context) -> DensityTerm:
    array = context.symbol(lifted)
    shape = tuple(s.size for s in lifted.slots) + lifted.array_shape
    placeholder = pt.tensor(f"density_{index}", dtype=array.type.dtype, shape=shape)
    return DensityTerm(term, lifted, array, placeholder, whole)


def stand_in(density: DensityTerm) -> Lifted:
    return Lifted(density.lifted.shape, density.lifted.slots, symbol=density.input)


def conditional_factors(
    densities: Sequence[DensityTerm], structure: ModelStructure, context: Context
) -> Iterator[Factor]:
    """The factors of terms that only count in one state of a latent, those of one latent together."""
    groups: dict[Variable, dict[int, int]] = {}
    for i, density in enumerate(densities):
        if density.term.only is not None:
            latent, state = density.term.only
            groups.setdefault(latent, {})[state] = i
    for latent, members in groups.items():
        values = {state: stand_in(densities[i]) for state, i in members.items()}
        first = min(members.values())
        for table in by_state(values, context.lift(latent), context):
            yield from factorize(densities[first].term.name, first, table, structure.vectors, context)


def prior_densities(
    structure: ModelStructure, densities: Sequence[DensityTerm], factors: Sequence[Factor], context: Context
) -> tuple[tuple[Variable, ...], MixedPriors | None]:
    """The log-densities of the free parameters, to be added up, and those of priors that read latents."""
    found, mixed, tables = [], [], []
    for term in structure.priors:
        if term.name in structure.fixed:
            continue
        with named(term.name):
            lifted = context.lift(term.density)
        if not lifted.slots:
            found.append(context.symbol(materialize(lifted)))
            continue
        index = len(densities) + len(mixed)
        mixed.append(density_term(term, lifted, index, True, context))
        tables += factorize(term.name, index, stand_in(mixed[-1]), structure.vectors, context)
    if not mixed:
        return tuple(found), None
    summed = sum_out(mixed, tables, densities, factors, structure, context)
    return (*found, summed.total), summed


def lift_deterministics(structure: ModelStructure, context: Context):
    derived, skipped = [], {}
    for variable in structure.deterministics:
        try:
            lifted = context.lift(variable)
        except Refusal as refusal:
            skipped[variable.name] = refusal.reason
            continue
        derived.append(DerivedValue(variable.name, lifted, context.symbol(lifted)))
    return tuple(derived), skipped


@dataclass
class Probes:
    """Zero tables for every vector of latents and for what Deterministics read of several, and sums that include them.

    Attributes
    ----------
    structure, context : of the model
    n_terms : how many log-density arrays there are
    factors : those of the model and of the probes
    probed : the elimination of all of them
    chosen : the probes
    failed : name -> reason for those that couple latents in a way that cannot be summed out
    known : what Deterministics read -> the name of the probe for it
    """

    structure: ModelStructure
    context: Context
    n_terms: int
    factors: list[Factor]
    probed: Elimination
    chosen: tuple[Probe, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    known: dict[tuple, str] = field(default_factory=dict)

    def add_all(self, wanted: Sequence[tuple[str, Lifted]]) -> None:
        """Several tables; one after the other where the sum that includes all of them cannot be formed."""
        try:
            self.include(wanted)
        except UnsupportedModelError:
            for name, lifted in wanted:
                self.add(name, lifted)

    def add(self, name: str, lifted: Lifted) -> bool:
        """One more table, if the sum that includes it can be formed."""
        try:
            self.include([(name, lifted)])
        except UnsupportedModelError as error:
            self.failed[name] = str(error)
            return False
        return True

    def include(self, wanted: Sequence[tuple[str, Lifted]]) -> None:
        chosen, extra = list(self.chosen), []
        for name, lifted in wanted:
            shape = tuple(s.size for s in lifted.slots) + lifted.shape
            zeros = tensor(f"probe_{name}", dtype="float64", shape=shape)
            stand_in = Lifted(lifted.shape, lifted.slots, symbol=zeros)
            extra += factorize(name, self.n_terms + len(chosen), stand_in, self.structure.vectors, self.context)
            chosen.append(Probe(name, zeros, shape))
        self.probed = eliminate([*self.factors, *extra], self.structure.vectors, self.context)
        self.factors += extra
        self.chosen = tuple(chosen)

    @cached_property
    def vector_of(self) -> dict[int, tuple[str, int]]:
        """For every latent element the probe of its vector and its place there."""
        served = {p.name for p in self.chosen}
        vectors = [v for v in self.structure.vectors if v.name in served]
        return {int(e): (v.name, i) for v in vectors for i, e in enumerate(v.elements)}

    def serve(self, value: DerivedValue) -> DerivedValue | None:
        """A Deterministic with its probe; None where it cannot be reported.

        One that reads a single element for each of its entries needs none of its own, and those that read the same
        elements share one: a model may have thousands.
        """
        lifted = value.lifted
        if not lifted.slots:
            return value
        addresses = [np.broadcast_to(s.address, lifted.shape) for s in lifted.slots]
        if len(addresses) == 1 and addresses[0].size:
            found = [self.vector_of.get(int(e)) for e in addresses[0].ravel()]
            names = {place[0] if place else None for place in found}
            if len(names) == 1 and None not in names:
                places = np.array([place[1] for place in found if place]).reshape(lifted.shape)
                return replace(value, probe=names.pop(), places=places)
        key = (lifted.shape, *[(s.lower, s.size, a.tobytes()) for s, a in zip(lifted.slots, addresses, strict=True)])
        if key not in self.known:
            if not self.add(value.name, lifted):
                return None
            self.known[key] = value.name
        return replace(value, probe=self.known[key])


def whole(vector: LatentVector) -> Lifted:
    """All elements of a vector, as a value that reads them."""
    states = np.arange(vector.states).reshape(-1, 1)
    return Lifted((vector.n_elements,), (Slot(0, vector.states, vector.elements),), data=states)


def dependencies(outputs: Sequence[Variable], inputs: Sequence[Variable]) -> set[Variable]:
    """Which of the inputs the outputs depend on."""
    return set(inputs) & set(ancestors(outputs))


def check_informed(tables: ModelTables) -> None:
    """Refuse parameters that the likelihood does not depend on.

    Raises
    ------
    UnsupportedModelError
        A parameter that appears in no data term: a hyper-parameter of priors that maximum likelihood drops,
        or a variable that nothing uses.
    """
    used = dependencies([d.array for d in tables.densities], tables.free_inputs)
    for parameter in tables.structure.free:
        if parameter.placeholder not in used:
            raise UnsupportedModelError(uninformed(parameter, tables.structure))


def uninformed(parameter: Parameter, structure: ModelStructure) -> str:
    name = parameter.name
    children = [t.name for t in structure.priors if t.name != name and parameter.rv in set(ancestors([t.density]))]
    above = [p.name for p in structure.free if p.rv is not parameter.rv and p.rv in set(ancestors([parameter.rv]))]
    if not children and above:
        names = ", ".join(map(repr, above))
        return (
            f"'{name}' is a continuous latent variable: the data inform it through {names} alone, on which its "
            "distribution depends. Maximum likelihood would integrate it out, which is not implemented for continuous "
            "variables; without it the model would be another one. Where it stands for censored observations, observe "
            "them: pm.Censored('y', pm.Normal.dist(...), lower=None, upper=bound, observed=values). Where it stands "
            "for predictions, draw them after the fit: Fit.sample_posterior_predictive."
        )
    if not children:
        return (
            f"'{name}' does not enter the likelihood, so it has no maximum-likelihood estimate: remove it, hold it "
            f"with fixed={{'{name}': ...}}, or use estimator='map'."
        )
    names = ", ".join(map(repr, children))
    return (
        f"'{name}' only appears in the prior of {names}, which maximum likelihood drops: integrate out its children "
        f"with latents=[{names}], or use estimator='map'."
    )
