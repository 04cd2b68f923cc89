"""The M-step as sums over the rows and what is made of them: the sums of parts of the data add up."""

import warnings
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytest

from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.m_step import em_map
from pm_mlem.objective.m_step.blocks import ClosedBlock
from pm_mlem.objective.m_step.closed_forms import CLOSED_FORMS
from pm_mlem.objective.m_step.passes import in_passes, passes_of
from pm_mlem.objective.m_step.reductions import REDUCTIONS
from pm_mlem.objective.m_step.step import data_sums, e_step
from pm_mlem.objective.m_step.updates import Climb, Update

pytestmark = pytest.mark.compiled

FAMILIES = {op for op, _ in CLOSED_FORMS}, set(REDUCTIONS)  # as the package has them, before tests register more
N = 60
RNG = np.random.default_rng(8)
HALVES = [slice(0, N), slice(0, N // 3), slice(N // 3, N)]
"""All rows, and two parts of them."""


def label(rows):
    return pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=len(range(N)[rows]))


def positive(name):
    return pm.HalfNormal(name, 3, shape=2, initval=[1.0, 2.0])


def real(name, **kwargs):
    return pm.Normal(name, 0, 3, shape=2, initval=[-0.5, 0.5], **kwargs)


REAL = RNG.normal(size=N)
POSITIVE = RNG.gamma(2.0, size=N)
SHARE = RNG.beta(2.0, 3.0, size=N)
COUNT = RNG.poisson(2.0, size=N)
FEW = np.tile([0, 1, 2, 4, 7], N // 5)
"""The same distinct values in every part."""
PAIR = RNG.normal(size=(N, 2))
TABLE = RNG.multinomial(6, [0.2, 0.3, 0.5], size=N)
X = RNG.normal(size=(N, 2))


def closed_forms(rows):
    z = label(rows)
    pm.Normal("normal", real("mu")[z], positive("sigma")[z], observed=REAL[rows])
    pm.LogNormal("lognormal", real("m")[z], positive("s")[z], observed=POSITIVE[rows])
    pm.HalfNormal("halfnormal", positive("half")[z], observed=POSITIVE[rows])
    pm.StudentT("student", nu=4.0, mu=real("centre")[z], sigma=positive("width")[z], observed=REAL[rows])
    pm.Laplace("laplace", 0.3, positive("b")[z], observed=REAL[rows])
    pm.Exponential("exponential", scale=positive("scale")[z], observed=POSITIVE[rows])
    pm.Poisson("poisson", positive("rate")[z], observed=COUNT[rows])


def probabilities(rows):
    z = label(rows)
    pm.Bernoulli("bernoulli", logit_p=real("eta")[z], observed=COUNT[rows] > 1)
    pm.Bernoulli("success", pm.Beta("theta", 1, 1, shape=2)[z], observed=COUNT[rows] > 2)
    pm.Binomial("binomial", 9, pm.Beta("p", 1, 1, shape=2)[z], observed=np.minimum(COUNT, 9)[rows])
    pm.Geometric("geometric", pm.Beta("q", 1, 1, shape=2)[z], observed=COUNT[rows] + 1)
    pm.Multinomial("multinomial", 6, pm.Dirichlet("P", np.ones((2, 3)))[z], observed=TABLE[rows])
    pm.Categorical("category", pm.Dirichlet("C", np.ones((2, 3)))[z], observed=np.minimum(COUNT, 2)[rows])


def vectors(rows):
    z = label(rows)
    centres = [pm.Normal(n, 0, 3, shape=(2, 2), initval=[[-0.5, 0.0], [0.5, 0.1]]) for n in ("mu", "tied_mu")]
    packed = [
        pm.LKJCholeskyCov(n, n=2, eta=1.0, sd_dist=pm.HalfNormal.dist(1.0), compute_corr=False)
        for n in ("chol_0", "chol_1", "tied")
    ]
    chol = [pm.math.expand_packed_triangular(2, p) for p in packed]
    pm.MvNormal("y", centres[0][z], chol=pm.math.stack(chol[:2])[z], observed=PAIR[rows])
    pm.MvNormal("tied_y", centres[1][z], chol=chol[2], observed=PAIR[rows])
    sd = pm.HalfNormal("sd", 2, shape=2)
    pm.MvNormal("x", np.zeros(2), chol=pm.math.stack([[sd[0], 0.0], [0.0, sd[1]]]), observed=PAIR[rows])


def reductions(rows):
    z = label(rows)
    pm.Normal("normal", 2.0 * real("mu")[z], positive("sigma")[z] + 0.1, observed=REAL[rows])
    pm.LogNormal("lognormal", 2.0 * real("m")[z], positive("s")[z] + 0.1, observed=POSITIVE[rows])
    pm.Gamma("gamma", positive("alpha")[z], positive("beta")[z], observed=POSITIVE[rows])
    pm.InverseGamma("inverse", positive("a")[z], positive("b")[z], observed=POSITIVE[rows])
    pm.Beta("share", positive("c")[z], positive("d")[z], observed=SHARE[rows])
    pm.VonMises("angle", real("direction")[z], positive("kappa")[z], observed=REAL[rows])
    pm.Exponential("exponential", positive("rate")[z] ** 2 + 0.1, observed=POSITIVE[rows])
    pm.Poisson("poisson", positive("r")[z] ** 2 + 0.1, observed=COUNT[rows])
    loading = pm.Normal("loading", 0, 1)
    pm.MvNormal("pair", np.zeros(2), cov=np.eye(2) + loading**2 * np.ones((2, 2)), observed=PAIR[rows])
    pm.NegativeBinomial("distinct", mu=positive("mean")[z], alpha=positive("size")[z], observed=FEW[rows])


def regressions(rows):
    z, beta = label(rows), pm.Normal("beta", 0, 2, shape=(2, 2), initval=[[0.1, 0.2], [-0.1, 0.3]])
    location = (X[rows] * beta[z]).sum(axis=-1)
    pm.Normal("y", location, positive("sigma")[z], observed=REAL[rows])
    pm.Poisson("n", pm.math.exp(0.5 * location), observed=COUNT[rows])


def hidden_markov(rows):
    P, initial = pm.Dirichlet("P", np.ones((2, 2))), pm.Dirichlet("initial", np.ones(2))
    y = np.stack([REAL, np.roll(REAL, 3), np.roll(REAL, 7)], axis=1)[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymc_extras announces its changes
        from pymc_extras.distributions import DiscreteMarkovChain
    z = DiscreteMarkovChain("z", P=P, init_dist=pm.Categorical.dist(p=initial), shape=y.shape)
    pm.Normal("y", real("mu")[z], positive("sigma")[z], observed=y)


def medians(rows):
    z = label(rows)
    pm.Laplace("y", real("mu")[z], positive("b")[z], observed=REAL[rows])


MODELS = [closed_forms, probabilities, vectors, reductions, regressions, hidden_markov]


def engine_of(define, rows, estimator="mle"):
    with pm.Model() as model:
        define(rows)
    return engine_for(model, estimator)


def start_of(engine):
    space = engine.objective.space
    return space.initial + np.random.default_rng(2).normal(scale=0.05, size=space.size)


def posterior_of(engine, u):
    objective = engine.objective
    return e_step(objective, objective.space.constrain(u), np.ones(objective.n_units), engine.data)[1]


def posteriors(engines, u):
    return [e.objective.jit_once(partial(posterior_of, e))(u) for e in engines]


def added(trees):
    return jax.tree.map(lambda *arrays: sum(arrays), *trees)


def check(found, expected, **tolerance):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize("define", [pytest.param(d, marks=[pytest.mark.slow] * (d is reductions)) for d in MODELS])
def test_the_sums_of_parts_of_the_rows_add_up(define):
    """And the M-step is what follows from them, pass by pass."""
    engines = [engine_of(define, rows) for rows in HALVES]
    engine, start = engines[0], start_of(engines[0])
    objective, unit = engine.objective, np.ones(engine.objective.n_units)
    passes = list(zip(*[passes_of(e.objective, e.m_step) for e in engines], strict=True))
    assert all(p.additive for same in passes for p in same)

    def evaluate(u):  # compiled in one piece
        given = [posterior_of(e, u) for e in engines]
        point, in_parts, sums = u, u, []
        for same in passes:
            theta = objective.space.constrain(point)
            whole, *parts = [p.statistics(r, theta, e.data) for p, r, e in zip(same, given, engines, strict=True)]
            sums.append((added(parts), whole))
            point = same[0].update(whole, point, engine.data)
            in_parts = same[1].update(added(parts), in_parts, engines[1].data)  # no row is read: any part can do it
        step = em_map(objective, replace(engine.m_step, newton=None))
        return sums, point, in_parts, step(u, unit, engine.data, given[0], jnp.asarray(True))[0]

    sums, point, in_parts, expected = objective.jit_once(evaluate)(start)
    for in_halves, whole in sums:
        assert jax.tree.leaves(whole)
        check(in_halves, whole, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(point, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(in_parts, expected, rtol=1e-7, atol=1e-8)
    assert np.max(np.abs(point - start)) > 1e-3


def test_the_sums_of_newton_steps_over_the_data_add_up():
    engines = [engine_of(regressions, rows) for rows in HALVES]
    u = jnp.asarray(start_of(engines[0]))
    given, theta = posteriors(engines, u), engines[0].objective.space.constrain(u)
    sums = [data_sums(e.objective, e.m_step.newton) for e in engines]
    for found in (
        [jax.jit(s.values)(r, theta, e.data) for s, r, e in zip(sums, given, engines, strict=True)],
        [jax.jit(s.slopes)(r, u, e.data) for s, r, e in zip(sums, given, engines, strict=True)],
    ):
        whole, *parts = found
        assert all(np.any(a != 0) for a in jax.tree.leaves(whole))
        check(added(parts), whole, rtol=1e-9, atol=1e-9)


def test_every_registered_family_is_among_these_models():
    closed, reduced = set(), set()
    for define in MODELS:
        engine = engine_of(define, HALVES[0])
        plan, sites = engine.m_step, engine.objective.tables.sites
        closed |= {type(sites[use.site].op) for b in plan.closed if isinstance(b, ClosedBlock) for use in b.uses}
        terms = plan.reduced.terms if plan.reduced else ()
        reduced |= {type(site.op) for site in sites if site.term in terms}
    assert FAMILIES[0] <= closed
    assert FAMILIES[1] < reduced  # and one of which only the distinct values are known


PASSES = {
    closed_forms: [{"w", "mu", "m", "centre", "scale", "rate", "half", "b"}, {"sigma", "s", "width"}],
    probabilities: [{"w", "eta", "theta", "p", "q", "P", "C"}],
    vectors: [{"w", "mu", "chol_0", "chol_1", "tied_mu", "sd"}, {"tied"}],
    regressions: [{"w", "sigma"}],
    hidden_markov: [{"P", "initial", "mu"}, {"sigma"}],
    medians: [{"w", "mu"}, {"b"}],
}


@pytest.mark.parametrize("define", PASSES)
def test_only_what_waits_for_a_result_takes_another_pass(define):
    engine = engine_of(define, HALVES[0])
    assert [set(p.names) for p in passes_of(engine.objective, engine.m_step)] == PASSES[define]


def test_an_order_of_updates_is_kept():
    """A parameter is not updated before the sums of an earlier step that reads it."""
    engine = engine_of(closed_forms, HALVES[0])
    structure = engine.objective.tables.structure
    place = {p.name: p.placeholder for p in structure.free}

    def step(name, reads=(), follows=()):
        return Update(name, (), lambda: None, tuple(place[n] for n in reads), tuple(place[n] for n in follows))

    def order(*steps):
        return in_passes(engine.objective, steps)

    assert order(step("mu"), step("sigma", reads=["mu"]), step("m")) == [0, 1, 0]
    assert order(step("mu"), step("sigma", follows=["mu"]), step("m", reads=["sigma"])) == [0, 0, 1]
    assert order(step("mu"), step("sigma", reads=["mu", "s"]), step("s")) == [0, 1, 1]
    assert order(step("mu"), step("sigma", reads=["mu"]), Climb(("s",), (), lambda: None, ())) == [0, 1, 1]


def test_weighted_medians_are_no_sums():
    engine = engine_of(medians, HALVES[0])
    first, second = passes_of(engine.objective, engine.m_step)
    assert not first.additive and second.additive
    start = start_of(engine)
    [given] = posteriors([engine], start)
    tree = first.statistics(given, engine.objective.space.constrain(start), engine.data)
    assert tree["gathered"]["mu"].shape == (2,)
    weights = np.asarray(given[-1])
    for found, own in zip(tree["gathered"]["mu"], weights, strict=True):
        below = own[REAL < found].sum() / own.sum()
        assert below <= 0.5 <= below + own[REAL == found].sum() / own.sum() + 1e-12
