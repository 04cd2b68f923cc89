"""Reverse-mode derivatives in which a zero cotangent stays zero, however steep the function is.

The branch of a switch that was not taken has cotangent 0, but 0 times an infinite slope is NaN, and so is 0 times
the slope of a function at infinity (a bound that is not there). Where a graph has switches or infinite constants,
its nonlinear elementwise operations get a pullback that leaves such entries at 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytensor.scalar as ps
from pytensor.graph.basic import Apply, Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.tensor.elemwise import Elemwise

LINEAR = (ps.Add, ps.Sub, ps.Neg, ps.Switch, ps.Identity, ps.Cast, ps.Second)
"""Operations whose slopes are finite everywhere."""


class GuardedElemwise(Op):
    """An elementwise operation with a guarded pullback (JAX only)."""

    def __init__(self, op: Elemwise):
        self.op = op

    def make_node(self, *inputs):
        node = self.op.make_node(*inputs)
        return Apply(self, list(node.inputs), [out.type() for out in node.outputs])

    def perform(self, node, inputs, output_storage):
        raise NotImplementedError


def needs_guard(graph: FunctionGraph) -> bool:
    """Whether there are branches that may not be taken, or infinite constants."""
    for node in graph.apply_nodes:
        if isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, ps.Switch):
            return True
    return any(isinstance(v, Constant) and has_infinity(v.data) for v in graph.variables)


def has_infinity(data) -> bool:
    return isinstance(data, np.ndarray) and data.dtype.kind == "f" and bool(np.isinf(data).any())


def guard(graph: FunctionGraph) -> None:
    """Replace the nonlinear elementwise operations of a graph in place."""
    for node in list(graph.toposort()):
        op = node.op
        if not isinstance(op, Elemwise) or isinstance(op.scalar_op, LINEAR) or len(node.outputs) != 1:
            continue
        if not all(v.type.dtype.startswith("float") for v in node.outputs):
            continue
        if not any(v.type.dtype.startswith("float") for v in node.inputs):
            continue
        graph.replace(node.outputs[0], GuardedElemwise(op)(*node.inputs), reason="guard")


def guarded(function):
    """A function of broadcastable arrays whose pullback maps zero to zero."""

    @jax.custom_vjp
    def core(*args):
        return function(*args)

    def pull(args, cotangent):
        _, pullback = jax.vjp(function, *args)
        return tuple(jnp.where(cotangent == 0, 0.0, c) for c in pullback(cotangent))

    core.defvjp(lambda *args: (function(*args), args), pull)

    def call(*args):
        floats = [jnp.asarray(a, dtype=jnp.result_type(float)) for a in args]
        return core(*jnp.broadcast_arrays(*floats))

    return call
