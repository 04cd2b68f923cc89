"""Indexing, by constants and by latents.

Each axis of the indexed array either becomes an axis of the result (a slice, a latent that runs through the
whole axis, the identity ``arange``), or is fixed at one position, or is gathered with an index array.
Parameters indexed by a latent, ``mu[z]``, thus need no gather at all: the axis of ``mu`` becomes the slot axis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.subtensor import (
    AdvancedSubtensor,
    Subtensor,
    unflatten_index_variables,
)

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
    merge_slots,
    shuffle,
)
from pm_mlem.graph.lift.rules_elementwise import concrete

Entry = slice | Lifted

MOST_STATES = 4096
"""Joint states of the latents that one entry may read when a latent selects among elements of latents."""


@lift_node.register(Subtensor)
@lift_node.register(AdvancedSubtensor)
def _(op, node, inputs, context):
    value, *flat = inputs
    return [take(value, index_entries(flat, op.idx_list, value.ndim), context)]


def index_entries(flat: list[Lifted], idx_list, ndim: int) -> list[Entry]:
    """One entry for each axis: a slice of integers or a lifted integer array."""
    entries: list[Entry] = []
    for index in unflatten_index_variables(flat, idx_list):
        if isinstance(index, slice):
            parts = (index.start, index.stop, index.step)
            entries.append(slice(*[None if p is None else int(concrete(p, "a slice bound")) for p in parts]))
        elif index.is_constant and index.data.dtype == bool:
            entries.extend(Lifted(i.shape, data=i) for i in np.nonzero(concrete(index, "a mask")))
        else:
            entries.append(index)
    return entries + [slice(None)] * (ndim - len(entries))


class Layout(NamedTuple):
    """Where the axes of an indexing result come from."""

    shape: tuple[int, ...]
    slice_axes: dict[int, int]  # source axis with a slice -> result axis
    first: int  # the broadcast axes of the index arrays are first, ..., first + width - 1
    width: int


def plan_layout(shape: tuple[int, ...], entries: list[Entry]) -> Layout:
    """NumPy's rules: index arrays broadcast together; their axes come first unless they stand side by side."""
    arrays = [d for d, e in enumerate(entries) if isinstance(e, Lifted)]
    common = np.broadcast_shapes(*[entries[d].shape for d in arrays])
    adjacent = arrays == list(range(arrays[0], arrays[-1] + 1)) if arrays else False
    first = arrays[0] if adjacent else 0
    lengths = {d: len(range(*e.indices(shape[d]))) for d, e in enumerate(entries) if isinstance(e, slice)}
    result = list(lengths.values())
    result[first:first] = common
    axes = {d: i + (len(common) if i >= first else 0) for i, d in enumerate(lengths)}
    return Layout(tuple(result), axes, first, len(common))


def take(value: Lifted, entries: list[Entry], context: Context) -> Lifted:
    """``value[entries]``."""
    check_bounds(value, entries)
    for axis, entry in enumerate(entries):
        if isinstance(entry, Lifted) and entry.slots and any(s.varies_along(axis) for s in value.slots):
            return choose(value, entries, axis, context)
    layout = plan_layout(value.shape, entries)
    own = [s.with_address(index_address(s, entries, layout)) for s in value.slots]
    indices = {d: place(e, layout) for d, e in enumerate(entries) if isinstance(e, Lifted)}
    slots, positions = merge_slots([own, *[v.slots for v in indices.values()]])
    plan = Plan(value, layout, slots)
    for axis, position in enumerate(positions[0]):
        plan.keep(axis, position)
    lead = len(value.slots)
    for d, entry in enumerate(entries):
        if isinstance(entry, slice):
            virtual = value.is_virtual(d)
            plan.keep(lead + d, len(slots) + layout.slice_axes[d], slice(None) if virtual else entry)
    for (d, index), position in zip(indices.items(), positions[1:], strict=True):
        array = align(index, position, len(slots), len(layout.shape))
        if value.array_shape[d] == 1:
            plan.fixed[lead + d] = 0
        elif not isinstance(array, Variable) and array.size == 1:
            plan.fixed[lead + d] = int(array.reshape(()))
        else:
            plan.gather(lead + d, array, value.shape[d])
    return as_lifted(plan.build(context), layout.shape, slots)


def choose(value: Lifted, entries: list[Entry], axis: int, context: Context) -> Lifted:
    """An axis along which elements of a latent differ, indexed by a latent: a switch over its positions."""
    index, n = entries[axis], value.shape[axis]
    refusal = Refusal(
        "the elements of one discrete latent are selected by another variable",
        hint="index parameters by latents, not latents by latents",
    )
    if not index.is_constant:
        raise refusal
    layout = plan_layout(value.shape, entries)
    chooser = place(Lifted(index.shape, index.slots, data=np.where(index.data < 0, index.data + n, index.data)), layout)
    positions = np.unique(chooser.data).tolist()
    parts = []
    for k in positions:
        fixed = Lifted(index.shape, data=np.full(index.shape, k))
        parts.append(take(value, [fixed if d == axis else e for d, e in enumerate(entries)], context))
    slots, where = broadcast_slots([chooser, *parts], len(layout.shape))
    if np.prod([s.size for s in slots]) > MOST_STATES:
        raise refusal
    which, *arrays = (
        align_symbol(v, p, len(slots), len(layout.shape), context)
        for v, p in zip((chooser, *parts), where, strict=True)
    )
    result = arrays[-1]
    for k, array in zip(positions[:-1], arrays[:-1], strict=True):
        result = pt.switch(pt.eq(which, k), array, result)
    return as_lifted(result, layout.shape, slots)


