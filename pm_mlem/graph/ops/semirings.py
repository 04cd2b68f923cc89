"""The sum over the latents with one configuration in place of all of them.

The derivative of the log-partition with respect to a log-density array is the posterior probability of its entries.
Where every sum over states lets its derivative pass to one state only, the derivatives are the indicator of one
configuration of all latents instead:

- "max": sums become maxima; the derivative passes to the first state that attains the maximum. The configuration is
  the jointly most probable one (max-product; the algorithm of Viterbi on chains).
- "sample": sums stay what they are; the derivative passes to a state drawn with its conditional probability. The
  configuration is an exact draw from the joint posterior (forward filtering, backward sampling).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op

from pm_mlem.graph.ops.operations import LogSumExp, WindowLogZ

Semiring = Literal["max", "sample"]


class Choice(Op):
    """A sum over states whose derivative passes to one state (JAX only; see :mod:`pm_mlem.objective.lowering.kernels`).

    Parameters
    ----------
    op : the sum
    number : which of all sums it is, so that each draws from random numbers of its own; None for the maximum. A draw
        takes the data of a random key as its last input.
    """

    __props__ = ("op", "number")

    def __init__(self, op: LogSumExp | WindowLogZ, number: int | None):
        self.op, self.number = op, number

    def make_node(self, *inputs):
        own = inputs if self.number is None else inputs[:-1]
        return Apply(self, list(inputs), [v.type() for v in self.op.make_node(*own).outputs])

    def perform(self, node, inputs, output_storage):
        raise NotImplementedError


def choosing(
    inputs: Sequence[Variable], outputs: Sequence[Variable], semiring: Semiring
) -> tuple[list[Variable], list[Variable]]:
    """A graph in which every sum over states chooses one; "sample" adds the data of a random key to its inputs."""
    graph = FunctionGraph(list(inputs), list(outputs), clone=True)
    key = pt.tensor("key", dtype="uint32", shape=(2,))
    if semiring == "sample":
        graph.add_input(key)
    for number, node in enumerate(list(graph.toposort())):
        if isinstance(node.op, LogSumExp | WindowLogZ):
            op = Choice(node.op, number if semiring == "sample" else None)
            [new] = op.make_node(*node.inputs, *([key] if semiring == "sample" else [])).outputs
            graph.replace(node.outputs[0], new, reason="choosing")
    return list(graph.inputs), list(graph.outputs)
