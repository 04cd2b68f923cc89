"""Factors at work: tables whose rows read elements of vectors of latent elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pm_mlem.graph.elimination.factors import reduce_slots
from pm_mlem.graph.lift import Context, Lifted


@dataclass(frozen=True, eq=False)
class Vector:
    """Elements that are summed out together: a latent, several that are alike, or the elements at one position of many
    small graphs.
    """

    name: str
    states: int
    size: int
    members: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The latents that the elements belong to."""
        return self.members or (self.name,)


@dataclass(frozen=True, eq=False)
class View:
    """One axis of a table: the vector it reads and, row by row, which of its elements."""

    vector: Vector
    address: np.ndarray

    @property
    def states(self) -> int:
        return self.vector.states


@dataclass(eq=False)
class Piece:
    """A table ``(states of its views..., rows)`` with the original rows that ended in each of its rows.

    ``sources`` maps an original factor to the row of this piece for each of its own rows.
    """

    table: Variable
    views: tuple[View, ...]
    rows: int
    sources: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def virtual(self) -> bool:
        """One column stands for all rows."""
        return self.rows != 1 and self.table.type.shape[-1] == 1

    def reads(self, vector: Vector) -> list[int]:
        return [i for i, v in enumerate(self.views) if v.vector is vector]


@dataclass(frozen=True)
class Step:
    """What was summed out, how, and at what cost (table entries)."""

    latents: tuple[str, ...]
    elements: int
    states: int
    how: str
    given: tuple[str, ...]
    cost: int


def table_size(n: int, states: Sequence[int]) -> int:
    return n * math.prod(states)


def select_rows(piece: Piece, chosen: np.ndarray, context: Context) -> Variable:
    """The columns of a table for some of its rows."""
    if len(chosen) == piece.rows or piece.table.type.shape[-1] == 1:
        return piece.table
    return piece.table[..., context.symbol(Lifted(chosen.shape, data=chosen))]


def scatter_rows(table: Variable, address: np.ndarray, n: int, context: Context) -> Variable:
    """Add up the columns of a table that go to the same place among n; one column where all are alike."""
    rows = table.type.shape[-1]
    if rows == n == len(address) and np.array_equal(address, np.arange(n)):
        return table
    counts = np.bincount(address, minlength=n)
    if rows == 1:
        if np.all(counts == counts[0]):
            return table if counts[0] == 1 else table * float(counts[0])
        return repeat_column(table, counts, context)
    if np.all(counts == 1):
        order = np.argsort(address, kind="stable")
        return table[..., context.symbol(Lifted(order.shape, data=order))]
    zeros = pt.zeros((*table.type.shape[:-1], n), dtype=table.type.dtype)
    return pt.inc_subtensor(zeros[..., context.symbol(Lifted(address.shape, data=address))], table)


def repeat_column(table: Variable, counts: np.ndarray, context: Context) -> Variable:
    """A table of one column, added up a number of times at each of n places (0 where never, even if it is -inf)."""
    repeated = table * context.symbol(Lifted(counts.shape, data=counts.astype(float)))
    if np.all(counts):
        return repeated
    return pt.switch(context.symbol(Lifted(counts.shape, data=counts > 0)), repeated, 0.0)


def split_twins(piece: Piece, context: Context) -> list[Piece]:
    """Pieces without rows that read the same element through two views (their tables' diagonals)."""
    n = len(piece.views)
    pairs = [(piece.views[i], piece.views[j]) for j in range(n) for i in range(j)]
    same = [(a.address == b.address) & (a.vector is b.vector) for a, b in pairs]
    if not np.any(same):
        return [piece]
    kinds, kind_of_row = np.unique(
        np.stack([*np.zeros((n, piece.rows)), *same]).astype(int), axis=1, return_inverse=True
    )
    result = []
    for k in range(kinds.shape[1]):
        chosen = np.flatnonzero(kind_of_row.ravel() == k)
        table, kept = reduce_slots(select_rows(piece, chosen, context), [v.states for v in piece.views], kinds[:, k])
        views = tuple(View(piece.views[i].vector, piece.views[i].address[chosen]) for i in kept)
        moved = np.full(piece.rows, -1)
        moved[chosen] = np.arange(len(chosen))
        sources: dict[int, np.ndarray] = {}
        move_sources(sources, piece, moved)
        result.append(Piece(table, views, len(chosen), sources))
    return result


def move_sources(sources: dict[int, np.ndarray], piece: Piece, address: np.ndarray) -> None:
    """Record in ``sources`` where the original rows go when row r of the piece goes to ``address[r]``."""
    for factor, rows in piece.sources.items():
        here = rows >= 0
        target = sources.setdefault(factor, np.full(len(rows), -1))
        target[here] = address[rows[here]]
