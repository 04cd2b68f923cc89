"""Additive parts of a log-density, for densities whose entries mix elements of a latent.

A chain's log-density is one number: the sum of its transitions. The parts under such sums, element by element,
are what tables can hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Part:
    """A summand: its array, a number, and variables of size one that multiply (or divide) it."""

    variable: Variable
    factor: float = 1.0
    times: tuple[Variable, ...] = ()
    over: tuple[Variable, ...] = ()

    def of(self, variable: Variable, factor: float = 1.0) -> Part:
        return replace(self, variable=variable, factor=self.factor * factor)


def lift_parts(density: Variable, context: Context) -> list[Lifted]:
    """Lifted arrays whose entries add up to the log-density: itself if it can be lifted, its parts otherwise."""
    try:
        whole = context.lift(density)
    except Refusal as refusal:
        try:
            parts = list(additive_parts(density, context))
            if len(parts) == 1 and parts[0].variable is density:
                raise refusal
            return [lift_part(part, context) for part in parts]
        except Refusal:
            raise refusal from None
    if len(whole.slots) <= 2:
        return [whole]
    try:
        parts = [lift_part(part, context) for part in additive_parts(density, context)]
    except Refusal:
        return [whole]
    return parts if max(len(p.slots) for p in parts) < len(whole.slots) else [whole]


def lift_part(part: Part, context: Context) -> Lifted:
    value = context.lift(part.variable)
    if not part.times and not part.over:
        if part.factor == 1:
            return value
        if value.is_constant:
            return as_lifted(value.data * part.factor, value.shape, value.slots)
    array = context.symbol(value)
    for variable in part.times:
        array = array * scalar(variable, context)
    for variable in part.over:
        array = array / scalar(variable, context)
    return as_lifted(array if part.factor == 1 else array * part.factor, value.shape, value.slots)


def scalar(variable: Variable, context: Context) -> Variable:
    """A factor of size one without latents."""
    value = context.lift(variable)
    if value.slots or math.prod(value.shape) != 1:
        raise Refusal("a sum over elements of a latent is multiplied by something that depends on a latent")
    return context.symbol(value).reshape(())


def additive_parts(density: Variable, context: Context) -> Iterator[Part]:
    """Summands such that the sum of all entries of ``density`` is the sum of all their entries."""
    stack = [Part(density)]
    while stack:
        part = stack.pop()
        node = part.variable.owner
        op = node and node.op
        if isinstance(op, CheckParameterValue):
            collect_guards(node, context)
            stack.append(part.of(node.inputs[0]))
        elif isinstance(op, Sum | DimShuffle | ViewOp | ScalarFromTensor | TensorFromScalar | SpecifyShape | Reshape):
            stack.append(part.of(node.inputs[0]))  # the sum over all entries stays the same
        elif isinstance(op, Alloc):
            stack.append(part.of(node.inputs[0], repeats(node.inputs[0], part.variable, context)))
        elif isinstance(op, Elemwise) and isinstance(op.scalar_op, ps.Add | ps.Sub | ps.Neg):
            minus = isinstance(op.scalar_op, ps.Sub | ps.Neg)
            for i, operand in reversed(list(enumerate(node.inputs))):
                sign = -1.0 if minus and (i == 1 or len(node.inputs) == 1) else 1.0
                stack.append(part.of(operand, sign * repeats(operand, part.variable, context)))
        elif isinstance(op, Elemwise) and isinstance(op.scalar_op, ps.Mul | ps.TrueDiv):
            inner = distribute(part, context)
            if inner is None:
                yield part
            else:
                stack.append(inner)
        else:
            yield part


def distribute(part: Part, context: Context) -> Part | None:
    """Move factors of size one out of a product or quotient, if that leaves one operand."""
    node = part.variable.owner
    small = [i for i, v in enumerate(node.inputs) if all(n == 1 for n in v.type.shape) and liftable(v, context)]
    large = [i for i in range(len(node.inputs)) if i not in small]
    quotient = isinstance(node.op.scalar_op, ps.TrueDiv)
    if len(large) != 1 or (quotient and large[0] != 0):
        return None
    operands = tuple(node.inputs[i] for i in small)
    moved = part.of(node.inputs[large[0]], repeats(node.inputs[large[0]], part.variable, context))
    if quotient:
        return replace(moved, over=(*part.over, *operands))
    return replace(moved, times=(*part.times, *operands))


def liftable(variable: Variable, context: Context) -> bool:
    try:
        return not context.lift(variable).slots
    except Refusal:
        return False


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
