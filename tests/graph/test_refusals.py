"""What is wrong with a model is said by the name of what is to blame, before anything is compiled."""

import time

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import pm_mlem as mlem
from pm_mlem.graph.read import read
from pm_mlem.graph.tables.tabulate import check_informed

Y = np.array([0.3, 1.2, 0.7, 2.0])
BAD = np.array([0.3, 1.2, -1.0, 2.0])


def refusal(build, error=ValueError):
    with pm.Model() as model:
        build()
    with pytest.raises(error) as caught:
        check_informed(read(model))
    return str(caught.value)


SUPPORTS = {
    "Gamma": lambda a: pm.Gamma("y", a, 1, observed=BAD),
    "LogNormal": lambda a: pm.LogNormal("y", a, 1, observed=BAD),
    "Beta": lambda a: pm.Beta("y", a, 1, observed=np.array([0.3, 0.2, -1.0])),
}


@pytest.mark.parametrize("name", SUPPORTS)
def test_values_outside_a_support(name):
    sentence = refusal(lambda: SUPPORTS[name](pm.HalfNormal("a")))
    assert sentence.startswith(
        f"The observed value -1 at index (2,) of 'y' is outside the support of its distribution ({name})"
    )


def test_values_outside_the_support_of_a_mixture():
    def build():
        z = pm.Bernoulli("z", 0.5, shape=4)
        pm.Gamma("y", pm.HalfNormal("a", shape=2)[z], 1, observed=BAD)

    assert "The observed value -1 at index (2,) of 'y'" in refusal(build)


@pytest.mark.parametrize("sigma", [-1, 0])
def test_constants_that_a_distribution_does_not_allow(sigma):
    sentence = refusal(lambda: pm.Normal("y", pm.Normal("a"), sigma, observed=Y))
    assert sentence == (
        "'y' has an impossible distribution: a constant in the model breaks its condition 'sigma > 0'. Correct that "
        "argument."
    )


def test_covariates_that_are_missing_or_undefined():
    x = np.array([1.0, np.nan, 2.0, -3.0])
    sentence = refusal(lambda: pm.Normal("y", pm.Normal("a") * pt.constant(x, name="x"), observed=Y))
    assert sentence.startswith("'x', a covariate or an index of 'y', contains NaN at index (1,). Remove those rows")
    sentence = refusal(lambda: pm.Normal("y", pm.Normal("a") * pt.log(BAD), observed=Y))
    assert "which 'y' depends on, is not a number at index (2,)" in sentence


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_simulators():
    sentence = refusal(
        lambda: pm.Simulator("y", lambda rng, a, size: rng.normal(a, 1, size=4), pm.Normal("a"), observed=Y),
        mlem.UnsupportedModelError,
    )
    assert sentence.startswith("'y' is a pm.Simulator: it has draws, but no likelihood")


def test_minibatches():
    sentence = refusal(
        lambda: pm.Normal("y", pm.Normal("a") * pm.Minibatch(Y, batch_size=2), observed=Y[:2]),
        mlem.UnsupportedModelError,
    )
    assert "reads a pm.Minibatch" in sentence and "Pass the data themselves" in sentence


@pytest.mark.parametrize("states", [10**6, 10**7, 10**9])
def test_too_many_states(states):
    def build():
        pm.Normal("y", pm.Normal("a") * pm.DiscreteUniform("z", 0, states), observed=Y)

    began = time.process_time()
    sentence = refusal(build, mlem.UnsupportedModelError)
    assert sentence.startswith(f"The discrete variable 'z' has {states + 1:,} states")
    assert time.process_time() - began < 1.0


def test_too_many_states_together():
    def build():
        z = [pm.DiscreteUniform(f"z{i}", 0, 3000) for i in range(2)]
        pm.Normal("y", pm.Normal("a") * z[0] * z[1], observed=np.tile(Y, 20))

    began = time.process_time()
    assert "a table over 9,006,001 states" in refusal(build, mlem.UnsupportedModelError)
    assert time.process_time() - began < 2.0


def test_imputed_censoring():
    def build():
        mu, sigma = pm.Normal("mu"), pm.HalfNormal("sigma")
        pm.Normal("late", mu, sigma, transform=pm.distributions.transforms.Interval(2, None), shape=3)
        pm.Normal("y", mu, sigma, observed=Y)

    sentence = refusal(build, mlem.UnsupportedModelError)
    assert sentence.startswith("'late' is a continuous latent variable: the data inform it through 'mu', 'sigma' alone")
    assert "pm.Censored" in sentence and "remove" not in sentence


@pytest.mark.parametrize("kind", ["latent", "parameter"])
def test_fixed_lengths_after_set_data(kind):
    with pm.Model() as model:
        data = pm.Data("data", Y)
        if kind == "latent":
            mean = pm.Normal("mu", shape=2)[pm.Bernoulli("z", 0.5, shape=4)]
        else:
            mean = pm.Normal("z", shape=4)
        pm.Normal("y", mean, 1, observed=data)
        pm.set_data({"data": np.r_[Y, 1.0]})
    with pytest.raises(ValueError, match=r"'y' combines arrays of the shapes .*'z' has shape \(4,\)\).*with dims=, or"):
        read(model)
