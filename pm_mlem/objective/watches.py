"""Which densities are looked at to judge an optimum, and what is read of them.

Nothing here knows the families of distributions. The log-density arrays at a point and their posterior weights say how
many distinct observations belong to a state of a latent, how narrow its density is around them, and how far apart the
densities of two states are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.tables.model_tables import DensityTerm, ModelTables
from pm_mlem.objective.m_step.step import e_step
from pm_mlem.objective.objective import Objective
from pm_mlem.objective.weights import product

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

    @cached_property
    def posterior(self) -> Callable:
        """``(u, unit, data) -> `` weights of the log-density arrays."""
        objective = self.objective
        return objective.jit_once(lambda u, unit, data: e_step(objective, objective.space.constrain(u), unit, data)[1])

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
