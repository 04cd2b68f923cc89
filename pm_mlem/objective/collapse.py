"""What may be wrong with an optimum: components that collapsed, are empty, or are the same.

The likelihood of a mixture of continuous distributions has no maximum: a component that shrinks onto one observation
makes it infinite, and there are spurious maxima where a component fits a few observations that happen to lie close
together. Nothing here knows the families of distributions. What is read are the log-density arrays at the optimum and
their posterior weights: how many distinct observations belong to a state, and how narrow its density is around them.

With ``h = -sum(r f) / sum(r)``, the mean negative log-density of the observations of a state, ``exp(h)`` is the width
of the state's density in the units of the data (its volume for vectors), whatever its family. A state has *collapsed*
if

- its density is much narrower than those of the other states, ``exp(h - h_others) < NARROW``, and it stands on no more
  distinct observations than its own parameters can follow (see :func:`room_for`; up to half as many again where it is
  narrower still), or
- its density is narrower than the data are recorded, or than they vary in some direction: it stands on ties.

Positive data are looked at on the log scale too, and count as narrow only if they are so on both. Probabilities of
discrete observations are bounded; they are never suspected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pm_mlem.graph.roles.axis_labels import texts
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.objective.watches import Inspector, Reading, Watch, components

NARROW = 0.3
"""Relative width below which a state on no more observations than it has parameters has collapsed (univariate)."""
NARROWER = 0.1
"""The same for a state on up to half as many observations again."""
TAILS = 0.5
"""What the neighbours of a few observations may add to their number."""
VANISHED = 1e-4
"""Relative width below which a state may have collapsed on ties, however many."""
RESOLUTION = 1e-3
"""Widths below this part of the smallest difference between two observations are not supported by the data."""
SINGULAR = 1e-10
"""Relative variance of the observations of a state in some direction that counts as none."""
EMPTY = 0.01
"""Expected number of elements below which a state is empty."""
INDISTINGUISHABLE = 1e-12
"""Log-densities of two states that differ by less everywhere differ by rounding."""
EQUAL = 1e-5
"""Log-densities of two states that differ by less everywhere are the same."""


class Guard:
    """Judges optima of one objective under one set of weights."""

    def __init__(self, inspector: Inspector, unit: np.ndarray):
        self.inspector, self.unit = inspector, unit
        self.last: tuple[bytes, tuple] | None = None

    @property
    def tables(self) -> ModelTables:
        return self.inspector.objective.tables

    def at(self, point: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[Reading]]:
        key = np.asarray(point).tobytes()
        if self.last is None or self.last[0] != key:
            inspector = self.inspector
            units, totals, readings = inspector.compiled(point, self.unit, inspector.data, inspector.constants)
            read = [Reading(*map(np.asarray, r)) for r in readings]
            self.last = key, (np.asarray(units), [np.asarray(t) for t in totals], read)
        return self.last[1]

    def fingerprint(self, point: np.ndarray) -> np.ndarray:
        """Log-likelihood of every unit, times the root of its weight: the same whatever the states are called.

        Two runs that stop short of one optimum by ``a`` and ``b`` of log-likelihood have fingerprints with a squared
        distance of the order of ``a + b``; what lies closer the data cannot tell apart.
        """
        units = self.at(point)[0]
        known = (self.unit > 0) & np.isfinite(units)
        return np.where(known, np.sqrt(self.unit) * np.where(known, units, 0.0), 0.0)

    def collapse(self, point: np.ndarray) -> str:
        """Which state has collapsed, and onto what; "" if none has."""
        watches = self.inspector.watches
        if not any(w.continuous for w in watches):
            return ""
        for i, (watch, reading) in enumerate(zip(watches, self.at(point)[2], strict=True)):
            if not watch.continuous:
                continue
            for state in range(len(watch.sources)):
                found = self.collapsed(i, watch, reading, state, point)
                if found:
                    return f"{self.name(watch.vector, watch.sources[state].position)} {found}"
        return ""

    def collapsed(self, i: int, watch: Watch, reading: Reading, state: int, point: np.ndarray) -> str:
        if not np.all(np.isfinite(reading.density[state])):
            return f"has collapsed: its density of '{watch.variable}' is infinite"
        width, few = relative_width(reading, watch.core, state), float(reading.few[state])
        if width < narrow(NARROW, watch.core) and few <= 2.0 * max(self.inspector.objective.space.size, watch.core):
            own = float(self.inspector.own[i][state])
            room = room_for(own, watch.core)
            room = room if width > narrow(NARROWER, watch.core) else 1.5 * room
            if own > 0 and few <= room + TAILS:
                return f"has collapsed onto about {few:.0f} distinct observations of '{watch.variable}'"
        for column in range(reading.count.shape[1]):
            one = columns_of(reading, column)
            if relative_width(one, watch.core, state) < VANISHED and self.on_ties(watch, one, state, column, point):
                return f"has collapsed onto equal observations of '{watch.variable}'"
        return ""

    def on_ties(self, watch: Watch, reading: Reading, state: int, column: int, point: np.ndarray) -> bool:
        """Whether the observations of a state do not vary, as far as they are recorded."""
        if watch.core == 1:
            with np.errstate(over="ignore"):  # observations that the state cannot have made
                return np.exp(mean(-reading.density, reading.count, state)) < RESOLUTION * watch.resolution[column]
        posterior = self.inspector.posterior(point, self.unit, self.inspector.data)
        weights = np.asarray(watch.by_state(posterior))[state, :, column]
        data = watch.observations[:, column]
        spread = data.std(axis=0)
        centred = (data - np.average(data, axis=0, weights=weights)) / np.where(spread > 0, spread, 1.0)
        values = np.linalg.eigvalsh((centred * weights[:, None]).T @ centred / weights.sum())
        return bool(values[0] < SINGULAR)

    # --- remarks -----------------------------------------------------------------------------------------------

    def remarks(self, point: np.ndarray) -> Iterator[str]:
        """Sentences about states that are empty and states that are the same."""
        _, totals, _ = self.at(point)
        yield from self.empty(totals)
        for watch, (a, b) in self.alike(point, EQUAL):
            names = " and ".join(self.state(watch.vector, watch.sources[k].position) for k in (a, b))
            yield (
                f"States {names} of '{self.vector(watch.vector)}' have the same distribution: fewer states do, or "
                "the start was symmetric; start them apart (initval=, starts=)."
            )

    def symmetric(self, point: np.ndarray) -> bool:
        """Whether EM would keep two states equal for ever: their densities differ by no more than rounding."""
        return any(True for _ in self.alike(point, INDISTINGUISHABLE))

    def alike(self, point: np.ndarray, difference: float) -> Iterator[tuple[Watch, tuple[int, int]]]:
        """Two states of each latent whose log-densities differ by less everywhere, where there are any."""
        readings, seen = self.at(point)[2], set()
        for i, (watch, reading) in enumerate(zip(self.inspector.watches, readings, strict=True)):
            if not components(self.tables, watch.vector) or watch.vector in seen:
                continue
            pairs = [(b, a) for a in range(len(reading.apart)) for b in range(a) if reading.apart[a, b] < difference]
            pairs = [p for p in pairs if self.told_apart(i, *p) and self.same_elsewhere(watch, p, readings, difference)]
            if pairs:
                seen.add(watch.vector)
                yield watch, pairs[0]

    def told_apart(self, i: int, a: int, b: int) -> bool:
        """Whether two states have parameters of their own."""
        pattern = self.inspector.patterns[i]
        return bool(np.any(pattern[a] != pattern[b]))

    def same_elsewhere(
        self, watch: Watch, pair: tuple[int, int], readings: Sequence[Reading], difference: float
    ) -> bool:
        others = [r for w, r in zip(self.inspector.watches, readings, strict=True) if w.vector == watch.vector]
        return all(max(pair) < len(r.apart) and r.apart[pair] < difference for r in others)

    def empty(self, totals: Sequence[np.ndarray]) -> Iterator[str]:
        most: dict[int, np.ndarray] = {}
        for (_, _, vector), total in zip(self.inspector.slots, totals, strict=True):
            most[vector] = np.maximum(most.get(vector, 0.0), total)
        for vector, total in most.items():
            for k in np.flatnonzero(total < EMPTY):
                yield (
                    f"State {self.state(vector, k)} of '{self.vector(vector)}' is empty (expected number "
                    f"{total[k]:.1g}); its parameters are arbitrary, fewer states do."
                )

    # --- names -------------------------------------------------------------------------------------------------

    def vector(self, vector: int) -> str:
        structure = self.tables.structure
        return structure.latents[structure.vectors[vector].latents[0]].name

    def state(self, vector: int, position: int) -> str:
        """A state by its label, if the model's dims give it one."""
        structure = self.tables.structure
        latent = structure.latents[structure.vectors[vector].latents[0]]
        labels = None if latent.states_dim is None else structure.coords.get(latent.states_dim)
        known = labels is not None and len(labels) == latent.states and not latent.joined
        return repr(texts(labels)[position]) if known else str(latent.lower + position)

    def name(self, vector: int, position: int) -> str:
        return f"state {self.state(vector, position)} of '{self.vector(vector)}'"


