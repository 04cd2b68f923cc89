"""Latent counts without an upper bound: the sum over their states, its bound, and what becomes of it."""

import numpy as np
import pymc as pm
import pytest
import scipy.stats as st
from scipy.special import logsumexp

import pm_mlem as mlem
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.objective.engine import engine_for

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(1)
SITES = RNG.poisson(12, size=15)
SEEN = RNG.binomial(SITES[:, None], 0.5, size=(15, 3))
STATES = np.arange(600)


def abundance():
    """Royle's N-mixture: repeated counts at sites, each animal seen with probability p."""
    with pm.Model() as model:
        rate, p = pm.Exponential("rate", 0.1), pm.Beta("p", 1, 1)
        animals = pm.Poisson("animals", rate, shape=15)
        pm.Binomial("seen", animals[:, None], p, observed=SEEN)
    return model


def log_likelihood(rate, p):
    seen = st.binom.logpmf(SEEN[:, :, None], STATES, p).sum(axis=1)
    return logsumexp(st.poisson.logpmf(STATES, rate) + seen, axis=1).sum()


def test_n_mixture_is_the_sum_over_all_counts():
    fit = mlem.fit(abundance(), random_seed=1, progressbar=False)
    rate, p = fit.estimates["rate"].item(), fit.estimates["p"].item()
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(log_likelihood(rate, p), abs=1e-8)
    for shift in (0.99, 1.01):
        assert log_likelihood(rate * shift, p) < fit.log_likelihood
        assert log_likelihood(rate, p * shift) < fit.log_likelihood
    probabilities = fit.latent_probabilities["animals"]
    np.testing.assert_allclose(probabilities.sum("animals_state"), 1.0)
    assert probabilities.sel(animals_state=slice(None, SEEN.max() - 1))[SEEN.max(axis=1).argmax()].sum() == 0


def test_the_bound_grows_with_the_optimum():
    """At the initial point few states matter; at the optimum they are in the hundreds."""
    counts = np.array([150, 160, 170, 180])
    with pm.Model() as model:
        rate = pm.Exponential("rate", 1.0)
        n = pm.Poisson("n", rate, shape=4)
        pm.Normal("y", 10.0 * n, 1.0, observed=10.0 * counts)
    assert engine_for(model, "mle").objective.tables.structure.latents[0].states < 50
    fit = mlem.fit(model, progressbar=False)
    assert fit.estimates["rate"].item() == pytest.approx(counts.mean(), abs=1e-4)
    assert fit.latent_probabilities.sizes["n_state"] > 200
    np.testing.assert_array_equal(fit.latent_probabilities["n"].argmax("n_state"), counts)


def test_a_binomial_of_a_latent_count():
    """Survivors of an unknown number: a thinned Poisson is Poisson again."""
    y = np.array([3, 5, 2, 4])
    with pm.Model() as model:
        rate = pm.Exponential("rate", 0.1)
        n = pm.Poisson("n", rate, shape=4)
        survivors = pm.Binomial("survivors", n, 0.5, shape=4)
        pm.Binomial("y", survivors, 0.4, observed=y)
    engine = engine_for(model, "mle", Choices(bounds={"n": 150}))
    u = engine.objective.space.unconstrain({"rate": np.array(20.0)})
    value = engine.objective.value_and_gradient(u, np.ones(4), engine.data)[0]
    assert float(value) == pytest.approx(st.poisson.logpmf(y, 20.0 * 0.5 * 0.4).sum(), abs=1e-8)


@pytest.mark.parametrize("distribution", ["geometric", "negative_binomial"])
def test_other_counts(distribution):
    y = np.array([2.3, 4.1])
    with pm.Model() as model:
        p = pm.Beta("p", 2, 2)
        if distribution == "geometric":
            n, peer = pm.Geometric("n", p, shape=2), st.geom(0.3)
        else:
            n, peer = pm.NegativeBinomial("n", n=2.5, p=p, shape=2), st.nbinom(2.5, 0.3)
        pm.Normal("y", n, 1.0, observed=y)
    engine = engine_for(model, "mle")
    u = engine.objective.space.unconstrain({"p": np.array(0.3)})
    value = engine.objective.value_and_gradient(u, np.ones(2), engine.data)[0]
    expected = logsumexp(peer.logpmf(STATES) + st.norm.logpdf(y[:, None], STATES, 1.0), axis=1).sum()
    assert float(value) == pytest.approx(expected, abs=1e-8)


def test_explain_tells_the_bound(capsys):
    mlem.explain(abundance())
    assert "above that the probability is below 1e-12" in capsys.readouterr().out


def test_what_is_neglected():
    """What the distribution has above the bound, or the posterior at it, whichever is more."""
    with pm.Model() as model:
        n = pm.Poisson("n", pm.Gamma("rate", 2, 1), shape=3)
        pm.Binomial("y", n=n, p=0.5, observed=[1, 2, 0])
    engine = engine_for(model, "mle", Choices(bounds={"n": 6}))
    u = engine.objective.space.unconstrain({"rate": 4.0})
    _, [latents], _ = engine.readout.evaluate(u, engine.data)
    above = st.poisson(4.0).sf(6)
    assert engine.neglected(u)["n"] == pytest.approx(max(above, np.asarray(latents)[-1].max()), rel=1e-9)
