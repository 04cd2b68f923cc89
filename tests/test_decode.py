"""The jointly most probable latents, and draws from their posterior, against enumeration."""

import jax
import numpy as np
import pymc as pm
import pytest

from brute_force import enumerate_latents, joint_log_density
from pm_mlem.objective.engine import engine_for
from structures import STRUCTURES
from test_structures import SINGLE, build


def problem(model):
    """The engine of a model and a point."""
    engine = engine_for(model, "mle")
    space = engine.objective.space
    return engine, space.initial + 0.1 * np.random.default_rng(1).normal(size=space.size)


@pytest.mark.parametrize("name", STRUCTURES)
def test_decoded_is_the_best_of_all_configurations(name):
    model, domains = build(name)
    engine, u = problem(model)
    objective = engine.objective
    theta = objective.space.values(u)
    expected = enumerate_latents(model, domains, theta)
    best = expected.log_likelihood + np.log(np.max(expected.weights))
    tolerance = 1e-6 if name in SINGLE else 1e-8

    states, units = engine.report.decode(u, objective.data)
    assert float(units.sum()) == pytest.approx(best, abs=tolerance)
    found = dict(zip(engine.report.latent_names, map(np.asarray, states), strict=True))
    density = joint_log_density(model, set(domains))
    assert density({**theta, **found}) == pytest.approx(best, abs=tolerance)

    value, posterior = objective.decoded(objective.space.constrain(u), np.ones(objective.n_units), objective.data)
    assert float(value) == pytest.approx(best, abs=tolerance)
    at_mode = objective.expected(objective.space.constrain(u), posterior, objective.data)
    assert float(at_mode) == pytest.approx(best, abs=tolerance)
    assert all(np.array_equal(p, np.round(p)) for p in posterior)
