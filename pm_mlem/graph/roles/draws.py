"""What a draw of a distribution is made of."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pymc.distributions.distribution import SymbolicRandomVariable
from pytensor.graph.basic import Variable
from pytensor.graph.op import Op
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.op import RandomVariable

Distribution = RandomVariable | SymbolicRandomVariable


def support(rv: Variable, known: Collection[Variable]) -> tuple[int, int]:
    """How many axes a draw of a variable has, and along how many of them it is a sequence.

    The draws of a sequence are made of draws of fewer axes: a random walk of steps, a chain of states.

    Parameters
    ----------
    rv : a random variable
    known : the model's random variables; what they are made of is no part of this one's distribution
    """
    ndim = getattr(rv.owner.op, "ndim_supp", 0)
    if not ndim or not isinstance(rv.owner.op, SymbolicRandomVariable):
        return ndim, 0
    given = ancestors(rv.owner.inputs, blockers=[v for v in known if v is not rv])
    inside = [v.owner.op for v in given if v.owner is not None and v not in known]
    inside = [*inner_draws(rv.owner.op), *[op for op in inside if isinstance(op, Distribution)]]
    return ndim, ndim - max((op.ndim_supp for op in inside), default=ndim)


def inner_draws(op: Op) -> Iterator[Op]:
    """The distributions in the graph inside an operation."""
    graph = getattr(op, "fgraph", None)
    for node in graph.toposort() if graph is not None else ():
        if isinstance(node.op, Distribution):
            yield node.op
        else:
            yield from inner_draws(node.op)
