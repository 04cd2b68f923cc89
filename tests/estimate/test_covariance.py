"""Kinds of covariance against peers' formulas, brute force and identities."""

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem
from pm_mlem.estimate.draws import normal_draws
from pm_mlem.objective.engine import engine_for

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(3)
N = 60
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 2))])
CLICKS = (RNG.random(N) < 1 / (1 + np.exp(-X @ [0.3, 0.8, -0.5]))).astype(int)
COUNTS = RNG.poisson(np.where(RNG.random(N) < 0.4, 1.0, 6.0))
GROUP = np.repeat(np.arange(12), 5)


def fit(model, **kw):
    return mlem.fit(model, progressbar=False, random_seed=0, **kw)


@pytest.fixture(scope="module")
def logit():
    with pm.Model(coords={"term": ["one", "x", "z"], "row": np.arange(N)}) as model:
        beta = pm.Normal("beta", 0, 3, dims="term")
        pm.Data("group", GROUP, dims="row")
        pm.Deterministic("odds", pm.math.exp(beta[1]))
        pm.Bernoulli("y", logit_p=X @ beta, observed=CLICKS, dims="row")
    return fit(model)


@pytest.fixture(scope="module")
def mixture():
    with pm.Model() as model:
        rate = pm.Exponential("rate", 1, shape=2, initval=[0.5, 4.0])
        z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=N)
        pm.Poisson("y", rate[z], observed=COUNTS)
    return fit(model)


def residual_scores(found):
    """X (y - p): the scores of a logistic regression."""
    p = 1 / (1 + np.exp(-X @ found.estimates["beta"].values))
    return X * (CLICKS - p)[:, None], np.linalg.inv(X.T @ (X * (p * (1 - p))[:, None]))


def test_logistic_regression(logit):
    scores, bread = residual_scores(logit)
    meat = scores.T @ scores
    np.testing.assert_allclose(logit.covariance(), bread, rtol=1e-6)
    np.testing.assert_allclose(logit.covariance("opg"), np.linalg.inv(meat), rtol=1e-6)
    np.testing.assert_allclose(logit.covariance("sandwich"), bread @ meat @ bread, rtol=1e-6)
    hc1 = logit.covariance("sandwich", small_sample=True)
    np.testing.assert_allclose(hc1, bread @ meat @ bread * N / (N - 3), rtol=1e-6)
    errors = logit.standard_errors("sandwich")
    np.testing.assert_allclose(errors["beta"], np.sqrt(np.diag(bread @ meat @ bread)), rtol=1e-6)
    odds = np.exp(logit.estimates["beta"].values[1])
    assert errors["odds"].item() == pytest.approx(odds * errors["beta"].values[1], rel=1e-6)


@pytest.mark.parametrize("cluster", [GROUP, GROUP.astype(str), "group"], ids=["array", "text", "name"])
def test_clusters(logit, cluster):
    scores, bread = residual_scores(logit)
    sums = np.stack([scores[GROUP == g].sum(axis=0) for g in range(12)])
    clustered = bread @ (sums.T @ sums) @ bread
    np.testing.assert_allclose(logit.covariance("sandwich", cluster=cluster), clustered, rtol=1e-6)
    usual = clustered * 12 / 11 * (N - 1) / (N - 3)
    np.testing.assert_allclose(logit.covariance("sandwich", cluster=cluster, small_sample=True), usual, rtol=1e-6)


def test_a_dim_as_cluster():
    y = RNG.normal(size=(6, 4)) + RNG.normal(size=(6, 1))
    with pm.Model(coords={"person": list("abcdef"), "visit": np.arange(4)}) as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=y, dims=("person", "visit"))
    found = fit(model)
    sums = (y - y.mean()).sum(axis=1)
    assert found.covariance("sandwich", cluster="person").item() == pytest.approx(np.sum(sums**2) / 24**2, rel=1e-6)
    by_row = found.covariance("sandwich", cluster="visit").item()
    assert by_row == pytest.approx(np.sum((y - y.mean()).sum(axis=0) ** 2) / 24**2, rel=1e-6)
    assert found.covariance("sandwich", cluster=list("abcdef")).item() == pytest.approx(np.sum(sums**2) / 24**2)


def test_scores_of_units_are_derivatives_of_their_log_likelihoods(mixture):
    engine, u = mixture._estimate.target.engine, mixture._estimate.optimum.point
    objective, step = engine.objective, 1e-6

    def units(v):
        densities = objective.densities(*objective.space.constrain(v), *engine.data)
        return np.asarray(objective.units(densities, ()))

    numeric = [(units(u + step * e) - units(u - step * e)) / (2 * step) for e in np.eye(len(u))]
    np.testing.assert_allclose(mixture._estimate.scores, np.transpose(numeric), atol=1e-7)
    np.testing.assert_allclose(mixture._estimate.scores.sum(axis=0), 0.0, atol=1e-4)


