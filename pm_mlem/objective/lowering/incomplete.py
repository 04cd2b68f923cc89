"""Logarithms of the incomplete gamma and beta functions, differentiable any number of times in all arguments.

Of the two parts into which the argument cuts the whole integral, the smaller one is evaluated; the larger one is its
complement, ``log(1 - exp(smaller))``, which loses no digit. The integral is taken in a coordinate ``y >= 0`` in which
the integrand is 1 at 0 and falls from there, with a concave logarithm: Gauss-Legendre nodes between 0 and where it has
fallen by 42 nats give 13 digits or more (tested for shapes from 0.01 to 1e5). A derivative by a shape is an integral of
the same kind, with one more power of a logarithm under it (a *moment*); one by the argument follows by integration by
parts. So moments have exact derivatives in terms of moments, and nothing is ever differenced.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import gammaln

POINTS = 64
NODES, WEIGHTS = np.polynomial.legendre.leggauss(POINTS)
NODES, WEIGHTS = (NODES + 1.0) / 2.0, WEIGHTS / 2.0
DEPTH = 42.0
"""Nats by which an integrand has fallen at the end of its window."""
STEPS = 9
"""Newton steps for the end of the window."""
TINY = 1e-300


# --- elementary functions -----------------------------------------------------------------------------------


@jax.custom_jvp
def log1mexp(x):
    """``log(1 - exp(x))`` for x <= 0, with its slope to the last digit; -inf, with slope 0, at 0."""
    small = x > -np.log(2.0)
    return jnp.where(
        small, jnp.log(-jnp.expm1(jnp.where(small, x, -1.0))), jnp.log1p(-jnp.exp(jnp.where(small, -1.0, x)))
    )


@log1mexp.defjvp
def _(primals, tangents):
    [x], [t] = primals, tangents
    inside = x < 0
    safe = jnp.where(inside, x, -1.0)
    return log1mexp(x), jnp.where(inside, jnp.exp(safe) / jnp.expm1(safe), 0.0) * t


def stirling(a):
    """What Stirling's formula leaves of ``log Gamma(a)``: ``log Gamma(a) - (a - 1/2) log(a) + a - log(2 pi) / 2``."""
    large = a > 12.0
    near, far = jnp.where(large, 1.0, a), jnp.where(large, a, 12.0)
    direct = gammaln(near) - (near - 0.5) * jnp.log(near) + near - 0.5 * np.log(2.0 * np.pi)
    r = 1.0 / far**2
    terms = [1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156]
    series = jnp.zeros_like(far)
    for term in reversed(terms):
        series = series * r + term
    return jnp.where(large, series / far, direct)


def log_ratio(x, y):
    """``log(x / y)``, exact where the two are close."""
    close = jnp.abs(x - y) < 0.5 * y
    return jnp.where(close, jnp.log1p((jnp.where(close, x, y) - y) / y), jnp.log(x / y))


def window(height, slope, start):
    """Where a concave function that falls from 0 at 0 has reached ``-DEPTH``: Newton steps, which end beyond it."""
    return jax.lax.fori_loop(0, STEPS, lambda _, y: jnp.maximum(y - (height(y) + DEPTH) / slope(y), TINY), start)


def moments(integrands, end):
    """Integrals from 0 to ``end`` of several functions of y, ``y -> list``, along a new first axis."""
    nodes, weights = jnp.asarray(NODES), jnp.asarray(WEIGHTS)

    def add(i, total):
        return total + weights[i] * jnp.stack(integrands(end * nodes[i]))

    zeros = jnp.zeros((len(jax.eval_shape(integrands, end)), *end.shape))
    return end * jax.lax.fori_loop(0, POINTS, add, zeros)


def times(slope, tangent):
    """A slope times a tangent, which may be known to be 0."""
    return 0.0 if isinstance(tangent, SymbolicZero) else slope() * tangent


# --- gamma ----------------------------------------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def gamma_moments(order: int, below, end, a, x):
    """Integrals of ``|log(t / x)|**k t**(a - 1) exp(-t)`` for k up to ``order``, divided by ``x**a exp(-x)``.

    From 0 to x (``below``) or from x to infinity; first axis: k. ``end`` is where y, the logarithm, may stop.
    """
    small = below & (x < 1.0)
    side = jnp.where(below, -1.0, 1.0)

    def integrands(y):
        # Where x is small, a long tail exp(-a y) is all that matters far out, and its integral is known.
        far = jnp.exp(-side * (x - a) * y - x * (jnp.expm1(side * y) - side * y))
        near = jnp.exp(-a * y) * jnp.expm1(-x * jnp.exp(-y))
        value = jnp.where(small, near, far)
        return [value * y**k for k in range(order + 1)]

    total = moments(integrands, end)
    tail = jnp.stack([factorial(k) / jnp.where(small, a, 1.0) ** (k + 1) for k in range(order + 1)])
    return jnp.where(small, jnp.exp(jnp.where(small, x, 0.0)) * (tail + total), total)


