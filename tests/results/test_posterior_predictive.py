"""New data from a fitted model."""

import arviz as az
import numpy as np
import pymc as pm
import pytest
from scipy.stats import binom, norm

import pm_mlem as mlem
from pm_mlem.demo import waiting_times
from pm_mlem.estimate.simulate import sampler
from pm_mlem.results import posterior_predictive as predictive

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(2)
Y = RNG.normal(3.0, 2.0, size=8)


def fit_of(build, coords=None, **options):
    with pm.Model(coords=coords) as model:
        build()
    return mlem.fit(model, random_seed=0, progressbar=False, **options)


@pytest.fixture(scope="module")
def mean():
    return fit_of(lambda: pm.Normal("y", pm.Normal("mu"), 2.0, observed=Y, dims="row"), {"row": list("abcdefgh")})


def test_with_the_uncertainty_of_the_parameters(mean):
    """With a known error the predictive distribution is normal with variance 4 (1 + 1/n)."""
    tree = mean.sample_posterior_predictive(1000, random_seed=1)
    drawn = tree["posterior_predictive"]["y"]
    assert drawn.dims == ("chain", "draw", "row")
    levels = [0.025, 0.25, 0.5, 0.75, 0.975]
    expected = norm(Y.mean(), 2 * np.sqrt(1 + 1 / 8)).ppf(levels)
    np.testing.assert_allclose(drawn.quantile(levels), expected, atol=0.1)
    total = drawn.sum("row")  # rows share the parameter
    assert float(total.std()) == pytest.approx(np.sqrt(8 * 4 + 64 * 4 / 8), rel=0.05)
    np.testing.assert_allclose(tree["posterior"]["mu"].std(), np.sqrt(4 / 8), rtol=0.05)
    assert tree["observed_data"]["y"].equals(mean.to_datatree(5)["observed_data"]["y"])


def test_at_the_estimates(mean):
    tree = mean.sample_posterior_predictive(1000, random_seed=1, parameters="estimates")
    drawn = tree["posterior_predictive"]["y"]
    assert float(drawn.std()) == pytest.approx(2.0, rel=0.02)
    assert float(drawn.sum("row").std()) == pytest.approx(np.sqrt(8 * 4), rel=0.05)
    assert (tree["posterior"]["mu"] == mean.estimates["mu"]).all()
    assert tree["posterior"].attrs["approximation"] == "the estimates, without their uncertainty"


def test_seeds(mean):
    first, second, other = (
        mean.sample_posterior_predictive(5, random_seed=s)["posterior_predictive"]["y"] for s in (1, 1, 2)
    )
    assert first.equals(second) and not first.equals(other)
    parameters = mean.sample_posterior_predictive(5, random_seed=1)["posterior"]
    assert parameters["mu"].equals(mean.to_datatree(5, random_seed=1)["posterior"]["mu"])


def test_compiled_draws_are_the_same(mean, monkeypatch):
    plain = mean.sample_posterior_predictive(5, random_seed=1)
    made = []
    monkeypatch.setattr(predictive, "SLOW", 0.0)
    monkeypatch.setattr(predictive, "sampler", lambda *args, **kw: made.append(kw) or sampler(*args, **kw))
    compiled = mean.sample_posterior_predictive(5, random_seed=1)
    assert made == [{"mode": None}]
    np.testing.assert_allclose(compiled["posterior_predictive"]["y"], plain["posterior_predictive"]["y"], rtol=1e-12)


def test_latents_are_drawn(faithful_fit):
    tree = faithful_fit.sample_posterior_predictive(
        40, random_seed=1, parameters="estimates", var_names=["waiting", "z", "expected_wait"]
    )
    drawn = tree["posterior_predictive"]
    w, mu, sigma = (faithful_fit.estimates[n].values for n in ("w", "mu", "sigma"))
    np.testing.assert_array_equal(drawn["expected_wait"], mu[drawn["z"].values])
    for bound in (50, 65, 80, 90):
        share = float((drawn["waiting"] < bound).mean())
        assert share == pytest.approx(np.sum(w * norm.cdf(bound, mu, sigma)), abs=0.01)
    assert float(drawn["z"].mean()) == pytest.approx(w[1], abs=0.01)
    residual = (drawn["waiting"].values - mu[drawn["z"].values]) / sigma[drawn["z"].values]
    assert residual.std() == pytest.approx(1.0, abs=0.02)


def test_uncertain_mixture(faithful_fit):
    """The mean of a data set varies by sampling and by the uncertainty of the mean."""
    drawn = faithful_fit.sample_posterior_predictive(100, random_seed=3)["posterior_predictive"]["waiting"]
    y = waiting_times()
    means = drawn.mean("eruption")
    assert float(means.mean()) == pytest.approx(y.mean(), abs=0.2)
    assert float(means.std()) == pytest.approx(np.sqrt(2 * y.var() / len(y)), rel=0.12)


@pytest.mark.parametrize("backend", ["matplotlib", "plotly", "bokeh", "none"])
def test_arviz_plots_it(mean, backend):
    tree = mean.sample_posterior_predictive(60, 2, random_seed=1)
    az.plot_ppc_dist(tree, backend=backend)
    az.plot_ppc_pit(tree, backend=backend)


def test_replicates_of_a_bootstrap(mean):
    made = mean.bootstrap(30, random_seed=1, progressbar=False)
    tree = mean.sample_posterior_predictive(random_seed=1, bootstrap=made)
    assert tree["posterior_predictive"]["y"].sizes == {"chain": 1, "draw": 30, "row": 8}
    np.testing.assert_array_equal(tree["posterior"]["mu"][0], made.estimates["mu"])
    assert tree["posterior_predictive"].attrs["parameters"].startswith("case bootstrap")


