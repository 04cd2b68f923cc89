"""Sum the latents out: an order of elimination, and the graph that carries it out on the tables.

A latent (a vector of elements) can be eliminated when every factor reads it through one view and whatever
else those factors read is a function of its element: its rows are then brought to the elements, added and
summed over the states by ``logsumexp``, leaving a factor over the neighbours with one row an element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.factors import Factor, View
from pm_mlem.graph.ops import logsumexp
from pm_mlem.graph.structure import Latent


@dataclass(eq=False)
class Piece:
    """A factor at work: its table, its views, and the original factors' rows that ended in each of its rows."""

    table: Variable
    views: tuple[View, ...]
    rows: int
    sources: dict[int, np.ndarray] = field(default_factory=dict)
    """original factor -> for each of its rows the row of this piece"""

    @property
    def virtual(self) -> bool:
        return self.rows != 1 and self.table.type.shape[-1] == 1


@dataclass(frozen=True, eq=False)
class Step:
    """What was summed out, and at what cost (table entries)."""

    latent: str
    elements: int
    states: int
    neighbours: tuple[str, ...]
    cost: int


@dataclass(frozen=True, eq=False)
class Elimination:
    """The log-partition of every unit, as a function of the terms' density arrays.

    Attributes
    ----------
    units : symbolic vectors, one for each group of connected terms; their entries are independent units
    sizes : number of units of each vector
    unit_of_row : for each factor ``(vector, unit of each row)``
    steps : what was done
    """

    units: tuple[Variable, ...]
    sizes: tuple[int, ...]
    unit_of_row: tuple[tuple[int, np.ndarray], ...]
    steps: tuple[Step, ...]


def eliminate(factors: Sequence[Factor], latents: Sequence[Latent]) -> Elimination:
    """Choose an order greedily (cheapest first) and build the graph.

    Raises
    ------
    UnsupportedModelError
        No latent that is left can be eliminated.
    """
    pieces = [Piece(f.table, f.views, f.rows, {i: np.arange(f.rows)}) for i, f in enumerate(factors)]
    remaining = {v.latent for p in pieces for v in p.views}
    steps = []
    while remaining:
        candidates = [(cost, k) for k in remaining if (cost := cost_of(k, pieces, latents)) is not None]
        if not candidates:
            raise UnsupportedModelError(stuck(remaining, pieces, factors, latents))
        cost, chosen = min(candidates)
        touching = [p for p in pieces if any(v.latent == chosen for v in p.views)]
        pieces = [p for p in pieces if p not in touching]
        result = sum_out(chosen, touching, latents)
        neighbours = tuple(latents[v.latent].name for v in result.views)
        steps.append(Step(latents[chosen].name, latents[chosen].n_elements, latents[chosen].states, neighbours, cost))
        pieces.append(result)
        remaining.discard(chosen)
    return finish(pieces, steps, len(factors))


def neighbour_map(view: View, others: Sequence[View], n: int) -> list[np.ndarray] | None:
    """For each element of the view's latent the element of each other view, if there is only one."""
    maps = []
    for other in others:
        first = np.full(n, -1)
        first[view.address] = other.address
        if not np.array_equal(first[view.address], other.address):
            return None
        maps.append(first)
    return maps


def neighbours_of(latent: int, piece: Piece, n: int) -> dict[tuple[int, bytes], View] | None:
    """The other views of a piece as functions of the latent's elements."""
    own = [v for v in piece.views if v.latent == latent]
    if len(own) != 1:
        return None
    others = [v for v in piece.views if v.latent != latent]
    maps = neighbour_map(own[0], others, n)
    if maps is None:
        return None
    return {(o.latent, m.tobytes()): View(o.latent, o.states, m) for o, m in zip(others, maps, strict=True)}


