"""From a fit to posterior draws: coordinates, start and metric, latents, groups, what is refused."""

import logging
from itertools import pairwise

import arviz as az
import numpy as np
import pymc as pm
import pytest
import xarray as xr
from pymc.blocking import DictToArrayBijection
from pytensor.compile.mode import Mode
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import beta, norm

import pm_mlem as mlem
from pm_mlem.estimate.posterior_mode import posterior_mode
from pm_mlem.estimate.target import target_of
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.objective.log_posterior import LogPosterior
from pm_mlem.results.recovery import recover
from pm_mlem.sample import conditioned, in_order

pytestmark = pytest.mark.compiled

PLAIN = Mode("py", None)
FEW = {"tune": 10, "chains": 2, "cores": 1, "random_seed": 1, "progressbar": False, "compute_convergence_checks": False,
       "nuts_sampler": "pymc", "compile_kwargs": {"mode": PLAIN}}  # fmt: skip
"""A handful of draws of PyMC's NUTS, evaluated by plain Python."""
RNG = np.random.default_rng(4)
SCORES = np.concatenate([RNG.normal(-2, 1, 12), RNG.normal(2, 0.5, 12)])


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR, logger="pymc")


def mixture(scores=SCORES, **start):
    coords = {"kind": ["lo", "hi"], "person": [f"p{i:02d}" for i in range(len(scores))]}
    with pm.Model(coords=coords) as model:
        x = pm.Data("x", np.linspace(-1, 1, len(scores)), dims="person")
        w = pm.Dirichlet("w", [2.0, 2.0], dims="kind")
        mu = pm.Normal("mu", 0, 3, dims="kind", **(start or {"initval": [-2.0, 2.0]}))
        sigma = pm.HalfNormal("sigma", 2)
        slope = pm.Normal("slope")
        z = pm.Categorical("z", w, dims="person")
        pm.Deterministic("gap", mu[1] - mu[0])
        mean = pm.Deterministic("mean", mu[z] + slope * x, dims="person")
        pm.Normal("y", mean, sigma, observed=scores, dims="person")
    return model


@pytest.fixture(scope="module")
def fit():
    return mlem.fit(mixture(), random_seed=1, starts=1, progressbar=False)


@pytest.fixture(scope="module")
def tree(fit):
    logging.getLogger("pymc").setLevel(logging.ERROR)
    return mlem.sample(fit, 12, **FEW, idata_kwargs={"log_likelihood": True})


# --- coordinates ------------------------------------------------------------------------------------------


def every_transform():
    ordered = pm.distributions.transforms.ordered
    with pm.Model() as model:
        w = pm.Dirichlet("w", [1.0, 2.0, 1.5])
        tau = pm.HalfNormal("tau", 1)
        mu = pm.Normal("mu", 0, tau, shape=3, transform=ordered, initval=[-1.0, 0.0, 1.0])
        chol, _, _ = pm.LKJCholeskyCov("chol", n=2, eta=2, sd_dist=pm.HalfNormal.dist(1), compute_corr=True)
        high = pm.Uniform("high", -tau, 5.0)
        zero = pm.ZeroSumNormal("zero", shape=3)
        rate = pm.Beta("rate", 2, 3, shape=(2, 1))
        pm.NormalMixture("y", w, mu, 1.0, observed=SCORES)
        pairs = np.random.default_rng(1).normal(size=(6, 2))
        pm.MvNormal("pairs", pm.math.stack([high, zero[0] + rate[0, 0]]), chol=chol, observed=pairs)
        pm.Binomial("n", 5, rate, observed=[[2], [4]])
    return model


def value_point(model, space, u):
    """A flat vector of this package as a point of PyMC."""
    return {
        model.rvs_to_values[rv].name: u[space.slices[rv.name]].reshape(space.unconstrained_shapes[rv.name])
        for rv in model.free_RVs
    }


HELD = [
    (every_transform, {}),
    (every_transform, {"tau": 1.5}),
    (mixture, {"mu[lo]": -2.0}),
    (mixture, {"sigma": 0.8, "mu": [-2.0, 2.0]}),
]


@pytest.mark.parametrize(("build", "fixed"), HELD)
def test_log_posterior_and_coordinates_are_those_of_pymc(build, fixed):
    """Simplex, ordered, Cholesky, interval with an estimated bound, zero sum; up to the density of what is held."""
    original = build()
    target = target_of(original, "map", Choices(fixed=fixed or {}))
    objective, model = target.objective, conditioned(target)
    density, space = objective.jit_once(LogPosterior(objective)), objective.space
    logp = model.compile_logp(mode=PLAIN)
    rng, differences = np.random.default_rng(2), []
    assert {v.name for v in model.free_RVs} == set(space.names)
    for _ in range(3):
        u = space.initial + 0.3 * rng.normal(size=space.size)
        differences.append(float(logp(value_point(model, space, u))) - float(density(u, target.data)))
    assert np.ptp(differences) < 1e-7
    assert fixed or abs(differences[0]) < 1e-7


