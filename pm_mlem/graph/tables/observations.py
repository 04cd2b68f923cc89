"""Rows of the data: what n counts in information criteria.

An observation is a row of the data: an entry of an observed variable, or a draw of a distribution of vectors. Rows are
found in three steps, for each observed variable:

1. Which axes run over rows. Those of a draw do where it is a sequence (its entries are drawn one after the other:
   chains, random walks, autoregressions), or where the variable is a single draw and nothing else. Along the other
   axes the entries are columns of one row where a latent changes along some axis but not along this one: the items of
   a latent class. The variables of a python loop are an array with the steps along its first axis.
2. Which latents, or known labels, a row reads. The most specific one is its key.
3. Rows of different variables with the same key are one row of the data, seen in several variables. Here the steps of
   a loop are variables of their own.

Potentials that read latents, or have several entries that depend on data, are treated like observed variables; others
are penalties.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.type import TensorType

from pm_mlem.graph.roles.draws import support
from pm_mlem.graph.roles.structure import ObservedPart, Term
from pm_mlem.graph.tables.known_labels import entries_read, known_labels
from pm_mlem.graph.tables.model_tables import ModelTables

UNSEEN = -1
"""Where an array over the entries of a variable has nothing: the entry is missing, or reads no latent."""


@dataclass(frozen=True, eq=False)
class Observations:
    """The rows of the data, variable by variable.

    Attributes
    ----------
    unit : (rows,), the unit of the elimination that each row belongs to
    key : (rows,), rows of different variables with the same key are one row
    variable : (rows,), numbers of the variables, each step of a python loop by itself
    units : total number of units of the elimination
    """

    unit: np.ndarray
    key: np.ndarray
    variable: np.ndarray
    units: int

    @property
    def holding(self) -> np.ndarray:
        """(units,), which units hold data; others are penalties, or latents that no data depend on."""
        found = np.zeros(self.units, dtype=bool)
        found[self.unit] = True
        return found

    def count(self, weights: np.ndarray) -> float:
        """The weighted number of rows; NaN where the model has no data by rows.

        Where a row is seen in several variables, the one that gives it the largest weight counts.
        """
        if not len(self.unit):
            return float("nan")
        (key, _), number = distinct(self.key, self.variable)
        by_key = np.zeros(1 + int(self.key.max()))
        np.maximum.at(by_key, key, np.bincount(number, weights[self.unit]))
        return float(by_key.sum())


def observations(tables: ModelTables) -> Observations:
    """The rows of a model's data."""
    found = [Rows.of(entries) for entries in entries_of_data(tables)]
    if not found:
        nothing = np.empty(0, dtype=int)
        return Observations(nothing, nothing, nothing, sum(tables.elimination.sizes))
    group = np.repeat(np.arange(len(found)), [len(rows.unit) for rows in found])
    variable = distinct(group, np.concatenate([rows.member for rows in found]))[1]
    unit = np.concatenate([rows.unit for rows in found])
    return Observations(unit, keys([rows.reads for rows in found], group), variable, sum(tables.elimination.sizes))


# --- entries ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DataEntries:
    """The entries of one observed variable or Potential, or of the variables of a python loop.

    Attributes
    ----------
    unit : over the entries, the unit of each (``UNSEEN``: the entry is missing)
    reads : arrays like ``unit``, the latents or labels that each entry reads, by number
    sequence : how many of the last axes are those of a sequence
    loop : whether the first axis is that of a loop, in which each step declares a variable of its own
    repeats : how many observations every entry is
    """

    unit: np.ndarray
    reads: tuple[np.ndarray, ...]
    sequence: int
    loop: bool = False
    repeats: int = 1


def entries_of_data(tables: ModelTables) -> Iterator[DataEntries]:
    """The observed variables, and the Potentials that are data."""
    labels, done = labels_read(tables), set()
    for density in tables.densities:
        term = density.term
        if term.name not in done and (term.kind == "observed" or (term.kind == "potential" and is_data(term, tables))):
            done.add(term.name)
            yield from entries_of_term(term, tables, labels.get(term.name, ()))


