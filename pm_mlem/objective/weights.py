"""Observation weights as weights of independent units."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from pm_mlem.arguments import array_of_numbers
from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.tables.missing import missing_units
from pm_mlem.graph.tables.model_tables import ModelTables


def unit_weights(tables: ModelTables, weights) -> np.ndarray:
    """One weight for every unit.

    Parameters
    ----------
    weights : None, array, or {observed name: array}
        Non-negative; shaped like the observations or like their leading axes. A plain array goes to every
        observed variable with that leading shape; for masked data that is the shape of all entries.

    Raises
    ------
    ValueError
        Unknown names, wrong shapes, negative or non-finite weights, weights that are all 0, or different weights
        within one unit.
    """
    result = by_unit(tables, by_variable(tables, weights, "weights"), "weights")
    result = np.where(np.isnan(result), 1.0, result)
    if result.size and not np.any(result):
        raise ValueError("All weights are 0: no observation is left.")
    return result * unit_scale(tables)


def unit_labels(tables: ModelTables, labels, argument: str) -> np.ndarray:
    """One label for every unit, a number; NaN for units that no observation has given one.

    Parameters
    ----------
    labels : array, or {observed name: array}
        Of any type; shaped like the observations or like their leading axes.
    argument : what they are called in messages

    Raises
    ------
    ValueError
        Wrong shapes, missing labels, or different labels within one unit.
    """
    from pandas import factorize, isnull

    given = {None: labels} if not isinstance(labels, Mapping) else labels
    flat = np.concatenate([np.ravel(np.asarray(a)) for a in given.values()])
    if np.any(isnull(flat)):
        raise ValueError(f"{argument}: there are missing labels (NaN or None).")
    try:
        codes = factorize(flat)[0]
    except TypeError as error:
        raise ValueError(f"{argument}: labels must be numbers, strings or dates ({error}).") from None
    ends = np.cumsum([np.size(a) for a in given.values()])[:-1]
    numbers = {
        name: part.astype(float).reshape(np.shape(a))
        for (name, a), part in zip(given.items(), np.split(codes.ravel(), ends), strict=True)
    }
    chosen = numbers if isinstance(labels, Mapping) else numbers[None]
    return by_unit(tables, by_variable(tables, chosen, argument), argument)


def by_unit(tables: ModelTables, given: Mapping[str, np.ndarray], argument: str) -> np.ndarray:
    """Numbers by unit of numbers by observation; NaN for units that are given none."""
    result = np.full(sum(tables.elimination.sizes), np.nan)
    for name, array in given.items():
        flat = expand(name, array, tables, argument)
        for factor, units in zip(tables.factors, tables.elimination.unit_of_row, strict=True):
            density = tables.densities[factor.term_index]
            if name in density.term.members:
                start, shape = density.part_of(name)
                rows = (factor.entries >= start) & (factor.entries < start + math.prod(shape))
                values = flat[factor.entries[rows, None] - start + factor.summed]
                assign(result, np.repeat(units[rows], len(factor.summed)), values.ravel(), name, argument)
    for name, array in given.items():
        part = tables.structure.parts.get(name)
        if part is not None and array.shape == part.shape[: array.ndim]:
            every = along(array, part.draws(core_ndim(tables, name))[0])
            for position, units in missing_units(tables, name):  # what is known of a unit goes first
                unknown = np.isnan(result[units])
                assign(result, units[unknown], every[position[unknown]], name, argument)
    return result


def unit_scale(tables: ModelTables) -> np.ndarray:
    """How often every unit counts: the factor that ``total_size=`` gives to its observations.

    PyMC multiplies the log-density of the observations given the latents; the factor belongs to the observations with
    their latents, which is to say to the unit.
    """
    result = np.full(sum(tables.elimination.sizes), np.nan)
    for factor, units in zip(tables.factors, tables.elimination.unit_of_row, strict=True):
        term = tables.densities[factor.term_index].term
        if term.kind == "latent":
            continue
        known = result[units]
        if np.any(~np.isnan(known) & (known != term.scale)):
            raise UnsupportedModelError(
                f"'{term.name}' shares a discrete latent with a variable of another total_size; a unit of observations "
                "and latents can only count as a whole. Give both the same total_size in proportion, or use weights=."
            )
        result[units] = term.scale
    return np.where(np.isnan(result), 1.0, result)


def by_variable(tables: ModelTables, weights, argument: str) -> Mapping[str, np.ndarray]:
    observed = tables.structure.observed
    if weights is None:
        return {}
    if isinstance(weights, Mapping):
        part_of = {part.name: name for name, part in tables.structure.parts.items()}
        for name in weights:
            if name not in observed and name not in part_of:
                raise ValueError(
                    f"{argument}: '{name}' is not an observed variable; these are {', '.join(map(repr, observed))}."
                )
        return {
            part_of.get(name, name): array_of_numbers(array, f"{argument} of '{name}'")
            for name, array in weights.items()
        }
    array = array_of_numbers(weights, argument)
    shapes = {n: shape_of(tables, n) for n in observed}
    wholes = {n: part.shape for n, part in tables.structure.parts.items() if n in shapes}
    fitting = [n for n in observed if {**shapes, **wholes}[n][: array.ndim] == array.shape]
    fitting = fitting or [n for n in observed if shapes[n][: array.ndim] == array.shape]
    if not fitting or array.ndim == 0:
        listed = ", ".join(f"'{n}': {shape}" for n, shape in {**shapes, **wholes}.items())
        raise ValueError(f"{argument} of shape {array.shape} fit no observed variable ({listed}).")
    return {name: array for name in fitting}


def core_ndim(tables: ModelTables, name: str) -> int:
    """How many axes a draw of an observed variable has."""
    term = next(d.term for d in tables.densities if name in d.term.members)
    return 0 if term.rv is None else getattr(term.rv.owner.op, "ndim_supp", 0)


def shape_of(tables: ModelTables, name: str) -> tuple[int, ...]:
    """The shape of an observed variable."""
    return next(d.part_of(name)[1] for d in tables.densities if name in d.term.members)


def expand(name: str, array: np.ndarray, tables: ModelTables, argument: str) -> np.ndarray:
    """One weight for every observation of a variable; for masked data the array may be that of all entries."""
    shape, part = shape_of(tables, name), tables.structure.parts.get(name)
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ValueError(f"{argument} of '{name}' must be finite and not negative.")
    if part is not None and array.shape == part.shape[: array.ndim]:
        whole, positions = part.draws(core_ndim(tables, name))
        if array.ndim <= len(whole):
            return along(array, whole)[positions]
    if array.shape != shape[: array.ndim]:
        raise ValueError(f"{argument} of '{name}' have shape {array.shape}, the observations {shape}.")
    return along(array, shape)


def along(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array over the leading axes of a shape, repeated along the others; flat."""
    return np.broadcast_to(array.reshape(array.shape + (1,) * (len(shape) - array.ndim)), shape).ravel()


def assign(result: np.ndarray, units: np.ndarray, values: np.ndarray, name: str, argument: str) -> None:
    """Set the weights of units; all observations of a unit must agree."""
    before = result[units]
    fresh = np.isnan(before)
    result[units[fresh]] = values[fresh]
    if not np.array_equal(result[units], values):
        raise ValueError(
            f"{argument} of '{name}' differ between observations that share a latent variable; they form one "
            "independent unit and need one value."
        )


def product(weights, values):
    """``weights * values`` where a weight of 0 removes its value, infinite or not."""
    absent = weights == 0
    return jnp.where(absent, 0.0, weights * jnp.where(absent, 0.0, values))