def test_the_information_is_that_of_louis(mixture):
    """Complete-data information minus the variance of the complete-data score given the data (Louis 1982)."""
    r = mixture.latent_probabilities["z"].values
    w, rate = mixture.estimates["w"].values[0], mixture.estimates["rate"].values
    scores = np.zeros((2, N, 3))  # by z: of w, rate 0, rate 1
    scores[0, :, 0], scores[1, :, 0] = 1 / w, -1 / (1 - w)
    for k in (0, 1):
        scores[k, :, 1 + k] = COUNTS / rate[k] - 1
    complete = np.diag([
        np.sum(r[:, 0] / w**2 + r[:, 1] / (1 - w) ** 2), *[np.sum(r[:, k] * COUNTS) / rate[k] ** 2 for k in (0, 1)]
    ])  # fmt: skip
    mean = np.einsum("nk,knp->np", r, scores)
    missing = np.einsum("nk,knp,knq->pq", r, scores, scores) - mean.T @ mean
    covariance = mixture.covariance().sel(
        parameter=["w[0]", "rate[0]", "rate[1]"], parameter_bis=["w[0]", "rate[0]", "rate[1]"]
    )
    np.testing.assert_allclose(covariance, np.linalg.inv(complete - missing), rtol=1e-4)


def test_weights_are_repetitions():
    weights = np.r_[np.full(20, 2), np.zeros(10), np.ones(30)].astype(int)

    def model(rows, **kw):
        with pm.Model() as m:
            pm.Bernoulli("y", logit_p=X[rows] @ pm.Normal("beta", shape=3), observed=CLICKS[rows])
        return fit(m, **kw)

    weighted, repeated = model(np.arange(N), weights=weights), model(np.repeat(np.arange(N), weights))
    for kind in ("opg", "sandwich"):
        np.testing.assert_allclose(weighted.covariance(kind), repeated.covariance(kind), rtol=1e-6)
    few = weighted.covariance("sandwich", cluster=GROUP, small_sample=True)
    many = repeated.covariance("sandwich", cluster=np.repeat(GROUP, weights), small_sample=True)
    np.testing.assert_allclose(few, many, rtol=1e-6)


def test_scores_behind_a_callback(logit):
    other = engine_for(logit.model, "mle", backend="numba")
    estimate = logit._estimate
    np.testing.assert_allclose(other.objective.scores(estimate.point, other.data), estimate.scores, atol=1e-8)


def test_the_prior_counts_under_map(logit):
    found = fit(logit.model, estimator="map")
    precision = np.eye(3) / 9
    scores, bread = residual_scores(found)
    hessian = np.linalg.inv(bread) + precision
    np.testing.assert_allclose(found.covariance(), np.linalg.inv(hessian), rtol=1e-6)
    np.testing.assert_allclose(found.covariance("opg"), np.linalg.inv(scores.T @ scores + precision), rtol=1e-6)


def test_wald_intervals_of_the_sandwich(logit):
    usual, robust = logit.confidence_intervals(), logit.confidence_intervals(covariance="sandwich", cluster="group")
    width = {k: np.ptp(v["beta"].values, axis=-1) for k, v in (("usual", usual), ("robust", robust))}
    ratio = logit.standard_errors("sandwich", cluster="group")["beta"] / logit.standard_errors()["beta"]
    np.testing.assert_allclose(width["robust"] / width["usual"], ratio, rtol=1e-6)
    assert robust.attrs["covariance"] == "sandwich"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "hc3"}, "kind='hc3' is unknown; use 'observed', 'opg', 'sandwich' or 'bootstrap'"),
        ({"cluster": GROUP}, "cluster= and small_sample= belong to kind='sandwich'"),
        ({"kind": "sandwich", "cluster": np.zeros(N)}, "there is a single cluster"),
        ({"kind": "sandwich", "cluster": np.arange(5)}, r"cluster labels of shape \(5,\) fit no observed variable"),
        ({"kind": "sandwich", "cluster": np.full(N, np.nan)}, "missing labels"),
        ({"kind": "sandwich", "cluster": "school"}, r"cluster='school' is neither a dim .* \(there are 'row'\)"),
        ({"space": "log"}, "space='log' must be"),
    ],
)
def test_bad_input(logit, arguments, message):
    with pytest.raises(ValueError, match=message):
        logit.covariance(**arguments)


