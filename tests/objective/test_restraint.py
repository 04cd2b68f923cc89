"""Scales that are kept away from 0 by a floor or by a penalty: against numeric maximisers."""

import warnings

import numpy as np
import pymc as pm
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import pm_mlem as mlem
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.m_step import Restraint

pytestmark = pytest.mark.compiled

Y = np.array([-1.3, -0.4, 0.0, 0.002, 0.9, 1.4, 2.0, 2.7])
RNG = np.random.default_rng(5)
POINTS = np.concatenate(
    [RNG.multivariate_normal([0, 0], [[1.0, 0.6], [0.6, 1.0]], 14), RNG.normal([3.0, 2.0], [0.5, 1.0], (11, 2))]
)
LOW = {"w": [0.8, 0.2], "mu": [1.0, 0.001], "sigma": [1.5, 0.01]}


def normal_mixture(y=Y, shared=False, scale=lambda s: s, start=(1.0, 1.0)):
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[-0.5, 1.5])
        sigma = pm.HalfNormal("sigma", 3, **({} if shared else {"shape": 2, "initval": np.array(start)}))
        z = pm.Categorical("z", w, shape=len(y))
        pm.Normal("y", mu[z], scale(sigma) if shared else scale(sigma)[z], observed=y)
    return model


def cholesky_mixture():
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, shape=(2, 2), initval=[[0.0, 0.0], [3.0, 2.0]])
        chols = [
            pm.LKJCholeskyCov(f"chol_{k}", n=2, eta=1, sd_dist=pm.HalfNormal.dist(2), compute_corr=False)
            for k in range(2)
        ]
        chols = [pm.math.expand_packed_triangular(2, c) for c in chols]
        pm.Mixture("y", w, [pm.MvNormal.dist(mu[k], chol=chols[k]) for k in range(2)], observed=POINTS)
    return model


def diagonal_mixture():
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, shape=(2, 2), initval=[[0.0, 0.0], [3.0, 2.0]])
        sigma = pm.HalfNormal("sigma", 3, shape=(2, 2))
        z = pm.Categorical("z", w, shape=len(POINTS))
        pm.MvNormal("y", mu[z], cov=(sigma**2)[z][:, :, None] * np.eye(2), observed=POINTS)
    return model


def fit(model, method=None, **others):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlem.LocalOptimaWarning)
        return mlem.fit(model, method=method, **{"starts": 1, "progressbar": False, "random_seed": 0, **others})


def mixture_log_likelihood(w, mu, sigma, y=Y):
    return logsumexp(
        np.log(w)[:, None] + norm.logpdf(y, np.reshape(mu, (-1, 1)), np.reshape(sigma, (-1, 1))), axis=0
    ).sum()


def on_two(p, floor=0.0):
    """Weights, means and scales from free numbers."""
    w = 1 / (1 + np.exp(-p[0]))
    return np.array([w, 1 - w]), p[1:3], floor + np.exp(p[3:5])


