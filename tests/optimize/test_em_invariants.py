"""What must hold of EM on any model: it climbs, ends where the score vanishes, and does not depend on how data lie."""

from dataclasses import replace

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.evaluators.chunks import build_chunks
from pm_mlem.objective.m_step import em_map
from zoo import ZOO

pytestmark = pytest.mark.compiled

LATENT = [a for a in ZOO.values() if a.latent]
RNG = np.random.default_rng(5)
N = 60
LABELS = RNG.random(N) < 0.4
Y = np.where(LABELS, RNG.normal(2.0, 0.8, N), RNG.normal(-1.0, 1.2, N))
X = RNG.normal(size=N)
ITEMS = (RNG.random((N, 4)) < np.where(LABELS[:, None], 0.8, 0.25)).astype(int)


def normals(rows, deterministic=False):
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, shape=2)
        sigma = pm.HalfNormal("sigma", 3, shape=2)
        z = pm.Categorical("z", w, shape=len(rows))
        if deterministic:
            pm.Deterministic("own mean", mu[z])
            pm.Deterministic("own mean again", mu[z])
            pm.Deterministic("odds", w[1] / w[0])
        pm.Normal("y", mu[z], sigma[z], observed=Y[rows])
    return model, {"mu": np.array([-0.8, 1.5]), "sigma": np.array([1.0, 0.9]), "w": np.array([0.6, 0.4])}


def regressions(rows, deterministic=False):
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        a = pm.Normal("a", 0, 5, shape=2)
        b = pm.Normal("b", 0, 5, shape=2)
        z = pm.Categorical("z", w, shape=len(rows))
        mean = a[z] + b[z] * X[rows]
        if deterministic:
            pm.Deterministic("mean", mean)
        pm.Normal("y", mean, 1.0, observed=Y[rows])
    return model, {"a": np.array([-1.0, 2.0]), "b": np.array([0.1, -0.1]), "w": np.array([0.6, 0.4])}


def classes(rows, deterministic=False):
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        p = pm.Beta("p", 1, 1, shape=(2, 4))
        z = pm.Categorical("z", w, shape=len(rows))
        if deterministic:
            pm.Deterministic("own p", p[z])
        pm.Bernoulli("y", p[z], observed=ITEMS[rows])
    start = np.array([[0.3, 0.25, 0.2, 0.3], [0.7, 0.8, 0.75, 0.7]])
    return model, {"p": start, "w": np.array([0.6, 0.4])}


BUILDS = pytest.mark.parametrize("build", [normals, regressions, classes])


def em(model, start, **others):
    return mlem.fit(model, method=mlem.EM(tolerance=1e-11), starts=[start], progressbar=False, **others)


@pytest.fixture(scope="module")
def fits():
    found = {}
    for build in (normals, regressions, classes):
        found[build] = em(*build(np.arange(N)))
    return found


@pytest.mark.parametrize("animal", LATENT, ids=lambda a: a.name)
@pytest.mark.parametrize("accelerate", [None, "squarem", "anderson"])
def test_it_climbs_to_where_the_score_vanishes(animal, accelerate):
    model = animal.build()
    fit = mlem.fit(model, method=mlem.EM(accelerate=accelerate), progressbar=False, random_seed=1, **animal.fit)
    steps = np.diff(fit.history["log_likelihood"])
    assert np.all(steps >= -1e-10 * (1 + abs(fit.log_likelihood)))
    _, slope = fit._estimate.target.value_and_gradient(fit._estimate.point)
    assert np.max(np.abs(slope)) < 2e-3 * (1 + abs(fit.log_likelihood)) ** 0.5


@BUILDS
def test_weights_are_mean_responsibilities(fits, build):
    fit = fits[build]
    np.testing.assert_allclose(fit.estimates["w"], fit.latent_probabilities["z"].values.mean(axis=0), atol=1e-5)


@BUILDS
def test_all_methods_meet(fits, build):
    model, start = build(np.arange(N))
    for method in ("auto", "newton", "lbfgs"):
        other = mlem.fit(model, method=method, starts=[start], progressbar=False)
        assert other.log_likelihood == pytest.approx(fits[build].log_likelihood, abs=1e-7)


@BUILDS
def test_the_order_of_rows_does_not_matter(fits, build):
    other = em(*build(np.random.default_rng(2).permutation(N)))
    assert other.log_likelihood == pytest.approx(fits[build].log_likelihood, abs=1e-8)
    for name, values in fits[build].estimates.items():
        np.testing.assert_allclose(other.estimates[name], values, atol=1e-4)


@BUILDS
def test_the_order_of_labels_does_not_matter(fits, build):
    model, start = build(np.arange(N))
    other = em(model, {name: value[::-1] for name, value in start.items()})
    assert other.log_likelihood == pytest.approx(fits[build].log_likelihood, abs=1e-8)
    for name, values in fits[build].estimates.items():
        np.testing.assert_allclose(other.estimates[name].values[::-1], values, atol=1e-4)


@BUILDS
def test_deterministics_do_not_matter(fits, build):
    other = em(*build(np.arange(N), deterministic=True))
    assert other.log_likelihood == pytest.approx(fits[build].log_likelihood, abs=1e-9)
    assert other.n_params == fits[build].n_params


@BUILDS
@pytest.mark.parametrize("chunk", [7, 32])
def test_chunks_do_not_matter(fits, build, chunk):
    engine = engine_for(build(np.tile(np.arange(N), 2))[0], "mle")  # fewer rows would become part of the graphs
    objective = engine.objective
    cut = build_chunks(objective.whole, chunk=chunk)
    assert cut is not None
    chunked = replace(objective, evaluator=cut)
    u, unit = fits[build]._estimate.optimum.point + 0.1, np.ones(objective.n_units)
    expected = engine.em_map(u, unit, engine.data, objective.no_posterior, False)
    step = em_map(chunked, engine.m_step)
    found = chunked.jit_once(lambda v: step(v, unit, engine.data, None, False))(u)
    assert float(found[1]) == pytest.approx(float(expected[1]), abs=1e-9)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-8)
