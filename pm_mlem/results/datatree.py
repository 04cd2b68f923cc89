"""A fit in ArviZ: groups for the estimate itself, and draws that plots and tables understand.

Nothing is written that netCDF or zarr cannot hold: attributes are strings and numbers, what does not exist is left out.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pm_mlem.errors import NotIdentifiedError
from pm_mlem.estimate.draws import Draws, values_at
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.labels import Labels
from pm_mlem.results.draws import draws_of, labelled, with_samples
from pm_mlem.results.reported import Reported, listed

LEVELS = (0.5, 0.8, 0.89, 0.9, 0.94, 0.95, 0.99)
"""Levels of the Wald intervals that are kept for reports."""
MOST_NUMBERS = 20_000_000
"""Draws times entries of a log-density above which the log-likelihood at the draws is written only on request."""
NUMBERS = (
    "log_likelihood", "log_prior", "log_posterior", "n_params", "n_obs", "n_units", "aic", "aicc", "bic", "icl",
    "entropy", "seconds", "iterations",
)  # fmt: skip
"""Attributes of the fit that are attributes of the tree."""


def to_datatree(
    fit: Reported,
    draws: int,
    chains: int,
    random_seed: int | None,
    intervals: xr.Dataset,
    replicates: Draws | None,
    log_likelihood: bool | None,
) -> xr.DataTree:
    """See :meth:`pm_mlem.Fit.to_datatree`; ``intervals`` are those of the group ``confidence_interval``."""
    estimate = fit._estimate
    groups, left_out = draw_groups(estimate, draws, chains, random_seed, replicates, log_likelihood)
    groups["point_estimate"] = with_roles(fit)
    groups["standard_error"] = fit.standard_errors()
    groups["confidence_interval"] = intervals
    groups["wald_interval"] = wald_intervals(fit, intervals.attrs["level"])
    groups["note"] = notes(fit)
    if fit.n_params:
        groups["covariance"] = covariances(fit)
    if fit.latent_probabilities.data_vars:
        groups["latent_posterior"] = fit.latent_probabilities
    groups["pointwise_log_likelihood"] = fit.pointwise_log_likelihood
    groups |= data_groups(estimate.target.source, estimate.labels)
    groups["optimizer_trace"] = fit.history
    groups["starts"] = starts(fit)
    return tree_of(groups, attributes(fit), {**report(fit), **left_out})


def tree_of(groups: dict[str, xr.Dataset], shared: dict[str, str], more: dict[str, Any]) -> xr.DataTree:
    """A tree whose groups share attributes; its root has more of them.

    Each group lists its variables in their order, which zarr does not keep.
    """
    marked = {
        n: d.assign_attrs(**shared, variables=json.dumps([str(v) for v in d.data_vars])) for n, d in groups.items()
    }
    tree = xr.DataTree.from_dict({f"/{name}": data for name, data in marked.items()})
    tree.attrs.update({**shared, **more, "created_at": datetime.now(UTC).isoformat()})
    return tree


# --- attributes -------------------------------------------------------------------------------------------


def attributes(fit: Reported) -> dict[str, str]:
    """What every group says of its origin."""
    return {
        "inference_library": "pm_mlem",
        "inference_library_version": version("pm_mlem"),
        "pymc_version": pm.__version__,
        "estimator": fit.estimator,
        "method": fit.method,
        "status": str(fit.status),
    }


def report(fit: Reported) -> dict[str, Any]:
    """What a report needs beside the groups."""
    values = {name: getattr(fit, name) for name in NUMBERS}
    return {
        **{name: plain(value) for name, value in values.items() if value is not None},
        "converged": int(fit.converged),
        "message": fit.message,
        "summed_out": fit._summed_out,
        "arviz_version": version("arviz"),
        "jax_version": version("jax"),
    }


def plain(value) -> int | float:
    return int(value) if isinstance(value, int | np.integer) else float(value)


# --- draws ------------------------------------------------------------------------------------------------


def draw_groups(
    estimate: Estimate, draws: int, chains: int, random_seed: int | None, replicates: Draws | None, wanted: bool | None
) -> tuple[dict[str, xr.Dataset], dict[str, str]]:
    """Groups with a chain and a draw, and an attribute that says why some are missing."""
    try:
        drawn = draws_of(estimate, draws, chains, random_seed, replicates)
    except NotIdentifiedError as error:  # the other groups still describe the fit
        return {}, {"left_out": f"posterior, log_likelihood: {error}"}
    groups = {"posterior": posterior(estimate, drawn)}
    objective = estimate.target.objective
    size = len(drawn.points) * max(objective.n_units, objective.work)
    if np.all(drawn.points == drawn.points[0]):
        return groups, {"left_out": "log_likelihood: the draws are all the same, for no parameter varies"}
    if wanted is False:
        return groups, {"left_out": "log_likelihood: not wanted (log_likelihood=False)"}
    if wanted is None and size > MOST_NUMBERS:
        remedy = "write it with log_likelihood=True, or ask for fewer draws"
        return groups, {"left_out": f"log_likelihood: it takes {size:.2g} numbers; {remedy}"}
    return groups | likelihood_groups(estimate, drawn), {}


def posterior(estimate: Estimate, draws: Draws) -> xr.Dataset:
    """Parameters and small Deterministics at the draws."""
    return labelled(estimate.labels, draws, values_at(estimate, draws.points)).assign_attrs(
        approximation=draws.approximation
    )


def likelihood_groups(estimate: Estimate, draws: Draws) -> dict[str, xr.Dataset]:
    """Log-likelihood of the independent units at the draws, and densities for corrections of the approximation."""
    target, independent = estimate.target, estimate.independent
    units, objective = target.units_at(draws.points)
    joined = np.zeros((1 + int(independent.max(initial=-1)), len(units)))
    np.add.at(joined, independent, units.T)
    counted = np.bincount(independent, target.weights) > 0
    arrays = {}
    for group in estimate.data_groups:
        one, used = estimate.labels.units(group, np.zeros(group.units.shape)), counted[group.units]
        if np.all(used):
            arrays[group.name] = with_samples(draws, one, joined.T[:, group.units])
        elif np.any(used):  # what does not count cannot be left out by cross-validation either
            dim = one.dims[0] if one.ndim == 1 else f"{group.name}_unit"
            labels = one.coords[dim].values[used] if one.ndim == 1 else np.flatnonzero(used)
            kept = xr.DataArray(one.values[used], dims=dim, coords={dim: labels})
            arrays[group.name] = with_samples(draws, kept, joined.T[:, group.units[used]])
    groups = {"log_likelihood": xr.Dataset(arrays).assign_attrs(approximation=draws.approximation)}
    if draws.log_density is not None:
        values = {"log_p": objective, "log_q": draws.log_density}
        densities = {name: (("chain", "draw"), draws.shaped(v)) for name, v in values.items()}
        meaning = "log_p: the objective, not normalized; log_q: the normal approximation (unconstrained space)"
        groups["sample_stats"] = xr.Dataset(densities, coords=draws.coords).assign_attrs(densities=meaning)
    return groups


# --- the fit ----------------------------------------------------------------------------------------------


def with_roles(fit: Reported) -> xr.Dataset:
    """The estimates; each says whether it is a parameter."""
    estimates = fit.estimates.copy()
    for name, array in estimates.data_vars.items():
        array.attrs["role"] = "parameter" if name in fit._parameters else "deterministic"
    return estimates


def wald_intervals(fit: Reported, level: float) -> xr.Dataset:
    """Wald intervals at several levels, first dimension ``level``."""
    levels = sorted({*LEVELS, float(level)})
    found = [fit.confidence_intervals(a) for a in levels]
    stacked = xr.concat(found, dim=xr.DataArray(levels, dims="level", name="level"), combine_attrs="drop")
    return stacked.assign_attrs(kind="wald", covariance="observed")


def notes(fit: Reported) -> xr.Dataset:
    """What the summary notes about every entry."""
    table = fit.summary()["note"]
    arrays, start = {}, 0
    for name in listed(fit):
        one = fit.estimates[name]
        values = np.array(table.iloc[start : start + one.size].tolist(), dtype=str).reshape(one.shape)
        arrays[name] = one.copy(data=values)
        start += one.size
    return xr.Dataset(arrays)


def covariances(fit: Reported) -> xr.Dataset:
    """The covariance matrix in the user's space and in the optimizer's, and where the latter is at the estimate."""
    constrained, unconstrained = fit.covariance(), fit.covariance(space="unconstrained")
    names = {"parameter": "coordinate", "parameter_bis": "coordinate_bis"}
    point = xr.DataArray(fit._estimate.point, dims="coordinate")
    return xr.Dataset(
        {"constrained": constrained, "unconstrained": unconstrained.rename(names), "unconstrained_estimate": point},
        attrs={"kind": "observed"},
    )


def starts(fit: Reported) -> xr.Dataset:
    """The table of starts, one variable a column."""
    table = fit.starts.astype({"optimum": float})
    columns = {name: values.to_numpy(None if values.dtype.kind in "if" else str) for name, values in table.items()}
    return xr.Dataset({name: ("start", values) for name, values in columns.items()})


def data_groups(model: pm.Model, labels: Labels) -> dict[str, xr.Dataset]:
    """The data that a model holds."""
    from pymc.backends.arviz import find_constants, find_observations

    groups = {}
    for group, values in (
        ("observed_data", find_observations(model)),
        ("constant_data", find_constants(model)),
    ):
        if values:
            groups[group] = labels.dataset({k: np.asarray(v) for k, v in values.items()})
    return groups
