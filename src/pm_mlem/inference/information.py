"""Observed information, and what it says and does not say about the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEGLIGIBLE = 1e-9
"""Eigenvalues of the information, scaled to unit diagonal, below this count as zero."""


@dataclass(frozen=True, eq=False)
class Information:
    """Minus the Hessian of the objective at the estimate, in the unconstrained space.

    Attributes
    ----------
    matrix : (p, p)
    inverse : pseudo-inverse on the identified directions
    null : (p, k), orthonormal directions along which the objective does not bend
    rising : number of directions along which it bends upwards (a saddle point, not a maximum)
    """

    matrix: np.ndarray
    inverse: np.ndarray
    null: np.ndarray
    rising: int

    @property
    def regular(self) -> bool:
        return self.null.shape[1] == 0 and self.rising == 0

    @property
    def useless(self) -> Information:
        """The same curvature where nothing follows from it: no direction is identified."""
        return Information(self.matrix, np.zeros_like(self.matrix), np.eye(len(self.matrix)), 0)

    def gain(self, gradient: np.ndarray) -> float:
        """What a Newton step from here promises: (p,) derivatives of the objective, in its units.

        It is half the square of the step's length in standard errors. Infinite where the objective bends upwards.
        """
        return float("inf") if self.rising else 0.5 * float(gradient @ self.inverse @ gradient)


def observed_information(hessian: np.ndarray) -> Information:
    """Split the curvature into identified and unidentified directions.

    Parameters
    ----------
    hessian : (p, p) second derivatives of the objective (log-likelihood, or log-posterior under "map")
    """
    matrix = -0.5 * (hessian + hessian.T)
    if not np.all(np.isfinite(matrix)):  # nothing is known about any direction
        return Information(matrix, matrix, matrix, 0).useless
    size = np.sqrt(np.abs(np.diag(matrix)))
    top = float(np.max(size, initial=0.0))
    size = np.where(size > 1e-12 * top, size, max(top, 1.0))
    scaled = matrix / np.outer(size, size)
    values, vectors = np.linalg.eigh(scaled)
    solid = values > NEGLIGIBLE
    inverse = (vectors[:, solid] / values[solid]) @ vectors[:, solid].T / np.outer(size, size)
    null = vectors[:, ~solid] / size[:, None]
    null, _ = np.linalg.qr(null) if null.size else (null, None)
    return Information(matrix, inverse, null, int(np.sum(values < -NEGLIGIBLE)))


def involved(information: Information, labels: Sequence[str]) -> list[str]:
    """The parameters that take part in unidentified directions."""
    weight = np.max(np.abs(information.null), axis=1, initial=0.0)
    return [label for label, w in zip(labels, weight, strict=True) if w > 0.1]
