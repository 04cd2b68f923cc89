"""From PyTensor graphs to JAX functions.

The interpreter has folded shapes and removed checks, so the graphs lower through PyTensor's own JAX linker
with no rewrites but the merging of equal nodes. A graph with an Op that JAX lacks is evaluated by a
PyTensor-compiled function behind a callback instead: slower, but with exact first and second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import MergeOptimizer
from pytensor.link.jax.dispatch import jax_funcify
from pytensor.scalar.basic import Add, Mul
from pytensor.tensor.elemwise import Elemwise

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.ops.operations import GuardedErfcx, GuardedLog, GuardedLog1p, LogSumExp, WindowLogZ
from pm_mlem.graph.ops.semirings import Choice
from pm_mlem.graph.ops.shield import needs_guard
from pm_mlem.objective.lowering import kernels
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
    backend : {"jax", "numba", "c"}
        Who evaluates the graph: JAX itself, or a function compiled by PyTensor behind a callback.
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
    return callback(inputs, outputs, backend)


def lower_to_jax(
    inputs: Sequence[Variable], outputs: Sequence[Variable], protect: Sequence[Variable], infinite: bool
) -> Callable[..., Arrays]:
    graph = FunctionGraph(list(inputs), list(outputs), clone=True)
    drop_lone_terms(graph)
    stabilize(graph)
    MergeOptimizer().rewrite(graph)
    if protect and (infinite or needs_guard(graph)):
        guard(graph, [graph.inputs[list(inputs).index(v)] for v in protect])
    try:
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


# --- callbacks --------------------------------------------------------------------------------------------


def compile_mode(backend: Backend) -> str:
    return {"numba": "NUMBA", "c": "CVM"}[backend]


class Compiled:
    """A PyTensor function compiled at its first call."""

    def __init__(self, inputs: Sequence[Variable], outputs: Sequence[Variable], backend: Backend):
        self.inputs, self.outputs, self.backend = list(inputs), list(outputs), backend
        self.function = None

    def __call__(self, *args):
        if self.function is None:
            self.function = pytensor.function(
                self.inputs, self.outputs, mode=compile_mode(self.backend), on_unused_input="ignore"
            )
        args = [np.asarray(a, dtype=v.type.dtype) for a, v in zip(args, self.inputs, strict=True)]
        return [np.asarray(r, dtype=v.type.dtype) for r, v in zip(self.function(*args), self.outputs, strict=True)]


def callback(inputs: Sequence[Variable], outputs: Sequence[Variable], backend: Backend, order: int = 2):
    """A JAX function that calls PyTensor, differentiable ``order`` times by reverse mode."""
    shapes = [jax.ShapeDtypeStruct(v.type.shape, v.type.dtype) for v in outputs]
    evaluate = Compiled(inputs, outputs, backend)

    def plain(*args):
        return list(jax.pure_callback(evaluate, shapes, *args, vmap_method="sequential"))

    if order == 0:
        return plain
    smooth = [i for i, v in enumerate(outputs) if v.type.dtype.startswith("float")]
    wanted = [i for i, v in enumerate(inputs) if v.type.dtype.startswith("float")]
    weights = [pt.tensor(f"cotangent_{i}", dtype=outputs[i].type.dtype, shape=outputs[i].type.shape) for i in smooth]
    total = pt.add(pt.constant(0.0), *[(w * outputs[i]).sum() for i, w in zip(smooth, weights, strict=True)])
    try:
        gradients = pt.grad(total, [inputs[i] for i in wanted], disconnected_inputs="ignore") if wanted else []
    except NotImplementedError as error:
        raise UnsupportedModelError(
            f"The model contains an operation that JAX lacks and that has no derivative ({error}). Give the Op a "
            "pullback, or write the expression with differentiable operations."
        ) from error
    gradients = [pt.specify_shape(g, inputs[i].type.shape) for i, g in zip(wanted, gradients, strict=True)]
    pullback = callback([*inputs, *weights], gradients, backend, order - 1) if smooth else None

    @jax.custom_vjp
    def call(*args):
        return plain(*args)

    def forward(*args):
        return call(*args), args  # itself differentiable, for second derivatives

    def backward(args, cotangents):
        if pullback is None:
            results = [jnp.zeros(inputs[i].type.shape, inputs[i].type.dtype) for i in wanted]
        else:
            results = pullback(*args, *[cotangents[i] for i in smooth])
        found = dict(zip(wanted, results, strict=True))
        return tuple(
            found[i] if i in found else np.zeros(v.type.shape, dtype=jax.dtypes.float0) for i, v in enumerate(inputs)
        )

    call.defvjp(forward, backward)
    return call


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
