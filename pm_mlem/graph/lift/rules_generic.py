"""Rebuilding and folding: what happens to operations without a rule of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt
from pymc.data import MinibatchIndexRV
from pytensor.compile.ops import ViewOp
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.op import Op
from pytensor.graph.replace import _vectorize_node
from pytensor.graph.traversal import graph_inputs
from pytensor.scalar import ScalarType
from pytensor.tensor.basic import ScalarFromTensor, TensorFromScalar
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.shape import Shape, Shape_i, SpecifyShape
from pytensor.tensor.type import TensorType

from pm_mlem.graph.lift.core import (
    Context,
    Lifted,
    Refusal,
    align_symbol,
    broadcast_slots,
    constant,
    lift_node,
    materialize,
    operands,
)


def evaluate(node: Apply) -> list[np.ndarray]:
    """Outputs of a node with constant inputs, by the Op's Python implementation."""
    storage = {v: [v.data] for v in node.inputs} | {v: [None] for v in node.outputs}
    computed = {v: [v in node.inputs] for v in storage}
    try:
        thunk = node.op.make_thunk(node, storage, computed, no_recycling=[], impl="py")
        thunk()
    except NotImplementedError:
        thunk = node.op.make_thunk(node, storage, computed, no_recycling=[])
        thunk()
    return [np.asarray(storage[v][0]) for v in node.outputs]


def fold(op: Op, arrays: Sequence[Any], node: Apply) -> list[np.ndarray]:
    """Apply an Op to NumPy arrays."""
    return evaluate(op.make_node(*[as_constant(a, v) for a, v in zip(arrays, node.inputs, strict=True)]))


def as_constant(array: Any, like: Variable) -> Variable:
    if isinstance(array, Variable):
        return array
    if isinstance(like.type, ScalarType):
        return ps.constant(np.asarray(array)[()], dtype=like.type.dtype)
    return pt.constant(array, dtype=str(np.asarray(array).dtype))


def as_input(symbol: Variable, like: Variable) -> Variable:
    """Convert between 0-d tensors and scalars, so that a rebuilt node gets the type it expects."""
    if isinstance(like.type, ScalarType) and isinstance(symbol.type, TensorType):
        if isinstance(symbol, Constant):
            return ps.constant(symbol.data[()], dtype=like.type.dtype)
        return pt.scalar_from_tensor(symbol)
    if isinstance(like.type, TensorType) and isinstance(symbol.type, ScalarType):
        return pt.tensor_from_scalar(symbol)
    return symbol


def shapes_of(node: Apply, context: Context) -> list[tuple[int, ...]]:
    """The true shapes of the outputs of a rebuilt node; asks the Op where the static types do not tell."""
    static = [tuple(getattr(out.type, "shape", ())) for out in node.outputs]
    if not any(None in shape for shape in static):
        return static
    try:
        return infer_shapes(node)
    except Refusal:
        return seen_shapes(node, context)


def infer_shapes(node: Apply) -> list[tuple[int, ...]]:
    """Shapes of a node's outputs from the static shapes of its inputs."""
    from pytensor.compile.mode import Mode

    from pm_mlem.graph.ops.function import function

    known = [
        tuple(pt.constant(n, dtype="int64") for n in v.type.shape) if isinstance(v.type, TensorType) else ()
        for v in node.inputs
    ]
    try:
        symbolic = node.op.infer_shape(node, known)
        flat = [pt.as_tensor(n, dtype="int64") for shape in symbolic for n in (shape or ())]
        numbers = iter(function([], flat, mode=Mode("py", None))() if flat else [])
    except Exception as error:  # whatever an Op of the user's raises
        raise Refusal(f"the shape of the result of {node.op} is not known: {error}", node=node) from error
    return [tuple(int(next(numbers)) for _ in (shape or ())) for shape in symbolic]


def seen_shapes(node: Apply, context: Context) -> list[tuple[int, ...]]:
    """Shapes of a node's outputs where it is evaluated, at the model's initial point: not all Ops declare them."""
    from pytensor import function
    from pytensor.compile.mode import Mode

    roots = [v for v in graph_inputs(node.outputs) if not isinstance(v, Constant | SharedVariable)]
    known = {**{v: a for v, a in context.placeholders.values()}, **context.sample()}
    values = [known[v] if v in known else np.ones(v.type.shape, dtype=v.type.dtype) for v in roots]
    try:
        with np.errstate(all="ignore"):
            results = function(roots, list(node.outputs), mode=Mode("py", None), on_unused_input="ignore")(*values)
    except Exception as error:  # whatever an Op of the user's raises
        raise Refusal(
            f"the shape of the result of {node.op} is not known, and the Op cannot be evaluated at the initial point "
            f"({type(error).__name__}: {error}); give the Op the method infer_shape",
            node=node,
        ) from error
    return [np.shape(r) for r in results]


