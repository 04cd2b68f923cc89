"""Graphs of log-densities for PyTensor's own gradients and backends.

The branch of a switch that was not taken has cotangent 0, but 0 times an infinite slope is NaN, and so is 0 times
the slope of a function at infinity (a bound that is not there). Elementwise operations are therefore replaced by ones
in which a zero cotangent stays zero, however steep the function is. Sums over states become ordinary expressions,
which every backend compiles.
"""

from __future__ import annotations

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.gradient import disconnected_grad
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.tensor.elemwise import Elemwise

from pm_mlem.graph.ops.operations import GUARDED, LogSumExp

LINEAR = (ps.Add, ps.Sub, ps.Neg, ps.Switch, ps.Identity, ps.Cast, ps.Second)
"""Operations whose slopes are finite everywhere."""


class ShieldedElemwise(Elemwise):
    """An elementwise operation with a pullback that maps zero to zero."""

    def _bgrad(self, inputs, outputs, ograds):
        [cotangent] = ograds
        slopes = super()._bgrad(inputs, outputs, ograds)
        return [s if not hasattr(s.type, "dtype") else shielded(s, cotangent) for s in slopes]


def shielded(slope: Variable, cotangent: Variable) -> Variable:
    """0 for a cotangent of 0 times an infinite slope; a finite one stays, as the cotangent may be passing through 0."""
    bad = pt.eq(cotangent, 0) & (pt.isnan(slope) | pt.isinf(slope))
    return pt.switch(bad, 0.0, slope)


def shield(outputs: list[Variable]) -> list[Variable]:
    """The same graphs with shielded operations (where they have switches or infinite constants) and plain sums."""
    graph = FunctionGraph(outputs=outputs, clone=True, copy_inputs=False, copy_orphans=False)
    if needs_guard(graph):
        for node in nonlinear(graph):
            op = ShieldedElemwise(node.op.scalar_op, node.op.inplace_pattern, name=node.op.name)
            graph.replace(node.outputs[0], op(*node.inputs), reason="shield")
    for node in graph.toposort():
        if isinstance(node.op, LogSumExp):
            graph.replace(node.outputs[0], plain_logsumexp(node.inputs[0], node.op.axis), reason="plain sum")
    return graph.outputs


def plain_logsumexp(x: Variable, axis: int) -> Variable:
    """``log(sum(exp(x)))`` over one axis; -inf with gradient 0 where all entries are -inf."""
    top = pt.max(x, axis=axis, keepdims=True)
    top = disconnected_grad(pt.switch(pt.isinf(top), 0.0, top))
    return GUARDED[ps.Log](pt.sum(pt.exp(x - top), axis=axis)) + pt.squeeze(top, axis=axis)


def needs_guard(graph: FunctionGraph) -> bool:
    """Whether there are branches that may not be taken, or infinite constants."""
    for node in graph.apply_nodes:
        if isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, ps.Switch):
            return True
    return any(isinstance(v, Constant) and has_infinity(v.data) for v in graph.variables)


def has_infinity(data) -> bool:
    return isinstance(data, np.ndarray) and data.dtype.kind == "f" and bool(np.isinf(data).any())


def nonlinear(graph: FunctionGraph) -> list[Apply]:
    """Elementwise operations whose slope may be infinite."""
    return [
        node
        for node in graph.toposort()
        if isinstance(node.op, Elemwise)
        and not isinstance(node.op.scalar_op, LINEAR)
        and len(node.outputs) == 1
        and node.outputs[0].type.dtype.startswith("float")
        and any(v.type.dtype.startswith("float") for v in node.inputs)
    ]
