"""Sorting the variables of a PyMC model into their roles."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import pairwise

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors
from pytensor.scalar import ScalarType
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor
from pytensor.tensor.type import TensorType
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.lift import Context, Lifted, Refusal, latent, parameter
from pm_mlem.graph.lift.core import as_data, wide
from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.axis_labels import axis_labels
from pm_mlem.graph.roles.checks import check_data, check_labels, check_names, check_supported
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.graph.roles.densities import log_density, unscaled
from pm_mlem.graph.roles.domains import domain, state_probabilities, unbounded_from
from pm_mlem.graph.roles.families import Family, Leaf, Signatures, context_of, group, unfold
from pm_mlem.graph.roles.held import by_variable, check_support, complete, held_values, holding
from pm_mlem.graph.roles.means import NoMean, mean_name, prediction
from pm_mlem.graph.roles.missing import is_missing_leaf, whole_of
from pm_mlem.graph.roles.mixtures import HiddenMixture, component_name, take_apart
from pm_mlem.graph.roles.structure import (
    PLAIN,
    Latent,
    LatentVector,
    ModelStructure,
    ObservedPart,
    Parameter,
    Term,
    TermKind,
    named,
)
from pm_mlem.graph.roles.symbols import tensor

MOST_STATES = 2**17
"""States of a latent that are enumerated at most: beyond that no table over them is practical."""


def analyse(model: pm.Model, choices: Choices) -> ModelStructure:
    """Sort the variables of a model into roles.

    Raises
    ------
    ValueError
        No observed data, data that are NaN or infinite, unknown names.
    UnsupportedModelError
        A variable that cannot be handled exactly.
    """
    check_names(model, choices.latents, "latents")
    given = by_variable(choices.fixed, [rv.name for rv in model.free_RVs])
    check_names(model, given, "fixed")
    check_supported(model, choices.latents)
    builder = Builder(model, choices, given)
    for rv in model.observed_RVs:  # first: distributions of latents may read them
        builder.add_observed(rv)
    for rv in model.free_RVs:
        builder.add(rv)
    for rv in model.observed_RVs:
        if rv.name not in choices.unknown:
            builder.add_component(rv)
    return builder.finish()


class Builder:
    """Collects the roles, variable by variable in the order of declaration (parents first)."""

    def __init__(self, model: pm.Model, choices: Choices, fixed: Mapping[str, Mapping[str, np.ndarray]]):
        self.model, self.choices, self.fixed_values = model, choices, fixed
        self.observed = set(model.observed_RVs)
        self.leaves: dict[Variable, Lifted] = {}
        self.stand_ins: dict[Variable, Variable] = {}
        self.context = Context(self.leaves)
        self.parameters: list[Parameter] = []
        self.latents: list[Latent] = []
        self.fixed: dict[str, np.ndarray] = {}
        self.data: dict[Variable, np.ndarray] = {}
        self.inputs: dict[str, tuple[Variable, np.ndarray]] = {}
        self.dropped: list[str] = []
        self.values: dict[Variable, Variable] = {}
        self.mixtures: dict[Variable, HiddenMixture] = {}
        self.dims = dict(model.named_vars_to_dims)
        self.n_elements = 0

    def add(self, rv: Variable) -> None:
        if is_missing_leaf(self.model, rv):
            self.dropped.append(rv.name)
        elif rv.type.dtype.startswith(("int", "uint", "bool")):
            self.add_latent(rv)
        else:
            self.add_parameter(rv)

    def register(self, rv: Variable, value: Variable, lifted: Lifted) -> None:
        self.values[rv] = self.stand_ins[rv] = value
        self.leaves[rv] = self.leaves[value] = lifted

    def add_observed(self, rv: Variable) -> None:
        value = self.model.rvs_to_values[rv]
        try:
            data = self.context.lift(value)
        except Refusal as refusal:
            raise UnsupportedModelError(
                f"The observed data of '{rv.name}' are no constants ({refusal.reason}). Pass the data themselves, not "
                "a pm.Minibatch or a random draw of them."
            ) from refusal
        if not data.is_constant or data.slots:
            raise UnsupportedModelError(f"The observed data of '{rv.name}' depend on another random variable.")
        if data.data.size or whole_of(self.model, rv) is None:  # all entries may be masked
            check_data(rv.name, data.data)
        self.data[rv] = data.data
        self.register(rv, value, self.as_input(rv.name, data) if self.choices.replaceable else data)

    def as_input(self, name: str, data: Lifted) -> Lifted:
        """Observed data as a symbol; the copy keeps them apart from the same array in another role."""
        array = data.data.copy()
        symbol = as_data(tensor(name, dtype=str(array.dtype), shape=array.shape))
        self.inputs[name] = symbol, array
        return Lifted(array.shape, symbol=symbol)

    def add_component(self, rv: Variable) -> None:
        """The hidden component of a mixture. Where that cannot be had, the mixture keeps its own density."""
        name = component_name(rv)
        if name in self.model.named_vars:
            return
        try:
            found = take_apart(unscaled(rv), self.values[rv], self.n_elements, self.context, self.stand_ins)
        except Refusal:
            return
        if found is not None:
            self.mixtures[rv] = found
            found.component.name = name
            dims = self.dims.get(name.removesuffix("_component"))
            if dims is not None:
                self.dims[name] = dims[: found.component.type.ndim]
            self.add_latent(found.component, mixture=rv.name)

    def add_latent(self, rv: Variable, mixture: str | None = None) -> None:
        if rv.name in self.fixed_values:
            self.add_fixed_latent(rv)
            return
        shape = self.shape(rv)
        lower = unbounded_from(rv.owner.op)
        if lower is None:
            with named(rv.name):
                lower, states = domain(rv.owner.op, rv, self.context)
        else:
            states = self.choices.bounds.get(rv.name, self.first_bound) + 1 - lower
        if states > MOST_STATES:
            raise UnsupportedModelError(
                f"The discrete variable '{rv.name}' has {states:,} states, and all of them would be summed over; the "
                f"limit is {MOST_STATES:,}. Give it closer bounds or coarser steps, or a continuous distribution."
            )
        value = tensor(rv.name, dtype=rv.type.dtype, shape=shape)
        joined, cut = self.choices.joined.get(rv.name, ()), unbounded_from(rv.owner.op) is not None
        self.register(rv, value, latent(lower, states, shape, self.n_elements, joined))
        dim = states_dim(self.model, rv)
        item = Latent(rv.name, rv, lower, states, shape, self.n_elements, dim, joined, cut, mixture)
        self.n_elements += item.n_elements
        self.latents.append(item)

    @cached_property
    def first_bound(self) -> int:
        """Where the enumeration of counts without an upper bound ends at first: well above the counts observed."""
        values = self.data.values()
        return 31 + 2 * max((int(v.max()) for v in values if v.size and v.dtype.kind == "i"), default=0)

    def add_parameter(self, rv: Variable) -> None:
        shape = self.shape(rv)
        value = tensor(rv.name, dtype=str(wide(rv.type.dtype)), shape=shape)
        transform = self.model.rvs_to_transforms.get(rv)
        held = None
        if rv.name in self.fixed_values:
            held = complete(rv.name, self.held(rv, shape), transform)
            check_support(rv.name, held, transform, rv)
        if held is None:
            self.parameters.append(Parameter(rv.name, rv, value, transform))
            self.register(rv, value, parameter(value))
        elif np.any(np.isnan(held)):
            self.parameters.append(Parameter(rv.name, rv, value, holding(rv.name, held, transform), held))
            self.register(rv, value, parameter(value))
        else:
            self.parameters.append(Parameter(rv.name, rv, value, transform))
            self.add_fixed(rv, value, held)

    def held(self, rv: Variable, shape: tuple[int, ...]) -> np.ndarray:
        """What the entries of a variable are held at; NaN where they are free."""
        dims = self.model.named_vars_to_dims.get(rv.name) or (None,) * len(shape)
        coords = [self.model.coords.get(d) for d in dims]
        labels = [range(n) if c is None or len(c) != n else axis_labels(c) for c, n in zip(coords, shape, strict=True)]
        return held_values(rv.name, shape, labels, self.fixed_values[rv.name])

    def add_fixed_latent(self, rv: Variable) -> None:
        shape = self.shape(rv)
        held = self.held(rv, shape)
        if np.any(np.isnan(held)):
            raise UnsupportedModelError(
                f"Single entries of the discrete variable '{rv.name}' cannot be held with fixed=. Declare what is "
                "known in the model, with the unknown entries masked: observed=np.ma.masked_array(values, mask)."
            )
        if np.any(held != np.round(held)):
            raise ValueError(f"fixed={{'{rv.name}': ...}} must hold whole numbers: the variable is discrete.")
        self.add_fixed(rv, tensor(rv.name, dtype=rv.type.dtype, shape=shape), held)

    def add_fixed(self, rv: Variable, value: Variable, held: np.ndarray) -> None:
        self.fixed[rv.name] = array = held.astype(wide(rv.type.dtype))
        self.register(rv, value, Lifted(array.shape, data=array))

    def shape(self, rv: Variable) -> tuple[int, ...]:
        static = rv.type.shape
        if None not in static:
            return tuple(static)
        with named(rv.name):
            try:
                lengths = rv.owner.op.infer_shape(rv.owner, [input_shape(v) for v in rv.owner.inputs])
                lengths = lengths[rv.owner.outputs.index(rv)]
                return tuple(int(self.context.lift(pt.as_tensor(n)).data) for n in lengths)
            except (Refusal, NotImplementedError, AttributeError, TypeError):
                return tuple(int(n) for n in function([], rv.shape, mode=PLAIN)())

    def finish(self) -> ModelStructure:
        split = [rv for rv in self.model.observed_RVs if whole_of(self.model, rv) is not None]
        parts = {rv.name: self.observed_part(rv) for rv in split}
        for rv in self.model.observed_RVs:
            check_labels(rv, self.data[rv], parts.get(rv.name), self.context)
        declared = [rv for rv in self.model.basic_RVs if rv in self.values]
        declared += [item.rv for item in self.latents if item.mixture is not None]
        priors = [self.term([rv]) for rv in declared if self.kind(rv) == "prior"]
        mixtures = [rv for rv in declared if rv in self.mixtures]
        rest = [rv for rv in declared if self.kind(rv) != "prior" and rv not in self.mixtures]
        rest = [rv for rv in rest if rv.name not in self.choices.unknown] + self.model.potentials
        self.check_unknown(rest)
        signatures = Signatures(self.leaf)
        found = [self.signature(v, signatures) for v in rest]
        terms, links = [term for rv in mixtures for term in self.emission_terms(rv)], []
        for positions in group(found):
            members = [rest[i] for i in positions]
            terms.append(self.term(members, [found[i][1] for i in positions]))
            links += self.links(terms[-1])
        return ModelStructure(
            tuple(self.parameters),
            self.fixed,
            tuple(self.latents),
            latent_vectors(self.latents, links),
            tuple(terms),
            tuple(priors),
            tuple(self.dropped),
            self.leaves,
            self.stand_ins,
            tuple(self.deterministics()),
            self.dims,
            dict(self.model.coords),
            dict(self.model.rvs_to_initial_values),
            parts,
            self.inputs,
        )

    def check_unknown(self, terms: Sequence[Variable]) -> None:
        """Refuse unknown values that something else depends on."""
        for rv in self.model.observed_RVs:
            users = [v for v in terms if rv.name in self.choices.unknown and v is not rv and rv in set(ancestors([v]))]
            if users:
                raise ValueError(
                    f"'{users[0].name}' depends on the observed variable '{rv.name}', whose values are not known: give "
                    "them as well."
                )

    def deterministics(self) -> Iterator[Variable]:
        """Those of the model, and the means of the observed variables where they are wanted."""
        yield from self.model.deterministics
        for rv in self.model.observed_RVs if self.choices.means else ():
            mixture = self.mixtures.get(rv)
            with suppress(NoMean):
                value = prediction(rv, mixture.component if mixture is not None else None).copy()
                value.name = mean_name(rv)
                yield value

    def observed_part(self, rv: Variable) -> ObservedPart:
        """Where the entries of an observed variable stand in the variable that it was split off."""
        whole = whole_of(self.model, rv)
        missing = self.model[f"{whole.name}_unobserved"]
        shape = self.leaves[rv].shape
        values = [np.arange(1, 1 + math.prod(shape)).reshape(shape), np.zeros(self.shape(missing))]
        inputs = [pt.tensor(dtype=v.type.dtype, shape=v.type.shape) for v in (rv, missing)]
        [joined] = graph_replace([whole], dict(zip((rv, missing), inputs, strict=True)))
        values = [v.astype(i.type.dtype) for v, i in zip(values, inputs, strict=True)]
        numbers = np.asarray(function(inputs, joined, mode=PLAIN)(*values))
        positions = np.empty(values[0].size, dtype=int)
        positions[np.ravel(numbers[numbers > 0]).astype(int) - 1] = np.flatnonzero(numbers > 0)
        return ObservedPart(whole.name, numbers.shape, positions, missing)

    def emission_terms(self, rv: Variable) -> Iterator[Term]:
        """The densities of a mixture's components."""
        mixture = self.mixtures[rv]
        for e in mixture.emissions:
            only = None if e.state is None else (mixture.read, e.state)
            value = self.context.lift(e.value)
            yield Term(rv.name, "observed", e.density, e.rv, value, None, only, self.scale(rv))

    def kind(self, variable: Variable) -> TermKind:
        if variable not in self.values:
            return "potential"
        if variable in self.observed:
            return "observed"
        return "latent" if self.leaves[variable].slots else "prior"

    def leaf(self, variable: Variable) -> Leaf | None:
        """How a leaf of a term's graph may differ among the members of a family."""
        if variable in self.leaves:
            value = self.leaves[variable]
            if value.slots:
                [slot] = value.slots
                return ("latent", slot.lower, value.data.shape, value.shape), True
            if value.is_constant:
                return ("data", value.data.shape, value.data.dtype, value.shape), True
            return ("parameter", variable), False
        if isinstance(variable, Constant) and isinstance(variable.type, TensorType | ScalarType):
            data = np.asarray(variable.data)
            return ("constant", data.dtype, data.shape), True
        if isinstance(variable.type, RandomType):
            return ("random generator",), False
        return (("itself", variable), False) if variable.owner is None else None

    def signature(self, variable: Variable, signatures: Signatures) -> tuple[Hashable, tuple[Variable, ...]]:
        kind = self.kind(variable)
        if kind == "potential":
            return signatures.of_inputs([variable], kind)
        if unscaled(variable) is not variable:
            return ("by itself", variable), ()
        key, leaves = signatures.of_inputs(variable.owner.inputs, kind, variable.owner.op, self.leaf(variable))
        return key, (variable, self.values[variable], *leaves)

    def term(self, members: Sequence[Variable], leaves: Sequence[tuple[Variable, ...]] = ()) -> Term:
        template = members[0]
        family = None
        if len(members) > 1:
            counterparts = dict(zip(leaves[0], zip(*leaves, strict=True), strict=True))
            family = Family(tuple(m.name for m in members), tuple(members), counterparts)
        kind = self.kind(template)
        if kind == "potential":
            return Term(template.name, kind, template, None, None, family)
        base = unscaled(template)
        density = log_density(base, self.values[template], self.stand_ins)
        own = context_of(family, self.context)
        value = unfold(own.lift(self.values[template]), family, self.context)
        return Term(template.name, kind, density, base, value, family, scale=self.scale(template))

    def scale(self, rv: Variable) -> float:
        """How often each observation counts."""
        if unscaled(rv) is rv:
            return 1.0
        lengths = self.leaves[rv].shape
        totals = [v.data for v in rv.owner.inputs[1:]]
        return float(math.prod(t / n for t, n in zip(totals, lengths, strict=True) if t is not None))

    def links(self, term: Term) -> Iterator[list[str]]:
        """Latents that play the same part in the members of a family."""
        for members in term.family.leaves.values() if term.family else ():
            if self.leaf(members[0]) is not None and self.leaf(members[0])[0][0] == "latent":
                yield [m.name for m in members]


