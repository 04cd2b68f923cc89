"""The Fit object: labels, tables, criteria, DataTree."""

import dataclasses
import io
import warnings

import arviz as az
import numpy as np
import pymc as pm
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import norm

import pm_mlem as mlem
from pm_mlem.demo import waiting_times
from pm_mlem.graph.roles.analyse import states_dim

pytestmark = pytest.mark.compiled


def test_estimates_carry_dims_and_coords(faithful_fit):
    estimates = faithful_fit.estimates
    assert estimates["mu"].dims == ("kind",)
    assert list(estimates["mu"].coords["kind"].values) == ["short", "long"]
    assert estimates["expected_wait"].dims == ("eruption",)
    assert list(estimates) == ["w", "mu", "sigma", "expected_wait"]


def test_the_fit_is_frozen(faithful_fit):
    with pytest.raises(dataclasses.FrozenInstanceError):
        faithful_fit.message = "x"


def test_old_faithful_agrees_with_published_estimates(faithful_fit):
    """mclust's two-component fit with unequal variances (R)."""
    np.testing.assert_allclose(faithful_fit.estimates["mu"].values, [54.6149, 80.0911], atol=1e-3)
    assert faithful_fit.log_likelihood == pytest.approx(-1034.0017, abs=1e-3)


def test_the_dimension_of_the_probabilities_names_the_states():
    """Through rows of a table, transition matrices and chains too."""
    pmx = pytest.importorskip("pymc_extras")
    with pm.Model(coords={"mood": ["calm", "busy"], "next": ["calm", "busy"], "site": range(3)}) as model:
        P = pm.Dirichlet("P", np.ones(2), dims=("mood", "next"))
        w = pm.Dirichlet("w", np.ones(2), dims=("site", "mood"))
        chain = pmx.DiscreteMarkovChain("chain", P=P, init_dist=pm.Categorical.dist([0.5, 0.5]), shape=5)
        rows = pm.Categorical("rows", w[np.array([0, 0, 2])])
        one, after = pm.Categorical("one", w[0]), pm.Categorical("after", P[rows])
        column = pm.Categorical("column", w.T[:, 0])
        indicator = pm.Bernoulli("indicator", w[0, 0])
    found = [states_dim(model, v) for v in (chain, rows, one, after, column, indicator)]
    assert found == ["next", "mood", "mood", "next", None, None]


def test_latent_probabilities(faithful_fit):
    probabilities = faithful_fit.latent_probabilities["z"]
    assert probabilities.dims[-1] == "z_state"
    assert list(probabilities.coords["z_state"].values) == ["short", "long"]
    np.testing.assert_allclose(probabilities.sum("z_state"), 1.0)
    w, mu, sigma = (faithful_fit.estimates[n].values for n in ("w", "mu", "sigma"))
    joint = w * norm.pdf(waiting_times()[:, None], mu, sigma)
    np.testing.assert_allclose(probabilities.values, joint / joint.sum(1, keepdims=True), atol=1e-10)


def test_criteria(faithful_fit):
    fit, n, p = faithful_fit, 272, 5
    assert (fit.n_obs, fit.n_params) == (n, p)
    assert fit.aic == pytest.approx(2 * p - 2 * fit.log_likelihood)
    assert fit.aicc == pytest.approx(fit.aic + 2 * p * (p + 1) / (n - p - 1))
    assert fit.bic == pytest.approx(p * np.log(n) - 2 * fit.log_likelihood)
    r = fit.latent_probabilities["z"].values
    entropy = -np.sum(r * np.log(np.maximum(r, 1e-300)))
    assert fit.entropy == pytest.approx(entropy)
    assert fit.icl == pytest.approx(fit.bic + 2 * entropy)


