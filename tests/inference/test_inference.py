"""Curvature, delta method and intervals on plain matrices."""

import numpy as np
import pytest
from scipy.stats import norm

from pm_mlem.inference.covariance import delta_covariance, delta_method, observed
from pm_mlem.inference.information import observed_information, sparse_directions
from pm_mlem.inference.intervals import likelihood_drop, wald, wald_transformed

I2 = np.array([[4.0, 1.0], [1.0, 2.0]])


def test_regular_information_is_inverted():
    information = observed_information(-I2)
    assert information.regular
    np.testing.assert_allclose(information.inverse, np.linalg.inv(I2), rtol=1e-12)
    jacobian = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    covariance = jacobian @ np.linalg.inv(I2) @ jacobian.T
    np.testing.assert_allclose(delta_method(jacobian, observed(information)), np.sqrt(np.diag(covariance)))
    np.testing.assert_allclose(delta_covariance(jacobian, observed(information)), covariance)


def test_scales_do_not_matter():
    """A parameter in thousandths beside one in thousands is not mistaken for a flat direction."""
    scale = np.diag([1e-5, 1e5])
    information = observed_information(-scale @ I2 @ scale)
    assert information.regular
    np.testing.assert_allclose(information.inverse, np.linalg.inv(scale @ I2 @ scale), rtol=1e-9)


def test_flat_direction_is_named_and_the_rest_is_kept():
    """Only the sum of the first two parameters is identified."""
    design = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    information = observed_information(-design.T @ design)
    assert information.null.shape == (3, 1)
    np.testing.assert_allclose(np.abs(sparse_directions(information.null)), [[1.0, 1.0, 0.0]])
    errors = delta_method(np.vstack([np.eye(3), [1.0, 1.0, 0.0]]), observed(information))
    assert np.isnan(errors[:2]).all()
    np.testing.assert_allclose(errors[2:], 1.0)


def test_saddle_is_recognised():
    information = observed_information(-np.diag([1.0, -1.0]))
    assert information.rising == 1
    assert not information.regular


def test_wald_intervals():
    z = norm.ppf(0.95)
    np.testing.assert_allclose(wald(np.array(1.0), np.array(0.5), 0.9), [1 - z * 0.5, 1 + z * 0.5])
    low, high = wald(np.array(0.99), np.array(0.02), 0.95, "logit")
    assert 0 < low < 0.99 < high < 1
    bounds = wald_transformed(np.array([0.0, 1.0]), np.array([1.0, np.nan]), 0.9, np.exp)
    np.testing.assert_allclose(bounds[0], np.exp([-z, z]))
    assert np.isnan(bounds[1]).all()


@pytest.mark.parametrize("level", [0.5, 0.999])
def test_wider_level_wider_interval(level):
    low, high = wald(np.array(0.0), np.array(1.0), level)
    assert norm.cdf(high) - norm.cdf(low) == pytest.approx(level)


def test_a_curvature_that_is_not_finite_says_nothing():
    hessian = np.array([[-2.0, np.nan], [np.nan, -1.0]])
    information = observed_information(hessian)
    assert not information.regular
    assert np.all(np.isnan(delta_method(np.eye(2), information)))


def test_held_directions_are_taken_as_known():
    """The rest is what it would be without them: a coordinate, and a sum of two others."""
    matrix = np.array([[5.0, 1.0, 0.5, 0.2], [1.0, 4.0, 0.3, 0.1], [0.5, 0.3, 3.0, 0.4], [0.2, 0.1, 0.4, 2.0]])
    rows = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    information = observed_information(-matrix, rows)
    free = np.array([[0.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]).T
    np.testing.assert_allclose(information.inverse, free @ np.linalg.inv(free.T @ matrix @ free) @ free.T, atol=1e-12)
    assert information.held.shape == (4, 2)
    assert information.regular
    errors = delta_method(np.vstack([np.eye(4), rows]), observed(information))
    assert np.isnan(errors).tolist() == [True, False, False, False, True, True]


def test_sparse_directions_have_few_entries():
    """Two dependent pairs, mixed by rotation, in units that differ by a million; scaled first."""
    clean = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1e-6]]).T
    mixed = np.linalg.qr(clean @ np.array([[0.6, 0.8], [-0.8, 0.6]]))[0]
    found = sparse_directions(mixed * np.array([[1.0, 1.0, 1.0, 1e6]]).T)
    found = found[np.argsort(found[:, 2] != 0)]
    np.testing.assert_allclose(np.abs(found), [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]], atol=1e-9)


def test_infinite_derivatives_have_no_standard_error():
    """The odds of an event that never happens, exp(b) with b at infinity, in whatever arithmetic."""
    known = observed(observed_information(-np.diag([4.0, 1.0]), held=np.array([[0.0, 1.0]])))
    jacobian = np.array([[1.0, 0.0], [0.0, np.inf], [np.nan, 1.0]])
    np.testing.assert_array_equal(delta_method(jacobian, known), [0.5, np.nan, np.nan])
    covariance = delta_covariance(jacobian, known)
    assert covariance[0, 0] == 0.25 and np.isnan(covariance[1:]).all() and np.isnan(covariance[:, 1:]).all()


def test_the_drop_of_a_likelihood_ratio_interval():
    from scipy.stats import chi2

    for level in (0.5, 0.9, 0.95, 0.999):
        assert likelihood_drop(level) == pytest.approx(0.5 * chi2.ppf(level, 1), rel=1e-14)
