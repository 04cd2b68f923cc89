"""A fit at new data: score and predict."""

import itertools
import warnings

import numpy as np
import pymc as pm
import pytest
from scipy.special import expit, logsumexp
from scipy.stats import norm

import pm_mlem as mlem
from structures import markov

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(6)
X, Y = RNG.normal(size=30), RNG.normal(size=30)


def fit_of(define, **options):
    with pm.Model(coords=options.pop("coords", None)) as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymc_extras announces its changes
        define()
    return mlem.fit(model, starts=1, random_seed=1, progressbar=False, **options)


def regressions():
    x = pm.Data("x", X, dims="row")
    b = pm.Normal("b", 0, 3, shape=2, initval=[-1.0, 1.0])
    w = pm.Dirichlet("w", np.ones(2))
    z = pm.Categorical("z", w, dims="row")
    location = pm.Deterministic("location", b[z] * x, dims="row")
    pm.Normal("y", location, 0.5, observed=pm.Data("y_data", np.sign(Y) * X, dims="row"), dims="row")


@pytest.fixture(scope="module")
def mixture():
    return fit_of(regressions)


def densities(fit, x, y):
    """log p(y, z = k) of each row."""
    b, w = fit.estimates["b"].values, fit.estimates["w"].values
    return np.log(w) + norm.logpdf(y[:, None], b * x[:, None], 0.5)


NEW_X, NEW_Y = np.array([0.5, -1.0, 2.0]), np.array([0.4, 1.1, -1.0])


def test_score_is_the_log_likelihood_of_new_data(mixture):
    expected = logsumexp(densities(mixture, NEW_X, NEW_Y), axis=1).sum()
    assert mixture.score({"x": NEW_X, "y_data": NEW_Y}) == pytest.approx(expected)
    assert mixture.score({}) == pytest.approx(mixture.log_likelihood)


def test_the_model_keeps_its_own_data(mixture):
    def state():
        model = mixture.model
        return [v.get_value().tolist() for v in model.data_vars], dict(model.coords), model.dim_lengths["row"].eval()

    before = state()
    mixture.score({"x": NEW_X, "y_data": NEW_Y}, coords={"row": list("abc")})
    mixture.predict({"x": NEW_X})
    with pytest.raises(ValueError):
        mixture.score({"x": NEW_X})
    with pytest.raises(ValueError):
        mixture.score({"x": NEW_X, "y_data": np.ones((3, 3))})
    assert state() == before


def test_predictions_with_known_and_with_unknown_observations(mixture):
    b, w = mixture.estimates["b"].values, mixture.estimates["w"].values
    joint = densities(mixture, NEW_X, NEW_Y)
    posterior = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))

    known = mixture.predict({"x": NEW_X, "y_data": NEW_Y}, coords={"row": list("abc")})
    np.testing.assert_allclose(known["predictions"]["y"].values, posterior @ b * NEW_X)
    np.testing.assert_allclose(known["deterministics"]["location"].values, posterior @ b * NEW_X)
    np.testing.assert_allclose(known["latent_posterior"]["z"].values, posterior)
    np.testing.assert_array_equal(known["latent_states"]["z"].values, posterior.argmax(axis=1))
    np.testing.assert_allclose(known["latent_states"]["y_log_probability"].values, np.log(posterior.max(axis=1)))
    assert list(known["predictions"].coords["row"].values) == list("abc")

    unknown = mixture.predict({"x": NEW_X})
    np.testing.assert_allclose(unknown["predictions"]["y"].values, w @ b * NEW_X)
    assert unknown["predictions"]["y"].dims == ("row",)
    np.testing.assert_allclose(unknown["latent_posterior"]["z"].values, np.tile(w, (3, 1)))


def test_predictions_at_the_data_of_the_fit(mixture):
    tree = mixture.predict()
    np.testing.assert_allclose(tree["predictions"]["y"].values, mixture.estimates["location"].values)
    np.testing.assert_allclose(tree["latent_posterior"]["z"].values, mixture.latent_probabilities["z"].values)
    np.testing.assert_array_equal(tree["latent_states"]["z"].values, mixture.decode()["z"].values)


