"""Arrays for some of the rows: taken out, put back, told from those without rows."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from pytensor.graph.basic import Variable

from pm_mlem.graph.tables.rows import Place


def merged(places: Sequence[Place], fixed: Sequence, rows: Sequence) -> list:
    """Arrays without rows and arrays with rows in their order."""
    rest, along = iter(fixed), iter(rows)
    return [next(rest) if place is None else next(along) for place in places]


def cut(array, place: Place, start, length: int):
    """The rows of a chunk."""
    if place is None:
        return array
    return jax.lax.dynamic_slice_in_dim(array, start * place.block, length * place.block, place.axis)


def masked(array, place: Place, fresh):
    """Zero for the rows that are not fresh."""
    mask = jnp.repeat(fresh, place.block)
    return jnp.where(
        mask.reshape([-1 if d == place.axis else 1 for d in range(array.ndim)]), array, jnp.zeros((), array.dtype)
    )


def paste(array, rows, place: Place, start, length: int):
    """Add the rows of a chunk to the array of all rows."""
    before = cut(array, place, start, length)
    return jax.lax.dynamic_update_slice_in_dim(array, before + rows, start * place.block, place.axis)


def full_shape(shape: tuple[int, ...], place: Place, count: int, length: int) -> tuple[int, ...]:
    """The shape for all rows of an array that has this shape for a chunk."""
    return tuple(n // length * count if d == place.axis else n for d, n in enumerate(shape))


def offsets(sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Begin and end of each vector in the vector of all."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(zip([0, *ends[:-1]], ends, strict=True))


def chosen(variables: Sequence[Variable], places: Sequence[Place], rows: bool) -> list[Variable]:
    """The variables with rows, or those without."""
    return [v for v, place in zip(variables, places, strict=True) if (place is not None) == rows]