def entries_of_term(
    term: Term, tables: ModelTables, labels: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Iterator[DataEntries]:
    own = [i for i, f in enumerate(tables.factors) if f.term == term.name]
    ndim, sequence = (0, 0) if term.rv is None else support(term.rv, tables.structure.stand_ins.keys())
    value = tables.densities[tables.factors[own[0]].term_index].lifted if term.value is None else term.value
    batch, core = value.shape[: value.ndim - ndim], value.shape[value.ndim - ndim :]
    unit, reads = np.full(math.prod(batch), UNSEEN), []
    for i in own:
        factor, units = tables.factors[i], tables.elimination.unit_of_row[i]
        whole = tables.densities[factor.term_index].lifted.shape == batch
        position = factor.entries[:, None] + factor.summed if whole else leading(tables, i, batch)
        unit[position] = units[:, None]
        for view in factor.views if whole else ():
            address = np.full(unit.shape, UNSEEN)
            address[position] = tables.structure.vectors[view.vector].elements[view.address][:, None]
            reads.append(address)
    shape = batch + core[:sequence]
    arrays = [np.broadcast_to(a.reshape((*batch, *(1,) * sequence)), shape) for a in (unit, *reads)]
    for position, element in labels:
        address = np.full(shape, UNSEEN)
        address.reshape(len(unit), math.prod(core[:sequence]))[position] = element[:, None]
        if len(position) == address.size > len(unit):  # a chain of labels reads itself
            address = element.reshape(shape)
        arrays.append(address)
    parts = [tables.structure.parts.get(name) for name in term.members]
    if any(parts):
        for member, part in enumerate(parts):
            mine = arrays if term.family is None else [a[member] for a in arrays]
            mine = mine if part is None else [whole_of(part, ndim, a) for a in mine]
            yield DataEntries(mine[0], tuple(mine[1:]), sequence)
        return
    # the entries of a single draw are the observations: a Gaussian process, a vector of counts
    repeats = 1 if batch else math.prod(core[sequence:])
    yield DataEntries(arrays[0], tuple(arrays[1:]), sequence, term.family is not None, repeats)


def leading(tables: ModelTables, index: int, batch: tuple[int, ...]) -> np.ndarray:
    """Where the rows of a factor stand among the draws of a variable whose density was taken apart."""
    factor = tables.factors[index]
    shape, size = tables.densities[factor.term_index].lifted.shape, math.prod(batch)
    if shape[: len(batch)] != batch:
        return np.broadcast_to(np.arange(size), (factor.rows, size))
    return factor.entries[:, None] // max(math.prod(shape[len(batch) :]), 1)


def whole_of(part: ObservedPart, ndim: int, values: np.ndarray) -> np.ndarray:
    """The known draws of masked data, in an array like all of the data."""
    shape, positions = part.draws(ndim)
    array = np.full(
        (math.prod(shape), values.size // len(positions) if len(positions) else math.prod(values.shape[1:])), UNSEEN
    )
    array[positions] = values.reshape(len(positions), array.shape[1])
    return array.reshape((*shape, *values.shape[1:]) if values.ndim > 1 else shape)


def labels_read(tables: ModelTables) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """For each term the entries of its density that read known labels, and which (or several of a chain)."""
    labels = known_labels(tables.structure)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for (name, part), _, entries, elements in entries_read(tables, labels) if labels else ():
        if part == 0:
            found.setdefault(name, []).append((entries, elements))
    return found


def penalties_of(tables: ModelTables) -> set[str]:
    """The Potentials that are no data."""
    potentials = [term for term in tables.structure.terms if term.kind == "potential"]
    return {name for term in potentials if not is_data(term, tables) for name in term.members}


def is_data(term: Term, tables: ModelTables) -> bool:
    """Whether a Potential reads latents, or has several entries that depend on data; others are penalties."""
    density = next(d for d in tables.densities if d.term is term)
    if density.lifted.slots:
        return True
    own = density.lifted.shape if term.family is None else density.lifted.shape[1:]
    leaves = tables.structure.leaves
    return bool(own) and any(
        holds_numbers(v) or (v in leaves and leaves[v].is_constant and leaves[v].data.size > 1)
        for v in ancestors([term.density], blockers=list(leaves))
    )


def holds_numbers(variable: Variable) -> bool:
    """Whether a variable is an array of several numbers that are given."""
    if not isinstance(variable.type, TensorType) or not variable.type.ndim:
        return False
    if isinstance(variable, Constant):
        return np.size(variable.data) > 1
    return isinstance(variable, SharedVariable) and np.size(variable.get_value(borrow=True)) > 1


# --- rows -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a variable, or of the variables of a loop.

    Attributes
    ----------
    unit : (rows,)
    reads : arrays like ``unit``, the latents or labels that each row reads, by number
    member : (rows,), the step of the loop
    """

    unit: np.ndarray
    reads: tuple[np.ndarray, ...]
    member: np.ndarray

    @classmethod
    def of(cls, entries: DataEntries) -> Rows:
        unit, reads = entries.unit, entries.reads
        for axis in columns(entries):
            unit, reads = unit.max(axis, keepdims=True), tuple(a.max(axis, keepdims=True) for a in reads)
        member = np.indices(unit.shape)[0] if entries.loop else np.zeros(unit.shape, dtype=int)
        seen = unit != UNSEEN
        unit, member, *reads = [np.repeat(a[seen], entries.repeats) for a in (unit, member, *reads)]
        return cls(unit, tuple(reads), member)


def columns(entries: DataEntries) -> list[int]:
    """The axes of a variable whose entries belong to one row."""
    seen = entries.unit != UNSEEN
    changing = [any(changes(a, seen, axis) for a in entries.reads) for axis in range(seen.ndim)]
    return [axis for axis in range(seen.ndim - entries.sequence) if any(changing) and not changing[axis]]


def changes(address: np.ndarray, seen: np.ndarray, axis: int) -> bool:
    """Whether the entries that are seen read different latents along an axis."""
    if address.shape[axis] < 2 or not seen.any():
        return False
    least = np.where(seen, address, np.iinfo(int).max).min(axis)
    most = np.where(seen, address, np.iinfo(int).min).max(axis)
    return bool(np.any((least != most) & seen.any(axis)))


def distinct(first: np.ndarray, second: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The different pairs of two arrays of whole numbers, in their order, and which of them each is."""
    width = 1 + int(second.max(initial=0))
    pairs, which = np.unique(first.astype(np.int64) * width + second, return_inverse=True)
    return (pairs // width, pairs % width), which.ravel()


def keys(reads: Sequence[tuple[np.ndarray, ...]], group: np.ndarray) -> np.ndarray:
    """A number for every row: that of the latent or label that says most about which row it is, or one of its own.

    That is the one that the fewest rows of a variable (or loop) read, among these the one that most variables read,
    among these the last. ``group``, (rows,), are the numbers of the variables.
    """
    starts = np.searchsorted(group, np.arange(len(reads)))
    pairs = [
        np.stack([starts[v] + np.flatnonzero(a != UNSEEN), a[a != UNSEEN]]) for v, own in enumerate(reads) for a in own
    ]
    alone = np.arange(len(group))
    if not pairs or not sum(p.shape[1] for p in pairs):
        return alone
    (row, element), _ = distinct(*np.concatenate(pairs, axis=1))
    (elements, _), number = distinct(element, group[row])
    readers, users = np.zeros((2, 1 + int(element.max())), dtype=int)
    np.maximum.at(readers, elements, np.bincount(number))
    users += np.bincount(elements)
    order = np.lexsort((element, users[element], -readers[element], row))
    last = np.flatnonzero(np.append(np.diff(row[order]) != 0, True))
    key = len(users) + alone
    key[row[order][last]] = element[order][last]
    return np.unique(key, return_inverse=True)[1]
