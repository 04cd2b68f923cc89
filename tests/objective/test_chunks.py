"""Evaluation in chunks gives what evaluation in one piece gives, for any length of the chunks."""

import inspect
import warnings
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem
from pm_mlem.graph.tables.rows import row_tables
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.evaluators import chunks
from pm_mlem.objective.evaluators.chunks import Chunks, build_chunks
from pm_mlem.objective.evaluators.protocol import Evaluator, Summand
from pm_mlem.objective.evaluators.whole import Whole
from pm_mlem.objective.m_step import em_map, plan_of
from pm_mlem.objective.m_step.step import e_step
from pm_mlem.objective.readout import build_readout
from structures import markov

pytestmark = pytest.mark.compiled

N = 103


def normal_mixture(rng):
    w = pm.Dirichlet("w", np.ones(3))
    mu = pm.Normal("mu", 0, 10, shape=3)
    sigma = pm.HalfNormal("sigma", 10, shape=3)
    z = pm.Categorical("z", w, shape=N)
    pm.Normal("y", mu[z], sigma[z], observed=np.array([-5.0, 0.0, 4.0])[rng.integers(3, size=N)] + rng.normal(size=N))


def mvnormal_mixture(rng):
    w = pm.Dirichlet("w", np.ones(2))
    mu = pm.Normal("mu", 0, 10, shape=(2, 3))
    chol, *_ = pm.LKJCholeskyCov("chol", n=3, eta=1.0, sd_dist=pm.HalfNormal.dist(1.0, shape=3))
    z = pm.Categorical("z", w, shape=N)
    pm.MvNormal("y", mu[z], chol=chol, observed=rng.normal(size=(N, 3)))


def latent_classes(rng):
    w = pm.Dirichlet("w", np.ones(2))
    theta = pm.Beta("theta", 1, 1, shape=(2, 4))
    z = pm.Categorical("z", w, shape=N)
    pm.Bernoulli("y", theta[z], observed=rng.integers(2, size=(N, 4)))


def matrix_of_latents(rng):
    p = pm.Beta("p", 1, 1)
    rate = pm.Gamma("rate", 2, 1, shape=2)
    z = pm.Bernoulli("z", p, shape=(N, 2))
    pm.Poisson("y", rate[z] * np.exp(0.1 * rng.normal(size=(N, 2))), observed=rng.poisson(1.0, size=(N, 2)))


def mixture_of_regressions_by_group(rng):
    beta = pm.Normal("beta", 0, 10, shape=(2, 2))
    effect = pm.Normal("effect", 0, 1, shape=5)
    slope = pm.Normal("slope", 0, 1, shape=2)
    x = rng.normal(size=(N, 2))
    z = pm.Bernoulli("z", pm.math.invlogit(x @ slope), shape=N)
    location = (x * beta[z]).sum(axis=-1) + effect[rng.integers(5, size=N)]
    pm.Normal("y", location, 1.0, observed=rng.normal(size=N))
    pm.Potential("penalty", -(effect**2).sum())


def hidden_markov_sequences(rng):
    initial = pm.Dirichlet("initial", np.ones(2))
    P = pm.Dirichlet("P", np.ones((2, 2)))
    mu = pm.Normal("mu", 0, 10, shape=2)
    z = markov("z", P, (N, 3), pm.Categorical.dist(p=initial))
    pm.Normal("y", mu[z], 1.0, observed=rng.normal(size=(N, 3)))


def two_plates(rng):
    mu = pm.Normal("mu", 0, 10, shape=2)
    z = pm.Bernoulli("z", 0.3, shape=N)
    pm.Normal("y", mu[z], 1.0, observed=rng.normal(size=N))
    s = pm.Bernoulli("s", 0.4, shape=70)
    pm.Normal("x", mu[s], 2.0, observed=rng.normal(size=70))


def linear_model(rng):
    beta = pm.Normal("beta", 0, 10, shape=3)
    sigma = pm.HalfNormal("sigma", 1)
    pm.Normal("y", rng.normal(size=(N, 3)) @ beta, sigma, observed=rng.normal(size=N))


def ordered_probit(rng):
    cuts = pm.Normal("cuts", 0, 3, shape=2, initval=[-1, 1], transform=pm.distributions.transforms.ordered)
    pm.OrderedLogistic("y", eta=rng.normal(size=N), cutpoints=cuts, observed=rng.integers(3, size=N))


SPLIT = [
    normal_mixture, mvnormal_mixture, latent_classes, matrix_of_latents, mixture_of_regressions_by_group,
    hidden_markov_sequences, two_plates, linear_model, ordered_probit,
]  # fmt: skip


