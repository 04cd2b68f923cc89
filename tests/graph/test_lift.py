"""Tables of mixtures against enumeration of all configurations, and refusals by name."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

import pm_mlem as mlem
from brute_force import enumerate_latents
from in_one_piece import evaluated
from pm_mlem.graph.lift import lift_node
from pm_mlem.graph.lift.rules_generic import rebuild
from pm_mlem.objective.engine import engine_for

N = 5
RNG = np.random.default_rng(3)
Y = RNG.normal(size=N)
COUNTS = RNG.poisson(2.0, N)
DESIGN = RNG.normal(size=(N, 2))
GROUP = np.array([0, 1, 1, 2, 0])


def base(k=2):
    w = pm.Dirichlet("w", np.arange(2.0, 2.0 + k))
    return w, pm.Categorical("z", w, shape=N)


MODELS = {}


def model(function):
    MODELS[function.__name__] = function
    return function


@model
def normal_components():
    w, z = base()
    mu, sd = pm.Normal("mu", shape=2, initval=[-1.0, 1.0]), pm.HalfNormal("sd", shape=2)
    pm.Normal("y", mu[z], sd[z], observed=Y)
    return {"z": ((N,), [0, 1])}


@model
def three_poissons_with_covariate():
    w, z = base(3)
    a, b = pm.Normal("a", shape=3), pm.Normal("b")
    pm.Poisson("y", pt.exp(a[z] + b * DESIGN[:, 0]), observed=COUNTS)
    return {"z": ((N,), [0, 1, 2])}


@model
def bernoulli_switch():
    p = pm.Beta("p", 2, 2)
    z = pm.Bernoulli("z", p, shape=N)
    mu = pm.Normal("mu", shape=2, initval=[-1.0, 1.0])
    pm.Normal("y", pt.switch(z, mu[1], mu[0]), 1.0, observed=Y)
    return {"z": ((N,), [0, 1])}


@model
def covariate_weights():
    gamma = pm.Normal("gamma", shape=2)
    z = pm.Bernoulli("z", logit_p=DESIGN @ gamma, shape=N)
    mu = pm.Normal("mu", shape=2, initval=[-1.0, 1.0])
    pm.Normal("y", mu[z], 0.7, observed=Y)
    return {"z": ((N,), [0, 1])}


@model
def regression_mixture():
    w, z = base()
    b = pm.Normal("b", shape=(2, 2), initval=np.array([[0.0, 1.0], [1.0, -1.0]]))
    pm.Normal("y", (DESIGN * b[z]).sum(-1), 0.5, observed=Y)
    return {"z": ((N,), [0, 1])}


@model
def regression_mixture_by_rows():
    w, z = base()
    b = pm.Normal("b", shape=(2, 2), initval=np.array([[0.0, 1.0], [1.0, -1.0]]))
    pm.Normal("y", (DESIGN @ b.T)[np.arange(N), z], 0.5, observed=Y)
    return {"z": ((N,), [0, 1])}


@model
def latent_class_items():
    w, z = base()
    p = pm.Beta("p", 1, 1, shape=(2, 3), initval=np.array([[0.2, 0.3, 0.4], [0.9, 0.6, 0.7]]))
    pm.Bernoulli("y", p[z], observed=(RNG.random((N, 3)) < 0.5).astype(int))
    return {"z": ((N,), [0, 1])}


@model
def multivariate():
    w, z = base()
    mu = pm.Normal("mu", shape=(2, 2), initval=np.array([[0.0, 1.0], [1.0, -1.0]]))
    chol, _, _ = pm.LKJCholeskyCov("chol", n=2, eta=2, sd_dist=pm.HalfNormal.dist(1.0))
    pm.MvNormal("y", mu[z], chol=chol, observed=DESIGN)
    return {"z": ((N,), [0, 1])}


@model
def long_format():
    w = pm.Dirichlet("w", np.ones(2))
    z = pm.Categorical("z", w, shape=3)
    mu = pm.Normal("mu", shape=2, initval=[-1.0, 1.0])
    pm.Normal("y", mu[z[GROUP]], 0.8, observed=Y)
    return {"z": ((3,), [0, 1])}


@model
def two_observations_of_one_label():
    w, z = base()
    mu, rate = pm.Normal("mu", shape=2, initval=[-1.0, 1.0]), pm.Gamma("rate", 2, 1, shape=2, initval=[1.0, 3.0])
    pm.Normal("y", mu[z], 0.8, observed=Y)
    pm.Poisson("count", rate[z], observed=COUNTS)
    return {"z": ((N,), [0, 1])}


@model
def structural_zeros():
    psi, rate = pm.Beta("psi", 2, 2), pm.Gamma("rate", 2, 1)
    z = pm.Bernoulli("z", psi, shape=N)
    pm.Poisson("y", rate * (1 - z), observed=np.array([0, 0, 3, 1, 0]))
    return {"z": ((N,), [0, 1])}


def build(name):
    with pm.Model() as result:
        domains = MODELS[name]()
    return result, domains


@pytest.mark.compiled
@pytest.mark.parametrize("name", MODELS)
def test_value_gradient_and_posterior_equal_enumeration(name):
    result, domains = build(name)
    engine = engine_for(result, "mle")
    objective = engine.objective
    u = objective.space.initial + 0.1 * np.random.default_rng(1).normal(size=objective.space.size)

    def brute(point):
        return enumerate_latents(result, domains, objective.space.values(point))

    found, expected = evaluated(engine, u), brute(u)
    assert found.value == pytest.approx(expected.log_likelihood, abs=1e-8)
    step = 1e-5
    for i in range(len(u)):
        moved = [u + s * step * np.eye(len(u))[i] for s in (1, -1)]
        slope = (brute(moved[0]).log_likelihood - brute(moved[1]).log_likelihood) / (2 * step)
        assert found.gradient[i] == pytest.approx(slope, rel=1e-5, abs=1e-6)
    for latent, probabilities in found.latents.items():
        np.testing.assert_allclose(np.moveaxis(probabilities, 0, -1), expected.probabilities[latent], atol=1e-8)


@pytest.mark.compiled
def test_parameters_stay_component_sized():
    """No table of a parameter is copied to the size of the data."""
    with pm.Model() as result:
        normal_components()
    tables = engine_for(result, "mle").objective.tables
    site = next(s for s in tables.sites if tables.densities[s.term].term.name == "y")
    assert [a.type.shape for a in site.parameters] == [(2, 1), (2, 1)]


@pytest.mark.compiled
def test_an_impossible_parameter_has_no_density():
    """PyMC's parameter checks are kept: a negative rate is not a likely one, even where the formula has a value."""
    with pm.Model() as result:
        rate = pm.Normal("rate", 1, 1)
        pm.Poisson("y", rate, observed=np.zeros(4, dtype=int))
    engine = engine_for(result, "mle")
    value, _ = engine.objective.value_and_gradient(np.array([-1.0]), np.ones(4), engine.data)
    assert float(value) == -np.inf


