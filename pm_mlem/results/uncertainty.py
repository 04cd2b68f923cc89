"""Covariances, standard errors and intervals of a fit, labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pm_mlem.estimate.labels import entry_names, left_out, unknown
from pm_mlem.inference.covariance import (
    Covariance,
    delta_covariance,
    delta_method,
    observed,
    outer_product,
    sandwich,
)
from pm_mlem.inference.intervals import check_level, wald, wald_transformed
from pm_mlem.objective.weights import shape_of, unit_labels
from pm_mlem.results.summary import LARGE, listed

if TYPE_CHECKING:
    import xarray as xr

    from pm_mlem.results.bootstrap import Bootstrap
    from pm_mlem.results.fit import Fit

KINDS = ("observed", "opg", "sandwich")
"""Kinds that are made of curvature and scores; "bootstrap" is the other one."""


def spread(fit: Fit, kind: str = "observed", cluster=None, small_sample: bool = False) -> Covariance:
    """Covariance in the unconstrained space, of a kind.

    Raises
    ------
    ValueError
        An unknown kind, or arguments that only the sandwich has.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; use {', '.join(map(repr, KINDS))} or 'bootstrap'.")
    if kind != "sandwich" and (cluster is not None or small_sample):
        raise ValueError(f"cluster= and small_sample= belong to kind='sandwich', not to {kind!r}.")
    if kind == "observed" or fit._information.null.shape[1] == fit.n_params:  # no maximum: no kind says anything
        return observed(fit._information)
    check_units(fit, kind)
    objective = fit._engine.objective
    if kind == "opg":
        prior = None
        if fit.estimator == "map":
            prior = np.asarray(objective.prior_curvature(fit._optimum.point, fit._engine.data))
        known = fit._information
        return outer_product(fit._scores, fit._weights, prior, known.held.T, known.away, known.matrix)
    clusters = None if cluster is None else clusters_of(fit, cluster)
    return sandwich(fit._information, fit._scores, fit._weights, clusters, small_sample)


def replicates(fit: Fit, bootstrap: Bootstrap | None, cluster=None, small_sample: bool = False) -> Bootstrap:
    """The bootstrap that was passed, or the fit's own.

    Raises
    ------
    ValueError
        One of another fit, or arguments that only the sandwich has.
    """
    if cluster is not None or small_sample:
        raise ValueError(
            "cluster= and small_sample= belong to kind='sandwich'; resample clusters with "
            "bootstrap=fit.bootstrap(unit=...)."
        )
    if bootstrap is not None and bootstrap.fit is not fit:
        raise ValueError("bootstrap= was made from another fit; make it with this one's bootstrap().")
    return fit._bootstrap if bootstrap is None else bootstrap


def check_no_bootstrap(bootstrap: Bootstrap | None, kind: str) -> None:
    if bootstrap is not None:
        raise ValueError(f"bootstrap= belongs to kind='bootstrap', not to {kind!r}.")


def check_units(fit: Fit, kind: str) -> None:
    """Refuse covariances of scores where there are too few units.

    Raises
    ------
    ValueError
    """
    count = np.count_nonzero(fit._weights)
    if count == 1:
        raise ValueError(
            f"kind={kind!r} needs several independent units; there is one (all observations share latents or a joint "
            "distribution). Use kind='observed'."
        )
    if kind == "opg" and count < fit.n_params:
        raise ValueError(
            f"kind='opg' needs at least as many independent units as parameters; there are {count} units and "
            f"{fit.n_params} parameters. Use kind='observed'."
        )


