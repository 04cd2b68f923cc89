"""Profiles against closed forms and brute force; what they say where there is no crossing."""

import numpy as np
import pymc as pm
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import expit
from scipy.stats import chi2, norm

import pm_mlem as mlem
from pm_mlem.estimate.target import Target
from pm_mlem.inference.profile import Profile, find_peak

pytestmark = pytest.mark.compiled

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


TWO = np.concatenate([RNG.normal(0, 1, 30), RNG.normal(4.0, 1.0, 20)])


def two_normals(theta):
    """By share of the second, means and log of the standard deviation."""
    w, a, b, log_s = theta
    if not (0 < w < 1 and log_s < 10):
        return -1e6
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


@pytest.mark.slow
def test_a_callback_gives_the_same():
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Deterministic("odds", p / (1 - p))
        pm.Bernoulli("flips", p, observed=np.repeat([1, 0], [7, 3]))
    expected, other = (fit(model, backend=b).confidence_intervals(kind="profile") for b in ("jax", "numba"))
    for name in ("p", "odds"):
        np.testing.assert_allclose(other[name], expected[name], rtol=1e-6)


def test_the_cost(mixture, monkeypatch):
    """Newton's method on level and stationarity needs a handful of Hessians a side."""
    calls, original = [], Target.derivatives
    monkeypatch.setattr(Target, "derivatives", lambda self, u: calls.append(u) or original(self, u))
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


def test_a_profile_that_turns_away():
    """Beyond the level the objective rises again: the first crossing counts."""

    def waves(u):
        x = u[0]
        return -10.0 * (1 - np.cos(x)), np.array([-10 * np.sin(x)]), np.array([[-10 * np.cos(x)]])

    along = Profile(waves, coordinate(0, 1), find_peak(waves, np.zeros(1)))
    assert along.end(1, DROP).at == pytest.approx(np.arccos(1 - DROP / 10), rel=1e-6)


def test_a_profile_that_never_falls_far_enough():
    def bump(u):
        x = u[0]
        d = 1 + x * x
        return 1 / d, np.array([-2 * x / d**2]), np.array([[(6 * x * x - 2) / d**3]])

    along = Profile(bump, coordinate(0, 1), find_peak(bump, np.zeros(1)))
    for side in (-1, 1):
        end = along.end(side, DROP)
        assert (end.at, end.kind) == (side * np.inf, "flat")


def test_a_profile_that_is_higher_elsewhere():
    def hills(u):
        x = u[0]
        a, b = np.exp(-0.5 * x * x), np.exp(-0.5 * (x - 5) ** 2)
        value = a + 1.5 * b
        return (
            value,
            np.array([-x * a - 1.5 * (x - 5) * b]),
            np.array([[(x * x - 1) * a + 1.5 * ((x - 5) ** 2 - 1) * b]]),
        )

    along = Profile(hills, coordinate(0, 1), find_peak(hills, np.zeros(1)))
    end = along.end(1, DROP)
    assert end.kind == "higher"
    assert hills(end.point)[0] > along.peak.value
    assert along.end(-1, DROP).kind == "flat"


def test_steps_over_a_wall_and_up_a_spike():
    """A function of a parameter that has no values beyond 0."""

    def gamma(u):
        rate = np.exp(u[0])
        return -4 * rate, np.array([-4 * rate]), np.array([[-4 * rate]])

    def rate(u):
        value = np.exp(u[0])
        return value, np.array([value]), np.array([[value]])

    along = Profile(gamma, rate, find_peak(gamma, np.array([-25.0])))
    assert along.end(1, DROP).at == pytest.approx(DROP / 4, rel=1e-6)
    end = along.end(-1, DROP)
    assert end.kind == "limit"
    assert end.at == pytest.approx(0.0, abs=1e-12)


# --- no end on one side -----------------------------------------------------------------------------------


def test_all_successes():
    with pm.Model() as model:
        pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=np.ones(10))
    found = fit(model).confidence_intervals(kind="profile")["p"].values
    np.testing.assert_allclose(found, [np.exp(-DROP / 10), 1.0], rtol=1e-6)


def test_an_empty_cell():
    with pm.Model() as model:
        pm.Categorical("y", pm.Dirichlet("p", np.ones(3)), observed=np.repeat([0, 1], [12, 5]))
    found = fit(model).confidence_intervals(kind="profile")["p"].values
    np.testing.assert_allclose(found[2], [0.0, 1 - np.exp(-DROP / 17)], rtol=1e-5, atol=1e-15)
    for k, bounds in zip((12, 5), found[:2], strict=True):
        ends = crossings(lambda p: k * np.log(p) + (17 - k) * np.log1p(-p), k / 17, 1e-4, 1 - 1e-4)
        np.testing.assert_allclose(bounds, ends, rtol=1e-5)


def test_separated_outcomes():
    x = np.arange(-5, 5) + 0.5
    with pm.Model() as model:
        slope = pm.Normal("slope")
        pm.Bernoulli("y", logit_p=slope * x, observed=(x > 0).astype(int))
    low, high = fit(model).confidence_intervals(kind="profile")["slope"].values
    assert -2 * np.logaddexp(0, -low * x[x > 0]).sum() == pytest.approx(-DROP, abs=1e-6)
    assert high == np.inf


