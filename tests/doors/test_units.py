"""Numbers do not depend on the units of data and parameters: log-likelihood, estimates, errors, statuses, sentences."""

import os
import re

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem
from units import FAMILIES, Units, draw, units_of

pytestmark = pytest.mark.compiled
pytest.importorskip("pymc_extras")

STUDY = int(os.environ.get("UNITS_MODELS", "40"))


def fit(model, **kw):
    return mlem.fit(model, progressbar=False, random_seed=1, **kw)


def table(found):
    """Estimates and standard errors by variable, states in the order of their means."""
    values = {
        n: (np.array(found.estimates[n]), np.array(found.standard_errors()[n])) for n in found.estimates.data_vars
    }
    order = np.argsort(values["mu"][0]) if "mu" in values else None
    for name in ("mu", "w"):
        if name in values:
            values[name] = tuple(a[order] for a in values[name])
    if "P" in values:
        values["P"] = tuple(a[np.ix_(order, order)] for a in values["P"])
    return values


def sentences(found):
    """What the message says, without numbers and without how far the optimizers went."""
    text = re.sub(r"Ran .*?iterations?\.", "", found.message)
    return re.sub(r"[-+]?\d[\d.e+-]*", "#", text)


def compare(case, units, found, plain):
    assert found.status == plain.status
    assert sentences(found) == sentences(plain)
    expected = plain.log_likelihood + case.jacobian(units)
    assert found.log_likelihood == pytest.approx(expected, rel=1e-8, abs=1e-8 * (1 + abs(plain.log_likelihood)))
    changed = table(found)
    for name, (estimates, errors) in table(plain).items():
        if name == "b" and case.family != "mixture":
            covariance = plain.covariance()
            rows = [i for i, label in enumerate(covariance.indexes[covariance.dims[0]]) if str(label).startswith("b[")]
            covariance = covariance.values[np.ix_(rows, rows)]
            expected, covariance = units.coefficients(estimates, covariance, case.linear)
            expected = expected, np.sqrt(np.diag(covariance))
        elif name == "b":
            expected = [a * units.response / units.columns[1:] for a in (estimates, errors)]
        else:
            expected = [a * (units.response if name in case.scaled else 1.0) for a in (estimates, errors)]
        scale = np.maximum(np.nan_to_num(expected[1]), np.abs(expected[0]))
        assert np.all(np.abs(changed[name][0] - expected[0]) <= 1e-5 * scale), name
        np.testing.assert_allclose(changed[name][1], expected[1], rtol=1e-5, err_msg=name)


def check(family, seed, **options):
    rng = np.random.default_rng(seed)
    case = draw(rng, family)
    columns = case.x.shape[1]
    plain = fit(case.model(Units(np.ones(columns), np.zeros(columns))), **options)
    units = units_of(rng, case)
    compare(case, units, fit(case.model(units), **options), plain)


@pytest.mark.parametrize("family", ["linear", "logit", "poisson", "mixture"])
def test_other_units_are_the_same_fit(family):
    check(family, [3, 0])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_other_units_are_the_same_fit_of_many_models(family):
    """``UNITS_MODELS=2000`` in the environment: so many models in all."""
    for i in range(1, 1 + STUDY // len(FAMILIES)):
        try:
            check(family, [3, i])
        except AssertionError as error:
            raise AssertionError(f"{family}, model {i}") from error


@pytest.mark.parametrize("method", ["lbfgs", "newton", "em", "adam"])
def test_every_method_goes_on_until_the_score_vanishes(method):
    """Income and its square, in dollars: 22 units short of the maximum and significant with the wrong sign, once."""
    rng = np.random.default_rng(0)
    income = np.exp(rng.normal(10.8, 0.5, 200))
    eta = -3 + 8e-5 * income - 3e-10 * income**2
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10, shape=3)
        pm.Bernoulli(
            "y", logit_p=b[0] + b[1] * income + b[2] * income**2, observed=rng.random(200) < 1 / (1 + np.exp(-eta))
        )
    found = fit(model, method=method)
    assert found.converged
    x = np.column_stack([np.ones(200), income, income**2])
    y = model.rvs_to_values[model["y"]].data
    p = 1 / (1 + np.exp(-x @ found.estimates["b"].values))
    information = x.T @ (x * (p * (1 - p))[:, None])
    size = np.sqrt(np.diag(information))
    step = np.linalg.solve(information / np.outer(size, size), (x.T @ (y - p)) / size) / size
    errors = np.sqrt(np.diag(np.linalg.inv(information / np.outer(size, size)))) / size
    assert np.all(np.abs(step) < 1e-4 * errors)
    np.testing.assert_allclose(found.standard_errors()["b"], errors, rtol=1e-5)


