"""Reverse-mode derivatives in which a zero cotangent stays zero, however steep the function is.

The branch of a switch that was not taken has cotangent 0, but 0 times an infinite slope is NaN, and so is 0 times
the slope of a function at infinity (a bound that is not there). Where a graph has switches or infinite constants,
its nonlinear elementwise operations get a pullback that leaves such entries at 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.tensor.elemwise import Elemwise

from pm_mlem.graph.ops.shield import LINEAR


class GuardedElemwise(Op):
    """An elementwise operation with a guarded pullback by its ``active`` inputs, constant in the others (JAX only)."""

    def __init__(self, op: Elemwise, active: tuple[bool, ...]):
        self.op, self.active = op, active

    def make_node(self, *inputs):
        node = self.op.make_node(*inputs)
        return Apply(self, list(node.inputs), [out.type() for out in node.outputs])

    def perform(self, node, inputs, output_storage):
        raise NotImplementedError


def guard(graph: FunctionGraph, smooth: Sequence[Variable]) -> None:
    """Replace the nonlinear elementwise operations of a graph that depend on its ``smooth`` inputs, in place."""
    depends = set(smooth)
    for node in list(graph.toposort()):
        active = tuple(v in depends for v in node.inputs)
        if not any(active):
            continue
        depends.update(v for v in node.outputs if getattr(v.type, "dtype", "").startswith("float"))
        op = node.op
        if not isinstance(op, Elemwise) or isinstance(op.scalar_op, LINEAR) or len(node.outputs) != 1:
            continue
        if node.outputs[0] not in depends:
            continue
        [new] = GuardedElemwise(op, active).make_node(*node.inputs).outputs
        graph.replace(node.outputs[0], new, reason="guard")
        depends.add(new)


def guarded(function, active: Sequence[bool]):
    """A function of broadcastable arrays whose pullback by the active ones maps zero to zero."""
    n = len(active)

    def merged(moving, still):
        moving, still = iter(moving), iter(still)
        return function(*[next(moving) if a else next(still) for a in active])

    @jax.custom_vjp
    def core(moving, still):
        return merged(moving, still)

    def pull(saved, cotangent):
        moving, still = saved
        _, pullback = jax.vjp(lambda m: merged(m, still), moving)
        [slopes] = pullback(jnp.ones_like(cotangent))
        # where the cotangent is 0 it may be on its way through 0: its own derivative passes, times a finite slope
        frozen = [jax.lax.stop_gradient(jnp.where(jnp.isfinite(s), s, 0.0)) for s in slopes]
        nothing = cotangent == 0
        found = [jnp.where(nothing, cotangent * f, cotangent * s) for f, s in zip(frozen, slopes, strict=True)]
        return found, [jnp.zeros_like(s) for s in still]

    core.defvjp(lambda moving, still: (merged(moving, still), (moving, still)), pull)

    def call(*args):
        arrays = jnp.broadcast_arrays(*[jnp.asarray(a, dtype=jnp.result_type(float)) for a in args])
        moving = [arrays[i] for i in range(n) if active[i]]
        still = [jax.lax.stop_gradient(arrays[i]) for i in range(n) if not active[i]]
        return core(moving, still)

    return call
