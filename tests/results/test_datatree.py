"""The tree of a fit: what ArviZ makes of it, and what files make of it."""

import copy
import pickle

import arviz as az
import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from scipy.stats import norm

import pm_mlem as mlem
from pm_mlem.demo import waiting_times
from pm_mlem.objective.evaluators import chunks
from pm_mlem.results import datatree

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(4)
X = np.c_[np.ones(12), np.linspace(-1, 1, 12)]
Y = X @ [1.0, 2.0] + RNG.normal(size=12)


def fit_of(build, estimator="mle", coords=None, **options):
    with pm.Model(coords=coords) as model:
        build()
    return mlem.fit(model, estimator, random_seed=0, progressbar=False, **options)


def regression(columns=2):
    """A normal approximation that is exact: known error, linear mean."""
    b = pm.Normal("b", 0, 10, dims="column")
    pm.Normal("y", X[:, :columns] @ b, 1.0, observed=Y, dims="row")


COORDS = {"row": [f"r{i}" for i in range(12)]}


@pytest.fixture(scope="module")
def line():
    return fit_of(regression, coords={**COORDS, "column": ["one", "x"]})


@pytest.fixture(scope="module")
def constant():
    return fit_of(lambda: regression(1), coords={**COORDS, "column": ["one"]})


@pytest.fixture(scope="module")
def tree(line):
    return line.to_datatree(2000, random_seed=1)


@pytest.fixture(scope="module")
def small(faithful_fit):
    return faithful_fit.to_datatree(50, 2, random_seed=1)


# --- groups ----------------------------------------------------------------------------------------------


def test_attributes_are_what_a_report_needs(line, tree):
    for name in ("log_likelihood", "n_params", "n_obs", "aic", "aicc", "bic", "icl", "entropy", "seconds", "message"):
        assert tree.attrs[name] == getattr(line, name)
    assert (tree.attrs["status"], tree.attrs["converged"]) == ("converged", 1)
    assert (tree.attrs["inference_library"], tree.attrs["estimator"]) == ("pm_mlem", "mle")
    assert {"pymc_version", "arviz_version", "jax_version", "created_at", "method"} <= set(tree.attrs)
    assert "log_posterior" not in tree.attrs and "left_out" not in tree.attrs
    for group in (tree, *tree.children.values()):
        assert all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in group.attrs.values())


def test_map_has_the_posterior_density(faithful_map):
    attrs = faithful_map.to_datatree(5, 2).attrs
    assert attrs["log_posterior"] == faithful_map.log_posterior
    assert attrs["log_prior"] == faithful_map.log_prior


def test_deterministics_are_in_the_draws():
    def build():
        a = pm.Normal("a")
        pm.Deterministic("twice", 2 * a)
        pm.Deterministic("large", a * np.ones(101))
        pm.Normal("y", a, 1.0, observed=Y)

    posterior = fit_of(build).to_datatree(20, random_seed=0)["posterior"]
    assert list(posterior.data_vars) == ["a", "twice"]
    np.testing.assert_allclose(posterior["twice"], 2 * posterior["a"])


def test_draws_have_the_covariance_of_the_estimates(line, tree):
    draws = tree["posterior"]["b"].values.reshape(-1, 2)
    np.testing.assert_allclose(np.cov(draws.T), np.linalg.inv(X.T @ X), atol=0.01)
    assert "normal approximation" in tree["posterior"].attrs["approximation"]
    again = line.to_datatree(2000, random_seed=1)
    assert again["posterior"].equals(tree["posterior"]) and again["log_likelihood"].equals(tree["log_likelihood"])


def test_log_likelihood_at_the_draws(line, tree):
    mean = tree["posterior"]["b"].values @ X.T
    np.testing.assert_allclose(tree["log_likelihood"]["y"], norm.logpdf(Y, mean, 1.0), atol=1e-10)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "row")
    assert tree["pointwise_log_likelihood"]["y"].equals(line.pointwise_log_likelihood["y"])


def test_latents_are_summed_out_at_the_draws(small):
    y = waiting_times()
    w, mu, sigma = (small["posterior"][n].values[..., None, :] for n in ("w", "mu", "sigma"))
    expected = np.log(np.sum(w * norm.pdf(y[:, None], mu, sigma), axis=-1))
    np.testing.assert_allclose(small["log_likelihood"]["waiting"], expected, atol=1e-9)


