"""Distributions with their parameters as tables: what closed-form M-steps are made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from pymc.distributions.distribution import SymbolicRandomVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.type import TensorType

from pm_mlem.graph.lift import Context, Lifted, Refusal, Slot
from pm_mlem.graph.lift.core import align_symbol, merge_slots, pad_left
from pm_mlem.graph.roles.families import context_of, unfold
from pm_mlem.graph.tables.model_tables import DensityTerm, Site


def find_sites(densities: Sequence[DensityTerm], context: Context) -> tuple[Site, ...]:
    """The plain random variables among the terms."""
    found = [site_of(i, density, context) for i, density in enumerate(densities)]
    return tuple(site for site in found if site is not None)


def site_of(index: int, density: DensityTerm, context: Context) -> Site | None:
    rv = density.term.rv
    if rv is None or not density.whole or not isinstance(rv.owner.op, RandomVariable):
        return None
    op = rv.owner.op
    try:
        own = context_of(density.term.family, context)
        lifted = [unfold(own.lift(p), density.term.family, context) for p in op.dist_params(rv.owner)]
    except Refusal:
        return None
    cores = [*op.ndims_params, op.ndim_supp]
    arrays = [
        on_density(v, n, density.lifted, context) for v, n in zip([*lifted, density.term.value], cores, strict=True)
    ]
    if any(a is None for a in arrays):
        return None
    return Site(index, op, tuple(arrays[:-1]), arrays[-1])


def arguments(rv: Variable) -> Iterator[Variable]:
    """What a distribution is given: for one that is made of others (censored, truncated) what these are given."""
    for value in rv.owner.inputs:
        if value.owner is not None and isinstance(value.owner.op, RandomVariable | SymbolicRandomVariable):
            yield from arguments(value)
        elif isinstance(value.type, TensorType):
            yield value


def rows_share(density: DensityTerm, rvs: Sequence[Variable], fewest: int, context: Context) -> bool:
    """Whether random variables reach a term through arguments of its distribution that many rows share.

    ``fewest`` is the least number of entries of the density for each entry of such an argument. A linear predictor is
    an argument with an entry for each row.
    """
    if density.term.rv is None or not density.whole:
        return False
    own = context_of(density.term.family, context)
    most = math.prod(density.input.type.shape) / fewest
    for value in arguments(density.term.rv):
        if not set(rvs) & set(ancestors([value])):
            continue
        try:
            lifted = unfold(own.lift(value), density.term.family, context)
        except Refusal:
            return False
        if math.prod(context.symbol(lifted).type.shape) > most:
            return False
    return True


def on_density(value: Lifted, n_core: int, density: Lifted, context: Context) -> Variable | None:
    """The value's array with the density's slot and batch axes in front; None if its latents differ."""
    batch = value.ndim - n_core
    if batch > density.ndim:
        return None
    own = []
    for slot in value.slots:
        address = slot.address.reshape(*slot.address.shape[:batch], -1)
        if np.any(address != address[..., :1]):  # the entries of a vector read different elements
            return None
        address = address[..., 0]
        own.append(slot.with_address(pad_left(address, density.ndim)))
    merged, positions = merge_slots([density.slots, own])
    if len(merged) != len(density.slots) or not all_covered(density.slots, merged):
        return None
    return align_symbol(value, positions[1], len(density.slots), density.ndim + n_core, context)


def all_covered(before: Sequence[Slot], after: Sequence[Slot]) -> bool:
    """Merging the parameter's slots added no address that the density does not have."""
    return all(np.array_equal(a.address, b.address) for a, b in zip(before, after, strict=True))
