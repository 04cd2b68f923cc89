"""Built-in mixtures: their hidden component is a latent like any other, and the likelihood stays PyMC's own."""

import warnings
from functools import cache

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pymc.distributions.distribution import PartialObservedRV
from pytensor import function
from pytensor.compile.mode import Mode
from pytensor.graph.replace import clone_replace
from scipy.special import logsumexp

import pm_mlem as mlem
from brute_force import enumerate_latents
from in_one_piece import evaluated
from pm_mlem.objective.engine import engine_for

pytestmark = pytest.mark.compiled

N = 6
RNG = np.random.default_rng(8)
Y = np.array([-1.3, 0.2, 2.1, 1.7, -0.4, 3.0])
COUNTS = np.array([0, 3, 0, 1, 6, 2])
AMOUNTS = np.array([0.0, 1.2, 0.0, 0.4, 2.5, 0.9])
X = np.linspace(-1, 1, N)
POINTS = RNG.normal(size=(N, 2))
BINARY = np.array([0, 1, 1, 0, 1, 0])

MIXTURES = {}


def mixture(function):
    """Builders run inside a model context and return the latents that are written out, with shapes and states."""
    MIXTURES[function.__name__] = function
    return function


def weights(k=2, shape=None):
    return pm.Dirichlet("w", np.arange(2.0, 2.0 + k), shape=shape)


def means(k=2, name="mu"):
    return pm.Normal(name, 0, 2, shape=k, initval=np.linspace(-1, 1, k))


def positive(k=2, name="sd"):
    return pm.Gamma(name, 2, 2, shape=k, initval=np.linspace(0.6, 1.4, k))


def proportion(name="psi", **options):
    return pm.Beta(name, 2, 2, initval=0.6, **options)


@mixture
def normal_mixture():
    pm.NormalMixture("y", weights(3), means(3), positive(3), observed=Y)


@mixture
def normal_mixture_common_sd():
    pm.NormalMixture("y", weights(), means(), pm.HalfNormal("sd"), observed=Y)


@mixture
def list_of_components():
    mu, sd = means(), positive()
    pm.Mixture(
        "y", weights(), [pm.Normal.dist(mu[0], sd[0]), pm.StudentT.dist(nu=4, mu=mu[1], sigma=sd[1])], observed=Y
    )


@mixture
def batch_with_regression():
    slope = pm.Normal("slope", 0, 1, shape=2)
    pm.NormalMixture("y", weights(), means() + slope * X[:, None], positive(), observed=Y)


@mixture
def list_with_regression():
    a, b = means(), pm.Normal("b")
    pm.Mixture("y", weights(), [pm.Normal.dist(a[k] + b * X, 1.0) for k in range(2)], observed=Y)


@mixture
def poisson_batch():
    pm.Mixture("y", weights(), pm.Poisson.dist(positive(), shape=2), observed=COUNTS)


@mixture
def weights_by_row():
    pm.NormalMixture("y", weights(shape=(N, 2)), means(), 1.0, observed=Y)


@mixture
def weights_by_regression():
    a, b = pm.Normal("a"), pm.Normal("b")
    p = pm.math.invlogit(a + b * X)
    pm.NormalMixture("y", pt.stack([1 - p, p], axis=-1), means(), 1.0, observed=Y)


@mixture
def stacked_weights():
    p = proportion()
    pm.NormalMixture("y", pt.stack([p, 1 - p]), means(), positive(), observed=Y)


@mixture
def constant_weights():
    pm.NormalMixture("y", [0.3, 0.7], means(), 1.0, observed=Y)


@mixture
def matrix_of_observations():
    pm.NormalMixture("y", weights(), means(), positive(), observed=Y.reshape(3, 2))


@mixture
def components_by_column():
    mu = pm.Normal("mu", 0, 2, shape=(2, 2), initval=[[-1.0, 1.0], [0.0, 2.0]])
    pm.NormalMixture("y", weights(), mu, 1.0, observed=Y.reshape(3, 2))


@mixture
def one_observation():
    pm.NormalMixture("y", weights(), means(), 1.0, observed=0.7)


