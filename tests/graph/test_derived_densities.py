"""Densities that PyMC derives from other graphs, on copies of the model's variables."""

import warnings

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pytensor import function

from pm_mlem.graph.read import read
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.graph.roles.structure import PLAIN
from pm_mlem.graph.roles.transforms import initial_values

RNG = np.random.default_rng(0)
WALK = np.cumsum(RNG.normal(0.1, 0.5, (12, 2)), axis=0)
START = {"init_dist": pm.Normal.dist(0, 10)}


def gaussian():
    pm.GaussianRandomWalk("w", mu=pm.Normal("mu"), sigma=pm.HalfNormal("s"), **START, observed=WALK[:, 0])


def batched():
    mu, s = pm.Normal("mu", shape=2, initval=[0.1, 0.3]), pm.HalfNormal("s")
    pm.GaussianRandomWalk("w", mu=mu, sigma=s, **START, observed=WALK.T)


def multivariate():
    mu, s = pm.Normal("mu", shape=2), pm.HalfNormal("s", shape=2)
    first = pm.MvNormal.dist(np.zeros(2), np.eye(2))
    pm.MvGaussianRandomWalk("w", mu=mu, chol=pt.diag(s), init_dist=first, observed=WALK)


def heavy_tails():
    steps = pm.StudentT.dist(nu=pm.Gamma("nu", 2, 0.1), sigma=pm.HalfNormal("s"))
    pm.RandomWalk("w", innovation_dist=steps, **START, observed=WALK[:, 0])


def unobserved():
    x = pm.GaussianRandomWalk("x", mu=pm.Normal("mu"), sigma=0.5, **START, shape=12)
    pm.Normal("y", x, 1.0, observed=WALK[:, 0])


def below_a_function():
    def positive(mu, size):
        return pt.exp(pm.Normal.dist(mu, 1.0, size=size))

    pm.CustomDist("w", pm.Normal("mu"), dist=positive, observed=np.exp(WALK[:, 0]))


def areas():
    near = np.array([[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0.0]])
    alpha, tau = pm.Beta("alpha", 2, 2), pm.HalfNormal("tau")
    pm.CAR("phi", mu=np.zeros(4), W=near, alpha=alpha, tau=tau, observed=[0.3, -0.2, 0.5, 0.1])


CASES = [gaussian, batched, multivariate, heavy_tails, unobserved, below_a_function, areas]


@pytest.mark.parametrize("build", CASES, ids=lambda f: f.__name__)
def test_the_density_is_pymcs(build):
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC's steps, lengths and transposes
        build()
        expected = model.compile_logp(jacobian=False, mode=PLAIN.including("fast_compile"))(model.initial_point())
    tables = read(model, Choices(with_prior=True))
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    outputs = [tables.log_prior, *[d.array for d in tables.densities]]
    run = function(inputs, outputs, mode=PLAIN, on_unused_input="ignore")
    values = run(*initial_values(tables.structure), *[a for _, a in tables.data])
    assert sum(np.sum(v) for v in values) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("reduce", [pt.sum, pt.prod, pt.max, pt.min], ids=lambda f: f.__name__)
@pytest.mark.parametrize("axis", [-1, 0, None])
def test_reductions_of_a_scalar_are_the_scalar(reduce, axis):
    with pm.Model() as model:
        s = pm.HalfNormal("s", 1)
        pm.Potential("p", -3 * reduce(pt.log(s), axis=axis) - 2 / s)
    tables = read(model)
    [density] = tables.densities
    value = function(tables.free_inputs, density.array, mode=PLAIN)
    assert density.lifted.shape == ()
    assert float(value(0.5)) == pytest.approx(-3 * np.log(0.5) - 4)


def test_all_of_a_scalar_condition():
    with pm.Model() as model:
        s = pm.HalfNormal("s", 1)
        pm.Potential("p", pt.switch(pt.all(s > 0, axis=-1), -s, -np.inf))
    tables = read(model)
    assert float(function(tables.free_inputs, tables.densities[0].array, mode=PLAIN)(2.0)) == -2.0
