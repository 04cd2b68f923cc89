"""Plots of densities, bootstraps, influence, EM and pairs of parameters; estimates on plots of ArviZ."""

import arviz_plots as azp
import numpy as np
import pymc as pm
import pytest
import xarray as xr
from scipy import stats

import pm_mlem as mlem
from pm_mlem.estimate.observed_density import observed_density

pytestmark = pytest.mark.compiled

BACKENDS = ["matplotlib", "plotly", "bokeh", "none"]


def fitted(model, **options):
    return mlem.fit(model, random_seed=1, starts=1, progressbar=False, **options)


# --- densities --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs_fit():
    """Pairs of numbers from two clusters."""
    rng = np.random.default_rng(2)
    y = np.concatenate([rng.normal([0, 0], [1, 0.5], (30, 2)), rng.normal([5, 2], [0.5, 1], (20, 2))])
    with pm.Model(coords={"kind": ["a", "b"], "side": ["length", "width"], "leaf": np.arange(50)}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="kind")
        mu = pm.Normal("mu", 0, 5, dims=("kind", "side"), initval=np.array([[0, 0], [5.0, 2.0]]))
        sigma = pm.HalfNormal("sigma", 2, dims=("kind", "side"))
        z = pm.Categorical("z", w, dims="leaf")
        pm.Normal("size", mu[z], sigma[z], observed=y, dims=("leaf", "side"))
    return fitted(model)


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_density(faithful_fit, backend):
    pc = mlem.plot_density(faithful_fit, points=20, backend=backend)
    assert isinstance(pc, azp.PlotCollection)
    assert pc.viz["component"]["waiting"].sizes == {"state": 2}
    assert {"data", "density"} <= set(pc.viz.children)


def test_components_are_weights_times_densities(faithful_fit):
    found = observed_density(faithful_fit._estimate)
    e, y = faithful_fit.estimates, np.linspace(40, 100, 7)
    expected = e["w"].values[:, None] * stats.norm(e["mu"].values[:, None], e["sigma"].values[:, None]).pdf(y)
    np.testing.assert_allclose(found.at(y)[:, :, 0], expected, rtol=1e-9)
    pc = mlem.plot_density(faithful_fit, points=50, backend="matplotlib")
    line = pc.viz["density"]["waiting"].item()
    total = np.interp(line.get_xdata(), line.get_xdata(), line.get_ydata())
    assert np.trapezoid(total, line.get_xdata()) == pytest.approx(1.0, abs=0.02)
    part = pc.viz["component"]["waiting"].sel(state="short").item()
    assert np.trapezoid(part.get_ydata(), part.get_xdata()) == pytest.approx(e["w"].values[0], abs=0.01)


def test_density_of_whole_numbers():
    y = np.array([0, 0, 0, 0, 0, 1, 2, 2, 3, 3, 3, 4, 5, 6])
    with pm.Model() as model:
        pm.ZeroInflatedPoisson("visits", pm.Beta("psi", 1, 1), pm.Exponential("rate", 1), observed=y)
    fit = fitted(model)
    psi, rate, k = fit.estimates["psi"].item(), fit.estimates["rate"].item(), np.arange(9)
    expected = psi * stats.poisson(rate).pmf(k) + (1 - psi) * (k == 0)
    np.testing.assert_allclose(observed_density(fit._estimate).at(k).sum(axis=0)[:, 0], expected, rtol=1e-9)
    pc = mlem.plot_density(fit, backend="matplotlib")
    x, height = np.array(pc.viz["mass"]["visits"].item().get_offsets()).T
    assert x.min() == 0  # nothing below the support
    np.testing.assert_allclose(height[:9], expected[: len(height)][:9], rtol=1e-9)
    mlem.plot_density(fit, bins=4, backend="none")


