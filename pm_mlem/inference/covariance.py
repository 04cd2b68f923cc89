"""Covariances of estimates: from the curvature, from the scores of the units, from both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pm_mlem.inference.information import Information, observed_information

AT_INFINITY = 1e-3
"""Of its derivatives by the parameters that run away what a function may change in the directions in which they do."""


@dataclass(frozen=True, eq=False)
class Covariance:
    """Covariance of the estimates in the unconstrained space.

    Attributes
    ----------
    matrix : (p, p)
    null : (p, k), orthonormal directions in which the estimates have no variance that could be stated
    held : (p, h), orthonormal directions in which the estimates are taken as given
    away : (p, r), orthonormal directions in which they run away to infinity
    """

    matrix: np.ndarray
    null: np.ndarray
    held: np.ndarray
    away: np.ndarray


def observed(information: Information) -> Covariance:
    """The inverse of the observed information."""
    return Covariance(information.inverse, information.null, information.held, information.away)


def outer_product(
    scores: np.ndarray,
    weights: np.ndarray,
    prior: np.ndarray | None = None,
    held: np.ndarray | None = None,
    away: np.ndarray | None = None,
    reference: np.ndarray | None = None,
) -> Covariance:
    """The inverse of the sum of the outer products of the units' scores (Berndt, Hall, Hall & Hausman 1974).

    Parameters
    ----------
    scores : (units, p) derivatives of the units' log-likelihoods
    weights : (units,) how often each unit counts
    prior : (p, p) second derivatives of the log-prior, under "map"
    held : (h, p) functions of the parameters that are taken as given
    away : (p, r) directions in which the estimates run away
    reference : (p, p) the observed information, beside which scores may be nothing but rounding
    """
    total = variability(scores, weights)
    return observed(observed_information(-total if prior is None else prior - total, held, away, reference))


def sandwich(
    information: Information,
    scores: np.ndarray,
    weights: np.ndarray,
    clusters: np.ndarray | None = None,
    small_sample: bool = False,
) -> Covariance:
    """The sandwich ``H^-1 S H^-1`` of curvature and variability of the scores (Huber 1967; White 1982).

    Parameters
    ----------
    information : minus the second derivatives of the objective
    scores : (units, p)
    weights : (units,) how often each unit counts; those of 0 take no part
    clusters : (units,) labels; scores are added up within clusters, which are independent of each other
    small_sample : multiply by ``n / (n - p)``, or ``G / (G - 1) * (n - 1) / (n - p)`` for G clusters

    Raises
    ------
    ValueError
        A single cluster, or no more units than parameters where the factor asks for more.
    """
    if clusters is not None:
        used = weights != 0
        labels, index = np.unique(clusters[used], return_inverse=True)
        groups = len(labels)
        if groups < 2:
            raise ValueError("cluster: there is a single cluster; its sandwich would be 0. Use two or more, or none.")
        sums = np.zeros((groups, scores.shape[1]))
        np.add.at(sums, index, weights[used, None] * scores[used])
        meat = sums.T @ sums
    else:
        groups = None
        meat = variability(scores, weights)
    matrix = information.inverse @ meat @ information.inverse
    matrix *= factor(weights, scores.shape[1], groups, small_sample)
    return Covariance(matrix, information.null, information.held, information.away)


def factor(weights: np.ndarray, p: int, groups: int | None, small_sample: bool) -> float:
    """What a sandwich is multiplied with in small samples."""
    if not small_sample:
        return 1.0
    n = float(np.sum(weights))
    if n <= p:
        raise ValueError(f"small_sample=True needs more units than parameters; there are {n:g} units and {p}.")
    return n / (n - p) if groups is None else groups / (groups - 1) * (n - 1) / (n - p)


def variability(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of the outer products of the scores; units of weight 0 may be impossible."""
    used = weights != 0
    return scores[used].T @ (weights[used, None] * scores[used])


def delta_method(jacobian: np.ndarray, covariance: Covariance) -> np.ndarray:
    """Standard errors of functions of the parameters.

    Parameters
    ----------
    jacobian : (..., p) derivatives with respect to the unconstrained parameters
    covariance : of the unconstrained parameters

    Returns
    -------
    ndarray
        Shape (...); NaN where the function changes along a direction that is not identified, along one in which the
        estimates run away, or along no other than those that are held.
    """
    flat = jacobian.reshape(math.prod(jacobian.shape[:-1]), jacobian.shape[-1])
    bad = unidentified(flat, covariance)
    flat, _ = finite_rows(flat)
    variance = np.einsum("ij,jk,ik->i", flat, covariance.matrix, flat)
    errors = np.sqrt(np.maximum(variance, 0.0))
    return np.where(bad, np.nan, errors).reshape(jacobian.shape[:-1])


def delta_covariance(jacobian: np.ndarray, covariance: Covariance) -> np.ndarray:
    """Covariance matrix of functions of the parameters, (m, p) -> (m, m)."""
    bad = unidentified(jacobian, covariance)
    jacobian, _ = finite_rows(jacobian)
    result = jacobian @ covariance.matrix @ jacobian.T
    result[bad, :] = np.nan
    result[:, bad] = np.nan
    return result


def unidentified(jacobian: np.ndarray, covariance: Covariance) -> np.ndarray:
    """Which rows of a Jacobian (m, p) reach into the null space or to infinity, or are all in the held directions.

    Derivatives that are infinite are those of a function at infinity.
    """
    jacobian, finite = finite_rows(jacobian)
    length = np.linalg.norm(jacobian, axis=1)
    length = np.where(length > 0, length, 1.0)
    flat = np.linalg.norm(jacobian @ covariance.null, axis=1) > 1e-6 * length
    flat |= changing(jacobian, covariance.away) | ~finite
    if not covariance.held.shape[1]:
        return flat
    rest = np.linalg.norm(jacobian - jacobian @ covariance.held @ covariance.held.T, axis=1)
    return flat | ((rest <= 1e-6 * length) & np.any(jacobian != 0, axis=1))


def finite_rows(jacobian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A Jacobian (..., p) with zeros for rows that are not finite, and which rows are."""
    finite = np.all(np.isfinite(jacobian), axis=-1)
    return np.where(finite[..., None], jacobian, 0.0), finite


def changing(jacobian: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Which rows of a Jacobian (m, p) change in directions (p, r) in which the estimates run away."""
    own = np.linalg.norm(jacobian[:, np.any(away != 0, axis=1)], axis=1)
    least = np.maximum(AT_INFINITY * own, 1e-10 * np.linalg.norm(jacobian, axis=1))
    return np.linalg.norm(jacobian @ away, axis=1) > least