def with_shape(output: Variable, shape: tuple[int, ...]) -> Variable:
    """An output whose static type has its shape."""
    if not isinstance(output.type, TensorType) or None not in output.type.shape:
        return output
    return pt.specify_shape(output, shape)


@lift_node.register(Op)
def rebuild(op: Op, node: Apply, inputs: list[Lifted], context: Context) -> Sequence[Lifted]:
    """Apply an Op that has no rule: fold constants, rebuild what has no latent, vectorize over latents.

    A latent is allowed only where its addresses vary along no axis (one latent for the whole array), where
    its states are an ordinary batch dimension.
    """
    if isinstance(op, RandomVariable):
        if isinstance(op, MinibatchIndexRV):
            raise Refusal(
                "it reads a pm.Minibatch, another random part of the data at every evaluation",
                hint="Pass the data themselves (large data are worked through in chunks)",
            )
        raise Refusal("a random variable that is not registered in the model takes part in the log-density")
    slots, positions = [], [[] for _ in inputs]
    if any(v.slots for v in inputs):
        mixed = [s for v in inputs for s in v.slots if any(s.varies_along(d) for d in range(v.ndim))]
        if mixed:
            raise Refusal(
                f"no rule says how {type(op).__name__} acts on an array whose entries belong to different "
                "elements of a discrete latent",
                mixed=mixed,
            )
        slots, positions = broadcast_slots([scalar_view(v) for v in inputs], 0)
    full = [v if v.opaque else materialize(v) for v in inputs]
    if all(v.opaque or v.is_constant for v in full) and not slots:
        arrays = [v.symbol if v.opaque else v.data for v in full]
        return [constant(data, out) for data, out in zip(fold(op, arrays, node), node.outputs, strict=True)]
    if not slots:
        symbols = [
            v.symbol if v.opaque else as_input(context.symbol(v), old) for v, old in zip(full, node.inputs, strict=True)
        ]
        new = op.make_node(*symbols)
        shapes = shapes_of(new, context)
        return [Lifted(n, symbol=with_shape(out, n)) for n, out in zip(shapes, new.outputs, strict=True)]
    return vectorize(op, node, full, slots, positions, context)


def scalar_view(value: Lifted) -> Lifted:
    """Slots of a value whose addresses do not vary, as if the value were a scalar."""
    return Lifted((), tuple(s.with_address(s.address.reshape(())) for s in value.slots), data=np.zeros(()))


def vectorize(op, node, values, slots, positions, context) -> Sequence[Lifted]:
    symbols = []
    for value, position, old in zip(values, positions, node.inputs, strict=True):
        if value.opaque or not value.slots:
            symbols.append(value.symbol if value.opaque else as_input(context.symbol(value), old))
        else:
            symbols.append(align_symbol(value, position, len(slots), value.ndim, context))
    core = op.make_node(*[core_input(v, old) for v, old in zip(values, node.inputs, strict=True)])
    try:
        new = _vectorize_node(op, core, *symbols)
    except NotImplementedError as error:
        raise Refusal(f"{type(op).__name__} cannot be evaluated for every state of a latent: {error}") from error
    results = []
    shapes = shapes_of(core, context)
    for out, shape in zip(new.outputs if isinstance(new, Apply) else new, shapes, strict=True):
        lead = out.type.ndim - len(shape)
        if lead != len(slots):
            raise Refusal(f"{type(op).__name__} cannot be evaluated for every state of a latent")
        where = tuple(s.with_address(s.address.reshape((1,) * len(shape))) for s in slots)
        results.append(Lifted(shape, where, symbol=out))
    return results


def core_input(value: Lifted, old: Variable) -> Variable:
    """A stand-in for one input without the slot axes."""
    if value.opaque or not isinstance(old.type, TensorType):
        return value.symbol if value.opaque else old
    dtype = str(value.data.dtype) if value.data is not None else value.symbol.type.dtype
    if value.data is not None and not value.slots:
        return pt.constant(value.data, dtype=dtype)
    return pt.tensor(dtype=dtype, shape=value.shape)


# --- operations that only look at shapes or pass values on ------------------------------------------------


@operands.register(Shape)
@operands.register(Shape_i)
def _(op, node):
    return [] if None not in node.inputs[0].type.shape else node.inputs


@lift_node.register(Shape)
def _(op, node, inputs, context):
    shape = node.inputs[0].type.shape if inputs[0] is None else inputs[0].shape
    return [constant(np.array(shape, dtype="int64"))]


@lift_node.register(Shape_i)
def _(op, node, inputs, context):
    shape = node.inputs[0].type.shape if inputs[0] is None else inputs[0].shape
    return [constant(np.array(shape[op.i], dtype="int64"))]


@operands.register(SpecifyShape)
def _(op, node):
    return node.inputs[:1]


@lift_node.register(SpecifyShape)
@lift_node.register(ViewOp)
@lift_node.register(ScalarFromTensor)
@lift_node.register(TensorFromScalar)
def _(op, node, inputs, context):
    return [inputs[0]]
