"""Log-likelihoods with kinks: Laplace distributions, absolute deviations, the lasso."""

import numpy as np
import pymc as pm
import pytest
from scipy.optimize import linprog

import pm_mlem as mlem
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.m_step.medians import weighted_medians

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(0)
HIGH = RNG.random(200) < 0.4
MIXED = np.where(HIGH, RNG.laplace(-2, 1, 200), RNG.laplace(3, 0.7, 200))
X = RNG.normal(size=150)
Y = 1 + 2 * X + RNG.laplace(0, 1.5, 150)


def mixture(shared: bool):
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 10, shape=2, initval=[-1.0, 1.0])
        b = pm.HalfNormal("b", 5, shape=None if shared else 2)
        z = pm.Categorical("z", w, shape=len(MIXED))
        pm.Laplace("y", mu[z], b if shared else b[z], observed=MIXED)
    return model


def quick(model, *args, **options):
    return mlem.fit(model, *args, random_seed=1, progressbar=False, **options)


def test_one_sample_is_the_median_and_the_mean_absolute_deviation():
    values = np.random.default_rng(5).laplace(1.0, 2.0, 401)
    with pm.Model() as model:
        pm.Laplace("y", pm.Flat("mu"), pm.HalfFlat("b"), observed=values)
    for method in ("auto", "em"):
        fit = quick(model, method=method)
        b = np.abs(values - np.median(values)).mean()
        assert fit.converged
        np.testing.assert_allclose([fit.estimates["mu"], fit.estimates["b"]], [np.median(values), b], rtol=1e-6)
        assert fit.log_likelihood == pytest.approx(-401 * (np.log(2 * b) + 1), abs=1e-6)
        # the expected information of a Laplace distribution is n / b**2 in both parameters
        assert fit.standard_errors()["mu"].item() == pytest.approx(b / np.sqrt(401), rel=0.02)
    assert "kinks" in fit.message and "outer product" in fit.message


@pytest.mark.parametrize("shared", [True, False])
def test_em_reaches_what_a_search_on_the_marginal_reaches(shared):
    model = mixture(shared)
    fits = {method: quick(model, method=method, starts=4) for method in ("em", "auto", "lbfgs")}
    best = max(fit.log_likelihood for fit in fits.values())
    assert all(fit.converged and fit.log_likelihood == pytest.approx(best, abs=1e-3) for fit in fits.values())
    plan = engine_for(model, "mle").m_step
    assert plan.newton is None and plan.reduced is None
    assert "Newton" not in fits["auto"].method
    assert np.all(np.diff(fits["em"].history["log_likelihood"]) > -1e-9)


def test_standard_errors_are_those_of_the_scores_and_agree_with_the_bootstrap():
    fit = quick(mixture(True), method="em", starts=[{"mu": [-2.0, 3.0]}])
    own, scores = fit.standard_errors(), fit.standard_errors("opg")
    replicates = fit.bootstrap(200, random_seed=3, progressbar=False)
    resampled = fit.standard_errors("bootstrap", bootstrap=replicates)
    for name in ("w", "mu", "b"):
        np.testing.assert_allclose(own[name], scores[name], rtol=1e-8)
        np.testing.assert_allclose(own[name], resampled[name], rtol=0.35)


@pytest.mark.parametrize("method", ["auto", "em"])
def test_least_absolute_deviations_equal_linear_programming(method):
    n, design = len(Y), np.column_stack([np.ones_like(X), X])
    with pm.Model() as model:
        a, b = pm.Normal("a", 0, 10), pm.Normal("b", 0, 10)
        pm.Laplace("y", a + b * X, pm.HalfNormal("s", 5), observed=Y)
    free = [(None, None)] * 2 + [(0, None)] * (2 * n)
    cost = np.r_[0, 0, np.ones(2 * n)]
    best = linprog(cost, A_eq=np.hstack([design, np.eye(n), -np.eye(n)]), b_eq=Y, bounds=free)
    fit = quick(model, method=method)
    assert fit.converged
    np.testing.assert_allclose([fit.estimates["a"], fit.estimates["b"]], best.x[:2], atol=1e-5)
    assert fit.estimates["s"].item() == pytest.approx(best.fun / n, rel=1e-6)
    assert ("then L-BFGS" in fit.method) if method == "em" else ("L-BFGS" in fit.method)


def test_newton_says_why_it_does_not_get_there():
    with pm.Model() as model:
        pm.Laplace("y", pm.Normal("a", 0, 10) + pm.Normal("b", 0, 10) * X, 1.0, observed=Y)
    fit = quick(model, method="newton")
    assert not fit.converged
    assert "kinks" in fit.message and "use method='auto' or 'lbfgs'" in fit.message
    assert "saddle" not in fit.message


def test_the_lasso_sets_coefficients_to_zero_and_gives_them_no_standard_error():
    design, noise = RNG.normal(size=(60, 3)), RNG.normal(size=60)
    with pm.Model() as model:
        beta = pm.Laplace("beta", 0, 0.1, shape=3)
        pm.Normal("y", pm.math.dot(design, beta), 1.0, observed=3.0 * design[:, 0] + noise)
    fit = quick(model, "map")
    beta = fit.estimates["beta"].values
    slope = design.T @ (3.0 * design[:, 0] + noise - design @ beta)
    assert fit.converged
    zero = np.abs(beta) < 1e-6
    assert zero.any() and not zero.all()
    np.testing.assert_allclose(slope[~zero], 10.0 * np.sign(beta[~zero]), atol=1e-3)  # the subgradient vanishes
    assert np.all(np.abs(slope[zero]) <= 10.0 + 1e-6)
    assert np.all(np.isnan(fit.standard_errors()["beta"]))
    assert fit.summary()["note"].str.contains("kink").all()


def test_smooth_models_with_absolute_values_of_parameters_have_no_kinks():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("a", 0, 10), pm.math.abs(pm.Normal("s", 1, 1)), observed=Y)
    engine = engine_for(model, "mle")
    assert engine.objective.kinks.none


@pytest.mark.parametrize("seed", range(3))
def test_weighted_medians_minimise_the_sum_of_absolute_deviations(seed):
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=40).round(1), rng.random(40) * (rng.random(40) < 0.8)
    index = rng.integers(-1, 3, size=40)
    found = np.asarray(weighted_medians(values, weights, index, 4))
    assert np.isnan(found[3])
    for group in range(3):
        own = index == group

        def cost(m, own=own):
            return np.sum(weights[own] * np.abs(values[own] - m))

        assert cost(found[group]) <= min(cost(v) for v in values[own]) + 1e-12


def test_the_median_of_an_even_number_is_the_middle():
    found = weighted_medians(np.array([4.0, 1.0, 2.0, 9.0]), np.ones(4), np.zeros(4, dtype=int), 1)
    assert float(found[0]) == np.median([4.0, 1.0, 2.0, 9.0])
