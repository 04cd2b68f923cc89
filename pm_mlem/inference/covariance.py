"""Covariances of estimates: from the curvature, from the scores of the units, from both."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pm_mlem.inference.information import Information, observed_information, orthonormal

AT_INFINITY = 1e-3
"""Of its derivatives by the parameters that run away what a function may change in the directions in which they do."""


@dataclass(frozen=True, eq=False)
class Covariance:
    """Covariance of the estimates in the unconstrained space.

    Attributes
    ----------
    root : (p, r), the covariance is ``root @ root.T``
    sizes : (p,) factors from unconstrained to scaled coordinates, in which the other directions are given
    null : (p, k), orthonormal directions in which the estimates have no variance that could be stated
    held : (p, h), orthonormal directions in which the estimates are taken as given
    away : (p, r), orthonormal directions in which they run away to infinity
    """

    root: np.ndarray
    sizes: np.ndarray
    null: np.ndarray
    held: np.ndarray
    away: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """(p, p)."""
        return self.root @ self.root.T


def observed(information: Information) -> Covariance:
    """The inverse of the observed information."""
    return covariance_of(information, information.root)


def covariance_of(information: Information, root: np.ndarray) -> Covariance:
    """A covariance by its root, where what is held and what is not identified is as in an information."""
    return Covariance(root, information.sizes, information.null, information.held, information.away)


def outer_product(
    information: Information, scores: np.ndarray, weights: np.ndarray, prior: np.ndarray | None = None
) -> Covariance:
    """The inverse of the sum of the outer products of the units' scores (Berndt, Hall, Hall & Hausman 1974).

    Parameters
    ----------
    information : minus the second derivatives: what is held, and what is not identified, is so here as well
    scores : (units, p) derivatives of the units' log-likelihoods
    weights : (units,) how often each unit counts
    prior : (p, p) second derivatives of the log-prior, under "map"
    """
    root = information.root
    total = variability(scores @ root, weights)  # near the identity, whatever the units are
    if prior is not None:
        total = total - root.T @ prior @ root
    own = observed_information(-total, reference=np.eye(len(total)))
    found = covariance_of(information, root @ own.root)
    if not own.null.shape[1]:
        return found
    lost = information.sizes[:, None] * (root @ own.unscaled(own.null))
    return replace(found, null=orthonormal(np.concatenate([information.null, lost], axis=1)))


def sandwich(
    information: Information,
    scores: np.ndarray,
    weights: np.ndarray,
    clusters: np.ndarray | None = None,
    n_obs: float | None = None,
) -> Covariance:
    """The sandwich ``H^-1 S H^-1`` of curvature and variability of the scores (Huber 1967; White 1982).

    Parameters
    ----------
    information : minus the second derivatives of the objective
    scores : (units, p)
    weights : (units,) how often each unit counts; those of 0 take no part
    clusters : (units,) labels; scores are added up within clusters, which are independent of each other
    n_obs : number n of observations: multiply by ``n / (n - p)``, or ``G / (G - 1) * (n - 1) / (n - p)`` for G clusters

    Raises
    ------
    ValueError
        A single cluster, or no more observations than parameters where the factor asks for more.
    """
    if clusters is not None:
        used = weights != 0
        labels, index = np.unique(clusters[used], return_inverse=True)
        groups = len(labels)
        if groups < 2:
            raise ValueError("cluster: there is a single cluster; its sandwich would be 0. Use two or more, or none.")
        sums = np.zeros((groups, scores.shape[1]))
        np.add.at(sums, index, weights[used, None] * scores[used])
        along = sums @ information.root
        meat = along.T @ along
    else:
        groups = None
        meat = variability(scores @ information.root, weights)
    meat *= 1.0 if n_obs is None else factor(n_obs, scores.shape[1], groups)
    values, vectors = np.linalg.eigh(0.5 * (meat + meat.T))
    return covariance_of(information, information.root @ vectors * np.sqrt(np.maximum(values, 0.0)))


def factor(n: float, p: int, groups: int | None) -> float:
    """What a sandwich is multiplied with in small samples."""
    if n <= p:
        raise ValueError(
            f"small_sample=True needs more observations than parameters; there are {n:g} observations and {p}."
        )
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
    errors = np.linalg.norm(flat @ covariance.root, axis=1)
    return np.where(bad, np.nan, errors).reshape(jacobian.shape[:-1])


def delta_covariance(jacobian: np.ndarray, covariance: Covariance) -> np.ndarray:
    """Covariance matrix of functions of the parameters, (m, p) -> (m, m)."""
    bad = unidentified(jacobian, covariance)
    jacobian, _ = finite_rows(jacobian)
    along = jacobian @ covariance.root
    result = along @ along.T
    result[bad, :] = np.nan
    result[:, bad] = np.nan
    return result


def unidentified(jacobian: np.ndarray, covariance: Covariance) -> np.ndarray:
    """Which rows of a Jacobian (m, p) reach into the null space or to infinity, or are all in the held directions.

    Derivatives that are infinite are those of a function at infinity.
    """
    jacobian, finite = finite_rows(jacobian)
    jacobian = jacobian / covariance.sizes
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
    """Which rows of a Jacobian (m, p) change in directions (p, r) in which the estimates run away, both scaled."""
    own = np.linalg.norm(jacobian[:, np.any(away != 0, axis=1)], axis=1)
    least = np.maximum(AT_INFINITY * own, 1e-10 * np.linalg.norm(jacobian, axis=1))
    return np.linalg.norm(jacobian @ away, axis=1) > least
