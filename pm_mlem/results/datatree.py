"""A fit in ArviZ: groups for the estimate itself, and draws that plots and tables understand.

Nothing is written that netCDF or zarr cannot hold: attributes are strings and numbers, what does not exist is left out.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm

from pm_mlem.errors import NotIdentifiedError
from pm_mlem.results.draws import Draws, draws_of, labelled, units_at, values_at, with_samples
from pm_mlem.results.hypothesis_tests import check_data
from pm_mlem.results.summary import listed

if TYPE_CHECKING:
    import xarray as xr

    from pm_mlem.estimate.labels import Labels
    from pm_mlem.results.bootstrap import Bootstrap
    from pm_mlem.results.fit import Fit

LEVELS = (0.5, 0.8, 0.89, 0.9, 0.94, 0.95, 0.99)
"""Levels of the Wald intervals that are kept for reports."""
MOST_NUMBERS = 20_000_000
"""Draws times entries of a log-density above which the log-likelihood at the draws is written only on request."""
NUMBERS = (
    "log_likelihood", "log_prior", "log_posterior", "n_params", "n_obs", "aic", "aicc", "bic", "icl", "entropy",
    "seconds", "iterations",
)  # fmt: skip
"""Attributes of the fit that are attributes of the tree."""


def to_datatree(
    fit: Fit,
    draws: int,
    chains: int,
    random_seed: int | None,
    level: float,
    kind: str,
    bootstrap: Bootstrap | None,
    log_likelihood: bool | None,
) -> xr.DataTree:
    """See :meth:`pm_mlem.Fit.to_datatree`."""
    check_data(fit)
    intervals = fit.confidence_intervals(level, kind, bootstrap=bootstrap if kind == "bootstrap" else None)
    groups, left_out = draw_groups(fit, draws, chains, random_seed, bootstrap, log_likelihood)
    groups["point_estimate"] = with_roles(fit)
    groups["standard_error"] = fit.standard_errors()
    groups["confidence_interval"] = intervals
    groups["wald_interval"] = wald_intervals(fit, level)
    groups["note"] = notes(fit)
    if fit.n_params:
        groups["covariance"] = covariances(fit)
    if fit.latent_probabilities.data_vars:
        groups["latent_posterior"] = fit.latent_probabilities
    groups["pointwise_log_likelihood"] = fit.pointwise_log_likelihood
    groups |= data_groups(fit, fit._labels)
    groups["optimizer_trace"] = fit.history
    groups["starts"] = starts(fit)
    return tree_of(groups, attributes(fit), {**report(fit), **left_out})


def tree_of(groups: dict[str, xr.Dataset], shared: dict[str, str], more: dict[str, Any]) -> xr.DataTree:
    """A tree whose groups share attributes; its root has more of them.

    Each group lists its variables in their order, which zarr does not keep.
    """
    import xarray as xr

    marked = {
        n: d.assign_attrs(**shared, variables=json.dumps([str(v) for v in d.data_vars])) for n, d in groups.items()
    }
    tree = xr.DataTree.from_dict({f"/{name}": data for name, data in marked.items()})
    tree.attrs.update({**shared, **more, "created_at": datetime.now(UTC).isoformat()})
    return tree


def bootstrap_tree(bootstrap: Bootstrap) -> xr.DataTree:
    """See :meth:`pm_mlem.Bootstrap.to_datatree`."""
    fit = bootstrap.fit
    draws = draws_of(fit, 1, 1, None, bootstrap)
    return tree_of({"posterior": posterior(fit, draws)}, {**attributes(fit), "bootstrap": bootstrap.kind}, {})


# --- attributes -------------------------------------------------------------------------------------------


def attributes(fit: Fit) -> dict[str, str]:
    """What every group says of its origin."""
    return {
        "inference_library": "pm_mlem",
        "inference_library_version": version("pm_mlem"),
        "pymc_version": pm.__version__,
        "estimator": fit.estimator,
        "method": fit.method,
        "status": str(fit.status),
    }


def report(fit: Fit) -> dict[str, Any]:
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
    fit: Fit, draws: int, chains: int, random_seed: int | None, bootstrap: Bootstrap | None, wanted: bool | None
) -> tuple[dict[str, xr.Dataset], dict[str, str]]:
    """Groups with a chain and a draw, and an attribute that says why some are missing."""
    try:
        drawn = draws_of(fit, draws, chains, random_seed, bootstrap)
    except NotIdentifiedError as error:  # the other groups still describe the fit
        return {}, {"left_out": f"posterior, log_likelihood: {error}"}
    groups = {"posterior": posterior(fit, drawn)}
    objective = fit._engine.objective
    size = len(drawn.points) * max(objective.n_units, objective.work)
    if np.all(drawn.points == drawn.points[0]):
        return groups, {"left_out": "log_likelihood: the draws are all the same, for no parameter varies"}
    if wanted is False:
        return groups, {"left_out": "log_likelihood: not wanted (log_likelihood=False)"}
    if wanted is None and size > MOST_NUMBERS:
        remedy = "write it with log_likelihood=True, or ask for fewer draws"
        return groups, {"left_out": f"log_likelihood: it takes {size:.2g} numbers; {remedy}"}
    return groups | likelihood_groups(fit, drawn), {}


def posterior(fit: Fit, draws: Draws) -> xr.Dataset:
    """Parameters and small Deterministics at the draws."""
    return labelled(fit._labels, draws, values_at(fit, draws.points)).assign_attrs(approximation=draws.approximation)


def likelihood_groups(fit: Fit, draws: Draws) -> dict[str, xr.Dataset]:
    """Log-likelihood of the independent units at the draws, and densities for corrections of the approximation."""
    import xarray as xr

    units, objective = units_at(fit, draws.points)
    joined = np.zeros((1 + int(fit._independent.max(initial=-1)), len(units)))
    np.add.at(joined, fit._independent, units.T)
    counted = np.bincount(fit._independent, fit._weights) > 0
    arrays = {}
    for group in fit._independent_groups:
        one, used = fit.pointwise_log_likelihood[group.name], counted[group.units]
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


def with_roles(fit: Fit) -> xr.Dataset:
    """The estimates; each says whether it is a parameter."""
    estimates = fit.estimates.copy()
    for name, array in estimates.data_vars.items():
        array.attrs["role"] = "parameter" if name in fit._parameters else "deterministic"
    return estimates


def wald_intervals(fit: Fit, level: float) -> xr.Dataset:
    """Wald intervals at several levels, first dimension ``level``."""
    import xarray as xr

    levels = sorted({*LEVELS, float(level)})
    found = [fit.confidence_intervals(a) for a in levels]
    stacked = xr.concat(found, dim=xr.DataArray(levels, dims="level", name="level"), combine_attrs="drop")
    return stacked.assign_attrs(kind="wald", covariance="observed")


def notes(fit: Fit) -> xr.Dataset:
    """What the summary notes about every entry."""
    import xarray as xr

    table = fit.summary()["note"]
    arrays, start = {}, 0
    for name in listed(fit):
        one = fit.estimates[name]
        values = np.array(table.iloc[start : start + one.size].tolist(), dtype=str).reshape(one.shape)
        arrays[name] = one.copy(data=values)
        start += one.size
    return xr.Dataset(arrays)


def covariances(fit: Fit) -> xr.Dataset:
    """The covariance matrix in the user's space and in the optimizer's, and where the latter is at the estimate."""
    import xarray as xr

    constrained, unconstrained = fit.covariance(), fit.covariance(space="unconstrained")
    names = {"parameter": "coordinate", "parameter_bis": "coordinate_bis"}
    point = xr.DataArray(fit._optimum.point, dims="coordinate")
    return xr.Dataset(
        {"constrained": constrained, "unconstrained": unconstrained.rename(names), "unconstrained_estimate": point},
        attrs={"kind": "observed"},
    )


def starts(fit: Fit) -> xr.Dataset:
    """The table of starts, one variable a column."""
    import xarray as xr

    table = fit.starts.astype({"optimum": float})
    columns = {name: values.to_numpy(None if values.dtype.kind in "if" else str) for name, values in table.items()}
    return xr.Dataset({name: ("start", values) for name, values in columns.items()})


def data_groups(fit: Fit, labels: Labels) -> dict[str, xr.Dataset]:
    """The data that the model holds."""
    from pymc.backends.arviz import find_constants, find_observations

    groups = {}
    for group, values in (
        ("observed_data", find_observations(fit.model)),
        ("constant_data", find_constants(fit.model)),
    ):
        if values:
            groups[group] = labels.dataset({k: np.asarray(v) for k, v in values.items()})
    return groups
