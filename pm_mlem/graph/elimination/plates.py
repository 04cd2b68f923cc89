"""Whole vectors at once: plates, nested latents, chains of vectors.

A vector can be eliminated when every table reads it through one view and whatever else the table reads is a
function of its element. The rows are brought to the elements, added, and summed over the states.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pm_mlem.graph.elimination.pieces import (
    Piece,
    Step,
    Vector,
    View,
    move_sources,
    scatter_rows,
    split_twins,
    table_size,
)
from pm_mlem.graph.lift import Context
from pm_mlem.graph.ops.operations import logsumexp


def touching(vector: Vector, pieces: Sequence[Piece]) -> list[Piece]:
    return [p for p in pieces if p.reads(vector)]


def neighbours(vector: Vector, pieces: Sequence[Piece]) -> list[View] | None:
    """The other views of the pieces as functions of the vector's elements; None if they are not."""
    found: list[View] = []
    for piece in touching(vector, pieces):
        own = piece.reads(vector)
        if len(own) != 1:
            return None
        address = piece.views[own[0]].address
        for other in piece.views:
            if other.vector is vector:
                continue
            mapped = np.full(vector.size, -1)
            mapped[address] = other.address
            if not np.array_equal(mapped[address], other.address):
                return None
            merge(found, View(other.vector, mapped))
    return found


def merge(found: list[View], view: View) -> None:
    for i, other in enumerate(found):
        agree = (other.address == view.address) | (other.address < 0) | (view.address < 0)
        if other.vector is view.vector and np.all(agree):
            found[i] = View(other.vector, np.maximum(other.address, view.address))
            return
    found.append(view)


def cost(vector: Vector, pieces: Sequence[Piece]) -> int | None:
    """Entries of the table that the elimination creates; None if it cannot be done."""
    views = neighbours(vector, pieces)
    if views is None or any(np.any(v.address < 0) for v in views):
        return None
    return table_size(vector.size, [vector.states, *[v.states for v in views]])


def sum_out(vector: Vector, pieces: Sequence[Piece], context: Context) -> tuple[list[Piece], Step]:
    """All pieces after the elimination, and its description."""
    views = neighbours(vector, pieces) or []
    chosen = touching(vector, pieces)
    total = None
    sources: dict[int, np.ndarray] = {}
    for piece in chosen:
        [own] = piece.reads(vector)
        address = piece.views[own].address
        table = scatter_rows(piece.table, address, vector.size, context)
        order: list = ["x"] * (1 + len(views)) + [table.type.ndim - 1]
        for axis, view in enumerate(piece.views):
            order[0 if axis == own else 1 + position(view, address, views)] = axis
        table = table.dimshuffle(*order)
        total = table if total is None else total + table
        move_sources(sources, piece, address)
    result = Piece(logsumexp(total, axis=0), tuple(views), vector.size, sources)
    names = tuple(v.vector.name for v in views)
    size = table_size(vector.size, [vector.states, *[v.states for v in views]])
    step = Step((vector.name,), vector.size, vector.states, "plate", names, size)
    return [p for p in pieces if p not in chosen] + split_twins(result, context), step


def position(view: View, address: np.ndarray, views: Sequence[View]) -> int:
    """Which neighbour a view became."""
    for i, other in enumerate(views):
        if other.vector is view.vector and np.array_equal(other.address[address], view.address):
            return i
    raise AssertionError("a neighbour is missing")
