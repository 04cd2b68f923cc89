"""Built-in mixtures: their hidden component is a latent like any other, and the likelihood stays PyMC's own."""

import warnings

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pymc.distributions.distribution import PartialObservedRV
from pytensor import function
from pytensor.compile.mode import Mode
from pytensor.graph.replace import clone_replace
from scipy.special import logsumexp

from brute_force import enumerate_latents
from pm_mlem.objective.engine import engine_for

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


def build(name):
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
    unit = np.ones(objective.n_units)
    tolerance = 1e-6 if name in SINGLE else 1e-8

    expected = enumerate_latents(model, domains, objective.space.values(u))
    value, gradient = objective.value_and_gradient(u, unit, objective.data)
    assert float(value) == pytest.approx(expected.log_likelihood, abs=tolerance)
    direction, step = rng.normal(size=len(u)), 1e-4
    ends = [
        enumerate_latents(model, domains, objective.space.values(u + s * step * direction)).log_likelihood
        for s in (1, -1)
    ]
    assert float(np.asarray(gradient) @ direction) == pytest.approx(
        (ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-6
    )

    found = dict(zip(engine.report.latent_names, engine.report.latents(u, objective.data), strict=True))
    for latent, probabilities in expected.probabilities.items():
        np.testing.assert_allclose(np.moveaxis(np.asarray(found[latent]), 0, -1), probabilities, atol=tolerance)


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
    found = dict(zip(engine.report.latent_names, engine.report.latents(u, engine.objective.data), strict=True))
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
    value = float(engine.objective.log_likelihood(u, unit, engine.objective.data))
    assert value == pytest.approx(total, abs=1e-6 if name in SINGLE else 1e-8)