def test_a_held_probability_keeps_the_jacobian_of_the_others():
    """Numerical derivative of the free entries but the last against the transform's own determinant."""
    from pm_mlem.graph.roles.held import HeldSimplex

    transform = HeldSimplex(np.array([[0.3, np.nan, np.nan, np.nan], [np.nan] * 4, [0.1, 0.2, 0.3, 0.4]]))
    u, step = np.random.default_rng(0).normal(size=5), 1e-6

    def free(v):
        return transform.backward(v).eval(mode=PLAIN)[transform.free & ~transform.last]

    columns = [(free(u + step * e) - free(u - step * e)) / (2 * step) for e in np.eye(5)]
    expected = np.linalg.slogdet(np.stack(columns, axis=1))[1]
    assert transform.log_jac_det(u).eval(mode=PLAIN).sum() == pytest.approx(expected, abs=1e-6)


def test_the_metric_is_the_inverse_curvature_in_the_order_of_pymc(fit):
    estimate = fit._estimate
    model = conditioned(estimate.target)
    mean, covariance = in_order(estimate, model, estimate.kept(posterior_mode).normal)
    start = model.initial_point()
    flat = DictToArrayBijection.map({v.name: start[v.name] for v in model.continuous_value_vars})
    gradient = model.compile_dlogp(mode=PLAIN)

    def slope(u):
        return gradient(DictToArrayBijection.rmap(flat._replace(data=u), start))

    assert np.max(np.abs(slope(mean))) < 1e-6  # the mode
    step = 1e-5
    hessian = np.stack([(slope(mean + step * e) - slope(mean - step * e)) / (2 * step) for e in np.eye(len(mean))])
    np.testing.assert_allclose(-hessian @ covariance, np.eye(len(mean)), atol=1e-4)


# --- latents ----------------------------------------------------------------------------------------------


def chain(emissions):
    n = len(emissions)
    with pm.Model() as model:
        stay = pm.Beta("stay", 2, 2, shape=2)
        mu = pm.Normal("mu", 0, 2, shape=2, initval=[-1.0, 1.0])
        P = pm.math.stack([pm.math.stack([stay[0], 1 - stay[0]]), pm.math.stack([1 - stay[1], stay[1]])])
        states = [pm.Categorical("s0", [0.5, 0.5])]
        for t in range(1, n):
            states.append(pm.Categorical(f"s{t}", P[states[-1]]))
        for t in range(n):
            pm.Normal(f"y{t}", mu[states[t]], 1.0, observed=emissions[t])
    return model


def test_drawn_configurations_of_a_chain_have_their_exact_probabilities():
    """All 16 configurations of a hidden Markov model by enumeration, at two points by turns."""
    model = chain([-0.6, 0.3, 0.9, -0.2])
    fit = mlem.fit(model, "map", starts=1, progressbar=False)
    points = [{"stay": [0.8, 0.6], "mu": [-1.0, 1.2]}, {"stay": [0.3, 0.9], "mu": [0.2, 0.8]}]
    n = 6000
    draws = {name: np.array([points[i % 2][name] for i in range(n)]) for name in ("stay", "mu")}
    found = recover(fit._estimate, draws, seed=3, pointwise=True)
    averaged = 0.0
    for i, point in enumerate(points):
        values = {k: np.array(v) for k, v in point.items()}
        drawn = np.stack([found.states[f"s{t}"][i::2] for t in range(4)], axis=1)
        shares = np.bincount(drawn @ [8, 4, 2, 1], minlength=16) / len(drawn)
        joint = np.array([exact_joint(values, s, [-0.6, 0.3, 0.9, -0.2]) for s in np.ndindex(2, 2, 2, 2)])
        expected = np.exp(joint - logsumexp(joint))
        np.testing.assert_allclose(found.units.sum(axis=1)[i::2], logsumexp(joint), atol=1e-9)
        error = np.sqrt(expected * (1 - expected) / len(drawn))
        assert np.all(np.abs(shares - expected) < 4.5 * error + 1e-12)
        averaged = averaged + 0.5 * expected.reshape(2, 2, 2, 2).sum(axis=(0, 1, 3))
    np.testing.assert_allclose(found.probabilities["s2"], averaged, atol=1e-9)


