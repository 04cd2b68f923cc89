"""The recursion over a window of time: NumPy against JAX, and both against a sum over all paths."""

import itertools

import jax
import numpy as np
import pytest
from scipy.special import logsumexp

import pm_mlem.objective.lowering.lower  # noqa: F401  (JAX in double precision)
from pm_mlem.graph.ops.recursion import Window, run_backward, run_forward
from pm_mlem.objective.lowering.kernels import window_log_z

pytestmark = pytest.mark.compiled

K, STEPS = 3, 4
LENGTHS = np.array([4, 2])
WINDOW = Window((K,), 1, (((0, 0),), ((0, 1), (0, 0))), 0, STEPS)


def tables(impossible: bool):
    """Emissions (states, chains, times) and transitions (before, after, 1, 1)."""
    rng = np.random.default_rng(1)
    emissions = rng.normal(size=(K, len(LENGTHS), STEPS))
    transitions = rng.normal(size=(K, K, 1, 1))
    if impossible:
        transitions[0, 1] = transitions[2, 0] = -np.inf
        emissions[1, 0, 2] = -np.inf
        emissions[2, :, 1] -= 1e4  # far below the others, but the only way to some states
        transitions[0, 2] = transitions[1, 2] = -np.inf
        emissions[:2, 0, 3] = -np.inf
    for chain, length in enumerate(LENGTHS):
        emissions[:, chain, length:] = 0.0
    return emissions, transitions


def all_paths(emissions, transitions):
    """Log-partition of each chain and posterior of the states, by enumeration."""
    values, posterior = [], np.zeros(emissions.shape)
    for chain, length in enumerate(LENGTHS):
        paths = list(itertools.product(range(K), repeat=int(length)))
        scores = []
        for path in paths:
            score = sum(emissions[s, chain, t] for t, s in enumerate(path))
            scores.append(score + sum(transitions[a, b, 0, 0] for a, b in itertools.pairwise(path)))
        values.append(logsumexp(scores))
        for path, score in zip(paths, scores, strict=True):
            for t, s in enumerate(path):
                posterior[s, chain, t] += np.exp(score - values[-1])
    return np.array(values), posterior


@pytest.mark.parametrize("impossible", [False, True])
def test_equal_to_the_sum_over_all_paths(impossible):
    emissions, transitions = tables(impossible)
    values, posterior = all_paths(emissions, transitions)
    found, _ = run_forward(WINDOW, LENGTHS, [emissions, transitions])
    np.testing.assert_allclose(found, values, rtol=1e-12)
    by_numpy = run_backward(WINDOW, LENGTHS, [emissions, transitions], np.ones(len(LENGTHS)))
    log_z = window_log_z(WINDOW)
    by_jax = jax.grad(lambda t: log_z(LENGTHS, *t).sum())([emissions, transitions])
    np.testing.assert_allclose(log_z(LENGTHS, emissions, transitions), values, rtol=1e-12)
    np.testing.assert_allclose(by_numpy[0], posterior, atol=1e-12)
    for a, b in zip(by_numpy, by_jax, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    assert np.all(np.isfinite(by_jax[1]))


def test_an_impossible_chain_has_gradient_zero():
    emissions, transitions = tables(False)
    emissions[:, 0, 1] = -np.inf
    log_z = window_log_z(WINDOW)
    value, gradient = jax.value_and_grad(lambda e: log_z(LENGTHS, e, transitions)[0])(emissions)
    assert value == -np.inf
    assert np.all(np.asarray(gradient) == 0)


def test_second_derivatives_are_those_of_the_value():
    emissions, transitions = tables(True)
    log_z = window_log_z(WINDOW)
    direction = np.random.default_rng(2).normal(size=emissions.shape)

    def along(t):
        return log_z(LENGTHS, emissions + t * direction, transitions).sum()

    slope = jax.grad(along)
    step = 1e-5
    expected = (slope(step) - slope(-step)) / (2 * step)
    np.testing.assert_allclose(jax.hessian(along)(0.0), expected, rtol=1e-6)
