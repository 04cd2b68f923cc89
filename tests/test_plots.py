"""Plots in every backend."""

import arviz_plots as azp
import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem

BACKENDS = ["matplotlib", "plotly", "bokeh", "none"]


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_convergence(faithful_fit, faithful_map, backend):
    pc = mlem.plot_convergence({"MLE": faithful_fit, "MAP": faithful_map}, backend=backend)
    assert list(pc.viz["line"].data_vars) == ["objective", "distance to the best"]
    assert pc.viz["line"]["objective"].sizes == {"model": 2}


def test_plot_convergence_of_one_fit(faithful_fit):
    pc = mlem.plot_convergence(faithful_fit, backend="matplotlib")
    line = pc.viz["line"]["log-likelihood"].item()
    np.testing.assert_allclose(line.get_ydata(), faithful_fit.history["log_likelihood"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_latents(faithful_fit, backend):
    pc = mlem.plot_latents(faithful_fit, backend=backend)
    assert list(pc.viz["probability"].data_vars) == ["p(z | data)"]
    assert list(pc.viz["component"].data_vars) == ["density"]


def test_density_of_the_components_integrates_to_their_weights(faithful_fit):
    joint = faithful_fit._joint_density("z")
    y = faithful_fit._observation_of("z")[1]
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
    pc = mlem.plot_latents(mlem.fit(model, random_seed=0, progressbar=False), backend="none")
    assert "component" not in pc.viz.children
    with pytest.raises(ValueError, match="no latent 'x'; it has 'z'"):
        mlem.plot_latents(faithful_fit, var_name="x")


def test_plot_latents_needs_a_latent(coin):
    with pytest.raises(ValueError, match="no discrete latent"):
        mlem.plot_latents(mlem.fit(coin, progressbar=False))


@pytest.mark.parametrize("backend", BACKENDS)
def test_plot_profile(faithful_fit, backend):
    pc = mlem.plot_profile(faithful_fit, "mu", reference=60.0, points=5, backend=backend)
    assert isinstance(pc, azp.PlotCollection)
    for element in ("profile", "wald", "interval", "bound", "maximum", "reference"):
        assert list(pc.viz[element].data_vars) == ["mu[short]", "mu[long]"]


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
