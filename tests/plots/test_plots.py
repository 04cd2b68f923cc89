"""Plots in every backend."""

from itertools import pairwise

import arviz_base as azb
import arviz_plots as azp
import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem

pytestmark = pytest.mark.compiled

BACKENDS = ["matplotlib", "plotly", "bokeh", "none"]


@pytest.fixture(scope="module")
def replicates(faithful_fit):
    return faithful_fit.bootstrap(40, random_seed=1, progressbar=False)


@pytest.fixture(scope="module")
def results(faithful_fit, faithful_map):
    draws = faithful_fit.to_datatree(draws=100, random_seed=0)
    return {"MLE": faithful_fit, "MAP": faithful_map, "draws": draws}


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_estimates(results, backend):
    pc = mlem.plot_estimates(results, backend=backend)
    assert isinstance(pc, azp.PlotCollection)
    for element in ("point", "twig", "trunk"):
        assert pc.viz[element]["mu"].dims == ("model", "kind")
        assert not any(v is None for v in pc.viz[element]["mu"].values.ravel())


def test_plot_estimates_options(results):
    pc = mlem.plot_estimates(results, var_names=["mu"], backend="none", visuals={"trunk": False})
    assert "trunk" not in pc.viz.children
    assert list(pc.viz["point"].data_vars) == ["mu"]
    with pytest.raises(ValueError, match="has no variable 'nu'"):
        mlem.plot_estimates(results, var_names=["nu"], backend="none")
    with pytest.raises(ValueError, match="at least one entry"):
        mlem.plot_estimates({})


def test_intervals_are_drawn_where_they_are(faithful_fit):
    """Asymmetric intervals stay asymmetric."""
    pc = mlem.plot_estimates({"MLE": faithful_fit}, var_names=["sigma"], backend="matplotlib")
    line = pc.viz["twig"]["sigma"].sel(kind="short").item()
    expected = faithful_fit.confidence_intervals()["sigma"].sel(kind="short")
    np.testing.assert_allclose(line.get_xdata(), expected)
    point = pc.viz["point"]["sigma"].sel(kind="short").item()
    assert point.get_offsets()[0][0] == pytest.approx(faithful_fit.estimates["sigma"].sel(kind="short").item())


def test_intervals_of_any_kind(faithful_fit, faithful_map, replicates):
    """Profiles and bootstraps are drawn where they are; a bootstrap of another fit is refused."""
    for kind, bootstrap in (("profile", None), ("bootstrap", replicates)):
        pc = mlem.plot_estimates(
            {"MLE": faithful_fit}, var_names="mu", kind=kind, bootstrap=bootstrap, inner_level=0.9, backend="matplotlib"
        )
        line = pc.viz["twig"]["mu"].sel(kind="long").item()
        expected = faithful_fit.confidence_intervals(kind=kind, bootstrap=bootstrap, var_names=["mu"])["mu"]
        np.testing.assert_allclose(line.get_xdata(), expected.sel(kind="long"))
    with pytest.raises(ValueError, match="another fit"):
        mlem.plot_estimates(
            {"MAP": faithful_map}, var_names="mu", kind="bootstrap", bootstrap=replicates, backend="none"
        )
    with pytest.raises(ValueError, match="kind='waldo'"):
        mlem.plot_estimates({"MLE": faithful_fit}, kind="waldo", backend="none")


def test_estimates_are_chosen_as_in_arviz(results):
    pc = mlem.plot_estimates(results, var_names="~w", coords={"kind": "long"}, backend="none")
    assert list(pc.viz["point"].data_vars) == ["mu", "sigma"]
    assert pc.viz["point"]["mu"].sizes == {"model": 3, "kind": 1}
    pc = mlem.plot_estimates(results, var_names="^s", filter_vars="regex", backend="none")
    assert list(pc.viz["point"].data_vars) == ["sigma"]
    assert list(mlem.plot_estimates(results, var_names="i", filter_vars="like", backend="none").viz["point"]) == [
        "sigma"
    ]
    for bad, message in (
        ({"coords": {"kind": "medium"}}, "'kind' has no label"),
        ({"coords": {"sort": "long"}}, "no dimension 'sort'"),
        ({"filter_vars": "glob", "var_names": "mu"}, "filter_vars='glob'"),
        ({"visuals": {"twigg": False}}, "no visual element 'twigg'; it has 'twig'"),
        ({"reference": {"nu": 1.0}}, "no variable 'nu'"),
        ({"reference": {"mu": [1.0, 2.0, 3.0]}}, "reference: the values of 'mu'"),
    ):
        with pytest.raises(ValueError, match=message):
            mlem.plot_estimates(results, backend="none", **bad)


