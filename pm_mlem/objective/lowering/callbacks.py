"""Graphs that JAX cannot evaluate, behind a callback: values by PyTensor, with first and second derivatives.

Derivatives are PyTensor's own where its Ops have them. What is missing is formed by central differences: second
derivatives by those of the gradient, along the direction that is asked for, and gradients by those of the values. A
step is as long as it takes for the curvature to show in the values (:func:`step_along`), whatever the units of the
parameters are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytensor.tensor as pt
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable

from pm_mlem.graph.lift.core import is_data
from pm_mlem.graph.ops.function import Compiled
from pm_mlem.graph.ops.shield import shield

Arrays = list[np.ndarray]
VISIBLE = {1: 1e-10, 2: 1e-6}
"""How far values bend along a step, relative to their size: where gradients are differenced, and where values are.

At 1e-10 the errors of rounding and of the third derivative are about equal for a central difference of exact values;
differences of differences, which are less exact, take longer steps.
"""
TRIES = 12


class Typed:
    """A PyTensor function of arrays, with the types of its variables; by the Python linker where a compiler fails."""

    def __init__(self, inputs: Sequence[Variable], outputs: Sequence[Variable], backend: str):
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.run = Compiled(inputs, outputs, {"c": "CVM"}.get(backend, "NUMBA"), Mode("py", "fast_run"))

    def __call__(self, *args) -> Arrays:
        args = [np.asarray(a, dtype=v.type.dtype) for a, v in zip(args, self.inputs, strict=True)]
        return [np.asarray(r, dtype=v.type.dtype) for r, v in zip(self.run(*args), self.outputs, strict=True)]


def callback(
    inputs: Sequence[Variable], outputs: Sequence[Variable], backend: str, exact: int = 2
) -> Callable[..., list]:
    """A JAX function that calls PyTensor, differentiable twice by reverse mode, by the inputs that are no data.

    Its attribute ``exact`` says how often it has exact derivatives; those of higher order are differences.

    Parameters
    ----------
    inputs, outputs : symbolic variables
    backend : {"numba", "c"}
    exact : how many derivatives may be asked of the Ops
    """
    smooth = [i for i, v in enumerate(outputs) if v.type.dtype.startswith("float")]
    wanted = [i for i, v in enumerate(inputs) if v.type.dtype.startswith("float") and not is_data(v)]
    values = Typed(inputs, outputs, backend)
    shapes = specs(outputs)
    if not smooth or not wanted:
        return constant(values, shapes, inputs)
    weights = [outputs[i].type(f"cotangent_{i}") for i in smooth]
    variables = [*inputs, *weights]
    slopes = gradients(outputs, smooth, weights, inputs, wanted) if exact > 0 else None
    first = Differences(values, smooth, wanted) if slopes is None else Typed(variables, slopes, backend)
    moving = [*wanted, *range(len(inputs), len(variables))]
    curved = None
    if slopes is not None and exact > 1:
        seconds = [v.type(f"cotangent_of_{v.name}") for v in (inputs[i] for i in wanted)]
        curved = gradients(slopes, list(range(len(slopes))), seconds, variables, moving)
    if curved is None:
        order = 1 if slopes is not None else 2
        second: Callable = Directional(values, first, smooth, wanted, len(inputs), order)
    else:
        second = Typed([*variables, *seconds], curved, backend)
    own = [jax.ShapeDtypeStruct(inputs[i].type.shape, "float64") for i in wanted]
    cotangents = [jax.ShapeDtypeStruct(v.type.shape, "float64") for v in weights]
    bend = called(second, [*own, *cotangents])
    slope = derivable(called(first, own), variables, moving, lambda args, given: bend(*args, *given))
    call = derivable(
        called(values, shapes), inputs, wanted, lambda args, given: slope(*args, *[given[i] for i in smooth])
    )
    call.exact = 0 if slopes is None else 1 if curved is None else 2
    return call


def specs(outputs: Sequence[Variable]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(v.type.shape, v.type.dtype) for v in outputs]


def called(run: Callable[..., Arrays], shapes: Sequence[jax.ShapeDtypeStruct]) -> Callable[..., list]:
    """A NumPy function as one of JAX, without derivatives.

    Numbers of 64 bits cross as pairs of 32 bits: JAX calls back from a thread of its own, where it would round them to
    what the user's switch for 64 bits says.
    """
    halves = [jax.ShapeDtypeStruct((*s.shape, 2), "uint32") if is_wide(s.dtype) else s for s in shapes]

    def call(*args):
        arrays = [jnp.asarray(a) for a in args]
        dtypes = [a.dtype for a in arrays]

        def evaluate(*given):
            results = run(*[whole(np.asarray(a), dtype) for a, dtype in zip(given, dtypes, strict=True)])
            return [halved(np.asarray(r, dtype=s.dtype)) for r, s in zip(results, shapes, strict=True)]

        sent = [jax.lax.bitcast_convert_type(a, jnp.uint32) if is_wide(a.dtype) else a for a in arrays]
        results = jax.pure_callback(evaluate, halves, *sent, vmap_method="sequential")
        return [
            jax.lax.bitcast_convert_type(r, s.dtype) if is_wide(s.dtype) else r
            for r, s in zip(results, shapes, strict=True)
        ]

    return call


def is_wide(dtype) -> bool:
    return np.dtype(dtype).itemsize == 8


def whole(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers of 64 bits from their halves, others as they are."""
    return np.array(array, order="C").view(dtype)[..., 0] if is_wide(dtype) else array


