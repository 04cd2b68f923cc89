"""What all tests share: the caches, the compiler of C, the rule about the marker "compiled", and a few fits."""

import os
import warnings
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache"
os.environ.setdefault("PYTENSOR_FLAGS", f"base_compiledir={CACHE / 'pytensor'}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # for tests that call the rooms themselves; users' calls need no switch
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # a fifth less time; `make documents plain` have them all

import jax  # noqa: E402
import matplotlib  # noqa: E402

matplotlib.use("agg")

import numpy as np  # noqa: E402
import pymc as pm  # noqa: E402
import pytensor  # noqa: E402
import pytest  # noqa: E402

import pm_mlem as mlem  # noqa: E402
from pm_mlem.demo import old_faithful, waiting_times  # noqa: E402

C_COMPILER = pytensor.config.cxx
pytensor.config.cxx = ""  # PyTensor would call it for what is inside of an Op (loops, softmax): a second for every one

collect_ignore = ["benchmarks", "models"]
COMPILED = []
"""What XLA has compiled for the present test."""


def pytest_xdist_make_scheduler(config, log):
    """All tests of a file run in one process, so that its fits are made once; what shares nothing is spread.

    As groups of ``--dist loadgroup`` would do it, which xdist 3.8 forgets under pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return nodeid if file.endswith("test_documents.py") or "::test_many_random" in nodeid else file

    return ByFile(config, log)


def listen(event, duration, **more):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(more.get("fun_name", "something"))


jax.monitoring.register_event_duration_secs_listener(listen)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    COMPILED.clear()  # before the fixtures, whose compiled functions are the test's own


@pytest.fixture(autouse=True)
def compiles_only_where_marked(request):
    """The inner loop (``make quick``) stays quick: what calls XLA is marked as such."""
    yield
    if not any(request.node.get_closest_marker(name) for name in ("compiled", "documents", "slow")):
        assert not COMPILED, f"mark this test as compiled: XLA compiled {', '.join(COMPILED[:5])}"


@pytest.fixture
def c_compiler():
    with pytensor.config.change_flags(cxx=C_COMPILER):
        yield


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
    pytest.importorskip("pymc_extras")
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
def close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")
