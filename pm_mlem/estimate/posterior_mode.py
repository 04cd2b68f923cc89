"""The posterior of the user's whole model near a fit: its mode and curvature in the unconstrained space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pm_mlem.estimate.estimate import Estimate
from pm_mlem.inference.normal import Normal, normal_at
from pm_mlem.objective.log_posterior import LogPosterior
from pm_mlem.optimize.loop import run
from pm_mlem.optimize.newton import Newton
from pm_mlem.optimize.problem import Problem, Status

STEPS = 50
"""Newton steps from the fit to the mode."""


@dataclass(frozen=True, eq=False)
class PosteriorMode:
    """The posterior near a fit.

    Attributes
    ----------
    density : its log-density
    data : that it is evaluated for
    normal : the normal distribution it resembles there (unconstrained space)
    reason : why the mean of that is no mode; empty where it is one
    """

    density: LogPosterior
    data: tuple
    normal: Normal
    reason: str

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Exact log-densities, not normalized, at points ``(n, p)``."""
        return self.density.on(points, self.data)


def check_posterior(estimate: Estimate) -> None:
    """Refuse fits without a posterior of their own.

    Raises
    ------
    ValueError
        Observation weights.
    """
    if np.any(estimate.target.weights != 1.0):
        raise ValueError(
            "The fit has weights=, and a posterior has none: fit the model without weights=, repeat the rows in the "
            "data, or write the weighted log-likelihood as a pm.Potential."
        )


def posterior_mode(estimate: Estimate) -> PosteriorMode:
    """Newton steps from an estimate to a mode of the posterior density of the unconstrained parameters.

    Kept with ``estimate.kept(posterior_mode)``. Where the steps lead to no mode, the estimate's own point is taken.
    Estimates on the boundary of their support or on their way to infinity start at the model's initial point.
    """
    target = estimate.target.sibling("map")
    density, data = LogPosterior(target.objective), target.data

    def value_and_gradient(u):
        value, gradient = density.value_and_gradient(u, data)
        return float(value), np.asarray(gradient)

    def derivatives(u):
        value, gradient, hessian = density.derivatives(u, data)
        return float(value), np.asarray(gradient), np.asarray(hessian)

    def climb(start):
        return run(Newton(max_iterations=STEPS), Problem(value_and_gradient, derivatives), start)

    start, reason = inside(estimate), ""
    found = climb(start)
    if found.status is Status.NOT_FINITE:
        start, reason = target.space.initial, "the posterior density is not finite at the fit"
        found = climb(start)
    if not found.converged:
        reason = reason or (
            f"{found.iterations} Newton steps led to no mode of the posterior density; it still rises by about "
            f"{found.gain:.2g} (towards a boundary or to infinity?)"
        )
    point = found.point if found.converged else start
    hessian = derivatives(point)[2]
    normal = normal_at(point, np.where(np.isfinite(hessian), hessian, 0.0))
    if not reason and normal.flat.shape[1]:
        reason = f"the posterior density is flat in {normal.flat.shape[1]} direction(s)"
    return PosteriorMode(density, data, normal, reason)


def inside(estimate: Estimate) -> np.ndarray:
    """The estimate in the unconstrained space, moved to the initial point in directions that lead to a boundary."""
    point, initial = estimate.point, estimate.target.space.initial
    if estimate.status is Status.DEGENERATE or not np.all(np.isfinite(point)):
        return np.array(initial)
    known = estimate.information
    held = known.held
    return point + known.unscaled(held @ (held.T @ (known.sizes * (initial - point))[:, None]))[:, 0]
