"""The bootstrap against theory, against explicit refits, and against SciPy."""

from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy import stats

import pm_mlem as mlem
from pm_mlem.demo import old_faithful, waiting_times
from pm_mlem.estimate import refits
from pm_mlem.estimate.alignment import align, assign
from pm_mlem.estimate.simulate import simulate
from pm_mlem.inference.resampling import acceleration_of, bayesian_weights, bca, case_weights
from pm_mlem.results import bootstrap as bootstrapping
from pm_mlem.results.bootstrap import in_order

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(8)
SKEWED = RNG.exponential(2.0, size=40)
COUNTS = RNG.poisson(3.0, size=50)
X = RNG.normal(size=(80, 2))
CLICKS = (RNG.random(80) < 1 / (1 + np.exp(-X @ [1.0, -0.5]))).astype(int)


def fit(model, *args, **kw):
    return mlem.fit(model, *args, progressbar=False, **{"random_seed": 0, **kw})


def mean_of(values, **kw):
    with pm.Model(**kw) as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=values, dims=list(kw.get("coords", {})) or None)
    return fit(model)


@pytest.fixture(scope="module")
def mean():
    return mean_of(SKEWED)


@pytest.fixture(scope="module")
def mixture():
    return fit(old_faithful(waiting_times()), random_seed=1)


@pytest.fixture(scope="module")
def logit():
    with pm.Model() as model:
        beta = pm.Normal("beta", shape=2)
        pm.Deterministic("odds", pm.math.exp(beta[0]))
        pm.Bernoulli("y", logit_p=X @ beta, observed=CLICKS)
    return fit(model)


def run(found, n=200, **kw):
    return found.bootstrap(n, progressbar=False, **{"random_seed": 1, **kw})


# --- against theory ---------------------------------------------------------------------------------------

MONTE_CARLO = 4 / np.sqrt(2 * 2000)
"""Four relative standard errors of a standard deviation from 2000 draws of a normal distribution."""


@pytest.mark.parametrize(
    ("kind", "variance"),
    [("case", SKEWED.var() / 40), ("bayesian", SKEWED.var() / 41), ("parametric", 1 / 40)],
)
def test_the_standard_error_of_a_mean(mean, kind, variance):
    result = run(mean, 2000, kind=kind)
    assert result.standard_errors()["mu"].item() == pytest.approx(np.sqrt(variance), rel=MONTE_CARLO)
    assert result.estimates["mu"].mean().item() == pytest.approx(SKEWED.mean(), abs=4 * np.sqrt(variance / 2000))


def test_the_standard_error_of_a_rate():
    with pm.Model() as model:
        pm.Poisson("y", pm.Exponential("rate", 1), observed=COUNTS)
    errors = run(fit(model), 2000, kind="parametric").standard_errors()
    assert errors["rate"].item() == pytest.approx(np.sqrt(COUNTS.mean() / 50), rel=MONTE_CARLO)


def test_clusters_are_drawn_together():
    y = RNG.normal(size=(30, 4)) + 2 * RNG.normal(size=(30, 1))
    found = mean_of(y, coords={"person": np.arange(30), "visit": np.arange(4)})
    expected = np.sqrt(y.mean(axis=1).var() / 30)
    for unit in ("person", np.arange(30)):
        result = run(found, 2000, unit=unit)
        assert result.standard_errors()["mu"].item() == pytest.approx(expected, rel=MONTE_CARLO)
    alone = run(found, 2000).standard_errors()["mu"].item()
    assert alone == pytest.approx(np.sqrt(y.var() / 120), rel=MONTE_CARLO)
    assert "30 clusters" in repr(result)
    by_dirichlet = run(found, 2000, unit="person", kind="bayesian").standard_errors()["mu"].item()
    assert by_dirichlet == pytest.approx(expected * np.sqrt(30 / 31), rel=MONTE_CARLO)


