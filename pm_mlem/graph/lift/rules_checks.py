"""Parameter checks of the distributions: kept as guards, so that an impossible parameter is never a maximum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytensor.tensor as pt
from pymc.logprob.utils import CheckParameterValue
from pytensor.graph.basic import Apply, Variable
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import MakeVector, ScalarFromTensor
from pytensor.tensor.math import All

from pm_mlem.graph.lift.core import (
    Context,
    Lifted,
    Refusal,
    Violation,
    align_symbol,
    as_lifted,
    broadcast_slots,
    lift_node,
    operands,
)


@operands.register(CheckAndRaise)
def _(op, node):
    return node.inputs[:1]


@lift_node.register(CheckAndRaise)
def _(op, node, inputs, context):
    return [inputs[0]]


@lift_node.register(CheckParameterValue)
def _(op, node, inputs, context):
    value = inputs[0]
    for check in node.inputs[1:]:
        for condition in conditions(check):
            value = guard(value, condition, context, op.msg)
    return [value]


def collect_guards(node: Apply, context: Context) -> None:
    """The conditions of a check node alone."""
    unit = as_lifted(np.zeros(()), ())
    for check in node.inputs[1:]:
        for condition in conditions(check):
            guard(unit, condition, context, node.op.msg)


def conditions(check: Variable) -> Iterator[Variable]:
    """The elementwise conditions under ``all(stack([all(...), ...]))``."""
    stack = [check]
    while stack:
        variable = stack.pop()
        op = variable.owner and variable.owner.op
        if isinstance(op, ScalarFromTensor | MakeVector) or (isinstance(op, All) and op.axis is None):
            stack.extend(variable.owner.inputs)
        else:
            yield variable


def guard(value: Lifted, condition: Variable, context: Context, message: str = "") -> Lifted:
    """Collect a condition on the parameters; a known condition on states makes the value -inf where it fails."""
    try:
        holds = context.lift(condition)
    except Refusal:
        return value  # the check is more complicated than the density; a violation shows as a NaN there
    if holds.is_constant and holds.data.all():
        return value
    if holds.is_constant and not holds.slots:
        raise Violation(
            f"has an impossible distribution: a constant in the model breaks its condition '{message}'",
            hint="Correct that argument",
        )
    if not holds.is_constant or not holds.slots:
        context.guards.append(pt.all(context.symbol(holds)))
        return value
    while holds.ndim > value.ndim:  # conditions on the entries of a vector parameter
        if any(s.varies_along(holds.ndim - 1) for s in holds.slots):
            return value
        slots = [s.with_address(s.address[..., 0]) for s in holds.slots]
        holds = as_lifted(pt.all(context.symbol(holds), axis=-1), holds.shape[:-1], slots)
    shape = np.broadcast_shapes(value.shape, holds.shape)
    slots, positions = broadcast_slots([value, holds], len(shape))
    array, mask = (
        align_symbol(v, p, len(slots), len(shape), context) for v, p in zip((value, holds), positions, strict=True)
    )
    return as_lifted(pt.switch(mask, array, -np.inf), shape, slots)
