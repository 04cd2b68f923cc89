"""Operations that are defined by an inner graph: the graph is lifted in their place."""

from __future__ import annotations

import numpy as np
from pytensor.compile.builders import OpFromGraph
from pytensor.tensor.special import LogSoftmax, Softmax, log_softmax, softmax

from pm_mlem.graph.lift.core import Context, as_lifted, lift_node, materialize
from pm_mlem.graph.lift.rules_elementwise import refuse_mixing


@lift_node.register(OpFromGraph)
def _(op, node, inputs, context):
    inner = Context(
        dict(zip(op.inner_inputs, inputs, strict=True)), context.placeholders, context.guards, context.missing,
        sample=context.sample,
    )  # fmt: skip
    return [inner.lift(output) for output in op.inner_outputs]


@lift_node.register(Softmax)
@lift_node.register(LogSoftmax)
def _(op, node, inputs, context):
    [value] = inputs
    axes = range(value.ndim) if op.axis is None else np.atleast_1d(op.axis).tolist()
    axes = tuple(d % value.ndim for d in axes)
    refuse_mixing(value, axes, op)
    value = materialize(value, axes)
    apply = softmax if isinstance(op, Softmax) else log_softmax
    own = len(value.slots)
    result = apply(context.symbol(value), axis=tuple(own + d for d in axes))
    return [as_lifted(result, value.shape, value.slots)]
