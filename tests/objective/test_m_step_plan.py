"""Which update every parameter gets, Newton steps against least squares, and bounds of priors."""

import jax
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy.special import expit

import pm_mlem as mlem
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.m_step import em_map
from pm_mlem.objective.m_step.bounds import support
from pm_mlem.objective.m_step.probing import Probing
from pm_mlem.objective.m_step.step import e_step

pytestmark = pytest.mark.compiled

N = 200
RNG = np.random.default_rng(5)
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 2))])
HIGH = RNG.random(N) < 0.4
TRUE = np.array([[1.0, 0.5, -0.3], [-0.5, 0.2, 0.8]])
ETA = np.where(HIGH, X @ TRUE[0], X @ TRUE[1])
TARGET = ETA + RNG.normal(0, 0.5, N)
COUNTS = RNG.poisson(np.exp(ETA))
CLICKS = (RNG.random(N) < expit(ETA)).astype(int)
START = np.array([[0.7, 0.1, 0.0], [-0.2, 0.0, 0.4]])


def coefficients(name="beta"):
    return pm.Normal(name, 0, 10, shape=(2, 3), initval=START)


def label():
    return pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=N)


def one_step(build, estimator="mle"):
    """Objective, plan, posterior weights and the parameters before and after one EM step."""
    with pm.Model() as model:
        build()
    engine = engine_for(model, estimator)
    objective, unit = engine.objective, np.ones(engine.objective.n_units)
    u = objective.space.initial
    _, posterior = e_step(objective, objective.space.constrain(u), unit, engine.data)
    new, _ = objective.jit_once(em_map(objective, engine.m_step))(u, unit, engine.data, None, False)
    return engine, posterior, objective.space.values(u), objective.space.values(np.asarray(new))


def emission(engine, posterior, name="y"):
    """Posterior weights of the two states in a term."""
    terms = [d.term.name for d in engine.objective.tables.densities]
    return np.asarray(posterior[terms.index(name)])


# --- Newton steps -----------------------------------------------------------------------------------------


def test_a_normal_regression_is_weighted_least_squares():
    def build():
        z, beta = label(), coefficients()
        pm.Normal("y", (X * beta[z]).sum(axis=-1), pm.HalfNormal("sd", 1, shape=2)[z], observed=TARGET)

    engine, posterior, _, after = one_step(build)
    assert engine.m_step.newton.names == ("beta",)
    assert engine.m_step.newton.groups.members.shape == (2, 3)
    for r, found in zip(emission(engine, posterior), after["beta"], strict=True):
        expected = np.linalg.lstsq(np.sqrt(r)[:, None] * X, np.sqrt(r) * TARGET, rcond=None)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def reweighted(r, beta, y, mean, variance):
    """One step of iteratively reweighted least squares with a canonical link."""
    mu = mean(X @ beta)
    weight = r * variance(mu)
    response = X @ beta + (y - mu) / variance(mu)
    return np.linalg.solve((X * weight[:, None]).T @ X, X.T @ (weight * response))


@pytest.mark.parametrize("spelling", ["rows", "columns", "loop"])
def test_a_poisson_regression_is_reweighted_least_squares(spelling):
    def build():
        z, beta = label(), coefficients()
        eta = {
            "rows": lambda: (X * beta[z]).sum(axis=-1),
            "columns": lambda: (X @ beta.T)[np.arange(N), z],
            "loop": lambda: sum(beta[z, j] * X[:, j] for j in range(3)),
        }[spelling]()
        pm.Poisson("y", pt.exp(eta), observed=COUNTS)

    engine, posterior, before, after = one_step(build)
    assert engine.m_step.newton.groups.members.shape == (2, 3)
    for r, old, found in zip(emission(engine, posterior), before["beta"], after["beta"], strict=True):
        np.testing.assert_allclose(found, reweighted(r, old, COUNTS, np.exp, lambda m: m), rtol=1e-8)


def test_a_logistic_regression_is_reweighted_least_squares():
    def build():
        z, beta = label(), coefficients()
        pm.Bernoulli("y", logit_p=(X * beta[z]).sum(axis=-1), observed=CLICKS)

    engine, posterior, before, after = one_step(build)
    for r, old, found in zip(emission(engine, posterior), before["beta"], after["beta"], strict=True):
        np.testing.assert_allclose(found, reweighted(r, old, CLICKS, expit, lambda p: p * (1 - p)), rtol=1e-8)


