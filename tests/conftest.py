"""Shared fixtures; compiled functions are kept between runs in the checkout's own cache."""

import os
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache"
os.environ.setdefault("PYTENSOR_FLAGS", f"base_compiledir={CACHE / 'pytensor'}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import matplotlib  # noqa: E402

matplotlib.use("agg")

import numpy as np  # noqa: E402
import pymc as pm  # noqa: E402
import pytest  # noqa: E402

import pm_mlem as mlem  # noqa: E402
from pm_mlem.demo import old_faithful, waiting_times  # noqa: E402


@pytest.fixture(scope="session")
def faithful():
    """Old Faithful's model: one model, compiled once for all tests of results and plots."""
    return old_faithful(waiting_times())


@pytest.fixture(scope="session")
def faithful_fit(faithful):
    return mlem.fit(faithful, random_seed=1, progressbar=False)


@pytest.fixture(scope="session")
def faithful_map(faithful):
    return mlem.fit(faithful, "map", random_seed=1, progressbar=False)


@pytest.fixture
def coin():
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Bernoulli("flips", p, observed=np.repeat([1, 0], [60, 40]))
    return model


@pytest.fixture(autouse=True)
def close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")
