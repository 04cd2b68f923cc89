"""Laplace's approximation: against exact posteriors, its diagnosis, what it refuses."""

import arviz as az
import numpy as np
import pymc as pm
import pytest
from scipy.stats import multivariate_normal

import pm_mlem as mlem
from pm_mlem.inference.normal import normal_at

pytestmark = pytest.mark.compiled

COUNTS = np.repeat([1, 0], [6, 4])


def regression():
    x, y = np.linspace(-1, 1, 7), np.array([0.1, 0.4, 0.2, 0.9, 1.1, 0.8, 1.6])
    with pm.Model() as model:
        b = pm.Normal("b", 0, 2, shape=2)
        pm.Deterministic("end", b[0] + b[1])
        pm.Normal("y", b[0] + b[1] * x, 0.5, observed=y)
    design = np.stack([np.ones(7), x], axis=1)
    precision = design.T @ design / 0.25 + np.eye(2) / 4
    covariance = np.linalg.inv(precision)
    return model, covariance @ design.T @ y / 0.25, covariance


def coin():
    with pm.Model() as model:
        pm.Bernoulli("flips", pm.Beta("p", 2, 2), observed=COUNTS)
    return model


@pytest.mark.parametrize("estimator", ["mle", "map"])
def test_a_normal_posterior_is_exact_whatever_the_estimator(estimator):
    model, mean, covariance = regression()
    tree = mlem.fit(model, estimator, progressbar=False).laplace(200, random_seed=1)
    np.testing.assert_allclose(tree["approximation"]["mean"], mean, atol=1e-10)
    np.testing.assert_allclose(tree["approximation"]["covariance"], covariance, atol=1e-10)
    attributes = tree["posterior"].attrs
    assert attributes["pareto_k"] == -np.inf and "exact" in attributes["message"]
    np.testing.assert_allclose(tree["sample_stats"]["log_weight"], -np.log(200))
    posterior = tree["posterior"]
    np.testing.assert_allclose(posterior["end"], posterior["b"].sum("b_dim_0"))
    assert posterior.sizes["chain"] == 1 and list(tree["observed_data"]) == ["y"]


def test_mode_and_curvature_are_those_of_the_unconstrained_density():
    """Beta(8, 6): p^8 (1 - p)^6 by log-odds, with the Jacobian; importance weights give the exact mean."""
    tree = mlem.fit(coin(), progressbar=False).laplace(4000, random_seed=2)
    mode = 8 / 14
    assert tree["approximation"]["mean"].item() == pytest.approx(np.log(mode / (1 - mode)), abs=1e-6)
    assert tree["approximation"]["covariance"].item() == pytest.approx(1 / (14 * mode * (1 - mode)), abs=1e-6)
    p = tree["posterior"]["p"].values.ravel()
    weights = np.exp(tree["sample_stats"]["log_weight"].values.ravel())
    assert weights.sum() == pytest.approx(1.0)
    variance = 8 * 6 / (14**2 * 15)
    assert weights @ p == pytest.approx(8 / 14, abs=5 * np.sqrt(variance / 4000))
    assert weights @ (p - weights @ p) ** 2 == pytest.approx(variance, rel=0.15)
    assert tree["posterior"].attrs["pareto_k"] < 0.5


def test_resampling_brings_the_draws_to_the_posterior():
    fit = mlem.fit(coin(), progressbar=False)
    plain, better = (fit.laplace(4000, random_seed=3, resample=r)["posterior"]["p"].values for r in (False, True))
    exact = np.sqrt(8 * 6 / (14**2 * 15))
    assert abs(better.std() - exact) < abs(plain.std() - exact)
    assert len(np.unique(better)) < 4000 == len(np.unique(plain))


def test_latents_come_with_it(faithful_fit):
    tree = faithful_fit.laplace(100, random_seed=1)
    latents = list(tree["latent_posterior"].data_vars)
    assert latents and set(latents) <= set(tree["posterior"].data_vars)
    for name in latents:
        np.testing.assert_allclose(tree["latent_posterior"][name].sum(f"{name}_state"), 1.0)
    assert set(az.summary(tree, var_names=["mu"]).index) == {"mu[short]", "mu[long]"}
    again = faithful_fit.laplace(100, random_seed=1)
    np.testing.assert_array_equal(again["posterior"][latents[0]], tree["posterior"][latents[0]])


def test_a_bad_approximation_is_called_bad():
    """The posterior of a scale behind one observation has a tail that no normal distribution has."""
    with pm.Model() as model:
        sigma = pm.HalfCauchy("sigma", 5)
        pm.Normal("y", 0, sigma, observed=[1.0])
    attributes = mlem.fit(model, progressbar=False).laplace(2000, random_seed=1)["posterior"].attrs
    assert attributes["pareto_k"] > attributes["good_k"]
    assert "not to be trusted" in attributes["message"] and "mlem.sample" in attributes["message"]
    assert attributes["good_k"] == pytest.approx(1 - 1 / np.log10(2000))


def test_refusals():
    fit = mlem.fit(coin(), progressbar=False)
    with pytest.raises(ValueError, match="draws=20 is too few"):
        fit.laplace(20)
    with pm.Model() as funnel:
        t = pm.HalfNormal("t")
        pm.Normal("y", pm.Normal("theta", 0, t, shape=4), 1, observed=[0.1, -0.2, 0.3, 0.0])
    with pytest.raises(mlem.NotIdentifiedError, match="still rises.*standard normal"):
        mlem.fit(funnel, "map", progressbar=False).laplace()


def test_normal_density_and_flat_directions():
    hessian = -np.array([[4.0, 1.0], [1.0, 2.0]])
    normal = normal_at(np.array([1.0, -1.0]), hessian)
    points = normal.draws(5, np.random.default_rng(0))
    expected = multivariate_normal(normal.mean, np.linalg.inv(-hessian)).logpdf(points)
    np.testing.assert_allclose(normal.log_density(points), expected)
    flat = normal_at(np.zeros(2), -np.array([[1.0, 1.0], [1.0, 1.0]]))
    assert flat.flat.shape == (2, 1)
    assert np.array([1.0, -1.0]) @ flat.covariance @ np.array([1.0, -1.0]) == pytest.approx(2.0)
