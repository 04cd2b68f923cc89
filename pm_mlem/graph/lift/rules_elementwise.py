"""Elementwise operations, transpositions, broadcasting and reductions."""

from __future__ import annotations

import math

import numpy as np
import pytensor.scalar as ps
from pytensor.graph.traversal import ancestors
from pytensor.tensor.basic import Alloc
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.math import All, Any, Max, Min, Prod, Sum

from pm_mlem.graph.lift.core import (
    LARGEST_TABLE,
    MANY_STATES,
    Lifted,
    Refusal,
    Violation,
    align,
    align_symbol,
    arrange,
    as_lifted,
    broadcast_slots,
    constant,
    lift_node,
    materialize,
    pad_left,
    shuffle,
    wide,
)
from pm_mlem.graph.lift.rules_generic import fold
from pm_mlem.graph.ops.operations import guarded


@lift_node.register(Elemwise)
def _(op, node, inputs, context):
    ndim = node.outputs[0].type.ndim
    shape = common_shape(node, inputs, context)
    if isinstance(op.scalar_op, ps.Switch):
        chosen = constant_branch(inputs)
        if chosen is not None:
            return [astype(enlarge(chosen, shape), node.outputs[0].type.dtype)]
    slots, positions = broadcast_slots(inputs, ndim)
    check_size(slots, inputs, positions)
    if all(v.is_constant for v in inputs):
        arrays = [align(v, p, len(slots), ndim) for v, p in zip(inputs, positions, strict=True)]
        return [as_lifted(constant(data).data, shape, slots) for data in fold(op, arrays, node)]
    symbols = [align_symbol(v, p, len(slots), ndim, context) for v, p in zip(inputs, positions, strict=True)]
    return [as_lifted(out, shape, slots) for out in guarded(op).make_node(*symbols).outputs]


def common_shape(node, inputs, context) -> tuple[int, ...]:
    """The shape that inputs broadcast to; data may have been replaced by others of another length."""
    shapes = [v.shape for v in inputs]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        above = set(ancestors(node.inputs))
        known = {v.name: item.shape for v, item in context.leaves.items() if v in above and v.owner and item.shape}
        listed = ", ".join(f"'{name}' has shape {shape}" for name, shape in known.items())
        raise Violation(
            f"combines arrays of the shapes {' and '.join(map(str, dict.fromkeys(shapes)))}, which do not fit"
            + (f" ({listed})" if listed else ""),
            hint="Where data were replaced by others of another length, let the lengths of the variables follow them: "
            "declare them with dims=, or with shape=x.shape[0] instead of a number",
        ) from None


def check_size(slots, inputs, positions) -> None:
    """Refuse tables over so many states that nothing could be done with them, before they are made."""
    states = math.prod(s.size for s in slots)
    if states < MANY_STATES:
        return
    arrays = np.broadcast_shapes(*[v.array_shape for v in inputs])
    used = {axis for v, p in zip(inputs, positions, strict=True) for axis in p}
    entries = math.prod(slots[axis].size for axis in used) * math.prod(arrays)
    if entries > LARGEST_TABLE:
        raise Refusal(
            f"a table over {states:,} states with {entries:,} entries is needed (the limit is {LARGEST_TABLE:,})",
            hint="Give the latents fewer states, or let each observation depend on fewer of them",
        )


def constant_branch(inputs) -> Lifted | None:
    """The branch of a switch whose condition is constant and the same everywhere."""
    condition = inputs[0]
    if not condition.is_constant or condition.data.size == 0:
        return None
    if condition.data.all():
        return inputs[1]
    if not condition.data.any():
        return inputs[2]
    return None


def enlarge(value: Lifted, shape: tuple[int, ...]) -> Lifted:
    """Broadcast to a larger true shape; the new extent is virtual."""
    if value.shape == shape:
        return value
    own, extra = len(value.slots), len(shape) - value.ndim
    order = [*range(own), *["x"] * extra, *range(own, own + value.ndim)]
    slots = [s.with_address(pad_left(s.address, len(shape))) for s in value.slots]
    return as_lifted(arrange(value, order), shape, slots)


def astype(value: Lifted, dtype: str) -> Lifted:
    target = wide(dtype)
    if value.data is not None:
        return as_lifted(value.data.astype(target, copy=False), value.shape, value.slots)
    return as_lifted(value.symbol.astype(str(target)), value.shape, value.slots)


@lift_node.register(DimShuffle)
def _(op, node, inputs, context):
    [value] = inputs
    own = len(value.slots)
    order = [*range(own), *["x" if d == "x" else own + d for d in op.new_order]]
    shape = tuple(1 if d == "x" else value.shape[d] for d in op.new_order)
    slots = [s.with_address(shuffle(s.address, op.new_order)) for s in value.slots]
    return [as_lifted(arrange(value, order), shape, slots)]


@lift_node.register(Alloc)
def _(op, node, inputs, context):
    value, *lengths = inputs
    return [enlarge(value, tuple(int(concrete(n, "a length")) for n in lengths))]


def concrete(value: Lifted, what: str) -> np.ndarray:
    """The NumPy value of an input that must not depend on parameters or latents."""
    if not value.is_constant or value.slots:
        raise Refusal(f"{what} depends on a parameter or a latent")
    return value.data


@lift_node.register(CAReduce)
def _(op, node, inputs, context):
    [value] = inputs
    if not value.ndim:  # whatever axis is named
        return [astype(value, node.outputs[0].type.dtype)]
    axes = tuple(range(value.ndim)) if op.axis is None else tuple(op.axis)
    refuse_mixing(value, axes, op)
    virtual = [d for d in axes if value.is_virtual(d)]
    count = int(np.prod([value.shape[d] for d in virtual], dtype=np.int64))
    if count == 0 or not isinstance(op, Sum | Prod | Max | Min | All | Any):
        value, count = materialize(value, virtual), 1
    reduced = reduce_array(op, value, axes, node, context)
    if count > 1 and isinstance(op, Sum | Prod):
        reduced = reduced * count if isinstance(op, Sum) else reduced**count
    kept = [d for d in range(value.ndim) if d not in axes]
    slots = [s.with_address(shuffle(s.address, kept)) for s in value.slots]
    return [as_lifted(reduced, tuple(value.shape[d] for d in kept), slots)]


def refuse_mixing(value: Lifted, axes, op) -> None:
    """Raise :class:`Refusal` where the operation would mix elements of a latent along some axes."""
    mixed = [slot for slot in value.slots if any(slot.varies_along(d) for d in axes)]
    if mixed:
        raise Refusal(
            f"{type(op).__name__} combines entries that belong to different elements of a discrete latent",
            hint="write the model so that each term depends on few elements of the latent",
            mixed=mixed,
        )


def reduce_array(op: CAReduce, value: Lifted, axes, node, context):
    own = len(value.slots)
    shifted = tuple(own + d for d in axes)
    new = type(op)(axis=shifted) if isinstance(op, Sum | Prod) else op.clone(axis=shifted)
    if value.is_constant:
        return fold(new, [value.data], node)[0]
    return new(value.symbol)