def test_references_are_drawn_in_their_rows(faithful_fit):
    pc = mlem.plot_estimates(faithful_fit, var_names="mu", reference={"mu": [55.0, 80.0]}, backend="matplotlib")
    line = pc.viz["reference"]["mu"].item()
    np.testing.assert_array_equal(line.get_xdata()[:2], 55.0)
    np.testing.assert_allclose(line.get_ydata()[:2], [0.6, 1.4])  # the first entry is above the second
    assert pc.viz["point"]["mu"].sel(kind="short").item().get_offsets()[0][1] == 1.0


def test_many_entries_stay_readable():
    theta = np.random.default_rng(0).normal(size=(1, 20, 100))
    draws = azb.from_dict({"posterior": {"theta": theta}}, coords={"g": [f"group {i}" for i in range(100)]},
                          dims={"theta": ["g"]})  # fmt: skip
    pc = mlem.plot_estimates({"draws": draws}, backend="matplotlib")
    figure, axes = pc.viz["figure"].item(), pc.viz["plot"]["theta"].item()
    assert figure.get_size_inches()[1] < 14
    labels = axes.get_yticklabels()
    assert len(labels) == 50
    figure.draw_without_rendering()
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda b: b.y0)
    assert all(a.y1 <= b.y0 + 0.5 for a, b in pairwise(boxes))


def test_dimensions_that_differ_are_refused(faithful_fit, results):
    renamed = results["draws"].copy()
    renamed["posterior"] = renamed["posterior"].to_dataset().rename(kind="sort")
    with pytest.raises(ValueError, match="'mu' has the dimensions .* cannot be matched"):
        mlem.plot_estimates({"MLE": faithful_fit, "draws": renamed}, var_names="mu", backend="none")


def test_all_starts_have_a_history(faithful_fit):
    history = faithful_fit.start_history["log_likelihood"]
    starts = faithful_fit.starts
    assert "history" not in starts
    assert history.sizes["start"] == len(starts)
    np.testing.assert_array_equal(history.notnull().sum("iteration") - 1, starts["iterations"])
    ends = [row[np.isfinite(row)][-1] for row in history.values]
    np.testing.assert_allclose(ends, starts["log_likelihood"])
    kept = faithful_fit.history["log_likelihood"].values
    assert any(np.array_equal(row[: len(kept)], kept) for row in history.values)


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_convergence(faithful_fit, faithful_map, backend):
    pc = mlem.plot_convergence({"MLE": faithful_fit, "MAP": faithful_map}, backend=backend)
    assert list(pc.viz["line"].data_vars) == ["objective", "log10 of the distance to the best"]
    assert pc.viz["line"]["objective"].sizes == {"model": 2}
    assert pc.viz["starts"]["objective"].sizes == {"model": 2}
    assert "starts" not in mlem.plot_convergence(faithful_fit, starts=False, backend="none").viz.children


