"""The recursion over chains compiled by Numba, for PyMC's samplers and nutpie (importing this module registers it)."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from pytensor.graph.basic import Apply
from pytensor.link.numba.cache import compile_numba_function_src
from pytensor.link.numba.dispatch.basic import (
    generate_fallback_impl,
    numba_njit,
    register_funcify_and_cache_key,
)

from pm_mlem.graph.ops.operations import WindowGradient, WindowLogZ
from pm_mlem.graph.ops.recursion import Window


@register_funcify_and_cache_key(WindowLogZ)
def funcify_window(op, node, **kwargs):
    _, *tables = node.inputs
    if not all_static(node):
        return generate_fallback_impl(op, node, **kwargs), None
    layout = layout_of(op.window, [t.type.shape for t in tables])
    names = [f"t{i}" for i in range(len(tables))]
    source = f"""
def window(lengths, {", ".join(names)}):
    flat = np.concatenate(({" ".join(f"{n}.ravel()," for n in names)}))
    return log_partition(flat, lengths, *layout).reshape({node.outputs[0].type.shape[:-1]} + (len(lengths),))
"""
    scope = {"np": np, "log_partition": log_partition, "layout": layout}
    return numba_njit(compile_numba_function_src(source, "window", scope)), key_of(op, tables)


@register_funcify_and_cache_key(WindowGradient)
def funcify_gradient(op, node, **kwargs):
    _, _, *tables = node.inputs
    if not all_static(node):
        return generate_fallback_impl(op, node, **kwargs), None
    shapes = [t.type.shape for t in tables]
    names = [f"t{i}" for i in range(len(tables))]
    ends = np.cumsum([0, *map(math.prod, shapes)]).tolist()
    parts = [f"slope[{a}:{b}].copy().reshape({s})" for a, b, s in zip(ends, ends[1:], shapes, strict=False)]
    source = f"""
def gradient(cotangent, lengths, {", ".join(names)}):
    flat = np.concatenate(({" ".join(f"{n}.ravel()," for n in names)}))
    slope = posterior(flat, cotangent.ravel(), lengths, *layout)
    return {parts[0] if len(parts) == 1 else f"({', '.join(parts)})"}
"""
    scope = {"np": np, "posterior": posterior, "layout": layout_of(op.window, shapes)}
    return numba_njit(compile_numba_function_src(source, "gradient", scope)), key_of(op, tables)


def all_static(node: Apply) -> bool:
    return all(None not in v.type.shape for v in (*node.inputs, *node.outputs))


def key_of(op, tables) -> str:
    """What the compiled function depends on, for Numba's cache on disk."""
    version = 1
    text = repr((type(op), op._props(), [t.type.shape for t in tables], version))
    return hashlib.sha256(text.encode()).hexdigest()


def layout_of(window: Window, shapes: list[tuple[int, ...]]) -> tuple:
    """Where the tables, laid end to end, hold the entry for each leading state and window of states.

    Returns ``(entry, stride, first, steps, joint)``: ``entry[table, leading, window]`` and ``stride[table]`` for a step
    in components and in time; the first time that a table is read (0 where it has a time axis); the number of times
    and of joint states at one time.
    """
    lead = window.leading
    leading = tuple(max(s[i] for s in shapes) for i in range(lead))
    joint = math.prod(window.states)
    wide = (1, *leading, *window.states * (window.lag + 1), 1)
    entry, stride, first, start = [], [], [], 0
    for i, shape in enumerate(shapes):
        cells = np.arange(math.prod(shape[:-2])).reshape(*shape[:-2], 1, 1)
        spread = np.broadcast_to(window.spread(cells, i), wide).reshape(math.prod(leading), -1)
        components, times = shape[-2:]
        entry.append(start + spread * components * times)
        stride.append((times if components > 1 else 0, 1 if times > 1 else 0))
        first.append(0 if times > 1 else window.first(i))
        start += math.prod(shape)
    return np.array(entry), np.array(stride), np.array(first), window.steps, joint


@numba_njit
def step_table(total, flat, entry, stride, first, leading, component, time):
    """The sum of the tables at one time, by window of states."""
    total[:] = 0.0
    for i in range(len(first)):
        if time >= first[i]:
            shift = component * stride[i, 0] + time * stride[i, 1]
            for w in range(len(total)):
                total[w] += flat[entry[i, leading, w] + shift]


@numba_njit
def strided_log_sum(values, start, step, n):
    """``log(sum(exp))`` of ``values[start], values[start + step], ...``."""
    top = -np.inf
    for i in range(n):
        top = max(top, values[start + i * step])
    if np.isinf(top):
        return top
    total = 0.0
    for i in range(n):
        total += np.exp(values[start + i * step] - top)
    return top + np.log(total)


@numba_njit
def filtered(alphas, total, flat, entry, stride, first, leading, component, length, joint):
    """Fill in the alphas before every step and after the last one; their log-sum is the log-partition."""
    before = alphas.shape[1]
    alphas[0] = -np.inf
    alphas[0, 0] = 0.0
    for t in range(length):
        step_table(total, flat, entry, stride, first, leading, component, t)
        for w in range(len(total)):
            total[w] += alphas[t, w // joint]
        for a in range(before):
            alphas[t + 1, a] = strided_log_sum(total, a, before, joint)
    return strided_log_sum(alphas[length], 0, 1, before)


@numba_njit
def log_partition(flat, lengths, entry, stride, first, steps, joint):
    """Log-partition ``(leading, components)``."""
    leading, width = entry.shape[1:]
    result = np.empty((leading, len(lengths)))
    alphas, total = np.empty((steps + 1, width // joint)), np.empty(width)
    for c in range(len(lengths)):
        for k in range(leading):
            result[k, c] = filtered(alphas, total, flat, entry, stride, first, k, c, lengths[c], joint)
    return result


@numba_njit
def posterior(flat, cotangent, lengths, entry, stride, first, steps, joint):
    """Gradient of ``sum(cotangent * log-partition)`` by the tables."""
    leading, width = entry.shape[1:]
    before = width // joint
    slope = np.zeros(len(flat))
    alphas, total, weight = np.empty((steps + 1, before)), np.empty(width), np.empty(width)
    beta = np.empty(before)
    for c in range(len(lengths)):
        for k in range(leading):
            scale = cotangent[k * len(lengths) + c]
            log_z = filtered(alphas, total, flat, entry, stride, first, k, c, lengths[c], joint)
            if scale == 0 or np.isinf(log_z):
                continue
            beta[:] = 0.0
            for t in range(lengths[c] - 1, -1, -1):
                step_table(total, flat, entry, stride, first, k, c, t)
                for w in range(width):
                    total[w] += beta[w % before]
                    weight[w] = scale * np.exp(alphas[t, w // joint] + total[w] - log_z)
                for i in range(len(first)):
                    if t >= first[i]:
                        shift = c * stride[i, 0] + t * stride[i, 1]
                        for w in range(width):
                            slope[entry[i, k, w] + shift] += weight[w]
                for a in range(before):
                    beta[a] = strided_log_sum(total, a * joint, 1, joint)
    return slope