def grouped_in_no_order(rng):
    mu = pm.Normal("mu", 0, 10, shape=2)
    group = rng.permutation(np.repeat(np.arange(N), 2))
    z = pm.Bernoulli("z", 0.3, shape=N)
    pm.Normal("y", mu[z[group]], 1.0, observed=rng.normal(size=2 * N))


def one_chain(rng):
    mu = pm.Normal("mu", 0, 10, shape=2)
    P = pm.Dirichlet("P", np.ones((2, 2)))
    z = markov("z", P, N)
    pm.Normal("y", mu[z], 1.0, observed=rng.normal(size=N))


def centred_on_the_mean(rng):
    beta = pm.Normal("beta", 0, 10)
    location = pm.math.exp(beta * rng.normal(size=N))
    pm.Normal("y", location - location.mean(), 1.0, observed=rng.normal(size=N))


def reversed_parameters(rng):
    beta = pm.Normal("beta", 0, 10)
    location = pm.math.exp(beta * rng.normal(size=N))
    pm.Normal("y", location[::-1], 1.0, observed=rng.normal(size=N))


def parameter_for_every_row(rng):
    effect = pm.Normal("effect", 0, 1, shape=N)
    pm.Normal("y", effect, 1.0, observed=rng.normal(size=N))


WHOLE = [grouped_in_no_order, one_chain, centred_on_the_mean, reversed_parameters, parameter_for_every_row]


def model_of(define):
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymc_extras announces its changes
        define(np.random.default_rng(3))
    return model


def problem(define, estimator="mle"):
    """An objective, its data, a point, and weights that remove some units."""
    engine = engine_for(model_of(define), estimator)
    objective, rng = engine.objective, np.random.default_rng(4)
    u = objective.space.initial + 0.1 * rng.normal(size=objective.space.size)
    return objective, engine.data, u, rng.integers(3, size=objective.n_units).astype(float)


def e_step_of(objective, theta, weights, data):
    return objective.jit_once(lambda t: e_step(objective, t, weights, data))(theta)


def in_chunks(objective, length):
    found = build_chunks(objective.whole, chunk=length)
    assert found is not None
    return replace(objective, evaluator=found)


TOLERANCES = {
    "scores": {"rtol": 1e-9, "atol": 1e-9},
    "derivatives": {"rtol": 1e-10, "atol": 1e-9},
    "log-likelihood": {"rtol": 1e-12},
    "posterior": {"rtol": 1e-10, "atol": 1e-12},
    "expected": {"rtol": 1e-12},
    "report": {"rtol": 1e-10, "atol": 1e-12},
    "decoded": {"rtol": 1e-10},
    "decoded weights": {"rtol": 1e-10, "atol": 1e-12},
    "M-step": {"rtol": 1e-7, "atol": 1e-8},
}
"""What is evaluated, and how well it has to agree."""


def everything(objective, u, weights, data):
    """All that an objective says at a point, compiled in one piece."""
    readout, plan = build_readout(objective), plan_of(objective)

    def evaluate(u):
        theta, moved = objective.space.constrain(u), objective.space.constrain(u + 0.05)
        value, posterior = e_step(objective, theta, weights, data)
        found = {
            "scores": objective.scores(u, data),
            "derivatives": objective.derivatives(u, weights, data),
            "log-likelihood": value,
            "posterior": posterior,
            "expected": objective.expected(moved, posterior, data),
            "report": readout.evaluate.__wrapped__(u, data),
            "M-step": em_map(objective, plan)(u, weights, data, None, False)[0],
        }
        if readout.latent_names:
            found["decoded"] = readout.decode.__wrapped__(u, data)
            found["decoded weights"] = objective.decoded(theta, weights, data)
        return found

    return objective.jit_once(evaluate)(u)


@pytest.mark.parametrize("define", [pytest.param(d, marks=[pytest.mark.slow] * (i % 2)) for i, d in enumerate(SPLIT)])
def test_nothing_depends_on_chunks(define):
    whole, data, u, weights = problem(define)
    expected = everything(whole, u, weights, data)
    gradient = whole.value_and_gradient(u, np.ones(whole.n_units), data)[1]
    np.testing.assert_allclose(np.sum(expected["scores"], axis=0), gradient, rtol=1e-9, atol=1e-8)
    for length in (10, 50, N - 1) if define is normal_mixture else (17,):
        cut = in_chunks(whole, length)
        assert cut.evaluator.probed is not None
        found = everything(cut, u, weights, data)
        for part, own in found.items():
            for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(expected[part]), strict=True):
                np.testing.assert_allclose(a, b, **TOLERANCES[part], err_msg=f"{part}, chunks of {length}")


