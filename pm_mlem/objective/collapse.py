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
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.tables.model_tables import DensityTerm, ModelTables
from pm_mlem.objective.m_step.step import e_step
from pm_mlem.objective.objective import Objective, product

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
EQUAL = 1e-5
"""Log-densities of two states that differ by less everywhere are the same."""
MOST_STATES = 20
"""Latents with more states are counts or positions rather than components."""


ROWS = 4096
"""Rows in which the densities of states are compared."""


# --- what is looked at ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Source:
    """Where the log-density of one state is.

    A density array, and the axis and position of the state in it (None where the array belongs to that state alone).
    """

    array: int
    axis: int | None
    position: int


@dataclass(frozen=True, eq=False)
class Watch:
    """The distribution of an observed variable given the states of a vector of latents.

    Attributes
    ----------
    variable : name of the observed variable
    vector : position of the vector of latents
    sources : by state
    rows, columns : axes of the density's batch; along the columns all entries read the same latent element
    unlabelled : (rows, columns), entries that read a latent
    group : (rows * columns,), the number of the distinct observation in its column at every entry
    n_groups : how many there are
    log_size : (rows, columns), sum of the logarithms of the observation; None if one is not positive
    resolution : (columns,), smallest difference between two observations
    observations : (rows, columns, core)
    continuous : whether the density is one, and may be unbounded
    """

    variable: str
    vector: int
    sources: tuple[Source, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    unlabelled: np.ndarray
    group: np.ndarray
    n_groups: int
    log_size: np.ndarray | None
    resolution: np.ndarray
    observations: np.ndarray
    continuous: bool

    @property
    def core(self) -> int:
        """Numbers in one observation."""
        return self.observations.shape[-1]

    @property
    def constants(self) -> tuple:
        return jnp.asarray(self.unlabelled), jnp.asarray(self.group), self.log_size

    def by_state(self, arrays: Sequence) -> jax.Array:
        """(states, rows, columns) of density arrays or of their weights."""
        return jnp.stack([self.arrange(self.pick(arrays, s)) for s in self.sources])

    def pick(self, arrays: Sequence, source: Source):
        array = arrays[source.array]
        if source.axis is not None:
            array = jnp.take(array, source.position, axis=source.axis)
        lead = array.ndim - len(self.rows) - len(self.columns)
        return array.sum(axis=tuple(range(lead)))  # over the states of other latents

    def arrange(self, array):
        return jnp.transpose(array, (*self.rows, *self.columns)).reshape(self.unlabelled.shape)


def watches(tables: ModelTables) -> list[Watch]:
    """The distributions of observed variables that depend on the state of a latent."""
    found = []
    alone: dict[tuple, list[tuple[int, int]]] = {}
    for i, density in enumerate(tables.densities):
        if density.term.kind != "observed" or density.term.value is None or not density.term.value.is_constant:
            continue
        if density.term.only is not None:
            latent, state = density.term.only
            alone.setdefault((density.term.name, latent), []).append((state, i))
        for axis, slot in enumerate(density.lifted.slots):
            sources = tuple(Source(i, axis, k) for k in range(slot.size))
            found.append(watch(tables, density, sources, slot.address))
    for (_, latent), members in alone.items():
        members.sort()
        density = tables.densities[members[0][1]]
        [slot] = tables.context.lift(latent).slots
        found.append(watch(tables, density, tuple(Source(i, None, k) for k, i in members), slot.address))
    return [w for w in found if w is not None]


def watch(tables: ModelTables, density: DensityTerm, sources: tuple[Source, ...], address: np.ndarray) -> Watch | None:
    """None where the arrays of the states cannot be put side by side."""
    shape = density.lifted.shape
    batches = {tables.densities[s.array].lifted.array_shape for s in sources}
    data = np.asarray(density.term.value.data, dtype=float)
    if batches != {shape} or address.ndim != len(shape) or len(sources) > MOST_STATES:
        return None
    data = np.broadcast_to(data, density.term.value.shape)
    if data.shape[: len(shape)] != shape:
        return None
    columns = tuple(d for d in range(len(shape)) if address.shape[d] == 1 and shape[d] != 1)
    rows = tuple(d for d in range(len(shape)) if d not in columns)
    n_columns = int(np.prod([shape[d] for d in columns], dtype=np.int64))
    arranged = np.moveaxis(data, (*rows, *columns), range(len(shape))).reshape(
        -1, n_columns, data[(0,) * len(shape)].size
    )
    labelled = np.transpose(np.broadcast_to(address, shape), (*rows, *columns)).reshape(arranged.shape[:2]) < 0
    groups, resolution = distinct(arranged)
    vector = next(i for i, v in enumerate(tables.structure.vectors) if np.isin(address.max(), v.elements))
    rvs = {tables.densities[s.array].term.rv for s in sources}
    return Watch(
        density.term.name, vector, sources, rows, columns, ~labelled, groups, int(groups.max(initial=0)) + 1,
        np.log(arranged).sum(axis=-1) if np.all(arranged > 0) else None, resolution, arranged,
        all(rv is not None and rv.type.dtype.startswith("float") for rv in rvs),
    )  # fmt: skip


def distinct(observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the distinct observation at every entry (numbers differ between columns), and the resolution."""
    rows, columns, core = observations.shape
    groups, resolution, start = np.empty((rows, columns), dtype=np.int64), np.zeros(columns), 0
    direction = np.random.default_rng(0).normal(size=core) if core > 1 else np.ones(1)
    for c in range(columns):
        values, groups[:, c] = np.unique(observations[:, c] @ direction, return_inverse=True)
        groups[:, c] += start
        start += len(values)
        gaps = np.diff(values)
        gaps = gaps[gaps > 1e-12 * max(np.ptp(values), 1e-300)]
        resolution[c] = gaps.min() if len(gaps) else 0.0
    return groups.ravel(), resolution


# --- what is read -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reading:
    """Sums over the observations of a watch at a point, (states, columns) if not said otherwise.

    ``few`` is the effective number of distinct observations (states), ``count`` the sum of the weights, ``density``
    and ``log_size`` the weighted sums of log-densities and of logarithms of the observations, ``apart`` the largest
    difference between the log-densities of two states (states, states).
    """

    few: np.ndarray
    count: np.ndarray
    density: np.ndarray
    log_size: np.ndarray
    apart: np.ndarray


class Inspector:
    """Reads the log-density arrays of an objective and their posterior weights at a point; compiled once.

    The watches hold the observations of the data that the model was read with, so these are what it reads.
    """

    def __init__(self, objective: Objective, data: Sequence):
        self.objective, self.data = objective, data
        self.watches = watches(objective.tables)

    @cached_property
    def constants(self) -> list[tuple]:
        return [w.constants for w in self.watches]

    @cached_property
    def slots(self) -> list[tuple[int, int, int]]:
        """(density, axis, vector) of all views of latents whose states may be empty."""
        structure = self.objective.tables.structure
        found = []
        for i, density in enumerate(self.objective.tables.densities):
            for axis, slot in enumerate(density.lifted.slots):
                for j, vector in enumerate(structure.vectors):
                    if np.isin(slot.address.max(), vector.elements) and components(self.objective.tables, j):
                        found.append((i, axis, j))
        return found

    def read(self, u, unit, data, constants):
        """Everything at once: units, expected numbers by slot, and the readings."""
        objective = self.objective
        theta = objective.space.constrain(u)
        densities = objective.densities(*theta, *data)
        _, posterior = e_step(objective, theta, unit, data)
        totals = [jnp.sum(jnp.moveaxis(posterior[i], a, 0).reshape(posterior[i].shape[a], -1), 1)
                  for i, a, _ in self.slots]  # fmt: skip
        weighted = [product(r, d) for r, d in zip(posterior, densities, strict=True)]
        readings = [
            self.read_watch(w, posterior, weighted, densities, *c) for w, c in zip(self.watches, constants, strict=True)
        ]
        return objective.units(densities, data), totals, readings

    def read_watch(self, watch: Watch, posterior, weighted, densities, unlabelled, group, log_size):
        r = jnp.where(unlabelled, watch.by_state(posterior), 0.0)
        d = jnp.where(unlabelled, watch.by_state(weighted), 0.0)
        flat = r.reshape(len(watch.sources), -1)
        if watch.n_groups < flat.shape[1]:
            flat = jnp.zeros((len(flat), watch.n_groups)).at[:, group].add(flat)
        sizes = jnp.zeros_like(r) if log_size is None else r * log_size
        values = watch.by_state(densities)[:, :ROWS].reshape(len(watch.sources), -1)
        values = jnp.where(unlabelled[:ROWS].ravel(), values, 0.0)
        apart = jax.lax.map(lambda row: jnp.max(difference(values, row), axis=1), values)
        return jnp.minimum(flat, 1.0).sum(axis=1), r.sum(axis=1), d.sum(axis=1), sizes.sum(axis=1), apart

    @cached_property
    def compiled(self):
        return self.objective.jit_once(self.read)

    # --- on which parameters a state depends -------------------------------------------------------------------

    @cached_property
    def own(self) -> list[np.ndarray]:
        """For each watch and state the number of its parameters; what states share counts in parts."""
        return [share(pattern) for pattern in self.patterns]

    @cached_property
    def patterns(self) -> list[np.ndarray]:
        """For each watch whether the density of a state depends on a parameter, (states, parameters)."""
        objective, rng = self.objective, np.random.default_rng(5)
        point = objective.space.initial + rng.normal(scale=0.1, size=objective.space.size)

        def sums(u, data):
            densities = objective.densities(*objective.space.constrain(u), *data)
            values = [w.by_state(densities)[:, :ROWS] for w in self.watches]
            return [jnp.sum(jnp.where(jnp.isfinite(v), v, 0.0) * self.noise(v.shape[1:]), axis=(1, 2)) for v in values]

        slopes = objective.jit_once(jax.jacrev(sums))(point, self.data)
        return [np.asarray(s) != 0 for s in slopes]

    @staticmethod
    def noise(shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(6).uniform(0.5, 1.5, size=shape)


def components(tables: ModelTables, vector: int) -> bool:
    """Whether the states of a vector of latents are components: few, and of many elements."""
    item = tables.structure.vectors[vector]
    cut = any(tables.structure.latents[j].cut for j in item.latents)
    return not cut and 1 < item.states <= MOST_STATES and item.n_elements >= 2 * item.states


def difference(a, b):
    """Absolute difference; 0 where both are the same infinity or not a number."""
    both = jnp.isfinite(a) & jnp.isfinite(b)
    return jnp.where(both, jnp.abs(a - b), jnp.where(jnp.isfinite(a) != jnp.isfinite(b), jnp.inf, 0.0))


def share(pattern: np.ndarray) -> np.ndarray:
    """Parameters by state; one that several states depend on counts for each in equal parts."""
    users = np.maximum(pattern.sum(axis=0), 1)
    return (pattern / users).sum(axis=1)


# --- what is made of it -----------------------------------------------------------------------------------


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
        objective = self.inspector.objective
        theta = objective.space.constrain(point)
        _, posterior = e_step(objective, theta, self.unit, self.inspector.data)
        weights = np.asarray(watch.by_state(posterior))[state, :, column]
        data = watch.observations[:, column]
        spread = data.std(axis=0)
        centred = (data - np.average(data, axis=0, weights=weights)) / np.where(spread > 0, spread, 1.0)
        values = np.linalg.eigvalsh((centred * weights[:, None]).T @ centred / weights.sum())
        return bool(values[0] < SINGULAR)

    # --- remarks -----------------------------------------------------------------------------------------------

    def remarks(self, point: np.ndarray) -> Iterator[str]:
        """Sentences about states that are empty and states that are the same."""
        _, totals, readings = self.at(point)
        yield from self.empty(totals)
        seen = set()
        for i, (watch, reading) in enumerate(zip(self.inspector.watches, readings, strict=True)):
            if not components(self.tables, watch.vector) or watch.vector in seen:
                continue
            pairs = [(a, b) for a in range(len(reading.apart)) for b in range(a) if reading.apart[a, b] < EQUAL]
            pairs = [
                (b, a) for a, b in pairs if self.told_apart(i, a, b) and self.same_elsewhere(watch, a, b, readings)
            ]
            if pairs:
                seen.add(watch.vector)
                names = " and ".join(self.state(watch.vector, watch.sources[k].position) for k in pairs[0])
                yield (
                    f"States {names} of '{self.vector(watch.vector)}' have the same distribution: fewer states do, or "
                    "the start was symmetric; start them apart (initval=, starts=)."
                )

    def told_apart(self, i: int, a: int, b: int) -> bool:
        """Whether two states have parameters of their own."""
        pattern = self.inspector.patterns[i]
        return bool(np.any(pattern[a] != pattern[b]))

    def same_elsewhere(self, watch: Watch, a: int, b: int, readings: Sequence[Reading]) -> bool:
        others = [r for w, r in zip(self.inspector.watches, readings, strict=True) if w.vector == watch.vector]
        return all(max(a, b) < len(r.apart) and r.apart[a, b] < EQUAL for r in others)

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
        return repr(str(labels[position])) if known else str(latent.lower + position)

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