def test_many_effects_beside_a_predictor_in_dollars():
    """ "auto" takes L-BFGS; ordinary least squares has the answer."""
    rng = np.random.default_rng(2)
    groups, n = 310, 1240
    firm, income = np.repeat(np.arange(groups), 4), np.exp(rng.normal(10.8, 0.5, n))
    y = rng.normal(size=groups)[firm] + 2e-5 * income + rng.normal(scale=0.5, size=n)
    with pm.Model() as model:
        a, b = pm.Normal("a", 0, 3, shape=groups), pm.Normal("b", 0, 1)
        pm.Normal("y", a[firm] + b * income, pm.HalfNormal("s", 1), observed=y)
    found = fit(model)
    x = np.column_stack([np.eye(groups)[firm], income / 1e5])
    beta, rss = np.linalg.lstsq(x, y)[:2]
    variance = rss[0] / n
    assert found.converged and "exact Newton decrement" in found.message
    assert found.log_likelihood == pytest.approx(-n / 2 * (np.log(2 * np.pi * variance) + 1), abs=1e-7)
    assert found.estimates["b"].item() == pytest.approx(beta[-1] / 1e5, rel=1e-5)
    error = np.sqrt(np.linalg.inv(x.T @ x)[-1, -1] * variance) / 1e5
    assert found.standard_errors()["b"].item() == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("degree", [2, 3])
def test_powers_of_the_year(degree):
    """Columns that differ by 1e-8 of their length are no collinear columns."""
    rng = np.random.default_rng(6)
    year = rng.integers(1990, 2020, 400).astype(float)
    y = 3 + 0.1 * (year - 2005) + rng.normal(size=400)
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10, shape=degree + 1)
        pm.Normal("y", sum(b[d] * year**d for d in range(degree + 1)), pm.HalfNormal("s", 2), observed=y)
    found = fit(model)
    x = np.column_stack([(year - 2005) ** d for d in range(degree + 1)])
    beta, rss = np.linalg.lstsq(x, y)[:2]
    error = np.sqrt(np.linalg.inv(x.T @ x)[-1, -1] * rss[0] / 400)
    variance = rss[0] / 400
    assert found.log_likelihood == pytest.approx(-200 * (np.log(2 * np.pi * variance) + 1), abs=1e-6)
    assert found.estimates["b"].values[-1] == pytest.approx(beta[-1], abs=1e-3 * error)
    assert found.standard_errors()["b"].values[-1] == pytest.approx(error, rel=1e-4)
    assert "determine" not in found.message


@pytest.mark.parametrize("factor", [1e-8, 1e5])
def test_the_same_column_twice_in_any_unit(factor):
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    with pm.Model() as model:
        a, b, c = (pm.Normal(name, 0, 10) for name in "abc")
        pm.Normal("y", a + b * x + c * (factor * x), pm.HalfNormal("s", 2), observed=1 + 2 * x + rng.normal(size=50))
    found = fit(model)
    assert "The data do not determine b, c" in found.message
    assert found.summary()["se"].isna().tolist() == [False, True, True, False]


@pytest.mark.parametrize(("link", "scale"), [("logit", 1.0), ("logit", 1e4), ("probit", 1e-6), ("probit", 1e4)])
def test_separation_is_noticed_on_any_scale(link, scale):
    x = np.random.default_rng(0).normal(size=40)
    with pm.Model() as model:
        eta = pm.Normal("a") + pm.Normal("b", 0, 10) * (scale * x)
        p = {"logit": pm.math.invlogit, "probit": pm.math.invprobit}
        pm.Bernoulli("y", p[link](eta), observed=(x > 0.1).astype(int))
    found = fit(model)
    assert "run away to infinity" in found.message or "runs away to infinity" in found.message
    assert found.summary()["se"].isna().all()


@pytest.mark.parametrize("prior", [1e-6, 5000])
def test_the_prior_that_mle_drops_decides_nothing(prior):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 10))
    salary = 3000.0 * x[:, 0] + rng.normal(scale=2000.0, size=100)
    with pm.Model() as model:
        pm.Normal("y", x @ pm.Normal("b", 0, 1000, shape=10), pm.HalfNormal("s", prior), observed=salary)
    found = fit(model)
    beta, rss = np.linalg.lstsq(x, salary)[:2]
    np.testing.assert_allclose(found.estimates["b"], beta, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(
        found.standard_errors()["b"], np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * rss / 100), rtol=1e-5
    )
    assert "infinity" not in found.message


def test_least_absolute_deviations_in_dollars():
    rng = np.random.default_rng(0)
    income = np.exp(rng.normal(10.8, 0.5, 200))
    y, found = 2 + 3e-5 * income + rng.laplace(size=200), []
    for unit in (1.0, 1e-4):
        with pm.Model() as model:
            mean = pm.Normal("a") + pm.Normal("b") * (unit * income)
            pm.Laplace("y", mean, pm.HalfNormal("s"), observed=y)
        fitted = fit(model)
        found.append(
            [fitted.log_likelihood, *(unit * np.array([fitted.estimates["b"], fitted.standard_errors()["b"]]))]
        )
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