def test_plot_convergence_of_one_fit(faithful_fit):
    pc = mlem.plot_convergence(faithful_fit, backend="matplotlib")
    line = pc.viz["line"]["log-likelihood"].item()
    ydata = line.get_ydata()
    np.testing.assert_allclose(ydata[np.isfinite(ydata)], faithful_fit.history["log_likelihood"])
    distance = pc.viz["line"]["log10 of the distance to the best"].item().get_ydata()
    left = ydata[np.isfinite(ydata)].max() - ydata[0]
    assert distance[0] == pytest.approx(np.log10(left))
    others = pc.viz["starts"]["log-likelihood"].item()
    assert len(others.get_segments()) == len(faithful_fit.starts) - 1
    with pytest.raises(TypeError, match="draws have no history"):
        mlem.plot_convergence({"draws": faithful_fit.to_datatree(draws=10, random_seed=0)})
    with pytest.raises(ValueError, match="at least one entry"):
        mlem.plot_convergence({})


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_latents(faithful_fit, backend):
    pc = mlem.plot_latents(faithful_fit, backend=backend)
    assert list(pc.viz["probability"].data_vars) == ["p(z | data)"]
    assert list(pc.viz["component"].data_vars) == ["density"]


def test_density_of_the_components_integrates_to_their_weights(faithful_fit):
    joint = faithful_fit._estimate.joint_density("z")
    y = faithful_fit.model.rvs_to_values[faithful_fit.model["waiting"]].data
    order = np.argsort(y)
    area = np.trapezoid(joint[:, order], y[order], axis=1)
    np.testing.assert_allclose(area, faithful_fit.estimates["w"], atol=0.02)


def test_plot_latents_without_a_density(faithful_fit):
    """Several items for each element: probabilities by position."""
    rng = np.random.default_rng(0)
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        q = pm.Beta("q", 1, 1, shape=(2, 3), initval=np.array([[0.2] * 3, [0.8] * 3]))
        z = pm.Categorical("z", w, shape=40)
        pm.Bernoulli("y", q[z], observed=rng.integers(0, 2, (40, 3)))
    fit = mlem.fit(model, starts=1, progressbar=False)
    pc = mlem.plot_latents(fit, backend="none")
    assert "component" not in pc.viz.children
    with pytest.raises(ValueError, match="no single observed number"):
        mlem.plot_latents(fit, over="value")
    with pytest.raises(ValueError, match="no latent 'x'; it has 'z'"):
        mlem.plot_latents(faithful_fit, var_name="x")


@pytest.mark.parametrize("backend", BACKENDS)
def test_chains_are_drawn_over_time(chains_fit, backend):
    pc = mlem.plot_latents(chains_fit, backend=backend)
    assert list(pc.viz["plot"].data_vars) == ["activity", "p(z | data)", "most probable path"]
    assert pc.viz["probability"]["p(z | data)"].sizes == {"animal": 2, "state": 2}
    assert pc.viz["path"]["most probable path"].sizes == {"animal": 2}


def test_the_path_is_the_decoded_one(chains_fit):
    pc = mlem.plot_latents(chains_fit, coords={"animal": "b"}, backend="matplotlib")
    own = {"animal": "b"}
    states = chains_fit.decode()["z"].sel(own)
    path = pc.viz["path"]["most probable path"].sel(own).item()
    np.testing.assert_array_equal(path.get_ydata()[::2], states)
    line = pc.viz["probability"]["p(z | data)"].sel(own | {"state": "1"}).item()
    np.testing.assert_allclose(line.get_ydata(), chains_fit.latent_probabilities["z"].sel(own)[:, 1])
    seen = chains_fit.model.rvs_to_values[chains_fit.model["activity"]].data[1]
    np.testing.assert_allclose(pc.viz["series"]["activity"].sel(own).item().get_ydata(), seen)
    drawn = pc.viz["observation"]["activity"].sel(own | {"state": "1"}).item().get_offsets()[:, 1]
    np.testing.assert_allclose(np.ma.compressed(np.ma.masked_invalid(drawn)), seen[states == 1])
    by_value = mlem.plot_latents(chains_fit, over="value", backend="none")
    assert list(by_value.viz["plot"].data_vars) == ["p(z | data)"]
    with pytest.raises(ValueError, match="over='time'"):
        mlem.plot_latents(chains_fit, over="time")