@mixture
def several_mixtures():
    w, mu = weights(), means()
    pm.NormalMixture("y", w, mu, 1.0, observed=Y)
    pm.Mixture("c", w, pm.Poisson.dist(pt.exp(mu), shape=2), observed=COUNTS)


@mixture
def zero_inflated_poisson():
    pm.ZeroInflatedPoisson("y", proportion(), pm.Gamma("rate", 2, 1), observed=COUNTS)


@mixture
def zero_inflated_poisson_regression():
    a, b = means(name="a"), means(name="b")
    pm.ZeroInflatedPoisson("y", pm.math.invlogit(a[0] + a[1] * X), pt.exp(b[0] + b[1] * X), observed=COUNTS)


@mixture
def zero_inflated_binomial():
    pm.ZeroInflatedBinomial("y", proportion(), 8, proportion("p"), observed=COUNTS)


@mixture
def zero_inflated_negative_binomial():
    pm.ZeroInflatedNegativeBinomial(
        "y", proportion(), mu=pm.Gamma("rate", 2, 1), alpha=pm.Gamma("alpha", 2, 1), observed=COUNTS
    )


@mixture
def zero_inflated_by_hand():
    p, rate = proportion(), pm.Gamma("rate", 2, 1)
    pm.Mixture("y", pt.stack([p, 1 - p]), [pm.DiracDelta.dist(0), pm.Poisson.dist(rate)], observed=COUNTS)


@mixture
def hurdle_poisson():
    pm.HurdlePoisson("y", proportion(), pm.Gamma("rate", 2, 1), observed=COUNTS)


@mixture
def hurdle_negative_binomial():
    rate = pt.exp(pm.Normal("a") + pm.Normal("b") * X)
    pm.HurdleNegativeBinomial("y", proportion(), mu=rate, alpha=pm.Gamma("alpha", 2, 1), observed=COUNTS)


@mixture
def hurdle_gamma():
    """A shape below one: the density of the amounts is infinite at zero, where it does not count."""
    shape, rate = pm.Gamma("shape", 2, 2, initval=0.5), pm.Gamma("rate", 2, 1)
    pm.HurdleGamma("y", proportion(), shape, rate, observed=AMOUNTS)


@mixture
def hurdle_lognormal():
    pm.HurdleLogNormal("y", proportion(), pm.Normal("mu"), pm.HalfNormal("sd"), observed=AMOUNTS)


@mixture
def multivariate_list():
    mu = pm.Normal("mu", 0, 2, shape=(2, 2))
    sd = positive()
    components = [pm.MvNormal.dist(mu[k], cov=sd[k] ** 2 * np.array([[1.0, 0.3], [0.3, 2.0]])) for k in range(2)]
    pm.Mixture("y", weights(), components, observed=POINTS)


@mixture
def multivariate_batch():
    mu = pm.Normal("mu", 0, 2, shape=(2, 2))
    cov = positive()[:, None, None] * np.array([[1.0, 0.3], [0.3, 2.0]])
    pm.Mixture("y", weights(), pm.MvNormal.dist(mu, cov=cov), observed=POINTS)


@mixture
def dirichlet_batch():
    a = pm.Gamma("a", 2, 1, shape=(2, 3), initval=np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 1.0]]))
    y = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4]])
    pm.Mixture("y", weights(), pm.Dirichlet.dist(a), observed=y)


@mixture
def batch_of_censored():
    mu = means()
    components = pm.Censored.dist(pm.Normal.dist(mu, 1.0, shape=(N, 2)), lower=-1.0, upper=None)
    pm.Mixture("y", weights(), components, observed=np.maximum(Y, -1.0))


@mixture
def list_of_truncated():
    mu = means()
    components = [pm.Truncated.dist(pm.Normal.dist(mu[k], 1.0), lower=-2.0) for k in range(2)]
    pm.Mixture("y", weights(), components, observed=Y)


@mixture
def mixture_of_mixtures():
    inner = pm.NormalMixture.dist(pm.Dirichlet("v", np.ones(2)), means(), 1.0)
    pm.Mixture("y", weights(), [inner, pm.Normal.dist(0, 2.0)], observed=Y)