@pytest.mark.parametrize("unit", [1.0, 365.25])
def test_times_in_days(unit):
    """Gompertz's hazard: in days the log-likelihood is not finite at the model's initial point."""
    times = np.random.default_rng(0).gamma(4, 2, 80)
    t = times * unit
    with pm.Model() as model:
        a, b = pm.HalfNormal("a", 1), pm.HalfNormal("b", 1)
        pm.Potential("survival", (pm.math.log(a) + b * t - a / b * (pm.math.exp(b * t) - 1)).sum())
    found = fit(model)
    assert found.converged
    assert found.estimates["b"].item() * unit == pytest.approx(0.20346654685, rel=1e-6)  # by scipy.optimize


# --- limits and edges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", pytest.param("lbfgs", marks=pytest.mark.slow)])
def test_a_limit_at_infinity_is_where_a_fit_converges(method):
    """Counts without overdispersion, and light tails."""
    rng = np.random.default_rng(0)
    counts, values = rng.binomial(20, 0.3, 100), rng.uniform(-1, 1, 100)
    with pm.Model() as poisson:
        pm.NegativeBinomial("y", mu=pm.HalfNormal("mu", 10), alpha=pm.HalfNormal("alpha", 10), observed=counts)
    found = fit(poisson, method=method)
    assert found.converged and "alpha" in found.message
    assert found.summary().loc["alpha", "note"] == "on the boundary: it grows to infinity"
    assert found.standard_errors()["mu"].item() == pytest.approx(np.sqrt(counts.mean() / 100), rel=1e-4)
    with pm.Model() as normal:
        nu, s = pm.Gamma("nu", 2, 0.1), pm.HalfNormal("s")
        pm.StudentT("y", nu=nu, mu=pm.Normal("mu"), sigma=s, observed=values)
    found = fit(normal, method=method)
    assert found.converged and found.summary().loc["nu", "note"] == "on the boundary: it grows to infinity"
    assert found.log_likelihood == pytest.approx(-50 * (np.log(2 * np.pi * values.var()) + 1), abs=1e-4)


def ordered(y, x, categories):
    with pm.Model() as model:
        transform = pm.distributions.transforms.ordered
        c = pm.Normal("c", 0, 3, shape=categories - 1, initval=np.arange(categories - 1.0), transform=transform)
        pm.OrderedLogistic("y", eta=pm.Normal("b") * x, cutpoints=c, observed=y)
    return fit(model)


def test_cutpoints_of_empty_categories():
    """At the ends they run away, in between they meet; all others are those without these categories."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    high = x + rng.logistic(size=60) > 0
    with pm.Model() as logit:
        pm.Bernoulli("y", logit_p=pm.Normal("b") * x - pm.Normal("c"), observed=high.astype(int))
    expected = fit(logit)
    ends = ordered(np.where(high, 2, 1), x, 4)
    assert ends.converged and "c[0], c[2] run away to infinity" in ends.message
    middle = ordered(np.where(high, 2, 0), x, 3)
    assert middle.summary().loc["c[1]", "note"].startswith("on the boundary: it meets the one before it")
    for found, name in ((ends, "c[1]"), (middle, "c[0]")):
        table = found.summary()
        assert table.loc["b", "se"] == pytest.approx(expected.standard_errors()["b"].item(), rel=1e-3)
        assert table.loc[name, "se"] == pytest.approx(expected.standard_errors()["c"].item(), rel=1e-3)


def test_separation_whatever_the_parametrisation_of_cutpoints():
    x = np.random.default_rng(0).normal(size=60)
    y = (x > 0).astype(int) + (x > 1)
    assert ordered(y, x, 3).summary()["se"].isna().all()
    with pm.Model() as model:
        low, gap = pm.Normal("low"), pm.HalfNormal("gap")
        cuts = pm.math.stack([low, low + gap])
        pm.OrderedLogistic("y", eta=pm.Normal("b") * x, cutpoints=cuts, observed=y)
    found = fit(model)
    assert found.summary()["se"].isna().all() and "to infinity" in found.message


def test_the_edge_of_the_support():
    """The largest observation is the estimate of the end of a uniform distribution, and curvature says nothing."""
    y = np.random.default_rng(0).uniform(0, 3, 20)
    with pm.Model() as model:
        pm.Uniform("y", 0, pm.HalfNormal("a", 5), observed=y)
    found = fit(model)
    assert found.converged and "edge" in found.message
    assert found.estimates["a"].item() == pytest.approx(y.max(), rel=1e-6)
    assert np.isnan(found.standard_errors()["a"].item())


def test_cells_that_are_fitted_exactly_keep_their_curvature():
    """The derivative by a probability is 0 there, and passes through 0: its own derivative is not."""
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10, shape=3)
        pm.Binomial("y", 10, logit_p=b, observed=[4, 5, 8])
    found = fit(model, starts=[{"b": np.log([4 / 6, 1.0, 4.0])}])
    np.testing.assert_allclose(found.standard_errors()["b"], 1 / np.sqrt([2.4, 2.5, 1.6]), rtol=1e-9)