def test_a_python_loop_is_drawn_over_time():
    rng = np.random.default_rng(3)
    y = np.repeat([0.0, 4.0], 3) + rng.normal(size=6)
    with pm.Model() as model:
        stay = pm.Beta("stay", 2, 2)
        rows = pm.math.stack([pm.math.stack([stay, 1 - stay]), pm.math.stack([1 - stay, stay])])
        z = pm.Categorical("z0", [0.5, 0.5])
        for t in range(6):
            z = pm.Categorical(f"z{t}", rows[z]) if t else z
            pm.Normal(f"y{t}", 4.0 * z, 1, observed=y[t])
    fit = mlem.fit(model, starts=1, progressbar=False)
    pc = mlem.plot_latents(fit, backend="matplotlib")
    path = pc.viz["path"]["most probable path"].item()
    expected = [fit.decode()[f"z{t}"].item() for t in range(6)]
    np.testing.assert_array_equal(path.get_ydata()[::2], expected)
    with pytest.raises(ValueError, match="a single number"):
        mlem.plot_density(fit, backend="none")


def test_plot_latents_needs_a_latent(coin):
    with pytest.raises(ValueError, match="no discrete latent"):
        mlem.plot_latents(mlem.fit(coin, progressbar=False))


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_profile(faithful_fit, backend):
    pc = mlem.plot_profile(faithful_fit, "mu", reference=60.0, points=5, backend=backend)
    assert isinstance(pc, azp.PlotCollection)
    for element in ("profile", "wald", "interval", "bound", "maximum", "reference"):
        assert list(pc.viz[element].data_vars) == ["mu[short]", "mu[long]"]


def test_several_profiles_with_a_reference(faithful_fit):
    pc = mlem.plot_profile(
        faithful_fit, ["mu[short]", "w[short]"], reference={"w[short]": 0.4}, points=3, backend="none"
    )
    assert list(pc.viz["profile"].data_vars) == ["mu[short]", "w[short]"]
    assert list(pc.viz["reference"].data_vars) == ["w[short]"]
    with pytest.raises(ValueError, match="'nu' is not drawn"):
        mlem.plot_profile(faithful_fit, "mu[short]", reference={"nu": 1.0}, points=3, backend="none")


def test_the_profile_is_drawn_where_it_is(faithful_fit):
    curve = faithful_fit.profile("mu[short]", points=7)
    pc = mlem.plot_profile(faithful_fit, "mu[short]", points=7, backend="matplotlib", visuals={"wald": False})
    assert "wald" not in pc.viz.children
    line = pc.viz["profile"]["mu[short]"].item()
    np.testing.assert_allclose(line.get_ydata(), curve["log_likelihood"])
    ends = pc.viz["interval"]["mu[short]"].item()
    np.testing.assert_allclose(ends.get_xdata(), curve["interval"])
    np.testing.assert_allclose(ends.get_ydata(), faithful_fit.log_likelihood - 1.920729)


def test_a_profile_without_an_end_is_drawn():
    with pm.Model() as model:
        pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=np.ones(10))
    pc = mlem.plot_profile(mlem.fit(model, progressbar=False), "p", backend="matplotlib")
    assert max(pc.viz["interval"]["p"].item().get_xdata()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="the fit has no 'q'"):
        mlem.plot_profile(mlem.fit(model, progressbar=False), "q")


@pytest.fixture(scope="module")
def change_point():
    years = np.arange(1900, 1930)
    with pm.Model() as model:
        change = pm.DiscreteUniform("change", 1900, 1929)
        kind = pm.Bernoulli("kind", 0.5)
        rate = pm.math.switch(change >= years, pm.Exponential("early", 0.2), pm.Exponential("late", 1))
        pm.Poisson("events", rate * pm.math.switch(kind, 1.0, 1.001), observed=np.repeat([6, 1], [12, 18]))
    return mlem.fit(model, starts=1, progressbar=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_element_is_drawn_over_its_states(change_point, backend):
    pc = mlem.plot_latents(change_point, var_name="change", backend=backend)
    assert "probability" in pc.viz.children
    if backend == "matplotlib":
        drawn = np.asarray(pc.viz["probability"]["p(change | data)"].item().get_offsets())
        np.testing.assert_array_equal(drawn[:, 0], np.arange(1900, 1930))
        np.testing.assert_allclose(drawn[:, 1], change_point.latent_probabilities["change"])
