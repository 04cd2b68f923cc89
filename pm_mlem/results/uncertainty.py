"""Covariances, standard errors and intervals of an estimate, labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from pm_mlem.estimate.covariance import errors_of, spread, wald_interval
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.labels import LARGE, entry_names, left_out, unknown
from pm_mlem.inference.covariance import delta_covariance
from pm_mlem.results.profiles import objective_name, profile_intervals, remarks

EXTRA = {"ci_bound": ["lower", "upper"]}


def check_bootstrap(fit: Any, bootstrap: Any, cluster=None, small_sample: bool = False) -> None:
    """Refuse a bootstrap of another fit, and arguments that only the sandwich has.

    Raises
    ------
    ValueError
    """
    if cluster is not None or small_sample:
        raise ValueError(
            "cluster= and small_sample= belong to kind='sandwich'; resample clusters with "
            "bootstrap=fit.bootstrap(unit=...)."
        )
    if bootstrap is not None and bootstrap.fit is not fit:
        raise ValueError("bootstrap= was made from another fit; make it with this one's bootstrap().")


def check_no_bootstrap(bootstrap: Any, kind: str) -> None:
    if bootstrap is not None:
        raise ValueError(f"bootstrap= belongs to kind='bootstrap', not to {kind!r}.")


def check_kind(kind: str, covariance: str, cluster, small_sample: bool) -> None:
    """Refuse kinds of intervals that there are not, and arguments that do not belong to a kind.

    Raises
    ------
    ValueError
    """
    if kind not in ("wald", "profile"):
        raise ValueError(f"kind={kind!r} is unknown; use 'wald', 'profile' or 'bootstrap'.")
    if covariance == "bootstrap":
        raise ValueError("covariance='bootstrap' makes no Wald intervals; use kind='bootstrap'.")
    if kind == "profile" and (covariance != "observed" or cluster is not None or small_sample):
        raise ValueError("covariance=, cluster= and small_sample= belong to kind='wald', not to 'profile'.")


def covariance(estimate: Estimate, kind: str, space: str, cluster, small_sample: bool) -> xr.DataArray:
    """See :meth:`pm_mlem.Fit.covariance`."""
    parameters = estimate.target.space
    if space not in ("constrained", "unconstrained"):
        raise ValueError(f"space={space!r} must be 'constrained' or 'unconstrained'.")
    of, p = spread(estimate, kind, cluster, small_sample), estimate.n_params
    if not p:
        matrix, labels = np.zeros((0, 0)), []
    elif space == "unconstrained":
        matrix, labels = delta_covariance(np.eye(p), of), list(parameters.labels)
    else:
        free = {n: parameters.is_free(n) for n in parameters.names}
        stacked = np.concatenate([estimate.jacobians[n][free[n]].reshape(-1, p) for n in free])
        matrix = delta_covariance(stacked, of)
        without = np.concatenate([np.isnan(errors_of(estimate, n, of)[free[n]]) for n in free])
        matrix[without, :] = np.nan
        matrix[:, without] = np.nan
        labels = free_entries(estimate)
    return labelled_matrix(matrix, labels, kind, estimate.target.estimator)


def free_entries(estimate: Estimate) -> list[str]:
    """Names of the entries of the parameters that are not held."""
    space, names = estimate.target.space, []
    for name in space.names:
        entries = np.array(entry_names(estimate.labels.array(name, estimate.values[name])))
        names += entries[space.is_free(name).ravel()].tolist()
    return names


def labelled_matrix(matrix: np.ndarray, labels: Sequence[str], kind: str, estimator: str) -> xr.DataArray:
    return xr.DataArray(
        matrix, dims=("parameter", "parameter_bis"), coords={"parameter": labels, "parameter_bis": labels},
        name="covariance", attrs={"kind": kind, "estimator": estimator},
    )  # fmt: skip


def standard_errors(estimate: Estimate, kind: str, cluster=None, small_sample: bool = False) -> xr.Dataset:
    """See :meth:`pm_mlem.Fit.standard_errors`."""
    of = spread(estimate, kind, cluster, small_sample)
    held = estimate.target.space.held
    values = {n: errors_of(estimate, n, of) for n in estimate.jacobians}
    values |= {n: np.where(np.isnan(held[n]), values[n], np.nan) for n in held}
    return estimate.labels.dataset(estimate.in_model_order(values), kind=kind)


def wald_intervals(
    estimate: Estimate, level: float, covariance: str, cluster, small_sample: bool, names: Sequence[str] | None
) -> xr.Dataset:
    """Wald intervals of variables; NaN for held ones."""
    of, reported = spread(estimate, covariance, cluster, small_sample), estimate.target.readout.names

    def interval(name: str) -> np.ndarray:
        if name in reported:
            return wald_interval(estimate, of, name, level)
        return np.full((*estimate.reported[name].shape, 2), np.nan)

    values = estimate.in_model_order({n: interval(n) for n in names or reported})
    return estimate.labels.dataset(values, EXTRA, level=level, kind="wald", covariance=covariance)


def profiled_intervals(estimate: Estimate, level: float, names: Sequence[str]) -> xr.Dataset:
    """Profile intervals of variables."""
    values, notes = profile_intervals(estimate, level, names)
    attributes = {"objective": objective_name(estimate.target.estimator), **remarks(notes)}
    values = estimate.in_model_order(values)
    return estimate.labels.dataset(values, EXTRA, level=level, kind="profile", **attributes)


def chosen(estimate: Estimate, names: Sequence[str]) -> list[str]:
    """The variables that were asked for.

    Raises
    ------
    ValueError
        One of them is none of the fit's.
    """
    known = list(estimate.reported)
    for name in names:
        if name not in known:
            raise ValueError(unknown(name, known, "var_names") + left_out(estimate.target.tables, name))
    return list(names)


def among(found: xr.Dataset, estimate: Estimate, names: Sequence[str] | None) -> xr.Dataset:
    """Some of the variables of a bootstrap's intervals.

    Raises
    ------
    ValueError
        One of them has no replicates.
    """
    for name in names or ():
        if name not in found:
            raise ValueError(f"var_names: '{name}' {why_no_replicates(estimate, name)}; use kind='wald'.")
    return found if names is None else found[names]


def why_no_replicates(estimate: Estimate, name: str) -> str:
    if name not in estimate.target.readout.names:
        return "is held, so it has no interval"
    size = np.size(estimate.reported[name])
    return f"has {size} entries, and replicates are made of Deterministics of up to {LARGE}"