@mixture
def means_of_another_latent():
    u = pm.Bernoulli("u", proportion("p"), shape=N)
    shift = means(name="shift")
    pm.NormalMixture("y", weights(), means() + shift[u][:, None], 1.0, observed=Y)
    return {"u": ((N,), [0, 1])}


@mixture
def one_component_of_another_latent():
    """The batch reads the other latent at one component only."""
    u = pm.Bernoulli("u", proportion("p"), shape=N)
    mu, shift = means(), means(name="shift")
    pm.NormalMixture("y", weights(), pt.stack([shift[u], pt.zeros(N) + mu[0]], axis=-1), 1.0, observed=Y)
    return {"u": ((N,), [0, 1])}


@mixture
def list_with_another_latent():
    u = pm.Bernoulli("u", proportion("p"), shape=3)
    shift = means(name="shift")
    group = np.array([0, 0, 1, 1, 2, 2])
    pm.Mixture("y", weights(), [pm.Normal.dist(shift[u][group], 1.0), pm.Normal.dist(0, 2.0)], observed=Y)
    return {"u": ((3,), [0, 1])}


@mixture
def weights_of_another_latent():
    u = pm.Categorical("u", weights(), shape=3)
    p = pm.Dirichlet("p", np.ones(2), shape=(2, 2), initval=np.array([[0.2, 0.8], [0.7, 0.3]]))
    pm.NormalMixture("y", p[u], means(), 1.0, observed=Y[:3])
    return {"u": ((3,), [0, 1])}


@mixture
def missing_values():
    pm.NormalMixture("y", weights(), means(), positive(), observed=np.ma.masked_array(Y, mask=BINARY == 1))


@mixture
def missing_counts():
    pm.ZeroInflatedPoisson(
        "y", proportion(), pm.Gamma("rate", 2, 1), observed=np.ma.masked_array(COUNTS, mask=BINARY == 1)
    )


@mixture
def observed_component_name():
    """The name is taken: the mixture keeps its own density."""
    mu = means()
    pm.Deterministic("y_component", mu[0])
    pm.NormalMixture("y", weights(), mu, 1.0, observed=Y)


@mixture
def censored_mixture():
    pm.Censored(
        "y", pm.NormalMixture.dist([0.4, 0.6], means(), 1.0), lower=-1.0, upper=None, observed=np.maximum(Y, -1)
    )


KEEP_THEIR_DENSITY = {"observed_component_name", "censored_mixture"}
# PyMC evaluates the bounds of these in single precision
SINGLE = {"batch_of_censored", "list_of_truncated", "censored_mixture"}


@cache
def build(name):
    """One model, and so one engine, for all tests of a mixture."""
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC announces imputation
        domains = MIXTURES[name]() or {}
    return model, domains


def parts(mixture, value):
    """``log w[k] + log p_k(value)`` through PyMC, components last."""
    op, (_, w, *components) = mixture.op, mixture.inputs
    if len(components) == 1:
        return pt.log(w) + pm.logp(components[0], pt.expand_dims(value, -op.ndim_supp - 1))
    densities = [pm.logp(c, value) for c in components]
    if type(op).__name__ == "_HurdleRV":
        densities = [pt.switch(pt.eq(value, 0), 0, -np.inf), pt.switch(pt.eq(value, 0), -np.inf, densities[1])]
    return pt.log(w) + pt.stack(densities, axis=-1)


def joint_densities(model, name, values):
    """``parts`` at the observations of a model without other latents; missing ones are filled up."""
    rv = next(rv for rv in model.observed_RVs if rv.name in (name, f"{name}_observed"))
    data = model.rvs_to_values[rv].data
    if isinstance(rv.owner.op, PartialObservedRV):
        rv, mask = rv.owner.inputs
        filled = np.full(mask.data.shape, data[0])
        filled[~mask.data] = data
        data = filled
    known = {v: pt.constant(values[v.name], dtype="float64") for v in model.free_RVs if v.name in values}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [rv] = clone_replace([rv], known, rebuild_strict=False)
        table = parts(rv.owner, pt.constant(data))
    with np.errstate(all="ignore"):
        return function([], table, mode=Mode("py", None), on_unused_input="ignore")()