def test_densities_of_the_draws(line, tree):
    """A normal approximation that is exact is proportional to the likelihood."""
    difference = tree["sample_stats"]["log_p"] - tree["sample_stats"]["log_q"]
    assert float(difference.std()) < 1e-10
    inverse = np.linalg.inv(X.T @ X)
    at_mode = -0.5 * np.linalg.slogdet(2 * np.pi * inverse)[1]
    assert float(difference.mean()) == pytest.approx(line.log_likelihood - at_mode)


def test_units_without_weight_are_left_out_of_the_draws():
    def build():
        pm.Normal("y", pm.Normal("a"), 1.0, observed=Y, dims="row")
        pm.Normal("x", pm.Normal("b"), 1.0, observed=Y.reshape(3, 4))

    weights = {"y": np.r_[0, 2, np.ones(10)], "x": np.r_[np.zeros(2), np.ones(10)].reshape(3, 4)}
    fit = fit_of(build, weights=weights, coords=COORDS)
    tree = fit.to_datatree(random_seed=0)
    likelihood = tree["log_likelihood"]
    assert likelihood["y"].coords["row"].values.tolist() == COORDS["row"][1:]
    assert likelihood["x"].sizes["x_unit"] == 10
    a = tree["posterior"]["a"]
    np.testing.assert_allclose(likelihood["y"].sel(row="r1"), 2 * norm.logpdf(Y[1], a, 1.0))
    assert az.loo(tree, var_name="y").n_data_points == 11


def test_profile_and_bootstrap(constant):
    tree = constant.to_datatree(10, level=0.9, kind="profile")
    assert (tree["confidence_interval"].attrs["kind"], tree["confidence_interval"].attrs["level"]) == ("profile", 0.9)
    made = constant.bootstrap(40, random_seed=1, progressbar=False)
    tree = constant.to_datatree(kind="bootstrap", bootstrap=made)
    np.testing.assert_array_equal(tree["posterior"]["b"][0], made.estimates["b"])
    assert tree["posterior"].attrs["approximation"].startswith("case bootstrap")
    assert tree["confidence_interval"]["b"].equals(made.confidence_intervals()["b"])
    assert tree["log_likelihood"]["y"].sizes == {"chain": 1, "draw": 40, "row": 12}
    assert "sample_stats" not in tree


def test_log_likelihood_on_request(constant, monkeypatch):
    assert "log_likelihood" not in constant.to_datatree(10, log_likelihood=False)
    monkeypatch.setattr(datatree, "MOST_NUMBERS", 100)
    tree = constant.to_datatree(10)
    assert "log_likelihood" not in tree
    assert tree.attrs["left_out"].startswith(
        "log_likelihood: it takes 4.8e+02 numbers; write it with log_likelihood=True"
    )
    assert "log_likelihood" in constant.to_datatree(10, log_likelihood=True)


def test_what_is_missing_is_said():
    def flat():
        pm.Normal("y", pm.Normal("a") + pm.Normal("b"), 1.0, observed=Y)

    tree = fit_of(flat).to_datatree()
    assert "posterior" not in tree and "log_likelihood" not in tree
    assert "only a + b is identified" in tree.attrs["left_out"]
    tree = fit_of(flat, fixed={"a": 0.0, "b": 1.0}).to_datatree(5)
    assert "no parameter varies" in tree.attrs["left_out"]


def test_wrong_input(line, constant):
    with pytest.raises(ValueError, match="draws=0 must be a whole number, at least 1"):
        line.to_datatree(0)
    with pytest.raises(ValueError, match="chains=1.5 must be a whole number"):
        line.to_datatree(chains=1.5)
    with pytest.raises(ValueError, match="bootstrap= was made from another fit"):
        line.to_datatree(bootstrap=constant.bootstrap(5, random_seed=0, progressbar=False))


def test_data_that_were_replaced_do_not_matter():
    """The tree is about the data of the fit, whatever the model holds by now."""

    def build():
        pm.Normal("y", pm.Normal("a"), 1.0, observed=pm.Data("data", Y))

    fit = fit_of(build)
    before = fit.to_datatree(random_seed=1)
    fit.model.set_data("data", Y[:-1] + 1)
    after = fit.to_datatree(random_seed=1)
    for group in ("observed_data", "constant_data", "log_likelihood", "posterior", "point_estimate"):
        xr.testing.assert_equal(before[group].to_dataset(), after[group].to_dataset())
    np.testing.assert_array_equal(after["observed_data"]["y"], Y)