def test_simulated_data_give_the_information():
    x = np.column_stack([np.ones(3000), RNG.normal(size=3000)])
    y = (RNG.random(3000) < 1 / (1 + np.exp(-x @ [0.2, 0.7]))).astype(int)
    with pm.Model() as model:
        pm.Bernoulli("y", logit_p=x @ pm.Normal("beta", shape=2), observed=y)
    found = fit(model)
    result = run(found, 1000, kind="parametric")
    np.testing.assert_allclose(result.standard_errors()["beta"], found.standard_errors()["beta"], rtol=0.1)
    correlation = result.covariance().values[0, 1] / found.covariance().values[0, 1]
    assert correlation == pytest.approx(1.0, abs=0.3)


# --- weights ----------------------------------------------------------------------------------------------


def test_weights_are_drawn_as_repetitions():
    rng = np.random.default_rng(0)
    weights = np.array([1.0, 0.0, 3.0, 2.0])
    drawn = np.array([case_weights(weights, None)(rng) for _ in range(4000)])
    assert np.all(drawn.sum(axis=1) == 6) and np.all(drawn[:, 1] == 0)
    np.testing.assert_allclose(drawn.mean(axis=0), weights, atol=0.1)
    np.testing.assert_allclose(drawn.var(axis=0), weights * (1 - weights / 6), atol=0.15)
    shares = np.array([bayesian_weights(weights, None)(rng) for _ in range(4000)])
    np.testing.assert_allclose(shares.sum(axis=1), 6.0)
    np.testing.assert_allclose(shares.var(axis=0), weights * (6 - weights) / 7, atol=0.15)


def test_fractional_weights_stay_with_their_units():
    rng = np.random.default_rng(0)
    weights = np.array([0.5, 0.0, 1.5, 1.0])
    drawn = case_weights(weights, None)(rng)
    counts = drawn[weights > 0] / weights[weights > 0]
    assert drawn[1] == 0 and counts.sum() == 3 and np.all(counts == np.round(counts))
    shares = bayesian_weights(weights, None)(rng)
    assert np.sum(shares[weights > 0] / weights[weights > 0]) == pytest.approx(3)


def test_a_weighted_fit_is_that_of_repeated_rows():
    values, weights = SKEWED[:20], np.r_[np.full(10, 2), np.zeros(3), np.ones(7)].astype(int)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=values)
    found = fit(model, weights=weights)
    expected = np.sqrt(np.repeat(values, weights).var() / weights.sum())
    assert run(found, 2000).standard_errors()["mu"].item() == pytest.approx(expected, rel=MONTE_CARLO)
    with pytest.raises(ValueError, match="cannot simulate weighted data"):
        run(found, kind="parametric")


# --- against explicit refits ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logit", "mixture"])
def test_replicates_are_weighted_fits(name, request):
    found = request.getfixturevalue(name)
    result = run(found, 5, random_seed=3)
    draw = case_weights(found._estimate.target.weights, None)
    for i, rng in enumerate(np.random.default_rng(3).spawn(5)):
        names = found._estimate.target.engine.objective.space.names
        one = fit(found.model, weights=draw(rng), starts=[{n: found.estimates[n].values for n in names}])
        for parameter in names:
            np.testing.assert_allclose(result.estimates[parameter][i], one.estimates[parameter], rtol=1e-6, atol=1e-7)
        assert result.log_likelihood[i].item() == pytest.approx(one.log_likelihood, abs=1e-8)


@pytest.mark.parametrize("name", ["logit", "mixture"])
def test_the_ordinary_optimizer_finds_the_same(name, request, monkeypatch):
    found = request.getfixturevalue(name)
    result = run(found, 4)
    monkeypatch.setattr(refits, "COMPILED", 0)
    other = run(found, 4)
    np.testing.assert_allclose(result._points, other._points, atol=1e-5)
    np.testing.assert_allclose(result.log_likelihood, other.log_likelihood, atol=1e-8)


@pytest.mark.slow
def test_another_backend():
    with pm.Model() as model:
        pm.Poisson("y", pm.Exponential("rate", 1), observed=COUNTS)
    expected = run(fit(model), 5)
    np.testing.assert_allclose(run(fit(model, backend="numba"), 5)._points, expected._points, atol=1e-6)