def point(objective, scale=0.1):
    rng = np.random.default_rng(1)
    return objective.space.initial + scale * rng.normal(size=objective.space.size), rng


PYMC_REFUSES = {"batch_of_censored"}  # in a model; pm.logp of the component works


@pytest.mark.parametrize("name", sorted(set(MIXTURES) - PYMC_REFUSES))
def test_likelihood_is_that_of_pymc(name):
    model, domains = build(name)
    engine = engine_for(model, "mle")
    objective = engine.objective
    u, rng = point(objective)
    tolerance = 1e-6 if name in SINGLE else 1e-8

    expected = enumerate_latents(model, domains, objective.space.values(u))
    found = evaluated(engine, u)
    assert found.value == pytest.approx(expected.log_likelihood, abs=tolerance)
    direction, step = rng.normal(size=len(u)), 1e-4
    ends = [
        enumerate_latents(model, domains, objective.space.values(u + s * step * direction)).log_likelihood
        for s in (1, -1)
    ]
    assert found.gradient @ direction == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-6)
    for latent, probabilities in expected.probabilities.items():
        np.testing.assert_allclose(np.moveaxis(found.latents[latent], 0, -1), probabilities, atol=tolerance)


@pytest.mark.parametrize("name", MIXTURES)
def test_component_is_a_latent(name):
    model, domains = build(name)
    engine = engine_for(model, "mle")
    u, _ = point(engine.objective)
    structure = engine.objective.tables.structure
    hidden = {item.name: item for item in structure.latents if item.mixture is not None}
    if name in KEEP_THEIR_DENSITY:
        assert not hidden
        return
    assert hidden
    if domains:
        return  # posteriors with other latents are compared by likelihood and gradient above
    found = dict(zip(engine.readout.latent_names, engine.readout.evaluate(u, engine.data)[1], strict=True))
    total = 0.0
    for item in hidden.values():
        got = np.moveaxis(np.asarray(found[item.name]), 0, -1)
        assert got.shape == (*item.shape, item.states)
        joint = joint_densities(model, item.name.removesuffix("_component"), engine.objective.space.values(u))
        want = np.exp(joint - logsumexp(joint, axis=-1, keepdims=True))
        if name.startswith("missing"):  # without an observation the weights stay as they are
            seen = BINARY == 0
            assert np.ptp(got[~seen], axis=0).max() == 0
            got, want, joint = got[seen], want[seen], joint[seen]
        np.testing.assert_allclose(got, want, atol=1e-6 if name in SINGLE else 1e-9)
        total += logsumexp(joint, axis=-1).sum()
    unit = np.ones(engine.objective.n_units)
    value = float(engine.objective.value_and_gradient(u, unit, engine.data)[0])
    assert value == pytest.approx(total, abs=1e-6 if name in SINGLE else 1e-8)


# --- fits -------------------------------------------------------------------------------------------------

ROWS = 120
COVARIATE = RNG.normal(size=ROWS)
LOW = RNG.random(ROWS) < 0.4
WAITS = np.where(LOW, RNG.normal(-2, 0.8, ROWS), RNG.normal(2, 1.2, ROWS))
VISITS = np.where(LOW, 0, RNG.poisson(3.0, ROWS))
OVERDISPERSED = np.where(LOW, 0, RNG.negative_binomial(2, 0.3, ROWS))
HEADS = np.where(LOW, 0, RNG.binomial(9, 0.4, ROWS))
SPENT = np.where(LOW, 0.0, RNG.lognormal(0.5, 0.7, ROWS))
FITS = {}


def fitted(function):
    """Builders that return the parameters with a closed-form update under maximum likelihood, and under MAP."""
    FITS[function.__name__] = function
    return function


