"""Observed information, and what it says and does not say about the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pm_mlem.optimize.curvature import Products, Vector, sizes_of, spectrum

NEGLIGIBLE = 1e-9
"""Curvature in scaled coordinates below which a direction counts as flat where nothing else is known about it."""


@dataclass(frozen=True, eq=False)
class Information:
    """Minus the Hessian of the objective at the estimate, in the unconstrained space.

    Directions are given in scaled coordinates, in which the curvature of every coordinate is 1 (:attr:`sizes` times the
    unconstrained ones), so that lengths and angles do not depend on units.

    Attributes
    ----------
    matrix : (p, p)
    root : (p, r), of the covariance on the identified directions: their inverse curvature is ``root @ root.T``
    sizes : (p,) factors from unconstrained to scaled coordinates
    null : (p, k), orthonormal directions along which the objective does not bend
    rising : number of directions along which it bends upwards (a saddle point, not a maximum)
    lowest : the smallest curvature in scaled coordinates, of directions that are not held; 0 where none is negative
    held : (p, h), orthonormal directions that are held: root, null and rising are those of all others
    away : (p, r), orthonormal directions in which the estimates run away to infinity; they are held
    """

    matrix: np.ndarray
    root: np.ndarray
    sizes: Vector
    null: np.ndarray
    rising: int
    lowest: float
    held: np.ndarray
    away: np.ndarray

    @property
    def inverse(self) -> np.ndarray:
        """Pseudo-inverse on the identified directions, (p, p)."""
        return self.root @ self.root.T

    @property
    def regular(self) -> bool:
        return self.null.shape[1] == 0 and self.rising == 0

    @property
    def useless(self) -> Information:
        """The same curvature where nothing follows from it: no direction is identified."""
        p = len(self.matrix)
        return replace(self, root=np.zeros((p, 0)), null=np.eye(p), rising=0, lowest=0.0)

    def gain(self, gradient: np.ndarray) -> float:
        """What a Newton step from here promises: (p,) derivatives of the objective, in its units.

        It is half the square of the step's length in standard errors. Infinite where the objective bends upwards.
        """
        return float("inf") if self.rising else 0.5 * float(np.sum((self.root.T @ gradient) ** 2))

    # --- in unconstrained coordinates ----------------------------------------------------------------------

    @property
    def held_functions(self) -> np.ndarray:
        """Gradients of what is held, (h, p), by the unconstrained coordinates."""
        return self.held.T * self.sizes

    def unscaled(self, directions: np.ndarray) -> np.ndarray:
        """Directions (p, k) in the unconstrained coordinates."""
        return directions / self.sizes[:, None]


def observed_information(
    hessian: np.ndarray,
    held: np.ndarray | None = None,
    away: np.ndarray | None = None,
    *,
    products: Products | None = None,
    bends: Callable[[Vector], bool] | None = None,
    null: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    least: np.ndarray | None = None,
) -> Information:
    """Split the curvature into identified and unidentified directions.

    Parameters
    ----------
    hessian : (p, p) second derivatives of the objective (log-likelihood, or log-posterior under "map")
    held : (h, p) functions of the parameters (their gradients) that are kept as they are: the information is restricted
        to the directions that do not change them
    away : (p, r) directions in which the estimates run away; they are held as well
    products : direction -> second derivatives times the direction: with it curvature below :data:`NEGLIGIBLE` counts
    bends : (p,) unconstrained step of one standard error -> whether the objective falls as its curvature says
    null : (p, k) directions that are known not to be identified
    reference : (p, p) another information; what is nothing beside it is rounding
    least : (p,) factors of coordinates that have a unit of their own, below which their curvature is rounding
    """
    matrix = -0.5 * (hessian + hessian.T)
    p = len(matrix)
    held = np.zeros((0, p)) if held is None else held
    away = np.zeros((p, 0)) if away is None else away
    if not np.all(np.isfinite(matrix)):
        return not_finite(matrix, held, away)
    sizes = sizes_of(matrix if reference is None else matrix + np.diag(np.abs(np.diag(reference))))
    sizes = sizes if least is None else np.maximum(sizes, least)
    directions = orthonormal(away * sizes[:, None])
    fixed, free = split(np.concatenate([held / sizes, directions.T]))
    known = np.zeros((p, 0)) if null is None else orthonormal(free @ (free.T @ (null * sizes[:, None])))
    if known.shape[1]:
        free = split(np.concatenate([fixed.T, known.T]))[1]
    found = spectrum(matrix, products, sizes, free)
    flat = found.flat.copy()
    small = np.abs(found.values) <= NEGLIGIBLE
    if products is None:
        flat |= small
    for j in np.flatnonzero(small & ~flat):
        flat[j] = found.values[j] < 0 or not (bends is None or bends(found.axes[:, j] / np.sqrt(found.values[j])))
    rising = (found.values < 0) & ~flat
    solid = ~flat & ~rising
    root = found.axes[:, solid] / np.sqrt(found.values[solid])
    nothing = np.concatenate([known, found.axes[:, ~solid] * sizes[:, None]], axis=1)
    lowest = float(np.min(found.values[rising], initial=0.0))
    return Information(matrix, root, sizes, nothing, int(np.sum(rising)), lowest, fixed, directions)


def not_finite(matrix: np.ndarray, held: np.ndarray, away: np.ndarray) -> Information:
    """Nothing is known about any direction."""
    p = len(matrix)
    fixed, free = split(np.concatenate([held, away.T]))
    return Information(matrix, np.zeros((p, 0)), np.ones(p), free, 0, 0.0, fixed, orthonormal(away))


def orthonormal(directions: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the span of some columns; zeros stay zeros where possible."""
    if not directions.shape[1]:
        return directions
    lengths = np.linalg.norm(directions, axis=0)
    basis, size, _ = np.linalg.svd(directions / np.where(lengths > 0, lengths, 1.0), full_matrices=False)
    return basis[:, size > 1e-10]


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


def sparse_directions(null: np.ndarray) -> np.ndarray:
    """Vectors with few entries that span the same directions (p, k), one a row, the largest entry of each 1."""
    from scipy.linalg import qr, solve_triangular

    k = null.shape[1]
    factors: Any = qr(null.T, mode="economic", pivoting=True)
    _, upper, order = factors
    rows = np.empty((k, len(null)))
    rows[:, order] = solve_triangular(upper[:, :k], upper)
    rows = np.where(np.abs(rows) > 1e-4 * np.max(np.abs(rows), axis=1, keepdims=True), rows, 0.0)
    return rows / np.max(np.abs(rows), axis=1, keepdims=True)
