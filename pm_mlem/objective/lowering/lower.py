"""From PyTensor graphs to JAX functions.

The interpreter has folded shapes and removed checks, so the graphs lower through PyTensor's own JAX linker
with no rewrites but stable forms (``stable.py``) and the merging of equal nodes. A graph with an Op that JAX lacks is
evaluated by a PyTensor-compiled function behind a callback instead (``callbacks.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from pytensor.graph.basic import Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import MergeOptimizer
from pytensor.scalar.basic import Add, Mul
from pytensor.tensor.elemwise import Elemwise

from pm_mlem.graph.ops.operations import GuardedErfcx, GuardedLog, GuardedLog1p, LogSumExp, WindowLogZ
from pm_mlem.graph.ops.semirings import Choice
from pm_mlem.graph.ops.shield import needs_guard
from pm_mlem.objective.lowering import kernels
from pm_mlem.objective.lowering.barriers import Barrier, place_barriers
from pm_mlem.objective.lowering.callbacks import callback
from pm_mlem.objective.lowering.dispatch import jax_funcify
from pm_mlem.objective.lowering.guarded import GuardedElemwise, guard, guarded
from pm_mlem.objective.lowering.stable import stabilize

Backend = str
Arrays = list[Any]


# --- lowering ---------------------------------------------------------------------------------------------


class NotLowered(Exception):
    """JAX has no implementation of an Op."""


def lower(
    inputs: Sequence[Variable],
    outputs: Sequence[Variable],
    backend: Backend = "jax",
    *,
    protect: Sequence[Variable] = (),
    infinite: bool = False,
) -> Callable[..., Arrays]:
    """A pure JAX function of the inputs that returns the list of outputs.

    Parameters
    ----------
    inputs, outputs : symbolic variables
    backend : {"jax", "numba", "c", "differences"}
        Who evaluates the graph: JAX itself, or a function compiled by PyTensor behind a callback. With "differences"
        no derivative is asked of PyTensor, either.
    protect : inputs
        Keep the gradient by them finite where a branch is not taken (see :mod:`pm_mlem.objective.lowering.guarded`);
        such a function can be differentiated forwards only over a reverse pass.
    infinite : bool
        Whether some input holds infinite constants.

    Raises
    ------
    NotLowered
        With ``backend="jax"``, an Op has no JAX implementation.
    """
    if not outputs:
        return lambda *args: []
    if backend == "jax":
        return lower_to_jax(inputs, outputs, protect, infinite)
    if backend == "differences":
        return callback(inputs, outputs, "numba", exact=0)
    return callback(inputs, outputs, backend)


def exact_derivatives(*functions: Callable) -> int:
    """How often lowered functions can be derived exactly (2: as often as anything asks for)."""
    return min((getattr(f, "exact", 2) for f in functions), default=2)


def lower_to_jax(
    inputs: Sequence[Variable], outputs: Sequence[Variable], protect: Sequence[Variable], infinite: bool
) -> Callable[..., Arrays]:
    graph = FunctionGraph(list(inputs), list(outputs), clone=True)
    drop_lone_terms(graph)
    stabilize(graph)
    MergeOptimizer().rewrite(graph)
    if protect and (infinite or needs_guard(graph)):
        guard(graph, [graph.inputs[list(inputs).index(v)] for v in protect])
    place_barriers(graph)
    try:
        with jax.ensure_compile_time_eval():  # constants stay constants where a function is lowered while it is traced
            run = jax_funcify(graph)
    except (NotImplementedError, ModuleNotFoundError) as error:
        raise NotLowered(str(error)) from error
    dtypes = [v.type.dtype for v in outputs]

    def call(*args):
        results = run(*args)
        if not isinstance(results, tuple | list):
            results = [results]
        return [jnp.asarray(r, dtype=d) for r, d in zip(results, dtypes, strict=True)]

    return call


def drop_lone_terms(graph: FunctionGraph) -> None:
    """Sums and products of a single term, as in autoregressions of lag 1, are that term: JAX wants two or more."""
    for node in graph.toposort():
        lone = isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, Add | Mul) and len(node.inputs) == 1
        if lone and node.inputs[0].type.dtype == node.outputs[0].type.dtype:
            graph.replace(node.outputs[0], node.inputs[0])


# --- JAX implementations of this package's own Ops --------------------------------------------------------


@jax_funcify.register(GuardedLog)
def _(op, **kwargs):
    return kernels.guarded_log


@jax_funcify.register(GuardedLog1p)
def _(op, **kwargs):
    return kernels.guarded_log1p


@jax_funcify.register(GuardedErfcx)
def _(op, **kwargs):
    return kernels.erfcx


@jax_funcify.register(Barrier)
def _(op, **kwargs):
    return jax.lax.optimization_barrier


@jax_funcify.register(LogSumExp)
def _(op, **kwargs):
    return lambda x: kernels.logsumexp(x, op.axis)


@jax_funcify.register(WindowLogZ)
def _(op, **kwargs):
    return kernels.window_log_z(op.window)


@jax_funcify.register(Choice)
def _(op, **kwargs):
    if isinstance(op.op, LogSumExp):
        kernel, axis = kernels.choice, op.op.axis
        if op.number is None:
            return lambda x: kernel(x, axis)
        return lambda x, key: kernel(x, axis, kernels.own_key(key, op.number))
    recursion = kernels.window_log_z(op.op.window, kernels.Choosing)
    if op.number is None:
        return recursion
    return lambda *args: recursion(*args[:-1], key=kernels.own_key(args[-1], op.number))


@jax_funcify.register(GuardedElemwise)
def _(op, node, **kwargs):
    plain = op.op.make_node(*node.inputs)
    return guarded(jax_funcify(op.op.scalar_op, node=plain, **kwargs), op.active)
