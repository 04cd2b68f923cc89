"""Hard, stochastic and annealed EM, and accelerated EM on models."""

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem
from pm_mlem.estimate.draws import normal_draws
from pm_mlem.objective.engine import engine_for

pytestmark = pytest.mark.compiled


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    upper = rng.random(200) < 0.35
    return np.where(upper, rng.normal(2.0, 1.0, 200), rng.normal(-1.0, 1.0, 200))


@pytest.fixture(scope="module")
def mixture(data):
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, shape=2)
        sigma = pm.HalfNormal("sigma", 5)
        z = pm.Categorical("z", w, shape=len(data))
        pm.Normal("y", mu[z], sigma, observed=data)
    return model


START = {"mu": [-1.0, 1.5], "sigma": 1.0}


def fit(model, method, **others):
    return mlem.fit(model, method=method, **{"starts": [START], "random_seed": 1, "progressbar": False, **others})


@pytest.fixture(scope="module")
def best(mixture):
    return fit(mixture, "auto")


def test_hard_em_is_a_fixed_point_of_labels_and_refits(mixture, data):
    found = fit(mixture, mlem.EM(kind="hard"))
    labels = found.decode()["z"].values
    groups = [data[labels == k] for k in (0, 1)]
    np.testing.assert_allclose(found.estimates["mu"], [g.mean() for g in groups], atol=1e-8)
    np.testing.assert_allclose(found.estimates["w"], [len(g) / len(data) for g in groups], atol=1e-8)
    spread = np.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / len(data))
    assert found.estimates["sigma"].item() == pytest.approx(spread, abs=1e-8)
    assert found.converged
    assert "not the likelihood of the data" in found.message


def test_hard_em_on_a_chain_is_segmental_k_means():
    rng = np.random.default_rng(0)
    states = np.repeat([0, 1, 0, 1], 15)
    y = rng.normal(np.array([-1.0, 1.5])[states], 0.7)
    with pm.Model() as model:
        p = pm.Dirichlet("p", np.ones(2), shape=(2, 2))
        mu = pm.Normal("mu", 0, 5, shape=2)
        z = [pm.Categorical("z0", [0.5, 0.5])]
        for t in range(1, len(y)):
            z.append(pm.Categorical(f"z{t}", p[z[-1]]))
        pm.Normal("y", mu[pm.math.stack(z)], 0.7, observed=y)
    found = fit(model, mlem.EM(kind="hard"), starts=[{"mu": [-1.0, 1.0], "p": [[0.8, 0.2], [0.2, 0.8]]}])
    path = found.decode()
    path = np.array([path[f"z{t}"].item() for t in range(len(y))])
    np.testing.assert_allclose(found.estimates["mu"], [y[path == k].mean() for k in (0, 1)], atol=1e-8)
    moves = np.zeros((2, 2))
    np.add.at(moves, (path[:-1], path[1:]), 1)
    np.testing.assert_allclose(found.estimates["p"], moves / moves.sum(axis=1, keepdims=True), atol=1e-8)


def test_stochastic_em_is_near_the_maximum_and_reproducible(mixture, best):
    found = [fit(mixture, mlem.EM(kind="stochastic")) for _ in range(2)]
    assert found[0].log_likelihood == found[1].log_likelihood
    assert 0 < best.log_likelihood - found[0].log_likelihood < 0.5
    other = fit(mixture, mlem.EM(kind="stochastic"), random_seed=2)
    assert other.log_likelihood != found[0].log_likelihood


