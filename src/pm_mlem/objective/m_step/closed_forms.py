"""Closed-form M-steps: the maximum of a weighted complete-data log-likelihood in one parameter.

A closed form is a pair of functions for one parameter (``role``) of one distribution. ``statistics`` returns
arrays of sufficient statistics with the density's axes; they are summed over all entries that use the same
parameter entry; ``maximise`` turns the sums into the new value. Nothing else has to be written for shared, tied
or re-indexed parameters: which entry of a parameter each entry of the distribution uses is found by probing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from pytensor.tensor.random.basic import (
    BernoulliRV,
    BetaRV,
    BinomialRV,
    GammaRV,
    LogNormalRV,
    NormalRV,
    PoissonRV,
)
from pytensor.tensor.random.op import RandomVariable

Array = Any


@dataclass(frozen=True)
class ClosedForm:
    """How one parameter of one distribution is updated.

    Attributes
    ----------
    statistics : ``(weights, parameters, value) -> arrays``; weights are posterior probabilities times
        observation weights, broadcastable to the density
    maximise : ``(*sums) -> values``
    order : parameters of one distribution are updated in this order, each with the new values of those before
    """

    statistics: Callable[[Array, Sequence[Array], Array], tuple[Array, ...]]
    maximise: Callable[..., Array]
    order: int = 0


CLOSED_FORMS: dict[tuple[type[RandomVariable], int], ClosedForm] = {}
CONJUGATE: dict[tuple[type[RandomVariable], int, type[RandomVariable]], Callable[..., tuple[Array, ...]]] = {}
"""(distribution, role, prior) -> function of the prior's parameters that returns what is added to the sums."""


def ratio(a: Array, b: Array) -> Array:
    """A / b, NaN where nothing was observed (the caller then keeps the old value)."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), jnp.nan)


# --- Normal -----------------------------------------------------------------------------------------------


def normal_mean(weights, parameters, value):
    _, sigma = parameters
    precision = weights / sigma**2
    return precision * value, precision


def normal_sd(weights, parameters, value):
    mu, _ = parameters
    return weights * (value - mu) ** 2, weights


CLOSED_FORMS[NormalRV, 0] = ClosedForm(normal_mean, ratio, order=0)
CLOSED_FORMS[NormalRV, 1] = ClosedForm(normal_sd, lambda a, b: jnp.sqrt(ratio(a, b)), order=1)
CONJUGATE[NormalRV, 0, NormalRV] = lambda mu, sigma: (mu / sigma**2, 1 / sigma**2)


def of_logarithm(statistics):
    """A statistic of the logarithm of the value."""
    return lambda weights, parameters, value: statistics(weights, parameters, jnp.log(value))


for role in (0, 1):
    form = CLOSED_FORMS[NormalRV, role]
    CLOSED_FORMS[LogNormalRV, role] = ClosedForm(of_logarithm(form.statistics), form.maximise, form.order)
CONJUGATE[LogNormalRV, 0, NormalRV] = CONJUGATE[NormalRV, 0, NormalRV]


# --- means of counts and indicators -----------------------------------------------------------------------


def weighted_value(weights, parameters, value):
    return weights * value, weights


def weighted_successes(weights, parameters, value):
    return weights * value, weights * parameters[0]


CLOSED_FORMS[BernoulliRV, 0] = ClosedForm(weighted_value, ratio)
CLOSED_FORMS[BinomialRV, 1] = ClosedForm(weighted_successes, ratio)
CLOSED_FORMS[PoissonRV, 0] = ClosedForm(weighted_value, ratio)
CONJUGATE[BernoulliRV, 0, BetaRV] = lambda a, b: (a - 1, a + b - 2)
CONJUGATE[BinomialRV, 1, BetaRV] = CONJUGATE[BernoulliRV, 0, BetaRV]
CONJUGATE[PoissonRV, 0, GammaRV] = lambda shape, scale: (shape - 1, 1 / scale)
