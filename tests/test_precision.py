"""The user's settings of JAX and PyTensor stay as they are, and change no digit."""

import subprocess
import sys

import numpy as np
import pytest
from pytensor import config

from pm_mlem.precision import double, in_double, items_in_double, wide_graphs

SCRIPT = """
import sys
import numpy as np, pymc as pm, jax, pytensor
import pm_mlem as mlem
jax.config.update("jax_enable_x64", False)
pytensor.config.floatX = sys.argv[1]
data = np.repeat([0.25, 1.0, 2.5, 0.5], [3, 4, 2, 5])
def model():
    with pm.Model() as result:
        pm.Gamma("y", pm.HalfNormal("a", 2), pm.HalfNormal("b", 2), observed=data)
    return result
seen = []
def look(x):
    seen.append((jax.config.jax_enable_x64, jax.numpy.ones(1).dtype.name, pytensor.config.floatX))
    return x
first = model()
fit = look(mlem.fit(first, starts=1, progressbar=False))
values = [fit.log_likelihood, *look(fit.summary())[["estimate", "se"]].to_numpy().ravel()]
for step in mlem.em_steps(first, max_iterations=2):
    look(step.estimates)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_enable_x64", False)
again = look(mlem.fit(first, starts=1, progressbar=False, method="lbfgs"))
values.append(again.log_likelihood)
values.append(mlem.fit(first, starts=1, progressbar=False, backend="c").log_likelihood)
print(sorted(set(seen)))
from pytensor.link.jax.dispatch import jax_funcify
print(jax.config.jax_enable_x64)
print(*[repr(float(v)) for v in values])
"""


def run(float_x):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, float_x], capture_output=True, text=True, check=True, env=without_switch()
    ).stdout.splitlines()


def without_switch():
    import os

    return {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}


@pytest.mark.slow
@pytest.mark.compiled
def test_settings_are_left_alone_and_change_nothing():
    double_seen, double_later, double_values = run("float64")
    single_seen, single_later, single_values = run("float32")
    assert double_seen == "[(False, 'float32', 'float64')]"
    assert single_seen == "[(False, 'float32', 'float32')]"
    assert (double_later, single_later) == ("True", "False")  # as PyTensor's own import leaves it
    found = [np.array(v.split(), dtype=float) for v in (double_values, single_values)]
    np.testing.assert_allclose(*found, rtol=1e-9)
    assert found[0][-1] == pytest.approx(found[0][0], abs=1e-8)


def test_graphs_are_wide_within():
    with config.change_flags(floatX="float32"):
        with wide_graphs():
            assert config.floatX == "float64"
        assert config.floatX == "float32"


def test_classes_and_generators_compute_in_double():
    import jax

    @in_double
    class Thing:
        def method(self):
            return jax.config.jax_enable_x64

        @property
        def own(self):
            return jax.config.jax_enable_x64

    @items_in_double
    def items():
        for _ in range(2):
            yield jax.config.jax_enable_x64

    with jax.enable_x64(False):
        assert Thing().method() and Thing().own
        for item in items():
            assert item and not jax.config.jax_enable_x64
        with double():
            assert jax.config.jax_enable_x64
        assert not jax.config.jax_enable_x64
