"""Which latents are summed out when, and by which strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.elimination import alike, plates, positions, windows
from pm_mlem.graph.elimination.factors import Factor
from pm_mlem.graph.elimination.pieces import Piece, Step, Vector, View
from pm_mlem.graph.lift import Context
from pm_mlem.graph.lift.core import LARGEST_TABLE
from pm_mlem.graph.roles.structure import LatentVector


@dataclass(frozen=True, eq=False)
class Elimination:
    """The log-partition of every unit, as a function of the terms' density arrays.

    Attributes
    ----------
    units : symbolic vectors, one for each group of connected terms; their entries are independent units
    sizes : number of units of each vector
    unit_of_row : for each factor the unit of each row, numbered across the vectors
    steps : what was done
    """

    units: tuple[Variable, ...]
    sizes: tuple[int, ...]
    unit_of_row: tuple[np.ndarray, ...]
    steps: tuple[Step, ...]


def eliminate(factors: Sequence[Factor], latents: Sequence[LatentVector], context: Context) -> Elimination:
    """Choose an order greedily and build the graph.

    Plates first, cheapest first; then chains, those that are alike together; what
    is left is laid out by position and treated as plates.

    Raises
    ------
    UnsupportedModelError
        No order is known, or a table would be too large; nothing has been computed then.
    """
    vectors = [Vector(item.name, item.states, item.n_elements) for item in latents]
    pieces = [
        Piece(f.table, tuple(View(vectors[v.vector], v.address) for v in f.views), f.rows, {i: np.arange(f.rows)})
        for i, f in enumerate(factors)
    ]
    steps: list[Step] = []
    while remaining := remaining_vectors(pieces):
        costs = [(plates.cost(v, pieces), i) for i, v in enumerate(remaining)]
        possible = [(c, i) for c, i in costs if c is not None]
        if possible and min(possible)[0] <= LARGEST_TABLE:
            pieces, step = plates.sum_out(remaining[min(possible)[1]], pieces, context)
            steps.append(step)
            continue
        merged = alike.merge(pieces, remaining)
        if merged is not None:
            pieces = merged
            continue
        chain = windows.candidate(pieces, remaining)
        if chain is not None:
            pieces, step = windows.sum_out(*chain, pieces, context)
            steps.append(step)
            continue
        split = None if possible else positions.split(pieces, remaining, context)
        if split is None:
            raise UnsupportedModelError(stuck(remaining, pieces, factors, possible))
        pieces = split
    return finish(pieces, steps, factors)


def remaining_vectors(pieces: Sequence[Piece]) -> list[Vector]:
    found: list[Vector] = []
    for piece in pieces:
        found += [v.vector for v in piece.views if v.vector not in found]
    return found


def finish(pieces: Sequence[Piece], steps: Sequence[Step], factors: Sequence[Factor]) -> Elimination:
    """Pieces without views are vectors of units. Pieces that carry rows of one factor stay apart."""
    units, sizes = [], []
    vector_of = [np.full(f.rows, -1) for f in factors]
    unit_of = [np.full(f.rows, -1) for f in factors]
    for i, piece in enumerate(pieces):
        vector = piece.table
        if piece.virtual:
            vector = pt.broadcast_to(vector, (piece.rows,))
        units.append(vector)
        sizes.append(piece.rows)
        for factor, rows in piece.sources.items():
            here = rows >= 0
            vector_of[factor][here] = i
            unit_of[factor][here] = rows[here]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    placed = tuple(offsets[v] + u for v, u in zip(vector_of, unit_of, strict=True))
    return Elimination(tuple(units), tuple(sizes), placed, tuple(steps))


def stuck(remaining, pieces, factors, possible) -> str:
    """Why elimination stopped: the latents that are left and the terms that couple them."""
    names = ", ".join(f"'{v.name}'" for v in remaining[:5]) + (" ..." if len(remaining) > 5 else "")
    terms = sorted({factors[i].term for p in pieces if p.views for i in p.sources})
    coupled = ", ".join(map(repr, terms[:5]))
    if possible:
        return (
            f"Summing out {names} exactly needs a table of {min(possible)[0]:,} entries (the limit is "
            f"{LARGEST_TABLE:,}): {coupled} tie(s) too many latents together. Use fewer states, split the model, or "
            "sample it with MCMC."
        )
    return (
        f"The discrete latents {names} cannot be summed out exactly: {coupled} couple(s) their elements in a way that "
        "no elimination order handles. Rewrite the model so that each observation depends on few elements of the "
        "latents, or sample it with MCMC."
    )
