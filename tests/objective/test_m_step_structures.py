"""On every structure EM never lets the objective fall, whatever updates the parameters."""

import numpy as np
import pymc as pm
import pytest

from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.m_step import em_map
from structures import STRUCTURES


@pytest.mark.parametrize("estimator", ["mle", pytest.param("map", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", STRUCTURES)
def test_em_never_falls(name, estimator):
    import warnings

    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC announces imputation
        STRUCTURES[name]()
    engine = engine_for(model, estimator)
    objective = engine.objective
    step = objective.jit_once(em_map(objective, engine.m_step))
    unit = np.ones(objective.n_units)
    u = objective.space.initial + 0.1 * np.random.default_rng(1).normal(size=objective.space.size)
    values = []
    for _ in range(12):
        u, value = step(u, unit, objective.data, None, False)
        values.append(float(value))
    assert np.all(np.isfinite(values))
    assert np.all(np.diff(values) >= -1e-9 * (1 + np.abs(values[1:])))
