"""Log-factor tables: every term of the log-density as an array over latent states and rows.

A factor's table has one leading axis for each slot and one axis of rows (of length 1 where the table is the
same for all rows). Row ``r`` reads the latent element ``addresses[s][r]`` through slot ``s``. Terms without
latents are tables without slots; their rows are independent units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pm_mlem.graph.lift import Context, Lifted, Slot
from pm_mlem.graph.lift.core import align, align_symbol, broadcast_slots, materialize
from pm_mlem.graph.roles.structure import LatentVector


@dataclass(frozen=True, eq=False)
class View:
    """One slot of a factor: the vector of latent elements it reads and, row by row, which of them."""

    vector: int  # position in the list of vectors
    states: int
    address: np.ndarray  # (rows,), numbered within the vector


@dataclass(frozen=True, eq=False)
class Factor:
    """One log-factor table.

    Attributes
    ----------
    term : name of the variable or Potential it comes from
    term_index : position of that term (the first one for the components of a mixture)
    table : symbolic array ``(states of view 1, ..., states of view s, rows or 1)``, a function of the term's
        density array
    views : the latents it reads
    rows : true number of rows
    entries : for each row the flat position in the term's element-wise density (first one where several
        were summed), so that weights and labels of observations find their rows
    summed : the positions of what was summed into a row, counted from the first
    """

    term: str
    term_index: int
    table: Variable
    views: tuple[View, ...]
    rows: int
    entries: np.ndarray
    summed: np.ndarray

    @property
    def virtual(self) -> bool:
        return self.rows != 1 and self.table.type.shape[-1] == 1


def factorize(
    term: str, term_index: int, density: Lifted, vectors: Sequence[LatentVector], context: Context
) -> list[Factor]:
    """The factors of one lifted term: rows flattened, split by the latents that they read."""
    density = used_slots(density, context)
    if density.slots:
        density, entries, summed = sum_out_plain_axes(density, context)
    else:
        entries, summed = np.arange(int(np.prod(density.shape, dtype=np.int64))), np.zeros(1, dtype=int)
    flat = flatten_rows(density, context)
    rows = int(np.prod(density.shape, dtype=np.int64))
    if not flat.slots:
        return [Factor(term, term_index, context.symbol(flat), (), rows, entries, summed)]
    return [
        Factor(term, term_index, table, views, len(chosen), entries[chosen], summed)
        for table, views, chosen in split_rows(flat, rows, vectors, context)
    ]


def by_state(values: Mapping[int, Lifted], latent: Lifted, context: Context) -> list[Lifted]:
    """Values that each count only where a latent has one state; what comes back adds up to that.

    ``values`` maps states to arrays of the latent's shape; those that read no other latent become one table.
    """
    alone = {state: value for state, value in values.items() if not value.slots}
    tables = [only_at(value, latent, state, context) for state, value in values.items() if value.slots]
    if alone:
        [slot] = latent.slots
        wide = np.broadcast_shapes(*[value.array_shape for value in alone.values()])
        rows = [
            pt.broadcast_to(context.symbol(alone[state]), wide) if state in alone else pt.zeros(wide)
            for state in range(slot.lower, slot.lower + slot.size)
        ]
        tables.append(Lifted(latent.shape, latent.slots, symbol=pt.stack(rows)))
    return tables


def only_at(value: Lifted, latent: Lifted, state: int, context: Context) -> Lifted:
    """The value where a latent (an array of the same shape) has one state, 0 where it has another."""
    slots, positions = broadcast_slots([value, latent], value.ndim)
    array = align_symbol(value, positions[0], len(slots), value.ndim, context)
    chosen = align(Lifted(latent.shape, latent.slots, data=latent.data == state), positions[1], len(slots), value.ndim)
    return Lifted(value.shape, tuple(slots), symbol=pt.switch(context.inline(chosen), array, 0.0))


def used_slots(value: Lifted, context: Context) -> Lifted:
    """Without the slots that read no latent anywhere."""
    unused = [i for i, s in enumerate(value.slots) if np.all(s.address < 0)]
    if not unused:
        return value
    slots = tuple(s for i, s in enumerate(value.slots) if i not in unused)
    array = context.symbol(value)
    key = tuple(0 if i in unused else slice(None) for i in range(len(value.slots)))
    return Lifted(value.shape, slots, symbol=array[key])


def sum_out_plain_axes(value: Lifted, context: Context) -> tuple[Lifted, np.ndarray, np.ndarray]:
    """Sum over the axes along which no latent changes (the items of a latent class, say).

    With the positions of the first entry of every sum, and of the entries of a sum counted from its first.
    """
    plain = [d for d in range(value.ndim) if value.shape[d] == 1 or not any(s.varies_along(d) for s in value.slots)]
    grid = np.arange(int(np.prod(value.shape, dtype=np.int64))).reshape(value.shape)
    entries = grid[tuple(0 if d in plain else slice(None) for d in range(value.ndim))].ravel()
    summed = grid[tuple(slice(None) if d in plain else 0 for d in range(value.ndim))].ravel()
    if not plain:
        return value, entries, summed
    count = int(np.prod([value.shape[d] for d in plain if value.is_virtual(d)], dtype=np.int64))
    own = len(value.slots)
    array = context.symbol(value).sum(axis=[own + d for d in plain])
    array = array * count if count != 1 else array
    kept = [d for d in range(value.ndim) if d not in plain]
    slots = tuple(s.with_address(s.address.reshape([s.address.shape[d] for d in kept])) for s in value.slots)
    return Lifted(tuple(value.shape[d] for d in kept), slots, symbol=array), entries, summed


def flatten_rows(value: Lifted, context: Context) -> Lifted:
    """One axis of rows."""
    rows = int(np.prod(value.shape, dtype=np.int64))
    sizes = tuple(s.size for s in value.slots)
    slots = tuple(Slot(s.lower, s.size, np.broadcast_to(s.address, value.shape).ravel()) for s in value.slots)
    if all(n == 1 for n in value.array_shape):
        length = 1
    else:
        value, length = materialize(value), rows
    array = context.symbol(value)
    if value.ndim != 1:
        array = array.reshape((*sizes, length))
    return Lifted((rows,), slots, symbol=array)


def split_rows(
    value: Lifted, rows: int, vectors: Sequence[LatentVector], context: Context
) -> Iterator[tuple[Variable, tuple[View, ...], np.ndarray]]:
    """Rows that read the same latents through the same slots: their table, its views, and which rows."""
    owner_of, place_of = numbering(vectors)
    owner = [owner_of[s.address] for s in value.slots]
    pattern = np.stack([*owner, *same_element(value.slots)])
    kinds, kind_of_row = distinct_columns(pattern)
    for k in range(kinds.shape[1]):
        chosen = np.flatnonzero(kind_of_row == k)
        table = context.symbol(value)
        if len(chosen) != rows and table.type.shape[-1] != 1:
            table = table[..., context.symbol(Lifted(chosen.shape, data=chosen))]
        table, kept = reduce_slots(table, [s.size for s in value.slots], kinds[:, k])
        views = tuple(
            View(int(kinds[i, k]), value.slots[i].size, place_of[value.slots[i].address[chosen]]) for i in kept
        )
        yield table, views, chosen


def numbering(vectors: Sequence[LatentVector]) -> tuple[np.ndarray, np.ndarray]:
    """For every latent element its vector and its place there; -1 at the last position, where -1 points to."""
    owner, place = np.full((2, 1 + sum(v.n_elements for v in vectors)), -1)
    for i, vector in enumerate(vectors):
        owner[vector.elements] = i
        place[vector.elements] = np.arange(vector.n_elements)
    return owner, place


def distinct_columns(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different columns, and which of them each column is (no sorting where all are alike)."""
    if np.all(array == array[:, :1]):
        return array[:, :1], np.zeros(array.shape[1], dtype=int)
    kinds, which = np.unique(array, axis=1, return_inverse=True)
    return kinds, which.ravel()


