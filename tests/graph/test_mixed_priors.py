"""Priors that discrete latents choose, against enumeration of the latents by SciPy."""

import itertools

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pytensor import function
from scipy.stats import beta, halfnorm, multivariate_normal, norm

import pm_mlem as mlem
from pm_mlem.graph.read import read
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.graph.roles.structure import PLAIN
from pm_mlem.objective.verify import verify_plan

Y = np.array([-1.2, 0.4, 2.0, 0.1])
SD = np.array([0.1, 3.0])


def spike_and_slab():
    p = pm.Beta("p", 2, 2)
    z = pm.Bernoulli("z", p, shape=2)
    b = pm.Normal("b", 0, pt.as_tensor(SD)[z], shape=2)
    pm.Normal("y", b[np.array([0, 0, 1, 1])], 1, observed=Y)

    def log_prior(p, b):
        return beta.logpdf(p, 2, 2) + sum(
            np.log((1 - p) * norm.pdf(x, 0, SD[0]) + p * norm.pdf(x, 0, SD[1])) for x in b
        )

    return {"p": np.array(0.3), "b": np.array([0.2, -1.0])}, log_prior


def index_of_a_model():
    k = pm.Categorical("k", [0.2, 0.8])
    a = pm.Normal("a", pt.as_tensor([-1.0, 1.0])[k], 1)
    s = pm.HalfNormal("s", pt.as_tensor([1.0, 2.0])[k], shape=2)
    pm.Normal("y", a, s[np.array([0, 0, 1, 1])], observed=Y)

    def log_prior(a, s):
        cases = [(0.2, -1, 1), (0.8, 1, 2)]
        return np.log(sum(w * norm.pdf(a, m, 1) * np.prod(halfnorm.pdf(s, scale=c)) for w, m, c in cases))

    return {"a": np.array(0.3), "s": np.array([0.7, 1.5])}, log_prior


def labels_of_groups():
    tau = pm.HalfNormal("tau", 1)
    z = pm.Categorical("z", [0.5, 0.3, 0.2], shape=2)
    effect = pm.Normal("effect", pm.math.stack([-1.0, 0.0, 1.0])[z] * tau, tau, shape=2)
    pm.Normal("y", effect[np.array([0, 1, 1, 0])], 1, observed=Y)

    def log_prior(tau, effect):
        means, w = np.array([-1, 0, 1]) * tau, [0.5, 0.3, 0.2]
        return halfnorm.logpdf(tau) + sum(np.log(np.sum(w * norm.pdf(x, means, tau))) for x in effect)

    return {"tau": np.array(0.8), "effect": np.array([-0.5, 1.2])}, log_prior


def chain_of_volatilities():
    z = [pm.Bernoulli("z0", 0.4)]
    for t in range(1, 3):
        z.append(pm.Bernoulli(f"z{t}", pt.as_tensor([0.2, 0.7])[z[-1]]))
    steps = [pm.Normal(f"step{t}", 0, pt.as_tensor(SD)[z[t]]) for t in range(len(z))]
    pm.Normal("y", pt.stack(steps).sum(), 1, observed=Y)

    def log_prior(**steps):
        total = 0.0
        for path in itertools.product([0, 1], repeat=len(steps)):
            weight = 0.4 if path[0] else 0.6
            for before, after in itertools.pairwise(path):
                weight *= [0.2, 0.7][before] if after else 1 - [0.2, 0.7][before]
            total += weight * np.prod([norm.pdf(x, 0, SD[k]) for x, k in zip(steps.values(), path, strict=True)])
        return np.log(total)

    return {f"step{t}": np.array(v) for t, v in enumerate([0.1, -2.0, 0.05])}, log_prior


