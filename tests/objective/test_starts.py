"""Start points from the data and the priors."""

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.graph.roles.transforms import prior_sampler
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.starts import (
    CLUSTERS,
    FOR_COMPONENTS,
    INITIAL,
    PERTURBED,
    PRIOR,
    QUANTILES,
    SUBSAMPLE,
    SUBSETS,
    StartMaker,
    clusters,
    quantiles,
    subsets,
)

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(5)
Y = np.concatenate([RNG.normal(-4.0, 1.0, 30), RNG.normal(4.0, 1.0, 30)])


def maker(model, seed=0):
    engine = engine_for(model, "mle")
    unit, rng = np.ones(engine.objective.n_units), np.random.default_rng(seed)
    return StartMaker(engine.objective, lambda: engine.em_map, unit, engine.data, rng)


def mixture():
    with pm.Model() as model:
        w, mu = pm.Dirichlet("w", np.ones(2)), pm.Normal("mu", 0, 5, shape=2)
        sigma, z = pm.HalfNormal("sigma", 2, shape=2), pm.Categorical("z", w, shape=60)
        pm.Normal("y", mu[z], sigma[z], observed=Y)
    return model


def chain():
    with pm.Model() as model:
        P, mu = pm.Dirichlet("P", np.ones((2, 2))), pm.Normal("mu", 0, 5, shape=2)
        states = [pm.Categorical("z_0", [0.5, 0.5])]
        for t in range(1, 10):
            states.append(pm.Categorical(f"z_{t}", P[states[-1]]))
        for t, s in enumerate(states):
            pm.Normal(f"y_{t}", mu[s], 1.0, observed=Y[6 * t])
    return model


def nested():
    group = np.repeat(np.arange(12), 5)
    with pm.Model() as model:
        w, v = pm.Dirichlet("w", np.ones(2)), pm.Dirichlet("v", np.ones((2, 2)))
        school = pm.Categorical("school", w, shape=12)
        pupil = pm.Categorical("pupil", v[school[group]], shape=60)
        pm.Normal("y", pm.Normal("mu", 0, 5, shape=2)[pupil], 1.0, observed=Y)
    return model


def two_latents():
    with pm.Model() as model:
        a, b = pm.Categorical("a", [0.5, 0.5], shape=60), pm.Categorical("b", [0.4, 0.6], shape=60)
        pm.Normal("y", pm.Normal("mu", 0, 5, shape=2)[a], 1.0, observed=Y)
        pm.Poisson("n", pm.Gamma("rate", 2, 1, shape=2)[b], observed=RNG.poisson(2.0, 60))
    return model


def abundance():
    with pm.Model() as model:
        n = pm.Poisson("n", pm.Gamma("rate", 2, 1), shape=6)
        pm.Binomial("y", n[:, None], pm.Beta("p", 2, 2), observed=RNG.poisson(1.0, (6, 2)))
    return model


def no_latents():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0, 5), pm.HalfNormal("sigma", 2), observed=Y)
    return model


@pytest.mark.parametrize("build", [mixture, chain, nested, two_latents, abundance, no_latents])
def test_starts_of_all_kinds_are_finite_and_different(build):
    make = maker(build())
    points = [make.first(), *make.further(8)]
    objective = make.objective
    assert points[0][0] == INITIAL
    values = [float(objective.value_and_gradient(p, make.unit, make.data)[0]) for _, p in points]
    assert np.isfinite(values).sum() >= 7
    assert len({tuple(np.round(p, 6)) for _, p in points}) >= 8
    kinds = {origin for origin, _ in points[1:]}
    grouped = build not in (abundance, no_latents)
    assert kinds == ({CLUSTERS, QUANTILES, SUBSETS, PRIOR, PERTURBED} if grouped else {PRIOR, PERTURBED})


