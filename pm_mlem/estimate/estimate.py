"""A target at a point: every number that follows from the two, computed when asked for, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from pm_mlem.estimate.diagnosis import Diagnosis, diagnose
from pm_mlem.estimate.labels import Labels, entry_names
from pm_mlem.estimate.notes import no_maximum
from pm_mlem.estimate.sample import Sample
from pm_mlem.estimate.target import Target
from pm_mlem.graph.tables.known_labels import independent_units
from pm_mlem.graph.tables.observations import Observations, observations
from pm_mlem.graph.tables.units import UnitGroup, unit_groups, units_of_elements
from pm_mlem.inference.information import Information
from pm_mlem.optimize.problem import Optimum, Status
from pm_mlem.precision import in_double


@in_double
@dataclass(frozen=True, eq=False)
class Estimate:
    """A target at a point.

    Attributes
    ----------
    target : what was maximised
    optimum : where, and how the run that led there ended
    """

    target: Target
    optimum: Optimum
    _kept: dict[Callable, Any] = field(default_factory=dict, init=False)

    def __reduce__(self):
        raise TypeError(
            "What is made of a fit holds compiled functions of its model, which cannot be pickled. Pickle the fit "
            "itself (it is restored as an mlem.SavedFit), or what .to_datatree() makes of it."
        )

    def kept[T](self, make: Callable[[Estimate], T]) -> T:
        """What a function makes of the estimate; called once."""
        if make not in self._kept:
            self._kept[make] = make(self)
        return self._kept[make]

    @property
    def point(self) -> np.ndarray:
        """In the unconstrained space, ``(p,)``."""
        return self.optimum.point

    @property
    def status(self) -> Status:
        return self.optimum.status

    def moved(self, point: np.ndarray) -> Estimate:
        """The same target elsewhere."""
        return replace(self, optimum=replace(self.optimum, point=point))

    # --- what the model reports ----------------------------------------------------------------------------

    @cached_property
    def _report(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
        return self.target.report(self.point)

    @property
    def values(self) -> dict[str, np.ndarray]:
        """Free parameters, then Deterministics, by name (constrained space)."""
        return self._report[0]

    @property
    def latents(self) -> dict[str, np.ndarray]:
        """Posterior probabilities of the latents, ``(states, *shape)``."""
        return self._report[1]

    @property
    def units(self) -> np.ndarray:
        """Log-likelihoods of the units, unweighted."""
        return self._report[2]

    @property
    def weighted_units(self) -> np.ndarray:
        """Log-likelihood of every unit times its weight; a weight of 0 drops the unit, impossible or not."""
        weights = self.target.weights
        return weights * np.where(weights == 0, 0.0, self.units)

    @property
    def log_likelihood(self) -> float:
        return float(np.sum(self.weighted_units))

    @cached_property
    def entropy(self) -> float:
        """Classification entropy of the latents, in nats."""
        return max(self.target.entropy(self.point), 0.0)

    @cached_property
    def jacobians(self) -> dict[str, np.ndarray]:
        """Derivatives of parameters and Deterministics, ``(*shape, p)``."""
        return self.target.jacobians(self.point)

    def joint_density(self, latent: str) -> np.ndarray | None:
        """p(y, z = k) at every observation, (states, elements); None where it is not a function of the observation."""
        tables = self.target.tables
        _, item = tables.structure.vector_of(latent)
        units = units_of_elements(tables, self.independent)
        if len(tables.structure.latents) != 1 or len(np.unique(units)) != item.n_elements:
            return None
        sites = {s.term: s for s in tables.sites}
        for i, density in enumerate(tables.densities):
            lead = len(density.lifted.slots)
            axes = slice(lead, lead + density.lifted.ndim)
            if i not in sites or any(n != 1 for a in sites[i].parameters for n in a.type.shape[axes]):
                return None
        units = np.empty(item.n_elements)
        for factor, rows in zip(tables.factors, tables.elimination.unit_of_row, strict=True):
            for view in factor.views:
                units[view.address] = self.units[rows]
        return self.latents[latent].reshape(item.states, -1) * np.exp(units)

    # --- sizes and names -----------------------------------------------------------------------------------

    @property
    def n_params(self) -> int:
        return self.target.space.size

    @property
    def n_obs(self) -> float:
        """Weighted number of observations; NaN where the model has no data by rows."""
        return as_count(self.observations.count(self.target.weights))

    @property
    def n_units(self) -> float:
        """Weighted number of independent units that hold data."""
        return as_count(float(np.sum(self.sample.weights)))

    @cached_property
    def observations(self) -> Observations:
        """The rows of the data."""
        return observations(self.target.tables)

    @cached_property
    def sample(self) -> Sample:
        """The independent units that hold data."""
        held = np.zeros(1 + int(self.independent.max(initial=-1)), dtype=bool)
        held[self.independent[self.observations.holding]] = True
        number = np.where(held, np.cumsum(held) - 1, -1)
        return Sample(number[self.independent], self.target.weights)

    @cached_property
    def independent(self) -> np.ndarray:
        """For each unit of the log-likelihood the independent unit that it belongs to."""
        return independent_units(self.target.tables)

    @cached_property
    def independent_groups(self) -> tuple[UnitGroup, ...]:
        """The independent units by what is observed of them, penalties (Potentials that are no data) included."""
        return unit_groups(self.target.tables, self.independent)

    @property
    def data_groups(self) -> tuple[UnitGroup, ...]:
        """The independent units that hold data, by what is observed of them."""
        held = np.unique(self.independent[self.sample.of >= 0])
        return tuple(g for g in self.independent_groups if np.all(np.isin(g.units, held)))

    @cached_property
    def labels(self) -> Labels:
        return Labels(self.target.structure.dims, self.target.structure.coords)

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the model's free variables."""
        return frozenset(v.name for v in self.target.model.free_RVs)

    def in_model_order(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        model = self.target.model
        names = [v.name for v in [*model.free_RVs, *model.deterministics]]
        return {name: values[name] for name in names if name in values}

    @cached_property
    def reported(self) -> dict[str, np.ndarray]:
        """Parameters, held ones included, and Deterministics, in the order of the model."""
        return self.in_model_order({**self.target.structure.fixed, **self.values})

    # --- curvature -----------------------------------------------------------------------------------------

    @cached_property
    def _derivatives(self) -> tuple[np.ndarray, np.ndarray]:
        value, gradient, hessian = self.target.curvature(self.point)
        tolerance = 1e-8 * (1.0 + abs(self.optimum.value))
        if not abs(value - self.optimum.value) <= tolerance:
            raise RuntimeError(
                f"The objective at the estimates is {value:.10g}, the optimizer reported {self.optimum.value:.10g}; "
                "its curvature cannot be trusted. This is a bug of pm_mlem."
            )
        return gradient, hessian

    @property
    def gradient(self) -> np.ndarray:
        return self._derivatives[0]

    @property
    def hessian(self) -> np.ndarray:
        """Second derivatives of the objective, or what stands for them, see :meth:`Target.curvature`."""
        return self._derivatives[1]

    @cached_property
    def scores(self) -> np.ndarray:
        """Derivatives of the units' log-likelihoods, ``(units, p)``."""
        return self.target.scores(self.point)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """Which parameters have standard errors, and why not the others."""
        return diagnose(self.target, self.point, self.hessian)

    @cached_property
    def _curvature(self) -> tuple[Information, str]:
        information = self.diagnosis.information
        assert information is not None
        if self.status is Status.DEGENERATE:
            return information.useless, "the objective has no maximum here"
        target = self.target
        theta = target.space.constrain(self.point)
        if target.estimator == "map" and target.objective.kinks.prior_at(theta, target.data):
            return information.useless, "the density of the priors has a kink at the estimate"
        reason = no_maximum(target, self.optimum, information, self.gradient)
        return (information.useless if reason else information), reason

    @property
    def information(self) -> Information:
        """The observed information; no direction of it is identified where it says nothing about errors."""
        return self._curvature[0]

    @property
    def reason(self) -> str:
        """Why the curvature says nothing about errors; empty where it does."""
        return self._curvature[1]

    def note(self, name: str, index: tuple[int, ...], error: float) -> str:
        """Why an entry has no standard error; empty where it has one."""
        space = self.target.space
        if name in self.target.structure.fixed:
            return "fixed"
        if name in space.held and not space.is_free(name)[index]:
            return "fixed"
        if np.isfinite(error):
            return ""
        if self.reason:
            return f"no standard error: {self.reason}"
        array = self.labels.array(name, self.reported[name])
        position = int(np.ravel_multi_index(index, array.shape)) if index else 0
        return self.diagnosis.reason(name, entry_names(array)[position], position)


def as_count(number: float) -> float:
    """Whole numbers as integers."""
    return int(number) if number == np.round(number) else number
