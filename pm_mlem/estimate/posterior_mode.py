"""The posterior of the user's whole model near a fit: its mode and curvature in the unconstrained space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pm_mlem.inference.normal import Normal, normal_at
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.log_posterior import LogPosterior
from pm_mlem.optimize.loop import run
from pm_mlem.optimize.newton import Newton
from pm_mlem.optimize.problem import Problem, Status
from pm_mlem.results.hypothesis_tests import check_data

if TYPE_CHECKING:
    from pm_mlem.results.fit import Fit

STEPS = 50
"""Newton steps from the fit to the mode."""


@dataclass(frozen=True, eq=False)
class PosteriorMode:
    """The posterior near a fit.

    Attributes
    ----------
    density, data : its log-density, and the data at which it is evaluated
    normal : the normal distribution it resembles there (unconstrained space)
    reason : why the mean of that is no mode; empty where it is one
    """

    density: LogPosterior
    data: tuple
    normal: Normal
    reason: str


def check_posterior(fit: Fit) -> None:
    """Refuse fits without a posterior of their own.

    Raises
    ------
    ValueError
        Observation weights, or data that were replaced after the fit.
    """
    check_data(fit)
    if np.any(fit._weights != 1.0):
        raise ValueError(
            "The fit has weights=, and a posterior has none: fit the model without weights=, repeat the rows in the "
            "data, or write the weighted log-likelihood as a pm.Potential."
        )


def posterior_mode(fit: Fit) -> PosteriorMode:
    """Newton steps from the fit to a mode of the posterior density of the unconstrained parameters.

    Where they lead to none, the fit's own point is taken. Estimates on the boundary of their support or on their way
    to infinity start at the model's initial point.
    """
    engine = engine_for(fit.model, "map", fit._engine.choices, backend=fit._engine.backend)
    density, data = LogPosterior(engine.objective), engine.data

    def value_and_gradient(u):
        value, gradient = density.value_and_gradient(u, data)
        return float(value), np.asarray(gradient)

    def derivatives(u):
        value, gradient, hessian = density.derivatives(u, data)
        return float(value), np.asarray(gradient), np.asarray(hessian)

    def climb(start):
        return run(Newton(max_iterations=STEPS), Problem(value_and_gradient, derivatives), start)

    start, reason = inside(fit), ""
    found = climb(start)
    if found.status is Status.NOT_FINITE:
        start, reason = engine.objective.space.initial, "the posterior density is not finite at the fit"
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


def inside(fit: Fit) -> np.ndarray:
    """The fit in the unconstrained space, moved to the initial point in directions that lead to a boundary."""
    point, initial = fit._optimum.point, fit._engine.objective.space.initial
    if fit.status is Status.DEGENERATE or not np.all(np.isfinite(point)):
        return np.array(initial)
    held = fit._information.held
    return point + held @ (held.T @ (initial - point))