@pytest.mark.parametrize("reference", [0, 1])
def test_odds_of_separated_outcomes(reference):
    """Their ends are those of the coefficients, 0 and infinity among them; sums that run away keep their scale."""
    group, y = np.repeat([0, 1], 8), np.array([0] * 8 + [1, 0, 0, 1, 0, 1, 0, 0])
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10, shape=2)
        pm.Deterministic("odds", pm.math.exp(b))
        pm.Deterministic("empty", b[0] + (b[1] if reference else 0.0))
        pm.Bernoulli("y", logit_p=b[0] + b[1] * (group == 1 - reference), observed=y)
    found = fit(model)
    bounds = found.confidence_intervals(kind="profile")
    ends = np.exp(bounds["b"].values)
    np.testing.assert_allclose(bounds["odds"], ends, rtol=1e-5)
    assert np.any(bounds["odds"].values == 0)
    np.testing.assert_allclose(bounds["empty"], [-np.inf, np.log(np.expm1(DROP / 8))], rtol=1e-5)
    away = 0 if reference == 0 else 1
    curve = found.profile(f"odds[{away}]", points=[0.01, 0.1, 1.0])
    expected = found.profile(f"b[{away}]", points=np.log([0.01, 0.1, 1.0]))
    np.testing.assert_allclose(curve["log_likelihood"], expected["log_likelihood"], rtol=1e-7)
    np.testing.assert_array_equal(curve["value"], [0.01, 0.1, 1.0])
    with pytest.raises(ValueError, match=rf"-1 must be positive, as 'odds\[{away}\]'"):
        found.profile(f"odds[{away}]", points=[-1.0])


def test_what_is_not_identified():
    with pm.Model() as model:
        a, b = pm.Normal("a"), pm.Normal("b")
        pm.Deterministic("both", a + b)
        pm.Normal("y", a + b, 1.0, observed=Y)
    found = fit(model).confidence_intervals(kind="profile")
    np.testing.assert_array_equal(found["a"], [-np.inf, np.inf])
    half = np.sqrt(2 * DROP / len(Y))
    np.testing.assert_allclose(found["both"], Y.mean() + np.array([-half, half]), rtol=1e-6)


def test_a_component_that_need_not_be():
    """Two components that are no better than one: any share will do."""
    y = np.random.default_rng(5).normal(size=40)
    with pm.Model() as model:
        w = pm.Beta("w", 1, 1)
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[-1.0, 1.0])
        z = pm.Bernoulli("z", w, shape=40)
        pm.Normal("y", mu[z], 1.0, observed=y)
    found = fit(model).confidence_intervals(kind="profile", var_names=["w"])
    np.testing.assert_allclose(found["w"], [0.0, 1.0], atol=1e-12)


# --- what is not a profile --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_hills():
    with pm.Model() as model:
        pm.StudentT("y", nu=1, mu=pm.Normal("mu", 0, 10), sigma=0.5, observed=[-5.2, -4.9, -5.1, 5.0, 5.3, 4.8, 5.1])
    return model


def test_a_higher_optimum_is_noticed(two_hills):
    lower = fit(two_hills, starts=[{"mu": -5.0}], method=mlem.Newton(radius=0.05))
    assert lower.estimates["mu"] < 0
    with pytest.warns(
        mlem.LocalOptimaWarning, match=r"not the maximum: the profile of mu .* starts=\[\{'mu':"
    ) as heard:
        found = lower.confidence_intervals(0.9999999, kind="profile")
    assert [w.filename for w in heard] == [__file__]
    low, high = found["mu"].values
    assert low < lower.estimates["mu"]
    assert np.isnan(high)
    assert found.attrs["notes"] == "mu: the profile rises above the fit"
    with pytest.warns(mlem.LocalOptimaWarning) as heard:
        lower.profile("mu", points=[-5.0, 5.0])
    assert [w.filename for w in heard] == [__file__]


def test_a_fit_that_is_not_at_a_maximum(two_hills):
    early = fit(two_hills, starts=[{"mu": 1.5}], method=mlem.Adam(max_iterations=1))
    with pytest.raises(ValueError, match="The fit is not at a maximum"):
        early.confidence_intervals(kind="profile")


def test_held_entries(mixture):
    held = fit(mixture.model, fixed={"mu[low]": 0.0, "sigma": 1.0})
    found = held.confidence_intervals(kind="profile", var_names=["mu", "sigma", "mean"])
    assert np.isnan(found["mu"].values[0]).all()
    assert np.isfinite(found["mu"].values[1]).all()
    assert np.isnan(found["sigma"]).all()
    assert np.isnan(found["mean"]).all()
    assert found.attrs["notes"] == "mu[low]: it is held; sigma: it is held; mean: it depends on a latent"
    for name, message in [("mu[low]", "it is held"), ("sigma", "it is held"), ("mean[3]", "it depends on a latent")]:
        with pytest.raises(ValueError, match=message):
            held.profile(name)