def largest(value, start):
    found = minimize(
        lambda p: -value(p),
        start,
        method="Nelder-Mead",
        options={"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-9, "fatol": 1e-11},
    )
    found = minimize(lambda p: -value(p), found.x, method="BFGS")
    return -found.fun


# --- the floor --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accelerate", [None, "squarem", "anderson"])
def test_a_component_ends_on_the_floor(accelerate):
    found = fit(normal_mixture(), mlem.EM(min_scale=0.1, accelerate=accelerate), starts=[LOW])
    assert found.converged
    sigma = found.estimates["sigma"].values
    assert sigma[1] == pytest.approx(0.1, rel=1e-9)
    assert "sigma[1] is on its floor, min_scale=0.1" in found.message
    assert np.all(np.diff(found.history["log_likelihood"]) >= -1e-9)
    assert found.history["log_likelihood"].values[-1] == pytest.approx(found.log_likelihood, abs=1e-9)
    expected = largest(
        lambda p: mixture_log_likelihood(*on_two(np.append(p, np.log(0.1)))), [1.4, 1.0, 0.0, np.log(1.2)]
    )
    assert found.log_likelihood == pytest.approx(expected, abs=1e-6)


def test_the_floor_is_the_constrained_maximum_over_many_starts():
    found = fit(normal_mixture(), mlem.EM(min_scale=0.3), starts=12)
    best = -np.inf
    for mu in ([1.0, 0.0], [-0.5, 1.5], [1.0, -1.3], [0.0, 2.7], [0.0, 2.3]):
        start = [0.5, *mu, 0.0, np.log(0.1)]
        best = max(best, largest(lambda p: mixture_log_likelihood(*on_two(p, floor=0.3)), start))
    assert found.log_likelihood == pytest.approx(best, abs=1e-4)
    assert found.estimates["sigma"].min() >= 0.3 * (1 - 1e-12)


def test_a_floor_that_does_not_bind_changes_nothing():
    y = np.concatenate([RNG.normal(-3, 1, 30), RNG.normal(3, 1, 30)])
    plain = fit(normal_mixture(y), mlem.EM())
    found = fit(normal_mixture(y), mlem.EM(min_scale=0.01))
    assert found.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-7)
    assert "floor" not in found.message


@pytest.mark.parametrize("options", [{"kind": "hard"}, {"kind": "stochastic", "draws": 20}, {"anneal": 0.5}])
def test_variants_know_the_floor(options):
    found = fit(normal_mixture(), mlem.EM(min_scale=0.2, **options), starts=[LOW])
    assert found.estimates["sigma"].min() >= 0.2 * (1 - 1e-9)
    assert np.isfinite(found.log_likelihood)


def test_eigenvalues_of_covariances_have_a_floor():
    model = cholesky_mixture()
    engine = engine_for(model, "mle", restraint=Restraint(min_scale=0.9))
    found = fit(model, mlem.EM(min_scale=0.9))
    covariances = [covariance(found, k) for k in range(2)]
    lowest = [np.linalg.eigvalsh(c)[0] for c in covariances]
    assert min(lowest) == pytest.approx(0.81, rel=1e-8)
    assert "is on its floor in some direction, min_scale=0.9" in found.message
    objective, point = engine.objective, found._estimate.optimum.point
    unit = np.ones(objective.n_units)
    rng = np.random.default_rng(0)
    value = objective.value_and_gradient(point, unit, engine.data)[0]
    for _ in range(200):  # nothing nearby that is allowed is better
        moved = engine.project(point + rng.normal(scale=10 ** rng.uniform(-5, -1), size=len(point)))
        assert objective.value_and_gradient(moved, unit, engine.data)[0] <= value + 1e-7


def covariance(found, k):
    rows, columns = np.tril_indices(2)
    factor = np.zeros((2, 2))
    factor[rows, columns] = found.estimates[f"chol_{k}"].values
    return factor @ factor.T


# --- the penalty ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"finish": True}, {"accelerate": None}])
def test_the_penalized_maximum_of_a_normal_mixture(options):
    a = 0.3

    def value(p):
        w, mu, sigma = on_two(p)
        return mixture_log_likelihood(w, mu, sigma) - a * np.sum(Y.var() / sigma**2 + np.log(sigma**2))

    found = fit(normal_mixture(), mlem.EM(penalty=a, tolerance=1e-10, **options))
    estimates = [found.estimates[n].values for n in ("w", "mu", "sigma")]
    start = np.array([np.log(estimates[0][0] / estimates[0][1]), *estimates[1], *np.log(estimates[2])])
    assert value(start) == pytest.approx(largest(value, start + 0.1), abs=1e-7)
    assert found.history["log_likelihood"].values[-1] == pytest.approx(value(start), abs=1e-9)
    assert np.all(np.diff(found.history["log_likelihood"]) >= -1e-9)
    assert found.log_likelihood == pytest.approx(mixture_log_likelihood(*on_two(start)), abs=1e-9)
    size = value(start) - found.log_likelihood
    assert f"penalized log-likelihood, {value(start):.6g} with a penalty of {size:.4g}" in found.message
    assert "no standard errors" in found.message
    assert np.all(np.isnan(found.standard_errors()["sigma"]))
    assert set(found.summary()["note"]) == {
        "no standard error: the maximum of a penalized likelihood is not one of the likelihood"
    }


