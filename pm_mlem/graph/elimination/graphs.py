"""Connected components of the elements that are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pm_mlem.graph.elimination.pieces import Piece, Vector


@dataclass(frozen=True, eq=False)
class Components:
    """Which component each element belongs to, and its rank among the component's elements of its vector.

    ``label[vector]`` and ``rank[vector]`` have one entry for each element; ``count`` is the number of components.
    """

    vectors: tuple[Vector, ...]
    label: dict[Vector, np.ndarray]
    rank: dict[Vector, np.ndarray]
    count: int


def components(pieces: Sequence[Piece], vectors: Sequence[Vector]) -> Components:
    """Components of the graph whose edges are the rows of the pieces."""
    offset, total = {}, 0
    for vector in vectors:
        offset[vector] = total
        total += vector.size
    ends: list[np.ndarray] = [np.empty((2, 0), dtype=int)]
    for piece in pieces:
        ids = [offset[v.vector] + v.address for v in piece.views if v.vector in offset]
        ends += [np.stack([ids[0], other]) for other in ids[1:]]
    i, j = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(total, total))
    count, labels = connected_components(graph, directed=False)
    label = {v: labels[offset[v] : offset[v] + v.size] for v in vectors}
    return Components(tuple(vectors), label, {v: ranks(label[v]) for v in vectors}, int(count))


def ranks(labels: np.ndarray) -> np.ndarray:
    """Position of each entry among those with the same label."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    within = np.arange(len(labels)) - np.repeat(starts, np.diff(np.r_[starts, len(labels)]))
    result = np.empty(len(labels), dtype=int)
    result[order] = within
    return result


def path_ranks(vector: Vector, pieces: Sequence[Piece], found: Components) -> np.ndarray | None:
    """Positions along paths, where every component of one vector is a path in whatever order it is stored."""
    neighbours: list[set[int]] = [set() for _ in range(vector.size)]
    for piece in pieces:
        own = piece.reads(vector)
        if len(own) > 2:
            return None
        if len(own) == 2:
            for a, b in zip(piece.views[own[0]].address, piece.views[own[1]].address, strict=True):
                neighbours[a].add(int(b))
                neighbours[b].add(int(a))
    if any(len(n) > 2 for n in neighbours):
        return None
    result = np.full(vector.size, -1)
    for end in range(vector.size):
        if result[end] >= 0 or len(neighbours[end]) == 2:
            continue
        previous, current, position = -1, end, 0
        while current >= 0:
            result[current] = position
            onward = [n for n in neighbours[current] if n != previous]
            previous, current, position = current, (onward[0] if onward else -1), position + 1
    return None if np.any(result < 0) else result  # what is left are cycles