def test_simulated_data_are_refitted(logit):
    """A replicate is the fit of the data that were drawn for it."""
    result = run(logit, 2, kind="parametric", random_seed=4)
    for i, rng in enumerate(np.random.default_rng(4).spawn(2)):
        drawn = refits.simulator(logit._estimate)(rng)["y"]
        with pm.Model() as model:
            pm.Bernoulli("y", logit_p=X @ pm.Normal("beta", shape=2), observed=drawn)
        np.testing.assert_allclose(result.estimates["beta"][i], fit(model).estimates["beta"], rtol=1e-6)


def test_map_keeps_its_prior():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 0.1), 1.0, observed=SKEWED)
    found = fit(model, "map")
    result = run(found, 2000)
    shrunk = 40 / (40 + 100)
    assert result.standard_errors()["mu"].item() == pytest.approx(shrunk * np.sqrt(SKEWED.var() / 40), rel=MONTE_CARLO)
    assert np.all(result.log_likelihood < 0)


# --- intervals --------------------------------------------------------------------------------------------


def test_intervals_are_those_of_scipy(mean):
    result = run(mean, 4000)
    for kind in ("percentile", "basic", "bca"):
        expected = stats.bootstrap(
            (SKEWED,), np.mean, n_resamples=4000, method=kind if kind != "bca" else "BCa", rng=np.random.default_rng(0)
        ).confidence_interval
        bounds = result.confidence_intervals(kind=kind)["mu"]
        np.testing.assert_allclose(bounds, [expected.low, expected.high], atol=0.06)
    draws = result.estimates["mu"].values
    np.testing.assert_allclose(result.confidence_intervals(0.9)["mu"], np.quantile(draws, [0.05, 0.95]))
    mirrored = 2 * SKEWED.mean() - np.quantile(draws, [0.975, 0.025])
    np.testing.assert_allclose(result.confidence_intervals(kind="basic")["mu"], mirrored, rtol=1e-6)


def test_bca_of_the_same_draws(mean):
    """With SciPy's own replicates and its jackknife, to rounding."""
    theirs = stats.bootstrap((SKEWED,), np.mean, n_resamples=999, method="BCa", rng=np.random.default_rng(0))
    influence, weights = run(mean, 2)._influence
    acceleration = acceleration_of(influence, weights)
    draws = theirs.bootstrap_distribution[:, None]
    bounds = bca(np.array([SKEWED.mean()]), draws, acceleration, 0.95)
    np.testing.assert_allclose(bounds[0], theirs.confidence_interval, rtol=1e-5)


def test_acceleration_of_clusters():
    y = RNG.exponential(size=(12, 3))
    found = mean_of(y, coords={"person": np.arange(12), "visit": np.arange(3)})
    influence, weights = run(found, 2, unit="person")._influence
    np.testing.assert_allclose(influence.ravel(), (y - y.mean()).sum(axis=1) / 36, rtol=1e-5)
    assert np.all(weights == 1)


def test_deterministics_have_them_too(logit):
    result = run(logit, 500)
    bounds, errors = result.confidence_intervals(kind="bca"), result.standard_errors()
    np.testing.assert_allclose(result.estimates["odds"], np.exp(result.estimates["beta"][:, 0]))
    np.testing.assert_allclose(bounds["odds"], np.exp(bounds["beta"][0]), rtol=0.03)
    assert errors["odds"].item() == pytest.approx(result.estimates["odds"].values.std(ddof=1))
    np.testing.assert_allclose(result.covariance(), np.cov(result.estimates["beta"], rowvar=False))
    np.testing.assert_allclose(result.covariance(space="unconstrained"), result.covariance())


# --- states of latents ------------------------------------------------------------------------------------


