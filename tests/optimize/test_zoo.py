"""Every model of the zoo under every method: one table, no anecdotes."""

import numpy as np
import pytest

import pm_mlem as mlem
from zoo import ZOO

pytestmark = pytest.mark.compiled

METHODS = ["auto", "newton", "lbfgs", "em"]
SLOW_METHODS = ["adam"]


@pytest.fixture(scope="module", params=list(ZOO))
def animal(request):
    entry = ZOO[request.param]
    return entry, entry.build()


def check(entry, model, method):
    fit = mlem.fit(model, method=method, random_seed=0, progressbar=False, **entry.fit)
    assert fit.converged, fit.message
    for name, want in entry.answers.items():
        np.testing.assert_allclose(fit.estimates[name].values, want, rtol=2e-4, atol=2e-4, err_msg=name)
    if entry.log_likelihood is not None:
        assert fit.log_likelihood == pytest.approx(entry.log_likelihood, abs=1e-6)
    return fit


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_answer(animal, method):
    entry, model = animal
    fit = check(entry, model, method)
    history = next(iter(fit.history.data_vars.values())).values
    if method in ("em", "auto"):  # neither EM nor the trust region ever accepts a step down
        assert np.all(np.diff(history) >= -1e-9 * (1 + np.abs(history[1:])))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normal", "normal_mixture"])
def test_adam_finds_the_answer(name):
    fit = mlem.fit(ZOO[name].build(), method="adam", starts=1, progressbar=False)
    for variable, want in ZOO[name].answers.items():
        np.testing.assert_allclose(fit.estimates[variable].values, want, rtol=1e-3)


def test_score_vanishes_and_information_is_positive(animal):
    entry, model = animal
    fit = mlem.fit(model, random_seed=0, progressbar=False, **entry.fit)
    value, gradient, hessian = fit._estimate.target.derivatives(fit._estimate.point)
    np.testing.assert_allclose(gradient, 0, atol=1e-3 * np.sqrt(np.abs(np.diag(hessian))).max())
    assert np.all(np.linalg.eigvalsh(-np.asarray(hessian)) > 0)
    assert float(value) == pytest.approx(fit.log_likelihood, rel=1e-12)


def test_weights_equal_mean_responsibilities():
    """At a fixed point of EM the weights are the mean posterior probabilities."""
    fit = mlem.fit(ZOO["normal_mixture"].build(), method="em", random_seed=0, progressbar=False)
    mean = fit.latent_probabilities["z"].mean("z_dim_0").values
    np.testing.assert_allclose(fit.estimates["w"].values, mean, atol=1e-5)


def test_posterior_mean_of_a_deterministic():
    fit = mlem.fit(ZOO["normal_mixture"].build(), random_seed=0, progressbar=False)
    probabilities = fit.latent_probabilities["z"].values
    np.testing.assert_allclose(fit.estimates["centre"].values, probabilities @ fit.estimates["mu"].values, rtol=1e-10)
