"""A weight is a number of repetitions: for estimates, standard errors and criteria, with every method."""

import warnings

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem
from pm_mlem.graph.read import read
from pm_mlem.graph.tables.observations import observations
from pm_mlem.graph.tables.units import units_of_elements
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.weights import unit_weights

RNG = np.random.default_rng(5)
N = 60
X = RNG.normal(size=N)
KIND = RNG.random(N) < 0.4
COUNTS = RNG.integers(0, 4, N)
SEQUENCES = RNG.normal(size=(10, 8)) + 3 * (RNG.random((10, 1)) < RNG.random((10, 8)))
pytestmark = [pytest.mark.compiled, pytest.mark.filterwarnings("ignore:Data in .* contains missing values")]
METHODS = ["em", "newton", "lbfgs"]


def fit(model, *args, starts=1, **kwargs):
    return mlem.fit(model, *args, starts=starts, random_seed=0, progressbar=False, **kwargs)


def mixture(rows):
    y = np.where(KIND, RNG_Y + 4.0, RNG_Y)[rows]
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, initval=[0.0, 4.0], shape=2)
        sigma = pm.HalfNormal("sigma", 2)
        z = pm.Categorical("z", w, shape=len(y))
        pm.Normal("y", mu[z], sigma, observed=y)
    return model


def hidden_markov(rows):
    pytest.importorskip("pymc_extras")
    y = SEQUENCES[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other package's imports
        from pymc_extras.distributions import DiscreteMarkovChain
    with pm.Model() as model:
        p = pm.Dirichlet("P", np.ones((2, 2)), initval=np.array([[0.7, 0.3], [0.3, 0.7]]))
        mu = pm.Normal("mu", 0, 5, initval=[0.0, 3.0], shape=2)
        z = DiscreteMarkovChain("z", P=p, init_dist=pm.Categorical.dist(p=[0.5, 0.5]), shape=y.shape)
        pm.Normal("y", mu[z], 1.0, observed=y)
    return model


def regression(rows):
    y = RNG_Y[rows] + 1.0 + 2.0 * X[rows]
    with pm.Model() as model:
        a, b, sigma = pm.Normal("a", 0, 10), pm.Normal("b", 0, 10), pm.HalfNormal("sigma", 2)
        pm.Normal("y", a + b * X[rows], sigma, observed=y)
    return model


def mixture_of_regressions(rows):
    y = RNG_Y[rows] * 0.5 + np.where(KIND, 3.0 + 2.0 * X, -1.0 - X)[rows]
    with pm.Model() as model:
        w = pm.Beta("w", 1, 1)
        a = pm.Normal("a", 0, 10, initval=[-1.0, 3.0], shape=2)
        b = pm.Normal("b", 0, 10, initval=[-1.0, 2.0], shape=2)
        z = pm.Bernoulli("z", w, shape=len(y))
        pm.Normal("y", a[z] + b[z] * X[rows], 0.5, observed=y)
    return model


RNG_Y = RNG.normal(size=N)
MODELS = {
    "mixture": (mixture, N),
    "hidden Markov": (hidden_markov, 10),
    "regression": (regression, N),
    "mixture of regressions": (mixture_of_regressions, N),
}


def assert_same_fit(one, other):
    tolerance = 2e-4 if "EM" in one.method else 1e-6
    assert one.converged
    assert other.converged
    assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-6)
    assert (one.n_obs, one.n_units) == (other.n_obs, other.n_units)
    assert one.aic == pytest.approx(other.aic, abs=1e-5)
    assert one.bic == pytest.approx(other.bic, abs=1e-5)
    for name, values in one.estimates.data_vars.items():
        np.testing.assert_allclose(values, other.estimates[name], atol=tolerance)
        errors = other.standard_errors()[name]
        np.testing.assert_allclose(one.standard_errors()[name], errors, rtol=10 * tolerance)


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m == "lbfgs")) for m in METHODS])
@pytest.mark.parametrize("kind", list(MODELS))
def test_integer_weights_are_repetitions(kind, method):
    build, n = MODELS[kind]
    weights = COUNTS[:n]
    assert {0, 1, 2} <= set(weights)
    weighted = fit(build(np.arange(n)), method=method, weights=weights)
    repeated = fit(build(np.repeat(np.arange(n), weights)), method=method)
    assert_same_fit(weighted, repeated)
    assert weighted.n_units == weights.sum()