def test_density_of_a_regression_is_averaged_over_its_rows():
    rng = np.random.default_rng(0)
    x = np.repeat([-1.0, 2.0], [10, 20])
    with pm.Model() as model:
        slope, sigma = pm.Normal("slope"), pm.HalfNormal("sigma")
        pm.Normal("y", slope * x, sigma, observed=3 * x + rng.normal(size=30))
    weights = np.r_[np.full(10, 4.0), np.ones(20)]
    y = np.linspace(-6, 8, 9)
    for given in (None, weights):
        fit = fitted(model, weights=given)
        rows = stats.norm(fit.estimates["slope"].item() * x[:, None], fit.estimates["sigma"].item()).pdf(y)
        expected = np.average(rows, axis=0, weights=given)
        np.testing.assert_allclose(observed_density(fit._estimate).at(y)[0, :, 0], expected, rtol=1e-9)
    pc = mlem.plot_density(fit, backend="none")
    assert "component" not in pc.viz.children
    with pytest.raises(ValueError, match="no latent 'z' with components; they have none"):
        mlem.plot_density(fit, latent="z", backend="none")
    with pytest.raises(ValueError, match="no observed variable 'x'; it has 'y'"):
        mlem.plot_density(fit, var_name="x", backend="none")


def test_density_of_chains_is_weighted_by_their_posterior(chains_fit):
    y = np.linspace(-3, 7, 5)
    share = chains_fit.latent_probabilities["z"].mean(["animal", "day"]).values
    expected = share[:, None] * stats.norm(chains_fit.estimates["mu"].values[:, None], 1).pdf(y)
    found = observed_density(chains_fit._estimate)
    assert found.columns == 1
    np.testing.assert_allclose(found.at(y)[:, :, 0], expected, rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pairs_are_points_with_contours(pairs_fit, backend):
    pc = mlem.plot_density(pairs_fit, points=15, backend=backend)
    assert pc.viz["data"]["size"].sizes == {"state": 2}
    assert "component" not in pc.viz.children  # contours have no single artist


def test_density_of_pairs(pairs_fit):
    e, points = pairs_fit.estimates, np.array([[0.0, 0.1], [4.0, 2.5], [2.0, 1.0]])
    rows = [stats.norm(e["mu"].values[k], e["sigma"].values[k]).pdf(points).prod(axis=1) for k in range(2)]
    found = observed_density(pairs_fit._estimate)
    assert found.pair
    np.testing.assert_allclose(found.at(points)[:, :, 0], e["w"].values[:, None] * rows, rtol=1e-9)
    np.testing.assert_array_equal(found.assigned[:, 0], pairs_fit.latent_probabilities["z"].argmax("z_state"))
    pc = mlem.plot_density(pairs_fit, points=15, backend="matplotlib")
    assert pc.viz["plot"]["size"].item().get_xlabel() == "size[length]"


def test_columns_have_panels():
    y = np.random.default_rng(0).integers(0, 2, (12, 3))
    with pm.Model(coords={"item": ["q1", "q2", "q3"], "person": np.arange(12)}) as model:
        p = pm.Beta("p", 1, 1, dims="item")
        pm.Bernoulli("answer", p, observed=y, dims=("person", "item"))
    fit = fitted(model)
    np.testing.assert_allclose(observed_density(fit._estimate).at([0, 1])[0, 1], fit.estimates["p"])
    pc = mlem.plot_density(fit, backend="none")
    assert list(pc.viz["density"].data_vars) == ["answer[q1]", "answer[q2]", "answer[q3]"]


def test_densities_that_cannot_be_drawn():
    with pm.Model() as model:
        scale = pm.HalfNormal("scale")
        pm.MvNormal("y", np.zeros(3), cov=scale * np.eye(3), observed=np.array([0.3, -1.0, 0.4]))
    with pytest.raises(ValueError, match="'y' are vectors of length 3 with a joint density"):
        mlem.plot_density(fitted(model), backend="none")

    def logp(value, mu):
        return pm.logp(pm.Normal.dist(mu * pm.math.concatenate([[0.0], value[:-1]]), 1.0), value)

    with pm.Model() as model:
        pm.CustomDist("y", pm.Normal("mu"), logp=logp, observed=np.array([0.3, -1.0, 0.4, 0.2]))
    with pytest.raises(ValueError, match="'y' depend on each other's values"):
        mlem.plot_density(fitted(model), backend="none")


# --- bootstraps -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replicates(faithful_fit):
    return faithful_fit.bootstrap(40, random_seed=1, progressbar=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_bootstrap(replicates, backend):
    pc = mlem.plot_bootstrap(replicates, var_names="mu", kind=["percentile", "bca"], backend=backend)
    assert list(pc.viz["interval"].data_vars) == ["mu[short]", "mu[long]"]
    assert pc.viz["interval"]["mu[short]"].sizes == {"interval": 2}


def test_replicates_are_drawn_where_they_are(replicates):
    pc = mlem.plot_bootstrap(replicates, coords={"kind": "long"}, reference={"mu": 79.0}, backend="matplotlib")
    assert list(pc.viz["interval"].data_vars) == ["w[long]", "mu[long]", "sigma[long]"]
    line = pc.viz["interval"]["mu[long]"].sel(interval="percentile").item()
    expected = replicates.confidence_intervals()["mu"].sel(kind="long")
    np.testing.assert_allclose(line.get_xdata(), expected)
    assert pc.viz["estimate"]["mu[long]"].item().get_xdata()[0] == replicates.fit.estimates["mu"].values[1]
    assert pc.viz["reference"]["mu[long]"].item().get_xdata()[0] == 79.0
    for bad, message in (
        ({"var_names": "nu"}, "The bootstrap has no variable 'nu'; it has 'w'"),
        ({"kind": "wald"}, "kind='wald'"),
        ({"visuals": {"line": False}}, "no visual element 'line'"),
    ):
        with pytest.raises(ValueError, match=message):
            mlem.plot_bootstrap(replicates, backend="none", **bad)
    with pytest.raises(TypeError, match=r"fit.bootstrap\(\) returns, not Fit"):
        mlem.plot_bootstrap(replicates.fit)


# --- influence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_influence(faithful_fit, backend):
    pc = mlem.plot_influence(faithful_fit, var_names=["cooks_distance", "mu"], backend=backend)
    assert list(pc.viz["point"].data_vars) == ["cooks_distance", "mu[short]", "mu[long]"]


def test_the_most_influential_units_are_named(faithful_fit):
    influence = faithful_fit.influence()
    pc = mlem.plot_influence(influence, var_names="cooks_distance", n_labels=2, backend="matplotlib")
    texts = [t.get_text() for t in pc.viz["plot"]["cooks_distance"].item().texts]
    assert texts == [str(n) for n in influence["cooks_distance"].to_series().nlargest(2).index]
    drawn = pc.viz["point"]["cooks_distance"].item().get_offsets()[:, 1]
    np.testing.assert_allclose(drawn, influence["cooks_distance"])
    with pytest.raises(ValueError, match="The influence has no variable 'nu'"):
        mlem.plot_influence(influence, var_names="nu", backend="none")
    with pytest.raises(TypeError, match="not DataFrame"):
        mlem.plot_influence(influence["mu"].to_dataframe())


# --- EM ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(faithful):
    return list(mlem.em_steps(faithful, start={"mu": [60.0, 65.0]}, max_iterations=5))


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_em_steps(steps, backend):
    pc = mlem.plot_em_steps(iter(steps), var_names=["mu", "w"], backend=backend)
    names = list(pc.viz["plot"].data_vars)
    assert names[2:] == ["mu", "w", "p(z = long | data)"]
    assert pc.viz["estimates"]["mu"].sizes == {"entry": 2}
    assert pc.viz["responsibilities"]["p(z = long | data)"].sizes == {"shown": 5}


def test_the_bound_touches_the_log_likelihood(steps):
    pc = mlem.plot_em_steps(steps, step=1, backend="matplotlib")
    name = "the step from iteration 1"
    way, value = pc.viz["step_log_likelihood"][name].item().get_data()
    bound = pc.viz["step_bound"][name].item().get_ydata()
    start, end = (int(np.argmin(np.abs(way - w))) for w in (0.0, 1.0))
    assert value[start] == pytest.approx(steps[1].log_likelihood)
    assert bound[start] == pytest.approx(steps[1].log_likelihood)
    assert bound[end] == pytest.approx(steps[1].lower_bound)
    assert value[end] == pytest.approx(steps[2].log_likelihood)
    assert np.all(bound <= value + 1e-8)
    track = pc.viz["estimates"]["mu"].sel(entry=1).item()
    np.testing.assert_allclose(track.get_ydata(), [s.estimates["mu"].values[1] for s in steps])
    texts = [t.get_text().strip() for t in pc.viz["plot"]["mu"].item().texts]
    assert texts == ["short", "long"]


def test_steps_that_cannot_be_drawn(steps, faithful_fit):
    with pytest.raises(ValueError, match="There are no steps"):
        mlem.plot_em_steps([])
    with pytest.raises(TypeError, match="not Fit"):
        mlem.plot_em_steps([faithful_fit])
    with pytest.raises(ValueError, match="step=5: there are 5 steps"):
        mlem.plot_em_steps(steps, step=5)
    with pytest.raises(ValueError, match="no latent 'x'; it has 'z'"):
        mlem.plot_em_steps(steps, latent="x")
    assert "estimates" in mlem.plot_em_steps(steps[:1], backend="none").viz.children


# --- pairs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_pair_estimates(faithful_fit, replicates, backend):
    draws = faithful_fit.to_datatree(draws=20, random_seed=0)
    results = {"MLE": faithful_fit, "draws": draws, "bootstrap": replicates}
    pc = mlem.plot_pair_estimates(results, coords={"kind": ["short"]}, backend=backend)
    assert list(pc.viz["point"].data_vars) == [
        "w[short], mu[short]",
        "w[short], sigma[short]",
        "mu[short], sigma[short]",
    ]
    assert pc.viz["draws"]["mu[short], sigma[short]"].sizes == {"model": 3}


def test_the_ellipse_is_the_one_of_the_covariance(faithful_fit):
    a, b = "mu[long]", "sigma[long]"
    pc = mlem.plot_pair_estimates({"MLE": faithful_fit}, pairs=[(a, b)], level=0.9, backend="matplotlib")
    line = pc.viz["ellipse"][f"{a}, {b}"].item()
    away = np.stack(line.get_data()) - [[faithful_fit.estimates[n].values[1]] for n in ("mu", "sigma")]
    matrix = faithful_fit.covariance().sel(parameter=[a, b], parameter_bis=[a, b]).values
    squared = np.einsum("ip,ij,jp->p", away, np.linalg.inv(matrix), away)
    np.testing.assert_allclose(squared, stats.chi2(2).ppf(0.9), rtol=1e-8)


def test_entries_that_are_held(faithful):
    """They have a point, but no ellipse, no influence and no interval."""
    fit = mlem.fit(faithful, starts=1, fixed={"mu[short]": 54.0}, random_seed=1, progressbar=False)
    pc = mlem.plot_pair_estimates({"held": fit}, var_names=["mu", "sigma"], coords={"kind": "short"}, backend="none")
    assert pc.viz["ellipse"]["mu[short], sigma[short]"].item() is None  # nothing to draw
    assert pc.viz["point"]["mu[short], sigma[short]"].item()["x"] == 54.0
    pc = mlem.plot_influence(fit, var_names="mu", backend="matplotlib")
    assert list(pc.viz["point"].data_vars) == ["mu[long]"]
    with pytest.raises(ValueError, match="all are held"):
        mlem.plot_influence(fit, var_names="mu", coords={"kind": "short"}, backend="none")
    pc = mlem.plot_estimates({"held": fit}, var_names="mu", backend="matplotlib")
    assert pc.viz["point"]["mu"].sel(kind="short").item().get_offsets()[0][0] == 54.0
    assert pc.viz["twig"]["mu"].sel(kind="short").item() is None


def test_pairs_that_cannot_be_drawn(faithful_fit, coin):
    with pytest.raises(ValueError, match="the only entry is .p."):
        mlem.plot_pair_estimates({"MLE": fitted(coin)}, backend="none")
    with pytest.raises(ValueError, match=r"no entry 'mu\[medium\]'"):
        mlem.plot_pair_estimates({"MLE": faithful_fit}, pairs=[("mu[medium]", "mu[long]")], backend="none")
    with pytest.raises(ValueError, match="no variable 'nu'"):
        mlem.plot_pair_estimates({"MLE": faithful_fit}, var_names="nu", backend="none")
    with pytest.raises(TypeError, match="'table' must be an mlem.Fit or a DataTree"):
        mlem.plot_pair_estimates({"table": xr.Dataset()}, backend="none")


# --- on plots of ArviZ ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def draws(faithful_fit):
    return faithful_fit.to_datatree(draws=30, random_seed=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("plot", ["plot_dist", "plot_trace", "plot_forest"])
def test_add_estimates(faithful_fit, faithful_map, draws, plot, backend):
    pc = getattr(azp, plot)(draws, var_names=["mu", "sigma"], backend=backend)
    assert mlem.add_estimates(pc, faithful_fit, var_names="mu") is pc
    mlem.add_estimates(pc, faithful_map, visuals={"interval": False})
    assert list(pc.viz["mle_estimate"].data_vars) == ["mu"]
    assert list(pc.viz["map_estimate"].data_vars) == ["mu", "sigma"]
    assert "map_interval" not in pc.viz.children


def test_estimates_are_added_where_they_are(faithful_fit, draws):
    pc = azp.plot_dist(draws, var_names=["mu", "sigma"], coords={"kind": ["long"]}, backend="matplotlib")
    mlem.add_estimates(pc, faithful_fit, kind="profile", var_names=["sigma"])
    line = pc.viz["mle_estimate"]["sigma"].sel(kind="long").item()
    assert line.get_xdata()[0] == faithful_fit.estimates["sigma"].values[1]
    band = pc.viz["mle_interval"]["sigma"].sel(kind="long").item().get_bbox()
    expected = faithful_fit.confidence_intervals(kind="profile", var_names=["sigma"])["sigma"].values[1]
    np.testing.assert_allclose([band.x0, band.x1], expected)
    forest = azp.plot_forest(draws, var_names=["mu", "sigma"], combined=True, backend="matplotlib")
    mlem.add_estimates(forest, faithful_fit)
    x, y = np.array(forest.viz["mle_estimate"]["sigma"].item().get_offsets()).T
    np.testing.assert_allclose(x, faithful_fit.estimates["sigma"])
    np.testing.assert_allclose(y + 0.3, forest.get_aes_as_dataset("y")["sigma"])


def test_estimates_that_cannot_be_added(faithful_fit, draws, coin):
    pc = azp.plot_dist(draws, var_names=["mu"], backend="none")
    with pytest.raises(ValueError, match="share no variable: the plot has 'mu', the fit 'p'"):
        mlem.add_estimates(pc, fitted(coin))
    with pytest.raises(ValueError, match="no variable 'sigma'"):
        mlem.add_estimates(pc, faithful_fit, var_names="sigma")
    with pytest.raises(ValueError, match="orientation='upright'"):
        mlem.add_estimates(pc, faithful_fit, orientation="upright")
    with pytest.raises(TypeError, match="what a plot of ArviZ returns"):
        mlem.add_estimates(faithful_fit, faithful_fit)
    with pytest.raises(TypeError, match="fit must be an mlem.Fit"):
        mlem.add_estimates(pc, draws)


# --- states in one order ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exchanged(faithful_fit):
    """Draws whose states have the other order in the second chain."""
    tree = faithful_fit.to_datatree(draws=60, chains=2, random_seed=1)
    posterior = tree["posterior"].to_dataset().copy(deep=True)
    for name in ("w", "mu", "sigma"):
        posterior[name].values[1] = np.flip(posterior[name].values[1], axis=-1)
    return xr.DataTree.from_dict({"posterior": posterior})


def where(pc, element, name, model):
    return np.array([mark.item()["x"] for mark in pc.viz[element][name].sel(model=model)], dtype=float).ravel()


def test_pictures_have_the_points_of_the_table(faithful_fit, exchanged):
    results = {"MLE": faithful_fit, "draws": exchanged}
    for align in (True, False):
        table = mlem.compare(results, align=align)
        pc = mlem.plot_estimates(results, var_names=["mu"], align=align, backend="none")
        for method in results:
            expected = table[(method, "estimate")][["mu[short]", "mu[long]"]]
            np.testing.assert_allclose(where(pc, "point", "mu", method), expected)
    pc = mlem.plot_pair_estimates(results, pairs=[("mu[short]", "mu[long]")], backend="none")
    x = np.asarray(pc.viz["draws"]["mu[short], mu[long]"].sel(model="draws").item()["x"])
    assert np.nanmax(x) < 60  # the eruptions of the other kind are 80 minutes apart


def test_a_bootstrap_of_a_renamed_fit_is_refused(faithful_fit, replicates):
    values = {n: np.flip(faithful_fit.estimates[n].values) for n in ("w", "mu", "sigma")}
    other = mlem.fit(faithful_fit.model, starts=[values], progressbar=False)
    with pytest.raises(ValueError, match="The states of 'other' were renamed .* use align=False"):
        mlem.plot_estimates(
            {"one": faithful_fit, "other": other}, kind={"other": "bootstrap"}, bootstrap={"other": replicates}
        )
