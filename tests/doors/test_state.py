"""What a fit depends on, and what it keeps: data, labels, threads."""

import threading
import warnings

import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytest
import xarray as xr

import pm_mlem as mlem
from pm_mlem.graph.read import read
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.objective.engine import engine_for
from pm_mlem.results.datatree import data_groups

pytestmark = pytest.mark.compiled
X, Y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.5])


def fit(model, *args, **kwargs):
    return mlem.fit(model, *args, **{"progressbar": False, "random_seed": 1, **kwargs})


# --- everything that a result depends on ---------------------------------------------------------------------


def covariate(x):
    pm.Normal("y", pm.Normal("b", 0, 10) * x, 1.0, observed=Y)


def observations(y):
    pm.Normal("y", pm.Normal("b", 0, 10), 1.0, observed=y)


def hidden_in_a_deterministic(x):
    b = pm.Normal("b", 0, 10)
    pm.Normal("y", pm.Deterministic("mu", b * (x + 1.0)), 1.0, observed=Y)


def of_a_prior(x):
    pm.Normal("y", pm.Normal("b", x.mean(), 1.0), 1.0, observed=Y)


def of_a_potential(x):
    b = pm.Normal("b", 0, 10)
    pm.Normal("y", b, 1.0, observed=Y)
    pm.Potential("penalty", -(b**2) * x.sum())


PLACES = [covariate, observations, hidden_in_a_deterministic, of_a_prior, of_a_potential]


def holder(kind):
    """Something that holds data, and a function that gives it others (an array is not copied by PyTensor)."""
    if kind == "pm.Data":
        with pm.modelcontext(None):
            data = pm.Data("data", X)
        return data, data.set_value
    if kind == "shared":
        data = pytensor.shared(X)
        return data, data.set_value
    if kind == "shared of the same name":
        data = pytensor.shared(X, name="b")
        return data, data.set_value
    data = X.copy()
    return pytensor.tensor.constant(data), lambda new: data.__setitem__(..., new)


@pytest.mark.parametrize("build", PLACES)
@pytest.mark.parametrize("kind", ["pm.Data", "shared", "shared of the same name", "array"])
def test_new_values_are_new_functions(build, kind):
    """A model that was changed is read as one that was made with the new values; the old values lead back."""
    if kind == "array" and build is observations:
        pytest.skip("PyMC copies them")
    with pm.Model() as model, warnings.catch_warnings():
        data, change = holder(kind)
        build(data)
    engines = []
    for values in (X, X[::-1] * 2.0, X):
        change(values)
        engines.append(engine_for(model, "map"))
        with pm.Model() as plain:
            build(pytensor.tensor.constant(values.copy()) if build is not observations else values)
        points = [next(iter(e.references)) for e in (engines[-1], engine_for(plain, "map"))]
        (one, found), (other, expected) = points
        if np.allclose(one, other):  # initial values may depend on the data
            assert found == pytest.approx(expected, rel=1e-9)
    first, second, third = engines
    assert first is not second
    assert first is third or kind == "array"


def test_estimates_follow_shared_variables_and_fits_keep_theirs():
    x, y = pytensor.shared(X), pytensor.shared(Y)
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10)
        pm.Deterministic("line", b * x)
        pm.Normal("y", b * x, 1.0, observed=y)
    first = fit(model)
    tree, mean = first.to_datatree(draws=4, random_seed=1), first.predict()["predictions"]["y"].values
    x.set_value(2.0 * X)
    second = fit(model)
    assert second.estimates["b"].item() == pytest.approx(first.estimates["b"].item() / 2)
    np.testing.assert_allclose(first.predict()["predictions"]["y"], mean)
    np.testing.assert_allclose(
        first.to_datatree(draws=4, random_seed=1)["posterior"]["line"], tree["posterior"]["line"]
    )
    np.testing.assert_allclose(x.get_value(), 2.0 * X)
    with pytest.raises(ValueError, match="data of the model were replaced"):
        mlem.likelihood_ratio_test(fit(model, fixed={"b": 0.0}), first)
    y.set_value(3.0 * Y)
    with pytest.raises(ValueError, match="'first' and 'third' were given different data"):
        mlem.compare({"first": first, "third": fit(model)})
    observed = data_groups(first._estimate.target.source, first._estimate.labels)["observed_data"]["y"]
    np.testing.assert_allclose(observed, Y)


