"""Arguments of ``mlem.fit``: what they do, and what a wrong one says."""

import re

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from scipy import stats

import pm_mlem as mlem
from pm_mlem.estimate.draws import normal_draws
from pm_mlem.objective.engine import ENGINES

pytestmark = pytest.mark.compiled

Y = np.random.default_rng(5).normal(3, 2, 40)


def normal_model(observed=Y, **options):
    with pm.Model(**options) as model:
        mu = pm.Normal("mu", 0, 10)
        sigma = pm.HalfNormal("sigma", 10)
        pm.Normal("y", mu, sigma, observed=observed)
    return model


@pytest.fixture(scope="module")
def model():
    return normal_model()


def fit(model, *args, **options):
    return mlem.fit(model, *args, progressbar=False, **options)


# --- what the arguments do --------------------------------------------------------------------------------


def test_model_from_the_context(coin):
    with coin:
        assert mlem.fit(progressbar=False).estimates["p"].item() == pytest.approx(0.6)


def test_map_is_the_mode_of_the_joint_density_in_the_users_space():
    """No Jacobian: the posterior Beta(3 + 6, 5 + 4) has its mode at 8 / 16."""
    with pm.Model() as model:
        p = pm.Beta("p", 3, 5)
        pm.Binomial("k", 10, p, observed=6)
    found = fit(model, "map")
    assert found.estimates["p"].item() == pytest.approx(8 / 16, abs=1e-6)
    # to all digits: PyTensor itself would evaluate the constants 3 and 5 in single precision
    assert found.log_prior == pytest.approx(stats.beta(3, 5).logpdf(0.5), abs=1e-12)
    assert found.log_likelihood == pytest.approx(stats.binom(10, 0.5).logpmf(6), abs=1e-12)
    assert found.log_likelihood + found.log_prior == pytest.approx(found.log_posterior)


def test_mle_reports_no_prior(model):
    found = fit(model)
    assert found.log_prior is None
    assert found.log_posterior is None


@pytest.mark.parametrize("method", ["newton", "em"])
def test_map_with_conjugate_and_other_priors(method):
    """EM's closed forms with conjugate priors reach the same mode as Newton's method."""
    rng = np.random.default_rng(2)
    y = np.concatenate([rng.normal(-2, 1, 30), rng.normal(2, 1, 50)])
    with pm.Model() as mixture:
        w = pm.Dirichlet("w", [3.0, 5.0])
        mu = pm.Normal("mu", 1, 0.5, shape=2, initval=[-1.0, 1.0])
        sigma = pm.HalfNormal("sigma", 1, shape=2)
        z = pm.Categorical("z", w, shape=80)
        pm.Normal("y", mu[z], sigma[z], observed=y)
    found = fit(mixture, "map", method=method, random_seed=0)
    assert found.converged
    assert found.log_posterior == pytest.approx(-184.6, abs=20)
    np.testing.assert_allclose(found.log_posterior, fit(mixture, "map", random_seed=0).log_posterior, atol=1e-6)


def test_fixed_variables_are_held_and_not_counted(model):
    found = fit(model, fixed={"sigma": 2.0})
    assert found.n_params == 1
    assert found.estimates["sigma"].item() == 2.0
    assert found.estimates["mu"].item() == pytest.approx(Y.mean())
    assert found.standard_errors()["mu"].item() == pytest.approx(2.0 / np.sqrt(40))
    assert found.summary().loc["sigma", "note"] == "fixed"


def test_fixed_latent():
    """With its labels fixed, a mixture is the complete-data problem."""
    labels = np.array([0, 0, 1, 1, 1])
    y = np.array([1.0, 2.0, 6.0, 7.0, 8.0])
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10, shape=2)
        z = pm.Categorical("z", [0.4, 0.6], shape=5)
        pm.Normal("y", mu[z], 1.0, observed=y)
    np.testing.assert_allclose(fit(model, fixed={"z": labels}).estimates["mu"].values, [1.5, 7.0], atol=1e-6)


def test_integer_weights_equal_repetition(model):
    counts = np.random.default_rng(0).integers(0, 4, 40)
    weighted, repeated = fit(model, weights=counts), fit(normal_model(np.repeat(Y, counts)))
    np.testing.assert_allclose(weighted.estimates["mu"], repeated.estimates["mu"], rtol=1e-7)
    np.testing.assert_allclose(weighted.standard_errors()["sigma"], repeated.standard_errors()["sigma"], rtol=1e-6)
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood)
    assert weighted.n_obs == repeated.n_obs
    assert weighted.bic == pytest.approx(repeated.bic)


