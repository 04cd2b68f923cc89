"""Influence of the independent units on the estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pm_mlem.estimate.labels import entry_names
from pm_mlem.graph.tables.units import unit_groups
from pm_mlem.results.uncertainty import errors_of, spread

if TYPE_CHECKING:
    import xarray as xr

    from pm_mlem.results.fit import Fit


def influence(fit: Fit) -> xr.Dataset:
    """See :meth:`pm_mlem.Fit.influence`."""
    import xarray as xr

    joined, known = fit._independent, fit._weights != 0
    groups = unit_groups(fit._engine.objective.tables, joined)
    if not fit.n_params:
        raise ValueError("The fit has no free parameters, so nothing has an influence on them.")
    if len(np.unique(joined[known])) < 2:
        raise ValueError("There is only one independent unit: without it nothing can be estimated.")
    scores = np.zeros((1 + joined.max(), fit.n_params))
    np.add.at(scores, joined[known], fit._weights[known, None] * fit._scores[known])
    of = spread(fit)
    rank = fit.n_params - of.null.shape[1] - of.held.shape[1]
    moved = scores @ of.matrix  # (units, p), unconstrained
    distance = np.einsum("up,up->u", scores, moved) / rank if rank else np.full(len(scores), np.nan)

    labels = [fit._labels.units(g, np.zeros(g.units.shape)) for g in groups]
    names = fit._engine.objective.space.names
    dims_of_parameters = {d for n in names for d in fit.estimates[n].dims}
    if len(groups) == 1 and not dims_of_parameters & set(labels[0].dims):
        template, order = labels[0], groups[0].units
    else:
        entries = [entry for array in labels for entry in entry_names(array)]
        numbers = np.concatenate([g.units.ravel() for g in groups])
        template, order = xr.DataArray(np.zeros(len(entries)), coords={"unit": entries}, dims="unit"), numbers
    arrays = {}
    for name in names:
        values = np.einsum("...p,ep->...e", moved[order], fit._jacobians[name].reshape(-1, fit.n_params))
        values = values.reshape(*order.shape, *fit.estimates[name].shape)
        values = np.where(np.isnan(errors_of(fit, name, of)), np.nan, values)
        arrays[name] = xr.DataArray(
            values, dims=(*template.dims, *fit.estimates[name].dims),
            coords={**template.coords, **fit.estimates[name].coords},
        )  # fmt: skip
    arrays["cooks_distance"] = xr.DataArray(distance[order], dims=template.dims, coords=template.coords)
    return xr.Dataset(arrays)