def gamma_slopes(order, primals, tangents):
    below, end, a, x = primals
    _, _, da, dx = tangents
    known = isinstance(da, SymbolicZero)
    full = gamma_moments(order + (not known), below, end, a, x)
    side = jnp.where(below, -1.0, 1.0)
    value = full[: order + 1]
    before = [jnp.ones_like(x), *[k * full[k - 1] for k in range(1, order + 1)]]
    change = times(lambda: side * full[1:], da)
    change = change + times(lambda: -side * jnp.stack(before) / x - (a / x - 1.0) * value, dx)
    return value, jnp.broadcast_to(change, value.shape)


gamma_moments.defjvp(gamma_slopes, symbolic_zeros=True)


def gamma_end(below, a, x):
    """Where the integrand of the gamma function may stop."""
    small = below & (x < 1.0)
    side, z = jnp.where(below, -1.0, 1.0), jnp.where(small, 1.0, x)
    rate = jnp.maximum(side * (z - a), 0.0)
    start = jnp.sqrt(2.0 * DEPTH / z) + jnp.where(below, 1.0, jnp.log1p(DEPTH / z))

    def height(y):
        return -rate * y - z * (jnp.expm1(side * y) - side * y)

    def slope(y):
        return -rate - z * side * jnp.expm1(side * y)

    return jnp.where(small, DEPTH / (1.0 + a), window(height, slope, start))


def factorial(k: int) -> float:
    return float(np.prod(np.arange(1.0, k + 1.0)))


def gamma_below(a, x):
    """Whether the smaller part of the gamma function lies below its argument."""
    return x <= jnp.maximum(a, 1.0)


def log_gamma_part(a, x):
    """Logarithm of the smaller part of the gamma function: ``P(a, x)`` from below, or ``Q(a, x)`` from above."""
    a, x = jnp.broadcast_arrays(jnp.asarray(a, float), jnp.asarray(x, float))
    valid = (a > 0.0) & (x >= 0.0)
    inside = valid & (x > 0.0) & (x < jnp.inf)
    a, x = jnp.where(inside, a, 1.0), jnp.where(inside, x, 1.0)
    below = gamma_below(a, x)
    end = jax.lax.stop_gradient(gamma_end(below, a, x))
    front = a * log_ratio(x, a) - (x - a) + 0.5 * jnp.log(a / (2.0 * np.pi)) - stirling(a)
    return part(inside, valid, front + jnp.log(gamma_moments(0, below, end, a, x)[0]))


def part(inside, valid, value):
    """A logarithm below 0 where there is a part; none of it at the ends of the line."""
    return jnp.where(inside, jnp.where(value < 0.0, value, -TINY), jnp.where(valid, -jnp.inf, jnp.nan))


# --- beta -----------------------------------------------------------------------------------------------------


def powers(order: int) -> list[tuple[int, int]]:
    return [(n - k, k) for n in range(order + 1) for k in range(n + 1)]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def beta_moments(order: int, end, rest, a, b, x):
    """Integrals of ``log(x / t)**j log((1 - t) / (1 - x))**k t**(a - 1) (1 - t)**(b - 1)`` over t from 0 to x, divided
    by ``x**a (1 - x)**b``; first axis: the :func:`powers`, j + k up to ``order``. ``rest`` is ``1 - x`` without the
    rounding.
    """
    small = leads_to_zero(b, x)
    most = jnp.where(x < 0.5, -jnp.log1p(-jnp.minimum(x, 0.5)), -jnp.log(rest))

    def integrands(y):
        # On the logistic scale the integrand has the logarithm -a u + b l. Near 0 a long tail exp(-a u) is all that
        # matters far out, and its integral is known.
        logistic = jnp.log1p(x * jnp.expm1(-y))
        height = -(a * rest - b * x) * y - (a + b) * (logistic + x * y)
        log_rest = jnp.log1p(-x * jnp.exp(-y))
        u, far, l = y + logistic, jnp.exp(height), -logistic
        near, tail = log_rest + most, jnp.exp(-a * y)
        values = []
        for j, k in powers(order):
            less = jnp.expm1((b - 1.0) * log_rest) if k == 0 else near**k * jnp.exp((b - 1.0) * log_rest) - most**k
            values.append(jnp.where(small, y**j * tail * less, u**j * l**k * far))
        return values

    total = moments(integrands, end)
    c = jnp.where(small, a, 1.0)
    tails = jnp.stack([most**k * factorial(j) / c ** (j + 1) for j, k in powers(order)])
    return jnp.where(small, jnp.exp(jnp.where(small, b * most, 0.0)) * (tails + total), total)


