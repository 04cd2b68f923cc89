"""Large graphs are compiled in pieces.

XLA fuses an element-wise expression into everything that reads it. Where a sum of a hundred terms has a hundred
derivatives, each of them repeats the sum, and what is compiled grows with the square of the model. A barrier ends an
expression once it has some size: its value is computed once, and what reads it begins anew.
"""

from __future__ import annotations

from pytensor.graph.basic import Apply, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.tensor.type import TensorType

MANY_NODES = 200
"""Graphs up to this size are left alone: XLA copes with them, and without barriers they run fastest."""
LARGEST_PIECE = 32
"""Nodes of an expression after which there is a barrier."""


class Barrier(Op):
    """The identity, which XLA does not look through."""

    __props__ = ()

    def make_node(self, x):
        return Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = inputs[0]

    def infer_shape(self, node, shapes):
        return shapes


def place_barriers(graph: FunctionGraph) -> None:
    """Put barriers into a large graph, so that no expression between them is large."""
    if len(graph.apply_nodes) <= MANY_NODES:
        return
    pieces: dict[Variable, set[Apply]] = {}
    for node in graph.toposort():
        piece = {node}.union(*[pieces.get(v, ()) for v in node.inputs])
        ends = len(piece) >= LARGEST_PIECE
        for output in node.outputs:
            pieces[output] = set() if ends else piece
            if ends and isinstance(output.type, TensorType) and output.type.dtype.startswith("float"):
                read_through(graph, output, Barrier()(output))


def read_through(graph: FunctionGraph, variable: Variable, ended: Variable) -> None:
    """Let everything that reads a variable read another one that is made of it."""
    for client, position in list(graph.clients[variable]):
        graph.change_node_input(client, position, ended, reason="barrier")
