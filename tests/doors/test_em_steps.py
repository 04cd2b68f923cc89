"""EM one step at a time."""

from itertools import pairwise

import numpy as np
import pymc as pm
import pytest
from scipy.optimize import minimize
from scipy.stats import t, weibull_min

import pm_mlem as mlem

pytestmark = pytest.mark.compiled

Y = np.array([-2.3, -1.4, 0.1, 0.9, 1.8, 2.2, 2.9])


@pytest.fixture(scope="module")
def mixture():
    with pm.Model(coords={"component": ["low", "high"]}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="component")
        mu = pm.Normal("mu", 0, 5, dims="component")
        sigma = pm.HalfNormal("sigma", 3)
        z = pm.Categorical("z", w, shape=len(Y))
        pm.Normal("y", mu[z], sigma, observed=Y)
    return model


START = {"mu": [-1.0, 1.0], "sigma": 1.0, "w": [0.5, 0.5]}


def by_hand(w, mu, sigma):
    """One textbook EM step in plain NumPy, and the log-likelihood before it."""
    joint = np.log(w) - 0.5 * ((Y[:, None] - mu) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
    units = np.logaddexp.reduce(joint, axis=1)
    r = np.exp(joint - units[:, None])
    n = r.sum(axis=0)
    new_mu = r.T @ Y / n
    new_sigma = np.sqrt((r * (Y[:, None] - new_mu) ** 2).sum() / len(Y))
    entropy = -np.sum(r * np.log(r))
    return (n / len(Y), new_mu, new_sigma), units.sum(), r, units.sum() - entropy


def test_steps_equal_the_textbook(mixture):
    state = (np.array([0.5, 0.5]), np.array([-1.0, 1.0]), 1.0)
    for step in mlem.em_steps(mixture, start=START, max_iterations=5):
        following, value, responsibilities, q = by_hand(*state)
        assert step.log_likelihood == pytest.approx(value, abs=1e-10)
        assert step.q_before == pytest.approx(q, abs=1e-8)
        np.testing.assert_allclose(step.estimates["mu"], state[1], atol=1e-10)
        np.testing.assert_allclose(step.latent_probabilities["z"], responsibilities, atol=1e-10)
        for name, expected in zip(("w", "mu", "sigma"), following, strict=True):
            np.testing.assert_allclose(step.next_estimates[name], expected, atol=1e-9)
        state = following
    assert step.iteration == 4


RNG = np.random.default_rng(4)
LATE = RNG.random(300) < 0.4
TIMES = np.where(LATE, 5.0 * RNG.weibull(2.5, 300), RNG.weibull(1.2, 300))
HEAVY = np.where(LATE, 4.0 + RNG.standard_t(3, 300), -1.0 + 0.7 * RNG.standard_t(5, 300))


def weibull(z):
    alpha, beta = pm.Gamma("alpha", 2, 1, shape=2), pm.Gamma("beta", 2, 1, shape=2)
    pm.Weibull("y", alpha[z], beta[z], observed=TIMES)
    return {"alpha": [1.0, 1.5], "beta": [0.7, 3.0]}, lambda a, b: weibull_min.logpdf(TIMES, np.exp(a), 0, np.exp(b))


def censored_weibull(z):
    alpha, beta = pm.Gamma("alpha", 2, 1, shape=2), pm.Gamma("beta", 2, 1, shape=2)
    seen = np.minimum(TIMES, 4.0)
    pm.Censored("y", pm.Weibull.dist(alpha[z], beta[z]), lower=None, upper=4.0, observed=seen)

    def density(log_alpha, log_beta):
        law = weibull_min(np.exp(log_alpha), 0, np.exp(log_beta))
        return np.where(seen < 4.0, law.logpdf(seen), law.logsf(seen))

    return {"alpha": [1.0, 1.5], "beta": [0.7, 3.0]}, density


def student(z):
    nu = pm.Gamma("nu", 2, 0.1, shape=2)
    mu, sigma = pm.Normal("mu", 0, 5, shape=2), pm.HalfNormal("sigma", 2, shape=2)
    pm.StudentT("y", nu[z], mu=mu[z], sigma=sigma[z], observed=HEAVY)
    start = {"nu": [6.0, 6.0], "mu": [-2.0, 3.0], "sigma": [1.0, 1.5]}
    return start, lambda nu, mu, sigma: t.logpdf(HEAVY, np.exp(nu), mu, np.exp(sigma))


@pytest.mark.slow
@pytest.mark.parametrize("family", [weibull, censored_weibull, student])
def test_an_m_step_is_the_maximum_where_the_data_have_no_sums(family):
    """Against a numeric maximiser of the weighted log-likelihood of each component, with scales as logarithms."""
    with pm.Model() as model:
        z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=300)
        start, density = family(z)
    step = next(mlem.em_steps(model, start=start))
    shares = step.latent_probabilities["z"].values

    def on_line(name, value):
        return value if name == "mu" else np.log(value)

    for k in range(2):

        def loss(v, k=k):
            return -float(shares[:, k] @ density(*v))

        first = [on_line(name, value[k]) for name, value in start.items()]
        best = minimize(loss, first, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-11, "maxiter": 5000})
        found = [on_line(name, step.next_estimates[name].values[k]) for name in start]
        assert loss(found) <= best.fun + 1e-9
        np.testing.assert_allclose(found, best.x, rtol=1e-6, atol=1e-6)
    fits = [mlem.fit(model, method=m, starts=[start], progressbar=False) for m in ("em", "newton")]
    assert all(fit.converged for fit in fits)
    assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, abs=1e-6)
    for name in start:
        np.testing.assert_allclose(fits[0].estimates[name], fits[1].estimates[name], rtol=2e-3)


@pytest.mark.parametrize("estimator", ["mle", "map"])
def test_the_bound_touches_and_never_exceeds(mixture, estimator):
    steps = list(mlem.em_steps(mixture, estimator, start=START, max_iterations=6))
    for step, following in pairwise(steps):
        assert step.q_after >= step.q_before
        assert following.log_likelihood >= step.lower_bound - 1e-9
        assert step.lower_bound_at({}) == pytest.approx(step.log_likelihood, abs=1e-9)
        for place in ([-3.0, 2.0], [0.5, 4.0], [-1.2, 1.1]):
            assert step.lower_bound_at({"mu": place}) <= step.log_likelihood_at({"mu": place}) + 1e-9
        assert step.log_likelihood_at({}) == pytest.approx(step.log_likelihood, abs=1e-9)


def test_ends_at_the_optimum_of_fit(mixture):
    *_, last = mlem.em_steps(mixture, start=START)
    fit = mlem.fit(mixture, method="em", starts=[START], progressbar=False)
    assert last.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-6)
    assert "EM step" in repr(last)


def test_bad_input(mixture):
    with pytest.raises(ValueError, match="start: 'nu' is not a free parameter"):
        mlem.em_steps(mixture, start={"nu": 1.0})
    step = next(mlem.em_steps(mixture, start=START))
    with pytest.raises(ValueError, match="outside the support"):
        step.lower_bound_at({"sigma": -1.0})
