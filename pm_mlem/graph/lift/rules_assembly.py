"""Reshaping, joining and assigning: operations that put arrays together.

Slots of different parts with the same states share one slot of the result (*pooling*): each entry of the result
reads at most one of them. Entries that read none have address -1 and are constant along the slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.basic import Join, MakeVector
from pytensor.tensor.shape import Reshape
from pytensor.tensor.subtensor import AdvancedIncSubtensor, IncSubtensor

from pm_mlem.graph.lift.core import (
    Context,
    Lifted,
    Refusal,
    Slot,
    align,
    align_symbol,
    as_lifted,
    broadcast_slots,
    lift_node,
    materialize,
)
from pm_mlem.graph.lift.rules_elementwise import concrete, enlarge
from pm_mlem.graph.lift.rules_generic import rebuild
from pm_mlem.graph.lift.rules_indexing import index_entries, take

# --- reshape ----------------------------------------------------------------------------------------------


@lift_node.register(Reshape)
def _(op, node, inputs, context):
    value, target = inputs
    wanted = [int(n) for n in concrete(target, "a shape")]
    size = int(np.prod(value.shape, dtype=np.int64))
    if -1 in wanted:
        rest = int(np.prod([n for n in wanted if n != -1], dtype=np.int64))
        wanted[wanted.index(-1)] = size // max(rest, 1)
    return [reshape(value, tuple(wanted))]


def reshape(value: Lifted, shape: tuple[int, ...]) -> Lifted:
    """Row-major reshape of the data axes; the array stays virtual where it is virtual along all axes."""
    slots = [s.with_address(np.broadcast_to(s.address, value.shape).reshape(shape)) for s in value.slots]
    sizes = tuple(s.size for s in value.slots)
    if all(n == 1 for n in value.array_shape):
        array_shape = (1,) * len(shape)
    else:
        value, array_shape = materialize(value), shape
    array = value.data if value.is_constant else value.symbol
    return as_lifted(array.reshape(sizes + array_shape), shape, slots)


# --- join -------------------------------------------------------------------------------------------------


@lift_node.register(Join)
def _(op, node, inputs, context):
    return [join(inputs, op.axis, context)]


@lift_node.register(MakeVector)
def _(op, node, inputs, context):
    return [join([reshape(v, (1,)) for v in inputs], 0, context)]


def join(parts: Sequence[Lifted], axis: int, context: Context) -> Lifted:
    """Concatenate along one axis."""
    slots, positions = pool([v.slots for v in parts])
    shape = list(parts[0].shape)
    shape[axis] = sum(v.shape[axis] for v in parts)
    pooled = [Slot(s.lower, s.size, joined_address(i, parts, positions, axis, s)) for i, s in enumerate(slots)]
    shared = same_array(parts, positions)
    if shared is not None and all(v.array_shape[axis] == 1 for v in parts):
        return as_lifted(shared, tuple(shape), pooled)
    virtual = [d for d in range(len(shape)) if d != axis and all(v.array_shape[d] == 1 for v in parts)]
    full = [materialize(v, [d for d in range(v.ndim) if d not in virtual]) for v in parts]
    sizes = [s.size for s in slots]
    if all(v.is_constant for v in full):
        arrays = [spread(align(v, p, len(slots), v.ndim), sizes) for v, p in zip(full, positions, strict=True)]
        return as_lifted(np.concatenate(arrays, axis=len(slots) + axis), tuple(shape), pooled)
    symbols = [
        spread(align_symbol(v, p, len(slots), v.ndim, context), sizes) for v, p in zip(full, positions, strict=True)
    ]
    return as_lifted(pt.concatenate(symbols, axis=len(slots) + axis), tuple(shape), pooled)


def pool(groups: Sequence[Sequence[Slot]]) -> tuple[list[Slot], list[list[int]]]:
    """Slots for the whole and, for each part, where its own slots went."""
    pooled: list[Slot] = []
    positions: list[list[int]] = []
    for slots in groups:
        taken: list[int] = []
        for slot in slots:
            free = (i for i, s in enumerate(pooled) if i not in taken and (s.lower, s.size) == (slot.lower, slot.size))
            position = next(free, len(pooled))
            if position == len(pooled):
                pooled.append(slot)
            taken.append(position)
        positions.append(taken)
    return pooled, positions


def joined_address(index: int, parts, positions, axis: int, slot: Slot) -> np.ndarray:
    """Addresses of one pooled slot, -1 in the parts that do not have it."""
    pieces = []
    for part, position in zip(parts, positions, strict=True):
        if index in position:
            pieces.append(np.broadcast_to(part.slots[position.index(index)].address, part.shape))
        else:
            pieces.append(np.full(part.shape, -1))
    return np.concatenate(pieces, axis=axis)


def same_array(parts: Sequence[Lifted], positions: list[list[int]]) -> np.ndarray | None:
    """The constant that all parts share (a stack of latents is one domain, however many there are)."""
    first = parts[0]
    if not all(v.is_constant and p == positions[0] for v, p in zip(parts, positions, strict=True)):
        return None
    return first.data if all(np.array_equal(v.data, first.data) for v in parts) else None


def spread(array, sizes: Sequence[int]):
    """Give every slot axis its full length."""
    if isinstance(array, np.ndarray):
        return np.broadcast_to(array, (*sizes, *array.shape[len(sizes) :]))
    shape = array.type.shape
    if tuple(shape[: len(sizes)]) == tuple(sizes):
        return array
    return pt.broadcast_to(array, (*sizes, *shape[len(sizes) :]))


# --- assignment -------------------------------------------------------------------------------------------


@lift_node.register(IncSubtensor)
@lift_node.register(AdvancedIncSubtensor)
def _(op, node, inputs, context):
    target, value, *flat = inputs
    if not (target.slots or value.slots or any(v.slots for v in flat)):
        return rebuild(op, node, inputs, context)
    entries = index_entries(flat, op.idx_list, target.ndim)
    if any(isinstance(e, Lifted) and (e.slots or not e.is_constant) for e in entries):
        raise Refusal("an array is assigned to at positions that depend on a latent or a parameter")
    key = tuple(e if isinstance(e, slice) else e.data for e in entries)
    if not op.set_instead_of_inc:
        value = add(take(target, entries, context), value, context)
    region = np.empty(target.shape, dtype=bool)[key].shape
    return [assign(target, key, enlarge(value, region), context)]


def add(a: Lifted, b: Lifted, context: Context) -> Lifted:
    ndim = max(a.ndim, b.ndim)
    slots, positions = broadcast_slots([a, b], ndim)
    left, right = (align_symbol(v, p, len(slots), ndim, context) for v, p in zip((a, b), positions, strict=True))
    return as_lifted(left + right, np.broadcast_shapes(a.shape, b.shape), slots)


def assign(target: Lifted, key: tuple, value: Lifted, context: Context) -> Lifted:
    """``target`` with ``target[key] = value``."""
    slots, positions = pool([target.slots, value.slots])
    pooled = []
    for i, slot in enumerate(slots):
        address = np.full(target.shape, -1)
        if i in positions[0]:
            address[...] = target.slots[positions[0].index(i)].address
        address[key] = value.slots[positions[1].index(i)].address if i in positions[1] else -1
        pooled.append(Slot(slot.lower, slot.size, address))
    sizes = [s.size for s in slots]
    target, value = materialize(target), materialize(value)
    where = (slice(None),) * len(slots) + key
    if target.is_constant and value.is_constant:
        array = spread(align(target, positions[0], len(slots), target.ndim), sizes).astype(
            np.result_type(target.data, value.data)
        )
        array[where] = align(value, positions[1], len(slots), value.ndim)
        return as_lifted(array, target.shape, pooled)
    base = spread(align_symbol(target, positions[0], len(slots), target.ndim, context), sizes)
    part = spread(align_symbol(value, positions[1], len(slots), value.ndim, context), sizes)
    dtype = np.result_type(base.type.dtype, part.type.dtype)
    return as_lifted(pt.set_subtensor(base.astype(str(dtype))[where], part), target.shape, pooled)
