"""Safeguarded Newton steps on a sum of functions that share no parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.objective.m_step.coupling import Groups

SMALLEST_STEP = 2.0**-30
SMALLEST_CURVATURE = 1e-13
"""In coordinates with unit curvature: what is flatter is treated as if it were not."""
ROUNDING = 1e-13
"""Changes of a sum, relative to it, that may be rounding errors; steps that promise no more are not judged by them."""


def newton_direction(gradient, columns, groups: Groups):
    """The Newton step, group by group, with negative curvature reversed; and the gain that it promises each group.

    Parameters
    ----------
    gradient : (coordinates,)
    columns : (size of the largest group, coordinates), the Hessian times ``groups.directions``
    """
    members, absent = np.maximum(groups.members, 0), groups.members < 0
    slopes = jnp.where(absent, 0.0, gradient[members])
    hessian = jnp.moveaxis(columns[:, members], 0, -1)
    outside = absent[:, :, None] | absent[:, None, :]
    curvature = jnp.where(outside, 0.0, -0.5 * (hessian + jnp.swapaxes(hessian, 1, 2)))
    if absent.any():  # something harmless where a group has no coordinate
        scale = jnp.max(jnp.abs(curvature), axis=(1, 2), keepdims=True)
        curvature = curvature + scale * (absent[:, :, None] * np.eye(absent.shape[1]))
    steps = ascent(curvature, slopes)
    usable = jnp.all(jnp.isfinite(steps), axis=1, keepdims=True)
    steps = jnp.where(usable & ~absent, steps, 0.0)
    target = np.where(absent, gradient.size, members)
    return jnp.zeros(gradient.size + 1).at[target].add(steps)[:-1], 0.5 * jnp.sum(slopes * steps, axis=1)


def ascent(curvature, slopes):
    """``inv(curvature) @ slopes`` for each group; where a curvature is not safely positive, of its absolute value."""
    sizes = jnp.sqrt(jnp.abs(jnp.diagonal(curvature, axis1=1, axis2=2)))
    sizes = jnp.where(sizes > 0, sizes, 1.0)  # the units of the parameters, which do not matter
    curvature, slopes = curvature / (sizes[:, :, None] * sizes[:, None, :]), slopes / sizes
    factors = jnp.linalg.cholesky(curvature)
    pivots = jnp.diagonal(factors, axis1=1, axis2=2) ** 2
    positive = jnp.all(jnp.min(pivots, axis=1) > SMALLEST_CURVATURE * jnp.max(pivots, axis=1))

    def solve():
        return jax.scipy.linalg.cho_solve((factors, True), slopes[..., None])[..., 0]

    def solve_absolute():
        values, axes = jnp.linalg.eigh(curvature)
        size = jnp.abs(values)
        size = jnp.maximum(size, SMALLEST_CURVATURE * jnp.max(size, axis=1, keepdims=True) + 1e-300)
        return jnp.einsum("gij,gj->gi", axes, jnp.einsum("gij,gi->gj", axes, slopes) / size)

    return jax.lax.cond(positive, solve, solve_absolute) / sizes


def newton_step(parts: Callable, x, before, gradient, columns, groups: Groups):
    """One Newton ascent step from a point; the step of each group is halved until its part does not fall.

    Parameters
    ----------
    parts : point -> (groups,), the function's parts; ``before`` are those at the point
    gradient, columns : of the sum of the parts, as for :func:`newton_direction`

    Returns
    -------
    point, parts there, gain that the step promised each group
    """
    step, gain = newton_direction(gradient, columns, groups)
    owner = groups.of_coordinate
    noise = ROUNDING * (1.0 + jnp.abs(before))
    least = before - jnp.where(gain <= noise, noise, 0.0)

    def failing(state):
        return jnp.any(state[1] > 0) & jnp.any(state[3])

    def shorten(state):
        first, scale, _, failed = state
        scale = jnp.where(failed & ~first, scale / 2, scale)
        scale = jnp.where(scale < SMALLEST_STEP, 0.0, scale)
        new = parts(x + step * scale[owner])
        return False, scale, new, jnp.logical_not(new >= least) & (scale > 0)

    ones = jnp.ones(groups.count)
    _, scale, after, _ = jax.lax.while_loop(failing, shorten, (True, ones, before, ones > 0))
    return x + step * scale[owner], after, gain


def newton(parts: Callable, slopes: Callable, x, groups: Groups, iterations: int, tolerance: float):
    """Maximise a sum of functions by Newton steps, until none is promised or gains more than the tolerance.

    Parameters
    ----------
    parts : point -> (groups,), the functions
    slopes : point -> gradient and columns of the Hessian of their sum, as for :func:`newton_direction`
    iterations : steps to take at most
    """

    def step(state):
        i, v, before, _ = state
        new, after, gain = newton_step(parts, v, before, *slopes(v), groups)
        least = tolerance + ROUNDING * jnp.abs(before)
        return i + 1, new, after, jnp.any((gain > least) & (after - before > least))

    start = 0, x, parts(x), True
    if iterations == 1:
        return step(start)[1]
    return jax.lax.while_loop(lambda state: (state[0] < iterations) & state[3], step, start)[1]


def add_by_group(arrays: Sequence, groups: Groups):
    """Add up the entries of arrays that belong to each group: (groups,)."""
    if groups.cells is None:
        return jnp.reshape(sum((jnp.sum(a) for a in arrays), jnp.zeros(())), (1,))
    result = jnp.zeros(groups.count + 1)
    for array, cells in zip(arrays, groups.cells, strict=True):
        axes = tuple(d for d, n in enumerate(cells.shape) if n == 1 and array.shape[d] != 1)
        summed = jnp.broadcast_to(array.sum(axis=axes, keepdims=True), cells.shape)
        result = result.at[cells.ravel()].add(summed.ravel())
    return result[:-1]