def test_states_are_matched_with_those_of_the_fit(mixture):
    rng = np.random.default_rng(0)
    swap = rng.random(12) < 0.5
    points = mixture._estimate.optimum.point + 0.02 * rng.normal(size=(12, mixture.n_params))
    draws = mixture._estimate.target.constrained(points)
    moved = {n: np.where(swap[:, None], v[:, ::-1], v) for n, v in draws.items()}
    alignment = align(mixture._estimate, moved)
    assert [s.latents for s in alignment.symmetries] == [("z",)]
    assert set(alignment.symmetries[0].axes) == {("w", 0), ("mu", 0), ("sigma", 0)}
    np.testing.assert_array_equal(alignment.permutations[0], np.where(swap[:, None], [1, 0], [0, 1]))
    np.testing.assert_array_equal(alignment.renamed(12), swap)
    assert np.all(alignment.margins[0] > 0.9)
    for name, array in alignment.apply(moved).items():
        np.testing.assert_allclose(array, draws[name])
    space = mixture._estimate.target.engine.objective.space
    names = [space.unconstrain({n: v[i] for n, v in moved.items()}) for i in range(12)]
    np.testing.assert_allclose(in_order(mixture._estimate, np.array(names))[0], points, atol=1e-9)


def test_replicates_of_a_mixture(mixture):
    result = run(mixture, 60)
    assert np.all(result.converged) and np.all(result.aligned)
    assert result.margin["z"].min() > 0.8
    np.testing.assert_allclose(result.standard_errors()["mu"], mixture.standard_errors()["mu"], rtol=0.4)
    assert "0 had their states in another order" in result.message


def chains(fixed_order=False):
    rng = np.random.default_rng(2)
    z = np.zeros((30, 5), dtype=int)
    for t in range(1, 5):
        z[:, t] = np.where(rng.random(30) < 0.85, z[:, t - 1], 1 - z[:, t - 1])
    y = rng.normal(np.array([-1.5, 1.5])[z])
    with pm.Model() as model:
        start = pm.Dirichlet("start", np.ones(2))
        P = pm.Dirichlet("P", np.ones(2), shape=(2, 2), initval=np.array([[0.8, 0.2], [0.2, 0.8]]))
        transform = {"transform": pm.distributions.transforms.ordered} if fixed_order else {}
        mu = pm.Normal("mu", shape=2, initval=[-1.0, 1.0], **transform)
        state = pm.Categorical("z0", start, shape=30)
        states = [state]
        for t in range(1, 5):
            states.append(pm.Categorical(f"z{t}", P[states[-1]], shape=30))
        pm.Normal("y", mu[pm.math.stack(states, axis=1)], 1.0, observed=y)
    return model


def test_states_of_chains_move_along_both_axes_of_their_transitions():
    result = run(fit(chains()), 3)
    [symmetry] = result._alignment.symmetries
    assert set(symmetry.axes) == {("start", 0), ("P", 0), ("P", 1), ("mu", 0)}
    assert len(symmetry.latents) == 5 and np.all(result.aligned)


def test_states_with_an_order_of_their_own_are_left_alone():
    result = run(fit(chains(fixed_order=True)), 2)
    assert not result._alignment.symmetries and not result.margin.data_vars and np.all(result.aligned)


def test_axes_that_only_happen_to_be_as_long():
    rng = np.random.default_rng(4)
    x, z = rng.normal(size=(150, 2)), rng.integers(0, 2, 150)
    with pm.Model() as model:
        mu, slope = pm.Normal("mu", shape=2, initval=[-3.0, 3.0]), pm.Normal("slope", shape=2)
        label = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=150)
        pm.Normal("y", mu[label] + x @ slope, 1.0, observed=rng.normal(np.array([-3.0, 3.0])[z] + x @ [1.0, 0.0]))
    [symmetry] = run(fit(model), 2)._alignment.symmetries
    assert set(symmetry.axes) == {("mu", 0), ("w", 0)}


def test_the_margin_is_that_over_the_second_best():
    best, margin = assign(np.array([[9.0, 1.0, 0.0], [1.0, 4.0, 3.0], [0.0, 3.0, 5.0]]))
    np.testing.assert_array_equal(best, [0, 1, 2])
    assert margin == pytest.approx((9 - 6) / 9)  # states 1 and 2: 4 + 5 against 3 + 3
    assert assign(np.ones((2, 2)))[1] == 0
    np.testing.assert_array_equal(assign(np.array([[0.0, 2.0], [3.0, 0.0]]))[0], [1, 0])


def test_states_that_cannot_be_told_apart(mixture, monkeypatch):
    monkeypatch.setattr(bootstrapping, "AMBIGUOUS", 1.0)
    with pytest.raises(mlem.NotIdentifiedError, match="states of 'z' cannot be told apart in 5 of 5"):
        run(mixture, 5)


