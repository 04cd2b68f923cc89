"""The curvature of an objective in coordinates without units.

A Hessian has the units of its coordinates: with a predictor in dollars its entries span many orders of magnitude, and
neither a length nor an eigenvalue of it means anything. Divided by the sizes found here (:func:`sizes_of`) every
coordinate has curvature 1, so that a unit of length is a standard error of a coordinate whose neighbours are known.
Trust regions, stopping rules and decisions about rank are made in these coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pm_mlem.optimize.problem import Problem, Vector

Products = Callable[[Vector], Vector]
"""Direction -> second derivatives of the objective times the direction."""

DOUBTFUL = 1e-7
"""Curvature in scaled coordinates below which it is computed again along its own direction."""
ROUNDING = 1e-12
"""Curvature in scaled coordinates that a Hessian cannot tell from 0."""
NOTHING = 1e-22
"""The same of a curvature that was computed along its own direction: the square of what two columns may differ by."""
FORMED = 300
"""Parameters up to which a Hessian is formed to find the units of the coordinates, ..."""
MULTIPLIED = 2000
"""... and up to which its diagonal is found by products."""
EQUILIBRATIONS = 20
FLATTEST = 1e-6
"""Curvature in scaled coordinates that they are whitened by at least."""


def sizes_of(matrix: np.ndarray, otherwise: Vector | None = None) -> Vector:
    """Factors of the coordinates, (p,), after which the entries of a symmetric matrix are at most 1 in every row.

    For curvature of one sign they are the roots of its diagonal; see Ruiz, D. *A scaling algorithm to equilibrate both
    rows and columns norms in matrices*. RAL-TR-2001-034 (2001) for the others.

    Parameters
    ----------
    matrix : (p, p)
    otherwise : (p,), for coordinates in which there is no curvature
    """
    own = np.abs(np.asarray(matrix, dtype=float))
    sizes = np.sqrt(np.diag(own))
    sizes = np.where(sizes > 0, sizes, np.sqrt(np.max(own, axis=1, initial=0.0)))
    none = sizes == 0
    sizes = np.where(none, 1.0, sizes)
    for _ in range(EQUILIBRATIONS):
        rows = np.sqrt(np.max(own / np.outer(sizes, sizes), axis=1, initial=0.0))
        rows = np.where(none, 1.0, rows)
        if np.all(np.abs(rows - 1.0) < 0.1):
            break
        sizes = sizes * rows
    return np.where(none, 1.0 if otherwise is None else otherwise, sizes)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Principal directions of a curvature matrix M in scaled coordinates.

    Attributes
    ----------
    sizes : (p,) factors of the coordinates
    values : (p,) curvature along the principal directions
    axes : (p, p) these directions in the unscaled coordinates, in columns: ``axes.T @ M @ axes`` is diagonal
    flat : (p,) where the curvature cannot be told from 0
    """

    sizes: Vector
    values: Vector
    axes: np.ndarray
    flat: np.ndarray

    @property
    def rising(self) -> np.ndarray:
        """Where the objective bends upwards."""
        return (self.values < 0) & ~self.flat


def spectrum(matrix: np.ndarray, products: Products | None, sizes: Vector, basis: np.ndarray | None = None) -> Spectrum:
    """Principal directions of a curvature matrix, accurate for small curvatures, too.

    A Hessian adds up the curvature of many observations in every entry, so curvature below 1e-16 of that of the
    coordinates is lost in it, which columns that differ by 1e-8 of their length have (a year and its square). Along a
    single direction nothing is lost: the observations see how the direction changes them before anything is squared.

    Parameters
    ----------
    matrix : (p, p) minus the second derivatives
    products : of the second derivatives with a direction
    sizes : (p,) factors of the coordinates, see :func:`sizes_of`
    basis : (p, k) orthonormal columns in scaled coordinates: only directions in their span are looked at
    """
    matrix = 0.5 * (matrix + matrix.T)
    scaled = matrix / np.outer(sizes, sizes)
    inner = scaled if basis is None else basis.T @ scaled @ basis
    values, vectors = np.linalg.eigh(inner)
    if basis is not None:
        vectors = basis @ vectors
    axes = vectors / sizes[:, None]
    top = max(1.0, float(np.max(np.abs(values), initial=0.0)))
    flat = np.abs(values) <= ROUNDING * top
    doubtful = np.flatnonzero(np.abs(values) <= DOUBTFUL * top)
    if products is None or not len(doubtful):
        return Spectrum(sizes, values, axes, flat)
    own = axes[:, doubtful]
    bent = np.stack([-np.asarray(products(d)) for d in own.T], axis=1)
    if not np.all(np.isfinite(bent)):
        return Spectrum(sizes, values, axes, flat)
    again = own.T @ bent
    within, turn = np.linalg.eigh(0.5 * (again + again.T))
    values[doubtful], axes[:, doubtful] = within, own @ turn
    flat[doubtful] = np.abs(within) <= NOTHING * top
    return Spectrum(sizes, values, axes, flat)


def whitening(information: np.ndarray) -> np.ndarray:
    """A matrix T such that the information (p, p) is the identity in the coordinates v of ``u = u0 + T v``.

    Directions in which it is nearly flat are scaled by a bounded factor.
    """
    if not np.all(np.isfinite(information)):
        return np.eye(len(information))
    size = sizes_of(information)
    values, vectors = np.linalg.eigh(information / np.outer(size, size))
    return vectors / np.sqrt(np.maximum(values, FLATTEST)) / size[:, None]


def diagonal(problem: Problem, point: Vector) -> Vector:
    """Factors of the coordinates, (p,), after which the curvature of each is 1.

    From the Hessian or, where there are very many parameters, from the gradient, whose entries have the units of these
    factors.
    """
    p = len(point)
    otherwise = 1.0 / (1.0 + np.abs(point))
    if p <= FORMED:
        hessian = np.asarray((problem.curvature or problem.derivatives)(point)[2])
        if np.all(np.isfinite(hessian)):
            return sizes_of(hessian, otherwise)
    elif p <= MULTIPLIED and problem.products is not None:
        along = problem.products
        entries = np.array([abs(float(np.asarray(along(point, e))[j])) for j, e in enumerate(np.eye(p))])
        if np.all(np.isfinite(entries)):
            return np.where(entries > 0, np.sqrt(entries), otherwise)
    gradient = np.abs(np.asarray(problem.value_and_gradient(point)[1]))
    return np.where(gradient > 0, gradient, otherwise)