def test_a_regression_without_latents_takes_one_step():
    def build():
        beta = pm.Normal("beta", 0, 10, shape=3)
        pm.Normal("y", X @ beta, pm.HalfNormal("sd", 1), observed=TARGET)

    *_, after = one_step(build)
    np.testing.assert_allclose(after["beta"], np.linalg.lstsq(X, TARGET, rcond=None)[0], rtol=1e-9)


def test_shared_coefficients_are_solved_together():
    def build():
        z, level = label(), pm.Normal("level", 0, 5, shape=2, initval=[-1.0, 1.0])
        slope = pm.Normal("slope", 0, 5, shape=2)
        pm.Poisson("y", pt.exp(level[z] + X[:, 1:] @ slope), observed=COUNTS)

    assert one_step(build)[0].m_step.newton.groups.count == 1


def test_a_common_prior_couples_under_map_only():
    def build():
        z, spread = label(), pm.HalfNormal("spread", 1)
        beta = pm.Normal("beta", 0, spread, shape=(2, 3), initval=START)
        pm.Poisson("y", pt.exp((X * beta[z]).sum(axis=-1)), observed=COUNTS)

    with pm.Model() as model:
        build()
    assert engine_for(model, "mle", Choices(fixed={"spread": 1.0})).m_step.newton.groups.count == 2
    plan = engine_for(model, "map").m_step
    assert plan.newton.names == ("spread", "beta")
    assert plan.newton.groups.count == 1


def test_items_of_a_latent_class_are_groups_of_their_own():
    def build():
        z = label()
        a, b = pm.Normal("a", 0, 2, shape=(2, 4)), pm.Normal("b", 0, 2, shape=(2, 4))
        clicks = RNG.integers(2, size=(N, 4))
        pm.Bernoulli("y", logit_p=a[z] + b[z] * X[:, [1]], observed=clicks)

    groups = one_step(build)[0].m_step.newton.groups
    assert groups.members.shape == (8, 2)
    np.testing.assert_array_equal(groups.members, np.arange(16).reshape(2, 8).T)


def test_many_rows_are_sampled():
    """The groups of 100,000 rows are found on some of them."""
    n = 100_000
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 10, shape=(2, 2))
        z = pm.Bernoulli("z", 0.3, shape=n)
        x = RNG.normal(size=n)
        pm.Poisson("y", pt.exp(beta[z, 0] + beta[z, 1] * x), observed=RNG.poisson(2.0, n))
    assert engine_for(model, "mle").m_step.newton.groups.members.shape == (2, 2)


