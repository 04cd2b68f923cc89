"""Observed information, and what it says and does not say about the parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

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
    held : (p, h), orthonormal directions that are held: inverse, null and rising are those of all others
    away : (p, r), orthonormal directions in which the estimates run away to infinity; they are held
    """

    matrix: np.ndarray
    inverse: np.ndarray
    null: np.ndarray
    rising: int
    held: np.ndarray
    away: np.ndarray

    @property
    def regular(self) -> bool:
        return self.null.shape[1] == 0 and self.rising == 0

    @property
    def steepest(self) -> float:
        """The smallest curvature in directions that are not held; negative where the objective bends upwards."""
        _, free = split(self.held.T)
        inner = free.T @ self.matrix @ free
        return float(np.min(np.linalg.eigvalsh(inner), initial=0.0)) if np.all(np.isfinite(inner)) else 0.0

    @property
    def useless(self) -> Information:
        """The same curvature where nothing follows from it: no direction is identified."""
        return replace(self, inverse=np.zeros_like(self.matrix), null=np.eye(len(self.matrix)), rising=0)

    def gain(self, gradient: np.ndarray) -> float:
        """What a Newton step from here promises: (p,) derivatives of the objective, in its units.

        It is half the square of the step's length in standard errors. Infinite where the objective bends upwards.
        """
        return float("inf") if self.rising else 0.5 * float(gradient @ self.inverse @ gradient)


def observed_information(
    hessian: np.ndarray,
    held: np.ndarray | None = None,
    away: np.ndarray | None = None,
    reference: np.ndarray | None = None,
) -> Information:
    """Split the curvature into identified and unidentified directions.

    Parameters
    ----------
    hessian : (p, p) second derivatives of the objective (log-likelihood, or log-posterior under "map")
    held : (h, p) functions of the parameters (their gradients) that are kept as they are: the information is restricted
        to the directions that do not change them
    away : (p, r) directions in which the estimates run away; they are held as well
    reference : (p, p) another information; what is nothing beside it is rounding
    """
    matrix = -0.5 * (hessian + hessian.T)
    held = np.zeros((0, len(matrix))) if held is None else held
    away = np.zeros((len(matrix), 0)) if away is None else away
    fixed, free = split(np.concatenate([held, away.T]))
    inner = free.T @ matrix @ free
    if not np.all(np.isfinite(inner)):  # nothing is known about any direction
        return Information(matrix, np.zeros_like(matrix), free, 0, fixed, away)
    size = np.sqrt(np.abs(np.diag(inner)))
    if reference is not None:
        size = np.maximum(size, np.sqrt(np.abs(np.diag(free.T @ reference @ free))))
    top = float(np.max(size, initial=0.0))
    size = np.where(size > 1e-12 * top, size, max(top, 1.0))
    scaled = inner / np.outer(size, size)
    values, vectors = np.linalg.eigh(scaled)
    solid = values > NEGLIGIBLE
    inverse = (vectors[:, solid] / values[solid]) @ vectors[:, solid].T / np.outer(size, size)
    null = vectors[:, ~solid] / size[:, None]
    null, _ = np.linalg.qr(null) if null.size else (null, None)
    rising = int(np.sum(values < -NEGLIGIBLE))
    return Information(matrix, free @ inverse @ free.T, free @ null, rising, fixed, away)


def split(held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of the span of the rows (h, p) and of its complement, in columns.

    Coordinates that no row touches stay what they are in the complement, so that scales are not mixed.
    """
    p = held.shape[1]
    touched = np.flatnonzero(np.any(held != 0, axis=0))
    eye = np.eye(p)
    if not len(touched):
        return eye[:, :0], eye
    rows = held[:, touched] / np.linalg.norm(held[:, touched], axis=1, keepdims=True)
    _, size, vectors = np.linalg.svd(rows)
    rank = int(np.sum(size > 1e-10))
    spanned = eye[:, touched] @ vectors.T
    alone = np.setdiff1d(np.arange(p), touched)
    return spanned[:, :rank], np.concatenate([eye[:, alone], spanned[:, rank:]], axis=1)


def sparse_directions(null: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Vectors with few entries that span the same directions, one a row.

    Parameters
    ----------
    null : (p, k)
    size : (p,) by how much the entries are multiplied before they are compared
    """
    from scipy.linalg import qr, solve_triangular

    k = null.shape[1]
    factors: Any = qr((null * size[:, None]).T, mode="economic", pivoting=True)
    _, upper, order = factors
    rows = np.empty((k, len(null)))
    rows[:, order] = solve_triangular(upper[:, :k], upper)
    rows = np.where(np.abs(rows) > 1e-4 * np.max(np.abs(rows), axis=1, keepdims=True), rows, 0.0) / size
    return rows / np.max(np.abs(rows), axis=1, keepdims=True)
