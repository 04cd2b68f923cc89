"""The normal distribution that a log-density resembles at its mode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from pm_mlem.inference.information import observed_information


@dataclass(frozen=True, eq=False)
class Normal:
    """A multivariate normal distribution.

    Attributes
    ----------
    mean : (p,)
    root : (p, p) lower-triangular Cholesky factor of the covariance
    flat : (p, k) directions in which the curvature says nothing and unit variance was put in its place
    """

    mean: np.ndarray
    root: np.ndarray
    flat: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        return self.root @ self.root.T

    def draws(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draws (n, p)."""
        return self.mean + rng.standard_normal((n, len(self.mean))) @ self.root.T

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Log-density at points (n, p)."""
        scaled = solve_triangular(self.root, (points - self.mean).T, lower=True)
        constant = 0.5 * len(self.mean) * math.log(2 * math.pi) + float(np.sum(np.log(np.diag(self.root))))
        return -0.5 * np.sum(scaled**2, axis=0) - constant


def normal_at(mean: np.ndarray, hessian: np.ndarray) -> Normal:
    """The normal distribution with minus the inverse of the second derivatives of a log-density as its covariance.

    Along directions in which the log-density does not bend downwards it has unit variance in coordinates with unit
    curvature.

    Parameters
    ----------
    mean : (p,)
    hessian : (p, p) second derivatives there
    """
    information = observed_information(hessian)
    flat = information.unscaled(information.null)
    covariance = information.inverse + flat @ flat.T
    size = np.sqrt(np.diag(covariance))
    root = size[:, None] * np.linalg.cholesky(covariance / np.outer(size, size)) if len(mean) else covariance
    return Normal(np.asarray(mean, dtype=float), root, flat)