def exact_joint(values, states, emissions):
    stay, mu = values["stay"], values["mu"]
    total = np.log(0.5) + sum(norm.logpdf(y, mu[s]) for y, s in zip(emissions, states, strict=True))
    return total + sum(np.log(stay[a] if a == b else 1 - stay[a]) for a, b in pairwise(states))


@pytest.mark.slow
def test_posterior_means_are_those_of_quadrature():
    """One share of a mixture with known components: its posterior is a one-dimensional integral. By nutpie."""
    y = np.array([-1.2, -0.4, 0.3, 0.9, 1.5, 2.2, 1.1, -0.8])
    with pm.Model() as model:
        p = pm.Beta("p", 2, 1)
        z = pm.Bernoulli("z", p, shape=len(y))
        pm.Normal("y", 2.0 * z - 0.5, 1.0, observed=y)
    tree = mlem.sample(mlem.fit(model, progressbar=False), 1000, tune=300, chains=2, cores=1, random_seed=2,
                       progressbar=False, nuts_sampler="nutpie")  # fmt: skip
    lows, highs = norm.pdf(y, -0.5), norm.pdf(y, 1.5)

    def density(v):
        return beta.pdf(v, 2, 1) * np.prod(v * highs + (1 - v) * lows)

    total = quad(density, 0, 1)[0]
    mean = quad(lambda v: v * density(v), 0, 1)[0] / total
    first = quad(lambda v: density(v) * v * highs[0] / (v * highs[0] + (1 - v) * lows[0]), 0, 1)[0] / total
    posterior = tree["posterior"]
    mcse = float(az.mcse(posterior["p"]))
    assert abs(float(posterior["p"].mean()) - mean) < 4 * mcse
    averaged = tree["latent_posterior"]["z"].values[0]
    assert averaged.sum() == pytest.approx(1.0)
    assert averaged[1] == pytest.approx(first, abs=4 * mcse)
    assert float(posterior["z"][..., 0].mean()) == pytest.approx(first, abs=4 * float(az.mcse(posterior["z"][..., 0])))
    assert posterior.attrs["inference_library"] == "nutpie"


# --- what is returned -------------------------------------------------------------------------------------


def test_names_dims_and_coords_are_those_of_the_model(fit, tree):
    posterior, model = tree["posterior"], fit.model
    assert list(posterior.data_vars) == ["w", "mu", "sigma", "slope", "z", "gap", "mean"]
    assert posterior["z"].dims == ("chain", "draw", "person") and posterior["z"].dtype == np.int64
    assert list(posterior["person"].values) == list(model.coords["person"])
    assert list(tree["observed_data"].data_vars) == ["y"] and list(tree["constant_data"].data_vars) == ["x"]
    np.testing.assert_array_equal(tree["observed_data"]["y"], SCORES)
    assert tree["latent_posterior"]["z"].dims == ("person", "z_state")
    assert list(tree["latent_posterior"]["z_state"].values) == ["lo", "hi"]
    assert set(tree.children) == {
        "posterior", "sample_stats", "observed_data", "constant_data", "latent_posterior", "log_likelihood"
    }  # fmt: skip
    assert "mode near the fit" in posterior.attrs["start"] and "left_out" not in posterior.attrs
    mlem.compare({"fit": fit, "NUTS": tree}, var_names=["mu", "sigma", "gap"])


def test_deterministics_are_evaluated_at_the_drawn_latents(tree):
    posterior = tree["posterior"].to_dataset()
    x = tree["constant_data"]["x"]
    expected = posterior["mu"].isel(kind=posterior["z"]) + posterior["slope"] * x
    np.testing.assert_allclose(posterior["mean"], expected.transpose(*posterior["mean"].dims), atol=1e-12)


def test_log_likelihoods_are_those_of_the_marginal_model(fit, tree):
    expected = pm.compute_log_likelihood(
        tree, model=mlem.marginalize(fit.model), compile_kwargs={"mode": PLAIN}, progressbar=False,
        extend_inferencedata=False,
    )  # fmt: skip
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "person")
    np.testing.assert_allclose(tree["log_likelihood"]["y"], expected["y"], atol=1e-9)


def test_the_same_seed_gives_the_same_draws_and_chains_start_apart(fit, tree):
    again = mlem.sample(fit, 12, **FEW, var_names=["mu", "z"])
    assert list(again["posterior"].data_vars) == ["mu", "z"]
    for name in ("mu", "z"):
        np.testing.assert_array_equal(again["posterior"][name], tree["posterior"][name])
    assert not np.array_equal(tree["posterior"]["mu"][0, 0], tree["posterior"]["mu"][1, 0])


