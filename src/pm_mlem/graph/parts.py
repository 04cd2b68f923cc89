"""Additive parts of a log-density, for densities whose entries mix elements of a latent.

A chain's log-density is one number: the sum of its transitions. The parts under such sums, element by element,
are what tables can hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytensor.scalar as ps
from pymc.logprob.utils import CheckParameterValue
from pytensor.compile.ops import ViewOp
from pytensor.graph.basic import Variable
from pytensor.tensor.basic import Alloc, ScalarFromTensor, TensorFromScalar
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Sum
from pytensor.tensor.shape import Reshape, SpecifyShape

from pm_mlem.graph.lift import Context, Lifted, Refusal
from pm_mlem.graph.lift.core import as_lifted
from pm_mlem.graph.lift.rules_checks import collect_guards

PASSED = (DimShuffle, ViewOp, ScalarFromTensor, TensorFromScalar, SpecifyShape, Reshape)
"""Operations that leave the sum over all entries as it is."""


def lift_parts(density: Variable, context: Context) -> list[Lifted]:
    """Lifted arrays whose entries add up to the log-density: itself if it can be lifted, its parts otherwise."""
    try:
        whole = context.lift(density)
    except Refusal as refusal:
        parts = list(additive_parts(density, context))
        if len(parts) == 1 and parts[0][0] is density:
            raise
        try:
            return [scaled(context.lift(part), factor, context) for part, factor in parts]
        except Refusal:
            raise refusal from None
    if len(whole.slots) <= 2:
        return [whole]
    parts = [scaled(context.lift(part), factor, context) for part, factor in additive_parts(density, context)]
    return parts if max(len(p.slots) for p in parts) < len(whole.slots) else [whole]


def scaled(value: Lifted, factor: float, context: Context) -> Lifted:
    if factor == 1:
        return value
    if value.is_constant:
        return as_lifted(value.data * factor, value.shape, value.slots)
    return as_lifted(context.symbol(value) * float(factor), value.shape, value.slots)


def additive_parts(density: Variable, context: Context) -> Iterator[tuple[Variable, float]]:
    """Variables and factors such that the sum of all entries of ``density`` is the factors times theirs."""
    stack = [(density, 1.0)]
    while stack:
        variable, factor = stack.pop()
        node = variable.owner
        op = node and node.op
        if op is None:
            yield variable, factor
        elif isinstance(op, CheckParameterValue):
            collect_guards(node, context)
            stack.append((node.inputs[0], factor))
        elif isinstance(op, Sum) or isinstance(op, PASSED):
            stack.append((node.inputs[0], factor))
        elif isinstance(op, Alloc):
            stack.append((node.inputs[0], factor * repeats(node.inputs[0], variable, context)))
        elif isinstance(op, Elemwise) and isinstance(op.scalar_op, ps.Add | ps.Sub | ps.Neg):
            minus = isinstance(op.scalar_op, ps.Sub | ps.Neg)
            for i, part in reversed(list(enumerate(node.inputs))):
                sign = -1.0 if minus and (i == 1 or len(node.inputs) == 1) else 1.0
                stack.append((part, sign * factor * repeats(part, variable, context)))
        elif isinstance(op, Elemwise) and isinstance(op.scalar_op, ps.Mul | ps.TrueDiv):
            inner = constant_factor(node, context)
            if inner is None:
                yield variable, factor
            else:
                part, number = inner
                stack.append((part, factor * number * repeats(part, variable, context)))
        else:
            yield variable, factor


def repeats(part: Variable, whole: Variable, context: Context) -> int:
    """How often each entry of an operand is used when it is broadcast to the result."""
    missing = whole.type.ndim - part.type.ndim
    lengths = []
    for d in range(whole.type.ndim):
        own = 1 if d < missing else part.type.shape[d - missing]
        if own == 1 and whole.type.shape[d] != 1:
            lengths.append(whole.type.shape[d] if whole.type.shape[d] is not None else length(whole, d, context))
    return math.prod(lengths)


def length(variable: Variable, axis: int, context: Context) -> int:
    """Length of an axis that the static type does not tell."""
    node = variable.owner
    for operand in node.inputs if node is not None else []:
        own = axis - (variable.type.ndim - operand.type.ndim)
        if own >= 0 and operand.type.shape[own] != 1:
            try:
                return context.lift(operand).shape[own]
            except Refusal:
                continue
    raise Refusal("the length of an axis of the log-density is not known")


def constant_factor(node, context: Context) -> tuple[Variable, float] | None:
    """The other operand and the number, if all operands but one are constant and the same everywhere."""
    numbers, others = [], []
    for i, operand in enumerate(node.inputs):
        try:
            value = context.lift(operand)
        except Refusal:
            value = None
        if value is not None and value.is_constant and not value.slots and value.data.size == 1:
            numbers.append((i, float(np.reshape(value.data, ()))))
        else:
            others.append((i, operand))
    if len(others) != 1 or not numbers:
        return None
    if isinstance(node.op.scalar_op, ps.TrueDiv):
        return None if others[0][0] != 0 else (others[0][1], 1.0 / numbers[0][1])
    return others[0][1], math.prod(n for _, n in numbers)