def test_held_probabilities():
    with pm.Model() as model:
        pm.Categorical("y", pm.Dirichlet("p", np.ones(3)), observed=np.repeat([0, 1, 2], [12, 5, 3]))
    found = fit(model, fixed={"p[2]": 0.2}).confidence_intervals(kind="profile")["p"].values
    ends = crossings(lambda p: 12 * np.log(p) + 5 * np.log(0.8 - p), 0.8 * 12 / 17, 1e-4, 0.8 - 1e-4)
    np.testing.assert_allclose(found[0], ends, rtol=1e-6)
    np.testing.assert_allclose(found[1], 0.8 - found[0][::-1], rtol=1e-6)


def test_bounds_stay_inside_the_support():
    with pm.Model() as model:
        top = pm.Uniform("top", 2.0, 3.0)
        below = pm.TruncatedNormal("below", 0, 5, upper=1.0)
        pm.Normal("y", top + below, 1.0, observed=Y)
        pm.Normal("x", top, 1.0, observed=[2.2, 2.9, 2.7])
    found = fit(model).confidence_intervals(kind="profile")
    low, high = found["top"].values
    assert (low, high) == (2.0, 3.0)
    low, high = found["below"].values
    assert low < fit(model).estimates["below"] < high <= 1.0


# --- names, shapes and errors -----------------------------------------------------------------------------


def test_curve_of_a_variable(mixture):
    curve = mixture.profile("mu", points=5)
    assert set(curve.data_vars) == {"value", "log_likelihood", "zeta", "wald", "interval", "estimate"}
    assert curve["value"].dims == ("kind", "point")
    assert curve.attrs["maximum"] == pytest.approx(mixture.log_likelihood)
    middle = curve.isel(point=2)
    np.testing.assert_allclose(middle["value"], mixture.estimates["mu"], rtol=1e-7)
    np.testing.assert_allclose(middle["zeta"], 0.0, atol=1e-6)
    one = mixture.profile("mu[high]", points=5)
    assert one["value"].dims == ("point",)
    np.testing.assert_allclose(one["log_likelihood"], curve["log_likelihood"].sel(kind="high"))
    expected = mixture.confidence_intervals(kind="profile", var_names=["mu"])["mu"].sel(kind="high")
    np.testing.assert_allclose(one["interval"], expected)
    assert np.all(np.diff(one["zeta"]) > 0)


def test_values_of_the_user(gaussian):
    curve = gaussian.profile("sigma", points=[1.0, 2.0, 5.0])
    expected = [-20 * np.log(s) - 20 * Y.var() / (2 * s * s) - 10 * np.log(2 * np.pi) for s in (1.0, 2.0, 5.0)]
    np.testing.assert_allclose(curve["log_likelihood"], expected, rtol=1e-8)
    np.testing.assert_array_equal(curve["value"], [1.0, 2.0, 5.0])


def test_map_curves(gaussian):
    curve = fit(gaussian.model, "map").profile("mu", points=3)
    assert "log_posterior" in curve


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sgima",), "var: the fit has no 'sgima'. Did you mean 'sigma'"),
        (("mu[hihg]",), r"var: the fit has no 'mu\[hihg\]'. Did you mean 'mu\[high\]'"),
        (("mu", 2.0), "level=2.0 must lie between 0 and 1"),
        (("mu", 0.95, 2), "points=2 must be a whole number, at least 3"),
        (("mu", 0.95, []), "finite values in one dimension"),
        (("sigma", 0.95, [-1.0]), "outside the support of 'sigma'"),
        (("w[low]", 0.95, [1.5]), r"outside the support of 'w\[low\]', 0 to 1"),
    ],
)
def test_bad_curves(mixture, arguments, message):
    with pytest.raises(ValueError, match=message):
        mixture.profile(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "likelihood"}, "kind='likelihood' is unknown; use 'wald', 'profile' or 'bootstrap'"),
        ({"kind": "profile", "cluster": np.arange(20)}, "belong to kind='wald'"),
        ({"kind": "profile", "level": 0.0}, "level=0.0 must lie between"),
        ({"kind": "profile", "var_names": ["sigm"]}, "var_names: the fit has no 'sigm'. Did you mean 'sigma'"),
        ({"var_names": ["ratioo"]}, "Did you mean 'ratio'"),
    ],
)
def test_bad_intervals(gaussian, arguments, message):
    with pytest.raises(ValueError, match=message):
        gaussian.confidence_intervals(**arguments)


def test_wald_intervals_of_some(gaussian):
    found = gaussian.confidence_intervals(var_names="mu")
    assert list(found.data_vars) == ["mu"]
    np.testing.assert_array_equal(found["mu"], gaussian.confidence_intervals()["mu"])


def test_a_constant(gaussian):
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.Deterministic("one", 0 * mu + 1)
        pm.Normal("y", mu, 1.0, observed=Y)
    found = fit(model)
    np.testing.assert_array_equal(found.confidence_intervals(kind="profile")["one"], [1.0, 1.0])
    with pytest.raises(ValueError, match="'one' does not depend on the parameters"):
        found.profile("one")