def mean_of_a_vector():
    k = pm.Bernoulli("k", 0.3)
    v = pm.MvNormal("v", pt.stack([0.0, 2.0])[k] * np.ones(2), np.eye(2))
    pm.Normal("y", v[np.array([0, 1, 0, 1])], 1, observed=Y)

    def log_prior(v):
        densities = [multivariate_normal.pdf(v, [m, m]) for m in (0, 2)]
        return np.log(np.dot([0.7, 0.3], densities))

    return {"v": np.array([0.5, 1.0])}, log_prior


MODELS = [spike_and_slab, index_of_a_model, labels_of_groups, chain_of_volatilities, mean_of_a_vector]


def built(make):
    with pm.Model() as model:
        values, log_prior = make()
    return model, values, log_prior


@pytest.mark.parametrize("make", MODELS)
def test_the_prior_is_a_mixture(make):
    model, values, log_prior = built(make)
    tables = read(model, Choices(with_prior=True))
    run = function([*tables.free_inputs, *[v for v, _ in tables.data]], tables.log_prior, mode=PLAIN)
    found = run(*[values[p.name] for p in tables.structure.free], *[a for _, a in tables.data])
    assert found == pytest.approx(log_prior(**values), rel=1e-6)
    verify_plan(tables, values)


@pytest.mark.parametrize("make", MODELS)
def test_the_marginal_model_has_that_prior(make):
    model, values, log_prior = built(make)
    marginal = mlem.marginalize(model)
    graph = marginal.logp(vars=[marginal[name] for name in values], jacobian=False)
    point = {}
    for name, value in values.items():
        rv = marginal[name]
        transform = marginal.rvs_to_transforms[rv]
        free = value if transform is None else transform.forward(pt.constant(value)).eval(mode=PLAIN)
        point[marginal.rvs_to_values[rv]] = free
    found = function(list(point), graph, mode=PLAIN)(*point.values())
    assert float(found) == pytest.approx(log_prior(**values), rel=1e-6)


def test_a_latent_of_prior_and_likelihood_is_refused():
    with pm.Model() as model:
        z = pm.Bernoulli("z", 0.5)
        b = pm.Normal("b", 0, pt.as_tensor(SD)[z])
        pm.Normal("y", b * z, 1, observed=Y)
    with pytest.raises(mlem.UnsupportedModelError, match="'z' chooses the prior of 'b' and enters 'y' directly"):
        read(model, Choices(with_prior=True))
    read(model, Choices())


@pytest.mark.compiled
def test_maximum_a_posteriori_with_a_spike_and_a_slab():
    model, _, log_prior = built(spike_and_slab)
    fit = mlem.fit(model, "map", progressbar=False, random_seed=0)
    p, b = float(fit.estimates["p"]), fit.estimates["b"].values
    assert fit.log_prior == pytest.approx(log_prior(p, b), rel=1e-6)
    assert fit.log_likelihood == pytest.approx(norm.logpdf(Y, b[[0, 0, 1, 1]], 1).sum(), rel=1e-9)
    slab = p * norm.pdf(b, 0, SD[1])
    expected = slab / (slab + (1 - p) * norm.pdf(b, 0, SD[0]))
    np.testing.assert_allclose(fit.latent_probabilities["z"].values[:, 1], expected, rtol=1e-6)
    states = fit.decode()
    np.testing.assert_array_equal(states["z"], expected > 0.5)
    assert states.attrs["log_probability"] == pytest.approx(np.log(np.maximum(expected, 1 - expected)).sum(), rel=1e-6)
    for step in 1e-4 * np.eye(3):
        for sign in (1, -1):
            q, c = p + sign * step[0], b + sign * step[1:]
            assert log_prior(q, c) + norm.logpdf(Y, c[[0, 0, 1, 1]], 1).sum() <= fit.log_posterior + 1e-9
    mle = mlem.fit(model, fixed={"p": 0.5}, progressbar=False, random_seed=0)
    assert "drops the prior of 'b', which 'z' chooses" in mle.message
    np.testing.assert_allclose(mle.estimates["b"], [Y[:2].mean(), Y[2:].mean()], atol=1e-6)
