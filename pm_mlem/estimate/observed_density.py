"""The fitted density of an observed variable at values of one's choice, and its parts by component."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.labels import state_labels
from pm_mlem.estimate.target import Target
from pm_mlem.graph.tables.units import data_entries, unit_groups, units_of_elements
from pm_mlem.precision import double, in_double

MOST_COLUMNS = 12
"""Columns of an observed matrix that are looked at one by one."""


@in_double
@dataclass(frozen=True, eq=False)
class ObservedDensity:
    """The density of the rows of one observed variable at the estimates.

    Attributes
    ----------
    name : the variable
    values : what was observed, ``(rows,)``, ``(rows, columns)`` or, where a row is a pair of numbers, ``(rows, 2)``
    pair : whether a row is a pair of numbers with a joint density
    discrete : whether values are whole numbers
    latent, states : whose states the components are, and their labels; none where the density has no parts
    weights : of the rows, adding up to one, ``(rows,)``
    """

    name: str
    values: np.ndarray
    pair: bool
    discrete: bool
    latent: str | None
    states: tuple
    weights: np.ndarray
    _density: Callable
    """Values like the data -> densities ``(states or 1, rows, columns or 1)``"""
    _shares: np.ndarray
    """What the densities are multiplied with, of the same shape or 1"""

    @property
    def columns(self) -> int:
        return 1 if self.pair or self.values.ndim == 1 else self.values.shape[1]

    @cached_property
    def assigned(self) -> np.ndarray:
        """The most probable component of every row given the data, ``(rows, columns)``."""
        known = self._shares.shape[1] > 1  # the posterior itself
        return np.argmax(self._wide if known else self._density(self.values), axis=0)

    @cached_property
    def same(self) -> bool:
        """Whether all rows have the same density."""
        if self.columns > 1 or len(self.values) == 1:
            return False
        for q in (0.25, 0.6):
            value = np.quantile(self.values, q, axis=0, method="nearest")
            found = self._density(np.broadcast_to(value, self.values.shape))
            if not np.allclose(found, found[:, :1], rtol=1e-9, atol=0.0, equal_nan=True):
                return False
        return True

    def at(self, points: np.ndarray) -> np.ndarray:
        """Weight times density of every component, averaged over the rows: ``(states or 1, points, columns)``.

        ``points`` are ``(points,)``, for pairs ``(points, 2)``. Their sum over the components is the average density of
        a row.
        """
        points = np.asarray(points)
        rows, mean = len(self.values), np.einsum("r,src->sc", self.weights, self._wide)
        if self.same:
            found = []
            for first in range(0, len(points), rows):
                some = points[first : first + rows]
                index = np.resize(np.arange(len(some)), rows)
                found.append(self._density(some[index])[:, : len(some)])
            return mean[:, None] * np.concatenate(found, axis=1)
        found = []
        for point in points:
            value = point if self.pair or self.columns == 1 else np.full(self.columns, point)
            density = self._density(np.broadcast_to(value, self.values.shape))
            found.append(np.einsum("r,src->sc", self.weights, self._wide * density))
        return np.stack(found, axis=1)

    @property
    def _wide(self) -> np.ndarray:
        shape = (len(self._shares), len(self.values), self.columns)
        return np.broadcast_to(self._shares, shape)


@double()
def observed_density(estimate: Estimate, name: str | None = None, latent: str | None = None) -> ObservedDensity:
    """The density of an observed variable at an estimate.

    Where every row is an independent unit it is the density of a row, latents summed out, and the parts are those with
    one state of a latent each. Where rows share latents (chains, groups) the parts are the rows' densities given the
    state, times the posterior probability of that state.

    Raises
    ------
    ValueError
        There is no such variable or latent, rows depend on each other or have more than two dimensions, or the data
        cannot be replaced in the compiled model.
    """
    name = named(estimate.target.structure.observed, name)
    try:
        target = estimate.target.replaceable(estimate.point)
    except ValueError as error:
        raise ValueError(f"The density of '{name}' cannot be evaluated at other values: {error}") from error
    if name not in target.structure.inputs:
        raise ValueError(f"The density of '{name}' cannot be evaluated at other values: it is not an input.")
    return Reader(estimate, target, name).read(latent)


def named(known: Sequence[str], name: str | None) -> str:
    """An observed variable that there is; masked data go by their own name too."""
    if name is None:
        if not known:
            raise ValueError("The model has no observed variable with a density, only Potentials.")
        return known[0]
    for candidate in (name, f"{name}_observed"):
        if candidate in known:
            return candidate
    raise ValueError(f"The fit has no observed variable '{name}'; it has {', '.join(map(repr, known)) or 'none'}.")


class Reader:
    """Finds out how the density of one variable can be read off the compiled model."""

    def __init__(self, estimate: Estimate, target: Target, name: str):
        self.estimate, self.target, self.objective, self.name = estimate, target, target.objective, name
        self.tables, self.readout = target.tables, target.readout
        self.position = list(self.tables.structure.inputs).index(name)
        self.values = np.asarray(self.tables.structure.inputs[name][1])
        self.terms = [i for i, d in enumerate(self.tables.densities) if d.term.members == (name,)]
        self.theta = target.space.constrain(estimate.point)
        if not self.terms or self.values.size == 1:
            raise ValueError(
                f"'{name}' is a single number (one of many variables of a python loop, say); write the model with one "
                "array of observations to draw their density."
            )

    def read(self, latent: str | None) -> ObservedDensity:
        shape = self.tables.densities[self.terms[0]].lifted.shape
        core = self.values.shape[len(shape) :]
        if self.values.shape[: len(shape)] != shape or len(core) > 1 or (core and core[0] > 2) or not shape:
            length = core[-1] if core else self.values.size
            raise ValueError(
                f"The rows of '{self.name}' are vectors of length {length} with a joint density; only one or two "
                "numbers a row can be drawn."
            )
        entries = next(e for e in data_entries(self.tables) if e.name == self.name)
        discrete = self.values.dtype.kind in "iub"
        width = 1 if core or len(shape) == 1 else shape[-1]
        pair = core == (2,) or (width == 2 and not discrete and self.together())
        narrow = 1 < width <= MOST_COLUMNS
        count = math.prod(self.values.shape[:-1] if pair or narrow else self.values.shape)
        by_unit = self.alone() and len(np.unique(entries.unit)) == len(entries.unit) == math.prod(shape) // (
            2 if pair and not core else 1
        )
        columns = 1 if pair else self.values.size // count
        flat = self.values.reshape((count, 2) if pair else (count, columns) if columns > 1 else (count,))
        unit = spread(entries.position, entries.unit, shape).reshape(count, -1)
        unit = unit[:, :1] if pair else unit
        route = self.by_unit if by_unit else self.by_state
        density, shares, chosen, states = route(latent, unit, (count, columns), pair)
        self.check_independent(density, flat)
        weights = self.estimate.target.weights[unit[:, 0]]
        if not weights.sum() > 0:
            weights = np.ones(count)
        return ObservedDensity(
            self.name, flat, pair, discrete, chosen, states, weights / weights.sum(), density, np.asarray(shares)
        )

    def together(self) -> bool:
        """Whether the two entries of a row depend on the same latent."""
        slots = self.tables.densities[self.terms[0]].lifted.slots
        return len(self.terms) == 1 and bool(slots) and all(s.address.shape[-1] == 1 for s in slots)

    def alone(self) -> bool:
        """Whether the variable's units hold nothing else that is observed."""
        return any(g.observed == (self.name,) and not g.potentials for g in unit_groups(self.tables))

    def data(self, values) -> tuple:
        data = list(self.target.data)
        symbol = self.tables.structure.inputs[self.name][0]
        data[self.position] = jnp.asarray(values, dtype=symbol.type.dtype).reshape(symbol.type.shape)
        return tuple(data)

    def by_unit(self, latent: str | None, unit: np.ndarray, shape, pair):
        """Every row (every entry of its columns) is a unit: its likelihood, and the latent's posterior times it."""
        elements = {}
        for candidate in self.readout.latent_names:
            item = next(v for v in self.tables.structure.latents if v.name == candidate)
            own = units_of_elements(self.tables, np.arange(self.objective.n_units))
            own = own[item.base : item.base + item.n_elements]
            if not item.joined and np.array_equal(np.sort(own), np.sort(unit, axis=None)):
                elements[candidate] = np.argsort(own)[np.searchsorted(np.sort(own), unit)]
        chosen = self.choice(latent, list(elements))

        def density(values):
            posterior, units = self.readout.posterior_and_units(self.theta, self.data(values))
            likelihood = jnp.exp(units[unit])
            if chosen is None:
                return likelihood[None]
            marginal = self.readout.marginal(chosen, posterior)
            return marginal.reshape(len(marginal), -1)[:, elements[chosen]] * likelihood

        return self.compiled(density), np.ones((self.count(chosen), 1, 1)), chosen, self.labels(chosen)

    def by_state(self, latent: str | None, unit: np.ndarray, shape, pair):
        """Rows share their latents: their density given the state, and the posterior of that state."""
        [term, *others] = self.terms
        lifted = self.tables.densities[term].lifted
        if others or len(lifted.slots) > 1:
            raise ValueError(
                f"The rows of '{self.name}' share latents with each other and depend on several of them, so their "
                "density has no simple parts."
            )
        slots = len(lifted.slots)

        def density(values):
            array = self.objective.densities(*self.theta, *self.data(values))[term]
            array = jnp.broadcast_to(array, (*array.shape[:slots], *lifted.shape))
            if pair and len(lifted.shape) == self.values.ndim:
                array = array.sum(-1)
            return jnp.exp(array.reshape(array.shape[0] if slots else 1, *shape))

        if not slots:
            self.choice(latent, [])
            return self.compiled(density), np.ones((1, 1, 1)), None, ()
        address = np.broadcast_to(next(iter(lifted.slots)).address, lifted.shape)
        address = (address[..., 0] if pair and len(lifted.shape) == self.values.ndim else address).reshape(shape)
        vector, inverse = self.vector_at(address)
        names = [self.tables.structure.latents[i].name for i in vector.latents]
        known = [n for n in names if n in self.readout.latent_names]
        posterior, _ = self.readout.posterior_and_units(self.theta, self.target.data)
        shares = np.asarray(posterior[vector.name])[:, inverse]
        chosen = self.choice(latent, known[:1] if latent is None else known)
        return self.compiled(density), shares, chosen, self.labels(chosen)

    def vector_at(self, address: np.ndarray):
        """The vector of latents that all entries read, and the position of each in it."""
        for vector in self.tables.structure.vectors:
            order = np.argsort(vector.elements)
            place = np.searchsorted(vector.elements[order], address).clip(0, len(order) - 1)
            if np.array_equal(vector.elements[order][place], address):
                return vector, order[place]
        raise ValueError(
            f"Some rows of '{self.name}' depend on latents and others do not (known labels, say), so its density has "
            "no simple parts."
        )

    def choice(self, latent: str | None, known: list[str]) -> str | None:
        if latent is None:
            return known[0] if known else None
        if latent not in known:
            has = ", ".join(map(repr, known)) or "none"
            raise ValueError(f"The rows of '{self.name}' have no latent '{latent}' with components; they have {has}.")
        return latent

    def count(self, chosen: str | None) -> int:
        return 1 if chosen is None else next(v.states for v in self.tables.structure.latents if v.name == chosen)

    def labels(self, chosen: str | None) -> tuple:
        if chosen is None:
            return ()
        item = next(v for v in self.tables.structure.latents if v.name == chosen)
        return tuple(state_labels(item, self.estimate.labels).tolist())

    def compiled(self, density: Callable) -> Callable:
        run = jax.jit(density)
        return lambda values: np.asarray(run(np.ascontiguousarray(values)))

    def check_independent(self, density: Callable, values: np.ndarray) -> None:
        """Refuse rows whose density depends on the values of other rows."""
        if len(values) < 2:
            return
        moved = values.copy()
        moved[1::2] = np.quantile(values, 0.5, axis=0, method="nearest")
        before, after = density(values)[:, ::2], density(moved)[:, ::2]
        if not np.allclose(before, after, rtol=1e-8, atol=0.0, equal_nan=True):
            raise ValueError(f"The rows of '{self.name}' depend on each other's values: they have no common density.")


def spread(position: np.ndarray, unit: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The unit of every entry; entries that were summed into one have that one's."""
    result = np.full(math.prod(shape), -1)
    result[position] = unit
    result = result.reshape(shape)
    for axis in range(len(shape)):
        result = np.maximum(result, np.where(result < 0, np.take(result, [0], axis=axis), result))
    return result
