"""Chains: elements in an order of time, tables that reach back a few steps.

A hidden Markov model, several coupled ones, chains that look back several steps, with gaps and of different
lengths: in each connected component every vector has one element a time, and every table reads elements within a
window of ``lag + 1`` times (elements of which a component has just one are constants of the chain). The
recursion carries a table over the states within the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pm_mlem.graph.elimination.factors import distinct_columns
from pm_mlem.graph.elimination.graphs import components, path_ranks
from pm_mlem.graph.elimination.pieces import (
    Piece,
    Step,
    Vector,
    View,
    move_sources,
    repeat_column,
    select_rows,
    split_twins,
    table_size,
)
from pm_mlem.graph.lift import Context, Lifted
from pm_mlem.graph.lift.core import LARGEST_TABLE
from pm_mlem.graph.ops.operations import WindowLogZ, logsumexp
from pm_mlem.graph.ops.recursion import Pattern, Window

LONGEST_LAG = 6


@dataclass(frozen=True, eq=False)
class Timeline:
    """The order of time: for each vector the component and the time of its elements.

    ``moving`` vectors have one element at every time, ``constant`` ones one for the whole component.
    """

    moving: tuple[Vector, ...]
    constant: tuple[Vector, ...]
    component: dict[Vector, np.ndarray]
    time: dict[Vector, np.ndarray]
    lengths: np.ndarray
    lag: int

    @property
    def joint_states(self) -> int:
        """States of all moving vectors at one time."""
        return int(np.prod([v.states for v in self.moving], dtype=np.int64))

    @property
    def cost(self) -> int:
        constants = [v.states for v in self.constant]
        steps = table_size(int(self.lengths.sum()), [*constants, *[self.joint_states] * (self.lag + 1)])
        return int(steps)

    @property
    def step_size(self) -> int:
        """Entries of the table of one step."""
        constants = [v.states for v in self.constant]
        return table_size(len(self.lengths), [*constants, *[self.joint_states] * (self.lag + 1)])


def timeline(pieces: Sequence[Piece], vectors: Sequence[Vector]) -> Timeline | None:
    """The order of time among some vectors, if there is one."""
    inner = [p for p in pieces if any(v.vector in vectors for v in p.views)]
    found = components(inner, vectors)
    counts = {v: np.bincount(found.label[v], minlength=found.count) for v in vectors}
    constant = tuple(v for v in vectors if np.all(counts[v] == 1) and any(np.any(counts[w] > 1) for w in vectors))
    moving = tuple(v for v in vectors if v not in constant)
    if not moving or any(not np.array_equal(counts[v], counts[moving[0]]) for v in moving):
        return None
    lengths = counts[moving[0]]
    if np.any(lengths == 0) or lengths.max() < 2:
        return None
    time = {v: found.rank[v] for v in moving}
    lag = longest_reach(inner, time)
    if lag > 1 and len(moving) == 1:
        along = path_ranks(moving[0], inner, found)
        if along is not None:
            time, lag = {moving[0]: along}, 1
    if lag < 1 or lag > LONGEST_LAG:
        return None
    return Timeline(moving, constant, dict(found.label), time, lengths, lag)


def longest_reach(pieces: Sequence[Piece], time: dict[Vector, np.ndarray]) -> int:
    reach = 0
    for piece in pieces:
        times = [time[v.vector][v.address] for v in piece.views if v.vector in time]
        if len(times) > 1:
            reach = max(reach, int(np.max(np.max(times, axis=0) - np.min(times, axis=0))))
    return reach


def outside_views(pieces: Sequence[Piece], line: Timeline) -> list[View] | None:
    """Views of other vectors as functions of the component; None if they change within a component."""
    inside = {*line.moving, *line.constant}
    found: list[View] = []
    for piece in pieces:
        if not any(v.vector in inside for v in piece.views):
            continue
        where = component_of_rows(piece, line)
        for view in piece.views:
            if view.vector in inside:
                continue
            mapped = np.full(len(line.lengths), -1)
            mapped[where] = view.address
            if not np.array_equal(mapped[where], view.address):
                return None
            for i, other in enumerate(found):
                agree = (other.address == mapped) | (other.address < 0) | (mapped < 0)
                if other.vector is view.vector and np.all(agree):
                    found[i] = View(other.vector, np.maximum(other.address, mapped))
                    break
            else:
                found.append(View(view.vector, mapped))
    return found if all(np.all(v.address >= 0) for v in found) else None


def component_of_rows(piece: Piece, line: Timeline) -> np.ndarray:
    view = next(v for v in piece.views if v.vector in line.component)
    return line.component[view.vector][view.address]


def candidate(pieces: Sequence[Piece], vectors: Sequence[Vector]) -> tuple[Timeline, list[View]] | None:
    """A set of vectors that form chains, cheapest first: one vector, then all that hang together."""
    groups = [[v] for v in vectors] + connected_groups(pieces, vectors)
    best = None
    for group in groups:
        line = timeline(pieces, group)
        if line is None or line.step_size > LARGEST_TABLE:
            continue
        views = outside_views(pieces, line)
        if views is None:
            continue
        if best is None or line.cost < best[0].cost:
            best = line, views
    return best


def connected_groups(pieces: Sequence[Piece], vectors: Sequence[Vector]) -> list[list[Vector]]:
    """Vectors that share pieces."""
    groups: list[list[Vector]] = []
    for vector in vectors:
        linked = {vector} | {v.vector for p in pieces if p.reads(vector) for v in p.views if v.vector in vectors}
        joined = [g for g in groups if any(v in linked for v in g)]
        merged = [v for v in vectors if v in linked or any(v in g for g in joined)]
        groups = [g for g in groups if g not in joined] + [merged]
    return [g for g in groups if len(g) > 1]


def sum_out(line: Timeline, outside: list[View], pieces: Sequence[Piece], context: Context) -> tuple[list[Piece], Step]:
    """Run the recursion: all pieces after the elimination, and its description."""
    inside = {*line.moving, *line.constant}
    chosen = [p for p in pieces if any(v.vector in inside for v in p.views)]
    leading = [View(v, np.argsort(line.component[v])) for v in line.constant] + outside
    patterns: list[Pattern] = []
    tables: list[Variable] = []
    sources: dict[int, np.ndarray] = {}
    for piece in chosen:
        for pattern, table in tables_of(piece, line, leading, context):
            for i, other in enumerate(patterns):
                if other == pattern and broadcastable(tables[i], table):
                    tables[i] = tables[i] + table
                    break
            else:
                patterns.append(pattern)
                tables.append(table)
        move_sources(sources, piece, component_of_rows(piece, line))
    states = tuple(v.states for v in line.moving)
    op = WindowLogZ(Window(states, line.lag, tuple(patterns), len(leading), int(line.lengths.max())))
    lengths = context.symbol(Lifted(line.lengths.shape, data=line.lengths.astype(np.int64)))
    result = op(lengths, *tables)
    views, result = sum_constants(result, leading, line)
    step = Step(
        tuple(name for v in (*line.moving, *line.constant) for name in v.names),
        int(line.lengths.sum()),
        line.joint_states,
        f"{len(line.lengths)} chain(s) of up to {int(line.lengths.max())} steps, looking back {line.lag}",
        tuple(v.vector.name for v in views),
        line.cost,
    )
    new = Piece(result, tuple(views), len(line.lengths), sources)
    return [p for p in pieces if p not in chosen] + split_twins(new, context), step


def sum_constants(result: Variable, leading: Sequence[View], line: Timeline) -> tuple[list[View], Variable]:
    """The constants of the chains are summed last."""
    for _ in line.constant:
        result = logsumexp(result, axis=0)
    return list(leading[len(line.constant) :]), result


def broadcastable(a: Variable, b: Variable) -> bool:
    return a.type.shape == b.type.shape


def tables_of(piece: Piece, line: Timeline, leading: Sequence[View], context: Context):
    """The piece as tables ``(leading states..., states of the moving views..., components, times)``."""
    moving = [i for i, v in enumerate(piece.views) if v.vector in line.moving]
    times = np.stack([line.time[piece.views[i].vector][piece.views[i].address] for i in moving]) if moving else None
    where = component_of_rows(piece, line)
    if times is None:  # reads constants of the chain only: attach to the first time
        newest, offsets = np.zeros(piece.rows, dtype=int), np.zeros((0, piece.rows), dtype=int)
    else:
        newest = times.max(axis=0)
        offsets = newest - times
    kinds, kind = distinct_columns(offsets)
    for k in range(kinds.shape[1]):
        chosen = np.flatnonzero(kind == k)
        pattern = tuple(
            (line.moving.index(piece.views[i].vector), int(o)) for i, o in zip(moving, kinds[:, k], strict=True)
        )
        table = select_rows(piece, chosen, context)
        order: list = ["x"] * len(leading) + moving + [len(piece.views)]
        for axis, view in enumerate(piece.views):
            if axis not in moving:
                order[lead_position(view, where, leading, line)] = axis
        yield pattern, on_grid(table.dimshuffle(*order), where[chosen], newest[chosen], pattern, line, context)


def lead_position(view: View, where: np.ndarray, leading: Sequence[View], line: Timeline) -> int:
    for i, other in enumerate(leading):
        if other.vector is view.vector and (
            view.vector in line.constant or np.array_equal(other.address[where], view.address)
        ):
            return i
    raise AssertionError("a constant of the chain is missing")


def on_grid(
    table: Variable, component: np.ndarray, time: np.ndarray, pattern: Pattern, line: Timeline, context: Context
) -> Variable:
    """Columns to a grid ``(components, times)``; one cell where the table is the same at all times it can be."""
    n, steps = len(line.lengths), int(line.lengths.max())
    first = max((o for _, o in pattern), default=0)
    full = int(np.maximum(line.lengths - first, 0).sum())
    cells = component * steps + time
    once = len(np.unique(cells)) == len(cells)
    if table.type.shape[-1] == 1 and once and len(cells) == full and first > 0:
        return table.dimshuffle(*range(table.type.ndim), "x")
    lead = table.type.shape[:-1]
    counts = np.bincount(cells, minlength=n * steps)
    if table.type.shape[-1] == 1 and np.all(counts == 1):
        return table.dimshuffle(*range(table.type.ndim), "x")
    if table.type.shape[-1] == 1:
        grid = repeat_column(table, counts, context)
    elif len(cells) == n * steps and np.array_equal(cells, np.arange(n * steps)):
        grid = table
    else:
        zeros = pt.zeros((*lead, n * steps), dtype=table.type.dtype)
        grid = pt.inc_subtensor(zeros[..., context.symbol(Lifted(cells.shape, data=cells))], table)
    return grid.reshape((*lead, n, steps))