def test_standard_errors_are_the_inverse_hessian_of_the_marginal_likelihood(faithful_fit):
    """By finite differences of an independent formula of the log-likelihood."""
    y = waiting_times()

    def log_likelihood(theta):
        p, m1, m2, s1, s2 = theta
        return np.log(p * norm.pdf(y, m1, s1) + (1 - p) * norm.pdf(y, m2, s2)).sum()

    e = faithful_fit.estimates
    theta = np.array([e["w"].values[0], *e["mu"].values, *e["sigma"].values])
    hessian = approx_fprime(theta, lambda t: approx_fprime(t, log_likelihood, 1e-5), 1e-4)
    expected = np.sqrt(np.diag(np.linalg.inv(-(hessian + hessian.T) / 2)))
    se = faithful_fit.standard_errors()
    found = [se["w"].values[0], *se["mu"].values, *se["sigma"].values]
    np.testing.assert_allclose(found, expected, rtol=2e-2)
    assert se["w"].values[1] == pytest.approx(se["w"].values[0])


def test_covariance_matrices(faithful_fit):
    covariance = faithful_fit.covariance()
    assert list(covariance.coords["parameter"].values)[:3] == ["w[short]", "w[long]", "mu[short]"]
    errors = faithful_fit.standard_errors()
    diagonal = np.sqrt(np.diag(covariance.values))
    np.testing.assert_allclose(diagonal, np.concatenate([errors[n].values for n in ("w", "mu", "sigma")]))
    unconstrained = faithful_fit.covariance(space="unconstrained")
    assert unconstrained.shape == (5, 5)
    estimate = faithful_fit._estimate
    _, _, hessian = estimate.target.derivatives(estimate.point)
    np.testing.assert_allclose(unconstrained.values @ -np.asarray(hessian), np.eye(5), atol=1e-8)
    with pytest.raises(ValueError, match="space='other' must be"):
        faithful_fit.covariance(space="other")


def test_intervals_respect_the_support(faithful_fit):
    z = norm.ppf(0.975)
    intervals = faithful_fit.confidence_intervals(0.95)
    assert intervals["mu"].dims == ("kind", "ci_bound")
    e, se = faithful_fit.estimates, faithful_fit.standard_errors()
    # sigma is estimated on the log scale, mu on its own, w on the logit scale
    np.testing.assert_allclose(
        intervals["sigma"].sel(ci_bound="upper"), e["sigma"] * np.exp(z * se["sigma"] / e["sigma"]), rtol=1e-6
    )
    np.testing.assert_allclose(intervals["mu"].sel(ci_bound="lower"), e["mu"] - z * se["mu"], rtol=1e-10)
    logit = np.log(e["w"] / (1 - e["w"])) - z * se["w"] / (e["w"] * (1 - e["w"]))
    np.testing.assert_allclose(intervals["w"].sel(ci_bound="lower"), 1 / (1 + np.exp(-logit)))
    with pytest.raises(ValueError, match="level=95 must lie between 0 and 1"):
        faithful_fit.confidence_intervals(95)


def test_interval_of_a_probability_near_one():
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Bernoulli("y", p, observed=np.repeat([1, 0], [99, 1]))
    low, high = mlem.fit(model, progressbar=False).confidence_intervals()["p"].values
    assert 0 < low < 0.99 < high < 1


def test_summary(faithful_fit):
    summary = faithful_fit.summary()
    assert list(summary.columns) == ["estimate", "se", "ci_lb", "ci_ub", "note"]
    assert list(summary.index) == ["w[short]", "w[long]", "mu[short]", "mu[long]", "sigma[short]", "sigma[long]"]
    assert (summary["note"] == "").all()
    assert summary.index.isin(az.summary(faithful_fit.to_datatree(draws=100, random_seed=0)).index).all()


def test_text_and_html(faithful_fit):
    text = repr(faithful_fit)
    for piece in ("maximum likelihood (mle)", "log-likelihood  -1034.0017", "mu[short]", "converged"):
        assert piece in text
    html = faithful_fit._repr_html_()
    assert "<table" in html
    for piece in ("sigma[long]", "-1034.0017", "AIC, BIC", "z (272; 2 states)", "converged", "0.6997", "ci_lb"):
        assert piece in html
    assert "note" not in html  # every entry has a standard error
    assert "z (272; 2 states)" in text


def printed(fit, width=120):
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(fit)
    return console.export_text()


def test_rich_display(faithful_fit):
    text = printed(faithful_fit)
    for piece in ("maximum likelihood (mle)", "-1034.0017", "sigma[long]", "0.6997", "z (272; 2 states)", "converged"):
        assert piece in text
    assert "note" not in text


