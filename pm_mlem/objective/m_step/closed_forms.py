"""Closed-form M-steps: the maximum of a weighted complete-data log-likelihood in one parameter.

A closed form is a pair of functions for one parameter (``role``) of one distribution. ``statistics`` returns
arrays of sufficient statistics with the density's axes; they are summed over all entries that use the same
parameter entry; ``maximise`` turns the sums into the new value. Nothing else has to be written for shared, tied
or re-indexed parameters: which entry of a parameter each entry of the distribution uses is found by probing. The
user's parameter may enter through a :class:`Link` (a rate for a scale, a precision for a standard deviation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from pytensor.tensor.random.basic import (
    BernoulliRV,
    BetaRV,
    BinomialRV,
    DirichletRV,
    ExponentialRV,
    GammaRV,
    GeometricRV,
    HalfNormalRV,
    InvGammaRV,
    LaplaceRV,
    LogNormalRV,
    MultinomialRV,
    NormalRV,
    PoissonRV,
    StudentTRV,
)
from pytensor.tensor.random.op import RandomVariable

Array = Any
Statistics = Callable[[Array, Sequence[Array], Array], tuple[Array, ...]]


@dataclass(frozen=True)
class ClosedForm:
    """How one parameter of one distribution is updated.

    Attributes
    ----------
    statistics : ``(weights, parameters, value) -> arrays``; weights are posterior probabilities times
        observation weights, broadcastable to the density
    maximise : ``(*sums) -> values``; the sums have the shape of the user's parameter
    order : parameters of one distribution are updated in this order, each with the new values of those before
    with_prior : ``(link, prior) -> function of (*sums, *parameters of the prior)`` that takes the place of
        ``maximise`` under "map"; the prior is that of the user's parameter, the value the distribution's parameter
    simplex : whether the parameter is a vector of probabilities instead of a number
    maximal : whether it is the maximum given the distribution's other parameters, or only climbs; then it gives way
        where the others have no closed form
    """

    statistics: Statistics
    maximise: Callable[..., Array]
    order: int = 0
    with_prior: Mapping[tuple[str, type[RandomVariable]], Callable[..., Array]] = field(default_factory=dict)
    simplex: bool = False
    maximal: bool = True


CLOSED_FORMS: dict[tuple[type[RandomVariable], int], ClosedForm] = {}


@dataclass(frozen=True)
class Link:
    """A distribution's parameter as an increasing or decreasing function of the user's parameter.

    ``value`` leads from the user's parameter to the distribution's, ``user`` back; ``rtol`` says how exactly an entry
    has to agree to be recognised.
    """

    name: str
    user: Callable[[Array], Array]
    value: Callable[[Array], Array]
    rtol: float = 1e-12


LINKS = (
    Link("identity", lambda value: value, lambda user: user, rtol=0.0),
    Link("reciprocal", lambda value: 1.0 / value, lambda user: 1.0 / user),
    Link("inverse square root", lambda value: value**-2.0, lambda user: user**-0.5),
    Link("square root", lambda value: value**2, lambda user: user**0.5),
    Link("exponential", jnp.log, jnp.exp),
    Link("logistic", lambda value: jnp.log(value) - jnp.log1p(-value), lambda user: 1.0 / (1.0 + jnp.exp(-user))),
)


def ratio(a: Array, b: Array) -> Array:
    """A / b, NaN where nothing was observed (the caller then keeps the old value)."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), jnp.nan)


def positive_part(a: Array) -> Array:
    return jnp.maximum(a, 0.0)


# --- location and scale -----------------------------------------------------------------------------------


def normal_mean(weights, parameters, value):
    _, sigma = parameters
    precision = weights / sigma**2
    return precision * value, precision


def normal_sd(weights, parameters, value):
    mu, _ = parameters
    return weights * (value - mu) ** 2, weights


def student_weights(weights, parameters, value):
    """Expected precisions of the Normal distributions that a Student-t distribution is a mixture of."""
    nu, mu, sigma = parameters
    return weights * (nu + 1.0) / (nu + ((value - mu) / sigma) ** 2)


def student_mean(weights, parameters, value):
    return normal_mean(student_weights(weights, parameters, value), parameters[1:], value)


def student_scale(weights, parameters, value):
    _, mu, _ = parameters
    return student_weights(weights, parameters, value) * (value - mu) ** 2, weights


def absolute_deviation(weights, parameters, value):
    mu, _ = parameters
    return weights * jnp.abs(value - mu), weights


def root_mean(squares, count):
    return jnp.sqrt(ratio(squares, count))


def mean_with_normal(weighted, precision, mu, sigma):
    return ratio(weighted + mu / sigma**2, precision + 1 / sigma**2)


def sd_with_half_normal(squares, count, loc, sigma):
    """The variance solves ``v**2 / sigma**2 + count * v = squares``."""
    root = 2.0 * squares / (count + jnp.sqrt(count**2 + 4.0 * squares / sigma**2))
    return jnp.where(loc == 0, jnp.sqrt(root), jnp.nan)