# --- simulation -------------------------------------------------------------------------------------------


def test_masked_entries_stay_masked():
    values = np.ma.masked_array(RNG.normal(size=(10, 3)), mask=RNG.random((10, 3)) < 0.2)
    with pm.Model() as model, pytest.warns(UserWarning, match="imputed"):
        pm.Normal("y", pm.Normal("mu", shape=3), 1.0, observed=values)
    found = fit(model)
    drawn = simulate(found._estimate, 500, random_seed=0)
    assert drawn["y_observed"].shape == (500, values.count())
    errors = run(found, 1000, kind="parametric").standard_errors()["mu"]
    np.testing.assert_allclose(errors, 1 / np.sqrt(values.count(axis=0)), rtol=0.12)


@pytest.mark.slow
def test_labels_that_are_known_in_part_are_simulated():
    z = np.repeat([0, 1], 60)
    labels = np.ma.masked_array(z, mask=np.arange(120) % 3 > 0)
    with pm.Model() as model, pytest.warns(UserWarning, match="imputed"):
        mu = pm.Normal("mu", shape=2)
        label = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), observed=labels)
        pm.Normal("y", mu[label], 1.0, observed=RNG.normal(np.array([-2.0, 2.0])[z]))
    result = run(fit(model), 20, kind="parametric")
    assert np.all(result.converged) and not result.margin.data_vars
    assert set(simulate(result.fit._estimate, 1)) == {"z_observed", "y"}


def test_the_model_keeps_its_generators_and_data(mean):
    before = mean.model["y"].owner.inputs[0].get_value().bit_generator.state
    simulate(mean._estimate, 3)
    assert mean.model["y"].owner.inputs[0].get_value().bit_generator.state == before


@pytest.mark.parametrize("kind", ["case", "parametric"])
def test_data_that_were_replaced_since_do_not_matter(kind):
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=pm.Data("data", SKEWED))
    found = fit(model)
    before = run(found, 5, kind=kind).estimates["mu"]
    pm.set_data({"data": SKEWED[:7] + 1}, model=model)
    np.testing.assert_allclose(run(found, 5, kind=kind).estimates["mu"], before, rtol=1e-12)
    assert len(model["data"].get_value()) == 7


def density(value, mu):
    return -0.5 * (value - mu) ** 2


def test_what_cannot_be_simulated():
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.CustomDist("y", mu, logp=density, observed=SKEWED)
    with pytest.raises(ValueError, match="'y' cannot be simulated"):
        run(fit(model), kind="parametric")
    with pm.Model() as model:
        pm.Potential("loss", density(SKEWED, pm.Normal("mu")).sum())
    with pytest.raises(ValueError, match="Potential 'loss' is a density"):
        run(fit(model), kind="parametric")


# --- the object -------------------------------------------------------------------------------------------


def test_the_seed_decides(mean):
    same, longer = run(mean, 20), run(mean, 30)
    np.testing.assert_array_equal(run(mean, 20).estimates["mu"], same.estimates["mu"])
    np.testing.assert_array_equal(longer.estimates["mu"][:20], same.estimates["mu"])
    assert not np.array_equal(run(mean, 20, random_seed=2).estimates["mu"], same.estimates["mu"])


def test_replicates_without_a_maximum_are_left_out(mean, monkeypatch):
    plain = run(mean, 6)
    failing = iter([True, False, True, True, False, True])
    call = refits.Refitter.__call__
    monkeypatch.setattr(refits.Refitter, "__call__", lambda *a: call(*a)._replace(converged=next(failing)))
    result = run(mean, 6)
    np.testing.assert_array_equal(result.converged, [True, False, True, True, False, True])
    assert np.isnan(result.estimates["mu"]).sum() == 2
    kept = plain.estimates["mu"][result.converged]
    assert result.standard_errors()["mu"].item() == pytest.approx(kept.std(ddof=1).item())
    assert "2 did not converge and are left out" in repr(result)
    assert result.to_datatree()["posterior"].sizes == {"chain": 1, "draw": 4}
    monkeypatch.setattr(refits.Refitter, "__call__", lambda *a: call(*a)._replace(converged=False))
    with pytest.raises(mlem.NotIdentifiedError, match="6 of 6 replicates did not reach a maximum"):
        run(mean, 6)