def test_labels_are_those_of_the_time_of_the_fit():
    with pm.Model(coords={"row": list("abcd")}) as model:
        data = pm.Data("data", Y, dims="row")
        mu = pm.Normal("mu", 0, 10)
        pm.Deterministic("residual", data - mu, dims="row")
        pm.Normal("y", mu, 1.0, observed=data, dims="row")
    first = fit(model)
    for labels in ("wxyz", "abcd"):
        model.set_data("data", Y, coords={"row": list(labels)})
        found = fit(model)
        assert "".join(found.estimates["residual"].row.values) == labels
        assert "".join(found.pointwise_log_likelihood["y"].row.values) == labels
        assert "".join(first.predict()["predictions"]["y"].row.values) == "abcd"
    mlem.likelihood_ratio_test(fit(model, fixed={"mu": 0.0}), first)  # other labels are no other data


# --- labels ---------------------------------------------------------------------------------------------------

LABELS = {
    "twice": ["a", "a", "b", "b"],
    "tuples": [("a", 1), ("a", 2), ("b", 1), ("b", 2)],
    "tuples twice": [("a", 1), ("a", 1), ("b", 1), ("b", 2)],
    "index of pairs": pd.MultiIndex.from_product([["a", "b"], [1, 2]]),
    "dates": pd.date_range("2020-01-01", periods=4),
    "days": [d.date() for d in pd.date_range("2020-01-01", periods=4)],
    "times": np.arange("2020-01-01T00:30", "2020-01-01T00:34", dtype="datetime64[m]"),
    "durations": pd.to_timedelta([1, 2, 3, 4], unit="h"),
    "periods": pd.period_range("2020", periods=4, freq="Y"),
    "intervals": pd.interval_range(0, 4),
    "mixed": [1, "1", 2.5, None],
    "truth": [True, False, True, False],
    "commas": ["a, b", "a", "a#0", "a"],
}


@pytest.fixture(scope="module")
def group():
    return np.repeat(np.arange(4), 6)


@pytest.mark.parametrize("kind", list(LABELS))
def test_entries_have_names_of_their_own(kind, group, tmp_path):
    """The same names in tables, in hypotheses and as keys of fixed=, also after a file."""
    y = np.random.default_rng(0).normal(size=24) + group
    with pm.Model(coords={"k": LABELS[kind]}) as model:
        mu = pm.Normal("mu", 0, 10, dims="k")
        pm.Normal("y", mu[group], 1.0, observed=y)
    found = fit(model)
    names = list(found.summary().index)
    assert len(set(names)) == 4
    assert list(found.covariance()["parameter"].values) == names
    for i, name in enumerate(names):
        expected = (found.estimates["mu"].values[i] / found.standard_errors()["mu"].values[i]) ** 2
        assert found.wald_test(f"{name} = 0").statistic == pytest.approx(expected)
        held = read(model, Choices(fixed={name: 0.5})).structure.held["mu"]
        assert np.flatnonzero(~np.isnan(held)).tolist() == [i]
    tree = found.to_datatree(draws=5, chains=1, random_seed=1)
    assert list(mlem.compare({"fit": found, "draws": tree}).index) == names
    pytest.importorskip("netCDF4")
    tree.to_netcdf(tmp_path / "fit.nc")
    with xr.open_datatree(tmp_path / "fit.nc") as opened:
        assert list(mlem.from_datatree(opened.load()).summary().index) == names


def test_held_entries_go_by_these_names(group):
    y = np.random.default_rng(0).normal(size=24) + group
    with pm.Model(coords={"k": LABELS["tuples twice"]}) as model:
        mu = pm.Normal("mu", 0, 10, dims="k")
        pm.Normal("y", mu[group], 1.0, observed=y)
    held = fit(model, fixed={"mu[(a, 1)#1]": 0.5}).estimates["mu"].values
    assert held[1] == 0.5 and 0.5 not in held[[0, 2, 3]]
    with pytest.raises(
        ValueError, match=r"'mu\[\(a, 1\)\]' in fixed= is not an entry of 'mu'.*Its entries are mu\[\(a, 1\)#0"
    ):
        fit(model, fixed={"mu[(a, 1)]": 0.5})
    with pytest.raises(ValueError, match=r"several entries of that label: mu\[\(a, 1\)#0\], mu\[\(a, 1\)#1\]"):
        fit(model).wald_test("mu[(a, 1)] = 0")