def clusters_of(fit: Fit, cluster, argument: str = "cluster") -> np.ndarray:
    """The cluster of every unit: labels by observation, the name of a dim, or of data that hold the labels."""
    tables, name = fit._engine.objective.tables, f"{argument} labels"
    if not isinstance(cluster, str):
        return unit_labels(tables, np.asarray(cluster), name)
    if cluster in fit.model.named_vars:
        return unit_labels(tables, np.asarray(fit.model[cluster].eval()), name)
    labels, known = {}, []
    for observed_name in tables.structure.observed:
        part = tables.structure.parts.get(observed_name)
        shape = shape_of(tables, observed_name) if part is None else part.shape
        dims = fit._labels.dims_of(observed_name if part is None else part.name, len(shape))
        known += dims
        if cluster in dims:
            axis = dims.index(cluster)
            index = np.arange(shape[axis]).reshape([-1 if d == axis else 1 for d in range(len(shape))])
            labels[observed_name] = np.broadcast_to(index, shape)
    if not labels:
        raise ValueError(
            f"{argument}={cluster!r} is neither a dim of an observed variable (there are "
            f"{', '.join(map(repr, dict.fromkeys(known)))}) nor a pm.Data with labels. Pass labels, one an observation."
        )
    return unit_labels(tables, labels, name)


def covariance(
    fit: Fit, kind: str, space: str, cluster, small_sample: bool, bootstrap: Bootstrap | None = None
) -> xr.DataArray:
    import xarray as xr

    if kind == "bootstrap":
        return replicates(fit, bootstrap, cluster, small_sample).covariance(space)
    check_no_bootstrap(bootstrap, kind)
    parameters = fit._engine.objective.space
    if space not in ("constrained", "unconstrained"):
        raise ValueError(f"space={space!r} must be 'constrained' or 'unconstrained'.")
    of = spread(fit, kind, cluster, small_sample)
    if not fit.n_params:
        matrix, labels = np.zeros((0, 0)), []
    elif space == "unconstrained":
        matrix = delta_covariance(np.eye(fit.n_params), of)
        labels = list(parameters.labels)
    else:
        free = {n: parameters.is_free(n) for n in parameters.names}
        stacked = np.concatenate([fit._jacobians[n][free[n]].reshape(-1, fit.n_params) for n in free])
        matrix = delta_covariance(stacked, of)
        without = np.concatenate([np.isnan(errors_of(fit, n, of)[free[n]]) for n in free])
        matrix[without, :] = np.nan
        matrix[:, without] = np.nan
        labels = [e for n in free for e in np.array(entry_names(fit.estimates[n]))[free[n].ravel()].tolist()]
    return xr.DataArray(
        matrix, dims=("parameter", "parameter_bis"), coords={"parameter": labels, "parameter_bis": labels},
        name="covariance", attrs={"kind": kind, "estimator": fit.estimator},
    )  # fmt: skip


def standard_errors(fit: Fit, kind: str, cluster, small_sample: bool, bootstrap: Bootstrap | None = None) -> xr.Dataset:
    if kind == "bootstrap":
        return replicates(fit, bootstrap, cluster, small_sample).standard_errors()
    check_no_bootstrap(bootstrap, kind)
    of = spread(fit, kind, cluster, small_sample)
    held = fit._engine.objective.space.held
    values = {n: errors_of(fit, n, of) for n in fit._jacobians}
    values |= {n: np.where(np.isnan(held[n]), values[n], np.nan) for n in held}
    return fit._labels.dataset(fit._in_model_order(values), kind=kind)


