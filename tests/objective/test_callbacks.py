"""Operations that JAX lacks, with all, some or none of their derivatives."""

import warnings

import jax
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

import pm_mlem as mlem
from pm_mlem.objective.lowering.callbacks import callback, step_along

pytestmark = pytest.mark.compiled

T = np.linspace(0, 5, 20)


class Curve(Op):
    """``-(-t)^order exp(-k t)`` as a black box, with as many derivatives as it is told, and no shape."""

    __props__ = ("derivatives", "order", "unit")

    def __init__(self, derivatives, order=0, unit=1.0):
        self.derivatives, self.order, self.unit = derivatives, order, unit

    def make_node(self, k):
        return Apply(self, [pt.as_tensor(k)], [pt.dvector()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = (-T / self.unit) ** self.order * np.exp(-inputs[0] / self.unit * T)

    def pullback(self, inputs, outputs, cotangents):
        if self.order == self.derivatives:
            raise NotImplementedError
        return [pt.dot(cotangents[0], Curve(self.derivatives, self.order + 1, self.unit)(inputs[0]))]


def model(curve, unit=1.0):
    data = np.exp(-0.7 * T) + np.random.default_rng(0).normal(0, 0.05, 20)
    with pm.Model() as result:
        k = pm.HalfNormal("k", unit)
        pm.Normal("y", curve(k), pm.HalfNormal("s", 1), observed=data)
    return result


@pytest.fixture(scope="module")
def exact():
    return mlem.fit(model(lambda k: pt.exp(-k * T)), progressbar=False)


@pytest.mark.parametrize(
    ("derivatives", "unit", "said"),
    [
        pytest.param(0, 1e6, "no derivative", marks=pytest.mark.slow),
        (1, 1e-6, "no second derivative"),
        (2, 1.0, ""),
    ],
)
def test_missing_derivatives_are_differences(derivatives, unit, said, exact):
    fit = mlem.fit(model(Curve(derivatives, unit=unit), unit), starts=1, progressbar=False)
    assert fit.converged
    assert said in fit.message
    assert ("difference" in fit.message) == bool(said)
    assert fit.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-8)
    for name, scale in (("k", unit), ("s", 1.0)):
        assert fit.estimates[name].item() / scale == pytest.approx(exact.estimates[name].item(), rel=1e-5)
        error = exact.standard_errors()[name].item()
        assert fit.standard_errors()[name].item() / scale == pytest.approx(error, rel=1e-4)
        opg = exact.standard_errors("opg")[name].item()
        assert fit.standard_errors("opg")[name].item() / scale == pytest.approx(opg, rel=1e-4)


@pytest.mark.parametrize("method", ["em", "lbfgs"])
def test_every_method_takes_them(method, exact):
    fit = mlem.fit(model(Curve(1)), method=method, starts=1, progressbar=False)
    assert fit.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-6)


def test_no_difference_is_taken_by_data():
    x, data = pt.tensor("x", dtype="float64", shape=(3,)), pt.tensor("data", dtype="float64", shape=(3,))
    data.tag.holds_data = True
    run = callback([x, data], [x * data], "numba", exact=0)
    assert run.exact == 0

    slope = jax.grad(lambda a, b: run(a, b)[0].sum(), argnums=(0, 1))
    by_x, by_data = slope(np.array([0.0, 1.0, -1e8]), np.array([2.0, 3.0, 4.0]))
    np.testing.assert_allclose(by_x, [2.0, 3.0, 4.0], rtol=1e-7)
    np.testing.assert_array_equal(by_data, np.zeros(3))


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_steps_follow_the_curvature(unit):
    def at(step):
        return [np.array([100.0 + np.cos(0.3 + step / unit)])]

    step, ends = step_along(at, at(0.0), 1e-4, 1e-10)
    slope = (ends[0][0] - ends[1][0])[0] / (2 * step) * unit
    assert slope == pytest.approx(-np.sin(0.3), rel=1e-6)


def test_interpolated_priors():
    """PyMC's spline has one derivative."""
    grid = np.linspace(-5, 5, 200)
    with pm.Model() as result:
        mu = pm.Interpolated("mu", grid, np.exp(-0.5 * (grid - 1) ** 2))
        pm.Normal("y", mu, 1, observed=np.full(9, 2.0))
    fit = mlem.fit(result, "map", starts=1, progressbar=False)
    assert fit.estimates["mu"].item() == pytest.approx(1.9, abs=1e-3)
    assert fit.standard_errors()["mu"].item() == pytest.approx(10**-0.5, rel=0.01)
    assert "no second derivative" in fit.message


def test_a_start_without_derivatives_is_left():
    """Two points at the same place have a distance, but it has no slope."""
    with pm.Model() as result:
        a = pm.Normal("a", shape=2)
        pm.Potential("p", -((pt.sqrt(((a[:, None] - a[None, :]) ** 2).sum()) - 1.0) ** 2) - (a.sum() - 1.0) ** 2)
    fit = mlem.fit(result, starts=1, random_seed=1, progressbar=False)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(0.0, abs=1e-9)
    assert "moved" in fit.starts["origin"].iloc[0]


def test_a_slope_that_is_wrong_is_differenced():
    """An Op whose gradient has the wrong sign."""

    class Wrong(Op):
        def make_node(self, x):
            return Apply(self, [pt.as_tensor(x)], [pt.dscalar()])

        def perform(self, node, inputs, outputs):
            outputs[0][0] = np.asarray(-((inputs[0] - 2.0) ** 2))

        def pullback(self, inputs, outputs, cotangents):
            return [2.0 * (inputs[0] - 2.0) * cotangents[0]]

    with pm.Model() as result:
        pm.Potential("p", Wrong()(pm.Normal("x")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = mlem.fit(result, starts=1, progressbar=False)
    assert fit.estimates["x"].item() == pytest.approx(2.0, abs=1e-6)
    assert "differ from its differences" in fit.message
