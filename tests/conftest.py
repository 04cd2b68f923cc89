"""Shared fixtures; compiled functions are kept between runs in the checkout's own cache."""

import os
import warnings
from contextlib import nullcontext
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

import pytensor  # noqa: E402

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


@pytest.fixture(scope="session")
def chains_fit():
    """Two animals that are calm or busy, day by day: hidden Markov chains."""
    rng = np.random.default_rng(5)
    states = np.array([[0] * 12 + [1] * 10 + [0] * 8, [1] * 6 + [0] * 14 + [1] * 10])
    with pm.Model(coords={"animal": ["a", "b"], "day": np.arange(1, 31)}) as model:
        stay = pm.Beta("stay", 2, 2, shape=2)
        rows = pm.math.stack([pm.math.stack([stay[0], 1 - stay[0]]), pm.math.stack([1 - stay[1], stay[1]])])
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[0.0, 4.0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymc_extras announces its changes
            from pymc_extras.distributions import DiscreteMarkovChain
        start = pm.Categorical.dist([0.5, 0.5])
        z = DiscreteMarkovChain("z", P=rows, init_dist=start, shape=(2, 30), dims=("animal", "day"))
        pm.Normal("activity", mu[z], 1, observed=4.0 * states + rng.normal(size=states.shape), dims=("animal", "day"))
    return mlem.fit(model, starts=1, progressbar=False)


@pytest.fixture
def coin():
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Bernoulli("flips", p, observed=np.repeat([1, 0], [60, 40]))
    return model


@pytest.fixture(autouse=True)
def python_alone(request):
    """PyTensor's Python linker compiles what is inside an Op, loops for example, with C: not in these tests."""
    marked = request.node.get_closest_marker("compiled") or request.node.get_closest_marker("documents")
    with nullcontext() if marked else pytensor.config.change_flags(cxx=""):
        yield


@pytest.fixture(autouse=True)
def close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")
