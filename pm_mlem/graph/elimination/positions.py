"""Small graphs of any shape: the elements at one position of all components become a vector of their own.

Trees, loops, blocks: once every component is laid out in the same order, the elements at position 3 of all
components are a plate, and plates are eliminated one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pm_mlem.graph.elimination.graphs import components
from pm_mlem.graph.elimination.pieces import Piece, Vector, View, move_sources, select_rows
from pm_mlem.graph.lift import Context

MOST_POSITIONS = 400


def split(pieces: Sequence[Piece], vectors: Sequence[Vector], context: Context) -> list[Piece] | None:
    """Pieces over position vectors; None if there would be too many."""
    found = components(pieces, vectors)
    signature = np.zeros((found.count, len(vectors)), dtype=int)
    for i, vector in enumerate(vectors):
        signature[:, i] = np.bincount(found.label[vector], minlength=found.count)
    kinds, kind = np.unique(signature, axis=0, return_inverse=True)
    if kinds.sum() > MOST_POSITIONS:
        return None
    kind = kind.ravel()
    place = np.empty(found.count, dtype=int)  # of a component among those of its kind
    new: dict[tuple[int, Vector, int], Vector] = {}
    for k in range(len(kinds)):
        members = np.flatnonzero(kind == k)
        place[members] = np.arange(len(members))
        for i, vector in enumerate(vectors):
            for rank in range(kinds[k, i]):
                new[k, vector, rank] = Vector(f"{vector.name}[{rank}]", vector.states, len(members))
    result = []
    for piece in pieces:
        inner = [i for i, v in enumerate(piece.views) if v.vector in found.label]
        if not inner:
            result.append(piece)
            continue
        first = piece.views[inner[0]]
        label = found.label[first.vector][first.address]
        ranks = [found.rank[piece.views[i].vector][piece.views[i].address] for i in inner]
        patterns, which = np.unique(np.stack([kind[label], *ranks]), axis=1, return_inverse=True)
        for p in range(patterns.shape[1]):
            chosen = np.flatnonzero(which.ravel() == p)
            views = list(piece.views)
            for i, view in enumerate(views):
                views[i] = View(view.vector, view.address[chosen])
            for i, rank in zip(inner, patterns[1:, p], strict=True):
                vector = new[int(patterns[0, p]), piece.views[i].vector, int(rank)]
                views[i] = View(vector, place[label[chosen]])
            moved = np.full(piece.rows, -1)
            moved[chosen] = np.arange(len(chosen))
            sources: dict[int, np.ndarray] = {}
            move_sources(sources, piece, moved)
            result.append(Piece(select_rows(piece, chosen, context), tuple(views), len(chosen), sources))
    return result
