"""Missing entries of masked data: no observations, but their latents are still those of a row.

Their densities integrate to one and are left out of the log-likelihood. Here they are lifted all the same, to see which
latents they would read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytensor.tensor as pt

from pm_mlem.graph.lift import Lifted, Refusal
from pm_mlem.graph.roles.densities import density_of_all, is_part, log_density
from pm_mlem.graph.roles.families import context_of, unfold
from pm_mlem.graph.roles.structure import Term
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.graph.tables.units import units_of_elements


def missing_units(tables: ModelTables, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Units of the latents that missing draws of an observed variable read, and that they are: positions and units.

    Positions are flat, among all draws of the variable. Where it cannot be told which they read, nothing comes.
    """
    density = next(d for d in tables.densities if name in d.term.members)
    term, part = density.term, tables.structure.parts[name]
    ndim = getattr(term.rv.owner.op, "ndim_supp", 0)
    shape, positions = part.draws(ndim)
    missing = np.setdiff1d(np.arange(math.prod(shape)), positions)
    of_element = units_of_elements(tables, np.arange(sum(tables.elimination.sizes)))
    for elements in elements_read(tables, term, name, missing):
        known = elements >= 0
        units = of_element[elements[known]]
        yield missing[known][units >= 0], units[units >= 0]


def elements_read(tables: ModelTables, term: Term, name: str, missing: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of latent elements by missing draw, -1 where it reads none."""
    part, stand_ins, context = tables.structure.parts[name], tables.structure.stand_ins, tables.context
    for item in tables.structure.latents:
        if item.rv is part.missing:  # discrete entries are latents themselves
            yield item.base + np.arange(len(missing))
    try:
        if is_part(term.rv):
            own = context_of(term.family, context)
            lifted = own.lift(density_of_all(term.rv, stand_ins[template(tables, term)], stand_ins))
            lifted = unfold(lifted, term.family, context)
            member = term.members.index(name)
            yield from (address_of(s.address, lifted, term)[member].ravel()[missing] for s in lifted.slots)
        elif part.missing not in stand_ins:
            value = pt.zeros([len(missing), *part.shape[len(part.shape) - part.missing.owner.op.ndim_supp :]])
            lifted = context.lift(log_density(part.missing, value.astype(part.missing.type.dtype), stand_ins))
            yield from (np.broadcast_to(s.address, lifted.shape).ravel() for s in lifted.slots)
    except Refusal:
        return


def template(tables: ModelTables, term: Term):
    """The random variable of the model that a term was made for."""
    return next(rv for rv in tables.structure.stand_ins if rv.name == term.name)


def address_of(address: np.ndarray, lifted: Lifted, term: Term) -> np.ndarray:
    """Addresses with the members of the family (or the variable itself) along the first axis."""
    full = np.broadcast_to(address, lifted.shape)
    return full[None] if term.family is None else full