@pytest.mark.parametrize("estimator", ["mle", "map"])
def test_hessian_by_groups_is_the_hessian(estimator):
    def build():
        z, beta = label(), coefficients()
        sd = pm.HalfNormal("sd", 1, shape=2)
        pm.Logistic("y", (X * beta[z]).sum(axis=-1) ** 2, sd[z], observed=TARGET)

    engine, posterior, before, _ = one_step(build, estimator)
    objective, block = engine.objective, engine.m_step.newton
    assert block.names == ("beta", "sd")
    assert block.groups.members.shape == (2, 4)

    def value(u):
        total = objective.expected(objective.space.constrain(u), posterior, engine.data)
        return total + objective.log_prior(u, engine.data) if estimator == "map" else total

    u = objective.space.unconstrain(before)
    where = np.concatenate([np.arange(objective.space.size)[objective.space.slices[n]] for n in block.names])
    dense = np.asarray(objective.jit_once(jax.hessian(value))(u))[np.ix_(where, where)]
    directions = np.zeros((4, len(u)))
    directions[:, where] = block.groups.directions
    columns = np.asarray(objective.jit_once(objective.along(jax.grad(value), directions))(u))[:, where]
    owner = block.groups.of_coordinate
    for chosen in block.groups.members:
        np.testing.assert_allclose(columns[:, chosen].T, dense[np.ix_(chosen, chosen)], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(dense[owner[:, None] != owner], 0.0, atol=1e-9)


@pytest.mark.slow
def test_callbacks_take_the_same_step():
    with pm.Model() as model:
        z, beta = label(), coefficients()
        pm.Poisson("y", pt.exp((X * beta[z]).sum(axis=-1)), observed=COUNTS)
    points = []
    for backend in ("jax", "numba"):
        engine = engine_for(model, "mle", backend=backend)
        unit = np.ones(engine.objective.n_units)
        points.append(engine.em_map(engine.objective.space.initial, unit, engine.data, None, False)[0])
    np.testing.assert_allclose(points[0], points[1], rtol=1e-9)


# --- bounds -----------------------------------------------------------------------------------------------

LOW = RNG.random(N) < 0.5
REAL = np.where(LOW, RNG.normal(-2, 0.5, N), RNG.normal(3, 1.5, N))


BOUNDED = {}


def bounded(function):
    """Builders that return the estimate on the bound, and whether it has a closed form."""
    BOUNDED[function.__name__] = function
    return function


@bounded
def mean():
    mu = pm.Uniform("x", -1, 1, shape=2, initval=[-0.5, 0.5])
    pm.Normal("y", mu[label()], 1.0, observed=REAL)
    return [-1.0, 1.0], True


@bounded
def standard_deviation():
    mu = pm.Normal("mu", 0, 5, shape=2, initval=[-1.0, 1.0])
    sd = pm.Uniform("x", 0, 0.8)
    pm.Normal("y", mu[label()], sd, observed=2 * REAL)
    return 0.8, True


@bounded
def truncated_mean():
    mu = pm.TruncatedNormal("x", 0, 5, upper=2.0, initval=0.0)
    pm.Normal("y", pt.stack([-2.0, mu])[label()], 1.0, observed=REAL)
    return 2.0, True


@bounded
def rate():
    lam = pm.Uniform("x", 1.0, 5.0)
    pm.Exponential("y", pt.stack([5.0, lam])[label()], observed=np.abs(REAL) * 2)
    return 1.0, True


@bounded
def rate_of_no_events():
    lam = pm.Gamma("x", 2, 1)
    pm.Poisson("y", pt.stack([lam, 4.0])[label()], observed=np.where(LOW, 0, 3 + RNG.poisson(1.0, N)))
    return 0.0, True


@bounded
def vector_of_means():
    mu = pm.Uniform("x", -1, 1, shape=(2, 2), initval=np.array([[-0.5, -0.4], [0.5, 0.3]]))
    pm.MvNormal("y", mu[label()], cov=np.eye(2), observed=np.column_stack([REAL, 2 * REAL]))
    return [[-1, -1], [1, 1]], False


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (i % 2)) for i, n in enumerate(BOUNDED)])
def test_estimates_on_a_bound(name):
    with pm.Model() as model:
        expected, closed = BOUNDED[name]()
    em, other = (mlem.fit(model, method=m, starts=1, random_seed=0, progressbar=False) for m in ("em", "lbfgs"))
    assert ("x" in {block.name for block in em._estimate.target.engine.m_step.closed}) == closed
    assert em.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-4)
    np.testing.assert_allclose(em.estimates["x"], expected, atol=1e-4)


def test_scales_follow_the_units_of_the_data():
    def scales(unit):
        with pm.Model() as model:
            sd = pm.HalfNormal("sd", 1, shape=2)
            pm.Normal("y", pt.stack([-2.0 * unit, 3.0 * unit])[label()], sd[model["z"]], observed=unit * REAL)
        steps = mlem.em_steps(model, start={"sd": [unit, unit]}, max_iterations=20)
        return [step.estimates["sd"].values for step in steps][-1] / unit

    np.testing.assert_allclose(scales(1e-19), scales(1.0), rtol=1e-9)


def test_a_support_that_is_not_known_has_no_closed_form():
    with pm.Model() as model:
        top = pm.HalfNormal("top", 5)
        mu = pm.Uniform("mu", 0, top)  # a bound that is estimated
        angle = pm.VonMises("angle", 0, 1)
        pm.Normal("y", mu + angle, 1.0, observed=REAL)
    tables, space = (engine := engine_for(model, "map")).objective.tables, engine.objective.space
    probing = Probing(tables, space)
    found = {p.name: support(p, space, probing.points) for p in tables.structure.free}
    assert found["mu"] is None
    assert found["angle"] is None
    assert (found["top"].lower, found["top"].upper) == (0.0, np.inf)
    assert not engine.m_step.closed


# --- ownership --------------------------------------------------------------------------------------------


def test_an_empty_component_keeps_its_parameters():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5, shape=3, initval=[-2.0, 3.0, 60.0])
        z = pm.Categorical("z", pm.Dirichlet("w", np.ones(3)), shape=N)
        pm.Normal("y", mu[z], pm.HalfNormal("sd", 1, initval=0.5), observed=REAL)
    engine = engine_for(model, "mle")
    objective = engine.objective
    new = engine.em_map(objective.space.initial, np.ones(N), engine.data, None, False)[0]
    after = objective.space.values(np.asarray(new))
    assert after["mu"][2] == 60.0
    assert np.all(after["mu"][:2] != [-2.0, 3.0])