def test_weights_by_name_and_for_rows():
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1, shape=2)
        pm.Bernoulli("y", p, observed=np.array([[0, 1], [1, 1], [1, 0]]))
    found = fit(model, weights={"y": [1.0, 1.0, 2.0]})
    np.testing.assert_allclose(found.estimates["p"].values, [3 / 4, 2 / 4], atol=1e-6)


def test_starts(model):
    given = fit(model, starts=[{"mu": 5.0}, {"mu": -5.0, "sigma": 1.0}])
    assert len(given.starts) == 2
    assert given.estimates["mu"].item() == pytest.approx(Y.mean())
    assert len(fit(model, starts=4, random_seed=0).starts) == 4


def test_random_starts_are_reproducible(faithful):
    first, second = (fit(faithful, starts=5, random_seed=3).starts for _ in range(2))
    np.testing.assert_array_equal(first["log_likelihood"], second["log_likelihood"])


def test_labels_follow_the_initial_point(faithful_fit):
    """initval says that the first component is the short one; other starts do not turn that around."""
    assert faithful_fit.estimates["mu"].sel(kind="short") < faithful_fit.estimates["mu"].sel(kind="long")


def test_equal_initial_components_are_separated():
    """The initial point of this mixture is a saddle: all components alike."""
    y = np.concatenate([np.random.default_rng(1).normal(m, 1, 60) for m in (-3, 3)])
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, shape=2)
        z = pm.Categorical("z", w, shape=120)
        pm.Normal("y", mu[z], 1.0, observed=y)
    assert np.ptp(fit(model, random_seed=0).estimates["mu"].values) > 5


def test_second_fit_reuses_the_compiled_functions(faithful, faithful_fit):
    again = mlem.fit(faithful, random_seed=1, progressbar=False)
    assert again._estimate.target.engine is faithful_fit._estimate.target.engine


def test_engines_are_forgotten_with_their_model():
    import gc

    model = normal_model()
    fit(model)
    before = len(ENGINES)
    del model
    gc.collect()
    assert len(ENGINES) < before


def test_new_data_are_seen():
    """pm.Data may change, in value and in length."""
    with pm.Model(coords={"obs": range(3)}) as model:
        data = pm.Data("data", np.array([1.0, 2.0, 3.0]), dims="obs")
        mu = pm.Normal("mu", 0, 10)
        pm.Normal("y", mu, 1.0, observed=data, dims="obs")
    assert fit(model).estimates["mu"].item() == pytest.approx(2.0)
    with model:
        pm.set_data({"data": np.array([4.0, 6.0])}, coords={"obs": range(2)})
    found = fit(model)
    assert found.estimates["mu"].item() == pytest.approx(5.0)
    assert found.n_obs == 2


def test_the_model_is_not_modified(faithful, faithful_fit):
    names = list(faithful.named_vars)
    mlem.fit(faithful, "map", random_seed=1, progressbar=False)
    assert list(faithful.named_vars) == names
    assert faithful.rvs_to_initial_values[faithful["mu"]] is not None


def test_methods_as_objects(model):
    for method in (mlem.Newton(tolerance=1e-6), mlem.LBFGS(memory=5), mlem.EM(max_iterations=50)):
        assert fit(model, method=method).estimates["mu"].item() == pytest.approx(Y.mean(), abs=1e-3)


def test_method_says_what_it_chose(model, faithful_fit):
    assert fit(model).method == "trust-region Newton (auto)"
    assert faithful_fit.method == "EM with SQUAREM, then trust-region Newton (auto)"


def test_iteration_limit_is_reported(faithful):
    found = fit(faithful, method=mlem.EM(max_iterations=2), starts=1)
    assert not found.converged
    assert found.status is mlem.Status.MAX_ITERATIONS
    assert "still rising" in found.message


# --- operations that JAX lacks ----------------------------------------------------------------------------


class Cube(Op):
    """A black box with a gradient: what users wrap their own solvers in."""

    def make_node(self, x):
        x = pt.as_tensor(x)
        return Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = np.asarray(inputs[0] ** 3)

    def pullback(self, inputs, outputs, cotangents):
        return [3 * inputs[0] ** 2 * cotangents[0]]


OBJECT_MODE = pytest.mark.filterwarnings("ignore:Numba will use object mode")


