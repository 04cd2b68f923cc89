"""Mixture distributions taken apart: a hidden component for every observation, and the density of each component.

``pm.Mixture``, ``pm.NormalMixture``, the zero-inflated and the hurdle distributions sum their component out inside
their own log-density. Here the component is a Categorical variable like any that is written out, so that everything
that holds for latents holds for it: posterior probabilities, EM, closed-form updates, starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
from pymc.distributions.distribution import PartialObservedRV
from pymc.distributions.mixture import MixtureRV, _HurdleRV
from pymc.distributions.truncated import TruncatedRV
from pytensor.graph.basic import Variable
from pytensor.tensor.random.basic import categorical
from pytensor.tensor.random.op import RandomVariable

from pm_mlem.graph.lift import Context, Refusal, latent
from pm_mlem.graph.roles.densities import complete, log_density


@dataclass(frozen=True, eq=False)
class Emission:
    """The log-density of the observations given their component.

    Attributes
    ----------
    density : element-wise log-density of the observations
    rv : the distribution behind it where it is a plain one; the density may be -inf where that of ``rv`` is not
    value : where that distribution is evaluated
    state : the component that it belongs to; None where the density itself is a function of the component
    """

    density: Variable
    rv: Variable | None
    value: Variable
    state: int | None = None


@dataclass(frozen=True, eq=False)
class HiddenMixture:
    """A mixture taken apart.

    Attributes
    ----------
    component : a Categorical variable, one element for each observation (missing ones included)
    read : the components of the observations that are not missing
    emissions : densities that add up to that of the observations given their components
    """

    component: Variable
    read: Variable
    emissions: tuple[Emission, ...]

    def where(self, seen: Variable) -> HiddenMixture:
        """Only the entries of a mask."""
        emissions = [Emission(e.density[seen], None, e.value[seen], e.state) for e in self.emissions]
        return HiddenMixture(self.component, self.component[seen], tuple(emissions))

    def holds(self, context: Context) -> bool:
        """Whether every density is a table over the observations and the states of latents."""
        try:
            shapes = {context.lift(e.density).shape for e in self.emissions}
        except Refusal:
            return False
        return shapes == {context.lift(self.read).shape}


def component_name(rv: Variable) -> str:
    """What the hidden component of an observed variable is called."""
    masked = isinstance(rv.owner.op, PartialObservedRV)
    return f"{rv.name.removesuffix('_observed') if masked else rv.name}_component"


def take_apart(
    rv: Variable, value: Variable, base: int, context: Context, stand_ins: Mapping[Variable, Variable]
) -> HiddenMixture | None:
    """The hidden component of an observed variable; None where it is no mixture.

    Parameters
    ----------
    rv : observed variable of the model
    value : its data
    base : number of the component's first element among all latent elements
    context : gives the model's variables their lifted values
    stand_ins : as for :func:`pm_mlem.graph.roles.densities.log_density`

    Raises
    ------
    Refusal
        The mixture cannot be taken apart; it still has its own log-density.
    """
    mixture, value, seen = whole(rv, value)
    if mixture.owner is None or not isinstance(mixture.owner.op, MixtureRV | _HurdleRV):
        return None
    rng, weights, *components = mixture.owner.inputs
    shape = context.lift(value).shape
    shape = shape[: len(shape) - mixture.owner.op.ndim_supp]
    states = context.lift(weights).shape[-1]
    if weights.type.ndim - 1 > len(shape) or len(components) not in (1, states):
        raise Refusal("the weights of the mixture do not fit its components")
    component = categorical.make_node(rng, shape, weights).outputs[1]
    component.name = component_name(rv)
    context = Context({**context.leaves, component: latent(0, states, shape, base)})
    for emissions in ways(mixture, component, value, context, stand_ins):
        found = HiddenMixture(component, component, emissions)
        found = found if seen is None else found.where(seen)
        if found.holds(context):
            return found
    raise Refusal("the density of a component is not a table over observations and latents")


def whole(rv: Variable, value: Variable) -> tuple[Variable, Variable, Variable | None]:
    """A variable and its data without a mask, and which entries were observed (None: all)."""
    if not isinstance(rv.owner.op, PartialObservedRV) or rv.owner.op.ndim_supp:
        return rv, value, None
    complete_rv, mask = rv.owner.inputs
    return complete_rv, complete(value, ~mask), ~mask


def ways(
    mixture: Variable, component: Variable, value: Variable, context: Context, stand_ins: Mapping[Variable, Variable]
) -> Iterator[tuple[Emission, ...]]:
    """The densities of the components, the best way first."""
    _, weights, *components = mixture.owner.inputs
    if isinstance(mixture.owner.op, _HurdleRV):
        yield hurdle(components[1], value, stand_ins)
    elif len(components) > 1:
        yield tuple(Emission(log_density(c, value, stand_ins), c, value, k) for k, c in enumerate(components))
    else:
        states = context.lift(weights).shape[-1]
        with suppress(Refusal):  # where other latents are read component by component
            yield (of_batch(components[0], component, states, value, context, stand_ins),)
        yield tuple(of_batch(components[0], k, states, value, context, stand_ins) for k in range(states))


def hurdle(positive: Variable, value: Variable, stand_ins: Mapping[Variable, Variable]) -> tuple[Emission, ...]:
    """Zeros are one component, all other values the other."""
    zero = pt.eq(value, 0)
    elsewhere = pt.switch(zero, 1.0, value)
    if isinstance(positive.owner.op, TruncatedRV):  # counts, truncated to 1, 2, ...
        *inputs, _, _ = positive.owner.inputs
        counts = positive.owner.op.base_rv_op.make_node(*inputs).default_output()
        at_zero = log_density(counts, pt.zeros(()), stand_ins)
        density = log_density(counts, elsewhere, stand_ins) - pt.log1mexp(at_zero)
    else:
        density = log_density(positive, elsewhere, stand_ins)
    return (
        Emission(pt.switch(zero, 0.0, -np.inf), None, value, 0),
        Emission(pt.switch(zero, -np.inf, density), positive, elsewhere, 1),
    )


def of_batch(
    components: Variable,
    index: Variable | int,
    states: int,
    value: Variable,
    context: Context,
    stand_ins: Mapping[Variable, Variable],
) -> Emission:
    """The density of one component (or of those that a variable names) of a batch whose last axis are components."""
    op = components.owner.op
    state = index if isinstance(index, int) else None
    if isinstance(op, RandomVariable):
        node = components.owner
        parameters = [
            at_component(p, index, states, n, context)
            for p, n in zip(op.dist_params(node), op.ndims_params, strict=True)
        ]
        rv = op.make_node(op.rng_param(node), None, *parameters).outputs[1]
        return Emission(log_density(rv, value, stand_ins), rv, value, state)
    density = log_density(components, pt.expand_dims(value, -op.ndim_supp - 1), stand_ins)
    return Emission(at_component(density, index, states, 0, context), None, value, state)


def at_component(array: Variable, index: Variable | int, states: int, n_core: int, context: Context) -> Variable:
    """An array at one position of its last batch axis (the axis of the components), or at an array of positions."""
    lengths = context.lift(array).shape
    lengths = lengths[: len(lengths) - n_core]
    if not lengths:
        return array
    *batch, components = lengths
    if components not in (1, states):
        raise Refusal("the weights of the mixture do not fit its components")
    if components == 1:
        index = 0
    if isinstance(index, int):
        return array[(*[slice(None)] * len(batch), index)]
    if len(batch) > index.type.ndim:
        raise Refusal("the components have more axes than the observations")
    key = [
        np.zeros((), dtype=int) if n == 1 else np.arange(n).reshape((n,) + (1,) * (len(batch) - 1 - axis))
        for axis, n in enumerate(batch)
    ]
    return array[(*key, index)]