def test_starts_are_reproducible():
    model = mixture()
    one, two, other = (list(maker(model, seed).further(7)) for seed in (0, 0, 1))
    for (_, a), (_, b), (_, c) in zip(one, two, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    assert tuple(origin for origin, _ in one) == FOR_COMPONENTS


def test_clusters_are_near_their_optimum_at_once():
    make = maker(mixture())
    mu = [np.sort(make.objective.space.values(p)["mu"]) for kind, p in make.further(7) if kind == CLUSTERS]
    assert len(mu) == 3
    assert np.mean(np.abs(np.array(mu) - [Y[:30].mean(), Y[30:].mean()])) < 2.0


def test_groups_of_elements():
    rng = np.random.default_rng(0)
    table = np.concatenate([rng.normal(-5, 0.1, (30, 2)), rng.normal(5, 0.1, (30, 2))])
    truth = np.repeat([0, 1], 30)
    assert abs(np.mean(clusters(table, 2, rng) == truth) - 0.5) == 0.5  # the same groups, under whatever names
    sizes = [np.bincount(quantiles(table, 2, rng)) for _ in range(20)]
    assert len({tuple(s) for s in sizes}) > 5
    assert np.min(sizes) > 0
    assert set(quantiles(np.zeros((90, 1)), 3, rng)) == {0, 1, 2}  # ties go to either side
    assert set(clusters(np.zeros((9, 1)), 3, rng)) == {0}
    chosen = subsets(3, 50, 6, rng)
    assert chosen.shape == (3, 50)
    assert (chosen == 1).sum(axis=1).tolist() == [4, 4, 4]
    assert (chosen == 1).sum(axis=0).max() == 1


def test_seeds_are_looked_for_in_a_subsample():
    table = np.random.default_rng(0).normal(size=(4 * SUBSAMPLE, 1))
    labels = clusters(table, 4, np.random.default_rng(1))
    assert len(labels) == len(table)
    assert len(set(labels)) == 4


def test_draws_from_the_prior_leave_the_model_alone():
    with pm.Model() as model:
        s = pm.HalfNormal("s", 1.0)
        mu = pm.Normal("mu", 100.0, s, shape=3)
        pm.LKJCholeskyCov("chol", n=2, eta=2, sd_dist=pm.HalfNormal.dist(1.0))
        pm.ZeroSumNormal("effect", 1.0, shape=4)
        pm.Normal("y", mu, 1.0, observed=np.zeros(3))
    state = mu.owner.inputs[0].get_value().bit_generator.state
    structure = engine_for(model, "map").objective.tables.structure
    draw = prior_sampler(structure)
    one, two = draw(np.random.default_rng(0)), draw(np.random.default_rng(1))
    assert abs(one["mu"].mean() - 100.0) < 10.0
    assert not np.array_equal(one["mu"], two["mu"])
    assert one["effect"].sum() == pytest.approx(0.0, abs=1e-12)
    assert mu.owner.inputs[0].get_value().bit_generator.state == state


def test_held_variables_are_held_in_the_prior_too():
    with pm.Model() as model:
        centre = pm.Normal("centre", 0.0, 1.0)
        mu = pm.Normal("mu", centre, 0.1)
        pm.Normal("y", mu, 1.0, observed=np.zeros(3))
    structure = engine_for(model, "map", Choices(fixed={"centre": 50.0})).objective.tables.structure
    assert prior_sampler(structure)(np.random.default_rng(0))["mu"] == pytest.approx(50.0, abs=1.0)


def test_priors_without_draws_are_passed_over():
    with pm.Model() as model:
        mu = pm.Flat("mu")
        pm.Normal("y", mu, 1.0, observed=Y)
    make = maker(model)
    assert {origin for origin, _ in make.further(4)} == {PERTURBED}
    assert mlem.fit(model, starts=3, random_seed=0, progressbar=False).converged


def test_starts_are_recorded_with_their_origin():
    found = mlem.fit(mixture(), starts=6, random_seed=0, progressbar=False).starts
    assert found["origin"].tolist() == [INITIAL, *FOR_COMPONENTS[:5]]
    assert found["start"].tolist() == list(range(6))
    assert (found["optimum"] == 0).sum() == found["reached"].max() >= 2


def test_points_on_the_boundary_are_moved_just_inside():
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(3))
        p = pm.Beta("p", 1, 1, shape=2)
        rate = pm.HalfNormal("rate", 1)
        pm.Normal("y", w[0] + p[1], rate + 1e-3, observed=[0.1, 0.2, 0.4])
    space = engine_for(model, "mle").objective.space
    values = {"w": np.array([0.0, 0.0, 1.0]), "p": np.array([0.0, 1.0]), "rate": np.array(0.0)}
    with pytest.raises(ValueError, match="outside the support"):
        space.unconstrain(values)
    back = space.values(space.unconstrain(space.just_inside(values)))
    for name, value in values.items():
        np.testing.assert_allclose(back[name], value, atol=1e-15)