@OBJECT_MODE
@pytest.mark.parametrize("backend", ["jax", "numba", pytest.param("c", marks=pytest.mark.slow)])
def test_operation_without_jax(backend, c_compiler):
    y = np.random.default_rng(0).normal(8, 1, 50)
    with pm.Model() as model:
        a = pm.Normal("a", 1, 1, initval=1.5)
        sigma = pm.HalfNormal("sigma", 1)
        cube = pm.Deterministic("cube", Cube()(a))
        pm.Normal("y", cube, sigma, observed=y)
    found = fit(model, backend=backend)
    assert found.estimates["cube"].item() == pytest.approx(y.mean())
    assert found.standard_errors()["cube"].item() == pytest.approx(y.std() / np.sqrt(50), rel=1e-6)
    assert ("numba" in found.message) == (backend == "jax")


@OBJECT_MODE
@pytest.mark.slow
def test_mixture_through_callbacks():
    """EM, Newton and the posterior of the labels through callbacks give what JAX gives."""
    y = np.concatenate([np.random.default_rng(1).normal(m, 1, 30) for m in (-1, 8)])

    def build(cube):
        with pm.Model() as model:
            w = pm.Dirichlet("w", np.ones(2))
            a = pm.Normal("a", 0, 2, shape=2, initval=[-1.0, 2.0])
            z = pm.Categorical("z", w, shape=60)
            pm.Normal("y", cube(a)[z], 1.0, observed=y)
        return model

    for method in ("em", "newton"):
        black, white = (fit(build(c), method=method, starts=1, random_seed=0) for c in (Cube(), lambda a: a**3))
        assert black.log_likelihood == pytest.approx(white.log_likelihood, abs=1e-8)
        np.testing.assert_allclose(black.standard_errors()["a"], white.standard_errors()["a"], rtol=1e-4)
        np.testing.assert_allclose(black.latent_probabilities["z"], white.latent_probabilities["z"], atol=1e-5)


# --- what is wrong with it --------------------------------------------------------------------------------


def complaint(match, error=ValueError):
    return pytest.raises(error, match=match)


def test_no_model():
    with complaint(r"No model: pass one, mlem.fit\(model\)"):
        mlem.fit()
    with complaint("must be a pm.Model, not str", TypeError):
        mlem.fit("model")


def test_empty_model():
    with complaint("model is empty: declare parameters and an observed variable"):
        fit(pm.Model())


def test_no_observed_data():
    with pm.Model() as model:
        pm.Normal("mu")
    with complaint("no observed data: pass observed="):
        fit(model)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_that_are_not_finite(bad):
    with pm.Model() as model:
        data = pm.Data("data", Y)
        mu = pm.Normal("mu")
        pm.Normal("y", mu, 1.0, observed=data)
    broken = Y.copy()
    broken[3] = bad
    with model:
        pm.set_data({"data": broken})
    with complaint(r"'y' contain 1 NaN or infinite value\(s\), the first at index \(3,\)"):
        fit(model)


def test_nan_in_a_covariate():
    x = np.ones(40)
    x[7] = np.nan
    with pm.Model() as model:
        b = pm.Normal("b")
        pm.Normal("y", b * x, 1.0, observed=Y)
    with complaint("covariate or an index.*contains NaN"):
        fit(model)


def test_empty_data():
    with complaint("observed data of 'y' are empty"):
        fit(normal_model(np.array([])))


def test_start_outside_the_support(model):
    with complaint(r"starts: -1. is outside the support of 'sigma'"):
        fit(model, starts=[{"sigma": -1.0}])


def test_start_where_the_density_vanishes():
    with pm.Model() as model:
        rate = pm.Normal("rate", 1, 1)
        pm.Poisson("y", rate, observed=[1, 2])
    with complaint(r"log-likelihood is not finite at any start.*rate = -2"):
        fit(model, starts=[{"rate": -2.0}])


@pytest.mark.parametrize("observed, place", [([0.5, 2.0, -1.0], 2), ([-1.0, 0.5, 1.0], 0)])
def test_values_that_have_no_density_are_named(observed, place):
    with pm.Model() as model:
        pm.Exponential("y", pm.HalfNormal("rate"), observed=observed)
    with complaint(rf"observed value -1 at index \({place},\) of 'y' is outside the support .*Exponential"):
        fit(model)