def confidence_intervals(
    fit: Fit,
    level: float,
    kind: str,
    covariance: str,
    cluster,
    small_sample: bool,
    var_names: Sequence[str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> xr.Dataset:
    check_level(level)
    names = None if var_names is None else chosen(fit, var_names)
    if kind == "bootstrap":
        found = replicates(fit, bootstrap, cluster, small_sample).confidence_intervals(level)
        for name in names or ():
            if name not in found:
                raise ValueError(f"var_names: '{name}' {without_replicates(fit, name)}; use kind='wald'.")
        return found if names is None else found[names]
    check_no_bootstrap(bootstrap, kind)
    if kind not in ("wald", "profile"):
        raise ValueError(f"kind={kind!r} is unknown; use 'wald', 'profile' or 'bootstrap'.")
    if covariance == "bootstrap":
        raise ValueError("covariance='bootstrap' makes no Wald intervals; use kind='bootstrap'.")
    extra = {"ci_bound": ["lower", "upper"]}
    if kind == "wald":
        of = spread(fit, covariance, cluster, small_sample)
        reported = fit._engine.readout.names
        values = {
            n: wald_interval(fit, of, n, level) if n in reported else np.full((*fit.estimates[n].shape, 2), np.nan)
            for n in names or reported
        }
        return fit._labels.dataset(fit._in_model_order(values), extra, level=level, kind=kind, covariance=covariance)
    if covariance != "observed" or cluster is not None or small_sample:
        raise ValueError("covariance=, cluster= and small_sample= belong to kind='wald', not to 'profile'.")
    from pm_mlem.estimate.profile_scales import objective_name, profile_intervals, remarks

    names = [n for n in listed(fit) if n in fit._engine.readout.names] if names is None else names
    values, notes = profile_intervals(fit, level, names)
    attributes = {"level": level, "kind": kind, "objective": objective_name(fit), **remarks(notes)}
    return fit._labels.dataset(fit._in_model_order(values), extra, **attributes)


def chosen(fit: Fit, names: Sequence[str]) -> list[str]:
    """The variables that were asked for.

    Raises
    ------
    ValueError
        One of them is none of the fit's.
    """
    known = [str(n) for n in fit.estimates.data_vars]
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in known:
            raise ValueError(unknown(name, known, "var_names") + left_out(fit, name))
    return names


def without_replicates(fit: Fit, name: str) -> str:
    """Why a bootstrap has no replicates of a variable."""
    if name not in fit._engine.readout.names:
        return "is held, so it has no interval"
    return f"has {fit.estimates[name].size} entries, and replicates are made of Deterministics of up to {LARGE}"


def errors_of(fit: Fit, name: str, of: Covariance) -> np.ndarray:
    """Standard errors of the entries of a variable; NaN for those that have none, see :mod:`.diagnosis`."""
    errors = delta_method(fit._jacobians[name], of)
    if name not in fit._engine.objective.space.names:
        errors = np.where(fit._diagnosis.leans(fit._jacobians[name]), np.nan, errors)
    reasons = fit._diagnosis.reasons.get(name)
    return errors if reasons is None else np.where(np.reshape(np.array(reasons) != "", errors.shape), np.nan, errors)


def wald_interval(fit: Fit, of: Covariance, name: str, level: float) -> np.ndarray:
    """Wald intervals of the entries of a variable, on a scale on which they are unbounded."""
    space = fit._engine.objective.space
    estimate, jacobian = fit._report[0][name], fit._jacobians[name]
    error = errors_of(fit, name, of)
    if name not in space.names:
        return wald(estimate, error, level)
    where, free = space.slices[name], space.is_free(name)
    own = jacobian[free][:, where]
    if not own.shape[1]:  # the probability of the only state
        return wald(estimate, error, level)
    bounds = np.full((*estimate.shape, 2), np.nan)
    if own.shape[0] == own.shape[1] and np.count_nonzero(own - np.diag(np.diag(own))) == 0:  # entry by entry
        u, u_error = fit._optimum.point, delta_method(np.eye(fit.n_params)[where], of)
        u_error = np.where(np.isnan(error[free]), np.nan, u_error)

        def constrain(part):
            moved = u.copy()
            moved[where] = part
            return space.values(moved)[name][free]

        bounds[free] = wald_transformed(u[where], u_error, level, constrain)
        return bounds
    if own.shape[1] < own.shape[0] and np.allclose(estimate.sum(axis=-1), 1.0) and np.all(estimate >= 0):
        share = np.where(free, 0.0, estimate).sum(axis=-1, keepdims=True)
        share = np.broadcast_to(1.0 - share, estimate.shape)[free]
        bounds[free] = share[:, None] * wald(estimate[free] / share, error[free] / share, level, "logit")
        return bounds
    return wald(estimate, error, level)
