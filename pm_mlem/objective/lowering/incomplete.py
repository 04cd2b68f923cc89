"""Logarithms of the incomplete gamma and beta functions, differentiable any number of times in all arguments.

The integral from the argument towards 0 (or to infinity, whichever is smaller) is taken in a coordinate ``y >= 0`` in
which the integrand is 1 at 0, falls from there, and has a logarithm that is concave: Gauss-Legendre nodes between 0
and where it has fallen by 40 nats then give 14 digits, for shapes from 1e-8 to 1e8. A derivative by a shape is an
integral of the same kind, with one more power of a logarithm under it; one by the argument follows by integration by
parts. So each integral has an exact derivative in terms of others, and nothing is ever differenced. The larger of the
two parts is the complement of the smaller one: ``log(1 - exp(smaller))`` loses no digit.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
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
    return jnp.where(small, jnp.log(-jnp.expm1(jnp.where(small, x, -1.0))), jnp.log1p(-jnp.exp(jnp.where(small, -1.0, x))))


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
    y = start
    for _ in range(STEPS):
        y = jnp.maximum(y - (height(y) + DEPTH) / slope(y), TINY)
    return y


def integral(function, end):
    """Integral from 0 to ``end``, by nodes along a new first axis."""
    axes = (...,) + (None,) * end.ndim
    nodes, weights = jnp.asarray(NODES)[axes], jnp.asarray(WEIGHTS)[axes]
    return end * jnp.sum(weights * function(end * nodes), axis=0)


# --- gamma ----------------------------------------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def gamma_below(k: int, a, x):
    """Integral of ``log(x / t)**k t**(a - 1) exp(-t)`` over t from 0 to x, divided by ``x**a exp(-x)``."""
    small = x < 1.0
    b, z = jnp.where(small, 2.0, a), jnp.where(small, 1.0, x)
    rate = jnp.maximum(b - z, 0.0)

    def height(y):
        return -rate * y - z * (y + jnp.expm1(-y))

    end = window(height, lambda y: -rate + z * jnp.expm1(-y), jnp.sqrt(2.0 * DEPTH / z) + 1.0)
    far = integral(lambda y: y**k * jnp.exp(-(b - z) * y - z * (y + jnp.expm1(-y))), end)
    # Where x is small a long tail exp(-a y) is all that matters far out, and its integral is known.
    c, w = jnp.where(small, a, 1.0), jnp.where(small, x, 0.5)
    end = DEPTH / (1.0 + c)
    near = integral(lambda y: y**k * jnp.exp(-c * y) * jnp.expm1(-w * jnp.exp(-y)), end)
    near = jnp.exp(w) * (factorial(k) / c ** (k + 1) + near)
    return jnp.where(small, near, far)


@gamma_below.defjvp
def _(k, primals, tangents):
    (a, x), (da, dx) = primals, tangents
    value = gamma_below(k, a, x)
    boundary = 1.0 if k == 0 else k * gamma_below(k - 1, a, x)
    return value, -gamma_below(k + 1, a, x) * da + (boundary / x - (a / x - 1.0) * value) * dx


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def gamma_above(k: int, a, x):
    """Integral of ``log(t / x)**k t**(a - 1) exp(-t)`` over t from x on, divided by ``x**a exp(-x)``."""
    rate = jnp.maximum(x - a, 0.0)

    def height(y):
        return -rate * y - x * (jnp.expm1(y) - y)

    end = window(height, lambda y: -rate - x * jnp.expm1(y), jnp.log1p(DEPTH / x) + jnp.sqrt(2.0 * DEPTH / x))
    return integral(lambda y: y**k * jnp.exp(-(x - a) * y - x * (jnp.expm1(y) - y)), end)


@gamma_above.defjvp
def _(k, primals, tangents):
    (a, x), (da, dx) = primals, tangents
    value = gamma_above(k, a, x)
    boundary = 1.0 if k == 0 else k * gamma_above(k - 1, a, x)
    return value, gamma_above(k + 1, a, x) * da + (-boundary / x - (a / x - 1.0) * value) * dx


def factorial(k: int) -> float:
    return float(np.prod(np.arange(1.0, k + 1.0)))


def log_gamma_parts(a, x):
    """``log P(a, x)`` and ``log Q(a, x)``: the regularized incomplete gamma functions from below and from above."""
    a, x = jnp.broadcast_arrays(jnp.asarray(a, float), jnp.asarray(x, float))
    inside = (x > 0.0) & (x < jnp.inf) & (a > 0.0)
    a, z = jnp.where(a > 0.0, a, 1.0), jnp.where(inside, x, 1.0)
    below = z <= jnp.maximum(a, 1.0)
    # z**a exp(-z) / Gamma(a)
    front = a * log_ratio(z, a) - (z - a) + 0.5 * jnp.log(a / (2.0 * np.pi)) - stirling(a)
    low = jnp.log(gamma_below(0, jnp.where(below, a, 2.0), jnp.where(below, z, 1.0)))
    high = jnp.log(gamma_above(0, jnp.where(below, 1.0, a), jnp.where(below, 2.0, z)))
    direct = front + jnp.where(below, low, high)
    direct = jnp.where(direct < 0, direct, -TINY)
    rest = log1mexp(direct)
    return inside, jnp.where(below, direct, rest), jnp.where(below, rest, direct)


def log_gammainc(a, x):
    """``log P(a, x)``."""
    inside, lower, _ = log_gamma_parts(a, x)
    return outside(inside, lower, x, jnp.isnan(a + x) | (a <= 0) | (x < 0), -jnp.inf, 0.0)


def log_gammaincc(a, x):
    """``log Q(a, x)``."""
    inside, _, upper = log_gamma_parts(a, x)
    return outside(inside, upper, x, jnp.isnan(a + x) | (a <= 0) | (x < 0), 0.0, -jnp.inf)


def outside(inside, value, x, invalid, at_start, at_end):
    edge = jnp.where(invalid, jnp.nan, jnp.where(x <= 0.0, at_start, at_end))
    return jnp.where(inside, value, edge)


# --- beta -----------------------------------------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def beta_below(j: int, k: int, a, b, x):
    """Integral of ``log(x / t)**j log((1 - t) / (1 - x))**k t**(a - 1) (1 - t)**(b - 1)`` over t from 0 to x, divided
    by ``x**a (1 - x)**b``.
    """
    small = leads_to_zero(b, x)
    # On the logistic scale the integrand has the logarithm -a u + b l.
    c, d, w = jnp.where(small, 2.0, a), jnp.where(small, 2.0, b), jnp.where(small, 0.5, x)
    rate, both = c * (1.0 - w) - d * w, c + d

    def log_rest(y):
        return jnp.log1p(w * jnp.expm1(-y))

    def height(y):
        return -rate * y - both * (log_rest(y) + w * y)

    def slope(y):
        return -rate + both * w * (jnp.exp(-y) / (1.0 + w * jnp.expm1(-y)) - 1.0)

    end = window(height, slope, jnp.sqrt(2.0 * DEPTH / (both * w * (1.0 - w))))
    far = integral(lambda y: (y + log_rest(y)) ** j * (-log_rest(y)) ** k * jnp.exp(height(y)), end)
    # Near 0 a long tail exp(-a u) is all that matters far out, and its integral is known.
    c, d, w = jnp.where(small, a, 1.0), jnp.where(small, b, 1.0), jnp.where(small, x, 0.5)
    most = -jnp.log1p(-w)

    def less(u):
        rest = jnp.log1p(-w * jnp.exp(-u))
        if k == 0:
            return jnp.expm1((d - 1.0) * rest)
        return (rest + most) ** k * jnp.exp((d - 1.0) * rest) - most**k

    near = integral(lambda u: u**j * jnp.exp(-c * u) * less(u), DEPTH / (1.0 + c))
    near = jnp.exp(d * most) * (most**k * factorial(j) / c ** (j + 1) + near)
    return jnp.where(small, near, far)


@beta_below.defjvp
def _(j, k, primals, tangents):
    (a, b, x), (da, db, dx) = primals, tangents
    value = beta_below(j, k, a, b, x)
    boundary = 1.0 / (x * (1.0 - x)) if j == k == 0 else 0.0
    if j:
        boundary = boundary + j / x * beta_below(j - 1, k, a, b, x)
    if k:
        boundary = boundary + k / (1.0 - x) * beta_below(j, k - 1, a, b, x)
    slope = boundary - (a / x - b / (1.0 - x)) * value
    return value, -beta_below(j + 1, k, a, b, x) * da + beta_below(j, k + 1, a, b, x) * db + slope * dx


def leads_to_zero(b, x):
    """Where ``(1 - t)**(b - 1)`` hardly varies between 0 and x."""
    return (x <= 0.5) & (b * x <= 1.0)


def log_betainc(a, b, x):
    """``log I_x(a, b)``, the regularized incomplete beta function."""
    a, b, x = jnp.broadcast_arrays(*[jnp.asarray(v, float) for v in (a, b, x)])
    valid = (a > 0.0) & (b > 0.0) & (x >= 0.0) & (x <= 1.0)
    inside = valid & (x > 0.0) & (x < 1.0)
    a, b, z = jnp.where(a > 0.0, a, 1.0), jnp.where(b > 0.0, b, 1.0), jnp.where(inside, x, 0.5)
    both = a + b
    below = leads_to_zero(b, z) | (~leads_to_zero(a, 1.0 - z) & (z * both <= a))
    # z**a (1 - z)**b / B(a, b)
    front = a * log_ratio(z, a / both) + b * log_ratio(1.0 - z, b / both) + 0.5 * jnp.log(a * (b / both) / (2.0 * np.pi))
    front = front - stirling(a) - stirling(b) + stirling(both)
    own, other, part = jnp.where(below, a, b), jnp.where(below, b, a), jnp.where(below, z, 1.0 - z)
    direct = front + jnp.log(beta_below(0, 0, own, other, part))
    direct = jnp.where(direct < 0, direct, -TINY)
    value = jnp.where(below, direct, log1mexp(direct))
    return outside(inside, value, x, ~valid, -jnp.inf, 0.0)


def log_betaincc(a, b, x):
    """``log(1 - I_x(a, b))``."""
    return log_betainc(b, a, 1.0 - x)