def test_latents_can_be_left_out(fit):
    tree = mlem.sample(fit, 5, **FEW, recover=False)
    assert list(tree["posterior"].data_vars) == ["w", "mu", "sigma", "slope", "gap"]
    assert "latent_posterior" not in tree.children
    assert tree["posterior"].attrs["left_out"] == "z, mean"


def test_initial_values_of_the_user_take_the_place_of_the_fit(fit):
    start = {"w": [0.5, 0.5], "mu": [-1.0, 1.0], "sigma": 1.0, "slope": 0.0}
    tree = mlem.sample(fit, 5, **FEW, recover=False, initvals=start)
    assert "start" not in tree["posterior"].attrs


@pytest.mark.slow
def test_what_is_held_is_conditioned_on():
    fit = mlem.fit(mixture(), fixed={"sigma": 0.8, "mu[lo]": -2.0}, starts=1, progressbar=False)
    tree = mlem.sample(fit, 8, **FEW)
    posterior = tree["posterior"]
    assert "sigma" not in posterior and posterior.attrs["fixed"] == "sigma"
    assert float(tree["constant_data"]["sigma"]) == 0.8
    assert np.all(posterior["mu"].sel(kind="lo") == -2.0) and np.ptp(posterior["mu"].sel(kind="hi").values) > 0
    assert list(tree["observed_data"].data_vars) == ["y"]


@pytest.mark.filterwarnings("ignore::pymc.exceptions.ImputationWarning")
def test_missing_data_are_drawn():
    hidden = np.ma.masked_array(SCORES, mask=np.arange(24) % 6 == 0)
    with pm.Model() as model:
        w = pm.Dirichlet("w", [2.0, 2.0])
        mu = pm.Normal("mu", 0, 3, shape=2, initval=[-2.0, 2.0])
        known = np.ma.masked_array(np.repeat([0, 1], 12), mask=np.arange(24) % 3 > 0)
        z = pm.Categorical("z", w, observed=known)
        pm.Normal("y", mu[z], 0.01, observed=hidden)
    fit = mlem.fit(model, starts=[{"mu": [-2.0, 2.0]}], progressbar=False)
    posterior = mlem.sample(fit, 6, **FEW)["posterior"]
    labels = posterior["z"].values
    assert np.all(labels[..., ~known.mask] == known.compressed())
    drawn = posterior["y"].values[..., hidden.mask]
    expected = np.take_along_axis(posterior["mu"].values, labels[..., hidden.mask], axis=-1)
    assert np.all(np.abs(drawn - expected) < 0.05) and np.ptp(drawn - expected) > 0.001
    np.testing.assert_array_equal(posterior["y_unobserved"], drawn)
    assert len(np.unique((drawn - expected).ravel())) == drawn.size  # new noise in every draw


def test_a_model_without_latents_is_sampled_itself():
    with pm.Model() as model:
        b = pm.Normal("b", 0, 1, initval=0.3)
        pm.Deterministic("double", 2 * b)
        pm.Normal("y", b, pm.HalfNormal("s", initval=2.0), observed=[0.1, 0.5, 0.2])
    tree = mlem.sample(mlem.fit(model, progressbar=False), 8, **FEW)
    assert list(tree["posterior"].data_vars) == ["b", "s", "double"]
    assert set(tree.children) == {"posterior", "sample_stats", "observed_data"}


def test_counts_that_reach_their_bound_are_announced():
    from pm_mlem.results.recovery import cut_off

    with pm.Model() as model:
        lam = pm.Gamma("lam", 2, 0.5)
        N = pm.Poisson("N", lam, shape=3)
        pm.Binomial("seen", N, 0.5, observed=[2, 1, 3])
    fit = mlem.fit(model, progressbar=False)
    assert cut_off(fit._estimate, recover(fit._estimate, {"lam": np.array([4.0, 5.0])}, 0)) == ""
    assert "'N'" in cut_off(fit._estimate, recover(fit._estimate, {"lam": np.array([200.0])}, 0))


# --- starts that are no mode, and what is refused ---------------------------------------------------------


def test_a_posterior_without_a_mode_is_sampled_from_the_fit_and_said_so():
    with pm.Model() as model:
        b = pm.Flat("b", shape=2, initval=[0.1, 0.2])
        pm.Normal("y", b.sum(), 1, observed=[1.0, 2.0])
    fit = mlem.fit(model, progressbar=False)
    with pytest.warns(UserWarning, match=r"around the fit: the posterior density is flat in 1 direction"):
        tree = mlem.sample(fit, 3, **FEW)
    assert tree["posterior"].attrs["start"].startswith("around the fit")


