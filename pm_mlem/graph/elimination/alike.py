"""Latents that hang together in the same way are summed out together.

A python loop over chains of different lengths declares many latents, each with a recursion of its own. Where groups of
latents that share nothing have tables over the same states, read in the same way, their elements become one vector and
their tables one table, so that one recursion over chains of different lengths serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytensor.tensor as pt

from pm_mlem.graph.elimination.pieces import Piece, Vector, View, table_size

LARGEST_COPY = 2**22
"""Entries of a table that may be written out where one column stood for many rows."""

Pattern = tuple[int, ...]


def merge(pieces: Sequence[Piece], vectors: Sequence[Vector]) -> list[Piece] | None:
    """The pieces with those of groups that are alike put end to end; None where no two are."""
    alike: dict[tuple, list[list[Vector]]] = {}
    for group in linked(pieces, vectors):
        alike.setdefault(signature(pieces, group), []).append(group)
    several = [groups for groups in alike.values() if len(groups) > 1]
    result = list(pieces)
    for groups in several:
        parts = [sorted((p for p in pieces if reads(p, g)), key=lambda p: pattern(p, g)) for g in groups]
        if max(copied(column) for column in zip(*parts, strict=True)) > LARGEST_COPY:
            continue
        taken = {id(p) for part in parts for p in part}
        new = [end_to_end(members) for members in zip(*groups, strict=True)]
        result = [p for p in result if id(p) not in taken]
        result += [joined(column, groups, new) for column in zip(*parts, strict=True)]
    return result if len(result) < len(pieces) else None


def linked(pieces: Sequence[Piece], vectors: Sequence[Vector]) -> list[list[Vector]]:
    """Vectors that hang together by pieces, in order."""
    label = {v: i for i, v in enumerate(vectors)}
    for piece in pieces:
        numbers = {label[v.vector] for v in piece.views}
        if len(numbers) > 1:
            label = {v: min(numbers) if n in numbers else n for v, n in label.items()}
    return [[v for v in vectors if label[v] == n] for n in sorted(set(label.values()))]


def reads(piece: Piece, group: Sequence[Vector]) -> bool:
    return any(v.vector in group for v in piece.views)


def pattern(piece: Piece, group: Sequence[Vector]) -> Pattern:
    """Which of a group's vectors the views of a piece read."""
    return tuple(group.index(v.vector) for v in piece.views)


def signature(pieces: Sequence[Piece], group: Sequence[Vector]) -> tuple:
    """What groups have in common that can be summed out together."""
    own = [p for p in pieces if reads(p, group)]
    patterns = sorted((pattern(p, group), p.table.type.dtype) for p in own)
    return tuple(v.states for v in group), tuple(patterns)


def end_to_end(members: Sequence[Vector]) -> Vector:
    names = tuple(name for v in members for name in v.names)
    return Vector(members[0].name, members[0].states, sum(v.size for v in members), names)


def copied(column: Sequence[Piece]) -> int:
    """Entries that are written out where pieces are put end to end."""
    if not any(p.virtual for p in column):
        return 0
    return table_size(sum(p.rows for p in column), [v.states for v in column[0].views])


def joined(column: Sequence[Piece], groups: Sequence[Sequence[Vector]], new: Sequence[Vector]) -> Piece:
    """Pieces of one pattern as one piece over the new vectors."""
    tables = [pt.broadcast_to(p.table, (*p.table.type.shape[:-1], p.rows)) if p.virtual else p.table for p in column]
    which = pattern(column[0], groups[0])
    starts = [np.cumsum([0, *[g[i].size for g in groups]]) for i in range(len(new))]
    views = [
        View(new[i], np.concatenate([p.views[axis].address + starts[i][n] for n, p in enumerate(column)]))
        for axis, i in enumerate(which)
    ]
    sources: dict[int, np.ndarray] = {}
    before = 0
    for piece in column:
        for factor, rows in piece.sources.items():
            target = sources.setdefault(factor, np.full(len(rows), -1))
            target[rows >= 0] = before + rows[rows >= 0]
        before += piece.rows
    return Piece(pt.concatenate(tables, axis=-1), tuple(views), before, sources)
