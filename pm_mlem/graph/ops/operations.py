"""Operations whose gradients stay finite where a log-density is minus infinity.

``log(0)`` is a legitimate value of a log-density table (an impossible state), yet the chain rule would turn
its infinite slope into NaN wherever that entry has no weight. The guarded operations return the usual values
with slope 0 at the singular point. They are Ops of this package: nothing is registered for, or changed in,
the Ops of PyTensor.
"""

from __future__ import annotations

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.scalar.math import Erfcx
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.variable import TensorVariable

from pm_mlem.graph.ops.recursion import Window, run_backward, run_forward


class GuardedLog(ps.Log):
    """Natural logarithm with derivative 0 at 0."""

    def impl(self, x):
        with np.errstate(divide="ignore", invalid="ignore"):
            return super().impl(x)

    def pullback(self, inputs, outputs, cotangents):
        [x], [g] = inputs, cotangents
        return [ps.switch(ps.eq(x, 0), 0.0, g / ps.switch(ps.eq(x, 0), 1.0, x))]


class GuardedLog1p(ps.Log1p):
    """``log(1 + x)`` with derivative 0 at -1."""

    def impl(self, x):
        with np.errstate(divide="ignore", invalid="ignore"):
            return super().impl(x)

    def pullback(self, inputs, outputs, cotangents):
        [x], [g] = inputs, cotangents
        return [ps.switch(ps.eq(x, -1), 0.0, g / (1.0 + ps.switch(ps.eq(x, -1), 0.0, x)))]


class GuardedErfcx(Erfcx):
    """Scaled complementary error function; a class of its own because JAX cannot differentiate its own twice."""


GUARDED = {
    ps.Log: Elemwise(GuardedLog(ps.upgrade_to_float, name="guarded_log")),
    ps.Log1p: Elemwise(GuardedLog1p(ps.upgrade_to_float, name="guarded_log1p")),
    Erfcx: Elemwise(GuardedErfcx(ps.upgrade_to_float_no_complex, name="guarded_erfcx")),
}
"""Elementwise Ops by the scalar Op that they replace."""


def guarded(op: Elemwise) -> Elemwise:
    """The guarded version of an elementwise Op, or the Op itself."""
    return GUARDED.get(type(op.scalar_op), op)


class LogSumExp(Op):
    """``log(sum(exp(x)))`` over one axis; -inf with gradient 0 where all entries are -inf."""

    __props__ = ("axis",)

    def __init__(self, axis: int):
        self.axis = axis

    def make_node(self, x):
        x = pt.as_tensor_variable(x)
        shape = tuple(n for d, n in enumerate(x.type.shape) if d != self.axis)
        return Apply(self, [x], [pt.tensor(dtype=x.type.dtype, shape=shape)])

    def perform(self, node, inputs, output_storage):
        [x] = inputs
        top = np.max(x, axis=self.axis, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        with np.errstate(divide="ignore"):
            total = np.log(np.sum(np.exp(x - top), axis=self.axis))
        output_storage[0][0] = np.asarray(total + np.squeeze(top, self.axis), dtype=x.dtype)

    def infer_shape(self, node, shapes):
        return [tuple(n for d, n in enumerate(shapes[0]) if d != self.axis)]

    def pullback(self, inputs, outputs, cotangents):
        [x], [out], [g] = inputs, outputs, cotangents
        out = pt.expand_dims(pt.switch(pt.isinf(out), 0.0, out), self.axis)
        return [pt.expand_dims(g, self.axis) * pt.exp(x - out)]


class WindowLogZ(Op):
    """Log-partition of chains: ``(lengths, *tables) -> (leading..., components)``.

    Tables have the axes ``(leading..., states of the views..., components, times)``, each of the last two of
    length 1 where the table does not change along it. See :mod:`pm_mlem.graph.ops.recursion`.
    """

    __props__ = ("window",)

    def __init__(self, window: Window):
        self.window = window

    def make_node(self, lengths, *tables):
        lengths = pt.as_tensor_variable(lengths)
        tables = [pt.as_tensor_variable(t) for t in tables]
        lead = self.window.leading
        shapes = [t.type.shape[:lead] for t in tables]
        leading = tuple(max(s[i] for s in shapes) for i in range(lead))
        return Apply(self, [lengths, *tables], [pt.tensor(dtype="float64", shape=(*leading, lengths.type.shape[0]))])

    def perform(self, node, inputs, output_storage):
        lengths, *tables = inputs
        output_storage[0][0] = np.asarray(run_forward(self.window, lengths, tables)[0])

    def infer_shape(self, node, shapes):
        lead = self.window.leading
        return [(*[pt.constant(n) for n in node.outputs[0].type.shape[:lead]], shapes[0][0])]

    def pullback(self, inputs, outputs, cotangents):
        node = WindowGradient(self.window).make_node(cotangents[0], *inputs)
        return [DisconnectedType()(), *node.outputs]

    def connection_pattern(self, node):
        return [[False], *[[True] for _ in node.inputs[1:]]]


class WindowGradient(Op):
    """``(cotangent, lengths, *tables) -> gradients`` of :class:`WindowLogZ` by its tables."""

    __props__ = ("window",)

    def __init__(self, window: Window):
        self.window = window

    def make_node(self, cotangent, lengths, *tables):
        tables = [pt.as_tensor_variable(t) for t in tables]
        return Apply(self, [cotangent, lengths, *tables], [t.type() for t in tables])

    def perform(self, node, inputs, output_storage):
        cotangent, lengths, *tables = inputs
        gradients = run_backward(self.window, lengths, tables, cotangent)
        for storage, gradient in zip(output_storage, gradients, strict=True):
            storage[0] = np.ascontiguousarray(gradient)

    def infer_shape(self, node, shapes):
        return shapes[2:]


def logsumexp(x: TensorVariable, axis: int) -> TensorVariable:
    """Guarded ``logsumexp`` over one axis."""
    return LogSumExp(axis)(x)