def test_new_sequences_of_another_length():
    def define():
        y = pm.Data("y_data", RNG.normal(size=(4, 5)))
        mu = pm.Normal("mu", 0, 3, shape=2, initval=[-1.0, 1.0])
        z = markov("z", np.array([[0.8, 0.2], [0.3, 0.7]]), (y.shape[0], y.shape[1]))
        pm.Normal("y", mu[z], 1.0, observed=y)

    fit = fit_of(define)
    y, mu = np.array([[0.3, -1.0, 2.0]]), fit.estimates["mu"].values
    initial, P = np.array([0.4, 0.6]), np.array([[0.8, 0.2], [0.3, 0.7]])
    values = {
        path: np.log(initial[path[0]]) + sum(np.log(P[a, b]) for a, b in itertools.pairwise(path))
        + norm.logpdf(y[0], mu[list(path)], 1.0).sum()
        for path in itertools.product([0, 1], repeat=3)
    }  # fmt: skip
    total = logsumexp(list(values.values()))
    assert fit.score({"y_data": y}) == pytest.approx(total)
    tree = fit.predict({"y_data": y})
    mean = sum(np.exp(v - total) * mu[list(path)] for path, v in values.items())
    np.testing.assert_allclose(tree["predictions"]["y"].values, [mean])
    best = max(values, key=values.get)
    np.testing.assert_array_equal(tree["latent_states"]["z"].values, [best])
    assert tree["latent_states"].attrs["log_probability"] == pytest.approx(values[best] - total)


def test_means_of_distributions_without_latents():
    def define():
        x = pm.Data("x", X)
        a, b = pm.Normal("a"), pm.Normal("b")
        pm.Bernoulli("choice", logit_p=a + b * x, observed=pm.Data("choices", (X + Y > 0).astype(int)))
        p = pm.Dirichlet("p", np.ones(3))
        pm.Categorical("kind", p, observed=pm.Data("kinds", np.arange(30) % 3))
        pm.Cauchy("tail", a, 1.0, observed=pm.Data("tails", Y))
        pm.Normal("constant", b, 1.0, observed=Y)

    fit = fit_of(define, estimator="map")
    a, b = fit.estimates["a"].item(), fit.estimates["b"].item()
    tree = fit.predict({"x": NEW_X})
    assert set(tree.children) == {"predictions"}
    assert tree["predictions"].attrs["left_out"] == ["tail"]
    np.testing.assert_allclose(tree["predictions"]["choice"].values, expit(a + b * NEW_X))
    np.testing.assert_allclose(tree["predictions"]["kind"].values, [fit.estimates["p"].values])  # no length is known
    here = fit.predict()["predictions"]
    assert here["constant"].shape == (30,)
    assert here["kind"].dims == ("kind_dim_0", "kind_state")
    assert fit.predict({})["predictions"]["choice"].shape == (30,)


def test_built_in_mixtures_and_missing_entries():
    def define():
        x = pm.Data("x", X)
        mu = pm.Normal("mu", 0, 3, shape=2, initval=[-1.0, 1.0])
        pm.NormalMixture("y", [0.3, 0.7], mu + x[:, None], 0.8, observed=pm.Data("y_data", Y))
        pm.ZeroInflatedPoisson("count", pm.Beta("psi", 1, 1), 2.0, observed=np.arange(6) % 3)
        gaps = np.ma.masked_array(Y, mask=np.arange(30) < 2)
        pm.Normal("gaps", pm.Normal("m"), 1.0, observed=gaps)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC announces imputation
        fit = fit_of(define)
    here = fit.predict()
    mu, psi = fit.estimates["mu"].values, fit.estimates["psi"].item()
    r = fit.latent_probabilities["y_component"].values
    np.testing.assert_allclose(here["predictions"]["y"].values, (r * (mu + X[:, None])).sum(axis=1))
    present = fit.latent_probabilities["count_component"].values[:, 1]
    np.testing.assert_allclose(here["predictions"]["count"].values, 2.0 * present)
    np.testing.assert_allclose(here["predictions"]["gaps_observed"].values, np.full(28, Y[2:].mean()))
    there = fit.predict({"x": NEW_X})["predictions"]
    np.testing.assert_allclose(there["y"].values, 0.3 * mu[0] + 0.7 * mu[1] + NEW_X)
    np.testing.assert_allclose(there["count"].values, 2.0 * psi)


