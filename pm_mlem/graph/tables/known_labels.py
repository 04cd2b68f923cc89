"""Known labels and what they explain: units of the data as they would be if no label were known.

Given a label, its own probability and the density of the observations that it selects are independent terms of the
log-likelihood. They describe one unit of the data all the same, so that the number of units does not depend on how
many labels are known. Which entries read which label is found by lifting the terms once more, with every known label as
a latent that has a single state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.basic import BernoulliRV, CategoricalRV
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pm_mlem.graph.lift import Context, Lifted, Refusal, Slot
from pm_mlem.graph.lift.parts import lift_parts
from pm_mlem.graph.roles.densities import unscaled
from pm_mlem.graph.roles.draws import support
from pm_mlem.graph.roles.families import context_of, unfold
from pm_mlem.graph.roles.structure import ModelStructure, Term
from pm_mlem.graph.tables.model_tables import ModelTables

Key = tuple[str, int]
"""Name of a term and number of its part."""


def independent_units(tables: ModelTables) -> np.ndarray:
    """For each unit of the elimination the independent unit of the data that it belongs to, numbered from 0.

    Units are joined by the labels that their entries read, as far as that can be told: operations that mix labels
    (``z.sum()``) join nothing. In a model without known labels each is a unit of its own.
    """
    total = sum(tables.elimination.sizes)
    labels = known_labels(tables.structure)
    if not labels:
        return np.arange(total)
    read = list(entries_read(tables, labels))
    nodes, first = total, {}
    for key, size in {key: size for key, size, *_ in read}.items():
        first[key], nodes = nodes, nodes + size
    pairs = [np.stack([first[key] + entries, nodes + elements]) for key, _, entries, elements in read]
    pairs += [
        np.stack([first[key] + entries, units]) for key, entries, units in entries_of_units(tables) if key in first
    ]
    rows, columns = np.concatenate(pairs, axis=1)
    nodes = 1 + max(nodes, int(columns.max()))
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1][:total]
    return np.unique(component, return_inverse=True)[1]


# --- labels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reader:
    """A term with the random variables (or the placeholders of their values) that it depends on."""

    term: Term
    inputs: frozenset[Variable]

    def reads(self, rv: Variable, value: Variable) -> bool:
        return rv.name not in self.term.members and (rv in self.inputs or value in self.inputs)


def known_labels(structure: ModelStructure) -> Mapping[Variable, Variable]:
    """Observed states that other observations depend on, with the placeholders of their values.

    Categorical and Bernoulli variables, and discrete chains, that an observed variable with another distribution reads,
    or one that nothing reads in turn, or another label. An observed Markov chain by itself has no labels.
    """
    named = {rv.name: (rv, value) for rv, value in structure.stand_ins.items()}
    candidates = {n: named[n] for n in structure.observed if n in named and is_state(named[n][0], structure)}
    readers = [reader(term) for term in structure.terms if term.kind != "latent"] if candidates else []
    users = {n: [r.term for r in readers if r.reads(*pair)] for n, pair in candidates.items()}
    read = {n for n, terms in users.items() if terms} | {n for r in readers for n in chained(r, candidates)}

    def explains(name: str, term: Term) -> bool:
        other = term.rv is None or type(term.rv.owner.op) is not type(unscaled(candidates[name][0]).owner.op)
        return other or not read & set(term.members)

    labels = {n for n, terms in users.items() if any(explains(n, t) for t in terms)}
    while more := {n for n, terms in users.items() if any(labels & set(t.members) for t in terms)} - labels:
        labels |= more
    return {candidates[n][0]: candidates[n][1] for n in structure.observed if n in labels}


def is_state(rv: Variable, structure: ModelStructure) -> bool:
    base = unscaled(rv)
    if isinstance(base.owner.op, CategoricalRV | BernoulliRV):
        return True
    return rv.type.dtype.startswith("int") and support(base, structure.stand_ins.keys())[1] > 0


def reader(term: Term) -> Reader:
    inputs = set(ancestors([term.density]))
    if term.family is not None:
        inputs |= {m for leaf, members in term.family.leaves.items() if leaf in inputs for m in members}
    return Reader(term, frozenset(inputs))


def chained(user: Reader, candidates: Mapping[str, tuple[Variable, Variable]]) -> Iterator[str]:
    """The members of a family that other members read: the steps of a chain."""
    own = {} if user.term.family is None else dict(zip(user.term.members, user.term.family.variables, strict=True))
    yield from (name for name, rv in own.items() if name in candidates and rv in user.inputs)


# --- who reads them ---------------------------------------------------------------------------------------


def entries_read(
    tables: ModelTables, labels: Mapping[Variable, Variable]
) -> Iterator[tuple[Key, int, np.ndarray, np.ndarray]]:
    """Which entries read which latents and labels: a part of a term, its size, positions in it, and elements.

    Parts of what the log-likelihood adds up to a number, counted from -1 downwards, have no units of their own: they
    only say which labels belong together.
    """
    leaves = with_labels(tables.structure, labels)
    context, named = Context(leaves), {rv.name: rv for rv in labels}
    for term in tables.structure.terms:
        densities = [d for d in tables.densities if d.term is term]
        shapes = [d.lifted.shape for d in densities]
        for name in named.keys() & set(term.members):
            start, shape = densities[0].part_of(name)
            [slot] = leaves[named[name]].slots
            entries = start + np.arange(math.prod(shape))
            entries = np.repeat(entries, slot.address.size // max(entries.size, 1))  # a chain has several labels
            yield (term.name, 0), math.prod(shapes[0]), entries, slot.address.ravel()
        own = context_of(term.family, context)
        try:
            parts = [own.lift(term.density)] if term.only else lift_parts(term.density, own)
            lifted = [unfold(part, term.family, context) for part in parts]
        except Refusal:  # it mixes labels
            continue
        for part, value in enumerate(lifted):
            same = part < len(shapes) and value.shape == shapes[part]
            for slot in value.slots:
                element = np.broadcast_to(slot.address, value.shape).ravel()
                known = np.flatnonzero(element >= 0)
                yield (term.name, part if same else -1 - part), element.size, known, element[known]


def with_labels(structure: ModelStructure, labels: Mapping[Variable, Variable]) -> dict[Variable, Lifted]:
    """The values of the random variables, those of the labels with elements of their own."""
    leaves = dict(structure.leaves)
    base = 1 + max((int(s.address.max(initial=-1)) for v in leaves.values() for s in v.slots), default=-1)
    for rv, value in labels.items():
        known = leaves[rv]
        size = math.prod(known.shape)
        slot = Slot(0, 1, base + np.arange(size).reshape(known.shape))
        leaves[rv] = leaves[value] = Lifted(known.shape, (slot,), data=known.data[None])
        base += size
    return leaves


def entries_of_units(tables: ModelTables) -> Iterator[tuple[Key, np.ndarray, np.ndarray]]:
    """For each factor the entries of its term and their units."""
    part = [sum(other.term is d.term for other in tables.densities[:i]) for i, d in enumerate(tables.densities)]
    for factor, units in zip(tables.factors, tables.elimination.unit_of_row, strict=True):
        yield (factor.term, part[factor.term_index]), factor.entries, units