def test_large_data_in_chunks(monkeypatch):
    """The log-likelihood by unit of large data comes from the sums over chunks."""
    for name, size in (("LARGE", 1), ("CHUNK", 60), ("SMALLEST_CHUNK", 20)):
        monkeypatch.setattr(chunks, name, size)
    y = RNG.normal(size=200) + 3 * RNG.integers(0, 2, 200)

    def build():
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[0.0, 3.0])
        pm.NormalMixture("y", [0.5, 0.5], mu, 1.0, observed=y)

    fit = fit_of(build, starts=1)
    assert isinstance(fit._estimate.target.objective.evaluator, chunks.Chunks)
    units, objective = fit._estimate.target.units_at(fit._estimate.point[None])
    mu = fit.estimates["mu"].values
    np.testing.assert_allclose(units[0], np.log(0.5 * norm.pdf(y[:, None], mu, 1.0).sum(1)), atol=1e-9)
    assert objective[0] == pytest.approx(fit.log_likelihood)


# --- ArviZ -----------------------------------------------------------------------------------------------


def test_loo_is_that_of_a_flat_prior(tree):
    """The exact leave-one-out predictive density of a regression with known error."""
    leverage = np.einsum("ij,jk,ik->i", X, np.linalg.inv(X.T @ X), X)
    residual = (Y - X @ np.linalg.lstsq(X, Y)[0]) / (1 - leverage)
    exact = norm.logpdf(residual, 0, 1 / np.sqrt(1 - leverage))
    found = az.loo(tree, pointwise=True)
    np.testing.assert_allclose(found.elpd_i, exact, atol=0.05)
    corrected = az.loo_approximate_posterior(tree, tree["sample_stats"]["log_p"], tree["sample_stats"]["log_q"])
    assert corrected.elpd == pytest.approx(found.elpd, abs=0.02)


def test_loo_resembles_the_criterion_of_akaike(faithful_fit):
    found = az.loo(faithful_fit.to_datatree(random_seed=1))
    assert found.elpd == pytest.approx(-faithful_fit.aic / 2, abs=1.0)
    assert found.p == pytest.approx(faithful_fit.n_params, abs=0.5)


def test_compare(tree, constant):
    table = az.compare({"line": tree, "constant": constant.to_datatree(500, random_seed=2)})
    assert list(table.index) == ["line", "constant"]
    assert table.loc["line", "elpd"] - table.loc["constant", "elpd"] > 2


def test_summary(line, tree):
    summary = az.summary(tree, kind="stats", round_to="none")
    assert list(summary.index) == list(line.summary().index)
    np.testing.assert_allclose(summary["mean"], line.summary()["estimate"], atol=0.02)
    np.testing.assert_allclose(summary["sd"], line.summary()["se"], rtol=0.05)


PLOTS = {
    "forest": az.plot_forest,
    "dist": az.plot_dist,
    "trace": az.plot_trace_dist,
    "pair": az.plot_pair,
    "rank": az.plot_rank,
}


@pytest.mark.parametrize("backend", ["matplotlib", "plotly", "bokeh", "none"])
@pytest.mark.parametrize("name", PLOTS)
def test_plots(small, name, backend):
    pc = PLOTS[name](small, var_names=["mu"], backend=backend)
    assert isinstance(pc, az.PlotCollection | az.PlotMatrix)


def test_a_forest_beside_a_posterior(small):
    draws = xr.DataTree.from_dict({"posterior": small["posterior"].to_dataset() + 0.1})
    pc = az.plot_forest({"fit": small, "NUTS": draws}, var_names=["mu"], combined=True, backend="none")
    assert pc.viz["trunk"]["mu"].sizes["model"] == 2


# --- files -----------------------------------------------------------------------------------------------


def mixed():
    """Names and shapes that files might not like."""
    mu = pm.Normal("mu", 0, 2, shape=2, initval=[-1.0, 1.0])
    z = pm.Bernoulli("z", 0.4, shape=6)
    pm.Normal("y", mu[z], 1.0, observed=Y[:6])
    pm.Poisson("count", pm.math.exp(mu[z]), observed=RNG.poisson(2, 6))
    pm.Bernoulli("flag", pm.math.sigmoid(mu.sum()), observed=np.array([True, False]))
    pm.Normal("x", mu[0] * pm.Data("by", np.arange(4.0).reshape(2, 2)), 1.0, observed=Y[:4].reshape(2, 2))
    pm.Deterministic("odds", mu[z])


CASES = {
    "mixture": None,
    "one row": lambda: pm.Normal("y", pm.Normal("a"), 1.0, observed=[2.0]),  # aicc is NaN
    "not identified": lambda: pm.Normal("y", pm.Normal("a") + pm.Normal("b"), 1.0, observed=Y),
    "mixed": mixed,
}


