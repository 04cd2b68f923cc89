"""EM one step at a time."""

from itertools import pairwise

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem

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