@pytest.mark.parametrize("reference", [0, 1])
@pytest.mark.parametrize("kind", ["case", "parametric"])
def test_separated_replicates_are_left_out(reference, kind, monkeypatch):
    """Those in which a group has outcomes of one kind only, whichever group is the reference."""
    group, y = np.repeat([0, 1], 12), np.tile([1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0], 2)
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10, shape=2)
        pm.Bernoulli("y", logit_p=b[0] + b[1] * (group == 1 - reference), observed=y)
    found, call, separated = fit(model), refits.Refitter.__call__, []

    def recording(self, target):
        drawn = y if kind == "case" else np.asarray(target.data[0])
        shares = [np.average(drawn[group == g], weights=target.weights[group == g]) for g in (0, 1)]
        separated.append(min(shares) == 0 or max(shares) == 1)
        return call(self, target)

    monkeypatch.setattr(refits.Refitter, "__call__", recording)
    result = run(found, 60, kind=kind)
    assert 3 <= sum(separated) <= 30
    np.testing.assert_array_equal(result.converged, ~np.array(separated))
    assert result.standard_errors()["b"].max() < 2


def test_a_replicate_on_its_way_to_infinity():
    """In one replicate no mother with hypertension has a child of normal weight."""
    data = pd.read_csv(Path(__file__).parents[2] / "notebooks/data/birthwt.csv", comment="#")
    race = [(data["race"] == r).astype(int) for r in ("black", "other")]
    others = [data[c] for c in ("smoke", "ptl", "ht", "ui", "ftv")]
    columns = [np.ones(len(data)), data["age"], data["lwt"], *race, *others]
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 10, shape=10)
        pm.Bernoulli("low", logit_p=pm.math.dot(np.column_stack(columns), beta), observed=data["low"])
    result = run(fit(model), 200, random_seed=2)
    assert np.flatnonzero(~result.converged).tolist() == [162]
    assert "1 did not converge and is left out" in result.message
    assert result.standard_errors()["beta"].values[7] == pytest.approx(0.78, abs=0.01)


def test_what_is_not_identified_or_held_has_no_error():
    with pm.Model() as model:
        a, b, c = pm.Normal("a"), pm.Normal("b"), pm.Normal("c", shape=2)
        pm.Normal("y", a + b, 1.0, observed=SKEWED)
        pm.Normal("x", c, 1.0, observed=X)
    result = run(fit(model, fixed={"c[1]": 0.0}), 50)
    errors, bounds = result.standard_errors(), result.confidence_intervals()
    assert np.isnan(errors["a"]) and np.isnan(errors["b"]) and np.all(np.isnan(bounds["a"]))
    np.testing.assert_array_equal(np.isnan(errors["c"]), [False, True])
    covariance = result.covariance()
    assert list(covariance.parameter.values) == ["a", "b", "c[0]"]
    assert np.isfinite(covariance.values).sum() == 1
    assert np.isnan(result.covariance(space="unconstrained").values).sum() == 8