@fitted
def normal_components():
    w = pm.Dirichlet("w", [2.0, 2.0])
    mu, sd = pm.Normal("mu", 0, 5, shape=2, initval=[-2.0, 2.0]), pm.HalfNormal("sd", 3, shape=2)
    pm.Mixture("y", w, [pm.Normal.dist(mu[k], sd[k]) for k in range(2)], observed=WAITS)
    return {"w", "mu", "sd"}, {"w", "mu", "sd"}


@fitted
def weights_from_one_proportion():
    p = pm.Beta("p", 2, 3)
    mu, sd = pm.Normal("mu", 0, 5, shape=2, initval=[-2.0, 2.0]), pm.HalfNormal("sd", 3)
    pm.NormalMixture("y", pt.stack([p, 1 - p]), mu, sd, observed=WAITS)
    return {"p", "mu", "sd"}, {"p", "mu", "sd"}


@fitted
def written_out_with_one_proportion():
    p = pm.Uniform("p", 0, 1)
    mu, sd = pm.Normal("mu", 0, 5, shape=2, initval=[-2.0, 2.0]), pm.HalfNormal("sd", 3)
    z = pm.Categorical("z", pt.stack([p, 1 - p]), shape=ROWS)
    pm.Normal("y", mu[z], sd, observed=WAITS)
    return {"p", "mu", "sd"}, {"p", "mu", "sd"}


@fitted
def bounded_proportion():
    """A proportion that cannot take every value has no closed form."""
    p = pm.Uniform("p", 0.05, 0.95)
    pm.NormalMixture("y", pt.stack([p, 1 - p]), [-2.0, 2.0], 1.0, observed=WAITS)
    return set(), set()


@fitted
def zip_with_two_proportions():
    psi = pm.Beta("psi", 2, 2, shape=2)
    pm.ZeroInflatedPoisson("y", psi[(COVARIATE > 0).astype(int)], pm.Gamma("rate", 2, 1), observed=VISITS)
    return {"psi", "rate"}, {"psi", "rate"}


@fitted
def zip_regression():
    beta = pm.Normal("beta", 0, 2, shape=2)
    pm.ZeroInflatedPoisson("y", pm.Beta("psi", 2, 2), pt.exp(beta[0] + beta[1] * COVARIATE), observed=VISITS)
    return {"psi"}, {"psi"}


@fitted
def zib():
    pm.ZeroInflatedBinomial("y", pm.Beta("psi", 2, 2), 9, pm.Beta("p", 2, 3), observed=HEADS)
    return {"psi", "p"}, {"psi", "p"}


@fitted
def zinb():
    rate, alpha = pm.Gamma("rate", 2, 1), pm.Gamma("alpha", 2, 0.5)
    pm.ZeroInflatedNegativeBinomial("y", pm.Beta("psi", 2, 2), mu=rate, alpha=alpha, observed=OVERDISPERSED)
    return {"psi"}, {"psi"}


@fitted
def hurdle_counts():
    pm.HurdlePoisson("y", pm.Beta("psi", 2, 2), pm.Gamma("rate", 2, 1), observed=VISITS)
    return {"psi"}, {"psi"}


@fitted
def hurdle_amounts():
    pm.HurdleLogNormal("y", pm.Beta("psi", 2, 2), pm.Normal("mu", 0, 2), pm.HalfNormal("sd", 2), observed=SPENT)
    return {"psi", "mu", "sd"}, {"psi", "mu", "sd"}


@pytest.mark.parametrize("estimator", ["mle", pytest.param("map", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (i % 2)) for i, n in enumerate(FITS)])
def test_em_climbs_to_the_optimum_of_newton(name, estimator):
    with pm.Model() as model:
        closed = FITS[name]()[estimator == "map"]
    em = mlem.fit(model, estimator, method="em", starts=1, random_seed=0, progressbar=False)
    newton = mlem.fit(model, estimator, method="newton", starts=1, random_seed=0, progressbar=False)
    assert {block.name for block in em._estimate.target.engine.m_step.closed} == closed
    assert em.converged, em.message
    history = next(iter(em.history.data_vars.values())).values
    assert np.all(np.diff(history) >= -1e-9 * (1 + np.abs(history[1:])))
    assert em._estimate.optimum.value == pytest.approx(newton._estimate.optimum.value, abs=1e-6)
    for variable, estimate in newton.estimates.items():
        np.testing.assert_allclose(em.estimates[variable], estimate, rtol=2e-3, atol=2e-3)


