"""Distributions whose weighted log-density depends on the data through a few sums.

Where a distribution's parameters are the same for many rows, the expected log-likelihood is a function of these
sums and of the parameters. It is maximised in *any* parameters of the model that enter in this way, transformed,
shared, or with whatever prior, without going through the data again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, gammaln, i0e
from pytensor.tensor.random.basic import (
    BetaRV,
    ExponentialRV,
    GammaRV,
    InvGammaRV,
    LogNormalRV,
    MvNormalRV,
    NormalRV,
    PoissonRV,
    VonMisesRV,
)
from pytensor.tensor.random.op import RandomVariable

from pm_mlem.objective.m_step.closed_forms import Statistics
from pm_mlem.objective.m_step.mvnormal import moments, moved_products
from pm_mlem.objective.weights import product

Array = Any


@dataclass(frozen=True)
class Reduction:
    """The sums of a distribution, and its expected log-density as a function of them.

    Attributes
    ----------
    sums : ``(weights, parameters, value, axes) -> arrays``, added up along axes of the density (kept at length 1)
    expected : ``(parameters, parameters for which the sums were formed, *sums) -> array``, without what does not
        depend on the parameters
    """

    sums: Callable[[Array, Sequence[Array], Array, Sequence[int]], Sequence[Array]]
    expected: Callable[..., Array]


REDUCTIONS: dict[type[RandomVariable], Reduction] = {}


def of_statistics(statistics: Statistics, expected: Callable[..., Array]) -> Reduction:
    """A reduction by statistics with the density's axes; ``expected`` is a function of (parameters, *sums)."""

    def sums(weights, parameters, value, axes):
        ones = jnp.ones_like(weights)
        return [product(weights, s).sum(axis=tuple(axes), keepdims=True) for s in statistics(ones, parameters, value)]

    return Reduction(sums, lambda parameters, before, *sums: expected(parameters, *sums))


# --- Normal -----------------------------------------------------------------------------------------------


def normal_sums(weights, parameters, value, axes):
    """Deviations from the current mean, so that nothing cancels."""
    deviation = value - parameters[0]
    powers = [product(weights, deviation**k) for k in range(3)]
    return [p.sum(axis=tuple(axes), keepdims=True) for p in powers]


def normal_expected(parameters, before, count, deviations, squares):
    sigma, change = parameters[1], parameters[0] - before[0]
    return -count * jnp.log(sigma) - 0.5 * (squares - 2 * change * deviations + count * change**2) / sigma**2


@jax.custom_jvp
def inverse_and_log_determinant(matrix):
    """Of positive definite matrices; derivatives of any order are matrix products only."""
    factor = jnp.linalg.cholesky(matrix)
    identity = jnp.broadcast_to(jnp.eye(matrix.shape[-1]), matrix.shape)
    half = jax.scipy.linalg.solve_triangular(factor, identity, lower=True)
    return jnp.swapaxes(half, -1, -2) @ half, 2.0 * jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(axis=-1)


@inverse_and_log_determinant.defjvp
def _(primals, tangents):
    [matrix], [change] = primals, tangents
    inverse, log_determinant = inverse_and_log_determinant(matrix)
    return (inverse, log_determinant), (-inverse @ change @ inverse, (inverse * change).sum(axis=(-2, -1)))


def mvnormal_expected(parameters, before, count, deviations, products):
    mu, covariance = parameters
    moved = moved_products(count, deviations, products, mu - before[0])
    inverse, log_determinant = inverse_and_log_determinant(covariance)
    return -0.5 * (count * log_determinant + (inverse * moved).sum(axis=(-2, -1)))


REDUCTIONS[NormalRV] = Reduction(normal_sums, normal_expected)
REDUCTIONS[LogNormalRV] = Reduction(lambda w, p, value, axes: normal_sums(w, p, jnp.log(value), axes), normal_expected)
REDUCTIONS[MvNormalRV] = Reduction(lambda w, p, value, axes: moments(w, p[0], value, axes), mvnormal_expected)


# --- positive numbers, proportions, angles, counts --------------------------------------------------------


def gamma_statistics(weights, parameters, value):
    return weights, weights * value, weights * jnp.log(value)


def gamma_expected(parameters, count, total, logarithms):
    shape, scale = parameters
    return (shape - 1) * logarithms - total / scale - count * (gammaln(shape) + shape * jnp.log(scale))


def inverse_gamma_statistics(weights, parameters, value):
    return weights, weights / value, weights * jnp.log(value)


def inverse_gamma_expected(parameters, count, inverses, logarithms):
    shape, scale = parameters
    return count * (shape * jnp.log(scale) - gammaln(shape)) - (shape + 1) * logarithms - scale * inverses


def beta_statistics(weights, parameters, value):
    return weights, weights * jnp.log(value), weights * jnp.log1p(-value)


def beta_expected(parameters, count, logarithms, complements):
    a, b = parameters
    return (a - 1) * logarithms + (b - 1) * complements - count * betaln(a, b)


def von_mises_statistics(weights, parameters, value):
    return weights, weights * jnp.cos(value), weights * jnp.sin(value)


def von_mises_expected(parameters, count, cosines, sines):
    mu, kappa = parameters
    return kappa * (cosines * jnp.cos(mu) + sines * jnp.sin(mu) - count) - count * jnp.log(i0e(kappa))


def total_statistics(weights, parameters, value):
    return weights, weights * value


def exponential_expected(parameters, count, total):
    [scale] = parameters
    return -count * jnp.log(scale) - total / scale


def poisson_expected(parameters, count, total):
    [rate] = parameters
    return jnp.where(total > 0, total * jnp.log(rate), 0.0) - count * rate


REDUCTIONS[GammaRV] = of_statistics(gamma_statistics, gamma_expected)
REDUCTIONS[InvGammaRV] = of_statistics(inverse_gamma_statistics, inverse_gamma_expected)
REDUCTIONS[BetaRV] = of_statistics(beta_statistics, beta_expected)
REDUCTIONS[VonMisesRV] = of_statistics(von_mises_statistics, von_mises_expected)
REDUCTIONS[ExponentialRV] = of_statistics(total_statistics, exponential_expected)
REDUCTIONS[PoissonRV] = of_statistics(total_statistics, poisson_expected)
