"""Why a standard error is missing: by name, in the note of the summary and in the message; all others stay."""

from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest

import pm_mlem as mlem

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(5)


def fit(model, **kw):
    return mlem.fit(model, progressbar=False, random_seed=0, **kw)


def test_a_weight_at_0():
    """The others have the standard errors of the multinomial without that state."""
    counts = np.array([6, 3, 0, 11])
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(4))
        pm.Deterministic("odds", w[0] / w[1])
        pm.Deterministic("log_last", pm.math.log(w[2]))
        pm.Categorical("y", w, observed=np.repeat(np.arange(4), counts))
    found = fit(model)
    table, p = found.summary(), counts / 20
    expected = np.sqrt(p * (1 - p) / 20)
    np.testing.assert_allclose(table["se"].iloc[[0, 1, 3]], expected[[0, 1, 3]], rtol=1e-5)
    assert table.loc["w[2]", ["se", "ci_lb", "ci_ub"]].isna().all()
    assert table.loc["w[2]", "note"] == "on the boundary: a probability of 0"
    assert table.loc["odds", "se"] == pytest.approx(2 * np.sqrt(1 / 6 + 1 / 3), rel=1e-5)
    assert np.isnan(table.loc["log_last", "se"])
    assert table.loc["log_last", "note"] == "depends on w[2], which has no standard error"
    assert "On the boundary of the support: w[2] = " in found.message
    covariance = found.covariance().values
    assert np.isnan(covariance).sum() == 7
    assert covariance[0, 1] == pytest.approx(-p[0] * p[1] / 20, rel=1e-5)
    draws = found.to_datatree(draws=50, chains=1, random_seed=0)["posterior"]["w"]
    np.testing.assert_allclose(draws.sum("w_dim_0"), 1.0)


def test_probabilities_of_0_and_1_on_the_log_odds_scale():
    with pm.Model(coords={"arm": ["x", "y", "z"]}) as model:
        p = pm.Beta("p", 1, 1, dims="arm")
        pm.Binomial("n", 10, p, observed=[10, 4, 0])
    table = fit(model).summary()
    assert table["note"].tolist() == ["on the boundary: a probability of 1", "", "on the boundary: a probability of 0"]
    assert table.loc["p[y]", "se"] == pytest.approx(np.sqrt(0.24 / 10))
    found = fit(model)
    assert np.isnan(found.standard_errors("sandwich")["p"].values).tolist() == [True, False, True]
    assert np.isnan(found.standard_errors("opg")["p"].values).all()  # the score of its only unit is 0 at the maximum


def test_a_rare_event_is_not_on_the_boundary():
    with pm.Model() as model:
        pm.Binomial("n", 10**8, pm.Beta("p", 1, 1), observed=9)
    found = fit(model)
    assert "boundary" not in found.message
    assert found.summary().loc["p", "se"] == pytest.approx(3e-8, rel=1e-4)


def test_a_transition_that_never_occurs():
    y = np.tile([0, 1, 2], 30)
    with pm.Model() as model:
        rows = pm.Dirichlet("P", np.ones(3), shape=(3, 3))
        pm.Categorical("y", rows[y[:-1]], observed=np.where(RNG.random(89) < 0.3, y[:-1], y[1:]))
    table = fit(model).summary()
    assert table.loc["P[0, 2]", "note"] == "on the boundary: a probability of 0"
    assert np.isfinite(table.loc[["P[0, 0]", "P[0, 1]", "P[1, 1]", "P[1, 2]"], "se"]).all()


def test_a_variance_at_0():
    """Groups without differences: the residual scale keeps the standard error of the model without groups."""
    group = np.repeat(np.arange(5), 4)
    y = RNG.normal(size=20)
    y -= np.array([y[group == g].mean() for g in range(5)])[group]
    same = (group[:, None] == group).astype(float)
    with pm.Model() as model:
        mu, s, tau = pm.Normal("mu"), pm.HalfNormal("s", 1), pm.HalfNormal("tau", 1)
        pm.MvNormal("y", mu * np.ones(20), cov=s**2 * np.eye(20) + tau**2 * same, observed=y)
    found = fit(model)
    table, scale = found.summary(), np.sqrt(np.mean(y**2))
    assert table.loc["tau", "note"] == "on the boundary: a value of 0"
    assert table.loc["tau", ["se", "ci_lb", "ci_ub"]].isna().all()
    assert table.loc["s", "se"] == pytest.approx(scale / np.sqrt(40), rel=1e-5)
    assert table.loc["mu", "se"] == pytest.approx(scale / np.sqrt(20), rel=1e-5)
    assert "On the boundary of the support: tau = " in found.message