def test_a_potential_on_a_parameter_is_not_forgotten():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[-1.0, 1.0])
        pm.Potential("pull", -50.0 * (mu - 1.0) ** 2)
        pm.Normal("y", mu[label()], 1.0, observed=REAL)
    em, newton = (mlem.fit(model, method=m, starts=1, random_seed=0, progressbar=False) for m in ("em", "newton"))
    assert "mu" not in {block.name for block in em._estimate.target.engine.m_step.closed}
    np.testing.assert_allclose(em.estimates["mu"], newton.estimates["mu"], rtol=1e-3)


# --- registration -----------------------------------------------------------------------------------------


@pytest.fixture
def registries():
    """What a test registers is forgotten after it."""
    from pm_mlem.objective.m_step.closed_forms import CLOSED_FORMS
    from pm_mlem.objective.m_step.reductions import REDUCTIONS

    before = dict(CLOSED_FORMS), dict(REDUCTIONS)
    yield
    for registry, saved in zip((CLOSED_FORMS, REDUCTIONS), before, strict=True):
        registry.clear()
        registry.update(saved)


DISTANCES = np.where(HIGH, RNG.rayleigh(5.0, N), RNG.rayleigh(0.8, N))


def rayleigh():
    with pm.Model() as model:
        v = pm.InverseGamma("v", 3, 2, shape=2, initval=[0.5, 8.0])
        w = pm.Dirichlet("w", np.ones(2))
        z = pm.Categorical("z", w, shape=N)
        pm.CustomDist(
            "y", pt.sqrt(v)[z], logp=lambda y, s: pt.log(y) - 2 * pt.log(s) - y**2 / (2 * s**2), observed=DISTANCES
        )
    return model


def squares(weights, parameters, value):
    return weights * value**2, weights


@pytest.mark.parametrize("estimator", ["mle", "map"])
def test_a_closed_form_for_a_custom_distribution(registries, estimator):
    model = rayleigh()
    mlem.register_m_step(
        type(model["y"].owner.op),
        squares,
        parameter=0,
        maximise=lambda total, count: (total / (2 * count)) ** 0.5,
        priors={("square root", pm.InverseGamma): lambda t, n, a, b: ((t / 2 + b) / (n + a + 1)) ** 0.5},
    )
    em, newton = (
        mlem.fit(m, estimator, method=method, starts=1, random_seed=0, progressbar=False)
        for m, method in ((model, "em"), (rayleigh(), "newton"))
    )
    assert {block.name for block in em._estimate.target.engine.m_step.closed} == {"v", "w"}
    np.testing.assert_allclose(em.estimates["v"], newton.estimates["v"], rtol=1e-3)
    assert em._estimate.optimum.value == pytest.approx(newton._estimate.optimum.value, abs=1e-6)


def test_sums_for_a_custom_distribution(registries):
    import jax.numpy as jnp

    model = rayleigh()
    mlem.register_m_step(
        type(model["y"].owner.op),
        squares,
        expected=lambda parameters, total, count: (
            -2 * count * jnp.log(parameters[0]) - total / (2 * parameters[0] ** 2)
        ),
    )
    em = mlem.fit(model, "map", method="em", starts=1, random_seed=0, progressbar=False)
    newton = mlem.fit(rayleigh(), "map", method="newton", starts=1, random_seed=0, progressbar=False)
    assert em._estimate.target.engine.m_step.reduced.names == ("v",)
    assert em._estimate.target.engine.m_step.reduced.groups.count == 2
    np.testing.assert_allclose(em.estimates["v"], newton.estimates["v"], rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "either maximise="),
        ({"maximise": abs, "expected": abs, "parameter": 0}, ValueError, "either maximise="),
        ({"maximise": abs}, ValueError, "needs parameter="),
        ({"expected": abs, "parameter": 0}, ValueError, "belong to maximise="),
        ({"distribution": pm.Weibull, "expected": abs}, TypeError, "WeibullBetaRV|Weibull is not a plain"),
        ({"distribution": "Pareto", "expected": abs}, TypeError, "'Pareto' is not a plain"),
        ({"maximise": abs, "parameter": 0, "priors": {("cube", pm.Gamma): abs}}, ValueError, "the link 'cube'"),
    ],
)
def test_what_cannot_be_registered(arguments, error, message):
    arguments = {"distribution": pm.Pareto, **arguments}
    with pytest.raises(error, match=message):
        mlem.register_m_step(statistics=squares, **arguments)
