"""Reshaping, joining and assigning: operations that put arrays together."""

from __future__ import annotations

import numpy as np
from pytensor.tensor.shape import Reshape

from pm_mlem.graph.lift.core import Lifted, as_lifted, lift_node, materialize
from pm_mlem.graph.lift.rules_elementwise import concrete


@lift_node.register(Reshape)
def _(op, node, inputs, context):
    value, target = inputs
    wanted = [int(n) for n in concrete(target, "a shape")]
    size = int(np.prod(value.shape, dtype=np.int64))
    if -1 in wanted:
        rest = int(np.prod([n for n in wanted if n != -1], dtype=np.int64))
        wanted[wanted.index(-1)] = size // max(rest, 1)
    return [reshape(value, tuple(wanted))]


def reshape(value: Lifted, shape: tuple[int, ...]) -> Lifted:
    """Row-major reshape of the data axes; the array stays virtual where it is virtual along all axes."""
    slots = [s.with_address(np.broadcast_to(s.address, value.shape).reshape(shape)) for s in value.slots]
    sizes = tuple(s.size for s in value.slots)
    if all(n == 1 for n in value.array_shape):
        array_shape = (1,) * len(shape)
    else:
        value, array_shape = materialize(value), shape
    array = value.data if value.is_constant else value.symbol
    return as_lifted(array.reshape(sizes + array_shape), shape, slots)