def test_the_fit_uses_it(mean):
    made = run(mean, 50)
    assert mean.standard_errors("bootstrap", bootstrap=made).equals(made.standard_errors())
    assert mean.covariance("bootstrap", bootstrap=made).equals(made.covariance())
    assert mean.confidence_intervals(0.9, "bootstrap", bootstrap=made).equals(made.confidence_intervals(0.9))
    errors = mean.standard_errors("bootstrap")
    assert mean._bootstrap.n == 1000 and errors.equals(mean._bootstrap.standard_errors())
    assert errors["mu"].item() == pytest.approx(np.sqrt(SKEWED.var() / 40), rel=0.1)
    tree = made.to_datatree()
    assert "not a Bayesian posterior" in tree["posterior"].attrs["approximation"]
    assert repr(made) == "Case bootstrap of a fit by mle. 50 replicates."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 1}, "n=1 must be a whole number, at least 2"),
        ({"kind": "jackknife"}, "kind='jackknife' is unknown; use 'case', 'parametric' or 'bayesian'"),
        ({"unit": np.arange(3)}, "unit labels of shape"),
        ({"unit": "persons"}, "unit='persons' is neither a dim"),
        ({"unit": np.zeros(40)}, "a single cluster"),
        ({"unit": np.arange(40), "kind": "parametric"}, "unit= belongs to kind='case'"),
    ],
)
def test_bad_input(mean, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(mean, **arguments)


def test_a_single_unit():
    with pytest.raises(ValueError, match="single independent unit"):
        run(mean_of([1.0]))


def test_bad_arguments_of_the_results(mean, logit):
    made = run(mean, 5)
    with pytest.raises(ValueError, match="use 'percentile', 'basic' or 'bca'"):
        made.confidence_intervals(kind="student")
    with pytest.raises(ValueError, match="space='log' must be"):
        made.covariance("log")
    with pytest.raises(ValueError, match="belongs to kind='bootstrap'"):
        mean.standard_errors(bootstrap=made)
    with pytest.raises(ValueError, match="another fit"):
        logit.standard_errors("bootstrap", bootstrap=made)
    with pytest.raises(ValueError, match="resample clusters with"):
        mean.covariance("bootstrap", cluster=np.arange(40))
    with pytest.raises(ValueError, match="makes no Wald intervals"):
        mean.confidence_intervals(covariance="bootstrap")


def test_scales_on_a_floor():
    found = fit(old_faithful(waiting_times()), method=mlem.EM(min_scale=1.0))
    with pytest.raises(ValueError, match="use EM\\(penalty"):
        run(found)


def test_large_deterministics_have_no_replicates():
    with pm.Model() as model:
        slope = pm.Normal("slope")
        pm.Deterministic("line", slope * np.arange(200.0))
        pm.Normal("y", slope * X[:, 0], 1.0, observed=X[:, 1])
    found = fit(model)
    made = run(found, 20)
    with pytest.raises(ValueError, match="var_names: 'line' has 200 entries"):
        found.confidence_intervals(kind="bootstrap", bootstrap=made, var_names=["line"])
    assert list(found.confidence_intervals(kind="bootstrap", bootstrap=made, var_names=["slope"])) == ["slope"]


def test_classification_em_is_not_replicated():
    found = fit(old_faithful(waiting_times()), method=mlem.EM(kind="hard"), random_seed=1)
    with pytest.raises(ValueError, match="Refits go to maxima of the likelihood, which the fit is not"):
        run(found, 5)
    with pytest.raises(ValueError, match="needs a maximum of the likelihood: classification EM"):
        found.information_matrix_test()
    assert np.all(np.isnan(found.influence()["cooks_distance"]))


def test_a_penalized_fit_is_replicated():
    found = fit(old_faithful(waiting_times()), method=mlem.EM(penalty=1.0), random_seed=1)
    assert np.all(np.isnan(found.standard_errors()["mu"]))
    errors = run(found, 50).standard_errors()["mu"].values
    plain = fit(old_faithful(waiting_times()), random_seed=1).standard_errors()["mu"].values
    np.testing.assert_allclose(np.sort(errors), np.sort(plain), rtol=0.4)


def test_no_maximum_no_bootstrap():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), pm.HalfNormal("sigma"), observed=np.ones(5))
    found = fit(model)
    with pytest.raises(ValueError, match="the objective has no maximum here"):
        run(found, 5)
    with pytest.raises(ValueError, match="The fit has no profile: the objective has no maximum here"):
        found.confidence_intervals(kind="profile")


def test_replicates_that_are_separated_are_left_out():
    x = np.linspace(-2, 2, 14)
    with pm.Model() as model:
        a, b = pm.Normal("a"), pm.Normal("b")
        pm.Bernoulli("y", logit_p=a + b * x, observed=[0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1])
    for kind in ("case", "parametric"):
        result = run(fit(model), 100, kind=kind)
        assert 5 < int((~result.converged).sum()) < 60 and "did not converge and are left out" in result.message
        assert float(np.abs(result.estimates["b"]).max()) < 40
