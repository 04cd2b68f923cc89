"""Influence of the independent units on the estimates."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pm_mlem.estimate.covariance import errors_of, spread
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.labels import entry_names


def influence(estimate: Estimate) -> xr.Dataset:
    """See :meth:`pm_mlem.Fit.influence`."""
    sample, p, groups = estimate.sample, estimate.n_params, estimate.data_groups
    if not p:
        raise ValueError("The fit has no free parameters, so nothing has an influence on them.")
    if np.count_nonzero(sample.weights) < 2:
        raise ValueError("There is only one independent unit: without it nothing can be estimated.")
    scores = np.zeros((1 + int(estimate.independent.max()), p))
    scores[estimate.independent[sample.of >= 0]] = (sample.weights[:, None] * sample.mean(estimate.scores))[
        sample.of[sample.of >= 0]
    ]
    of = spread(estimate)
    rank = p - of.null.shape[1] - of.held.shape[1]
    moved = scores @ of.matrix  # (units, p), unconstrained
    distance = np.einsum("up,up->u", scores, moved) / rank if rank else np.full(len(scores), np.nan)

    labels = [estimate.labels.units(g, np.zeros(g.units.shape)) for g in groups]
    parameters = {n: estimate.labels.array(n, estimate.values[n]) for n in estimate.target.space.names}
    dims_of_parameters = {d for own in parameters.values() for d in own.dims}
    if len(groups) == 1 and not dims_of_parameters & set(labels[0].dims):
        template, order = labels[0], groups[0].units
    else:
        entries = [entry for array in labels for entry in entry_names(array)]
        numbers = np.concatenate([g.units.ravel() for g in groups])
        template, order = xr.DataArray(np.zeros(len(entries)), coords={"unit": entries}, dims="unit"), numbers
    arrays = {}
    for name, own in parameters.items():
        values = np.einsum("...p,ep->...e", moved[order], estimate.jacobians[name].reshape(-1, p))
        values = values.reshape(*order.shape, *own.shape)
        values = np.where(np.isnan(errors_of(estimate, name, of)), np.nan, values)
        arrays[name] = xr.DataArray(values, dims=(*template.dims, *own.dims), coords={**template.coords, **own.coords})
    arrays["cooks_distance"] = xr.DataArray(distance[order], dims=template.dims, coords=template.coords)
    return xr.Dataset(arrays)
