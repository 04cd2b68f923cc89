"""Curvature, delta method and intervals on plain matrices."""

import numpy as np
import pytest
from scipy.stats import norm

from pm_mlem.inference.covariance import delta_covariance, delta_method, observed
from pm_mlem.inference.information import involved, observed_information
from pm_mlem.inference.intervals import wald, wald_transformed

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
    assert involved(information, ["a", "b", "c"]) == ["a", "b"]
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
