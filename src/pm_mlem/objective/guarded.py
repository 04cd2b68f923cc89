"""Reverse-mode derivatives in which a zero cotangent stays zero, however steep the function is.

The branch of a switch that was not taken has cotangent 0, but 0 times an infinite slope is NaN, and so is 0 times
the slope of a function at infinity (a bound that is not there). Where a graph has switches or infinite constants,
its nonlinear elementwise operations get a pullback that leaves such entries at 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from pytensor.graph.basic import Apply
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.tensor.elemwise import Elemwise

from pm_mlem.graph.shield import nonlinear


class GuardedElemwise(Op):
    """An elementwise operation with a guarded pullback (JAX only)."""

    def __init__(self, op: Elemwise):
        self.op = op

    def make_node(self, *inputs):
        node = self.op.make_node(*inputs)
        return Apply(self, list(node.inputs), [out.type() for out in node.outputs])

    def perform(self, node, inputs, output_storage):
        raise NotImplementedError


def guard(graph: FunctionGraph) -> None:
    """Replace the nonlinear elementwise operations of a graph in place."""
    for node in nonlinear(graph):
        graph.replace(node.outputs[0], GuardedElemwise(node.op)(*node.inputs), reason="guard")


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