def test_variables_without_entries():
    with pm.Model(coords={"none": [], "k": ["a"]}) as model:
        mu = pm.Normal("mu", 0, 10, dims="k")
        b = pm.Normal("b", 0, 1, dims="none")
        pm.Deterministic("d", 2.0 * b, dims="none")
        pm.Normal("y", mu[0] + b.sum(), 1.0, observed=Y)
    found = fit(model)
    tree = found.to_datatree(draws=6, random_seed=1)
    assert tree["posterior"]["b"].shape == (4, 6, 0)
    assert list(mlem.compare({"fit": found, "draws": tree}).index) == ["mu[a]"]
    assert mlem.from_datatree(tree).summary().equals(found.summary())
    found.predict()
    found.sample_posterior_predictive(draws=2, random_seed=1)
    assert "mu" in mlem.plot_estimates({"fit": found}, backend="none").viz["point"]


# --- clusters -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered(group):
    y = np.random.default_rng(0).normal(size=24) + group
    with pm.Model(coords={"row": range(24)}) as model:
        pm.Data("clinic", group)
        mu = pm.Normal("mu", 0, 10)
        pm.Deterministic("noise", pm.Normal.dist(0, 1, shape=24).round())
        pm.Deterministic("labels", mu * 0.0 + group)
        pm.Potential("penalty", -0.0 * mu**2)
        pm.Normal("y", mu, 1.0, observed=y, dims="row")
    return fit(model)


@pytest.mark.parametrize("labels", ["clinic", "strings", "mixed", "dates", "categories", "tuples"])
def test_clusters_are_data(clustered, group, labels):
    expected = clustered.standard_errors("sandwich", cluster=group)["mu"].item()
    given = {
        "clinic": "clinic",
        "strings": list("abcd"[i] for i in group),
        "mixed": [[1, "1", 2.5, "x"][i] for i in group],
        "dates": pd.date_range("2020-01-01", periods=4)[group],
        "categories": pd.Series(list("abcd"[i] for i in group), dtype="category"),
        "tuples": pd.Series([("a", int(i)) for i in group]),
    }[labels]
    assert clustered.standard_errors("sandwich", cluster=given)["mu"].item() == pytest.approx(expected)


@pytest.mark.parametrize("cluster", ["noise", "labels", "mu", "y", "penalty", "nothing"])
def test_names_of_variables_are_no_clusters(clustered, cluster):
    for ask in (lambda: clustered.standard_errors("sandwich", cluster=cluster),
                lambda: clustered.bootstrap(5, unit=cluster, progressbar=False)):  # fmt: skip
        with pytest.raises(ValueError, match=f"='{cluster}' is neither a dim of an observed variable .*nor a pm.Data"):
            ask()


@pytest.mark.parametrize("cluster", [{"y": [1, 2]}, {1, 2}, 2.5, b"clinic"])
def test_what_holds_no_labels(clustered, cluster):
    with pytest.raises(
        ValueError, match=f"cluster= takes labels over the observations .*, not {type(cluster).__name__}"
    ):
        clustered.standard_errors("sandwich", cluster=cluster)


def test_clusters_are_those_of_the_time_of_the_fit(clustered, group):
    expected = clustered.standard_errors("sandwich", cluster=group)["mu"].item()
    clustered.model.set_data("clinic", np.arange(24))
    try:
        assert clustered.standard_errors("sandwich", cluster="clinic")["mu"].item() == pytest.approx(expected)
    finally:
        clustered.model.set_data("clinic", group)


# --- threads --------------------------------------------------------------------------------------------------


def at_once(work, count=8):
    """What a function returns for 0, 1, ... in threads that start together."""
    barrier, found = threading.Barrier(count), [None] * count

    def run(i):
        barrier.wait()
        try:
            found[i] = work(i)
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("backend", ["jax", pytest.param("numba", marks=pytest.mark.slow)])
def test_a_fit_in_each_thread(backend):
    """Other weights and other held values in each: no thread sees another's."""
    y = np.r_[np.full(10, -2.0), np.full(12, 3.0)] + np.tile([0.3, -0.3], 11)
    with pm.Model() as model:
        data = pm.Data("data", y)
        w, mu = pm.Dirichlet("w", np.ones(2)), pm.Normal("mu", 0, 5, shape=2, initval=[-1.0, 1.0])
        pm.NormalMixture("y", w, mu, 1.0, observed=data)

    def work(i):
        weights = 1.0 + (np.arange(22) % 8 == i)
        found = fit(model, weights=weights, starts=1, backend=backend)
        score = found.score({"data": np.full(3, float(i))}) if backend == "jax" else 0.0
        return found.log_likelihood, found.n_obs, float(found.standard_errors()["mu"][0]), score

    together = at_once(work)
    assert not [e for e in together if isinstance(e, BaseException)]
    assert len({values[0] for values in together}) > 1
    for i in (0, 3, 7):
        np.testing.assert_allclose(together[i], work(i), rtol=1e-9)
    np.testing.assert_array_equal(model["data"].get_value(), y)
