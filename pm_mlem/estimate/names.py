"""Names of the coordinates of the unconstrained space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pm_mlem.estimate.labels import Labels, entry_names
from pm_mlem.objective.objective import Objective

AT_MOST = 4
"""Entries that a sentence names."""

ORDERED, CHOLESKY = "ordered", "cholesky-cov-packed"
WITHOUT_BOUNDS = ("", ORDERED, "zerosum", "circular")
"""Transforms of variables whose entries may be any number."""

Masks = dict[str, np.ndarray]
"""By variable which of its entries are meant."""


class Names:
    """Names of the entries of the unconstrained vector; the variable's where entries do not correspond."""

    def __init__(self, objective: Objective):
        space, structure = objective.space, objective.tables.structure
        self.space = space
        labels = Labels(structure.dims, structure.coords)
        self.scales = {p.name: p.scale for p in structure.free}
        self.known = {n: entry_names(labels.array(n, np.zeros(space.shapes[n]))) for n in space.names}
        self.line = np.ones(space.size, dtype=bool)
        """Which coordinates have no bounds: their units are those of the data."""
        self.in_bent = np.zeros(space.size, dtype=bool)
        """Which belong to a variable without bounds that is no linear function of them."""
        self.logarithms = np.zeros(space.size, dtype=bool)
        """Which are the logarithm of an entry."""
        for parameter in structure.free:
            where, kind = space.slices[parameter.name], parameter.scale
            if kind == CHOLESKY:
                size = where.stop - where.start
                diagonal = np.cumsum(np.arange(1, int(np.sqrt(2 * size)) + 1)) - 1
                self.line[where.start + diagonal] = False
            elif kind not in WITHOUT_BOUNDS:
                self.line[where] = False
            elif kind == ORDERED:  # logarithms of differences, but for the first along the last axis
                shape = space.unconstrained_shapes[parameter.name]
                self.line[where] = np.broadcast_to(np.arange(shape[-1]) == 0, shape).ravel()
            self.in_bent[where] = kind == ORDERED
            self.logarithms[where] = kind == "log"
        self.bent: tuple[str, ...] = tuple(p.name for p in structure.free if p.scale == ORDERED)
        self.entries: list[str] = []
        for name in space.names:
            size = int(np.prod(space.unconstrained_shapes[name], dtype=np.int64))
            own = np.array(self.known[name])[space.is_free(name).ravel()].tolist()
            self.entries += own if self.entrywise(name) else [name] * size

    def entrywise(self, name: str) -> bool:
        """Whether each coordinate of a variable stands for one of its free entries."""
        size = int(np.prod(self.space.unconstrained_shapes[name], dtype=np.int64))
        return np.count_nonzero(self.space.is_free(name)) == size

    def of(self, j: int) -> str:
        return self.entries[j]

    def unique(self, coordinates: Sequence[int]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.of(j) for j in coordinates))

    def variable(self, j: int) -> str:
        return next(name for name, where in self.space.slices.items() if where.start <= j < where.stop)

    def mask(self, j: int) -> np.ndarray:
        """The entry that a coordinate stands for; all free ones where entries do not correspond."""
        name = self.variable(j)
        free = self.space.is_free(name)
        if not self.entrywise(name):
            return free
        chosen = np.zeros(free.shape, dtype=bool)
        chosen.flat[np.flatnonzero(free)[j - self.space.slices[name].start]] = True
        return chosen

    def held_by(self, j: int, masks: Masks) -> bool:
        """Whether entries that are on the boundary anyway make this coordinate run away."""
        name = self.variable(j)
        return name in masks and bool(np.any(masks[name] & self.mask(j)))

    def with_value(self, j: int, point: np.ndarray) -> str:
        """The entry and its value, ``tau = 0``; only the name where entries do not correspond."""
        name = self.variable(j)
        if not self.entrywise(name):
            return self.of(j)
        return f"{self.of(j)} = {self.space.values(point)[name][self.mask(j)].item():.2g}"

    def side(self, j: int, up: bool) -> str:
        """Where a coordinate with bounds runs to."""
        if self.scales[self.variable(j)] == "log":
            return "it grows to infinity" if up else "a value of 0"
        return "it meets the one before it (an empty category?)" if self.in_bent[j] else "a bound of its support"


def listed(entries: Sequence[str] | Mapping[str, None]) -> str:
    entries = list(entries)
    more = f" and {len(entries) - AT_MOST} more" if len(entries) > AT_MOST else ""
    return ", ".join(entries[:AT_MOST]) + more