def check_bounds(value: Lifted, entries: list[Entry]) -> None:
    for d, entry in enumerate(entries):
        if isinstance(entry, Lifted) and entry.is_constant and entry.data.size:
            low, high, n = entry.data.min(), entry.data.max(), value.shape[d]
            if low < -n or high >= n:
                what = "a latent with the states" if entry.slots else "the numbers"
                raise Refusal(f"an axis of length {n} is indexed with {what} {low} to {high}")


def place(index: Lifted, layout: Layout) -> Lifted:
    """An index array with its axes at their places in the result."""
    before = layout.first + layout.width - index.ndim
    after = len(layout.shape) - layout.first - layout.width
    lead = len(index.slots)

    def order(offset):
        return ["x"] * before + list(range(offset, offset + index.ndim)) + ["x"] * after

    slots = tuple(s.with_address(shuffle(s.address, order(0))) for s in index.slots)
    shape = (1,) * before + index.shape + (1,) * after
    data_order = [*range(lead), *order(lead)]
    if index.is_constant:
        return Lifted(shape, slots, data=shuffle(index.data, data_order))
    return Lifted(shape, slots, symbol=index.symbol.dimshuffle(*data_order))


def index_address(slot: Slot, entries: list[Entry], layout: Layout) -> np.ndarray:
    """The addresses of the result: movement of integers, by NumPy itself."""
    address, key = slot.address, []
    for d, entry in enumerate(entries):
        varies = slot.varies_along(d)
        if isinstance(entry, slice):
            key.append(entry if varies else slice(None))
            continue
        if varies and (entry.slots or not entry.is_constant):
            raise Refusal(
                "the elements of one discrete latent are selected by another variable",
                hint="index parameters by latents, not latents by latents",
                mixed=[slot],
            )
        index = entry.data if varies else np.zeros((1,) * entry.ndim, dtype=int)
        key.append(index.reshape((1,) * (layout.width - index.ndim) + index.shape))
    return address[tuple(key)]


@dataclass
class Plan:
    """How the array of an indexing result (axes: slots, then result axes) is built from the source array."""

    value: Lifted
    layout: Layout
    slots: list[Slot]
    kept: dict[int, int] = field(default_factory=dict)  # source axis -> final axis
    slices: dict[int, slice] = field(default_factory=dict)
    fixed: dict[int, int] = field(default_factory=dict)  # source axis -> position
    gathered: dict[int, np.ndarray | Variable] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return len(self.slots) + len(self.layout.shape)

    def length(self, final: int) -> int:
        n_slots = len(self.slots)
        return self.slots[final].size if final < n_slots else self.layout.shape[final - n_slots]

    def keep(self, axis: int, final: int, entry: slice = slice(None)) -> None:
        self.slices[axis] = entry
        if final in self.kept.values():  # two source axes, one result axis: a diagonal
            self.gathered[axis] = self.identity(final)
        else:
            self.kept[axis] = final

    def identity(self, final: int) -> np.ndarray:
        shape = [1] * self.total
        shape[final] = self.length(final)
        return np.arange(shape[final]).reshape(shape)

    def gather(self, axis: int, index: np.ndarray | Variable, n: int) -> None:
        """Gather an axis of length n; an index that runs 0, 1, ..., n-1 along one axis only renames the axis."""
        if not isinstance(index, Variable):
            index = np.where(index < 0, index + n, index)
            long = [final for final, length in enumerate(index.shape) if length != 1]
            if len(long) == 1 and np.array_equal(index.ravel(), np.arange(n)) and long[0] not in self.kept.values():
                self.kept[axis] = long[0]
                return
        self.gathered[axis] = index

    def build(self, context: Context):
        shapes = [shape_of(i) for i in self.gathered.values()]
        for axis, final in list(self.kept.items()):
            if any(shape[final] != 1 for shape in shapes):  # an index array varies along a kept axis
                self.gathered[axis] = self.identity(self.kept.pop(axis))
        symbolic = not self.value.is_constant or any(isinstance(i, Variable) for i in self.gathered.values())
        array = context.symbol(self.value) if symbolic else self.value.data
        key = [self.fixed.get(axis, self.slices.get(axis, slice(None))) for axis in range(array.ndim)]
        if any(k != slice(None) for k in key):
            array = array[tuple(key)]
        left = [axis for axis in range(len(key)) if axis not in self.fixed]
        kept, gathered = list(self.kept), list(self.gathered)
        finals = list(self.kept.values())
        if gathered:
            order = [left.index(axis) for axis in [*kept, *gathered]]
            array = array.transpose(*order) if order != sorted(order) else array
            common = np.broadcast_shapes(*[shape_of(i) for i in self.gathered.values()])
            free = [final for final in range(self.total) if common[final] != 1]
            picked = [strip(i, free, context if symbolic else None) for i in self.gathered.values()]
            array = array[(*[slice(None)] * len(kept), *picked)]
            sources = range(len(kept) + len(free))
            finals = [*finals, *free]
        else:
            sources = [left.index(axis) for axis in kept]
        order = ["x"] * self.total
        for source, final in zip(sources, finals, strict=True):
            order[final] = source
        if not isinstance(array, Variable):
            return shuffle(array, order)
        return array if order == list(range(array.type.ndim)) else array.dimshuffle(*order)


def shape_of(index: np.ndarray | Variable) -> tuple[int, ...]:
    return index.type.shape if isinstance(index, Variable) else index.shape


def strip(index: np.ndarray | Variable, axes: list[int], context: Context | None):
    """An index array without the axes along which nothing varies; large ones become data inputs."""
    if isinstance(index, Variable):
        return index.dimshuffle(*axes)
    index = index.reshape([index.shape[axis] for axis in axes])
    return index if context is None else context.symbol(Lifted(index.shape, data=index))