def test_starts_of_wrong_shape_or_none(model):
    with complaint(r"value of 'mu' has shape \(2,\), the variable \(\)"):
        fit(model, starts=[{"mu": [1.0, 2.0]}])
    with complaint("starts is an empty list"):
        fit(model, starts=[])
    with complaint("starts=0 must be a whole number, at least 1"):
        fit(model, starts=0)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"fixed": {"sgima": 1.0}}, "fixed"),
        ({"latents": ["sgima"]}, "latents"),
        ({"starts": [{"sgima": 1.0}]}, "starts"),
    ],
)
def test_misspelt_names(model, options, argument):
    with complaint(rf"{argument}.*|'sgima'.*{argument}") as caught:
        fit(model, **options)
    assert "'sgima'" in str(caught.value)
    assert argument in str(caught.value)
    assert "Did you mean 'sigma'?" in str(caught.value)


def test_unknown_method_estimator_backend(model):
    with complaint("method='newtn' is unknown; use 'auto', 'em', 'lbfgs', 'newton' or 'adam'"):
        fit(model, method="newtn")
    with complaint("estimator='mode' is unknown; use 'mle' or 'map'"):
        fit(model, "mode")
    with complaint("backend='torch' is unknown"):
        fit(model, backend="torch")
    with complaint("method must be one of", TypeError):
        fit(model, method=3)


def test_hyper_parameter_under_mle():
    with pm.Model() as model:
        tau = pm.HalfNormal("tau")
        mu = pm.Normal("mu", 0, tau, shape=3)
        pm.Normal("y", mu, 1.0, observed=np.ones((5, 3)))
    with complaint(r"'tau' only appears in the prior of 'mu'.*latents=\['mu'\], or use estimator='map'") as caught:
        fit(model)
    assert isinstance(caught.value, mlem.UnsupportedModelError)


def test_parameter_that_nothing_uses():
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.Normal("spare")
        pm.Normal("y", mu, 1.0, observed=Y)
    with complaint("'spare' does not enter the likelihood"):
        fit(model)
    assert fit(model, "map").estimates["spare"].item() == pytest.approx(0, abs=1e-5)


def test_continuous_latents_are_refused_for_now(model):
    with complaint(re.escape("latents=['mu']: integrating out continuous variables is not implemented")):
        fit(model, latents=["mu"])


def test_bad_fixed_values(model):
    with complaint(r"fixed=\{'mu': ...\} has shape \(2,\), the variable \(\)"):
        fit(model, fixed={"mu": [1.0, 2.0]})
    with complaint("not finite"):
        fit(model, fixed={"mu": np.nan})


def test_bad_weights(model):
    with complaint(r"weights of shape \(3,\) fit no observed variable \('y': \(40,\)\)"):
        fit(model, weights=np.ones(3))
    with complaint("must be finite and not negative"):
        fit(model, weights=-np.ones(40))
    with complaint("weights: 'x' is not an observed variable; these are 'y'"):
        fit(model, weights={"x": np.ones(40)})


def test_weights_that_differ_within_a_unit():
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 1, shape=2)
        z = pm.Categorical("z", w, shape=2)
        pm.Normal("y", mu[z[np.array([0, 0, 1])]], 1.0, observed=np.zeros(3))
    with complaint("weights of 'y' differ between observations that share a latent"):
        fit(model, weights=np.array([1.0, 2.0, 1.0]))


def test_one_observation():
    """A single number has no standard deviation: the likelihood is unbounded, and that is said."""
    found = fit(normal_model(np.array([1.0])))
    assert not found.converged


def test_flat_direction_is_named(model):
    with pm.Model() as flat:
        a, b = pm.Normal("a"), pm.Normal("b")
        pm.Normal("y", a + b, 1.0, observed=Y)
    found = fit(flat)
    summary = found.summary()
    assert summary["se"].isna().all()
    assert (summary["note"] == "not identified: only a + b is identified").all()
    with pytest.raises(mlem.NotIdentifiedError, match=r"only a \+ b is identified"):
        normal_draws(found._estimate, 10, 0)


# --- total_size and data that change ----------------------------------------------------------------------

SAMPLE = np.random.default_rng(8).normal(size=12)


def two_means(**observed):
    with pm.Model() as model:
        data = pm.Data("data", SAMPLE)
        mu = pm.Normal("mu", 0, 2, shape=2, initval=[-1.0, 1.0])
        z = pm.Categorical("z", [0.4, 0.6], shape=data.shape[0])
        pm.Normal("y", mu[z], 0.7, observed=data, **observed)
    return model


def test_total_size_counts_whole_units():
    """With a latent, PyMC's factor belongs to the observation together with its latent."""
    plain = mlem.fit(two_means(), starts=1, progressbar=False)
    scaled = mlem.fit(two_means(total_size=120), starts=1, progressbar=False)
    assert scaled.log_likelihood == pytest.approx(10 * plain.log_likelihood, rel=1e-9)
    assert scaled.n_obs == 120
    np.testing.assert_allclose(scaled.estimates["mu"], plain.estimates["mu"], atol=1e-6)