def sd_with_inverse_gamma(squares, count, shape, scale):
    total = count + shape + 1.0
    return (scale + jnp.sqrt(scale**2 + 4.0 * total * squares)) / (2.0 * total)


def variance_with_inverse_gamma(squares, count, shape, scale):
    return jnp.sqrt((squares / 2.0 + scale) / (count / 2.0 + shape + 1.0))


def precision_with_gamma(squares, count, shape, scale):
    return jnp.sqrt(ratio(squares / 2.0 + 1.0 / scale, count / 2.0 + shape - 1.0))


MEAN_PRIORS = {("identity", NormalRV): mean_with_normal}
SD_PRIORS = {
    ("identity", HalfNormalRV): sd_with_half_normal,
    ("identity", InvGammaRV): sd_with_inverse_gamma,
    ("square root", InvGammaRV): variance_with_inverse_gamma,
    ("inverse square root", GammaRV): precision_with_gamma,
}


def of_logarithm(statistics: Statistics) -> Statistics:
    """A statistic of the logarithm of the value."""
    return lambda weights, parameters, value: statistics(weights, parameters, jnp.log(value))


CLOSED_FORMS[NormalRV, 0] = ClosedForm(normal_mean, ratio, 0, MEAN_PRIORS)
CLOSED_FORMS[NormalRV, 1] = ClosedForm(normal_sd, root_mean, 1, SD_PRIORS)
CLOSED_FORMS[LogNormalRV, 0] = ClosedForm(of_logarithm(normal_mean), ratio, 0, MEAN_PRIORS)
CLOSED_FORMS[LogNormalRV, 1] = ClosedForm(of_logarithm(normal_sd), root_mean, 1, SD_PRIORS)
CLOSED_FORMS[HalfNormalRV, 1] = ClosedForm(normal_sd, root_mean, 1, SD_PRIORS)
CLOSED_FORMS[StudentTRV, 1] = ClosedForm(student_mean, ratio, 0, MEAN_PRIORS, maximal=False)
CLOSED_FORMS[StudentTRV, 2] = ClosedForm(student_scale, root_mean, 1, SD_PRIORS, maximal=False)


# --- means of counts, indicators and times ----------------------------------------------------------------


def weighted_value(weights, parameters, value):
    return weights * value, weights


def weighted_successes(weights, parameters, value):
    return weights * value, weights * parameters[0]


def weighted_trials(weights, parameters, value):
    return weights, weights * value


def probability_with_beta(successes, trials, a, b):
    return ratio(positive_part(successes + a - 1.0), trials + a + b - 2.0)


def rate_with_gamma(total, count, shape, scale):
    return ratio(positive_part(total + shape - 1.0), count + 1.0 / scale)


def rate_with_exponential(total, count, scale):
    return ratio(total, count + 1.0 / scale)


def inverse_rate_with_gamma(total, count, shape, scale):
    return ratio(total + 1.0 / scale, positive_part(count + shape - 1.0))


def inverse_rate_with_exponential(total, count, scale):
    return ratio(total + 1.0 / scale, count)


def scale_with_inverse_gamma(total, count, shape, scale):
    return (total + scale) / (count + shape + 1.0)


BETA = {("identity", BetaRV): probability_with_beta}
CLOSED_FORMS[BernoulliRV, 0] = ClosedForm(weighted_value, ratio, with_prior=BETA)
CLOSED_FORMS[BinomialRV, 1] = ClosedForm(weighted_successes, ratio, with_prior=BETA)
CLOSED_FORMS[GeometricRV, 0] = ClosedForm(weighted_trials, ratio, with_prior=BETA)
CLOSED_FORMS[PoissonRV, 0] = ClosedForm(
    weighted_value,
    ratio,
    with_prior={("identity", GammaRV): rate_with_gamma, ("identity", ExponentialRV): rate_with_exponential},
)
TIME_PRIORS = {
    ("reciprocal", GammaRV): inverse_rate_with_gamma,
    ("reciprocal", ExponentialRV): inverse_rate_with_exponential,
    ("identity", InvGammaRV): scale_with_inverse_gamma,
}
CLOSED_FORMS[ExponentialRV, 0] = ClosedForm(weighted_value, ratio, with_prior=TIME_PRIORS)
CLOSED_FORMS[LaplaceRV, 1] = ClosedForm(absolute_deviation, ratio, 1, TIME_PRIORS)


# --- vectors of probabilities -----------------------------------------------------------------------------


def weighted_counts(weights, parameters, value):
    return (weights[..., None] * value,)


def proportions(counts):
    return ratio(counts, counts.sum(axis=-1, keepdims=True))


def proportions_with_dirichlet(counts, concentration):
    return proportions(positive_part(counts + concentration - 1.0))


CLOSED_FORMS[MultinomialRV, 1] = ClosedForm(
    weighted_counts,
    proportions,
    with_prior={("identity", DirichletRV): proportions_with_dirichlet},
    simplex=True,
)
