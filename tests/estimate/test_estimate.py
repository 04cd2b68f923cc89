"""A target, an estimate, and the data that they remember."""

import threading

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem
from pm_mlem.estimate import estimate as module
from pm_mlem.graph.roles.snapshot import copy_with, own_copy, snapshot

pytestmark = pytest.mark.compiled

VALUES = np.array([1.0, 2.0, 3.0, 4.5])


def mean_of(values=VALUES):
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 10), 1.0, observed=pm.Data("data", values))
    return model


def fit(model, **options):
    return mlem.fit(model, progressbar=False, **options)


def log_likelihood(values, mu):
    values = np.asarray(values)
    return -0.5 * np.sum((values - mu) ** 2) - 0.5 * len(values) * np.log(2 * np.pi)


# --- one point, one diagnosis -----------------------------------------------------------------------------


def test_an_optimum_is_diagnosed_once(monkeypatch):
    calls, original = [], module.diagnose
    monkeypatch.setattr(module, "diagnose", lambda *given: calls.append(given) or original(*given))
    found = fit(mean_of())
    assert len(calls) == 1
    found.summary()
    found.wald_test("mu = 2")
    assert len(calls) == 1


def test_an_estimate_can_be_moved():
    estimate = fit(mean_of())._estimate
    moved = estimate.moved(estimate.point + 1.0)
    assert moved.values["mu"] == pytest.approx(VALUES.mean() + 1.0)
    assert estimate.values["mu"] == pytest.approx(VALUES.mean())
    assert moved.log_likelihood == pytest.approx(log_likelihood(VALUES, VALUES.mean() + 1.0))


def test_what_is_kept_is_made_once():
    estimate, made = fit(mean_of())._estimate, []

    def make(given):
        made.append(given)
        return len(made)

    assert (estimate.kept(make), estimate.kept(make), made) == (1, 1, [estimate])


# --- the data of the fit ----------------------------------------------------------------------------------


def test_a_fit_remembers_its_data():
    model = mean_of()
    old = fit(model)
    pm.set_data({"data": VALUES[:3] + 100}, model=model)
    new = fit(model)
    assert old.predict()["predictions"]["y"].shape == (4,)
    assert new.predict()["predictions"]["y"].shape == (3,)
    with pytest.raises(ValueError, match="different data: the observed variable 'y' differs"):
        mlem.compare({"old": old, "new": new})
    assert old.score({"data": [2.0]}) == pytest.approx(log_likelihood([2.0], VALUES.mean()))


@pytest.mark.parametrize("ask", ["score", "predict", "sample_posterior_predictive"])
def test_new_data_leave_the_model_alone_in_eight_threads(ask):
    model = mean_of()
    found, wrong = fit(model), []

    def work(i):
        values = np.full(5 + i, float(i))
        try:
            if ask == "score":
                assert found.score({"data": values}) == pytest.approx(log_likelihood(values, VALUES.mean()))
            elif ask == "predict":
                assert found.predict({"data": values})["predictions"]["y"].shape == values.shape
            else:
                tree = found.sample_posterior_predictive(2, 1, data={"data": values}, parameters="estimates")
                assert tree["predictions"]["y"].shape == (1, 2, *values.shape)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    np.testing.assert_array_equal(model["data"].get_value(), VALUES)


def test_an_error_leaves_the_model_alone():
    model = mean_of()
    found = fit(model)
    with pytest.raises(ValueError, match="cannot be set"):
        found.score({"data": np.zeros((2, 2))})
    np.testing.assert_array_equal(model["data"].get_value(), VALUES)


# --- copies -----------------------------------------------------------------------------------------------


def regression():
    with pm.Model(coords={"row": list("abcd"), "state": ["low", "high"]}) as model:
        x = pm.Data("x", [0.0, 1.0, 2.0, 3.0], dims="row")
        mu = pm.Normal("mu", 0, 10, dims="state", initval=[-1.0, 1.0])
        z = pm.Bernoulli("z", 0.4, shape=x.shape)
        pm.Deterministic("double", 2 * mu)
        pm.Normal("y", mu[z] * x, pm.Uniform("s", 0, x.sum()), observed=pm.Data("data", VALUES), dims="row")
    return model


def test_a_copy_has_everything_but_the_storage():
    model = regression()
    copy = own_copy(model)
    for kind in ("free_RVs", "observed_RVs", "deterministics", "data_vars"):
        assert [v.name for v in getattr(copy, kind)] == [v.name for v in getattr(model, kind)]
    assert (copy.coords, copy.named_vars_to_dims) == (model.coords, model.named_vars_to_dims)
    one, two = (fit(m, random_seed=1, starts=1) for m in (model, copy))
    assert one.log_likelihood == two.log_likelihood
    copy.set_data("x", np.zeros(3), coords={"row": list("pqr")})
    assert len(model["x"].get_value()) == 4 and model.coords["row"] == tuple("abcd")


def test_copies_are_made_once_for_the_same_content():
    model = regression()
    before = snapshot(model)
    model.set_data("data", VALUES + 1)
    after = snapshot(model)
    assert before != after and hash(before) != hash(after) and snapshot(model) == after
    copy = copy_with(model, before)
    assert copy is copy_with(model, before) and copy is not copy_with(model, after)
    np.testing.assert_array_equal(copy["data"].get_value(), VALUES)