def halved(array: np.ndarray) -> np.ndarray:
    """The halves of numbers of 64 bits along a new last axis, other numbers as they are."""
    return np.array(array, order="C")[..., None].view(np.uint32) if is_wide(array.dtype) else array


def derivable(run: Callable[..., list], inputs: Sequence[Variable], wanted: Sequence[int], pullback: Callable):
    """A JAX function with a pullback ``(arguments, cotangents) -> cotangents of the wanted ones``."""

    @jax.custom_vjp
    def call(*args):
        return run(*args)

    def forward(*args):
        return call(*args), args  # itself differentiable, for second derivatives

    def backward(args, cotangents):
        found = dict(zip(wanted, pullback(args, cotangents), strict=True))
        return tuple(found[i] if i in found else zero(v) for i, v in enumerate(inputs))

    call.defvjp(forward, backward)
    return call


def constant(run: Typed, shapes: Sequence[jax.ShapeDtypeStruct], inputs: Sequence[Variable]):
    """A function of whose derivatives nothing is asked, or that has none."""
    call = derivable(called(run, shapes), inputs, [], lambda args, given: [])
    call.exact = 2
    return call


def zero(variable: Variable):
    """The cotangent of an input that nothing is derived by."""
    if variable.type.dtype.startswith("float"):
        return jnp.zeros(variable.type.shape, variable.type.dtype)
    return np.zeros(variable.type.shape, dtype=jax.dtypes.float0)


def gradients(
    outputs: Sequence[Variable],
    smooth: Sequence[int],
    weights: Sequence[Variable],
    inputs: Sequence[Variable],
    wanted: Sequence[int],
) -> list[Variable] | None:
    """Derivatives of the weighted sum of the outputs by the wanted inputs; None where an Op has none."""
    shielded = shield([outputs[i] for i in smooth])
    total = pt.add(pt.constant(0.0), *[(w * v).sum() for w, v in zip(weights, shielded, strict=True)])
    chosen = [inputs[i] for i in wanted]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ops whose gradients have an old name
        try:
            found = pt.grad(total, chosen, disconnected_inputs="ignore", null_gradients="raise")
        except Exception:  # whatever the Ops of a user raise where a gradient is not written
            return None
    return [pt.specify_shape(g, v.type.shape).astype("float64") for g, v in zip(found, chosen, strict=True)]


# --- differences ----------------------------------------------------------------------------------------------


