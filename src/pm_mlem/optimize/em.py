"""Expectation-maximization as a fixed-point iteration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pm_mlem.optimize.problem import Problem, Status, Vector, Verdict


@dataclass(frozen=True)
class EMState:
    point: Vector
    value: float
    next_point: Vector
    gain: float = np.inf
    last_gain: float = np.nan
    fell: float = 0.0


@dataclass(frozen=True)
class EM:
    """Expectation-maximization (Dempster, Laird & Rubin 1977).

    Each iteration computes the posterior probabilities of the latents and maximises the expected complete-data
    log-likelihood: in closed form where a parameter has one, by a safeguarded Newton step otherwise. The
    log-likelihood never falls.

    Parameters
    ----------
    max_iterations : int
    tolerance : float
        Stop when the log-likelihood still to be gained, extrapolated from the last gains (Aitken), is below this.

    References
    ----------
    .. [1] Dempster, A. P., Laird, N. M. & Rubin, D. B. *Maximum likelihood from incomplete data via the EM
       algorithm*. J. R. Stat. Soc. B 39 (1977). https://doi.org/10.1111/j.2517-6161.1977.tb01600.x
    """

    max_iterations: int = 10_000
    tolerance: float = 1e-8
    title = "EM"

    def init(self, problem: Problem, point: Vector) -> EMState:
        if problem.em_map is None:
            raise ValueError("EM needs latent variables.")
        new, value = problem.em_map(point)
        return EMState(point, float(value), np.asarray(new))

    def step(self, problem: Problem, state: EMState) -> EMState:
        new, value = problem.em_map(state.next_point)
        value = float(value)
        change = value - state.value
        noise = 1e-12 * (1.0 + abs(state.value))
        if not np.isfinite(value) or change < -noise:
            return EMState(state.point, state.value, state.next_point, state.gain, state.last_gain, fell=change)
        gain = remaining(change, state.last_gain)
        return EMState(state.next_point, value, np.asarray(new), gain, change)

    def done(self, state: EMState) -> Verdict | None:
        if state.fell:
            return Verdict(
                Status.STALLED, f"An EM step changed the log-likelihood by {state.fell:.2g} and was rejected."
            )
        if state.gain <= max(self.tolerance, 1e-13 * abs(state.value)):
            return Verdict(
                Status.CONVERGED, f"Converged: about {max(state.gain, 0.0):.1g} of log-likelihood is left to gain."
            )
        return None


def remaining(change: float, last: float) -> float:
    """Aitken's estimate of the gain that is left, from two successive gains."""
    if not np.isfinite(last):
        return np.inf
    if change <= 0:
        return 0.0
    rate = min(change / last, 0.99999) if last > 0 else 0.99999
    return change * rate / (1.0 - rate)
