"""A point estimate in ArviZ: groups for the estimate itself, and draws that plots and tables understand."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pymc as pm

from pm_mlem.errors import NotIdentifiedError

if TYPE_CHECKING:
    import xarray as xr

    from pm_mlem.results.fit import Fit


def attributes(fit: Fit) -> dict[str, str]:
    return {
        "inference_library": "pm_mlem",
        "inference_library_version": version("pm_mlem"),
        "pymc_version": pm.__version__,
        "estimator": fit.estimator,
        "method": fit.method,
        "status": str(fit.status),
    }


def to_datatree(fit: Fit, draws: int, chains: int, random_seed: int | None) -> xr.DataTree:
    import xarray as xr

    groups: dict[str, xr.Dataset] = {}
    with suppress(NotIdentifiedError):  # the other groups still describe the fit
        groups["posterior"] = approximate_posterior(fit, draws, chains, random_seed)
    groups["point_estimate"] = fit.estimates
    groups["standard_error"] = fit.standard_errors()
    groups["confidence_interval"] = fit.confidence_intervals()
    if fit.latent_probabilities.data_vars:
        groups["latent_posterior"] = fit.latent_probabilities
    groups["log_likelihood"] = fit.pointwise_log_likelihood
    groups |= data_groups(fit)
    groups["optimizer_trace"] = fit.history
    shared = attributes(fit)
    for name, dataset in groups.items():
        groups[name] = dataset.assign_attrs(shared if name == "posterior" else {**shared, "sample_dims": []})
    tree = xr.DataTree.from_dict({f"/{k}": v for k, v in groups.items()})
    tree.attrs.update(shared)
    return tree


def approximate_posterior(fit: Fit, draws: int, chains: int, random_seed: int | None) -> xr.Dataset:
    values = fit._sample(draws * chains, random_seed)
    arrays = {}
    for name, array in values.items():
        labelled = fit._labels.array(name, array[0])
        shaped = array.reshape(chains, draws, *array.shape[1:])
        arrays[name] = (("chain", "draw", *labelled.dims), shaped)
    import xarray as xr

    coords = {d: fit.estimates.coords[d] for d in fit.estimates.coords if any(d in dims for dims, _ in arrays.values())}
    dataset = xr.Dataset(arrays, coords={"chain": np.arange(chains), "draw": np.arange(draws), **coords})
    return dataset.assign_attrs(
        approximation="normal approximation of the estimator's sampling distribution (unconstrained space), "
        "not a Bayesian posterior",
        sample_dims=["chain", "draw"],
    )


def data_groups(fit: Fit) -> dict[str, xr.Dataset]:
    from pymc.backends.arviz import find_constants, find_observations

    groups = {}
    for group, values in (
        ("observed_data", find_observations(fit.model)),
        ("constant_data", find_constants(fit.model)),
    ):
        if values:
            groups[group] = fit._labels.dataset({k: np.asarray(v) for k, v in values.items()})
    return groups
