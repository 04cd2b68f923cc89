"""Profiles against closed forms and brute force; what they say where there is no crossing."""

import warnings

import numpy as np
import pymc as pm
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import expit
from scipy.stats import chi2, norm

import pm_mlem as mlem
from pm_mlem.inference.profile import Profile, find_peak
from pm_mlem.results.profiles import Profiles

RNG = np.random.default_rng(8)
DROP = chi2.ppf(0.95, 1) / 2
Y = RNG.normal(3.0, 2.0, 20)


def fit(model, *args, **kw):
    return mlem.fit(model, *args, progressbar=False, random_seed=0, **kw)


def crossings(curve, centre, low, high, drop=DROP):
    """Where a concave function of one number has fallen by ``drop``."""
    return [brentq(lambda v: curve(v) - curve(centre) + drop, *sorted((centre, end))) for end in (low, high)]


def brute_force(objective, start, estimand, value):
    """Largest objective (a function of an array) where the estimand has a value, by scipy."""
    found = minimize(
        lambda u: -objective(u), start, method="SLSQP", options={"maxiter": 500, "ftol": 1e-14},
        constraints={"type": "eq", "fun": lambda u: estimand(u) - value},
    )  # fmt: skip
    assert abs(estimand(found.x) - value) < 1e-8
    return -found.fun


@pytest.fixture(scope="module")
def gaussian():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10)
        sigma = pm.HalfNormal("sigma", 10)
        pm.Deterministic("ratio", mu / sigma)
        pm.Normal("y", mu, sigma, observed=Y)
    return fit(model)


N = 60
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 2))])
CLICKS = (RNG.random(N) < expit(X @ [0.3, 0.8, -0.5])).astype(int)


def logistic(beta):
    return float(np.sum(CLICKS * (X @ beta) - np.logaddexp(0, X @ beta)))


@pytest.fixture(scope="module")
def logit():
    with pm.Model(coords={"term": ["one", "x", "z"]}) as model:
        beta = pm.Normal("beta", 0, 3, dims="term")
        pm.Deterministic("odds", pm.math.exp(beta[1]))
        pm.Bernoulli("y", logit_p=X @ beta, observed=CLICKS)
    return fit(model)


TWO = np.concatenate([RNG.normal(0, 1, 30), RNG.normal(2.8, 1, 20)])


def two_normals(theta):
    """By share of the second, means and log of the standard deviation."""
    w, a, b, log_s = theta
    return float(np.log((1 - w) * norm.pdf(TWO, a, np.exp(log_s)) + w * norm.pdf(TWO, b, np.exp(log_s))).sum())


@pytest.fixture(scope="module")
def mixture():
    with pm.Model(coords={"kind": ["low", "high"]}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="kind")
        mu = pm.Normal("mu", 0, 5, initval=[-1.0, 3.0], dims="kind")
        sigma = pm.HalfNormal("sigma", 2)
        pm.Deterministic("gap", mu[1] - mu[0])
        z = pm.Categorical("z", w, shape=len(TWO))
        pm.Deterministic("mean", mu[z])
        pm.Normal("y", mu[z], sigma, observed=TWO)
    return fit(model)


# --- closed forms -----------------------------------------------------------------------------------------


def test_mean_and_standard_deviation_of_a_normal(gaussian):
    n, s2 = len(Y), Y.var()
    found = gaussian.confidence_intervals(kind="profile")
    half = np.sqrt(s2 * np.expm1(2 * DROP / n))
    np.testing.assert_allclose(found["mu"], Y.mean() + np.array([-half, half]), rtol=1e-6)
    ends = crossings(lambda s: -n * np.log(s) - n * s2 / (2 * s * s), np.sqrt(s2), 0.2, 9.0)
    np.testing.assert_allclose(found["sigma"], ends, rtol=1e-6)
    assert found.attrs["kind"] == "profile"
    assert found.attrs["objective"] == "log_likelihood"
    assert list(found["mu"].coords["ci_bound"].values) == ["lower", "upper"]


@pytest.mark.parametrize("level", [0.5, 0.8, 0.999])
def test_levels(gaussian, level):
    half = np.sqrt(Y.var() * np.expm1(chi2.ppf(level, 1) / len(Y)))
    found = gaussian.confidence_intervals(level, kind="profile", var_names=["mu"])
    assert list(found.data_vars) == ["mu"]
    np.testing.assert_allclose(found["mu"], Y.mean() + np.array([-half, half]), rtol=1e-6)


def test_probability_and_rate():
    with pm.Model() as model:
        pm.Bernoulli("flips", logit_p=pm.Normal("eta", 0, 3), observed=np.repeat([1, 0], [7, 3]))
        pm.Exponential("waits", 1 / pm.HalfNormal("mean", 5), observed=[0.3, 2.0, 4.1, 0.5])
    found = fit(model).confidence_intervals(kind="profile")
    ends = crossings(lambda eta: 7 * eta - 10 * np.logaddexp(0, eta), np.log(7 / 3), -4, 6)
    np.testing.assert_allclose(found["eta"], ends, rtol=1e-6)
    ends = crossings(lambda m: -4 * np.log(m) - 6.9 / m, 6.9 / 4, 0.1, 40)
    np.testing.assert_allclose(found["mean"], ends, rtol=1e-6)