def same_element(slots: Sequence[Slot]) -> list[np.ndarray]:
    """For each pair of slots, row by row, whether both read the same element."""
    pairs = [(a, b) for j, b in enumerate(slots) for a in slots[:j]]
    return [((a.address == b.address) & (a.address >= 0)).astype(int) for a, b in pairs]


def reduce_slots(table: Variable, sizes: Sequence[int], kind: np.ndarray) -> tuple[Variable, list[int]]:
    """Drop the slots that read nothing in these rows; take the diagonal where two read the same element.

    ``sizes`` are the states of the slots; ``kind`` holds for each slot -1 where it reads nothing, then for each pair
    of slots (0, 1), (0, 2), (1, 2), ... whether both read the same element. Returns the table and the slots kept.
    """
    n = len(sizes)
    pairs = [(i, j) for j in range(n) for i in range(j)]
    twin = {}
    for (i, j), same in zip(pairs, kind[n:], strict=True):
        if same and j not in twin:
            twin[j] = twin.get(i, i)
    kept = [i for i in range(n) if kind[i] >= 0 and i not in twin]
    if kept == list(range(n)):
        return table, kept
    key = []
    for i in range(n):
        if kind[i] < 0:
            key.append(np.zeros((1,) * len(kept), dtype=int))
        else:
            position = kept.index(twin.get(i, i))
            shape = [1] * len(kept)
            shape[position] = sizes[i]
            key.append(np.arange(sizes[i]).reshape(shape))
    if not kept:
        return table[(0,) * n], kept
    return table[tuple(key)], kept
