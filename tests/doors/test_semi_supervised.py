"""Labels that are known for some rows: between the complete-data maximum and that of the mixture."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import pm_mlem as mlem

pytestmark = [pytest.mark.compiled, pytest.mark.filterwarnings("ignore:Data in .* contains missing values")]
RNG = np.random.default_rng(3)
N = 120
LABELS = RNG.choice(2, N, p=[0.6, 0.4])
Y = RNG.normal(np.array([0.0, 2.5])[LABELS], np.array([1.0, 0.7])[LABELS])
SOME = RNG.random(N) < 0.3  # the labels that are known
METHODS = ["em", "auto"]


def fit(model, *args, starts=1, **kwargs):
    return mlem.fit(model, *args, starts=starts, random_seed=0, progressbar=False, **kwargs)


def build(labels, y=Y):
    with pm.Model(coords={"kind": ["low", "high"]}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="kind")
        mu = pm.Normal("mu", 0, 5, initval=[0.0, 2.0], dims="kind")
        sigma = pm.HalfNormal("sigma", 2, dims="kind")
        z = pm.Categorical("z", w, shape=len(y), observed=labels)
        pm.Normal("y", mu[z], sigma[z], observed=y)
    return model


def known(mask):
    return np.ma.masked_array(LABELS, mask=~mask)


def log_likelihood(estimates, mask):
    """Sum of the complete-data likelihood of the labelled rows and the mixture's of the others."""
    w, mu, sigma = (estimates[n].values for n in ("w", "mu", "sigma"))
    joint = np.log(w) + norm.logpdf(Y[:, None], mu, sigma)
    rows = np.arange(N)
    return float(np.where(mask, joint[rows, LABELS], logsumexp(joint, axis=1)).sum())


@pytest.mark.parametrize("method", METHODS)
def test_all_labels_are_the_complete_data_problem(method):
    found = fit(build(known(np.ones(N, bool))), method=method)
    groups = [Y[LABELS == k] for k in (0, 1)]
    np.testing.assert_allclose(found.estimates["w"], [len(g) / N for g in groups], atol=1e-6)
    np.testing.assert_allclose(found.estimates["mu"], [g.mean() for g in groups], atol=1e-6)
    np.testing.assert_allclose(found.estimates["sigma"], [g.std() for g in groups], atol=1e-6)
    errors = found.standard_errors()
    np.testing.assert_allclose(errors["mu"], [g.std() / np.sqrt(len(g)) for g in groups], rtol=1e-5)
    assert found.log_likelihood == pytest.approx(log_likelihood(found.estimates, np.ones(N, bool)), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_no_labels_are_the_mixture(method):
    found, mixture = fit(build(known(np.zeros(N, bool))), method=method), fit(build(None), method=method)
    assert found.log_likelihood == pytest.approx(mixture.log_likelihood, abs=1e-7)
    assert found.log_likelihood == pytest.approx(log_likelihood(found.estimates, np.zeros(N, bool)), abs=1e-9)
    for name in ("w", "mu", "sigma"):
        np.testing.assert_allclose(found.estimates[name], mixture.estimates[name], atol=1e-5)
        np.testing.assert_allclose(found.standard_errors()[name], mixture.standard_errors()[name], rtol=1e-4)
    assert found.n_obs == mixture.n_obs


@pytest.mark.parametrize("method", METHODS)
def test_some_labels_are_in_between(method):
    """The likelihood is the sum of both parts, and the estimates maximise it."""
    model = build(known(SOME))
    found = fit(model, method=method)
    assert found.converged
    assert found.log_likelihood == pytest.approx(log_likelihood(found.estimates, SOME), abs=1e-9)
    all_labels, none = (fit(build(known(np.full(N, known_)))) for known_ in (True, False))
    for other in (all_labels, none):
        assert found.log_likelihood > log_likelihood(other.estimates, SOME)
    error = {name: f.standard_errors()["mu"].values for name, f in
             {"all": all_labels, "some": found, "none": none}.items()}  # fmt: skip
    assert np.all(error["all"] < error["some"])
    assert np.all(error["some"] < error["none"])
    probabilities = found.latent_probabilities["z_unobserved"]
    assert probabilities.shape == (np.sum(~SOME), 2)


def test_em_climbs_with_labels():
    """The update of the weights counts labels that are known and those that are guessed."""
    history = fit(build(known(SOME)), method="em").history["log_likelihood"].values
    assert np.all(np.diff(history) > -1e-9)
    counted = fit(build(known(SOME)), method="em")
    guessed = counted.latent_probabilities["z_unobserved"].values.sum(axis=0)
    expected = (np.bincount(LABELS[SOME]) + guessed) / N
    np.testing.assert_allclose(counted.estimates["w"], expected, atol=1e-4)


def test_labels_decide_which_component_is_which():
    """From a start with the components exchanged."""
    start = [{"mu": [2.5, 0.0], "sigma": [0.7, 1.0], "w": [0.4, 0.6]}]
    model = build(known(SOME))
    np.testing.assert_allclose(fit(model, starts=start).estimates["mu"], fit(model).estimates["mu"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["em", "newton", "lbfgs"])
def test_weights_labels_and_held_entries_together(method):
    weights = np.random.default_rng(1).integers(0, 3, N)
    fixed = {"sigma[high]": 0.7, "w": [0.6, 0.4]}
    weighted = fit(build(known(SOME)), method=method, weights=weights, fixed=fixed)
    rows = np.repeat(np.arange(N), weights)
    repeated = fit(build(known(SOME)[rows], Y[rows]), method=method, fixed=fixed)
    assert weighted.n_params == repeated.n_params == 3
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, abs=1e-6)
    assert weighted.n_obs == repeated.n_obs
    for name in ("mu", "sigma"):
        np.testing.assert_allclose(weighted.estimates[name], repeated.estimates[name], atol=1e-4)
        np.testing.assert_allclose(weighted.standard_errors()[name], repeated.standard_errors()[name], rtol=1e-3)


def test_weights_reach_the_labels():
    """The weights of the components are not fixed: labels of weight 2 count twice."""
    weights = np.random.default_rng(1).integers(0, 3, N)
    rows = np.repeat(np.arange(N), weights)
    weighted = fit(build(known(SOME)), weights=weights)
    repeated = fit(build(known(SOME)[rows], Y[rows]))
    np.testing.assert_allclose(weighted.estimates["w"], repeated.estimates["w"], atol=1e-6)
    by_name = fit(build(known(SOME)), weights={"y": weights, "z": weights})
    assert by_name.log_likelihood == pytest.approx(weighted.log_likelihood, abs=1e-8)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("kind", ["NaN", "pandas", "nullable integers"])
def test_other_ways_to_leave_labels_out(kind):
    """PyMC masks NaN and missing values by itself."""
    floats = np.where(SOME, LABELS, np.nan)
    labels = {
        "NaN": floats,
        "pandas": pd.Series(floats),
        "nullable integers": pd.Series(floats).astype("Int64"),
    }[kind]
    expected = fit(build(known(SOME))).log_likelihood
    assert fit(build(labels)).log_likelihood == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.where(SOME, LABELS, -1), r"'z' contain -1 at index \(\d+,\), which is none of its states \(0 to 1\)"),
        (LABELS + 1, r"'z' contain 2 at index .* Number the states from 0; where the state is not known, mask"),
        (
            np.ma.masked_array(np.where(np.arange(N) == 7, -1, LABELS), np.arange(N) < 5),
            r"'z' contain -1 at index \(7,",
        ),
    ],
)
def test_states_that_do_not_exist(labels, message):
    with pytest.raises(ValueError, match=message):
        fit(build(labels))
