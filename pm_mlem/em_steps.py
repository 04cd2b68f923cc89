"""EM one step at a time, for teaching and debugging."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm

from pm_mlem.arguments import check_estimator, checked, current_model, not_negative, optional, values, whole
from pm_mlem.optimize.acceleration import begin, plain
from pm_mlem.optimize.em import converged
from pm_mlem.optimize.problem import Optimum, Status
from pm_mlem.precision import double, in_double, items_in_double

if TYPE_CHECKING:
    import xarray as xr

    from pm_mlem.estimate.estimate import Estimate
    from pm_mlem.estimate.target import Target
    from pm_mlem.results.fit import Fit


@in_double
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
    """

    iteration: int
    log_likelihood: float
    q_before: float
    q_after: float
    _estimate: Estimate
    _next: np.ndarray

    @cached_property
    def fit(self) -> Fit:
        """The current estimates as a :class:`Fit` that has not converged, for the plots."""
        from pm_mlem.results.fit import Fit

        target, title = self._estimate.target, self._estimate.optimum.message
        return Fit(target.model, target.estimator, title, title, 0.0, self._estimate, ())

    @cached_property
    def estimates(self) -> xr.Dataset:
        """Current parameters and Deterministics (constrained space)."""
        from pm_mlem.results.estimates import parameters_and_deterministics

        return parameters_and_deterministics(self._estimate)

    @cached_property
    def latent_probabilities(self) -> xr.Dataset:
        """What the E-step finds: p(z = k | y, current estimates), last dimension ``<z>_state``."""
        from pm_mlem.results.estimates import latent_probabilities

        return latent_probabilities(self._estimate)

    @cached_property
    def next_estimates(self) -> xr.Dataset:
        """What the M-step makes of them: the estimates of the next iteration."""
        from pm_mlem.results.estimates import parameters_and_deterministics

        return parameters_and_deterministics(self._estimate.moved(self._next))

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
        return self._estimate.target.value(self._moved(values))

    def _moved(self, values: Mapping[str, Any]) -> np.ndarray:
        space = self._estimate.target.space
        return space.unconstrain({**space.values(self._estimate.point), **values}, "values")

    def _q(self, point: np.ndarray) -> float:
        return self._estimate.target.expected(self._estimate.point, point)

    def along(self, way: np.ndarray) -> tuple[list[float], list[float]]:
        """Log-likelihood and bound on the line from these estimates to the next, in the unconstrained space.

        Parameters
        ----------
        way : (n,)
            Where on that line: 0 these estimates, 1 the next.

        Returns
        -------
        log_likelihood, bound : lists of n numbers
            Plus the log-prior under "map".
        """
        start, step = self._estimate.point, self._next - self._estimate.point
        points = [start + w * step for w in way]
        value = [self._estimate.target.value(u) for u in points]
        return value, [self.log_likelihood + self._q(u) - self.q_before for u in points]

    def __repr__(self) -> str:
        return (
            f"EM step {self.iteration}: log-likelihood {self.log_likelihood:.6g}, Q {self.q_before:.6g} -> "
            f"{self.q_after:.6g}, lower bound {self.lower_bound:.6g}"
        )


@checked(start=optional(values), fixed=optional(values), tolerance=not_negative, max_iterations=whole(1))
@double()
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
    from pm_mlem.estimate.target import target_of
    from pm_mlem.graph.roles.choices import Choices

    model = current_model(model)
    check_estimator(estimator)
    target = target_of(model, estimator, Choices(fixed=fixed or {}), weights)
    return iterate(target, target.space.unconstrain(start or {}, "start"), tolerance, max_iterations)


@items_in_double
def iterate(target: Target, point: np.ndarray, tolerance: float, limit: int) -> Iterator[EMStep]:
    from pm_mlem.estimate.estimate import Estimate

    climb, history = begin(target.em_step, point), []
    for iteration in range(limit):
        history.append(climb.value)
        title = f"EM step {iteration}"
        optimum = Optimum(
            climb.point, climb.value, Status.MAX_ITERATIONS, title, np.array(history), climb.gain, ((title, iteration),)
        )
        before, after = (target.expected(climb.point, to) for to in (climb.point, climb.next_point))
        yield EMStep(iteration, climb.value, before, after, Estimate(target, optimum), climb.next_point)
        climb = plain(target.em_step, climb)
        if converged(climb, tolerance) is not None:
            return
