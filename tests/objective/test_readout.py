"""Many Deterministics: evaluated one by one, with the numbers that few have."""

import numpy as np
import pymc as pm
import pytest

from pm_mlem.estimate.target import target_of
from pm_mlem.graph.read import read
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.objective import readout

Y = np.random.default_rng(2).normal([-1, 1] * 10)


def model(many):
    """Deterministics of parameters, of one latent, and of two."""
    with pm.Model() as built:
        mu = pm.Normal("mu", shape=2, initval=[-1.0, 1.5])
        s = pm.HalfNormal("s")
        z = pm.Bernoulli("z", 0.4, shape=20)
        for i in range(many):
            pm.Deterministic(f"plain{i}", i * mu[0] + s)
            pm.Deterministic(f"one{i}", i * mu[z[i % 3]] * s)
            pm.Deterministic(f"two{i}", mu[z[0]] * z[1] * (i + 1))
        pm.Deterministic("all", mu[z] + s)
        pm.Normal("y", mu[z], s, observed=Y)
    return built


def test_a_deterministic_of_one_element_needs_no_table_of_its_own():
    tables = read(model(30))
    assert [p.name for p in tables.probes] == ["z", "two0"]
    assert len(tables.derived) == 91


@pytest.mark.compiled
def test_many_have_the_numbers_of_few(monkeypatch):
    monkeypatch.setattr(readout, "MANY", 12)
    few, many = (target_of(model(n), "mle", Choices(), None) for n in (3, 4))
    assert many.readout.many and not few.readout.many
    u = few.space.initial + 0.1
    for found, expected in zip(
        (many.report(u)[0], many.jacobians(u)), (few.report(u)[0], few.jacobians(u)), strict=True
    ):
        assert len(found) == len(expected) + 3
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-10, atol=1e-12)
    mu, s = few.space.values(u).values()
    assert many.report(u)[0]["plain3"] == pytest.approx(3 * mu[0] + s)
