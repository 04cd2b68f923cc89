"""Wald intervals on a scale on which the estimate is unbounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import gammaincinv, ndtri


def wald(estimate: np.ndarray, error: np.ndarray, level: float, scale: str = "identity") -> np.ndarray:
    """Wald interval of each entry.

    Parameters
    ----------
    estimate, error : arrays of one shape
    level : coverage, between 0 and 1
    scale : {"identity", "logit"}
        "logit" makes the interval for the log-odds (probabilities of a simplex) and maps it back.

    Returns
    -------
    ndarray
        Shape (..., 2): lower and upper bound.
    """
    z = ndtri(0.5 + level / 2)
    if scale == "logit":
        with np.errstate(divide="ignore", invalid="ignore"):
            centre = np.log(estimate) - np.log1p(-estimate)
            half = z * error / (estimate * (1 - estimate))
        return 1 / (1 + np.exp(-np.stack([centre - half, centre + half], axis=-1)))
    return np.stack([estimate - z * error, estimate + z * error], axis=-1)


def wald_transformed(
    u: np.ndarray, error: np.ndarray, level: float, constrain: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Wald interval in the unconstrained space, its ends mapped entry by entry.

    ``constrain`` maps an array of unconstrained values to the user's space, each entry by itself.
    """
    z = ndtri(0.5 + level / 2)
    ends = [constrain(np.where(np.isfinite(error), u + sign * z * error, u)) for sign in (-1.0, 1.0)]
    ends = [np.where(np.isfinite(error), e, np.nan) for e in ends]
    return np.stack([np.minimum(*ends), np.maximum(*ends)], axis=-1)


def likelihood_drop(level: float) -> float:
    """By how much the log-likelihood falls to the ends of a likelihood-ratio interval of one number.

    Half the quantile of the chi-square distribution with one degree of freedom.
    """
    return float(gammaincinv(0.5, level))