def test_separation_of_one_group():
    """One group always fails: its contrast is at infinity, the intercept keeps its standard error."""
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10, shape=2)
        pm.Binomial("y", 10, logit_p=b[0] + b[1] * np.array([0.0, 1.0]), observed=[4, 0])
    table = fit(model).summary()
    assert table.loc["b[1]", "note"] == "runs away to infinity (separation)"
    assert np.isnan(table.loc["b[1]", "se"])
    assert table.loc["b[0]", "se"] == pytest.approx(1 / np.sqrt(2.4), rel=1e-5)


def test_complete_separation_leaves_nothing():
    x = np.array([-2.0, -1.0, 1.0, 2.0, 3.0])
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10, shape=2)
        pm.Bernoulli("y", logit_p=b[0] + b[1] * x, observed=(x > 0).astype(int))
    found = fit(model)
    table = found.summary()
    assert table["se"].isna().all()
    assert table.loc["b[0]", "note"] == "not identified, as b[1] is at infinity"
    assert "This leaves b[0] undetermined." in found.message


def logistic(columns, y):
    """A logistic regression, its fit by maximum likelihood, with the odds of each term."""
    with pm.Model(coords={"term": list(columns)}) as model:
        b = pm.Normal("b", 0, 10, dims="term")
        pm.Deterministic("odds", pm.math.exp(b), dims="term")
        pm.Bernoulli("y", logit_p=np.column_stack(list(columns.values())) @ b, observed=y)
    return fit(model)


@pytest.fixture(scope="module")
def older_mothers():
    """Mothers aged 30 or more: none who does not smoke has a light child."""
    path = Path(__file__).parents[2] / "notebooks/data/birthwt.csv"
    return pd.read_csv(path, comment="#").query("age >= 30")[["low", "lwt", "smoke"]].to_records(index=False)


def columns_of(data, *names):
    smoke = data["smoke"].astype(float)
    known = {"one": np.ones(len(data)), "lwt": data["lwt"].astype(float), "smoke": smoke, "nonsmoker": 1.0 - smoke}
    return {n: known[n] for n in names}


@pytest.mark.parametrize("kind", ["observed", "opg", "sandwich"])
def test_two_runaways_with_a_finite_sum(older_mothers, kind):
    """Standard errors do not depend on which group is the reference: only the direction to infinity is held."""
    low = older_mothers["low"]
    one = logistic(columns_of(older_mothers, "one", "lwt", "smoke"), low)
    other = logistic(columns_of(older_mothers, "one", "lwt", "nonsmoker"), low)
    errors, expected = one.standard_errors(kind), other.standard_errors(kind)
    assert float(errors["b"].sel(term="lwt")) == pytest.approx(float(expected["b"].sel(term="lwt")), rel=1e-5)
    assert np.isnan(errors["b"].values).tolist() == [True, False, True]
    assert np.isnan(errors["odds"].values).tolist() == [True, False, True]
    assert np.isnan(expected["b"].values).tolist() == [False, False, True]


def test_the_finite_sum_of_two_runaways(older_mothers):
    """That of the smokers alone: the others say nothing about it."""
    smokers = older_mothers["smoke"] == 1
    columns = columns_of(older_mothers, "one", "lwt", "smoke")
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10, shape=3)
        pm.Deterministic("smoker", b[0] + 130 * b[1] + b[2])
        pm.Deterministic("nonsmoker", b[0] + 130 * b[1])
        pm.Bernoulli("y", logit_p=np.column_stack(list(columns.values())) @ b, observed=older_mothers["low"])
    table = fit(model).summary()
    alone = logistic(
        {"one": np.ones(smokers.sum()), "lwt": columns["lwt"][smokers] - 130}, older_mothers["low"][smokers]
    ).summary()
    assert table.loc["smoker", "estimate"] == pytest.approx(alone["estimate"].iloc[0], rel=1e-5)
    assert table.loc["smoker", "se"] == pytest.approx(alone["se"].iloc[0], rel=1e-5)
    assert table.loc["b[1]", "se"] == pytest.approx(alone["se"].iloc[1], rel=1e-5)
    assert table.loc["b[1]", "se"] == pytest.approx(0.01755, rel=1e-3)
    assert table.loc["nonsmoker", "note"] == "depends on b[0], b[2] at infinity"