@pytest.fixture(scope="module", params=CASES)
def case(request, faithful_fit):
    build = CASES[request.param]
    return faithful_fit if build is None else fit_of(build)


@pytest.mark.parametrize("format", ["netcdf", "zarr"])
def test_files(case, format, tmp_path):
    if format == "netcdf":
        pytest.importorskip("netCDF4")
    else:
        pytest.importorskip("zarr")
    tree = case.to_datatree(20, random_seed=0)
    back = through_a_file(tree, format, tmp_path)
    xr.testing.assert_identical(tree, back)
    assert_reports(mlem.from_datatree(back), case)


def through_a_file(tree, format, path):
    if format == "netcdf":
        tree.to_netcdf(path / "fit.nc")
        with xr.open_datatree(path / "fit.nc") as opened:
            return opened.load()
    tree.to_zarr(path / "fit.zarr", consolidated=False)
    with xr.open_datatree(path / "fit.zarr", engine="zarr", consolidated=False) as opened:
        return opened.load()


# --- saved fits ------------------------------------------------------------------------------------------

NUMBERS = (
    "estimator", "method", "message", "status", "converged", "seconds", "iterations", "log_likelihood", "log_prior",
    "log_posterior", "n_params", "n_obs", "n_units", "aic", "aicc", "bic", "icl", "entropy",
)  # fmt: skip


def assert_reports(saved, fit):
    """A saved fit says the same as the fit."""
    for name in NUMBERS:
        found, expected = getattr(saved, name), getattr(fit, name)
        assert found == expected or (np.isnan(found) and np.isnan(expected)), name
    for name in ("estimates", "history", "latent_probabilities", "pointwise_log_likelihood"):
        xr.testing.assert_identical(getattr(saved, name), getattr(fit, name))
    assert list(saved.estimates) == list(fit.estimates)
    xr.testing.assert_identical(saved.standard_errors(), fit.standard_errors())
    xr.testing.assert_identical(saved.confidence_intervals(), fit.confidence_intervals())
    xr.testing.assert_identical(saved.confidence_intervals(0.5), fit.confidence_intervals(0.5))
    for space in ("constrained", "unconstrained"):
        xr.testing.assert_identical(saved.covariance(space=space), fit.covariance(space=space))
    for level in (0.95, 0.89):
        pd.testing.assert_frame_equal(saved.summary(level), fit.summary(level))
    pd.testing.assert_frame_equal(saved.starts, fit.starts)
    assert repr(saved) == repr(fit) and saved._repr_html_() == fit._repr_html_()


@pytest.mark.parametrize("estimator", ["mle", "map"])
def test_a_saved_fit_reports_like_the_fit(faithful_fit, faithful_map, estimator):
    fit = faithful_fit if estimator == "mle" else faithful_map
    tree = fit.to_datatree(5, 2)
    saved = mlem.from_datatree(tree)
    assert isinstance(saved, mlem.SavedFit)
    assert_reports(saved, fit)
    xr.testing.assert_identical(saved.to_datatree(), tree)


def test_a_saved_fit_without_parameters():
    fit = fit_of(lambda: pm.Normal("y", pm.Normal("a"), 1.0, observed=Y), fixed={"a": 0.0})
    assert_reports(mlem.from_datatree(fit.to_datatree(5)), fit)


def test_every_name_of_a_fit_is_there_or_refused(line, tree):
    from pm_mlem.results.saved import NEEDS_MODEL

    saved = mlem.from_datatree(tree)
    for name in [n for n in dir(line) if not n.startswith("_")]:
        if name in NEEDS_MODEL:
            with pytest.raises(AttributeError, match=f"no '{name}': it needs the model.*fit again"):
                getattr(saved, name)
        else:
            getattr(saved, name)
    with pytest.raises(AttributeError, match="'SavedFit' has no attribute 'nothing'"):
        saved.nothing  # noqa: B018


