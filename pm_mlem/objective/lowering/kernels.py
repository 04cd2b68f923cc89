"""JAX implementations of the package's own Ops."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.ops.recursion import Window, at_time, backward, final, forward, largest, longer, older, total
from pm_mlem.graph.ops.recursion import logsumexp as log_sum


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


def log_erfc(x):
    """``log(erfc(x))``, far to the right too."""
    right = x > 0
    far = jnp.where(right, x, 1.0)
    return jnp.where(right, jnp.log(erfcx(far)) - far**2, jnp.log(jax.scipy.special.erfc(jnp.where(right, 0.0, x))))


def log_erf(x):
    """``log(erf(x))``; -inf, with slope 0, at 0."""
    near = x < 0.5
    close = guarded_log(jax.scipy.special.erf(jnp.where(near, x, 0.5)))
    return jnp.where(near, close, jnp.log1p(-jax.scipy.special.erfc(jnp.where(near, 0.5, x))))


@jax.custom_jvp
def log_i0(x):
    """Logarithm of the modified Bessel function of order 0."""
    return jnp.log(jax.scipy.special.i0e(x)) + jnp.abs(x)


@log_i0.defjvp
def _(primals, tangents):
    [x], [t] = primals, tangents
    return log_i0(x), t * jax.scipy.special.i1e(x) / jax.scipy.special.i0e(x)


def logsumexp(x, axis: int):
    """Stable log-sum-exp; -inf, with gradient 0, where all entries are -inf."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return guarded_log(jnp.sum(jnp.exp(x - top), axis=axis)) + jnp.squeeze(top, axis)


def choice(x, axis: int, key=None):
    """Maximum whose derivative is 1 at the first state that attains it; -inf, with gradient 0, where all are -inf.

    With a random key the value is the log-sum-exp, and the derivative is 1 at a state drawn in proportion to ``exp(x)``
    (the maximum of the sums with independent Gumbel variables).
    """
    hit = one_hot(with_noise(x, key), (axis,))
    chosen = jnp.sum(jnp.where(hit, x, 0.0), axis=axis)
    possible = chosen > -jnp.inf
    if key is not None:
        change = jnp.where(possible, chosen, 0.0)
        chosen = jax.lax.stop_gradient(logsumexp(x, axis)) + change - jax.lax.stop_gradient(change)
    return jnp.where(possible, chosen, -jnp.inf)


def with_noise(x, key):
    return x if key is None else x + jax.random.gumbel(key, x.shape, x.dtype)


def one_hot(x, axes: tuple[int, ...]):
    """True at the first of the largest entries along some neighbouring axes."""
    start, stop = axes[0], axes[-1] + 1
    flat = jax.lax.stop_gradient(x).reshape((*x.shape[:start], -1, *x.shape[stop:]))
    position = jax.lax.broadcasted_iota(np.int32, flat.shape, start)
    return (position == jnp.argmax(flat, axis=start, keepdims=True).astype(np.int32)).reshape(x.shape)


def own_key(key, number: int):
    """The random key of one of the sums of a graph, from the data of the key of all."""
    return jax.random.fold_in(jax.random.wrap_key_data(key), number)


# --- chains -----------------------------------------------------------------------------------------------


class Summing:
    """Steps of the recursion over all states: sums, and posterior probabilities on the way back."""

    def __init__(self, window: Window, key=None):
        self.window = window

    def forward(self, alpha, tables: Sequence, valid):
        return forward(jnp, self.window, alpha, tables, valid)

    def total(self, alpha):
        return log_sum(jnp, alpha, self.states(alpha))

    def last(self, alpha, log_z):
        return final(jnp, alpha, jnp.expand_dims(log_z, self.states(alpha)))

    def backward(self, t, alpha, new, gamma, tables: Sequence, valid):
        return backward(jnp, self.window, alpha, new, gamma, tables, valid)

    def states(self, alpha) -> tuple[int, ...]:
        """Axes of the window before a step."""
        return tuple(range(self.window.leading, alpha.ndim - 1))


