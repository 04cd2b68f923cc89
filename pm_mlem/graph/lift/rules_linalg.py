"""Matrix operations: the states of latents are batch dimensions in front."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.basic import ExtractDiag
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.linalg.solvers.triangular import SolveTriangular
from pytensor.tensor.math import Dot

from pm_mlem.graph.lift.core import (
    Context,
    Lifted,
    align_symbol,
    as_lifted,
    broadcast_slots,
    lift_node,
    materialize,
)
from pm_mlem.graph.lift.rules_elementwise import refuse_mixing
from pm_mlem.graph.lift.rules_generic import fold, shapes_of


@lift_node.register(Dot)
def _(op, node, inputs, context):
    return [matmul(op, node, inputs, context)]


def matmul(op, node, inputs: list[Lifted], context: Context) -> Lifted:
    """Product over the last axis of a and the last but one of b; rows, columns and batches may be virtual."""
    a, b = inputs
    refuse_mixing(a, [a.ndim - 1], op)
    refuse_mixing(b, [b.ndim - 2], op)
    a, b = materialize(a, [a.ndim - 1]), materialize(b, [b.ndim - 2])
    ndim = max(a.ndim, b.ndim)
    slots, positions = broadcast_slots([a, b], ndim)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*batch, a.shape[-2], b.shape[-1])
    if a.is_constant and b.is_constant and not slots:
        return as_lifted(np.matmul(a.data, b.data), shape)
    left, right = (align_symbol(v, p, len(slots), ndim, context) for v, p in zip((a, b), positions, strict=True))
    if left.type.ndim == 2:
        return as_lifted(left @ right, shape, slots)
    return as_lifted(pt.matmul(left, right), shape, slots)


@lift_node.register(Blockwise)
def _(op, node, inputs, context):
    if isinstance(op.core_op, Dot):
        return [matmul(op, node, inputs, context)]
    core = [len(sig) for sig in op.inputs_sig]
    values = []
    for value, n in zip(inputs, core, strict=True):
        axes = range(value.ndim - n, value.ndim)
        refuse_mixing(value, axes, op.core_op)
        values.append(materialize(value, axes))
    if all(v.is_constant and not v.slots for v in values):
        values = [materialize(v) for v in values]
        outputs = fold(op, [v.data for v in values], node)
        return [as_lifted(out, out.shape) for out in outputs]
    batch_ndim = max(v.ndim - n for v, n in zip(values, core, strict=True))
    batch = np.broadcast_shapes(*[v.shape[: v.ndim - n] for v, n in zip(values, core, strict=True)])
    slots, positions = broadcast_slots([batch_view(v, n) for v, n in zip(values, core, strict=True)], batch_ndim)
    symbols = [
        align_symbol(v, p, len(slots), batch_ndim + n, context) for v, n, p in zip(values, core, positions, strict=True)
    ]
    if isinstance(op.core_op, SolveTriangular):
        solved = solve_by_inverse(op.core_op, symbols, core, len(slots) + batch_ndim)
        if solved is not None:
            return [finish(solved, slots, batch, solved.type.shape[len(slots) + batch_ndim :])]
    new = op.make_node(*symbols)
    lead = len(slots) + batch_ndim
    cores = [out.type.shape[lead:] for out in new.outputs]
    if any(None in c for c in cores):
        cores = [shape[lead:] for shape in shapes_of(new, context)]
    return [finish(out, slots, batch, c) for out, c in zip(new.outputs, cores, strict=True)]


def batch_view(value: Lifted, n_core: int) -> Lifted:
    """The value's slots as seen by its batch axes."""
    ndim = value.ndim - n_core
    slots = tuple(s.with_address(s.address.reshape(s.address.shape[:ndim])) for s in value.slots)
    return Lifted(value.shape[:ndim], slots, data=np.zeros((1,) * (len(slots) + ndim)))


def finish(out: Variable, slots, batch, core_shape) -> Lifted:
    where = [s.with_address(s.address.reshape(s.address.shape + (1,) * len(core_shape))) for s in slots]
    return as_lifted(out, (*batch, *core_shape), where)


def solve_by_inverse(core_op: SolveTriangular, symbols, core, lead: int) -> Variable | None:
    """``solve(L, b)`` for many right-hand sides that share few matrices: ``b @ inv(L).T``.

    The vectorized solver would copy each of the K matrices to every row of the data.
    """
    matrix, rhs = symbols
    if core != [2, 1]:
        return None
    shared = matrix.type.shape[:lead]
    rows = rhs.type.shape[:lead]
    if not lead or shared[-1] != 1 or rows[-1] == 1:
        return None
    n = matrix.type.shape[-1]
    single = matrix.squeeze(axis=lead - 1)
    inverse = pt.linalg.solve_triangular(
        single, pt.eye(n), lower=core_op.lower, unit_diagonal=core_op.unit_diagonal, b_ndim=2
    )
    return pt.matmul(rhs, inverse.mT)


@lift_node.register(ExtractDiag)
def _(op, node, inputs, context):
    [value] = inputs
    refuse_mixing(value, [op.axis1, op.axis2], op)
    value = materialize(value, [op.axis1, op.axis2])
    own = len(value.slots)
    new = ExtractDiag(offset=op.offset, axis1=own + op.axis1, axis2=own + op.axis2, view=op.view)
    kept = [d for d in range(value.ndim) if d not in (op.axis1, op.axis2)]
    if value.is_constant:
        out = fold(new, [value.data], node)[0]
        n = out.shape[-1]
    else:
        out = new(value.symbol)
        n = out.type.shape[-1]
    slots = [s.with_address(s.address.transpose(*kept, op.axis1, op.axis2)[..., 0]) for s in value.slots]
    return [as_lifted(out, (*[value.shape[d] for d in kept], n), slots)]
