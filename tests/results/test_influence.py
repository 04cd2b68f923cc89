"""Influence of units, standard errors side by side, and what too few units leave."""

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(4)
N = 50
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
CLICKS = (RNG.random(N) < 1 / (1 + np.exp(-X @ [0.3, 0.8]))).astype(int)


def fit(model, **kw):
    return mlem.fit(model, progressbar=False, random_seed=0, **kw)


@pytest.fixture(scope="module")
def logit():
    with pm.Model(coords={"term": ["one", "x"], "row": np.arange(N) + 100}) as model:
        beta = pm.Normal("beta", dims="term")
        pm.Bernoulli("y", logit_p=X @ beta, observed=CLICKS, dims="row")
    return fit(model)


def test_influence_in_a_regression(logit):
    """Pregibon's one-step formula without the leverages; Cook's distance from it."""
    p = 1 / (1 + np.exp(-X @ logit.estimates["beta"].values))
    bread = np.linalg.inv(X.T @ (X * (p * (1 - p))[:, None]))
    scores = X * (CLICKS - p)[:, None]
    found = logit.influence()
    assert found["beta"].dims == ("row", "term")
    assert found.coords["row"].values[0] == 100
    np.testing.assert_allclose(found["beta"], scores @ bread, atol=1e-7)
    distance = np.einsum("np,pq,nq->n", scores, bread, scores) / 2
    np.testing.assert_allclose(found["cooks_distance"], distance, atol=1e-7)
    assert found["cooks_distance"].to_series().nlargest(3).index[0] == 100 + np.argmax(distance)


def test_influence_approximates_leaving_out(logit):
    found, worst = logit.influence(), int(np.argmax(logit.influence()["cooks_distance"].values))
    without = fit(logit.model, weights=np.where(np.arange(N) == worst, 0.0, 1.0))
    moved = (logit.estimates["beta"] - without.estimates["beta"]).values
    np.testing.assert_allclose(found["beta"].values[worst], moved, rtol=0.25)


def test_influence_on_the_natural_scale_with_weights():
    y, w = RNG.exponential(3.0, 30), RNG.integers(0, 3, 30)
    with pm.Model() as model:
        pm.Exponential("y", scale=pm.HalfNormal("mean", 5), observed=y)
    found = fit(model, weights=w).influence()
    mean = np.average(y, weights=w)
    np.testing.assert_allclose(found["mean"], w * (y - mean) / w.sum(), atol=1e-6)


def test_several_groups_of_units():
    with pm.Model(coords={"row": ["a", "b", "c"]}) as model:
        mu = pm.Normal("mu", shape=2)
        pm.Normal("x", mu[0], 1.0, observed=[1.0, 2.0, 6.0], dims="row")
        pm.Normal("y", mu.sum(), 1.0, observed=[[1.0, 2.0]])
    found = fit(model).influence()
    assert found["mu"].dims == ("unit", "mu_dim_0")
    assert found.coords["unit"].values.tolist() == ["x[a]", "x[b]", "x[c]", "y[0, 0]", "y[0, 1]"]
    np.testing.assert_allclose(found["mu"].sel(unit="x[c]"), [1.0, -1.0], atol=1e-6)


def test_influence_of_parameters_with_the_dims_of_the_units():
    with pm.Model(coords={"row": ["a", "b"]}) as model:
        pm.Poisson("y", pm.Exponential("rate", 1, dims="row"), observed=[3, 5], dims="row")
    found = fit(model).influence()
    assert found["rate"].dims == ("unit", "row")


def test_influence_where_there_is_no_standard_error():
    with pm.Model() as model:
        pm.Binomial("y", 10, pm.Beta("p", 1, 1, shape=2), observed=[10, 4])
    found = fit(model).influence()
    assert np.isnan(found["p"].values[:, 0]).all()
    assert np.isfinite(found["p"].values[:, 1]).all()


def test_kinds_side_by_side(logit):
    table = logit.summary(kind=["observed", "sandwich"])
    assert list(table.columns) == ["estimate", "se_observed", "se_sandwich", "ci_lb", "ci_ub", "note"]
    np.testing.assert_allclose(table["se_sandwich"], logit.standard_errors("sandwich")["beta"])
    np.testing.assert_allclose(table["ci_lb"], logit.summary()["ci_lb"])
    assert list(logit.summary(kind="sandwich").columns) == list(logit.summary().columns)
    np.testing.assert_allclose(logit.summary(kind="sandwich")["se"], table["se_sandwich"])
    with pytest.raises(ValueError, match="kind is an empty list"):
        logit.summary(kind=[])


# --- too few units ----------------------------------------------------------------------------------------


def test_one_unit():
    """Observations that share a latent are one unit, which has no variability to look at."""
    with pm.Model() as model:
        z = pm.Bernoulli("z", 0.4)
        mu = pm.Normal("mu", shape=2, initval=[-1.0, 1.0])
        pm.Normal("y", mu[z], 1.0, observed=[1.0, 2.0, 3.0])
    found = fit(model, starts=1)
    with pytest.raises(ValueError, match="There is only one independent unit"):
        found.influence()
    for kind in ("opg", "sandwich"):
        with pytest.raises(ValueError, match="needs several independent units; there is one"):
            found.covariance(kind)


def test_fewer_units_than_parameters():
    with pm.Model() as model:
        pm.MvNormal("y", pm.Normal("mu", shape=3), np.eye(3), observed=RNG.normal(size=(2, 3)))
    found = fit(model)
    with pytest.raises(
        ValueError, match="kind='opg' needs at least as many independent units as parameters; .* 2 .* 3"
    ):
        found.covariance("opg")
    assert np.isfinite(found.standard_errors("sandwich")["mu"]).all()
    assert np.isnan(found.aicc)


def test_nothing_is_free():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=[1.0, 2.0])
    found = fit(model, fixed={"mu": np.array(1.0)})
    assert found.summary()["note"].tolist() == ["fixed"]
    assert found.covariance().shape == found.covariance(space="unconstrained").shape == (0, 0)
    assert found.summary(kind=["observed", "sandwich", "opg"]).filter(like="se_").isna().all(axis=None)
    with pytest.raises(ValueError, match="no free parameters, so nothing has an influence"):
        found.influence()
    with pytest.raises(ValueError, match="needs free parameters"):
        found.information_matrix_test()


def test_everything_runs_away():
    x = np.linspace(-1, 1, 20)
    with pm.Model() as model:
        pm.Bernoulli("y", logit_p=pm.Normal("a") + pm.Normal("b") * x, observed=(x > 0).astype(int))
    found = fit(model)
    assert np.all(np.isnan(found.influence()["cooks_distance"]))
    with pytest.raises(ValueError, match="needs free parameters that are inside"):
        found.information_matrix_test()


def test_cooks_distance_counts_what_is_identified():
    x, y = np.random.default_rng(0).normal(size=(2, 30))
    distances = []
    for design in ([np.ones(30), x, 2 * x], [np.ones(30), x]):
        with pm.Model() as model:
            pm.Normal("y", np.column_stack(design) @ pm.Normal("b", shape=len(design)), 1.0, observed=y)
        distances.append(fit(model).influence()["cooks_distance"].values)
    np.testing.assert_allclose(*distances, rtol=1e-6)


def test_a_kind_that_is_named_twice(logit):
    with pytest.raises(ValueError, match="names a kind twice"):
        logit.summary(kind=["observed", "observed"])