def test_standard_errors_where_a_restraint_changes_next_to_nothing():
    ordinary = fit(normal_mixture(), mlem.EM())
    for restraint in ({"min_scale": 1e-3}, {"penalty": 1e-6}):
        found = fit(normal_mixture(), mlem.EM(**restraint))
        for name in ("w", "mu", "sigma"):
            np.testing.assert_allclose(found.standard_errors()[name], ordinary.standard_errors()[name], rtol=1e-3)
        assert set(found.summary()["note"]) == {""}


def test_no_standard_errors_on_the_floor():
    found = fit(normal_mixture(), mlem.EM(min_scale=1.0))
    assert "on their floor, min_scale=1; there are no standard errors" in found.message
    assert found.covariance().isnull().all()
    assert np.all(np.isnan(found.confidence_intervals()["mu"]))
    assert set(found.summary()["note"]) == {
        "no standard error: min_scale= keeps the estimates from the maximum of the likelihood"
    }


def test_the_penalty_keeps_a_component_from_collapsing():
    found = fit(normal_mixture(), mlem.EM(penalty=1 / len(Y)), starts=[LOW])
    assert found.converged
    assert found.estimates["sigma"].min() > 1e-3


def test_the_penalty_on_a_shared_scale():
    a = 0.5

    def value(p):
        w, mu, sigma = on_two(np.append(p, p[3]))
        return mixture_log_likelihood(w, mu, sigma) - a * (Y.var() / sigma[0] ** 2 + np.log(sigma[0] ** 2))

    found = fit(normal_mixture(shared=True), mlem.EM(penalty=a, tolerance=1e-10))
    w = found.estimates["w"].values
    at = np.array([np.log(w[0] / w[1]), *found.estimates["mu"].values, np.log(found.estimates["sigma"].item())])
    assert value(at) == pytest.approx(largest(value, at + 0.1), abs=1e-7)


@pytest.mark.parametrize("model", [cholesky_mixture, diagonal_mixture])
def test_the_penalized_maximum_of_a_multivariate_mixture(model):
    a, spread = 0.7, np.cov(POINTS.T, ddof=0)
    found = fit(model(), mlem.EM(penalty=a, tolerance=1e-10))
    w, mu = found.estimates["w"].values, found.estimates["mu"].values
    diagonal = "sigma" in found.estimates
    if diagonal:
        start, s = np.log(found.estimates["sigma"].values).ravel(), np.diag(np.diag(spread))
    else:
        start = np.concatenate([packed(np.linalg.cholesky(covariance(found, k))) for k in range(2)])
        s = spread

    def value(p):
        w, mu = on_two(p)[0], p[1:5].reshape(2, 2)
        total, joint = 0.0, []
        for k in range(2):
            c = np.diag(np.exp(2 * p[5:].reshape(2, 2)[k])) if diagonal else unpacked(p[5:].reshape(2, 3)[k])
            joint.append(np.log(w[k]) + multivariate_normal.logpdf(POINTS, mu[k], c))
            total -= a * (np.trace(s @ np.linalg.inv(c)) + np.linalg.slogdet(c)[1])
        return total + logsumexp(joint, axis=0).sum()

    at = np.concatenate([[np.log(w[0] / w[1])], mu.ravel(), start])
    best = -minimize(lambda p: -value(p), at + 0.03, method="BFGS", options={"gtol": 1e-7}).fun
    assert found.history["log_likelihood"].values[-1] == pytest.approx(value(at), abs=1e-8)
    assert value(at) == pytest.approx(best, abs=1e-6)


def packed(factor):
    return np.array([np.log(factor[0, 0]), factor[1, 0], np.log(factor[1, 1])])