def test_displays_show_names_as_they_are():
    with pm.Model(coords={"k": ["[red]a[/red]", "<b>&"]}) as model:
        mu = pm.Normal("mu <i>", dims="k")
        pm.Normal("y", mu[0], 1.0, observed=[1.0, 2.0])
    fit = mlem.fit(model, progressbar=False)
    html = fit._repr_html_()
    assert "mu &lt;i&gt;[&lt;b&gt;&amp;]" in html and "<b>" not in html and "<i>" not in html
    assert "<td style='text-align:right'></td>" in html and "note" in html  # no standard error, and why
    assert "[red]a[/red]" in printed(fit) and "note" in printed(fit)
    assert "summed out" not in html


def test_display_of_a_fit_that_did_not_converge(faithful):
    fit = mlem.fit(faithful, method=mlem.EM(max_iterations=2), starts=1, progressbar=False)
    assert not fit.converged
    for text in (repr(fit), fit._repr_html_(), printed(fit, 300)):
        assert str(fit.status) in text and fit.message.split(".")[0] in text.replace("&#x27;", "'")


def test_history_and_starts(faithful_fit):
    history = faithful_fit.history["log_likelihood"]
    assert history.sizes["iteration"] == faithful_fit.iterations + 1
    assert float(history[-1]) == pytest.approx(faithful_fit.log_likelihood)
    starts = faithful_fit.starts
    assert starts.loc[0, "origin"] == "initial point"
    assert starts["log_likelihood"].max() <= faithful_fit.log_likelihood + 1e-6


def test_datatree_groups(faithful_fit):
    tree = faithful_fit.to_datatree(draws=500, chains=2, random_seed=0)
    assert set(tree.children) == {
        "posterior", "log_likelihood", "sample_stats", "observed_data", "point_estimate", "standard_error",
        "confidence_interval", "wald_interval", "note", "covariance", "latent_posterior", "pointwise_log_likelihood",
        "optimizer_trace", "starts",
    }  # fmt: skip
    assert tree.attrs["inference_library"] == "pm_mlem"
    assert "not a Bayesian posterior" in tree["posterior"].attrs["approximation"]
    draws = tree["posterior"]["mu"]
    assert draws.dims == ("chain", "draw", "kind")
    errors = faithful_fit.standard_errors()["mu"]
    np.testing.assert_allclose(draws.std(["chain", "draw"]), errors, rtol=0.1)
    np.testing.assert_allclose(draws.mean(["chain", "draw"]), faithful_fit.estimates["mu"], atol=0.1)
    assert tree["pointwise_log_likelihood"]["waiting"].sum() == pytest.approx(faithful_fit.log_likelihood)
    np.testing.assert_array_equal(tree["observed_data"]["waiting"], waiting_times())


def test_constant_data_are_kept(coin):
    with pm.Model() as model:
        x = pm.Data("x", np.arange(5.0))
        b = pm.Normal("b")
        pm.Normal("y", b * x, 1.0, observed=np.arange(5.0))
    tree = mlem.fit(model, progressbar=False).to_datatree(draws=10)
    np.testing.assert_array_equal(tree["constant_data"]["x"], np.arange(5.0))


def test_map_attributes(faithful_map):
    assert faithful_map.log_posterior == pytest.approx(faithful_map.log_likelihood + faithful_map.log_prior)
    assert "log-posterior" in repr(faithful_map)
    assert "log_posterior" in faithful_map.history


# --- log-likelihood by unit -------------------------------------------------------------------------------


def units_of(**options):
    """A builder's fit of few iterations: the log-likelihood by unit and its sum."""

    def decorate(build):
        with pm.Model(coords=options.get("coords", {})) as model:
            build()
        fit = mlem.fit(model, "map", method=mlem.EM(max_iterations=2), starts=1, random_seed=0, progressbar=False)
        units = fit.pointwise_log_likelihood
        assert sum(float(v.sum()) for v in units.values()) == pytest.approx(fit.log_likelihood, abs=1e-9)
        return units

    return decorate


RNG = np.random.default_rng(12)


def two_kinds(shape=None, dims=None, name="z"):
    return pm.Normal(f"mu_{name}", 0, 2, shape=2), pm.Bernoulli(name, 0.4, shape=shape, dims=dims)


