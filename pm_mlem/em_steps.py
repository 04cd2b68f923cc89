"""EM one step at a time, for teaching and debugging."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm

from pm_mlem.fit import check_choice, current_model, problem_of
from pm_mlem.optimize.acceleration import begin, plain
from pm_mlem.optimize.em import converged
from pm_mlem.optimize.problem import Optimum, Status

if TYPE_CHECKING:
    import xarray as xr

    from pm_mlem.objective.engine import Engine
    from pm_mlem.results.fit import Fit


@dataclass(frozen=True, eq=False)
class EMStep:
    """One iteration of EM: an E-step at the current estimates, then an M-step.

    Attributes
    ----------
    iteration : int
        From 0.
    log_likelihood : float
        Log p(y | current estimates), latents summed out (plus the log-prior under "map").
    q_before, q_after : float
        Expected complete-data log-likelihood Q (plus the log-prior under "map") at the current and at the next
        estimates, the expectation being over the latents given the data and the current estimates.
    fit : Fit
        The current estimates as a :class:`Fit` that has not converged, for the plots.
    """

    iteration: int
    log_likelihood: float
    q_before: float
    q_after: float
    fit: Fit
    _next: np.ndarray

    @property
    def estimates(self) -> xr.Dataset:
        """Current parameters and Deterministics (constrained space)."""
        return self.fit.estimates

    @property
    def latent_probabilities(self) -> xr.Dataset:
        """What the E-step finds: p(z = k | y, current estimates), last dimension ``<z>_state``."""
        return self.fit.latent_probabilities

    @cached_property
    def next_estimates(self) -> xr.Dataset:
        """What the M-step makes of them: the estimates of the next iteration."""
        return replace(self.fit, _optimum=replace(self.fit._optimum, point=self._next)).estimates

    @property
    def lower_bound(self) -> float:
        """The bound on the log-likelihood that this E-step gives, at the next estimates.

        It touches the log-likelihood at the current estimates, so what the M-step gains on the bound the
        log-likelihood gains at least: ``log_likelihood + q_after - q_before``.
        """
        return self.log_likelihood + self.q_after - self.q_before

    def lower_bound_at(self, values: Mapping[str, Any]) -> float:
        """The same bound at other parameter values; variables that are not named keep the current estimates.

        Parameters
        ----------
        values : dict
            ``{name: value}``, constrained space.
        """
        point = self._moved(values)
        return self.log_likelihood + self._q(point) - self.q_before

    def log_likelihood_at(self, values: Mapping[str, Any]) -> float:
        """The log-likelihood (plus the log-prior under "map") at other parameter values, as in ``lower_bound_at``."""
        objective = self.fit._engine.objective
        return float(objective.value_and_gradient(self._moved(values), self.fit._weights, self.fit._engine.data)[0])

    def _moved(self, values: Mapping[str, Any]) -> np.ndarray:
        space = self.fit._engine.objective.space
        return space.unconstrain({**space.values(self.fit._optimum.point), **values}, "values")

    def _q(self, point: np.ndarray) -> float:
        return q_function(self.fit._engine, self.fit._optimum.point, point, self.fit._weights)

    def __repr__(self) -> str:
        return (
            f"EM step {self.iteration}: log-likelihood {self.log_likelihood:.6g}, Q {self.q_before:.6g} -> "
            f"{self.q_after:.6g}, lower bound {self.lower_bound:.6g}"
        )


def em_steps(
    model: pm.Model | None = None,
    estimator: str = "mle",
    *,
    start: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    weights=None,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Iterator[EMStep]:
    """Plain EM (no acceleration), one iteration at a time.

    Parameters
    ----------
    model : pm.Model, optional
        Default: the model on the context stack.
    estimator : {"mle", "map"}
    start : dict, optional
        ``{name: value}`` (constrained space); variables that are left out keep the model's initial point.
    fixed, weights :
        As in :func:`pm_mlem.fit`.
    tolerance : float
        Ends when less than this is left to gain (log-likelihood units; Aitken's estimate).
    max_iterations : int

    Yields
    ------
    EMStep

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_mlem as mlem
    >>> with pm.Model() as model:
    ...     mu = pm.Normal("mu", 0, 10, shape=2)
    ...     z = pm.Bernoulli("z", 0.5, shape=4)
    ...     y = pm.Normal("y", mu[z], 1.0, observed=[-2.1, -1.9, 1.8, 2.2])
    >>> for step in mlem.em_steps(model, start={"mu": [-1.0, 0.5]}, max_iterations=3):
    ...     print(step.iteration, step.estimates["mu"].values.round(3), round(step.log_likelihood, 4))
    0 [-1.   0.5] -9.5369
    1 [-1.86   1.739] -6.5824
    2 [-1.997  1.996] -6.4967
    """
    from pm_mlem.graph.roles.choices import Choices
    from pm_mlem.objective.engine import engine_for
    from pm_mlem.objective.weights import unit_weights

    model = current_model(model)
    check_choice(estimator, ("mle", "map"), "estimator")
    engine = engine_for(model, estimator, Choices(fixed=fixed or {}))
    unit = unit_weights(engine.objective.tables, weights)
    point = engine.objective.space.unconstrain(start or {}, "start")
    return iterate(model, engine, unit, point, tolerance, max_iterations)


def iterate(
    model: pm.Model, engine: Engine, unit: np.ndarray, point: np.ndarray, tolerance: float, limit: int
) -> Iterator[EMStep]:
    from pm_mlem.results.fit import Fit

    em = problem_of(engine, unit).em
    assert em is not None
    climb, history = begin(em.soft, point), []
    for iteration in range(limit):
        history.append(climb.value)
        title = f"EM step {iteration}"
        optimum = Optimum(
            climb.point, climb.value, Status.MAX_ITERATIONS, title, np.array(history), climb.gain, ((title, iteration),)
        )
        current = Fit(model, engine.objective.estimator, title, title, 0.0, engine, optimum, (), unit)
        before, after = (q_function(engine, climb.point, to, unit) for to in (climb.point, climb.next_point))
        yield EMStep(iteration, climb.value, before, after, current, climb.next_point)
        climb = plain(em.soft, climb)
        if converged(climb, tolerance) is not None:
            return


def q_function(engine: Engine, point: np.ndarray, to: np.ndarray, unit: np.ndarray) -> float:
    """Q at one point, the expectation taken at another."""
    return float(engine.expected(point, to, unit, engine.data))