@pytest.mark.parametrize("define", [normal_mixture, hidden_markov_sequences])
def test_draws_in_chunks_have_the_posterior(define):
    whole, data, u, weights = problem(define)
    cut, theta = in_chunks(whole, 17), whole.space.constrain(u)
    value, posterior = e_step_of(whole, theta, weights, data)
    keys = jax.random.split(jax.random.key(1), 2000)
    values, drawn = jax.jit(jax.vmap(lambda key: cut.sampled(theta, weights, data, key)))(keys)
    np.testing.assert_allclose(values, value, rtol=1e-10)
    for array, expected in zip(drawn, posterior, strict=True):
        spread = np.asarray(array).std(axis=0) / np.sqrt(2000)
        assert np.all(np.abs(np.asarray(array).mean(axis=0) - expected) <= 5.5 * spread + 0.02)


def test_chunks_draw_from_random_numbers_of_their_own():
    """The same observation everywhere: rows at one place of different chunks would be drawn alike."""

    def define(rng):
        w = pm.Dirichlet("w", np.ones(2))
        z = pm.Categorical("z", w, shape=N)
        pm.Normal("y", 0.1 * z, 1.0, observed=np.zeros(N))

    whole, data, u, _ = problem(define)
    cut = in_chunks(whole, 20)
    drawn = cut.sampled(cut.space.constrain(u), np.ones(N), data, jax.random.key(1))[1][-1]
    chunks = np.asarray(drawn)[0].reshape(-1)[: N // 20 * 20].reshape(-1, 20)
    assert len(np.unique(chunks, axis=0)) == len(chunks)


@pytest.mark.parametrize("define", WHOLE)
def test_what_mixes_rows_stays_in_one_piece(define):
    assert row_tables(engine_for(model_of(define), "mle").objective.tables, 10) is None


def test_weights_may_be_a_batch():
    whole, data, u, weights = problem(normal_mixture)
    batch = np.stack([weights, np.ones_like(weights)])
    cut = in_chunks(whole, 25)
    found, expected = [
        o.jit_once(jax.vmap(jax.grad(o.value), in_axes=(None, 0, None)))(u, batch, data) for o in (cut, whole)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("estimator", ["mle", "map"])
def test_a_fit_in_chunks_is_the_same_fit(monkeypatch, estimator):
    expected = mlem.fit(model_of(normal_mixture), estimator, starts=3, random_seed=1, progressbar=False)
    monkeypatch.setattr(chunks, "LARGE", 1)
    monkeypatch.setattr(chunks, "CHUNK", 60)
    monkeypatch.setattr(chunks, "SMALLEST_CHUNK", 20)
    fit = mlem.fit(model_of(normal_mixture), estimator, starts=3, random_seed=1, progressbar=False)
    assert fit._estimate.target.objective.evaluator.length == 20
    assert fit.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-8)
    for name, errors in expected.standard_errors().items():
        np.testing.assert_allclose(fit.standard_errors()[name], errors, rtol=1e-5)


def test_hessians_column_by_column(monkeypatch):
    from pm_mlem.objective import objective as module

    whole, data, u, weights = problem(latent_classes)
    expected = np.asarray(whole.derivatives(u, weights, data)[2])
    monkeypatch.setattr(module, "LARGEST_ARRAY", 2 * whole.work)
    found = replace(whole).derivatives(u, weights, data)[2]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def regressions(rng):
    beta = pm.Normal("beta", 0, 2, shape=(3, 2))
    z = pm.Categorical("z", pm.Dirichlet("w", np.ones(3)), shape=N)
    x = rng.normal(size=(N, 2))
    pm.Poisson("y", pm.math.exp((x * beta[z]).sum(axis=-1)), observed=rng.poisson(2.0, size=N))


def shapes(rng):
    z = pm.Bernoulli("z", 0.4, shape=N)
    alpha, rate = pm.Gamma("alpha", 2, 1, shape=2), pm.Gamma("rate", 2, 1, shape=2)
    pm.Gamma("y", alpha[z], rate[z], observed=rng.gamma(2.0, size=N))
    size = pm.Gamma("size", 2, 1)
    pm.NegativeBinomial("x", mu=rate[z], alpha=size, observed=rng.negative_binomial(2, 0.4, size=N))


def lifetimes(rng):
    z = pm.Bernoulli("z", 0.4, shape=N)
    alpha, beta = pm.Gamma("alpha", 2, 1, shape=2), pm.Gamma("beta", 2, 1, shape=2)
    pm.Weibull("y", alpha[z], beta[z], observed=rng.gamma(2.0, size=N))


STEPS = [(d, e) for e in ("mle", "map") for d in (regressions, shapes, lifetimes, *SPLIT * (e == "map"))]


@pytest.mark.parametrize(
    ("define", "estimator"), [pytest.param(*s, marks=[pytest.mark.slow] * (s[1] == "map")) for s in STEPS]
)
def test_the_m_step_does_not_depend_on_chunks(define, estimator):
    whole, data, u, weights = problem(define, estimator)
    plan = plan_of(whole)

    def step_of(objective, plan):
        step = em_map(objective, plan)
        return objective.jit_once(lambda v: step(v, weights, data, None, False))

    expected, value = step_of(whole, plan)(u)
    found, same = step_of(in_chunks(whole, 30), plan)(u)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)
    assert float(same) == pytest.approx(float(value), rel=1e-12)