@pytest.mark.parametrize("kind", ["hard", "stochastic"])
def test_standard_errors_belong_to_maxima(mixture, best, kind):
    """There are none after hard and stochastic EM, unless Newton's method goes on from there."""
    found = fit(mixture, mlem.EM(kind=kind))
    assert "there are no standard errors" in found.message
    assert all(np.all(np.isnan(errors)) for errors in found.standard_errors().values())
    title = {"hard": "classification", "stochastic": "stochastic"}[kind]
    assert set(found.summary()["note"]) == {
        f"no standard error: {title} EM does not end at a maximum of the likelihood"
    }
    assert "posterior" not in found.to_datatree()
    with pytest.raises(mlem.NotIdentifiedError, match="does not end at a maximum"):
        normal_draws(found._estimate, 10, 0)
    finished = fit(mixture, mlem.EM(kind=kind, finish=True))
    np.testing.assert_allclose(finished.standard_errors()["mu"], best.standard_errors()["mu"], rtol=1e-4)


def test_hard_em_of_components_far_apart_ends_at_the_maximum():
    rng = np.random.default_rng(5)
    y = np.concatenate([rng.normal(-30.0, 1.0, 40), rng.normal(30.0, 1.0, 60)])
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 50, shape=2)
        z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=len(y))
        pm.Normal("y", mu[z], pm.HalfNormal("sigma", 5), observed=y)
    found = fit(model, mlem.EM(kind="hard"), starts=[{"mu": [-20.0, 20.0]}])
    spread = found.estimates["sigma"].item()
    np.testing.assert_allclose(found.standard_errors()["mu"], spread / np.sqrt([40, 60]), rtol=1e-6)
    assert set(found.summary()["note"]) == {""}


@pytest.mark.parametrize("kind", ["hard", "stochastic"])
def test_finish_goes_to_the_maximum(mixture, best, kind):
    found = fit(mixture, mlem.EM(kind=kind, finish=True))
    assert found.log_likelihood == pytest.approx(best.log_likelihood, abs=1e-7)
    assert "then trust-region Newton" in found.method


@pytest.mark.parametrize("start", [START, {"mu": [-0.2, 0.3], "sigma": 2.0}, {"mu": [-3.0, -2.0], "sigma": 1.0}])
def test_annealing_forgets_the_start(mixture, best, start):
    found = fit(mixture, mlem.EM(anneal=0.3), starts=[start])
    assert found.log_likelihood == pytest.approx(best.log_likelihood, abs=1e-6)


def test_annealing_in_chunks_equals_annealing_at_once(mixture):
    engine = engine_for(mixture, "mle")
    from dataclasses import replace

    from pm_mlem.objective.evaluators.chunks import build_chunks
    from pm_mlem.objective.m_step import tempered_map

    objective = engine.objective
    cut = build_chunks(objective.whole, chunk=32)
    assert cut is not None
    chunked = replace(objective, evaluator=cut)
    u, unit = objective.space.unconstrain(START), np.ones(objective.n_units)
    expected = engine.tempered_map(u, unit, engine.data, 0.4)
    found = tempered_map(chunked, engine.m_step)(u, unit, engine.data, 0.4)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    plain = engine.em_map(u, unit, engine.data, objective.no_posterior, False)[0]
    np.testing.assert_allclose(engine.tempered_map(u, unit, engine.data, 1.0), plain, atol=1e-10)


@pytest.mark.parametrize("estimator", ["mle", "map"])
@pytest.mark.parametrize("accelerate", [None, "squarem", "anderson"])
def test_accelerated_em_ends_where_newton_does(mixture, estimator, accelerate):
    newton = fit(mixture, "newton", estimator=estimator)
    found = fit(mixture, mlem.EM(accelerate=accelerate), estimator=estimator)
    assert found.converged
    value = found.log_posterior if estimator == "map" else found.log_likelihood
    expected = newton.log_posterior if estimator == "map" else newton.log_likelihood
    assert value == pytest.approx(expected, abs=1e-6)
    assert np.all(np.diff(found.history.to_array()) >= -1e-9)
    np.testing.assert_allclose(found.estimates["mu"], newton.estimates["mu"], atol=1e-3)


def test_message_says_what_was_run(best):
    assert "Ran EM with SQUAREM for" in best.message
    assert "then trust-region Newton for" in best.message