@pytest.mark.parametrize("more", [[], ["lwt"]])
@pytest.mark.parametrize(("group", "away"), [("smoke", ["one", "smoke"]), ("nonsmoker", ["nonsmoker"])])
def test_separation_by_name(older_mothers, more, group, away):
    found = logistic(columns_of(older_mothers, "one", *more, group), older_mothers["low"])
    table, entries = found.summary(), ", ".join(f"b[{a}]" for a in away)
    assert f"as {entries} run{'s' * (len(away) == 1)} away to infinity (separated outcomes?)" in found.message
    assert "identified" not in found.message
    for a in away:
        assert table.loc[f"b[{a}]", "note"] == "runs away to infinity (separation)"
        assert table.loc[f"odds[{a}]", "note"] == f"depends on {entries} at infinity"
    assert table["se"].notna().sum() == 2 * (len(table) // 2 - len(away))


def test_a_predictor_twice_is_no_runaway():
    """Far from where they started, but not along the direction that is flat."""
    with pm.Model() as model:
        a, b = pm.Normal("a", 0, 100), pm.Normal("b", 0, 100)
        pm.Normal("y", a + b, 1.0, observed=50 + Y)
    found = fit(model)
    assert "only a + b is identified" in found.message
    assert "infinity" not in found.message


def test_a_separating_predictor_twice():
    """Both flaws have their sentence: the sum runs away, the difference was never determined."""
    group = np.repeat([0.0, 1.0], 10)
    found = logistic({"one": np.ones(20), "x": group, "again": group}, np.tile([0, 1], 10) * (group == 0))
    assert "b[x], b[again] run away to infinity" in found.message
    assert "only b[x] + b[again] is identified" in found.message
    assert found.summary().loc["b[one]", "se"] == pytest.approx(1 / np.sqrt(2.5), rel=1e-5)


def test_a_small_effect_on_a_large_scale_is_no_runaway():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 1000), 1000.0, observed=[-990.0, 1014.0])
    found = fit(model)
    assert "infinity" not in found.message
    assert found.summary().loc["mu", "se"] == pytest.approx(1000 / np.sqrt(2), rel=1e-5)


# --- flat directions --------------------------------------------------------------------------------------

Y = RNG.normal(3.0, 1.0, 30)


def notes_of(**parts):
    """Notes of the mean of normal data."""
    with pm.Model() as model:
        pm.Normal("y", parts["mean"](), 1.0, observed=Y)
    return fit(model)


@pytest.mark.parametrize(
    ("mean", "sentence"),
    [
        (lambda: pm.Normal("a") - pm.Normal("b"), "only a - b is identified"),
        (lambda: pm.Normal("a") + 0.25 * pm.Normal("b"), "only a + 0.25 b is identified"),
        (lambda: pm.Normal("a") + 0.0 * pm.Normal("b"), "the data say nothing about b"),
        (
            lambda: pm.Normal("a", initval=2.0) * pm.Normal("b", initval=1.0),
            "a and b are not separately identified (near the estimates the objective is flat along a - ",
        ),
    ],
)
def test_contrasts_by_name(mean, sentence):
    found = notes_of(mean=mean)
    assert sentence in found.message
    assert sentence in found.summary().loc["b", "note"]


def test_collinear_predictors():
    x = RNG.normal(size=(30, 2))
    x = np.column_stack([x, x @ [1.0, 2.0], RNG.normal(size=30)])
    with pm.Model(coords={"term": ["age", "height", "both", "other"]}) as model:
        pm.Normal("y", x @ pm.Normal("beta", dims="term"), 1.0, observed=Y)
    table = fit(model).summary()
    note = table.loc["beta[age]", "note"]
    assert "beta[age], beta[height] and beta[both] are not separately identified" in note
    assert "flat along beta[age] + 2 beta[height] - beta[both]: collinear predictors?" in note
    assert table.loc["beta[other]", "note"] == ""
    assert np.isfinite(table.loc["beta[other]", "se"])


