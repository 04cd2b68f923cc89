"""Covariances, standard errors and Wald intervals of an estimate, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from pm_mlem.estimate.estimate import Estimate
from pm_mlem.inference.covariance import Covariance, delta_method, observed, outer_product, sandwich
from pm_mlem.inference.intervals import wald, wald_transformed
from pm_mlem.objective.weights import shape_of, unit_labels

KINDS = ("observed", "opg", "sandwich")
"""Kinds that are made of curvature and scores; "bootstrap" is the other one."""


def spread(estimate: Estimate, kind: str = "observed", cluster=None, small_sample: bool = False) -> Covariance:
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
    if (
        kind == "observed" or estimate.information.null.shape[1] == estimate.n_params
    ):  # no maximum: no kind says anything
        return observed(estimate.information)
    check_units(estimate, kind)
    sample, known = estimate.sample, estimate.information
    scores = sample.mean(estimate.scores)
    if kind == "opg":
        return outer_product(known, scores, sample.weights, curvature_of_rest(estimate))
    clusters = None if cluster is None else clusters_of(estimate, cluster)
    return sandwich(known, scores, sample.weights, clusters, estimate.n_obs if small_sample else None)


def curvature_of_rest(estimate: Estimate) -> np.ndarray | None:
    """Second derivatives of what the objective adds to the log-density of the data: priors and penalties."""
    target, rest = estimate.target, estimate.sample.rest
    if np.any(rest):
        return target.with_weights(rest).derivatives(estimate.point)[2]
    return target.prior_curvature(estimate.point) if target.estimator == "map" else None


def check_units(estimate: Estimate, kind: str) -> None:
    """Refuse covariances of scores where there are too few units.

    Raises
    ------
    ValueError
    """
    count = np.count_nonzero(estimate.sample.weights)
    if count == 0:
        raise ValueError(
            f"kind={kind!r} needs independent units of data, and the model has none (its likelihood is a Potential of "
            "one number). Use kind='observed', or write a Potential with an entry for each row."
        )
    if count == 1:
        raise ValueError(
            f"kind={kind!r} needs several independent units; there is one (all observations share latents or a joint "
            "distribution). Use kind='observed'."
        )
    if kind == "opg" and count < estimate.n_params:
        raise ValueError(
            f"kind='opg' needs at least as many independent units as parameters; there are {count} units and "
            f"{estimate.n_params} parameters. Use kind='observed'."
        )


def clusters_of(estimate: Estimate, cluster, argument: str = "cluster") -> np.ndarray:
    """The cluster of every independent unit: units that no observation has given a label are clusters of their own.

    Raises
    ------
    ValueError
        Labels that differ within an independent unit, or are of no use otherwise.
    """
    found, sample = labels_of(estimate, cluster, argument), estimate.sample
    given = (sample.of >= 0) & ~np.isnan(found)
    result = np.full(len(sample.weights), np.nan)
    result[sample.of[given]] = found[given]
    if not np.array_equal(result[sample.of[given]], found[given]):
        raise ValueError(
            f"{argument} labels differ between observations that form one independent unit (a known label and what it "
            "explains); they need one."
        )
    alone = np.isnan(result)
    result[alone] = np.nanmax(found, initial=-1.0) + 1.0 + np.arange(np.count_nonzero(alone))
    return result.astype(int)


def labels_of(estimate: Estimate, cluster, argument: str) -> np.ndarray:
    """The label of every unit: given by observation, by the name of a dim, or of a ``pm.Data`` that holds them."""
    tables, name, target = estimate.target.tables, f"{argument} labels", estimate.target
    if not isinstance(cluster, str):
        if isinstance(cluster, Mapping | Set) or np.ndim(as_labels(cluster)) == 0:
            raise ValueError(
                f"{argument}= takes labels over the observations (an array, a list, a column of a table), or the name "
                f"of a dim or of a pm.Data, not {type(cluster).__name__}."
            )
        return unit_labels(tables, as_labels(cluster), name)
    if cluster in {v.name for v in target.model.data_vars}:
        held = target.content.values
        return unit_labels(tables, held[cluster] if cluster in held else target.model[cluster].data, name)
    labels, known = {}, []
    for observed_name in tables.structure.observed:
        part = tables.structure.parts.get(observed_name)
        shape = shape_of(tables, observed_name) if part is None else part.shape
        dims = estimate.labels.dims_of(observed_name if part is None else part.name, len(shape))
        known += dims
        if cluster in dims:
            axis = dims.index(cluster)
            index = np.arange(shape[axis]).reshape([-1 if d == axis else 1 for d in range(len(shape))])
            labels[observed_name] = np.broadcast_to(index, shape)
    if not labels:
        drawn = (
            " (it is a variable of the model, whose values are no labels)" if cluster in target.model.named_vars else ""
        )
        raise ValueError(
            f"{argument}={cluster!r} is neither a dim of an observed variable (there are "
            f"{', '.join(map(repr, dict.fromkeys(known)))}) nor a pm.Data with labels{drawn}. Pass labels, one an "
            "observation."
        )
    return unit_labels(tables, labels, name)


def as_labels(labels) -> np.ndarray:
    """Labels as an array that keeps their types apart: 1 and "1" are different."""
    array = np.asarray(labels)
    if array.dtype.kind not in "US" or isinstance(labels, np.ndarray):
        return array
    return np.asarray(labels, dtype=object)


def errors_of(estimate: Estimate, name: str, of: Covariance) -> np.ndarray:
    """Standard errors of the entries of a variable; NaN for those that have none, see :mod:`.diagnosis`."""
    errors = delta_method(estimate.jacobians[name], of)
    if name not in estimate.target.space.names:
        errors = np.where(estimate.diagnosis.leans(estimate.jacobians[name]), np.nan, errors)
    reasons = estimate.diagnosis.reasons.get(name)
    return errors if reasons is None else np.where(np.reshape(np.array(reasons) != "", errors.shape), np.nan, errors)


def wald_interval(estimate: Estimate, of: Covariance, name: str, level: float) -> np.ndarray:
    """Wald intervals of the entries of a variable, on a scale on which they are unbounded."""
    space = estimate.target.space
    value, jacobian = estimate.values[name], estimate.jacobians[name]
    error = errors_of(estimate, name, of)
    if name not in space.names:
        return wald(value, error, level)
    where, free = space.slices[name], space.is_free(name)
    own = jacobian[free][:, where]
    if not own.shape[1]:  # the probability of the only state
        return wald(value, error, level)
    bounds = np.full((*value.shape, 2), np.nan)
    if own.shape[0] == own.shape[1] and np.count_nonzero(own - np.diag(np.diag(own))) == 0:  # entry by entry
        u, u_error = estimate.point, delta_method(np.eye(estimate.n_params)[where], of)
        u_error = np.where(np.isnan(error[free]), np.nan, u_error)

        def constrain(part):
            moved = u.copy()
            moved[where] = part
            return space.values(moved)[name][free]

        bounds[free] = wald_transformed(u[where], u_error, level, constrain)
        return bounds
    if own.shape[1] < own.shape[0] and np.allclose(value.sum(axis=-1), 1.0) and np.all(value >= 0):
        share = np.where(free, 0.0, value).sum(axis=-1, keepdims=True)
        share = np.broadcast_to(1.0 - share, value.shape)[free]
        bounds[free] = share[:, None] * wald(value[free] / share, error[free] / share, level, "logit")
        return bounds
    return wald(value, error, level)


def standard_errors(estimate: Estimate, name: str) -> np.ndarray:
    """Standard errors of the entries of a variable from the observed information; NaN for held ones."""
    space = estimate.target.space
    if name not in estimate.jacobians:
        return np.full(estimate.reported[name].shape, np.nan)
    errors = errors_of(estimate, name, spread(estimate))
    return np.where(space.is_free(name), errors, np.nan) if name in space.held else errors