def test_a_degenerate_fit_starts_at_the_initial_point_of_the_model():
    from pm_mlem.estimate.posterior_mode import inside

    with pm.Model() as model:
        pm.Normal("y", 0, pm.HalfNormal("s"), observed=[0.0, 0.0])
        pm.Bernoulli("won", pm.Beta("p", 1, 1), observed=[1, 1, 1])
    fit = mlem.fit(model, progressbar=False)
    space = fit._estimate.target.engine.objective.space
    assert abs(fit._estimate.optimum.point[space.slices["p"]][0]) > 1
    np.testing.assert_allclose(inside(fit._estimate)[space.slices["p"]], space.initial[space.slices["p"]], atol=1e-6)


def test_refusals(fit):
    with pytest.raises(TypeError, match="must be what mlem.fit returns"):
        mlem.sample(fit.model)
    for name in ("model", "step", "trace"):
        with pytest.raises(ValueError, match=f"{name}= does not belong to mlem.sample"):
            mlem.sample(fit, **{name: None})
    with pytest.raises(ValueError, match="return_inferencedata= does not belong"):
        mlem.sample(fit, return_inferencedata=False)
    with pytest.raises(ValueError, match="'sigme'.*Did you mean 'sigma'"):
        mlem.sample(fit, var_names=["sigme"])
    weighted = mlem.fit(fit.model, weights=np.r_[2.0, np.ones(23)], starts=1, progressbar=False)
    with pytest.raises(ValueError, match="weights=, and a posterior has none"):
        mlem.sample(weighted)
    with pytest.raises(ValueError, match="weights=, and a posterior has none"):
        weighted.laplace()


@pytest.mark.slow
def test_data_that_were_replaced_do_not_matter():
    model = mixture()
    fit = mlem.fit(model, starts=1, progressbar=False)
    tree = mlem.sample(fit, 8, **FEW)
    pm.set_data({"x": np.zeros(24)}, model=model)
    again = mlem.sample(fit, 8, **FEW)
    xr.testing.assert_allclose(again["posterior"].to_dataset(), tree["posterior"].to_dataset())
    np.testing.assert_array_equal(model["x"].get_value(), 0)


# --- studies ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_mixture_agrees_with_gibbs_steps_of_the_whole_model():
    """PyMC alternates NUTS and Gibbs on the unmarginalized model; means agree within Monte Carlo error."""
    fit = mlem.fit(mixture(), random_seed=1, progressbar=False)
    options = {"tune": 500, "chains": 2, "cores": 1, "random_seed": 5, "progressbar": False}
    options["compute_convergence_checks"] = False  # of PyMC: labels that never change have none
    mine = mlem.sample(fit, 4000, **options)["posterior"].to_dataset()
    start = {name: fit.estimates[name].values for name in ("w", "mu", "sigma", "slope")}
    with mixture():
        theirs = pm.sample(4000, initvals=start, **options)["posterior"].to_dataset()
    for name in ("w", "mu", "sigma", "slope"):
        error = np.hypot(az.mcse(mine[[name]])[name], az.mcse(theirs[[name]])[name])
        dims = ["chain", "draw"]
        assert np.all(np.abs(mine[name].mean(dims) - theirs[name].mean(dims)) < 4.5 * error), name
    shares = mine["z"].mean(["chain", "draw"]) - theirs["z"].mean(["chain", "draw"])
    assert np.max(np.abs(shares)) < 0.06


@pytest.mark.slow
def test_a_chain_agrees_with_gibbs_steps_of_the_whole_model():
    model = chain(np.random.default_rng(2).normal(np.repeat([-1.0, 1.0], 4), 1.0))
    fit = mlem.fit(model, "map", random_seed=1, progressbar=False)
    options = {
        "tune": 500,
        "chains": 2,
        "cores": 1,
        "random_seed": 5,
        "progressbar": False,
        "compute_convergence_checks": False,
    }
    mine = mlem.sample(fit, 1000, **options)["posterior"].to_dataset()
    start = {name: fit.estimates[name].values for name in ("stay", "mu")}
    with model:
        theirs = pm.sample(2000, initvals=start, **options)["posterior"].to_dataset()
    dims = ["chain", "draw"]
    for name in ("stay", "mu", "s3", "s6"):
        error = np.hypot(az.mcse(mine[[name]])[name], az.mcse(theirs[[name]])[name])
        assert np.all(np.abs(mine[name].mean(dims) - theirs[name].mean(dims)) < 4.5 * error), name