def test_equal_states_are_named():
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(3))
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[-2.0, 2.0])
        z = pm.Categorical("z", w, shape=60)
        y = np.concatenate([RNG.normal(-3, 1, 30), RNG.normal(3, 1, 30)])
        pm.Normal("y", pt.stack([mu[0], mu[1], mu[1]])[z], 1.0, observed=y)
    table = fit(model).summary()
    assert "w[1] and w[2] are not separately identified" in table.loc["w[1]", "note"]
    assert np.isfinite(table.loc[["w[0]", "mu[0]", "mu[1]"], "se"]).all()


def test_a_perfect_fit():
    x = np.arange(6.0)
    with pm.Model() as model:
        b, s = pm.Normal("b", shape=2), pm.HalfNormal("s", 1)
        pm.Normal("y", b[0] + b[1] * x, s, observed=1 + 2 * x)
    found = fit(model)
    assert "(a perfect fit?)" in found.message
    table = found.summary()
    assert table["se"].isna().all()
    assert (table["note"] == "no standard error: the objective has no maximum here").all()


def test_message_and_summary_agree_where_equal_states_are_held():
    y = np.random.default_rng(0).normal(size=40)
    with pm.Model() as model:
        mu = pm.Normal("mu", shape=2)
        z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=40)
        pm.Normal("y", mu[z], pm.HalfNormal("s"), observed=y)
    found = fit(model, fixed={"mu": np.zeros(2)})
    notes = found.summary()["note"]
    assert np.isnan(found.standard_errors()["w"]).all()
    assert "saddle" not in found.message + "".join(notes)
    assert "not identified" in notes["w[0]"] and "do not determine w[0]" in found.message


def test_deterministics_that_are_left_out_are_named():
    y = np.random.default_rng(0).normal(size=40)
    with pm.Model() as model:
        mu = pm.Normal("mu", shape=2, initval=[-1, 1])
        z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=40)
        pm.Deterministic("average", mu[z].mean())
        pm.Normal("y", mu[z], 1.0, observed=y)
    found = fit(model)
    assert found.estimates.attrs["left_out"].startswith("average: ")
    with pytest.raises(ValueError, match="The Deterministic 'average' is left out: "):
        found.profile("average")
    with pytest.raises(ValueError, match="The Deterministic 'average' is left out: "):
        found.confidence_intervals(var_names=["average"])


def test_deterministics_of_a_variance_at_0():
    group = np.repeat(np.arange(6), 4)
    y = np.random.default_rng(2).normal(size=24)
    y -= np.array([y[group == k].mean() for k in range(6)])[group]
    with pm.Model() as model:
        mu, sigma, tau = pm.Normal("mu"), pm.HalfNormal("sigma"), pm.HalfNormal("tau")
        pm.Deterministic("icc", tau**2 / (tau**2 + sigma**2))
        pm.Deterministic("total", tau**2 + sigma**2)
        cov = sigma**2 * np.eye(4) + tau**2 * np.ones((4, 4))
        pm.MvNormal("y", mu * np.ones(4), cov=cov, observed=y.reshape(6, 4))
    found = fit(model)
    errors, notes = found.standard_errors(), found.summary()["note"]
    assert np.isnan(errors["icc"]) and notes["icc"] == "depends on tau, which has no standard error"
    sigma = found.estimates["sigma"].item()
    assert errors["total"].item() == pytest.approx(2 * sigma * errors["sigma"].item())
    with pytest.raises(ValueError, match="there are estimates without standard errors in it"):
        found.wald_test("tau / sigma = 1")


def test_what_a_runaway_has_a_part_in():
    x = np.array([0.0, 0, 0, 0, 1, 1, 1])
    with pm.Model() as model:
        a, b = pm.Normal("a"), pm.Normal("b")
        pm.Deterministic("eta", a + b * x)
        pm.Bernoulli("y", logit_p=a + b * x, observed=[0, 1, 0, 0, 1, 1, 1])
    found = fit(model)
    np.testing.assert_array_equal(np.isnan(found.standard_errors()["eta"]), x == 1)
    with pytest.raises(ValueError, match="there are estimates without standard errors in it"):
        found.wald_test("a + b = 0")
