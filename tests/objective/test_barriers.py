"""Large graphs are compiled in pieces: the same values and derivatives, at a cost that grows with their size."""

import jax
import numpy as np
import pytensor.tensor as pt
import pytest

from pm_mlem.objective.lowering.barriers import LARGEST_PIECE, MANY_NODES
from pm_mlem.objective.lowering.lower import lower

pytestmark = pytest.mark.compiled


def residuals(n):
    """Squared residuals of a predictor of n scalars, as a python loop writes it."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 20)), rng.normal(size=20)
    slopes = [pt.scalar(f"b{i}") for i in range(n)]
    run = lower(slopes, [(y - sum(x[i] * b for i, b in enumerate(slopes))) ** 2])
    return (lambda u: run(*u)[0].sum()), x, y, rng.normal(size=n)


def operations(function, *arguments):
    """How many operations XLA makes of a gradient."""
    return jax.jit(jax.grad(function)).lower(*arguments).compile().as_text().count(" = ")


def test_values_and_derivatives_are_the_same():
    n = MANY_NODES
    value, x, y, u = residuals(n)
    barriers = jax.make_jaxpr(value)(u).pretty_print().count("optimization_barrier")
    assert n / LARGEST_PIECE < barriers < n
    r = y - x.T @ u
    np.testing.assert_allclose(jax.jit(value)(u), r @ r, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(u), -2 * x @ r, rtol=1e-10, atol=1e-10)
    along = jax.jit(lambda v: jax.jvp(jax.grad(value), (v,), (np.ones(n),))[1])(u)
    np.testing.assert_allclose(along, 2 * x @ x.sum(axis=0), rtol=1e-10, atol=1e-10)


def test_what_is_compiled_grows_with_the_model():
    few, many = (operations(value, u) for value, _, _, u in (residuals(80), residuals(160)))
    assert many < 2.5 * few


def test_small_graphs_are_left_alone():
    value, *_, u = residuals(20)
    assert "optimization_barrier" not in jax.make_jaxpr(value)(u).pretty_print()
