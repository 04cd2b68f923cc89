"""JAX implementations of the package's own Ops."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.recursion import Window, at_time, backward, final, forward
from pm_mlem.graph.recursion import logsumexp as log_sum


@jax.custom_jvp
def guarded_log(x):
    """Logarithm with derivative 0 at 0."""
    return jnp.log(x)


@guarded_log.defjvp
def _(primals, tangents):
    [x], [t] = primals, tangents
    return guarded_log(x), jnp.where(x == 0, 0.0, t / jnp.where(x == 0, 1.0, x))


@jax.custom_jvp
def guarded_log1p(x):
    """``log(1 + x)`` with derivative 0 at -1."""
    return jnp.log1p(x)


@guarded_log1p.defjvp
def _(primals, tangents):
    [x], [t] = primals, tangents
    return guarded_log1p(x), jnp.where(x == -1, 0.0, t / (1.0 + jnp.where(x == -1, 0.0, x)))


@jax.custom_jvp
def erfcx(x):
    """``exp(x**2) * erfc(x)``."""
    return jax.scipy.special.erfcx(x)


@erfcx.defjvp
def _(primals, tangents):
    [x], [t] = primals, tangents
    value = erfcx(x)
    far = x > 50.0
    r = 1.0 / jnp.where(far, x, 1.0) ** 2
    series = -r * (1.0 - 1.5 * r + 3.75 * r**2 - 13.125 * r**3) / np.sqrt(np.pi)
    return value, t * jnp.where(far, series, 2.0 * x * value - 2.0 / np.sqrt(np.pi))


def logsumexp(x, axis: int):
    """Stable log-sum-exp; -inf, with gradient 0, where all entries are -inf."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return guarded_log(jnp.sum(jnp.exp(x - top), axis=axis)) + jnp.squeeze(top, axis)


# --- chains -----------------------------------------------------------------------------------------------


def window_log_z(window: Window):
    """``(lengths, *tables) -> log-partition``; differentiable in both modes by the forward-backward recursion."""

    def value(lengths, tables):
        alpha, _ = filtered(window, lengths, [window.spread(t, i) for i, t in enumerate(tables)])
        return log_sum(jnp, alpha, tuple(range(window.leading, alpha.ndim - 1)))

    @jax.custom_jvp
    def log_z(lengths, tables):
        return value(lengths, tables)

    @log_z.defjvp
    def _(primals, tangents):
        lengths, tables = primals
        result, posteriors = smoothed(window, lengths, tables)
        tangent = jnp.zeros_like(result)
        for i, (p, change) in enumerate(zip(posteriors, tangents[1], strict=True)):
            product = p * window.spread(change, i)
            axes = (0, *range(1 + window.leading, product.ndim - 1))
            tangent = tangent + product.sum(axis=axes)
        return result, tangent

    return lambda lengths, *tables: log_z(lengths, list(tables))


def filtered(window: Window, lengths, spread: Sequence, keep: bool = False):
    """The last alpha, and (with ``keep``) those before every step: a list for the first steps, then an array."""
    alpha = window.start(jnp, window.leading_shape([s[0] for s in spread]), lengths.shape[0])
    early = []
    head = min(window.lag, window.steps)
    for t in range(head):
        early.append(alpha)
        alpha = forward(jnp, window, alpha, at_time(window, spread, t), t < lengths)
    moving = [s[head:] for s in spread if s.shape[0] > 1]

    def step(carry, inputs):
        t, rows = inputs
        new = forward(jnp, window, carry, merge(spread, rows), t < lengths)
        return new, carry if keep else None

    if window.steps == head:
        return alpha, (early, None)
    alpha, rest = jax.lax.scan(step, alpha, (jnp.arange(head, window.steps), moving))
    return alpha, (early, rest)


def merge(spread: Sequence, rows: Sequence) -> list:
    """The tables at one time: those that change from the scan, the others as they are."""
    moving = iter(rows)
    return [next(moving) if s.shape[0] > 1 else s[0] for s in spread]


def smoothed(window: Window, lengths, tables: Sequence):
    """Log-partition, and for each table the posterior of its entries: ``(times, leading, window, components)``.

    The posterior is that of every single component and leading state; for a table that is the same at all times
    it is summed over them (first axis of length 1).
    """
    spread = [window.spread(t, i) for i, t in enumerate(tables)]
    alpha, (early, rest) = filtered(window, lengths, spread, keep=True)
    result = log_sum(jnp, alpha, tuple(range(window.leading, alpha.ndim - 1)))
    lead = window.leading
    gamma = final(jnp, alpha, result.reshape((*result.shape[:lead], *[1] * (alpha.ndim - lead - 1), result.shape[-1])))
    head = min(window.lag, window.steps)
    shared = [jnp.zeros(reduced_shape(window, i, result)) if s.shape[0] == 1 else None for i, s in enumerate(spread)]
    fixed = [i for i, s in enumerate(spread) if s.shape[0] == 1]
    moving = [i for i, s in enumerate(spread) if s.shape[0] > 1]

    def reduce(posterior, i):
        return posterior.sum(axis=window.absent(i), keepdims=True)

    def step(carry, inputs):
        after, gamma, sums = carry
        t, before, rows = inputs
        posterior, gamma = backward(jnp, window, before, after, gamma, merge(spread, rows), t < lengths)
        sums = [total + reduce(posterior, i) for total, i in zip(sums, fixed, strict=True)]
        return (before, gamma, sums), [reduce(posterior, i) for i in moving]

    sums = [shared[i] for i in fixed]
    late = None
    if window.steps > head:
        times = jnp.arange(head, window.steps)
        inputs = (times, rest, [spread[i][head:] for i in moving])
        (alpha, gamma, sums), late = jax.lax.scan(step, (alpha, gamma, sums), inputs, reverse=True)
    first: list[list] = [[] for _ in moving]
    for t in reversed(range(head)):
        posterior, gamma = backward(jnp, window, early[t], alpha, gamma, at_time(window, spread, t), t < lengths)
        alpha = early[t]
        sums = [
            total + reduce(posterior, i) if t >= window.first(i) else total
            for total, i in zip(sums, fixed, strict=True)
        ]
        for rows, i in zip(first, moving, strict=True):
            rows.insert(0, reduce(posterior, i)[None])
    found = dict(zip(fixed, [s[None] for s in sums], strict=True))
    for k, i in enumerate(moving):
        parts = first[k] + ([late[k]] if late is not None else [])
        found[i] = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
    return result, [found[i] for i in range(len(spread))]


def reduced_shape(window: Window, i: int, log_z) -> tuple[int, ...]:
    shape = [*log_z.shape[: window.leading], *window.states * (window.lag + 1), log_z.shape[-1]]
    for axis in window.absent(i):
        shape[axis] = 1
    return tuple(shape)