def test_other_levels_and_kinds(constant):
    saved = mlem.from_datatree(constant.to_datatree(5, level=0.77, kind="profile"))
    xr.testing.assert_identical(
        saved.confidence_intervals(0.77, "profile"), constant.confidence_intervals(0.77, "profile")
    )
    xr.testing.assert_identical(saved.confidence_intervals(0.77), constant.confidence_intervals(0.77))
    assert list(saved.confidence_intervals(var_names="b")) == ["b"]
    with pytest.raises(ValueError, match=r"no intervals of kind 'wald' at level=0.6; it has 'wald' at 0.5, 0.77, .*"
                       r" and 'profile' at 0.77. Write it with fit.to_datatree\(level=0.6"):  # fmt: skip
        saved.confidence_intervals(0.6)
    with pytest.raises(ValueError, match="level=95 must lie between"):
        saved.confidence_intervals(95)
    with pytest.raises(ValueError, match="var_names: the fit has no 'c'. It has 'b'"):
        saved.confidence_intervals(var_names=["c"])
    with pytest.raises(ValueError, match="kind='sandwich' is not in the tree"):
        saved.standard_errors("sandwich")
    with pytest.raises(ValueError, match="covariance='opg' is not in the tree"):
        saved.confidence_intervals(covariance="opg")
    with pytest.raises(ValueError, match="cluster=, small_sample= and bootstrap= cannot be used"):
        saved.covariance(cluster=[1, 2])
    with pytest.raises(ValueError, match="space='other' must be"):
        saved.covariance(space="other")


@pytest.mark.parametrize("case", ["line", "faithful_fit"])
def test_a_fit_is_pickled_as_its_tree(request, case):
    """What comes back is a saved fit; copies within a process are the fit itself."""
    fit = request.getfixturevalue(case)
    back = pickle.loads(pickle.dumps(fit))
    assert isinstance(back, mlem.SavedFit)
    assert_reports(back, fit)
    assert_reports(pickle.loads(pickle.dumps(back)), fit)
    assert copy.copy(fit) is fit and copy.deepcopy([fit])[0] is fit
    replicates = fit.bootstrap(3, random_seed=0, progressbar=False)
    with pytest.raises(TypeError, match=r"cannot be pickled. Pickle the fit itself .* or what .to_datatree\(\) makes"):
        pickle.dumps(replicates)


def damages(tree):
    """The tree without a part of it, or with another one in its place: (what was done, tree)."""
    for group in [g for g in tree.children if g not in FOR_ARVIZ]:

        def changed(change, group=group):
            other = tree.copy(deep=True)
            change(other, group)
            return other

        yield f"no {group}", changed(lambda t, g: t.__delitem__(g))
        yield f"no variables of {group}", changed(lambda t, g: t[g].attrs.pop("variables"))
        yield f"nonsense for variables of {group}", changed(lambda t, g: t[g].attrs.update(variables="[nonsense"))
        for name in tree[group].data_vars:
            yield (
                f"no {group}/{name}",
                changed(lambda t, g, n=name: t.__setitem__(g, xr.DataTree(t[g].to_dataset().drop_vars(n)))),
            )
    for name in [n for n in NUMBERS if n in tree.attrs and n not in ("aic", "aicc", "bic", "icl", "converged")]:
        for value in (None, "nonsense"):
            if value is None or name not in ("method", "message"):
                other = tree.copy(deep=True)
                other.attrs = {k: v for k, v in other.attrs.items() if k != name} | ({name: value} if value else {})
                yield f"{name} = {value}", other


FOR_ARVIZ = ("posterior", "log_likelihood", "sample_stats", "observed_data", "constant_data")


def test_damaged_trees(small):
    mlem.from_datatree(small)
    accepted = []
    for what, tree in damages(small):
        try:
            mlem.from_datatree(tree)
        except ValueError as error:
            assert "The tree is damaged: the " in str(error) or "The tree holds no fit" in str(error), what
        else:
            accepted.append(what)
    unread = {"no variables of note", "nonsense for variables of note"}  # the order there is that of the estimates
    assert set(accepted) <= unread | {"log_posterior = None", "log_prior = None", "estimator = nonsense"}


def test_trees_that_hold_no_fit(tree, constant):
    with pytest.raises(TypeError, match="takes an xarray.DataTree, not dict"):
        mlem.from_datatree({})
    nuts = xr.DataTree.from_dict({"posterior": xr.Dataset(attrs={"inference_library": "nutpie"})})
    with pytest.raises(ValueError, match="The tree comes from 'nutpie'; from_datatree restores"):
        mlem.from_datatree(nuts)
    with pytest.raises(ValueError, match="says nothing of where it comes from"):
        mlem.from_datatree(xr.DataTree())
    for part in (constant.bootstrap(5, random_seed=0, progressbar=False).to_datatree(), tree["posterior"]):
        with pytest.raises(ValueError, match="holds no fit .it has no group 'point_estimate'"):
            mlem.from_datatree(part)