def merged_neighbours(latent: int, pieces: Sequence[Piece], n: int) -> list[View] | None:
    """The union of the neighbours of all pieces; None where one is not a function of the latent's element."""
    found: list[View] = []
    for piece in pieces:
        views = neighbours_of(latent, piece, n)
        if views is None:
            return None
        for view in views.values():
            for i, other in enumerate(found):
                same = (other.address == view.address) | (other.address < 0) | (view.address < 0)
                if other.latent == view.latent and np.all(same):
                    found[i] = View(other.latent, other.states, np.maximum(other.address, view.address))
                    break
            else:
                found.append(view)
    return found


def cost_of(latent: int, pieces: Sequence[Piece], latents: Sequence[Latent]) -> int | None:
    """Entries of the table that eliminating a latent creates, or None if it cannot be done now."""
    n = latents[latent].n_elements
    touching = [p for p in pieces if any(v.latent == latent for v in p.views)]
    neighbours = merged_neighbours(latent, touching, n)
    if neighbours is None or any(np.any(v.address < 0) for v in neighbours):
        return None
    return n * latents[latent].states * math.prod(v.states for v in neighbours)


def sum_out(latent: int, pieces: Sequence[Piece], latents: Sequence[Latent]) -> Piece:
    """Bring the pieces to the latent's elements, add them, sum over the states."""
    item = latents[latent]
    n = item.n_elements
    neighbours = merged_neighbours(latent, pieces, n)
    assert neighbours is not None
    total = None
    sources: dict[int, np.ndarray] = {}
    for piece in pieces:
        own = next(v for v in piece.views if v.latent == latent)
        table = to_elements(piece, own.address, n)
        order: list = ["x"] * (1 + len(neighbours)) + [table.type.ndim - 1]
        for axis, view in enumerate(piece.views):
            order[0 if view is own else 1 + position_of(view, own, neighbours)] = axis
        table = table.dimshuffle(*order)
        total = table if total is None else total + table
        sources |= {i: own.address[rows] for i, rows in piece.sources.items()}
    return Piece(logsumexp(total, axis=0), tuple(neighbours), n, sources)


def position_of(view: View, own: View, neighbours: Sequence[View]) -> int:
    for i, other in enumerate(neighbours):
        if other.latent == view.latent and np.array_equal(other.address[own.address], view.address):
            return i
    raise AssertionError("a neighbour is missing")


def to_elements(piece: Piece, address: np.ndarray, n: int) -> Variable:
    """Add up the rows of a table that read the same element."""
    table = piece.table
    if piece.rows == n and np.array_equal(address, np.arange(n)):
        return table
    counts = np.bincount(address, minlength=n)
    if piece.virtual or table.type.shape[-1] == 1:
        if np.all(counts == counts[0]):
            return table * float(counts[0])
        return table * pt.constant(counts.astype(float))
    if np.all(counts == 1):
        return table[..., np.argsort(address)]
    zeros = pt.zeros((*table.type.shape[:-1], n), dtype=table.type.dtype)
    return pt.inc_subtensor(zeros[..., address], table)


def finish(pieces: Sequence[Piece], steps, n_factors: int) -> Elimination:
    units, sizes = [], []
    unit_of_row: list[tuple[int, np.ndarray]] = [(0, np.empty(0, int))] * n_factors
    for i, piece in enumerate(pieces):
        vector = piece.table
        if piece.virtual:
            vector = pt.broadcast_to(vector, (piece.rows,))
        units.append(vector)
        sizes.append(piece.rows)
        for factor, rows in piece.sources.items():
            unit_of_row[factor] = (i, rows)
    return Elimination(tuple(units), tuple(sizes), tuple(unit_of_row), tuple(steps))


def stuck(remaining, pieces, factors, latents) -> str:
    """Why elimination stopped: the latents that are left and the terms that couple them."""
    names = ", ".join(f"'{latents[k].name}'" for k in sorted(remaining))
    terms = sorted({factors[i].term for p in pieces if p.views for i in p.sources})
    return (
        f"The discrete latents {names} cannot be summed out exactly: {', '.join(map(repr, terms))} couple(s) their "
        "elements in a way that no elimination order handles. Rewrite the model so that each observation depends "
        "on few elements of the latents, or sample it with MCMC."
    )
