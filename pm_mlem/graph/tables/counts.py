"""Latent counts without an upper bound: how many of their states are enumerated.

The states of a latent Poisson, say, are enumerated up to a bound above which its distribution has less than
``NEGLIGIBLE`` probability, for every row and every state of its parents. The bound is chosen at the initial point
and has to hold at the optimum too, where the posterior must not press against it either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.structure import PLAIN, Latent
from pm_mlem.graph.roles.transforms import initial_values
from pm_mlem.graph.tables.model_tables import DensityTerm, ModelTables

NEGLIGIBLE = 1e-12
MOST_STATES = 4096

Bounds = Mapping[str, int]


def counts(tables: ModelTables) -> list[Latent]:
    """The latents whose states were cut off."""
    return [item for item in tables.structure.latents if item.cut]


def bounds_of(tables: ModelTables) -> Bounds:
    """The largest states that are enumerated."""
    return {item.name: item.lower + item.states - 1 for item in counts(tables)}


def growth(tables: ModelTables, masses: Mapping[str, float]) -> Bounds:
    """New bounds for the counts that leave too much probability out, as far as they may still grow."""
    return {
        item.name: item.lower + 2 * item.states - 1
        for item in counts(tables)
        if not masses[item.name] < NEGLIGIBLE and 2 * item.states <= MOST_STATES
    }


def at_initial_point(tables: ModelTables) -> Bounds:
    """Bounds that have to grow for the initial values of the parameters."""
    if not counts(tables):
        return {}
    return growth(tables, tails(tables, initial_values(tables.structure)))


def tails(tables: ModelTables, values: Sequence[np.ndarray]) -> dict[str, float]:
    """For each count the largest probability that its distribution has above the bound.

    ``values`` are the constrained values of the free parameters.
    """
    cut = {item.name: item for item in counts(tables)}
    chosen = [d for d in tables.densities if d.term.kind == "latent" and any(n in cut for n in d.term.members)]
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    run = function(inputs, [d.array for d in chosen], mode=PLAIN, on_unused_input="ignore")
    with np.errstate(all="ignore"):
        arrays = run(*values, *[a for _, a in tables.data])
    result = dict.fromkeys(cut, 0.0)
    for density, array in zip(chosen, arrays, strict=True):
        total = np.exp(array).sum(axis=own_slot(density, cut))
        mass = float(np.max(1.0 - total))
        for name in density.term.members:
            result[name] = max(result[name], mass)
    return result


def own_slot(density: DensityTerm, cut: Mapping[str, Latent]) -> int:
    """The slot axis of the latent whose distribution this is."""
    item = cut[density.term.members[0]]
    for i, slot in enumerate(density.lifted.slots):
        if item.base in slot.address:
            return i
    raise AssertionError(f"the distribution of '{item.name}' does not depend on it")


def edges(tables: ModelTables, probabilities: Mapping[str, np.ndarray]) -> dict[str, float]:
    """For each count the largest posterior probability of the uppermost tenth of its states.

    ``probabilities`` are the posterior ones by latent, states first.
    """
    result = {}
    for item in counts(tables):
        upper = np.asarray(probabilities[item.name])[-max(1, item.states // 10) :]
        result[item.name] = float(upper.sum(axis=0).max())
    return result