class Differences:
    """Gradients by central differences of the values: ``(*inputs, *weights) -> list`` by the wanted inputs."""

    def __init__(self, values: Typed, smooth: Sequence[int], wanted: Sequence[int]):
        self.values, self.smooth, self.wanted = values, smooth, wanted
        self.steps: dict[tuple[int, int], float] = {}

    def __call__(self, *args) -> Arrays:
        n = len(self.values.inputs)
        args, weights = [np.asarray(a) for a in args[:n]], [np.asarray(w) for w in args[n:]]
        centre = [self.values(*args)[i] for i in self.smooth]
        results = []
        for i in self.wanted:
            slope = np.zeros(args[i].size)
            for entry in range(args[i].size):
                direction = np.zeros(args[i].size)
                direction[entry] = 1.0
                moved = {i: direction.reshape(args[i].shape)}
                start = self.steps.get((i, entry), 1e-4 * (abs(float(args[i].flat[entry])) or 1.0))
                step, ends = step_along(self.at(args, moved), centre, start, VISIBLE[1])
                self.steps[i, entry] = step
                slope[entry] = sum(np.sum(w * (a - b)) for w, a, b in zip(weights, *ends, strict=True)) / (2 * step)
            results.append(slope.reshape(args[i].shape))
        return results

    def at(self, args: Arrays, moved: dict[int, np.ndarray]) -> Callable[[float], Arrays]:
        def evaluate(step):
            results = self.values(*shifted(args, moved, step))
            return [results[i] for i in self.smooth]

        return evaluate


class Directional:
    """The derivative of a pullback along cotangents: ``(*inputs, *weights, *cotangents) -> [by inputs, by weights]``.

    For a pullback ``J(x)' w`` and a cotangent c these are the derivatives of ``w' f`` and of ``f`` along c, so two
    evaluations are enough, whatever the number of inputs.
    """

    def __init__(self, values, first, smooth, wanted, n_inputs: int, order: int):
        self.values, self.first, self.smooth, self.wanted, self.n = values, first, smooth, wanted, n_inputs
        self.visible = VISIBLE[order]

    def __call__(self, *args) -> Arrays:
        m = self.n + len(self.smooth)
        args = [np.asarray(a) for a in args]
        inputs, weights, along = args[: self.n], args[self.n : m], args[m:]
        moved = dict(zip(self.wanted, along, strict=True))
        size = max((float(np.max(np.abs(c), initial=0.0)) for c in along), default=0.0)
        if size == 0.0 or not np.isfinite(size):
            fill = 0.0 if size == 0.0 else np.nan
            return [np.full(a.shape, fill) for a in [*[inputs[i] for i in self.wanted], *weights]]
        centre = [self.values(*inputs)[i] for i in self.smooth]

        def at(step):
            results = self.values(*shifted(inputs, moved, step))
            return [results[i] for i in self.smooth]

        reach = max(float(np.max(np.abs(inputs[i]), initial=0.0)) for i in self.wanted) or 1.0
        step, ends = step_along(at, centre, 1e-4 * reach / size, self.visible)
        slopes = [self.first(*shifted(inputs, moved, s), *weights) for s in (step, -step)]
        pairs = [*zip(*slopes, strict=True), *zip(*ends, strict=True)]
        return [np.asarray(a - b, dtype=float) / (2.0 * step) for a, b in pairs]


def shifted(args: Arrays, moved: dict[int, np.ndarray], step: float) -> Arrays:
    return [a + step * moved[i] if i in moved else a for i, a in enumerate(args)]


def step_along(
    at: Callable[[float], Arrays], centre: Arrays, start: float, visible: float
) -> tuple[float, tuple[Arrays, Arrays]]:
    """A step at whose two ends values bend by about ``visible`` of their size, and the values there.

    Where they do not bend, the function is linear and any step does; where they are not finite, the step is too long.
    """
    step, best = start, None
    size = sum(float(np.sum(np.abs(c), where=np.isfinite(c))) for c in centre) or 1.0
    for _ in range(TRIES):
        ends = at(step), at(-step)
        bend = sum(
            float(np.sum(np.abs(a - 2.0 * c + b), where=np.isfinite(c))) for a, b, c in zip(*ends, centre, strict=True)
        )
        if not np.isfinite(bend):
            step *= 0.1
            continue
        best = step, ends
        rise = sum(float(np.sum(np.abs(a - b), where=np.isfinite(c))) for a, b, c in zip(*ends, centre, strict=True))
        ratio = bend / max(size, rise) / visible
        if 1e-2 <= ratio <= 1e2 or (rise > size and ratio < 1.0):
            break
        step *= float(np.clip(1.0 / np.sqrt(max(ratio, 1e-6)), 1e-3, 1e3))
    return best if best is not None else (step, (at(step), at(-step)))


__all__ = ["Typed", "callback"]