def test_total_size_without_latents_is_pymcs():
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.Normal("y", mu, 1.0, observed=SAMPLE, total_size=36)
    fit = mlem.fit(model, progressbar=False)
    expected = model.compile_logp(vars=[model["y"]], jacobian=False)({"mu": fit.estimates["mu"].to_numpy()})
    assert fit.log_likelihood == pytest.approx(float(expected))


def test_a_latent_under_two_total_sizes_is_refused():
    with pm.Model() as model:
        z = pm.Categorical("z", [0.4, 0.6], shape=12)
        mu = pm.Normal("mu", shape=2, initval=[-1.0, 1.0])
        pm.Normal("y", mu[z], 1.0, observed=SAMPLE, total_size=36)
        pm.Normal("x", mu[z], 1.0, observed=SAMPLE)
    with pytest.raises(mlem.UnsupportedModelError, match="total_size"):
        mlem.fit(model, progressbar=False)


def test_minibatch_is_refused_by_name():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=pm.Minibatch(SAMPLE, batch_size=4), total_size=12)
    with pytest.raises(mlem.UnsupportedModelError, match=r"'y'.*pm\.Minibatch"):
        mlem.fit(model, progressbar=False)


def test_data_may_change_their_length_between_fits():
    model = two_means()
    first = mlem.fit(model, starts=1, progressbar=False)
    with model:
        pm.set_data({"data": SAMPLE[:7]})
    second = mlem.fit(model, starts=1, progressbar=False)
    assert (first.n_obs, second.n_obs) == (12, 7)
    assert second.latent_probabilities.sizes["z_dim_0"] == 7
    fresh = two_means()
    with fresh:
        pm.set_data({"data": SAMPLE[:7]})
    assert second.log_likelihood == pytest.approx(mlem.fit(fresh, starts=1, progressbar=False).log_likelihood)


# --- python loops -----------------------------------------------------------------------------------------


def loop_mixture():
    """One label and one observation a step."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 2, shape=2, initval=[-1.0, 1.0])
        for t in range(8):
            z = pm.Categorical(f"z_{t}", [0.4, 0.6])
            pm.Normal(f"y_{t}", mu[z], 0.7, observed=SAMPLE[t])
    return model


def test_variables_of_a_loop_keep_their_names():
    model = loop_mixture()
    fit = mlem.fit(model, starts=1, progressbar=False)
    assert list(fit.latent_probabilities) == [f"z_{t}" for t in range(8)]
    mu = fit.estimates["mu"].to_numpy()
    weight = np.array([0.4, 0.6]) * np.exp(-0.5 * ((SAMPLE[5] - mu) / 0.7) ** 2)
    np.testing.assert_allclose(fit.latent_probabilities["z_5"], weight / weight.sum(), atol=1e-8)


def test_weights_of_variables_of_a_loop():
    weighted = mlem.fit(loop_mixture(), weights={"y_2": 2.0, "y_5": 0.0}, starts=1, progressbar=False)
    with pm.Model() as same:
        mu = pm.Normal("mu", 0, 2, shape=2, initval=[-1.0, 1.0])
        z = pm.Categorical("z", [0.4, 0.6], shape=8)
        pm.Normal("y", mu[z], 0.7, observed=SAMPLE[[0, 1, 2, 2, 3, 4, 6, 7]])
    expected = mlem.fit(same, starts=1, progressbar=False)
    assert weighted.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(weighted.estimates["mu"], expected.estimates["mu"], atol=1e-6)


def test_an_autoregression_of_lag_one_is_a_regression_on_the_value_before():
    y = np.cumsum(np.random.default_rng(0).normal(size=60)) * 0.3
    with pm.Model() as model:
        rho, sigma = pm.Normal("rho", 0, 1), pm.HalfNormal("sigma", 1)
        pm.AR("y", rho=rho, sigma=sigma, init_dist=pm.Normal.dist(0, 10), ar_order=1, observed=y)
    fit = mlem.fit(model, progressbar=False)
    slope = y[:-1] @ y[1:] / (y[:-1] @ y[:-1])
    np.testing.assert_allclose(fit.estimates["rho"], slope, rtol=1e-7)
    np.testing.assert_allclose(fit.estimates["sigma"], np.sqrt(np.mean((y[1:] - slope * y[:-1]) ** 2)), rtol=1e-7)