def unpacked(p):
    factor = np.array([[np.exp(p[0]), 0.0], [p[1], np.exp(p[2])]])
    return factor @ factor.T


@pytest.mark.parametrize("restraint", [{"min_scale": 1.6}, {"penalty": 0.8}, {"min_scale": 1.6, "penalty": 0.1}])
@pytest.mark.parametrize("family", ["precision", "lognormal", "halfnormal", "student", "columns"])
def test_every_iteration_climbs(family, restraint):
    y = np.concatenate([Y - 4.0, Y + 4.0])
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[-3.0, 3.0])
        z = pm.Categorical("z", w, shape=len(y))
        if family == "precision":
            pm.Normal("y", mu[z], tau=pm.Gamma("s", 2, 1, shape=2)[z], observed=y)
        elif family == "lognormal":
            pm.LogNormal("y", mu[z], pm.HalfNormal("s", 1, shape=2)[z], observed=np.exp(y))
        elif family == "halfnormal":
            pm.HalfNormal("y", pm.HalfNormal("s", 1, shape=2, initval=[0.5, 2.0])[z], observed=np.repeat([0.4, 6.0], 8))
            pm.Normal("x", mu[z], 1.0, observed=y)
        elif family == "student":
            pm.StudentT("y", 4.0, mu=mu[z], sigma=pm.HalfNormal("s", 1, shape=2)[z], observed=y)
        else:
            s = pm.HalfNormal("s", 1, shape=(2, 2))
            pm.Normal("y", mu[z][:, None], s[z], observed=np.stack([y, y + Y.std() * np.sin(y)], axis=1))
    found = fit(model, mlem.EM(**restraint, accelerate=None))
    assert found.converged
    assert np.all(np.diff(found.history["log_likelihood"]) >= -1e-9)
    scale = found.estimates["s"].values ** (-0.5 if family == "precision" else 1.0)
    if "min_scale" in restraint:
        assert scale.min() == pytest.approx(1.6, rel=1e-9)
        assert "floor" in found.message
    else:
        assert np.linalg.norm(gradient(model, restraint, found)) < 1e-3


@pytest.mark.parametrize("restraint", [{"min_scale": 1.6}, {"penalty": 0.8}])
def test_scales_beside_free_degrees_of_freedom_are_held(restraint):
    """Without a restraint their closed form gives way to Newton steps in all parameters of the distribution."""
    y = np.concatenate([Y - 4.0, Y + 4.0, [-16.0, 15.0]])
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[-3.0, 3.0])
        s = pm.HalfNormal("s", 1, shape=2)
        z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=len(y))
        pm.StudentT("y", pm.Gamma("nu", 2, 0.1), mu=mu[z], sigma=s[z], observed=y)
    found = fit(model, mlem.EM(**restraint, accelerate=None))
    assert found.converged
    assert np.all(np.diff(found.history["log_likelihood"]) >= -1e-9)
    if "min_scale" in restraint:
        assert found.estimates["s"].values.min() == pytest.approx(1.6, rel=1e-9)
    else:
        assert np.linalg.norm(gradient(model, restraint, found)) < 1e-3