@pytest.mark.parametrize("kind", list(MODELS))
def test_zero_drops_a_row(kind):
    build, n = MODELS[kind]
    kept = np.arange(n) % 3 > 0
    assert_same_fit(fit(build(np.arange(n)), weights=kept.astype(float)), fit(build(np.flatnonzero(kept))))


@pytest.mark.parametrize("kind", list(MODELS))
def test_fractional_weights_scale_the_information(kind):
    """All weights 1/2: the same estimates, half the log-likelihood, half the information."""
    build, n = MODELS[kind]
    model = build(np.arange(n))
    whole, half = fit(model), fit(model, weights=np.full(n, 0.5))
    assert half.log_likelihood == pytest.approx(0.5 * whole.log_likelihood)
    assert half.n_units == 0.5 * n
    assert half.n_obs == 0.5 * whole.n_obs
    for name, values in whole.standard_errors().data_vars.items():
        np.testing.assert_allclose(half.estimates[name], whole.estimates[name], atol=1e-6)
        np.testing.assert_allclose(half.standard_errors()[name], np.sqrt(2) * values, rtol=1e-5)


def test_weights_under_map():
    """The prior counts once."""
    with pm.Model() as model:
        p = pm.Beta("p", 3, 2)
        pm.Bernoulli("y", p, observed=[1, 0, 1])
    for method in METHODS:
        found = fit(model, "map", method=method, weights=[2.0, 3.5, 0.5])
        assert found.estimates["p"].item() == pytest.approx((2.5 + 2) / (6 + 3), abs=1e-6)
        assert found.n_obs == 6


def test_an_impossible_row_of_weight_zero_is_dropped():
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Binomial("y", 3, p, observed=[1, 2, 5])
    for method in METHODS:
        found = fit(model, method=method, weights=[1.0, 1.0, 0.0])
        assert found.estimates["p"].item() == pytest.approx(0.5, abs=1e-6)
        assert np.isfinite(found.standard_errors()["p"].item())
        assert np.isfinite(found.bic)
    with pytest.raises(ValueError, match=r"observed value 5 at index \(2,\) of 'y' is outside the support"):
        fit(model)


def test_rows_that_are_not_numbers_are_refused_whatever_their_weight():
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.Normal("y", mu, 1.0, observed=np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match="'y' contain 1 NaN or infinite value"):
        fit(model, weights=[1.0, 0.0])


def test_weights_by_name():
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Bernoulli("y", p, observed=[1, 1, 0])
        pm.Bernoulli("x", p, observed=[0, 0, 1, 1])
    found = fit(model, weights={"x": [1.0, 0.0, 2.0, 0.5]})
    assert found.estimates["p"].item() == pytest.approx((2 + 2.5) / (3 + 3.5), abs=1e-6)
    found = fit(model, weights=[1.0, 2.0, 3.0])  # fits y only
    assert found.estimates["p"].item() == pytest.approx((3 + 2) / (6 + 4), abs=1e-6)


def test_weights_of_masked_data_are_those_of_all_entries():
    """By shape and by the variable's own name; those of missing entries do not matter."""
    data = np.ma.masked_array([1, 0, 1, 1, 0], [False, True, False, False, True])
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Bernoulli("y", p, observed=data)
        pm.Bernoulli("x", p, observed=[1, 0, 0, 0, 0])
    weights = np.array([2.0, 9.0, 1.0, 3.0, 9.0])
    assert fit(model, weights=weights).estimates["p"].item() == pytest.approx((6 + 2) / (6 + 24), abs=1e-6)
    for name, given in (("y", weights), ("y_observed", weights), ("y_observed", weights[[0, 2, 3]])):
        found = fit(model, weights={name: given})
        assert found.estimates["p"].item() == pytest.approx((6 + 1) / (6 + 5), abs=1e-6)


def test_weights_of_masked_rows_and_columns():
    data = np.ma.masked_array(np.arange(6.0).reshape(3, 2), [[False, True], [False, False], [True, False]])
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10, shape=2)
        pm.Normal("y", mu, 1.0, observed=data)
    found = fit(model, weights=[1.0, 3.0, 2.0])
    np.testing.assert_allclose(found.estimates["mu"], [(0 + 3 * 2) / 4, (3 * 3 + 2 * 5) / 5], atol=1e-8)