def mean(sums: np.ndarray, counts: np.ndarray, state: int) -> float:
    return float(sums[state].sum() / max(counts[state].sum(), 1e-300))


def columns_of(reading: Reading, column: int) -> Reading:
    pick = lambda a: a[:, column : column + 1]  # noqa: E731
    return Reading(reading.few, pick(reading.count), pick(reading.density), pick(reading.log_size), reading.apart)


def relative_width(reading: Reading, core: int, state: int) -> float:
    """Width of the density of a state beside that of the others, the larger of the linear and the log scale."""
    rest = np.arange(len(reading.count)) != state
    count = reading.count[rest].sum()
    if count < EMPTY or reading.count[state].sum() < EMPTY:
        return np.inf
    linear = mean(-reading.density, reading.count, state) + reading.density[rest].sum() / count
    shift = mean(-reading.log_size, reading.count, state) + reading.log_size[rest].sum() / count
    return float(np.exp(min(max(linear, linear + shift), 700.0)))


def narrow(limit: float, core: int) -> float:
    """The limit of a relative width for vectors, whose width is a volume."""
    return limit ** max(1.0, core / 2)


def room_for(own: float, core: int) -> float:
    """As many distinct observations a state's own parameters can follow.

    An observation with ``core`` entries takes ``core`` parameters, and ``core`` observations do not span their space.
    """
    return max(own / core, core)