def test_hurdle_has_a_closed_answer():
    with pm.Model() as model:
        hurdle_amounts()
    fit = mlem.fit(model, progressbar=False)
    logs = np.log(SPENT[SPENT > 0])
    assert fit.estimates["psi"].item() == pytest.approx((SPENT > 0).mean(), abs=1e-6)
    assert fit.estimates["mu"].item() == pytest.approx(logs.mean(), abs=1e-6)
    assert fit.estimates["sd"].item() == pytest.approx(logs.std(), abs=1e-6)
    np.testing.assert_array_equal(fit.latent_probabilities["y_component"].values[:, 1], SPENT > 0)


def test_proportion_at_the_border_stays_finite():
    """No zeros to explain: everything belongs to one component."""
    with pm.Model() as model:
        pm.ZeroInflatedPoisson("y", pm.Beta("psi", 1, 1), pm.Gamma("rate", 2, 1), observed=VISITS + 1)
    fit = mlem.fit(model, method="em", progressbar=False)
    assert np.isfinite(fit.log_likelihood)
    assert fit.estimates["psi"].item() == pytest.approx(1.0, abs=1e-6)
    assert fit.estimates["rate"].item() == pytest.approx((VISITS + 1).mean(), rel=1e-6)


def test_same_as_the_latent_written_out():
    fits = []
    for builtin in (True, False):
        coords = {"kind": ["low", "high"], "day": np.arange(10, 10 + ROWS)}
        with pm.Model(coords=coords) as model:
            w = pm.Dirichlet("w", np.ones(2), dims="kind")
            mu = pm.Normal("mu", 0, 5, initval=[-2.0, 2.0], dims="kind")
            sd = pm.HalfNormal("sd", 3, dims="kind")
            if builtin:
                pm.NormalMixture("y", w, mu, sd, observed=WAITS, dims="day")
            else:
                y_component = pm.Categorical("y_component", w, dims="day")
                pm.Normal("y", mu[y_component], sd[y_component], observed=WAITS, dims="day")
        fits.append(mlem.fit(model, random_seed=0, progressbar=False))
    for got, want in zip(*[f.latent_probabilities["y_component"] for f in fits], strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
    probabilities = fits[0].latent_probabilities["y_component"]
    assert probabilities.dims == ("day", "y_component_state")
    assert list(probabilities.coords["y_component_state"].values) == ["low", "high"]
    assert probabilities.coords["day"].values[0] == 10
    assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, abs=1e-8)
    assert fits[0].icl == pytest.approx(fits[1].icl, abs=1e-5)
    assert "latent_posterior" in fits[0].to_datatree(draws=10, chains=1).children


def test_observation_weights():
    """A weight of two counts an observation of a list of components twice."""

    def build(data):
        with pm.Model() as model:
            mu = pm.Normal("mu", 0, 5, shape=2, initval=[-2.0, 2.0])
            w = pm.Dirichlet("w", np.ones(2))
            pm.Mixture("y", w, [pm.Normal.dist(mu[k], 1.0) for k in range(2)], observed=data)
        return model

    weights = np.where(np.arange(ROWS) < 30, 2, 1)
    weighted = mlem.fit(build(WAITS), weights=weights, starts=1, progressbar=False)
    repeated = mlem.fit(build(np.repeat(WAITS, weights)), starts=1, progressbar=False)
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, abs=1e-8)
    np.testing.assert_allclose(weighted.estimates["mu"], repeated.estimates["mu"], rtol=1e-5)


def test_new_data_are_seen():
    with pm.Model() as model:
        data = pm.Data("data", VISITS)
        pm.ZeroInflatedPoisson("y", pm.Beta("psi", 1, 1), pm.Gamma("rate", 2, 1), observed=data)
    mlem.fit(model, progressbar=False)
    with model:
        pm.set_data({"data": VISITS[:50]})
    assert mlem.fit(model, progressbar=False).latent_probabilities["y_component"].shape == (50, 2)