METHODS = [name for name in vars(Evaluator) if not name.startswith("_")]


@pytest.mark.parametrize("kind", [Whole, Chunks])
@pytest.mark.parametrize("name", METHODS)
def test_evaluators_have_the_methods_of_the_protocol(kind, name):
    asked, given = inspect.getattr_static(Evaluator, name), inspect.getattr_static(kind, name)
    if isinstance(asked, property):
        assert isinstance(given, property)
        return
    expected, found = [inspect.signature(f).parameters.values() for f in (asked, given)]
    assert [(p.name, p.kind, p.default) for p in found] == [(p.name, p.kind, p.default) for p in expected]


def test_the_size_of_the_data_chooses_the_evaluator(monkeypatch):
    whole, *_ = problem(normal_mixture)
    assert isinstance(whole.evaluator, Whole) and isinstance(whole.evaluator, Evaluator)
    assert whole.evaluator is whole.whole
    cut = in_chunks(whole, 20)
    assert isinstance(cut.evaluator, Chunks) and isinstance(cut.evaluator, Evaluator)
    assert (whole.evaluator.entries, cut.evaluator.entries) == (3 * N, 3 * N * 20 // N)
    assert cut.no_posterior is None and [a.shape for a in whole.no_posterior] == [(3, 1), (3, N)]


AGREE = [normal_mixture, hidden_markov_sequences, two_plates, mixture_of_regressions_by_group]


@pytest.mark.parametrize("define", AGREE)
def test_evaluators_agree(define):
    """Whatever the tests above do not come by: powers, impossible entries, units, sums and parts."""
    objective, data, u, weights = problem(define)
    theta, whole, cut = objective.space.constrain(u), objective.evaluator, in_chunks(objective, 17).evaluator
    powers = np.linspace(0.5, 1.5, len(objective.tables.densities))
    site = objective.tables.sites[-1]

    def moments(weights, arrays, index):
        deviation = arrays[-1] - arrays[0]
        rows = {"rows": (weights * (1.0 + index) * deviation).sum(), "squares": (weights * deviation**2).sum()}
        return {**rows, "count": weights.sum()}

    numbers = np.broadcast_to(np.arange(site.value.type.shape[0]).reshape(-1, *[1] * (site.value.type.ndim - 1)),
                              site.value.type.shape)  # fmt: skip
    summands = [
        Summand(site.term, (*site.parameters, site.value), moments, ((numbers, len(site.parameters)),)),
        Summand(0, (), lambda weights, arrays: weights.sum()),
    ]
    terms = list(range(len(objective.tables.densities)))

    def weighted(positions, arrays):
        return sum(((i + 1.0) * a.sum() for i, a in zip(positions, arrays, strict=True)), 0.0)

    def everything(evaluator, theta):
        value, posterior = evaluator.e_step(theta, weights, data, powers)
        return [
            value,
            posterior,
            evaluator.units(theta, data),
            evaluator.sums(summands)(posterior, theta, data),
            evaluator.parts(terms, weighted)(posterior, theta, data),
            evaluator.posterior(theta, data),
        ]

    found = [jax.tree.leaves(objective.jit_once(partial(everything, e))(theta)) for e in (whole, cut)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-10)


def test_evaluators_agree_on_what_is_impossible():
    objective, data, u, _ = problem(latent_classes)
    theta = [0.0 * value for value in objective.space.constrain(u)]  # probabilities of 0
    given = [np.full(d.input.type.shape, 0.5) for d in objective.tables.densities]
    whole, cut = (e.possible(given, theta, data) for e in (objective.evaluator, in_chunks(objective, 17).evaluator))
    assert {0.0, 0.5} == set(np.unique(whole[-1]))
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a, b)
