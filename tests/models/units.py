"""Random models whose data can be given in other units, and what happens to estimates then.

A model is drawn by :func:`draw`. Its data are changed by :class:`Units`: columns of the design times powers of ten
and shifted, the response times a power of ten. They say what becomes of estimates, covariances and log-likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

HALF = pm.HalfNormal


@dataclass(frozen=True, eq=False)
class Units:
    """Factors and shifts.

    Attributes
    ----------
    columns : (k,) factors of the columns of the design; that of the intercept is 1
    shifts : (k,) what is added to the columns before, in their own standard deviations; that of the intercept is 0
    response : factor of the response
    """

    columns: np.ndarray
    shifts: np.ndarray
    response: float = 1.0

    def design(self, x: np.ndarray) -> np.ndarray:
        return (x + self.shifts) * self.columns

    def coefficients(self, beta: np.ndarray, covariance: np.ndarray, linear: bool) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (intercept first) and their covariance in these units; ``linear``: in units of the response."""
        change = np.diag(1.0 / self.columns)
        change[0, 1:] = -self.shifts[1:]
        if linear:
            change *= self.response
        return change @ beta, change @ covariance @ change.T


PLAIN = Units(np.ones(1), np.zeros(1))


@dataclass(frozen=True, eq=False)
class Case:
    """A family with data.

    Attributes
    ----------
    family : its name
    x : (n, k) design with an intercept as the first column; standard deviation 1, mean 0 otherwise
    y : response
    linear : whether coefficients have the unit of the response
    scaled : names of parameters in the unit of the response
    define : (design, response) -> None, within a model
    """

    family: str
    x: np.ndarray
    y: np.ndarray
    linear: bool
    scaled: tuple[str, ...]
    define: Callable
    options: dict[str, Any] = field(default_factory=dict)

    def model(self, units: Units) -> pm.Model:
        with pm.Model() as model:
            self.define(units.design(self.x), self.y * units.response if self.linear else self.y)
        return model

    def jacobian(self, units: Units) -> float:
        """What is added to the log-likelihood: a density is per unit of the response."""
        return -self.y.size * np.log(units.response) if self.linear else 0.0


def predictor(x):
    return x @ pm.Normal("b", 0, 1, shape=x.shape[1])


def linear(x, y):
    pm.Normal("y", predictor(x), HALF("s", 1), observed=y)


def student(x, y):
    pm.StudentT("y", nu=5.0, mu=predictor(x), sigma=HALF("s", 1), observed=y)


def logit(x, y):
    pm.Bernoulli("y", logit_p=predictor(x), observed=y)


def probit(x, y):
    pm.Bernoulli("y", pm.math.invprobit(predictor(x)), observed=y)


def cloglog(x, y):
    pm.Bernoulli("y", 1 - pt.exp(-pt.exp(predictor(x))), observed=y)


def poisson(x, y):
    pm.Poisson("y", pt.exp(predictor(x)), observed=y)


def negative_binomial(x, y):
    pm.NegativeBinomial("y", mu=pt.exp(predictor(x)), alpha=HALF("alpha", 5), observed=y)


def gamma(x, y):
    shape = HALF("shape", 5)
    pm.Gamma("y", shape, shape / pt.exp(predictor(x)), observed=y)


def mixture(x, y):
    k = 2
    w = pm.Dirichlet("w", np.ones(k))
    b = pm.Normal("b", 0, 1, shape=x.shape[1] - 1)
    mu = pm.Normal("mu", 0, 1, shape=k)
    z = pm.Categorical("z", w, shape=len(y))
    pm.Normal("y", mu[z] + x[:, 1:] @ b, HALF("s", 1), observed=y)


def chain(x, y):
    from pymc_extras.distributions import DiscreteMarkovChain

    p = pm.Dirichlet("P", np.ones((2, 2)))
    mu = pm.Normal("mu", 0, 1, shape=2)
    z = DiscreteMarkovChain("z", P=p, init_dist=pm.Categorical.dist([0.5, 0.5]), shape=len(y))
    pm.Normal("y", mu[z], HALF("s", 1), observed=y)


def design_of(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    x = rng.normal(size=(n, k))
    if k:
        x = (x - x.mean(axis=0)) / x.std(axis=0)
    return np.column_stack([np.ones(n), x])


def draw(rng: np.random.Generator, family: str) -> Case:
    """A case of a family with random data."""
    n, k = 60, int(rng.integers(1, 4))
    x = design_of(rng, n, k)
    beta = rng.normal(scale=0.5, size=k + 1)
    eta = x @ beta
    if family in ("linear", "student"):
        noise = rng.normal(size=n) if family == "linear" else rng.standard_t(5, n)
        return Case(family, x, eta + noise, True, ("s",), {"linear": linear, "student": student}[family])
    if family in ("logit", "probit", "cloglog"):
        y = (eta + rng.logistic(size=n) > 0).astype(int)
        return Case(family, x, y, False, (), {"logit": logit, "probit": probit, "cloglog": cloglog}[family])
    if family == "poisson":
        return Case(family, x, rng.poisson(np.exp(1 + eta)), False, (), poisson)
    if family == "negative binomial":
        return Case(family, x, rng.poisson(np.exp(1 + eta) * rng.gamma(2.0, 0.5, n)), False, (), negative_binomial)
    if family == "gamma":
        return Case(family, x, rng.gamma(2.0, 0.5, n) * np.exp(eta), False, (), gamma)
    z = rng.random(n) < 0.4
    if family == "mixture":
        y = np.where(z, 4.0, 0.0) + (x[:, 1:] @ beta[1:]) + 0.7 * rng.normal(size=n)
        return Case(family, x, y, True, ("s", "mu"), mixture)
    z = np.cumsum(rng.random(n) < 0.1) % 2
    return Case(family, x[:, :1], 4.0 * z + 0.7 * rng.normal(size=n), True, ("s", "mu"), chain)


FAMILIES = (
    "linear", "student", "logit", "probit", "cloglog", "poisson", "negative binomial", "gamma", "mixture", "chain",
)  # fmt: skip


def units_of(rng: np.random.Generator, case: Case, widest: int = 8) -> Units:
    """Random units: factors from ``10**-widest`` to ``10**widest``, shifts of up to 100 standard deviations."""
    k = case.x.shape[1]
    columns = 10.0 ** rng.integers(-widest, widest + 1, size=k)
    shifts = rng.choice([0.0, 1.0, 10.0, 100.0], size=k)
    columns[0], shifts[0] = 1.0, 0.0
    if case.family in ("mixture", "chain"):
        shifts[:] = 0.0
    return Units(columns, shifts, 10.0 ** rng.integers(-widest, widest + 1) if case.linear else 1.0)
