"""The result of a fit: frozen, labelled, with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import numpy as np
import pymc as pm

from pm_mlem.graph.units import unit_groups
from pm_mlem.inference.information import (
    Information,
    delta_covariance,
    delta_method,
    involved,
    observed_information,
)
from pm_mlem.inference.intervals import check_level, wald, wald_transformed
from pm_mlem.objective.engine import Engine
from pm_mlem.optimize.problem import Optimum, Status
from pm_mlem.results.labels import Labels, entry_names

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """Maximum-likelihood or maximum-a-posteriori estimates of a PyMC model.

    Made by :func:`pm_mlem.fit`. Estimates are in the user's (constrained) space; xarray objects carry the
    model's dims and coords.

    Attributes
    ----------
    model : pm.Model
        The model that was fitted, unmodified.
    estimator : {"mle", "map"}
    method : str
        What was run, in words.
    message : str
        How the run ended and what to do about it.
    """

    model: pm.Model
    estimator: str
    method: str
    message: str
    seconds: float
    _engine: Engine
    _optimum: Optimum
    _runs: tuple[Mapping[str, Any], ...]
    _weights: np.ndarray

    # --- how it went ---------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """How the run ended."""
        return self._optimum.status

    @property
    def converged(self) -> bool:
        return self._optimum.converged

    @property
    def iterations(self) -> int:
        """Iterations of the run that was kept."""
        return self._optimum.iterations

    @cached_property
    def history(self) -> xr.Dataset:
        """The objective (log-likelihood; log-posterior under "map") at every iteration of the run that was kept."""
        import xarray as xr

        name = "log_likelihood" if self.estimator == "mle" else "log_posterior"
        values = self._optimum.history
        return xr.Dataset({name: ("iteration", values)}, coords={"iteration": np.arange(len(values))})

    @cached_property
    def starts(self) -> pd.DataFrame:
        """Every start and what became of it.

        Columns: ``start`` (0, 1, ...); ``origin``; the objective where it ended (``log_likelihood``, or
        ``log_posterior`` under "map"); ``iterations``; ``status``; ``optimum``, the number of the distinct optimum that
        it reached (0 the best; the same up to names of states; none where the start was set aside early or ended at a
        degenerate point); ``reached``, how many starts reached that optimum; ``reason`` why it is not acceptable.
        """
        import pandas as pd

        return pd.DataFrame([dict(run) for run in self._runs]).astype({"optimum": "Int64"})

    # --- estimates -----------------------------------------------------------------------------------------

    @property
    def _labels(self) -> Labels:
        structure = self._engine.objective.tables.structure
        return Labels(structure.dims, structure.coords)

    @cached_property
    def _report(self):
        objective = self._engine.objective
        estimands, latents, units, entropy = self._engine.report.evaluate(self._optimum.point, objective.data)
        return (
            dict(zip(self._engine.report.names, map(np.asarray, estimands), strict=True)),
            dict(zip(self._engine.report.latent_names, map(np.asarray, latents), strict=True)),
            np.asarray(units),
            float(entropy),
        )

    @cached_property
    def estimates(self) -> xr.Dataset:
        """Parameters and Deterministics at the optimum (constrained space).

        A Deterministic that depends on a latent is its posterior mean. Parameters held with ``fixed=`` are
        included at their values.
        """
        values = {**self._engine.objective.tables.structure.fixed, **self._report[0]}
        return self._labels.dataset(self._in_model_order(values), estimator=self.estimator)

    def _in_model_order(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [v.name for v in [*self.model.free_RVs, *self.model.deterministics]]
        return {name: values[name] for name in names if name in values}

    @property
    def log_likelihood(self) -> float:
        """Log p(y | estimates): latents summed out, all constants, observation weights applied, no prior."""
        units = self._report[2]
        return float(np.sum(np.where(self._weights == 0, 0.0, self._weights * units)))

    @property
    def log_prior(self) -> float | None:
        """Density of the parameters' priors at the estimates (constrained space); None under "mle"."""
        return self.log_posterior - self.log_likelihood if self.estimator == "map" else None

    @property
    def log_posterior(self) -> float | None:
        """``log_likelihood + log_prior``, not normalized; None under "mle"."""
        return self._optimum.value if self.estimator == "map" else None

    @cached_property
    def pointwise_log_likelihood(self) -> xr.Dataset:
        """Log-likelihood of every independent unit at the estimates, latents summed out.

        One variable for each observed variable, with the dims of its rows (or of the rows that share their latents);
        observed variables that share latents are one, ``a+b``, and Potentials with nothing observed go by their name.
        Observation weights are applied, so that all entries add up to ``log_likelihood``.
        """
        import xarray as xr

        units = np.where(self._weights == 0, 0.0, self._weights * self._report[2])
        groups = unit_groups(self._engine.objective.tables)
        return xr.Dataset({g.name: self._labels.units(g, units[g.units]) for g in groups})

    @cached_property
    def latent_probabilities(self) -> xr.Dataset:
        """p(z = k | y, estimates) for each discrete latent; last dimension ``<z>_state``.

        The states carry the labels of the dimension of the latent's probabilities where the model gives it any.
        The component of an observed mixture ``y`` is called ``y_component``.
        """
        import xarray as xr

        latents = {item.name: item for item in self._engine.objective.tables.structure.latents}
        arrays = {}
        for name, values in self._report[1].items():
            states = self._state_labels(latents[name])
            arrays[name] = self._labels.array(name, np.moveaxis(values, 0, -1), {f"{name}_state": states})
        return xr.Dataset(arrays)

    def _state_labels(self, latent) -> np.ndarray:
        """The labels of the dimension of a latent's probabilities; its states where that has none."""
        states = np.arange(latent.lower, latent.lower + latent.states)
        if latent.states_dim is None or self._labels.coords.get(latent.states_dim) is None:
            return states
        return self._labels.coord(latent.states_dim, latent.states)

    def _observation_of(self, latent: str) -> tuple[str, np.ndarray] | None:
        """Name and values of the one number observed for each element of a latent, if there is one."""
        tables = self._engine.objective.tables
        index, item = tables.structure.vector_of(latent)
        found = {}
        for factor in tables.factors:
            term = tables.densities[factor.term_index].term
            if term.kind == "observed" and any(v.vector == index for v in factor.views):
                own = [v for v in factor.views if v.vector == index]
                if term.value.shape != item.shape or not np.array_equal(own[0].address, np.arange(item.n_elements)):
                    return None
                found.setdefault(term.name, np.ravel(np.broadcast_to(term.value.data, item.shape)))
        return next(iter(found.items())) if len(found) == 1 else None

    def _joint_density(self, latent: str) -> np.ndarray | None:
        """p(y, z = k) at every observation, (states, elements); None where it is not a function of the observation."""
        tables = self._engine.objective.tables
        _, item = tables.structure.vector_of(latent)
        if len(tables.structure.latents) != 1 or self.n_obs != item.n_elements:
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
                units[view.address] = self._report[2][rows]
        return self._report[1][latent].reshape(item.states, -1) * np.exp(units)

    # --- sizes and criteria --------------------------------------------------------------------------------

    @property
    def n_params(self) -> int:
        """Free parameters, counted in the unconstrained space (a simplex of K counts K - 1)."""
        return self._engine.objective.space.size

    @property
    def n_obs(self) -> float:
        """Independent units (observations, or groups that share a latent); the sum of their weights."""
        total = float(np.sum(self._weights))
        return int(total) if total == int(total) else total

    @property
    def aic(self) -> float:
        """Akaike's criterion, ``2 p - 2 log L`` (Akaike 1974)."""
        return 2.0 * self.n_params - 2.0 * self.log_likelihood

    @property
    def aicc(self) -> float:
        """AIC with the small-sample correction ``2 p (p + 1) / (n - p - 1)``; NaN where n <= p + 1."""
        p, n = self.n_params, self.n_obs
        return self.aic + 2.0 * p * (p + 1) / (n - p - 1) if n > p + 1 else float("nan")

    @property
    def bic(self) -> float:
        """Bayesian information criterion, ``p log n - 2 log L`` (Schwarz 1978), n = ``n_obs``."""
        return self.n_params * float(np.log(self.n_obs)) - 2.0 * self.log_likelihood

    @property
    def icl(self) -> float:
        """BIC plus twice the entropy of the latents given the data (Biernacki, Celeux & Govaert 2000)."""
        self._require_unit_weights("icl")
        return self.bic + 2.0 * self._report[3]

    def _require_unit_weights(self, what: str) -> None:
        if not np.all(self._weights == 1):
            raise NotImplementedError(f"Fit.{what} is not available for a fit with weights.")

    # --- uncertainty ---------------------------------------------------------------------------------------

    @cached_property
    def _information(self) -> Information:
        objective = self._engine.objective
        value, _, hessian = objective.derivatives(self._optimum.point, self._weights, objective.data)
        tolerance = 1e-8 * (1.0 + abs(self._optimum.value))
        if not abs(float(value) - self._optimum.value) <= tolerance:
            raise RuntimeError(
                f"The objective at the estimates is {float(value):.10g}, the optimizer reported "
                f"{self._optimum.value:.10g}; its curvature cannot be trusted. This is a bug of pm_mlem."
            )
        return observed_information(np.asarray(hessian))

    @cached_property
    def _jacobians(self) -> dict[str, np.ndarray]:
        jacobians = self._engine.report.jacobian(self._optimum.point, self._engine.objective.data)
        return dict(zip(self._engine.report.names, map(np.asarray, jacobians), strict=True))

    def covariance(self, kind: str = "observed", space: str = "constrained", cluster=None) -> xr.DataArray:
        """Covariance matrix of the estimates.

        Parameters
        ----------
        kind : {"observed"}
            Inverse of the observed information: the exact Hessian of the log-likelihood with the latents summed
            out (of the log-posterior under "map").
        space : {"constrained", "unconstrained"}
            The user's space (by the delta method) or the optimizer's.

        Returns
        -------
        xarray.DataArray
            Dimensions ``parameter`` and ``parameter_bis``, labelled by entry (``mu[a]``); NaN where an entry
            is not identified.
        """
        import xarray as xr

        self._check_kind(kind, cluster)
        names = self._engine.objective.space.names
        if space == "unconstrained":
            matrix = delta_covariance(np.eye(self.n_params), self._information)
            labels = self._unconstrained_labels
        elif space == "constrained":
            stacked = np.concatenate([self._jacobians[n].reshape(-1, self.n_params) for n in names])
            matrix = delta_covariance(stacked, self._information)
            labels = [entry for n in names for entry in entry_names(self.estimates[n])]
        else:
            raise ValueError(f"space={space!r} must be 'constrained' or 'unconstrained'.")
        return xr.DataArray(
            matrix, dims=("parameter", "parameter_bis"), coords={"parameter": labels, "parameter_bis": labels},
            name="covariance", attrs={"kind": kind, "estimator": self.estimator},
        )  # fmt: skip

    @property
    def _unconstrained_labels(self) -> list[str]:
        space = self._engine.objective.space
        labels = []
        for name in space.names:
            shape = space.unconstrained_shapes[name]
            labels += [f"{name}__[{', '.join(map(str, i))}]" if shape else f"{name}__" for i in np.ndindex(*shape)]
        return labels

    def standard_errors(self, kind: str = "observed", cluster=None) -> xr.Dataset:
        """Standard errors of parameters and Deterministics (delta method, constrained space).

        Parameters
        ----------
        kind : {"observed"}
            From the observed information; under "map" the curvature of the log-posterior.

        Returns
        -------
        xarray.Dataset
            NaN where an entry is not identified by the data (see :meth:`summary` for the reason).
        """
        self._check_kind(kind, cluster)
        values = {n: delta_method(j, self._information) for n, j in self._jacobians.items()}
        return self._labels.dataset(self._in_model_order(values), kind=kind)

    def _check_kind(self, kind: str, cluster) -> None:
        if kind in ("opg", "sandwich", "bootstrap") or cluster is not None:
            raise NotImplementedError(
                f"Covariances of kind {kind!r} or by cluster are not implemented; use 'observed'."
            )
        if kind != "observed":
            raise ValueError(f"kind={kind!r} must be 'observed'.")

    def confidence_intervals(self, level: float = 0.95, kind: str = "wald") -> xr.Dataset:
        """Confidence intervals; dimension ``ci_bound`` (lower, upper).

        Parameters
        ----------
        level : float
        kind : {"wald"}
            Made on the unconstrained scale where a parameter's transform acts entry by entry, for the log-odds
            of the entries of a simplex, and on the natural scale for all else; so bounds stay inside the support.
        """
        check_level(level)
        if kind in ("profile", "bootstrap"):
            raise NotImplementedError(f"Intervals of kind {kind!r} are not implemented; use 'wald'.")
        if kind != "wald":
            raise ValueError(f"kind={kind!r} must be 'wald'.")
        values = {name: self._wald(name, level) for name in self._engine.report.names}
        extra = {"ci_bound": ["lower", "upper"]}
        return self._labels.dataset(self._in_model_order(values), extra, level=level, kind=kind)

    def _wald(self, name: str, level: float) -> np.ndarray:
        space = self._engine.objective.space
        estimate = self._report[0][name]
        jacobian = self._jacobians[name]
        error = delta_method(jacobian, self._information)
        if name not in space.names:
            return wald(estimate, error, level)
        where = space.slices[name]
        own = jacobian[..., where].reshape(estimate.size, -1)
        entrywise = own.shape[0] == own.shape[1] and np.count_nonzero(own - np.diag(np.diag(own))) == 0
        if entrywise and space.unconstrained_shapes[name] == space.shapes[name]:
            rows = np.eye(self.n_params)[where]
            u_error = delta_method(rows, self._information).reshape(estimate.shape)
            u = self._optimum.point

            def constrain(part):
                moved = u.copy()
                moved[where] = np.ravel(part)
                return space.values(moved)[name]

            return wald_transformed(u[where].reshape(estimate.shape), u_error, level, constrain)
        simplex = own.shape[1] < own.shape[0] and np.allclose(estimate.sum(axis=-1), 1.0) and np.all(estimate >= 0)
        return wald(estimate, error, level, "logit" if simplex else "identity")

    # --- tables --------------------------------------------------------------------------------------------

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """Estimates, standard errors and Wald intervals, one row an entry (named as ``az.summary`` does).

        Columns ``estimate``, ``se``, ``ci_lb``, ``ci_ub``, ``note``; the note says why a standard error is missing.
        Deterministics as large as the data are left out (they are in ``estimates``).
        """
        from pm_mlem.results.summary import summary_table

        return summary_table(self, level)

    def _note(self, name: str, error: float) -> str:
        if name in self._engine.objective.tables.structure.fixed:
            return "fixed"
        if np.isfinite(error):
            return ""
        others = involved(self._information, self._unconstrained_labels)
        if self._information.rising:
            return "the estimate is a saddle point, not a maximum"
        return f"not identified: the likelihood is flat along a direction of {', '.join(others[:4])}"

    # --- ArviZ ---------------------------------------------------------------------------------------------

    def to_datatree(self, draws: int = 1000, chains: int = 4, random_seed: int | None = None) -> xr.DataTree:
        """The fit as an ``xarray.DataTree`` for ArviZ.

        Groups: ``posterior`` (draws from the normal approximation of the estimator's sampling distribution,
        made in the unconstrained space and marked as such in its attributes), ``point_estimate``,
        ``standard_error``, ``confidence_interval``, ``latent_posterior``, ``log_likelihood``, ``observed_data``,
        ``constant_data``, ``optimizer_trace``.

        Parameters
        ----------
        draws, chains : int
            Size of the ``posterior`` group.
        random_seed : int or None
        """
        from pm_mlem.results.datatree import to_datatree

        return to_datatree(self, draws, chains, random_seed)

    def _sample(self, draws: int, random_seed: int | None) -> dict[str, np.ndarray]:
        """Draws of parameters from the normal approximation, in the unconstrained space."""
        if not self._information.regular:
            from pm_mlem.errors import NotIdentifiedError

            names = ", ".join(involved(self._information, self._unconstrained_labels)[:4])
            raise NotIdentifiedError(
                f"The estimator has no normal approximation: the likelihood is flat or rising along {names}."
            )
        rng = np.random.default_rng(random_seed)
        points = rng.multivariate_normal(self._optimum.point, self._information.inverse, size=draws)
        values = jax.vmap(self._engine.objective.space.constrain)(points)
        return dict(zip(self._engine.objective.space.names, map(np.asarray, values), strict=True))

    # --- not yet -------------------------------------------------------------------------------------------

    def decode(self) -> NoReturn:
        """The jointly most probable latent states."""
        raise NotImplementedError("Fit.decode: joint decoding of latents is not implemented.")

    def predict(self, data=None) -> NoReturn:
        """Predictions for new values of the model's ``pm.Data``."""
        raise NotImplementedError("Fit.predict is not implemented.")

    def score(self, data) -> NoReturn:
        """Log-likelihood of new values of the model's ``pm.Data``."""
        raise NotImplementedError("Fit.score is not implemented.")

    # --- display -------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        from pm_mlem.results.summary import text

        return text(self)

    def _repr_html_(self) -> str:
        from pm_mlem.results.summary import html

        return html(self)
