"""Tests of hypotheses: statistics and their reference distributions, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtrc, comb

if TYPE_CHECKING:
    import pandas as pd


ROUNDING = 1e-7
"""Of the size of columns what may be rounding."""


@dataclass(frozen=True, eq=False, repr=False)
class HypothesisTest:
    """The result of a test.

    Attributes
    ----------
    name : what was tested
    statistic, df, p_value : float
        The p-value is NaN where the reference distribution does not apply; the note says why.
    note : str
        What the p-value rests on, where that is not the usual chi-square distribution.
    replicates : ndarray or None
        Statistics of the bootstrap replicates.
    table : pandas.DataFrame or None
        Details.
    """

    name: str
    statistic: float
    df: float
    p_value: float
    note: str = ""
    replicates: np.ndarray | None = None
    table: pd.DataFrame | None = field(default=None)

    def __repr__(self) -> str:
        line = f"{self.name}: statistic {self.statistic:.4g}, df {self.df:g}, p-value {self.p_value:.4g}"
        lines = [line, *([self.note] if self.note else []), *([str(self.table)] if self.table is not None else [])]
        return "\n".join(lines)


def chi_square_tail(statistic: float, df: int, boundary: int = 0) -> float:
    """Probability of a larger statistic under a chi-square distribution or a mixture of these.

    Parameters
    ----------
    statistic : float
    df : parameters that are tested
    boundary : how many of them are on the boundary of their space under the hypothesis; the mixture has binomial
        weights (exact for one such parameter, or where their estimates are uncorrelated)
    """
    weights = comb(boundary, np.arange(boundary + 1)) / 2.0**boundary
    degrees = df - boundary + np.arange(boundary + 1)
    tails = [float(statistic <= 0) if d == 0 else float(chdtrc(d, statistic)) for d in degrees]
    return float(weights @ tails)


def quadratic_form(value: np.ndarray, covariance: np.ndarray) -> float:
    """``h' V^-1 h``.

    Raises
    ------
    ValueError
        The covariance is singular.
    """
    size = np.sqrt(np.abs(np.diag(covariance)))
    if np.any(size == 0):
        raise ValueError("singular")
    scaled = covariance / np.outer(size, size)
    if np.min(np.linalg.eigvalsh(scaled)) < 1e-9:
        raise ValueError("singular")
    return float(value / size @ np.linalg.solve(scaled, value / size))


def information_matrix_statistic(
    scores: np.ndarray, hessians: np.ndarray, weights: np.ndarray, diagonal: bool
) -> tuple[float, int]:
    """White's test of the information equality in the form of Chesher (1983) and Lancaster (1984).

    Parameters
    ----------
    scores : (units, p)
    hessians : (units, p, p) second derivatives of the units' log-likelihoods
    weights : (units,)
    diagonal : whether only the diagonals are compared

    Returns
    -------
    statistic, degrees of freedom
        ``n R^2`` of the regression of ones on the scores and the differences ``s s' + H``; differences that depend on
        each other and on the scores do not count.
    """
    p = scores.shape[1]
    rows, columns = (np.arange(p),) * 2 if diagonal else np.tril_indices(p)
    gaps = scores[:, rows] * scores[:, columns] + hessians[:, rows, columns]
    root = np.sqrt(weights)[:, None]
    basis = span(root * scores)
    gaps = root * gaps
    size = np.linalg.norm(gaps, axis=0)
    rest = gaps - basis @ (basis.T @ gaps)
    rest = rest - basis @ (basis.T @ rest)
    kept = span(rest / np.where(size > 0, size, 1.0), ROUNDING)
    return float(np.sum((kept.T @ root[:, 0]) ** 2)), kept.shape[1]


def span(columns: np.ndarray, least: float = 1e-300) -> np.ndarray:
    """Orthonormal basis of the span of columns, without what is rounding or of a size below the least."""
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, size > max(ROUNDING * np.max(size, initial=0.0), least)]