class Shuffle(Op):
    """An operation nobody has a rule for."""

    def make_node(self, x):
        x = pt.as_tensor(x)
        return Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = inputs[0][::-1].copy()


def test_unknown_operation_on_a_latent_is_refused_by_name():
    with pm.Model() as result:
        z = pm.Bernoulli("z", 0.4, shape=40)
        mu = pm.Normal("mu", shape=2)
        pm.Normal("y", Shuffle()(mu[z]), 1.0, observed=np.zeros(40))
    with pytest.raises(mlem.UnsupportedModelError, match=r"'y'.*Shuffle.*2\*\*40"):
        mlem.fit(result, progressbar=False)


@pytest.mark.slow
@pytest.mark.compiled
def test_an_operation_without_a_derivative_is_differenced():
    fits = []
    for shuffle in (Shuffle(), lambda x: x[::-1]):
        with pm.Model() as result:
            _, z = base()
            mu = pm.Normal("mu", shape=2, initval=[-1.0, 1.0])
            pm.Normal("y", shuffle(mu[z]), 1.0, observed=Y)
        fits.append(mlem.fit(result, starts=1, progressbar=False))
    assert "no derivative" in fits[0].message
    assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, abs=1e-9)
    np.testing.assert_allclose(fits[0].standard_errors()["mu"], fits[1].standard_errors()["mu"], rtol=1e-4)


def test_sum_over_many_latents_is_refused_by_name():
    with pm.Model() as result:
        z = pm.Bernoulli("z", 0.4, shape=40)
        mu = pm.Normal("mu")
        pm.Normal("total", mu * z.sum(), 1.0, observed=2.0)
    with pytest.raises(mlem.UnsupportedModelError, match=r"'total'.*Sum.*different elements.*2\*\*40"):
        mlem.fit(result, progressbar=False)


def test_a_latent_without_finite_states_is_refused_by_name():
    with pm.Model() as result:
        rate = pm.Gamma("rate", 2, 1)
        n = pm.DiscreteWeibull("n", 0.5, 1.0, shape=N)
        pm.Normal("y", n * rate, 1.0, observed=Y)
    with pytest.raises(mlem.UnsupportedModelError, match=r"'n'.*DiscreteWeibull"):
        mlem.fit(result, progressbar=False)


def test_a_state_beyond_the_parameter_is_refused():
    with pm.Model() as result:
        _, z = base(3)
        mu = pm.Normal("mu", shape=2)
        pm.Normal("y", mu[z], 1.0, observed=Y)
    with pytest.raises(mlem.UnsupportedModelError, match=r"axis of length 2 is indexed with a latent"):
        mlem.fit(result, progressbar=False)


def test_the_rule_for_all_operations_is_a_rule_like_the_others():
    """The base function knows no rule; that for operations without one of their own is registered for ``Op``."""
    assert lift_node.dispatch(Op) is rebuild
    assert lift_node.dispatch(type("Unknown", (Op,), {})) is rebuild
    with pytest.raises(NotImplementedError, match="no rule is registered for str"):
        lift_node("no operation", None, [], None)