def gradient(model, restraint, found):
    engine = engine_for(model, "mle", restraint=Restraint(**restraint))
    objective = engine.objective
    return objective.value_and_gradient(found._estimate.optimum.point, np.ones(objective.n_units), engine.data)[1]


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["min_scale", "penalty"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
def test_the_value_must_be_positive_and_finite(name, value):
    with pytest.raises(ValueError, match=f"{name}=.* must be a number, positive and finite"):
        mlem.EM(**{name: value})


def test_a_floor_and_a_newton_finish_do_not_go_together():
    with pytest.raises(ValueError, match="only EM knows the floor"):
        mlem.EM(min_scale=0.1, finish=True)


def test_scales_that_cannot_be_held_are_refused():
    with pytest.raises(ValueError, match="min_scale= cannot hold 'sigma'.*scale of 'y'.*estimator='map'"):
        fit(normal_mixture(scale=lambda s: 0.1 + s), mlem.EM(min_scale=0.2))
    with pm.Model() as model:
        z = pm.Bernoulli("z", 0.4, shape=len(Y))
        pm.Laplace("y", 0.0, pm.HalfNormal("b", 1, shape=2)[z], observed=Y)
    with pytest.raises(ValueError, match="penalty= knows the scales of Normal.*'y' has another.*'b'"):
        fit(model, mlem.EM(penalty=0.2))


def test_models_without_anything_to_hold_are_refused():
    with pm.Model() as counts:
        rate = pm.Gamma("rate", 2, 1, shape=2, initval=[1.0, 4.0])
        z = pm.Bernoulli("z", 0.4, shape=4)
        pm.Poisson("y", rate[z], observed=[0, 1, 5, 6])
    with pytest.raises(ValueError, match="nothing to hold"):
        fit(counts, mlem.EM(min_scale=0.2))
    with pm.Model() as plain:
        pm.Normal("y", pm.Normal("mu", 0, 1), pm.HalfNormal("sigma", 1), observed=Y)
    with pytest.raises(ValueError, match="belongs to models with discrete latents"):
        fit(plain, mlem.EM(penalty=0.2))


def test_a_penalty_under_map_is_refused_and_a_floor_is_not():
    with pytest.raises(ValueError, match="penalty= belongs to estimator='mle'"):
        fit(normal_mixture(), mlem.EM(penalty=0.2), estimator="map")
    found = fit(normal_mixture(), mlem.EM(min_scale=0.4), estimator="map", starts=[LOW])
    assert found.estimates["sigma"].min() >= 0.4 * (1 - 1e-9)


def test_a_floor_above_the_support_and_constant_data_are_refused():
    with pm.Model() as model:
        z = pm.Bernoulli("z", 0.4, shape=len(Y))
        pm.Normal("y", pm.Normal("mu", 0, 1, shape=2)[z], pm.Uniform("sigma", 0, 2), observed=Y)
    with pytest.raises(ValueError, match="min_scale=3.0 is not below the largest scale that 'sigma' allows"):
        fit(model, mlem.EM(min_scale=3.0))
    with pytest.raises(ValueError, match="needs observations that vary"):
        fit(normal_mixture(np.ones(5)), mlem.EM(penalty=0.1))


def test_held_entries_are_not_restrained():
    found = fit(normal_mixture(), mlem.EM(min_scale=0.3, penalty=0.2), fixed={"sigma": [0.05, np.nan]})
    assert found.estimates["sigma"].values[0] == 0.05
    assert found.estimates["sigma"].values[1] >= 0.3
    assert "sigma[0]" not in found.message


def test_a_restraint_reaches_no_other_fit_of_the_model():
    model = normal_mixture(np.concatenate([Y - 4.0, Y + 4.0]))
    plain = fit(model, mlem.EM())
    fit(model, mlem.EM(min_scale=2.0))
    again = fit(model, mlem.EM())
    assert again.log_likelihood == plain.log_likelihood
    assert engine_for(model, "mle").plan is None


def test_data_in_chunks():
    rng = np.random.default_rng(2)
    y = np.concatenate([rng.normal(-4, 1, 70_000), rng.normal(4, 0.5, 70_000)])
    found = fit(normal_mixture(y, start=(0.8, 0.9)), mlem.EM(min_scale=0.8), starts=[{"mu": [-3.0, 3.0]}])
    np.testing.assert_allclose(found.estimates["sigma"], [1.0, 0.8], atol=0.01)
    assert "sigma[1] is on its floor" in found.message


@pytest.mark.slow
def test_the_numba_backend():
    jax, numba = (
        fit(normal_mixture(), mlem.EM(penalty=0.3), backend=b, starts=[{"mu": [0.0, 2.0]}]) for b in ("jax", "numba")
    )
    assert numba.log_likelihood == pytest.approx(jax.log_likelihood, abs=1e-6)