class Choosing(Summing):
    """Steps of the recursion that choose one state on the way back: the most probable one, or with a key a draw."""

    def __init__(self, window: Window, key=None):
        super().__init__(window)
        self.key, self.reduce = key, largest if key is None else log_sum

    def forward(self, alpha, tables: Sequence, valid):
        return forward(jnp, self.window, alpha, tables, valid, self.reduce)

    def total(self, alpha):
        return self.reduce(jnp, alpha, self.states(alpha))

    def last(self, alpha, log_z):
        hit = self.hit(alpha, self.window.steps, self.states(alpha))
        return jnp.where(hit & jnp.isfinite(jnp.expand_dims(log_z, self.states(alpha))), 1.0, 0.0)

    def backward(self, t, alpha, new, gamma, tables: Sequence, valid):
        """Given the states after the step, the one before it."""
        hit = self.hit(longer(self.window, alpha) + total(tables), t, self.window.oldest)
        posterior = jnp.where(hit & valid, older(self.window, gamma), 0.0)
        return posterior, jnp.where(valid, posterior.sum(axis=self.window.newest), gamma)

    def hit(self, x, t, axes: tuple[int, ...]):
        return one_hot(with_noise(x, None if self.key is None else jax.random.fold_in(self.key, t)), axes)


def window_log_z(window: Window, steps: type[Summing] = Summing):
    """``(lengths, *tables, key=None) -> log-partition``; its derivatives are what the way back finds.

    Differentiable in both modes, with :class:`Summing` any number of times.
    """

    @jax.custom_jvp
    def log_z(key, lengths, tables):
        way = steps(window, key)
        alpha, _ = filtered(way, lengths, [window.spread(t, i) for i, t in enumerate(tables)])
        return way.total(alpha)

    @log_z.defjvp
    def _(primals, tangents):
        key, lengths, tables = primals
        result, posteriors = smoothed(steps(window, key), lengths, tables)
        tangent = jnp.zeros_like(result)
        for i, (p, change) in enumerate(zip(posteriors, tangents[2], strict=True)):
            product = p * window.spread(change, i)
            axes = (0, *range(1 + window.leading, product.ndim - 1))
            tangent = tangent + product.sum(axis=axes)
        return result, tangent

    return lambda lengths, *tables, key=None: log_z(key, lengths, list(tables))


def filtered(way: Summing, lengths, spread: Sequence, keep: bool = False):
    """The last alpha, and (with ``keep``) those before every step: a list for the first steps, then an array."""
    window = way.window
    alpha = window.start(jnp, window.leading_shape([s[0] for s in spread]), lengths.shape[0])
    early = []
    head = min(window.lag, window.steps)
    for t in range(head):
        early.append(alpha)
        alpha = way.forward(alpha, at_time(window, spread, t), t < lengths)
    moving = [s[head:] for s in spread if s.shape[0] > 1]

    def step(carry, inputs):
        t, rows = inputs
        new = way.forward(carry, merge(spread, rows), t < lengths)
        return new, carry if keep else None

    if window.steps == head:
        return alpha, (early, None)
    alpha, rest = jax.lax.scan(step, alpha, (jnp.arange(head, window.steps), moving))
    return alpha, (early, rest)


def merge(spread: Sequence, rows: Sequence) -> list:
    """The tables at one time: those that change from the scan, the others as they are."""
    moving = iter(rows)
    return [next(moving) if s.shape[0] > 1 else s[0] for s in spread]


def smoothed(way: Summing, lengths, tables: Sequence):
    """Log-partition, and for each table the posterior of its entries: ``(times, leading, window, components)``.

    The posterior is that of every single component and leading state; for a table that is the same at all times
    it is summed over them (first axis of length 1).
    """
    window = way.window
    spread = [window.spread(t, i) for i, t in enumerate(tables)]
    alpha, (early, rest) = filtered(way, lengths, spread, keep=True)
    result = way.total(alpha)
    gamma = way.last(alpha, result)
    head = min(window.lag, window.steps)
    shared = [jnp.zeros(reduced_shape(window, i, result)) if s.shape[0] == 1 else None for i, s in enumerate(spread)]
    fixed = [i for i, s in enumerate(spread) if s.shape[0] == 1]
    moving = [i for i, s in enumerate(spread) if s.shape[0] > 1]

    def reduce(posterior, i):
        return posterior.sum(axis=window.absent(i), keepdims=True)

    def step(carry, inputs):
        after, gamma, sums = carry
        t, before, rows = inputs
        posterior, gamma = way.backward(t, before, after, gamma, merge(spread, rows), t < lengths)
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
        posterior, gamma = way.backward(t, early[t], alpha, gamma, at_time(window, spread, t), t < lengths)
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