CRITERIA = ("log_likelihood", "n_obs", "n_units", "aic", "aicc", "bic", "entropy", "icl")


def masked_mixture(y, distribution):
    """Rows of a mixture whose emissions are missing in part; ``y`` is a masked array, (rows, 2)."""
    start = [[0.5, 0.5], [4.0, 4.0]]
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.HalfNormal("mu", 5, shape=(2, 2), initval=start)
        z = pm.Categorical("z", w, shape=len(y))
        if distribution == "vectors":
            pm.MvNormal("y", mu[z], np.eye(2), observed=y)
        elif distribution == "counts":
            pm.Poisson("y", mu[z, 0], observed=y[:, 0].astype(int))
        elif distribution == "loop":
            for j in range(2):
                pm.Normal(f"y{j}", mu[z, j], 1.0, observed=y[:, j])
        else:
            pm.Normal("y", mu[z], 1.0, observed=y)
    return model


MISSING = np.arange(30) % 4 == 0
WITH_MISSING = np.ma.masked_array(
    RNG.poisson(np.where(np.arange(30) < 15, 1.0, 6.0)[:, None], (30, 2)).astype(float),
    np.repeat(MISSING[:, None], 2, axis=1),
)


@pytest.mark.parametrize("distribution", ["entries", "vectors", "counts", "loop"])
def test_weights_reach_rows_whose_emissions_are_missing(distribution):
    """Whatever is missing: entries, vectors, discrete values, which are latents themselves."""
    tables, weights = read(masked_mixture(WITH_MISSING, distribution)), RNG.integers(0, 4, 30).astype(float)
    [labels] = [item for item in tables.structure.latents if item.name == "z"]
    of_element = units_of_elements(tables, np.arange(sum(tables.elimination.sizes)))
    found = unit_weights(tables, weights)
    np.testing.assert_array_equal(found[of_element[labels.base : labels.base + 30]], weights)
    assert observations(tables).count(found) == weights[~MISSING].sum()


def test_criteria_of_weighted_rows_that_are_missing():
    """Weights of 2 are every row twice, and a weight of 0 is no row."""
    weighted = fit(masked_mixture(WITH_MISSING, "entries"), weights=np.where(np.arange(30) < 4, 0.0, 2.0))
    rows = WITH_MISSING[4:]
    other = fit(masked_mixture(np.ma.concatenate([rows, rows]), "entries"))
    for name in CRITERIA:
        assert getattr(weighted, name) == pytest.approx(getattr(other, name), rel=1e-6), name


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(4), r"weights of shape \(4,\) fit no observed variable \('y': \(3,\)\)"),
        (1.0, r"weights of shape \(\) fit no observed variable"),
        ([1.0, -1.0, 1.0], "weights of 'y' must be finite and not negative"),
        ([1.0, np.nan, 1.0], "weights of 'y' must be finite and not negative"),
        ([1.0, np.inf, 1.0], "weights of 'y' must be finite and not negative"),
        ([0.0, 0.0, 0.0], "All weights are 0"),
        ({"y": [1.0, 1.0]}, r"weights of 'y' have shape \(2,\), the observations \(3,\)"),
        ({"p": [1.0]}, "weights: 'p' is not an observed variable; these are 'y'"),
    ],
)
def test_errors(weights, message):
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Bernoulli("y", p, observed=[1, 0, 1])
    with pytest.raises(ValueError, match=message):
        fit(model, weights=weights)


def test_weights_that_differ_within_a_unit_are_refused():
    y = RNG.poisson(3.0, (8, 3))
    with pm.Model() as model:
        z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=8)
        pm.Poisson("y", pm.Exponential("rate", 1, shape=2, initval=[1.0, 5.0])[z][:, None], observed=y)
    tables = engine_for(model, "mle").objective.tables
    with pytest.raises(ValueError, match="weights of 'y' differ between observations that share a latent"):
        unit_weights(tables, 1.0 + np.arange(24).reshape(8, 3))
    np.testing.assert_array_equal(unit_weights(tables, np.repeat(np.arange(8), 3).reshape(8, 3)), np.arange(8))
