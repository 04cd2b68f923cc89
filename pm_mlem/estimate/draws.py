"""Draws of the estimator's sampling distribution, and what the model reports at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pm_mlem.errors import NotIdentifiedError
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.labels import LARGE

Seed = int | np.random.Generator | None
NORMAL = "normal approximation of the estimator's sampling distribution (unconstrained space), not a Bayesian posterior"


@dataclass(frozen=True, eq=False)
class Draws:
    """Points of the unconstrained space, drawn from an approximation of the estimator's distribution.

    Attributes
    ----------
    points : (chains * draws, p)
    chains : how many chains they are written as
    approximation : what they are, in words
    log_density : the approximation's log-density at the points; None where it has none
    """

    points: np.ndarray
    chains: int
    approximation: str
    log_density: np.ndarray | None = None

    def shaped(self, values: np.ndarray) -> np.ndarray:
        """``(chain, draw, ...)`` instead of one first axis."""
        return values.reshape(self.chains, len(values) // self.chains, *values.shape[1:])

    @property
    def coords(self) -> dict[str, np.ndarray]:
        return {"chain": np.arange(self.chains), "draw": np.arange(len(self.points) // self.chains)}


def normal_draws(estimate: Estimate, n: int, random_seed: Seed) -> Draws:
    """Draws from the normal distribution with the estimate as mean and the inverse information as covariance.

    Entries that are held, on the boundary or at infinity stay where they are.

    Raises
    ------
    NotIdentifiedError
    """
    if not estimate.information.regular:
        sentences = [sentence for _, sentence in estimate.diagnosis.flat]
        why = estimate.reason or "; ".join(sentences) or "the estimates are not a maximum"
        raise NotIdentifiedError(f"The estimator has no normal approximation: {why}.")
    root = estimate.information.root
    z = np.random.default_rng(random_seed).standard_normal((n, root.shape[1]))
    lengths = np.linalg.svd(root, compute_uv=False)
    density = -0.5 * np.sum(z**2, axis=1) - np.sum(np.log(lengths)) - 0.5 * z.shape[1] * np.log(2 * np.pi)
    return Draws(estimate.point + z @ root.T, 1, NORMAL, density)


# --- what the model reports at them -------------------------------------------------------------------------


def values_at(estimate: Estimate, points: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters and small Deterministics at unconstrained points ``(n, p)``, in the order of the model."""
    target = estimate.target
    values = target.constrained(points)
    small = [n for n in target.readout.names if n not in values and np.size(estimate.values[n]) <= LARGE]
    return estimate.in_model_order({**values, **target.estimands(points, small)})