def test_counts_held_parameters_and_known_labels():
    z = np.ma.masked_array([0, 1, 0, 0], mask=[False, False, True, False])

    def build():
        p = pm.Beta("p", 1, 1, shape=2)
        with pytest.warns(pm.exceptions.ImputationWarning):
            label = pm.Bernoulli("z", 0.5, observed=z)
        pm.Binomial("y", 10, p[label], observed=[2, 7, 3, 1])

    fit = fit_of(build, fixed={"p[1]": 0.7})
    drawn = fit.sample_posterior_predictive(200, random_seed=0, parameters="estimates")["posterior_predictive"]
    assert set(drawn.data_vars) == {"z_observed", "y"}
    assert drawn["y"].dtype.kind == "i"
    mixed = (binom.pmf(range(11), 10, fit.estimates["p"].values[0]) + binom.pmf(range(11), 10, 0.7)) / 2
    assert float((drawn["y"] <= 4).mean()) == pytest.approx(mixed[:5].sum(), abs=0.04)


def test_at_new_data():
    x = np.linspace(-1, 1, 20)
    y = 1 + 2 * x + RNG.normal(size=20)

    def build():
        data = pm.Data("x", x, dims="row")
        pm.Normal("y", pm.Normal("a") + pm.Normal("b") * data, 1.0, observed=pm.Data("y_data", y, dims="row"))

    fit = fit_of(build, {"row": np.arange(20)})
    new = {"x": [0.0, 5.0], "y_data": [0.0, 0.0]}
    tree = fit.sample_posterior_predictive(1000, random_seed=0, data=new, coords={"row": [100, 101]})
    assert set(tree.children) == {"posterior", "predictions", "predictions_constant_data"}
    drawn = tree["predictions"]["y"]
    design = np.c_[np.ones(20), x]
    covariance = np.linalg.inv(design.T @ design)
    at = np.array([[1, 0.0], [1, 5.0]])
    np.testing.assert_allclose(drawn.std(("chain", "draw")), np.sqrt(1 + np.diag(at @ covariance @ at.T)), rtol=0.05)
    assert drawn.sizes["y_dim_0"] == 2
    np.testing.assert_array_equal(tree["predictions_constant_data"]["x"], [0.0, 5.0])
    np.testing.assert_array_equal(fit.model["x"].get_value(), x)  # the model has its own again


def test_files(mean, tmp_path):
    pytest.importorskip("netCDF4")
    import xarray as xr

    tree = mean.sample_posterior_predictive(5, random_seed=0)
    tree.to_netcdf(tmp_path / "new.nc")
    with xr.open_datatree(tmp_path / "new.nc") as back:
        xr.testing.assert_identical(tree, back)


def test_wrong_input(mean):
    with pytest.raises(ValueError, match="parameters='mean' is unknown; use 'draws' or 'estimates'"):
        mean.sample_posterior_predictive(parameters="mean")
    with pytest.raises(ValueError, match="draws=0 must be a whole number"):
        mean.sample_posterior_predictive(0, parameters="estimates")
    with pytest.raises(ValueError, match="var_names: 'mu' is a parameter; its draws are in the group 'posterior'"):
        mean.sample_posterior_predictive(var_names="mu")
    with pytest.raises(ValueError, match="var_names: the fit has no 'x'. It has 'y'"):
        mean.sample_posterior_predictive(var_names=["x"])
    made = mean.bootstrap(5, random_seed=1, progressbar=False)
    with pytest.raises(ValueError, match="bootstrap= belongs to parameters='draws'"):
        mean.sample_posterior_predictive(parameters="estimates", bootstrap=made)


def test_models_that_cannot_be_drawn_from():
    def potential():
        a = pm.Normal("a")
        pm.Normal("y", a, 1.0, observed=Y)
        pm.Potential("penalty", -(a**2))

    with pytest.raises(ValueError, match="its Potential 'penalty' is a density"):
        fit_of(potential).sample_posterior_predictive()

    def density():
        pm.CustomDist("y", pm.Normal("a"), logp=lambda value, a: -((value - a) ** 2), observed=Y)

    with pytest.raises(ValueError, match="'y' cannot be simulated"):
        fit_of(density).sample_posterior_predictive()


def test_parameters_that_are_not_identified():
    fit = fit_of(lambda: pm.Normal("y", pm.Normal("a") + pm.Normal("b"), 2.0, observed=Y))
    with pytest.raises(mlem.NotIdentifiedError, match=r"only a \+ b is identified.*Use parameters='estimates'"):
        fit.sample_posterior_predictive()
    drawn = fit.sample_posterior_predictive(500, random_seed=0, parameters="estimates")["posterior_predictive"]["y"]
    assert float(drawn.mean()) == pytest.approx(Y.mean(), abs=0.1)


def test_data_that_were_replaced_do_not_matter():
    fit = fit_of(lambda: pm.Normal("y", pm.Normal("a"), 1.0, observed=pm.Data("data", Y)))
    before = fit.sample_posterior_predictive(20, random_seed=1)["posterior_predictive"]["y"]
    fit.model.set_data("data", Y[:-2] + 1)
    after = fit.sample_posterior_predictive(20, random_seed=1)
    np.testing.assert_array_equal(after["posterior_predictive"]["y"], before)
    np.testing.assert_array_equal(after["observed_data"]["y"], Y)
