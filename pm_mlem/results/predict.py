"""A fit at new data: log-likelihood, fitted means, latents."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr
from pymc.exceptions import ShapeError, ShapeWarning
from pytensor.compile.sharedvalue import SharedVariable

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.labels import Labels
from pm_mlem.estimate.target import Target
from pm_mlem.graph.roles.means import data_of, has_probabilities, mean_name
from pm_mlem.graph.roles.snapshot import Snapshot, own_copy, snapshot
from pm_mlem.graph.roles.structure import PLAIN
from pm_mlem.objective.weights import unit_weights
from pm_mlem.results.latents import decoded, probabilities

Data = Mapping[str, Any]
Coords = Mapping[str, Sequence]


def score(estimate: Estimate, data: Data, coords: Coords | None) -> float:
    """See :meth:`pm_mlem.Fit.score`."""
    target = target_at(estimate, with_new_data(estimate.target, data, coords))
    target.engine.check_plan()
    return target.log_likelihood(estimate.point)


def predict(estimate: Estimate, data: Data | None, coords: Coords | None) -> xr.DataTree:
    """See :meth:`pm_mlem.Fit.predict`."""
    content, model = with_new_data(estimate.target, data or {}, coords), estimate.target.source
    unknown = [] if data is None else [rv.name for rv in model.observed_RVs if not data_of(model, rv) & set(data)]
    target = target_at(estimate, content, "mle", unknown=tuple(unknown), means=True)
    groups = predictions(target, estimate.point, unknown)
    return xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items() if group.data_vars})


def predictions(target: Target, point: np.ndarray, unknown: Sequence[str]) -> dict[str, xr.Dataset]:
    """The groups of a prediction by a target that has the new data."""
    model, readout, tables = target.source, target.readout, target.tables
    labels = Labels(tables.structure.dims, tables.structure.coords)
    values, latents, units = target.report(point)
    means, left_out = {}, []
    for rv in model.observed_RVs:
        name = rv.name
        if mean_name(rv) in values:
            extra = {f"{name}_state": np.arange(values[mean_name(rv)].shape[-1])} if has_probabilities(rv) else {}
            wanted = shape_of(target, model, name, name in unknown)
            means[name] = labels.array(name, widened(values[mean_name(rv)], wanted, len(extra)), extra)
        else:
            left_out.append(name)
    derived = {v.name: values[v.name] for v in model.deterministics if v.name in values}
    result = {
        "predictions": xr.Dataset(means, attrs={"left_out": left_out} if left_out else {}),
        "deterministics": labels.dataset(derived),
        "latent_posterior": probabilities(tables, labels, latents),
    }
    if readout.latent_names:
        states, joint = target.decode(point)
        given = joint - units
        result["latent_states"] = decoded(tables, labels, readout.latent_names, states, given, np.ones(len(given)))
    return result


def shape_of(target: Target, model: pm.Model, name: str, unknown: bool) -> tuple[int, ...] | None:
    """The shape of an observed variable; None where nothing but its mean tells."""
    if not unknown:
        return next(leaf.shape for rv, leaf in target.structure.leaves.items() if rv.name == name)
    dims = model.named_vars_to_dims.get(name)
    if not dims or None in dims:
        return None
    return tuple(int(model.dim_lengths[d].eval(mode=PLAIN)) for d in dims)


def widened(values: np.ndarray, shape: tuple[int, ...] | None, extra: int) -> np.ndarray:
    """An array repeated to a shape, followed by its last ``extra`` axes."""
    own = values.ndim - extra
    if shape is None or values.shape[:own] == shape:
        return values
    return np.broadcast_to(values, (*shape, *values.shape[own:]))


# --- new data ---------------------------------------------------------------------------------------------


def with_new_data(target: Target, data: Data, coords: Coords | None) -> Snapshot:
    """What the model would hold with other data; the user's model is not written to."""
    check_names(target.model, data, coords or {})
    if not data and not coords:
        return target.content
    model = own_copy(target.model, target.content)
    for name, value in data.items():
        replace(model, name, value, coords)
    for dim, names in (coords or {}).items():
        if len(names) != int(model.dim_lengths[dim].eval(mode=PLAIN)):
            model.set_dim(dim, len(names), coord_values=names)
    return snapshot(model)


def replace(model: pm.Model, name: str, value, coords: Coords | None) -> None:
    """Set one ``pm.Data``."""
    dtype = model[name].type.dtype
    array = np.asarray(value)
    if array.dtype != dtype:
        array = converted(name, array, dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ShapeWarning)  # the other variables of the dimension follow
            model.set_data(name, array, coords=dict(coords or {}))
    except (ShapeError, TypeError, ValueError) as error:
        hint = " Pass the new labels as coords={dimension: labels}." if "coord" in str(error) else ""
        raise ValueError(f"data: '{name}' cannot be set: {error}{hint}") from error


def converted(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    try:
        with np.errstate(all="ignore"):
            result = array.astype(dtype)
        same = np.array_equal(result, array, equal_nan=array.dtype.kind == "f")
    except ValueError:
        same = False
    if not same:
        raise ValueError(f"data: the values of '{name}' must be of type {dtype}, like those it was declared with.")
    return result


def check_names(model: pm.Model, data: Data, coords: Coords) -> None:
    known = [v.name for v in model.data_vars if isinstance(v, SharedVariable)]
    if data and not known:
        raise ValueError(
            "The model has no pm.Data, so its data cannot be replaced. Declare them in the model: "
            "x = pm.Data('x', values), and for the observations observed=pm.Data('y_data', values)."
        )
    observed = {rv.name: rv for rv in model.observed_RVs}
    for name in data:
        if name in known:
            continue
        own = sorted(data_of(model, observed[name])) if name in observed else []
        if own:
            hint = f" It is an observed variable; its values are the pm.Data {', '.join(map(repr, own))}."
        elif name in observed:
            hint = f" It is an observed variable; declare it with observed=pm.Data('{name}_data', values)."
        else:
            hint = ""
        raise ValueError(
            f"data: '{name}' is not a pm.Data of the model.{hint} These are {', '.join(map(repr, known))}."
        )
    for dim in coords:
        if dim not in model.coords:
            raise ValueError(
                f"coords: '{dim}' is not a dimension of the model; these are {', '.join(map(repr, model.coords))}."
            )


def target_at(estimate: Estimate, content: Snapshot, estimator: str | None = None, **choices: Any) -> Target:
    """The functions of the fit's model with other data, without weights."""
    target, before = estimate.target, estimate.target.space.shapes
    try:
        found = target.at(content, estimator, **choices)
        while grown := found.engine.larger_bounds(estimate.point):
            found = target.at(content, estimator, **{**choices, "bounds": grown})
    except UnsupportedModelError:
        raise
    except Exception as error:
        held = {n: v for n, v in content.values.items() if n in target.model.named_vars}
        shapes = ", ".join(f"'{name}': {value.shape}" for name, value in held.items())
        raise ValueError(
            f"The model cannot be evaluated with these data ({error}). The shapes now are {shapes}: give new values "
            "for all data whose length changes, and let the length of variables follow the data with dims= or "
            "shape=x.shape instead of a number."
        ) from error
    after = found.space.shapes
    for name, shape in before.items():
        if after[name] != shape:
            raise ValueError(
                f"The parameter '{name}' has shape {shape} in the fit and {after[name]} with the new data: there is no "
                "estimate for all of its entries."
            )
    return found.with_weights(unit_weights(found.tables, None))