def test_fixed_variables_stay_fixed_and_weights_are_those_of_the_fit():
    def define():
        x = pm.Data("x", X)
        pm.Normal("y", pm.Normal("a") + pm.Normal("b") * x, 1.0, observed=pm.Data("y_data", Y))

    fit = fit_of(define, fixed={"b": 2.0}, weights=np.arange(30.0))
    a = fit.estimates["a"].item()
    np.testing.assert_allclose(fit.predict({"x": NEW_X})["predictions"]["y"].values, a + 2.0 * NEW_X)
    expected = norm.logpdf(NEW_Y, a + 2.0 * NEW_X, 1.0).sum()
    assert fit.score({"x": NEW_X, "y_data": NEW_Y}) == pytest.approx(expected)


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "coords", "message"),
    [
        ({"z": [1]}, None, "'z' is not a pm.Data of the model"),
        ({"y": NEW_Y}, None, "'y' is not a pm.Data of the model. It is an observed variable; its values are"),
        ({"x": NEW_X[:, None], "y_data": NEW_Y}, None, "'x' cannot be set: .*must have 1 dimensions"),
        ({"x": NEW_X, "y_data": Y}, None, "cannot be evaluated with these data"),
        ({"x": ["a", "b"]}, None, "'x' must be of type float64"),
        ({"x": NEW_X}, {"column": [1]}, "'column' is not a dimension"),
    ],
)
def test_errors_say_what_to_do(mixture, data, coords, message):
    with pytest.raises(ValueError, match=message):
        mixture.score(data, coords=coords)


def test_models_without_exchangeable_data_say_how(coin):
    fit = mlem.fit(coin, progressbar=False)
    with pytest.raises(ValueError, match=r"no pm\.Data.*observed=pm\.Data"):
        fit.score({"flips": [1]})
    np.testing.assert_allclose(fit.predict()["predictions"]["flips"].values, 0.6)


def test_labels_of_a_dimension_that_changes_are_asked_for():
    def define():
        x = pm.Data("x", X, dims="row")
        pm.Normal("y", pm.Normal("b") * x, 1.0, observed=pm.Data("y_data", Y, dims="row"), dims="row")

    fit = fit_of(define, coords={"row": range(30)})
    with pytest.raises(ValueError, match=r"coords=\{dimension: labels\}"):
        fit.predict({"x": NEW_X})
    found = fit.predict({"x": NEW_X}, coords={"row": [7, 8, 9]})["predictions"]["y"]
    assert list(found.coords["row"].values) == [7, 8, 9]


def test_a_parameter_for_every_row_has_no_estimate_for_new_rows():
    def define():
        x = pm.Data("x", X, dims="row")
        effect = pm.Normal("effect", dims="row")
        pm.Normal("y", effect * x, 1.0, observed=pm.Data("y_data", Y, dims="row"), dims="row")

    fit = fit_of(define, estimator="map")
    with pytest.raises(ValueError, match="'effect' has shape"):
        fit.predict({"x": NEW_X})


def test_unknown_values_that_others_depend_on_are_asked_for():
    def define():
        k = pm.Bernoulli("k", 0.4, observed=pm.Data("k_data", (X > 0).astype(int)))
        pm.Normal("y", pm.Normal("b", shape=2)[k], 1.0, observed=pm.Data("y_data", Y))

    fit = fit_of(define)
    with pytest.raises(ValueError, match="'y' depends on the observed variable 'k'"):
        fit.predict({"y_data": NEW_Y})
    found = fit.predict({"k_data": [1, 0, 1]})["predictions"]["y"].values
    np.testing.assert_allclose(found, fit.estimates["b"].values[[1, 0, 1]])
