"""Old Faithful, fitted by maximum likelihood, EM and MAP, beside NUTS: ``python -m pm_mlem.demo``."""

from __future__ import annotations

import argparse
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pymc as pm

import pm_mlem as mlem


def waiting_times() -> np.ndarray:
    """Minutes to the next eruption of Old Faithful, 272 of them (R's ``datasets::faithful``)."""
    path = files("pm_mlem") / "data" / "old_faithful.csv"
    with path.open() as lines:
        return np.loadtxt(lines, delimiter=",", comments="#", skiprows=3, usecols=1)


def old_faithful(waiting: np.ndarray) -> pm.Model:
    """The model as any PyMC user would write it: a hidden kind of eruption behind every waiting time."""
    with pm.Model(coords={"kind": ["short", "long"], "eruption": np.arange(len(waiting))}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="kind")
        mu = pm.Normal("mu", 70, 20, initval=[55.0, 80.0], dims="kind")
        sigma = pm.HalfNormal("sigma", 10, dims="kind")
        z = pm.Categorical("z", w, dims="eruption")
        pm.Deterministic("expected_wait", mu[z], dims="eruption")
        pm.Normal("waiting", mu[z], sigma[z], observed=waiting, dims="eruption")
    return model
