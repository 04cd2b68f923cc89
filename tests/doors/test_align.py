"""Draws whose states were exchanged on purpose come back as they were."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr

import pm_mlem as mlem
from pm_mlem.estimate.alignment import distances, numbered

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(4)
DATA = np.r_[RNG.normal(-2, 0.5, 25), RNG.normal(1, 0.7, 35)]
ORDERS = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [0, 1]])


@pytest.fixture(scope="module")
def fit():
    with pm.Model(coords={"kind": ["low", "high"], "row": range(60)}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="kind")
        mu = pm.Normal("mu", 0, 5, initval=[-1.0, 1.0], dims="kind")
        sigma = pm.HalfNormal("sigma", 2)
        pm.Deterministic("ratio", mu / mu[0], dims="kind")  # not what a permutation of its entries would give
        pm.Deterministic("difference", mu[1] - mu[0])
        z = pm.Categorical("z", w, dims="row")
        pm.Deterministic("mean", mu[z], dims="row")
        pm.Normal("y", mu[z], sigma, observed=DATA, dims="row")
    return mlem.fit(model, random_seed=1, progressbar=False)


@pytest.fixture(scope="module")
def draws(fit):
    """Five draws in the order of the fit, with all that a posterior may have."""
    rng = np.random.default_rng(1)
    posterior = fit.to_datatree(draws=5, chains=1, random_seed=1)["posterior"].to_dataset().copy()
    mu = posterior["mu"]
    z = xr.DataArray(rng.integers(0, 2, (1, 5, 60)), dims=("chain", "draw", "row"), coords={"row": range(60)})
    posterior["z"] = z
    posterior["ratio"] = mu / mu.isel(kind=0, drop=True)
    posterior["difference"] = mu.isel(kind=1, drop=True) - mu.isel(kind=0, drop=True)
    posterior["mean"] = xr.where(z == 0, mu.isel(kind=0, drop=True), mu.isel(kind=1, drop=True))
    posterior["mean"] = posterior["mean"].transpose("chain", "draw", "row")
    posterior["by_kind"] = 10 * mu  # a variable that the model does not have
    return posterior


def switched(posterior):
    """The same draws with the states exchanged in some of them."""
    change = xr.DataArray(ORDERS[:, 0] == 1, dims="draw")

    def exchanged(array):
        return array.where(~change, array.isel(kind=[1, 0]).assign_coords(kind=array["kind"]))

    result = posterior.copy()
    for name in ("w", "mu", "by_kind"):
        result[name] = exchanged(posterior[name])
    result["z"] = posterior["z"].where(~change, 1 - posterior["z"])
    first, second = (result["mu"].isel(kind=k, drop=True) for k in (0, 1))
    result["ratio"], result["difference"] = result["mu"] / first, second - first
    return xr.DataTree.from_dict({"/posterior": result, "/unconstrained_posterior": posterior[["mu"]]})


@pytest.mark.parametrize("by", ["responsibilities", "parameters"])
def test_exchanged_states_come_back(fit, draws, by):
    tree = switched(draws)
    before = tree["posterior"].to_dataset().copy(deep=True)
    aligned = mlem.align(tree, to=fit, by=by)
    for name in draws:
        np.testing.assert_allclose(aligned["posterior"][name], draws[name], rtol=1e-12, err_msg=name)
        assert aligned["posterior"][name].dims == draws[name].dims
    xr.testing.assert_identical(tree["posterior"].to_dataset(), before)
    assert "unconstrained_posterior" not in aligned.children
    report = aligned["alignment"]
    np.testing.assert_array_equal(report["z_order"].values[0], ORDERS)
    assert report["z_margin"].dims == ("chain", "draw")
    assert float(report["z_margin"].min()) == report.attrs["smallest_margin"] > 0.5
    expected = {"aligned_by": by, "draws": 5, "relabelled": 2, "ambiguous": 0}
    assert expected.items() <= report.attrs.items()
    assert expected.items() <= aligned["posterior"].attrs.items()


def test_draws_in_order_stay(fit, draws):
    tree = xr.DataTree.from_dict({"/posterior": draws})
    aligned = mlem.align(tree, to=fit)
    xr.testing.assert_equal(aligned["posterior"].to_dataset(), draws)
    assert aligned["alignment"].attrs["relabelled"] == 0


def test_a_chain_is_permuted_in_rows_and_columns():
    y = np.array([0, 0, 5, 4, 0, 6])
    with pm.Model(coords={"from": ["a", "b"], "to": ["a", "b"]}) as model:
        P = pm.Dirichlet("P", np.ones((2, 2)), dims=("from", "to"), initval=[[0.8, 0.2], [0.3, 0.7]])
        start = pm.Dirichlet("start", np.ones(2))
        rate = pm.Exponential("rate", 1, shape=2, initval=[0.5, 5.0])
        z = pm.Categorical("z_0", start)
        pm.Poisson("y_0", rate[z], observed=y[0])
        for t in range(1, len(y)):
            z = pm.Categorical(f"z_{t}", P[z])
            pm.Poisson(f"y_{t}", rate[z], observed=y[t])
    fit = mlem.fit(model, "map", random_seed=1, progressbar=False)
    e = fit.estimates
    values = {
        "P": e["P"].values[::-1, ::-1], "start": e["start"].values[::-1], "rate": e["rate"].values[::-1],
        **{f"z_{t}": np.array(t % 2) for t in range(len(y))},
    }  # fmt: skip
    dims = {"P": ("from", "to")}
    point = xr.Dataset({n: (dims.get(n, [f"{n}_dim"] * v.ndim), v.copy()) for n, v in values.items()})
    tree = xr.DataTree.from_dict({"/posterior": point.expand_dims(chain=[0], draw=[0])})
    for by in ("responsibilities", "parameters"):
        aligned = mlem.align(tree, to=fit, by=by)["posterior"]
        for name in ("P", "start", "rate"):
            np.testing.assert_allclose(aligned[name].values[0, 0], e[name].values)
        assert [int(aligned[f"z_{t}"].values[0, 0]) for t in range(4)] == [1, 0, 1, 0]


def test_numbered_parameters_go_with_the_states():
    rng = np.random.default_rng(2)
    points = np.r_[rng.normal(size=(25, 2)), rng.normal(size=(30, 2)) * [0.5, 2.0] + 4]
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 10, shape=(2, 2), initval=np.array([[0.0, 0.0], [4.0, 4.0]]))
        parts = []
        for k in range(2):
            chol, _, _ = pm.LKJCholeskyCov(f"chol_{k}", n=2, eta=2, sd_dist=pm.HalfNormal.dist(2, shape=2))
            parts.append(pm.MvNormal.dist(mu[k], chol=chol))
        pm.Mixture("y", w, parts, observed=points)
    fit = mlem.fit(model, random_seed=1, progressbar=False)
    e = fit.estimates
    point = e.copy()
    for name in ("w", "mu"):
        point[name] = e[name].copy(data=e[name].values[::-1].copy())
    for name in ("chol_{}", "chol_{}_stds", "chol_{}_corr"):
        for k in (0, 1):
            point[name.format(k)] = e[name.format(k)].copy(data=e[name.format(1 - k)].values)
    tree = xr.DataTree.from_dict({"/posterior": point.expand_dims(chain=[0], draw=[0])})
    aligned = mlem.align(tree, to=fit)
    assert aligned["alignment"].attrs["relabelled"] == 1
    for name in e:
        np.testing.assert_allclose(aligned["posterior"][name].values[0, 0], e[name].values, rtol=1e-9, err_msg=name)


def test_numbered_names():
    shapes = {"chol_0": (3,), "chol_1": (3,), "b1": (), "b2": (), "b_10_x": (2,), "b_2_x": (2,), "mu": (2,)}
    assert set(numbered(shapes, 2)) == {("chol_0", "chol_1"), ("b1", "b2"), ("b_2_x", "b_10_x")}
    assert numbered(shapes, 3) == []


def test_distances_count_standard_errors(fit):
    from pm_mlem.estimate.alignment import Symmetry

    draws = {n: fit.estimates[n].values[None] for n in ("w", "mu")}
    draws["mu"] = draws["mu"] + fit.standard_errors()["mu"].values.mean()
    [found] = distances(fit._estimate, Symmetry(("z",), (0,), 2, (("mu", 0),)), draws)
    errors, mu = fit.standard_errors()["mu"].values, fit.estimates["mu"].values
    scale, moved = np.mean(errors**2), mu + errors.mean()
    np.testing.assert_allclose(found, (mu[:, None] - moved[None]) ** 2 / scale)


def test_states_that_cannot_be_told_apart(fit, draws):
    same = draws.copy()
    same["mu"], same["w"] = 0.0 * same["mu"], 0.0 * same["w"] + 0.5
    tree = xr.DataTree.from_dict({"/posterior": same})
    for by in ("responsibilities", "parameters"):
        with pytest.raises(mlem.NotIdentifiedError, match=r"states of 'z' cannot be told apart in 5 of 5 draws.*fewer"):
            mlem.align(tree, to=fit, by=by)
    one = draws.copy(deep=True)
    one["mu"].values[0, 0], one["w"].values[0, 0] = 0.0, 0.5
    report = mlem.align(xr.DataTree.from_dict({"/posterior": one}), to=fit)["alignment"]
    assert report.attrs["ambiguous"] == 1 and report.attrs["smallest_margin"] == pytest.approx(0, abs=1e-9)


def test_a_model_without_latents(coin):
    fit = mlem.fit(coin, progressbar=False)
    tree = fit.to_datatree(draws=10, chains=1, random_seed=1)
    aligned = mlem.align(tree, to=fit)
    xr.testing.assert_equal(aligned["posterior"].to_dataset(), tree["posterior"].to_dataset())
    assert not aligned["alignment"].data_vars and aligned["alignment"].attrs["relabelled"] == 0
    assert "point_estimate" in aligned.children


def test_wrong_input(fit, draws):
    tree = xr.DataTree.from_dict({"/posterior": draws})
    with pytest.raises(TypeError, match=r"datatree must be an xarray.DataTree, not Dataset"):
        mlem.align(draws, to=fit)
    with pytest.raises(TypeError, match=r"to must be an mlem.Fit.*not DataTree"):
        mlem.align(tree, to=tree)
    with pytest.raises(ValueError, match="by='size' is unknown"):
        mlem.align(tree, to=fit, by="size")
    with pytest.raises(ValueError, match="no group 'posterior'"):
        mlem.align(xr.DataTree(), to=fit)
    with pytest.raises(ValueError, match="posterior has no 'mu', a parameter of the fit"):
        mlem.align(xr.DataTree.from_dict({"/posterior": draws.drop_vars("mu")}), to=fit)
    with pytest.raises(ValueError, match=r"'w' has shape \(1,\) in the posterior and \(2,\) in the fit"):
        mlem.align(xr.DataTree.from_dict({"/posterior": draws.isel(kind=[0])}), to=fit)
