"""Intervals from replicates, and the weights of resampled units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtr, ndtri

INTERVALS = ("percentile", "basic", "bca")


# --- weights ----------------------------------------------------------------------------------------------


def case_weights(weights: np.ndarray, clusters: np.ndarray | None) -> Callable[[np.random.Generator], np.ndarray]:
    """Weights of units drawn with replacement (Efron 1979).

    Parameters
    ----------
    weights : (units,) how often each unit counts; units of weight 0 are never drawn
    clusters : (units,) labels of units that are drawn together, or None. Without clusters, whole weights are numbers of
        repetitions, of which as many are drawn as there are; fractional ones stay with their units.
    """
    members, count = grouped(weights, clusters)
    repeated = clusters is None and np.all(weights == np.round(weights))
    if not repeated or np.all(weights[weights > 0] == 1):
        return lambda rng: weights * spread(np.bincount(rng.integers(count, size=count), minlength=count), members)
    total = int(weights.sum())
    return lambda rng: rng.multinomial(total, weights / weights.sum()).astype(float)


def bayesian_weights(weights: np.ndarray, clusters: np.ndarray | None) -> Callable[[np.random.Generator], np.ndarray]:
    """Weights from a Dirichlet distribution (Rubin 1981), with the same sum as the original ones where these are equal.

    Parameters
    ----------
    weights, clusters : as for :func:`case_weights`; a unit that is repeated has the sum of as many shares
    """
    members, count = grouped(weights, clusters)
    if clusters is None and np.all(weights == np.round(weights)):
        used = weights > 0

        def draw(rng: np.random.Generator) -> np.ndarray:
            result = np.zeros(len(weights))
            shares = rng.standard_gamma(weights[used])
            result[used] = weights.sum() * shares / shares.sum()
            return result

        return draw

    def draw_clusters(rng: np.random.Generator) -> np.ndarray:
        shares = rng.standard_exponential(count)
        return weights * spread(count * shares / shares.sum(), members)

    return draw_clusters


def grouped(weights: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, int]:
    """For each unit the number of its cluster (-1: weight 0), and how many there are."""
    used = weights > 0
    members = np.full(len(weights), -1)
    labels = np.flatnonzero(used) if clusters is None else clusters[used]
    names, members[used] = np.unique(labels, return_inverse=True)
    return members, len(names)


def spread(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Values of clusters by unit."""
    return np.where(members < 0, 0.0, values[members])


# --- intervals --------------------------------------------------------------------------------------------


def percentile(replicates: np.ndarray, level: float) -> np.ndarray:
    """Quantiles of the replicates ``(n, ...)``, shape ``(..., 2)``."""
    tail = 0.5 * (1.0 - level)
    return np.moveaxis(np.quantile(replicates, [tail, 1.0 - tail], axis=0), 0, -1)


def basic(estimate: np.ndarray, replicates: np.ndarray, level: float) -> np.ndarray:
    """The percentile interval mirrored at the estimate (Davison & Hinkley 1997)."""
    return (2.0 * np.asarray(estimate)[..., None] - percentile(replicates, level))[..., ::-1]


def bca(estimate: np.ndarray, replicates: np.ndarray, acceleration: np.ndarray, level: float) -> np.ndarray:
    """Quantiles of the replicates, corrected for bias and acceleration (Efron 1987).

    Parameters
    ----------
    estimate, acceleration : (...)
    replicates : (n, ...)

    Returns
    -------
    ndarray
        Shape (..., 2); NaN where all replicates are on one side of the estimate.
    """
    below = 0.5 * (np.mean(replicates < estimate, axis=0) + np.mean(replicates <= estimate, axis=0))
    bias = ndtri(below)
    tail = 0.5 * (1.0 - level)
    bounds = []
    for z in (ndtri(tail), ndtri(1.0 - tail)):
        with np.errstate(invalid="ignore"):
            shifted = bias + (bias + z) / (1.0 - acceleration * (bias + z))
        bounds.append(quantiles(replicates, ndtr(shifted)))
    return np.stack(bounds, axis=-1)


def quantiles(replicates: np.ndarray, share: np.ndarray) -> np.ndarray:
    """For each entry the quantile of its own replicates at its own level; NaN where there is none."""
    flat, shares = replicates.reshape(len(replicates), -1), np.ravel(share)
    known = np.isfinite(shares) & np.all(np.isfinite(flat), axis=0)
    result = np.full(len(shares), np.nan)
    for i in np.flatnonzero(known):
        result[i] = np.quantile(flat[:, i], shares[i])
    return result.reshape(np.shape(share))


def acceleration_of(influence: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A sixth of the skewness of the empirical influence values.

    Parameters
    ----------
    influence : (units, m) influence of each unit (or cluster) on each estimate
    weights : (units,) how often each counts
    """
    second, third = weights @ influence**2, weights @ influence**3
    return np.where(second > 0, third / (6.0 * np.where(second > 0, second, 1.0) ** 1.5), 0.0)