def latent_vectors(latents: Sequence[Latent], links: Iterable[Sequence[str]]) -> tuple[LatentVector, ...]:
    """The latents that are summed out together, in the order of their first ones."""
    position = {item.name: i for i, item in enumerate(latents)}
    pairs = [(position[a], position[b]) for names in links for a, b in pairwise(names)]
    rows, columns = np.array(pairs, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(latents), len(latents)))
    _, labels = connected_components(graph, directed=False) if latents else (0, np.empty(0, dtype=int))
    vectors = []
    for label in dict.fromkeys(labels.tolist()):
        members = np.flatnonzero(labels == label)
        first = latents[members[0]]
        numbers = [np.arange(latents[i].base, latents[i].base + latents[i].n_elements) for i in members]
        vectors.append(LatentVector(first.name, first.joint_states, np.concatenate(numbers), tuple(members.tolist())))
    return tuple(vectors)


def states_dim(model: pm.Model, rv: Variable) -> str | None:
    """The dimension of a variable's state probabilities, where a named variable with dims has them or rows of them."""
    probabilities = state_probabilities(rv)
    while probabilities is not None and probabilities.name not in model.named_vars_to_dims:
        probabilities = source_of_last_axis(probabilities)
    return None if probabilities is None else model.named_vars_to_dims[probabilities.name][-1]


def source_of_last_axis(variable: Variable) -> Variable | None:
    """The array of which a variable has the last axis as it is: transposed otherwise, or some of its rows."""
    if variable.owner is None or not variable.owner.inputs:
        return None
    op, source = variable.owner.op, variable.owner.inputs[0]
    if isinstance(op, DimShuffle):
        return source if op.new_order and op.new_order[-1] == source.type.ndim - 1 else None
    if isinstance(op, Subtensor | AdvancedSubtensor):
        indices = op.idx_list
        return source if len(indices) < source.type.ndim or indices[-1] == slice(None) else None
    return None


def input_shape(variable: Variable):
    shape = getattr(variable.type, "shape", None)
    return None if shape is None else tuple(variable.shape[i] for i in range(len(shape)))