def beta_slopes(order, primals, tangents):
    end, rest, a, b, x = primals
    _, _, da, db, dx = tangents
    known = isinstance(da, SymbolicZero) and isinstance(db, SymbolicZero)
    full = beta_moments(order + (not known), end, rest, a, b, x)
    rest = rest - (x - jax.lax.stop_gradient(x))  # the same number, with its derivative
    at = {power: i for i, power in enumerate(powers(order + 1))}
    own = powers(order)
    value = full[: len(own)]

    def boundary(j, k):
        if j == k == 0:
            return 1.0 / (x * rest)
        left = j / x * full[at[j - 1, k]] if j else 0.0
        return left + (k / rest * full[at[j, k - 1]] if k else 0.0)

    change = times(lambda: -jnp.stack([full[at[j + 1, k]] for j, k in own]), da)
    change = change + times(lambda: jnp.stack([full[at[j, k + 1]] for j, k in own]), db)
    change = change + times(lambda: jnp.stack([boundary(j, k) for j, k in own]) - (a / x - b / rest) * value, dx)
    return value, jnp.broadcast_to(change, value.shape)


beta_moments.defjvp(beta_slopes, symbolic_zeros=True)


def leads_to_zero(b, x):
    """Where ``(1 - t)**(b - 1)`` hardly varies between 0 and x."""
    return (x <= 0.5) & (b * x <= 1.0)


def beta_end(a, b, x, rest):
    """Where the integrand of the beta function may stop."""
    small = leads_to_zero(b, x)
    c, d, w, z = (jnp.where(small, s, v) for s, v in ((2.0, a), (2.0, b), (0.5, x), (0.5, rest)))
    rate, both = c * z - d * w, c + d

    def height(y):
        return -rate * y - both * (jnp.log1p(w * jnp.expm1(-y)) + w * y)

    def slope(y):
        return -rate + both * w * (jnp.exp(-y) / (z + w * jnp.exp(-y)) - 1.0)

    far = window(height, slope, jnp.sqrt(2.0 * DEPTH / (both * w * z)))
    return jnp.where(small, DEPTH / (1.0 + a), far)


def beta_below(a, b, x, rest):
    """Whether the part of the beta function that is evaluated lies below its argument."""
    return leads_to_zero(b, x) | (~leads_to_zero(a, rest) & (x * (a + b) <= a))


def log_beta_part(a, b, x, rest):
    """Logarithm of a part of the beta function: ``I_x(a, b)`` from below, or ``1 - I_x(a, b)`` from above.

    ``rest`` is ``1 - x``: close to 1, it has digits that x has lost.
    """
    a, b, x, rest = jnp.broadcast_arrays(*[jnp.asarray(v, float) for v in (a, b, x, rest)])
    valid = (a > 0.0) & (b > 0.0) & (x >= 0.0) & (x <= 1.0)
    inside = valid & (x > 0.0) & (rest > 0.0)
    rest = jnp.where(inside, rest, 0.5)
    a, b, x = jnp.where(inside, a, 1.0), jnp.where(inside, b, 1.0), jnp.where(inside, x, 0.5)
    below, both = beta_below(a, b, x, rest), a + b
    front = a * log_ratio(x, a / both) + b * log_ratio(rest, b / both) + 0.5 * jnp.log(a * (b / both) / (2.0 * np.pi))
    front = front - stirling(a) - stirling(b) + stirling(both)
    a, b, x, rest = (jnp.where(below, v, w) for v, w in ((a, b), (b, a), (x, rest), (rest, x)))
    end, rest = jax.lax.stop_gradient((beta_end(a, b, x, rest), rest))
    return part(inside, valid, front + jnp.log(beta_moments(0, end, rest, a, b, x)[0]))