def test_entries_of_a_simplex():
    counts = np.array([12, 5, 3])
    with pm.Model() as model:
        pm.Categorical("y", pm.Dirichlet("p", np.ones(3)), observed=np.repeat(np.arange(3), counts))
    found = fit(model).confidence_intervals(kind="profile")["p"].values
    for k, bounds in zip(counts, found, strict=True):
        ends = crossings(lambda p: k * np.log(p) + (20 - k) * np.log1p(-p), k / 20, 1e-4, 1 - 1e-4)
        np.testing.assert_allclose(bounds, ends, rtol=1e-6)


def test_the_log_posterior_under_map():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 2), 1.0, observed=Y)
    found = fit(model, "map").confidence_intervals(kind="profile")
    precision = len(Y) + 0.25
    expected = Y.sum() / precision + np.array([-1, 1]) * np.sqrt(2 * DROP / precision)
    np.testing.assert_allclose(found["mu"], expected, rtol=1e-6)
    assert found.attrs["objective"] == "log_posterior"


def test_weights_are_repetitions(gaussian):
    weights = np.arange(20) % 3
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 10), pm.HalfNormal("sigma", 10), observed=np.repeat(Y, weights))
    repeated = fit(model).confidence_intervals(kind="profile")
    weighted = fit(gaussian.model, weights=weights).confidence_intervals(kind="profile")
    for name in ("mu", "sigma"):
        np.testing.assert_allclose(weighted[name], repeated[name], rtol=1e-6)


# --- brute force ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("j", [0, 1, 2])
def test_logistic_regression_against_scipy(logit, j):
    beta = logit.estimates["beta"].values
    bounds = logit.confidence_intervals(kind="profile", var_names="beta")["beta"].values[j]
    for bound in bounds:
        start = beta + np.linalg.inv((X.T * 0.2) @ X)[j] * (bound - beta[j]) * 3
        height = brute_force(logistic, start, lambda b: b[j], bound)
        assert height == pytest.approx(logistic(beta) - DROP, abs=1e-5)


def test_the_interval_of_a_function_is_the_function_of_the_interval(logit):
    found = logit.confidence_intervals(kind="profile")
    np.testing.assert_allclose(found["odds"], np.exp(found["beta"].values[1]), rtol=1e-5)


PARTS = {
    "w[high]": lambda t: t[0], "mu[low]": lambda t: t[1], "mu[high]": lambda t: t[2],
    "sigma": lambda t: np.exp(t[3]), "gap": lambda t: t[2] - t[1],
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_a_mixture_against_scipy(mixture, name):
    e = mixture.estimates
    peak = np.array([e["w"].values[1], *e["mu"].values, np.log(e["sigma"].item())])
    assert two_normals(peak) == pytest.approx(mixture.log_likelihood, abs=1e-8)
    curve = mixture.profile(name, points=7)
    for value, height in zip(curve["value"].values[1:-1], curve["log_likelihood"].values[1:-1], strict=True):
        assert brute_force(two_normals, peak, PARTS[name], value) == pytest.approx(height, abs=1e-5)
    for end in curve["interval"].values:
        height = brute_force(two_normals, peak, PARTS[name], end)
        assert height == pytest.approx(mixture.log_likelihood - DROP, abs=1e-5)


def test_a_callback_gives_the_same(logit):
    other = fit(logit.model, backend="numba").confidence_intervals(kind="profile")
    expected = logit.confidence_intervals(kind="profile")
    for name in ("beta", "odds"):
        np.testing.assert_allclose(other[name], expected[name], rtol=1e-5)


def test_the_cost(mixture, monkeypatch):
    """Newton's method on level and stationarity needs a handful of Hessians a side."""
    calls, original = [], Profiles.objective
    monkeypatch.setattr(Profiles, "objective", lambda self, u: calls.append(u) or original(self, u))
    mixture.confidence_intervals(kind="profile", var_names=["w", "mu", "sigma"])
    assert len(calls) <= 6 * 2 * 5


# --- following the curve ----------------------------------------------------------------------------------


def ridge(u):
    """A curved ridge: Newton's method from the peak goes astray."""
    x, y = u
    r = y - 3 * x**2
    value = -0.5 * (x**2 + 9 * r**2)
    gradient = np.array([-x + 54 * r * x, -9 * r])
    return value, gradient, np.array([[-1 + 54 * r - 324 * x**2, 54 * x], [54 * x, -9.0]])


def coordinate(j, n):
    return lambda u: (u[j], np.eye(n)[j], np.zeros((n, n)))


def test_both_ways_to_an_end_agree():
    peak = find_peak(ridge, np.zeros(2))
    along = Profile(ridge, coordinate(0, 2), peak)
    for side in (-1, 1):
        assert along.end(side, DROP).at == pytest.approx(side * np.sqrt(2 * DROP), rel=1e-6)
        assert along.outwards(side, -DROP).at == pytest.approx(side * np.sqrt(2 * DROP), rel=1e-6)
    across = Profile(ridge, coordinate(1, 2), peak)
    for side in (-1, 1):
        end = across.end(side, DROP)
        value = max(
            (ridge((x, end.at))[0] for x in np.linspace(-3, 3, 60_001)),
        )
        assert end.kind == "crossing"
        assert value == pytest.approx(-DROP, abs=1e-5)
