"""Structures lowered to JAX: value, gradient, posterior and mode against enumeration; EM never falls.

``tests/graph/test_structures.py`` has the same about the graphs of all structures, without a compiler.
"""

import numpy as np
import pytest

from brute_force import enumerate_latents
from in_one_piece import evaluated
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.m_step import em_map
from structures import COMPILED, SINGLE, built

pytestmark = pytest.mark.compiled


@pytest.mark.parametrize("name", COMPILED, scope="module")
def test_equal_to_enumeration(name):
    model, domains = built(name)
    engine = engine_for(model, "mle")
    objective = engine.objective
    rng = np.random.default_rng(1)
    u = objective.space.initial + 0.1 * rng.normal(size=objective.space.size)

    expected = enumerate_latents(model, domains, objective.space.values(u))
    found = evaluated(engine, u, decode=True)
    assert found.value == pytest.approx(expected.log_likelihood, abs=1e-6 if name in SINGLE else 1e-8)

    direction, step = rng.normal(size=len(u)), 1e-4
    ends = [
        enumerate_latents(model, domains, objective.space.values(u + s * step * direction)).log_likelihood
        for s in (1, -1)
    ]
    slope = (ends[0] - ends[1]) / (2 * step)
    assert found.gradient @ direction == pytest.approx(slope, rel=1e-5, abs=1e-6)

    for latent, probabilities in expected.probabilities.items():
        np.testing.assert_allclose(
            np.moveaxis(found.latents[latent], 0, -1), probabilities, atol=1e-6 if name in SINGLE else 1e-8
        )

    best = expected.log_likelihood + np.log(np.max(expected.weights))
    assert found.joint.sum() == pytest.approx(best, abs=1e-6 if name in SINGLE else 1e-8)
    decoded = found.states
    [place] = [
        i for i, c in enumerate(expected.configurations) if all(np.array_equal(c[n], decoded[n]) for n in decoded)
    ]
    assert expected.weights[place] == pytest.approx(np.max(expected.weights), rel=1e-6)


@pytest.mark.parametrize("estimator", ["mle", pytest.param("map", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", COMPILED, scope="module")
def test_em_never_falls(name, estimator):
    """Whatever updates the parameters."""
    model, _ = built(name)
    engine = engine_for(model, estimator)
    objective = engine.objective
    step = objective.jit_once(em_map(objective, engine.m_step))
    unit = np.ones(objective.n_units)
    u = objective.space.initial + 0.1 * np.random.default_rng(1).normal(size=objective.space.size)
    values = []
    for _ in range(12):
        u, value = step(u, unit, engine.data, None, False)
        values.append(float(value))
    assert np.all(np.isfinite(values))
    assert np.all(np.diff(values) >= -1e-9 * (1 + np.abs(values[1:])))