def test_units_are_rows():
    @units_of(coords={"row": list("abc"), "column": [1, 2]})
    def units():
        mu, z = two_kinds((3, 2))
        pm.Normal("y", mu[z], 1.0, observed=RNG.normal(size=(3, 2)), dims=("row", "column"))

    assert units["y"].dims == ("row", "column")
    assert units["y"].coords["row"].values.tolist() == list("abc")


def test_units_are_persons_of_a_latent_class_model():
    @units_of(coords={"person": list("abcd"), "item": [1, 2, 3]})
    def units():
        p = pm.Beta("p", 2, 2, shape=(2, 3))
        z = pm.Bernoulli("z", 0.4, dims="person")
        pm.Bernoulli("y", p[z], observed=RNG.integers(0, 2, (4, 3)), dims=("person", "item"))
        pm.Bernoulli("transposed", p.T[:, z], observed=RNG.integers(0, 2, (3, 4)), dims=("item", "person"))

    assert units["y+transposed"].dims == ("person",)


def test_units_are_sequences():
    pytest.importorskip("pymc_extras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other package's imports
        from pymc_extras.distributions import DiscreteMarkovChain

    @units_of(coords={"sequence": list("ab"), "time": range(4)})
    def units():
        mu = pm.Normal("mu", shape=2)
        init = pm.Categorical.dist(p=[0.5, 0.5])
        z = DiscreteMarkovChain("z", P=[[0.8, 0.2], [0.3, 0.7]], init_dist=init, shape=(2, 4))
        pm.Normal("y", mu[z], 1.0, observed=RNG.normal(size=(2, 4)), dims=("sequence", "time"))

    assert units["y"].dims == ("sequence",)


def test_units_are_elements_of_a_latent():
    @units_of(coords={"group": list("abc"), "row": range(6)})
    def units():
        mu, z = two_kinds(dims="group")
        pm.Normal("y", mu[z[[0, 1, 1, 0, 2, 2]]], 1.0, observed=RNG.normal(size=6), dims="row")

    assert units["y"].dims == ("group",)


def test_groups_that_are_not_connected_stay_apart():
    @units_of()
    def units():
        mu, z = two_kinds(3, name="z")
        pm.Normal("y", mu[z], 1.0, observed=RNG.normal(size=3))
        pm.Poisson("count", pm.math.exp(mu[z]), observed=RNG.poisson(1.0, 3))
        nu, v = two_kinds(4, name="v")
        pm.Normal("x", nu[v], 1.0, observed=RNG.normal(size=4))
        pm.Normal("plain", nu.sum(), 1.0, observed=RNG.normal(size=(2, 2)))
        pm.Potential("penalty", -(mu**2))

    assert {name: array.sizes for name, array in units.items()} == {
        "y+count": {"y_dim_0": 3},
        "x": {"x_dim_0": 4},
        "plain": {"plain_dim_0": 2, "plain_dim_1": 2},
        "penalty": {"penalty_dim_0": 2},
    }


def test_many_variables_of_a_loop_are_abbreviated():
    @units_of()
    def units():
        mu = pm.Normal("mu", shape=2)
        for i in range(2):
            z = pm.Bernoulli(f"z{i}", 0.4)
            for t in range(5):
                pm.Normal(f"y{i}{t}", mu[z], 1.0, observed=0.1 * t)

    assert {name: array.sizes for name, array in units.items()} == {"y00+...+y04": {}, "y10+...+y14": {}}


def test_units_without_a_name_are_numbered():
    @units_of()
    def units():
        mu, z = two_kinds(6)
        pm.Normal("y", mu[z[[0, 1, 1, 3]]], 1.0, observed=RNG.normal(size=4))

    assert units["y"].sizes == {"y_unit": 3}


def test_weights_count_in_the_units():
    with pm.Model() as model:
        p = pm.Beta("p", 2, 2)
        pm.Bernoulli("y", p, observed=[0, 1, 1])
    fit = mlem.fit(model, weights=[2.0, 1.0, 0.0], progressbar=False)
    np.testing.assert_allclose(fit.pointwise_log_likelihood["y"], [2 * np.log(2 / 3), np.log(1 / 3), 0.0], atol=1e-8)