def test_explain_names_the_component(capsys):
    with pm.Model() as model:
        hurdle_counts()
    mlem.explain(model)
    text = capsys.readouterr().out
    assert f"y_component  latent     component of 'y', {ROWS} element(s) with 2 states" in text
    assert "y            data       Hurdle, shape" in text


def test_plot_of_a_mixture_shows_its_components():
    with pm.Model() as model:
        normal_components()
    fit = mlem.fit(model, random_seed=0, progressbar=False)
    pc = mlem.plot_latents(fit, backend="none")
    assert "component" in pc.viz.children
    area = np.trapezoid(fit._estimate.joint_density("y_component")[:, np.argsort(WAITS)], np.sort(WAITS), axis=1)
    np.testing.assert_allclose(area, fit.estimates["w"], atol=0.05)


def test_free_mixture_stays_a_parameter():
    with pm.Model() as model:
        level = pm.NormalMixture("level", [0.5, 0.5], [-1.0, 1.0], 1.0)
        pm.Normal("y", level, 1.0, observed=WAITS)
    fit = mlem.fit(model, progressbar=False)
    assert not fit.latent_probabilities.data_vars
    assert fit.estimates["level"].item() == pytest.approx(WAITS.mean(), abs=1e-5)


def test_masked_mixture_keeps_its_dims():
    missing = np.arange(ROWS) % 10 == 0
    with pm.Model(coords={"day": np.arange(ROWS)}) as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC announces imputation
        psi, rate = pm.Beta("psi", 1, 1), pm.Gamma("rate", 2, 1)
        pm.ZeroInflatedPoisson("y", psi, rate, observed=np.ma.masked_array(VISITS, missing), dims="day")
    fit = mlem.fit(model, progressbar=False)
    with pm.Model() as complete:
        pm.ZeroInflatedPoisson("y", pm.Beta("psi", 1, 1), pm.Gamma("rate", 2, 1), observed=VISITS[~missing])
    assert fit.log_likelihood == pytest.approx(mlem.fit(complete, progressbar=False).log_likelihood, abs=1e-7)
    probabilities = fit.latent_probabilities["y_component"]
    assert probabilities.dims == ("day", "y_component_state")
    np.testing.assert_allclose(probabilities.values[missing][:, 1], fit.estimates["psi"], atol=1e-8)


def test_weights_that_do_not_fit_keep_the_density_of_pymc():
    with pm.Model() as model:
        pm.Mixture("y", [1.0], pm.Normal.dist(pm.Normal("mu", shape=2), 1.0), observed=Y)
    structure = engine_for(model, "mle").objective.tables.structure
    assert not structure.latents


@pytest.mark.slow
def test_callback_backend():
    with pm.Model() as model:
        zip_with_two_proportions()
    fits = [
        mlem.fit(model, method="em", starts=2, random_seed=0, backend=b, progressbar=False) for b in ("jax", "numba")
    ]
    assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, abs=1e-8)


def test_em_reaches_probabilities_at_the_border():
    """An item that one class never answers: the estimate is 0, the other estimates must not stand still."""
    rng = np.random.default_rng(4)
    known = rng.random(150) < 0.5
    items = rng.random((150, 4)) < np.where(known[:, None], [0.9, 0.8, 0.7, 0.8], [0.0, 0.2, 0.1, 0.3])
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        q = pm.Beta("q", 1, 1, shape=(2, 4), initval=np.array([[0.3] * 4, [0.7] * 4]))
        z = pm.Categorical("z", w, shape=150)
        pm.Bernoulli("answer", q[z], observed=items.astype(int))
    em = mlem.fit(model, method="em", random_seed=0, starts=1, progressbar=False)
    auto = mlem.fit(model, random_seed=0, starts=4, progressbar=False)
    assert em.converged
    assert em.log_likelihood == pytest.approx(auto.log_likelihood, abs=1e-5)
    assert 0 < em.estimates["q"].values.min() < 1e-4