@pytest.mark.parametrize("missing", [None, np.nan])
def test_missing_labels(logit, missing):
    labels = np.array(["a", "b"] * (logit.n_obs // 2), dtype=object)
    labels[3] = missing
    with pytest.raises(ValueError, match="cluster labels: there are missing labels"):
        logit.standard_errors("sandwich", cluster=labels)


def test_clusters_must_not_divide_a_unit():
    y = RNG.poisson(3.0, (8, 3))
    with pm.Model() as model:
        z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=8)
        pm.Poisson("y", pm.Exponential("rate", 1, shape=2, initval=[1.0, 5.0])[z][:, None], observed=y)
    with pytest.raises(ValueError, match="cluster labels of 'y' differ between observations that share a latent"):
        fit(model).covariance("sandwich", cluster=np.arange(24).reshape(8, 3))


def test_penalties_are_no_units():
    """A penalty stands for the log-density of a prior: scores, clusters and n are those of the rows."""
    x, y = np.random.default_rng(3).normal(size=(2, 25))
    found = []
    for written in ("penalty", "prior"):
        with pm.Model() as model:
            b = pm.Normal("b", 0, 0.5) if written == "prior" else pm.Flat("b")
            if written == "penalty":
                pm.Potential("ridge", -2.0 * b**2)
            pm.Normal("y", b * x, 1.0, observed=y)
        found.append(mlem.fit(model, "map" if written == "prior" else "mle", progressbar=False))
    penalized, prior = found
    assert (penalized.n_obs, penalized.n_units) == (prior.n_obs, prior.n_units) == (25, 25)
    for kind, options in [("observed", {}), ("opg", {}), ("sandwich", {}), ("sandwich", {"small_sample": True}),
                          ("sandwich", {"cluster": np.arange(25) // 5})]:  # fmt: skip
        errors = [f.standard_errors(kind, **options)["b"].item() for f in found]
        assert errors[0] == pytest.approx(errors[1], rel=1e-6), kind
    for kind in ("case", "bayesian"):
        replicates = [f.bootstrap(20, kind=kind, random_seed=1, progressbar=False).estimates["b"] for f in found]
        np.testing.assert_allclose(*replicates, rtol=1e-5)
    assert set(penalized.influence()["cooks_distance"].dims) == {"y_dim_0"}
    tree = penalized.to_datatree(draws=4, chains=1)
    assert list(tree["log_likelihood"].data_vars) == ["y"]
    assert tree.attrs["n_units"] == 25


def test_small_samples_need_more_observations_than_parameters():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("a"), pm.HalfNormal("s"), observed=[1.0, 2.5])
    with pytest.raises(ValueError, match="small_sample=True needs more observations than parameters"):
        fit(model).covariance("sandwich", small_sample=True)


def test_scores_that_are_rounding():
    """Two observations are each one standard deviation from their mean: the scores of sigma are 0."""
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), pm.HalfNormal("sigma"), observed=[1.0, 2.0])
    table = fit(model).summary(kind="opg")
    assert table["se"]["mu"] == pytest.approx(1 / np.sqrt(8)) and np.isnan(table["se"]["sigma"])
    assert "the scores of the units depend on each other" in table["note"]["sigma"]


def test_a_fit_that_has_not_converged():
    with pm.Model() as model:
        pm.Poisson("y", pm.math.exp(pm.Normal("a") + pm.Normal("b") * np.arange(9.0)), observed=np.arange(9) ** 2)
    found = fit(model, method=mlem.LBFGS(max_iterations=2))
    assert not found.converged
    table = found.summary()
    assert table["se"].isna().all()
    assert table["note"].unique().tolist() == ["no standard error: the fit has not converged (iteration limit)"]
    with pytest.raises(mlem.NotIdentifiedError, match="the fit has not converged"):
        normal_draws(found._estimate, 10, 0)


def test_a_limit_that_was_reached_at_the_maximum():
    with pm.Model() as model:
        pm.Poisson("y", pm.Exponential("rate", 1), observed=[3, 4, 6])
    optimum = fit(model)
    start = [{"rate": optimum.estimates["rate"].item() * (1 + 1e-4)}]
    found = fit(model, method=mlem.LBFGS(max_iterations=1, tolerance=1e-30), starts=start)
    assert found.standard_errors()["rate"].item() == pytest.approx(np.sqrt(13) / 3, rel=1e-3)


def test_scores_that_depend_on_each_other():
    with pm.Model() as model:
        mu, sigma = pm.Normal("mu"), pm.HalfNormal("sigma")
        pm.MvNormal("y", mu * np.ones(2), cov=sigma**2 * np.eye(2), observed=[[1.0, -1], [2, -2], [3, -3], [0.5, -0.5]])
    table = fit(model).summary(kind="opg")
    assert np.isnan(table["se"]["mu"]) and "the scores of the units depend on each other" in table["note"]["mu"]
    assert np.isfinite(table["se"]["sigma"]) and table["note"]["sigma"] == ""
