"""A fit at new data: log-likelihood, fitted means, latents."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace as changed
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm
import xarray as xr
from pymc.exceptions import ShapeError, ShapeWarning
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.estimate.labels import Labels
from pm_mlem.graph.roles.dims import plain
from pm_mlem.graph.roles.means import data_of, has_probabilities, mean_name
from pm_mlem.graph.roles.structure import PLAIN
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.objective.engine import Engine, engine_for
from pm_mlem.objective.weights import unit_weights
from pm_mlem.results.latents import decoded, probabilities

if TYPE_CHECKING:
    from pm_mlem.results.fit import Fit

Data = Mapping[str, Any]
Coords = Mapping[str, Sequence]


def score(fit: Fit, data: Data, coords: Coords | None) -> float:
    """See :meth:`pm_mlem.Fit.score`."""
    with new_data(fit.model, data, coords):
        engine = engine_at(fit, fit.estimator, data)
        engine.reference  # noqa: B018  (checks the plan)
        weights = unit_weights(engine.objective.tables, None)
        return float(engine.readout.log_likelihood(fit._optimum.point, weights, engine.data))


def predict(fit: Fit, data: Data | None, coords: Coords | None) -> xr.DataTree:
    """See :meth:`pm_mlem.Fit.predict`."""
    model, read = fit.model, plain(fit.model)
    unknown = [] if data is None else [rv.name for rv in read.observed_RVs if not data_of(read, rv) & set(data)]
    with new_data(model, data or {}, coords):
        engine = engine_at(fit, "mle", data or {}, unknown=tuple(unknown), means=True)
        groups = predictions(fit, engine, unknown)
    return xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items() if group.data_vars})


def predictions(fit: Fit, engine: Engine, unknown: Sequence[str]) -> dict[str, xr.Dataset]:
    """The groups of a prediction; the model holds the new data."""
    model, readout, tables = plain(fit.model), engine.readout, engine.objective.tables
    labels = Labels(tables.structure.dims, tables.structure.coords)
    point, data = fit._optimum.point, engine.data
    estimands, latents, units = readout.evaluate(point, data)
    values = dict(zip(readout.names, map(np.asarray, estimands), strict=True))
    means, left_out = {}, []
    for rv in model.observed_RVs:
        name = rv.name
        if mean_name(rv) in values:
            extra = {f"{name}_state": np.arange(values[mean_name(rv)].shape[-1])} if has_probabilities(rv) else {}
            target = shape_of(model, rv, tables, rv.name in unknown)
            means[name] = labels.array(name, widened(values[mean_name(rv)], target, len(extra)), extra)
        else:
            left_out.append(name)
    derived = {v.name: values[v.name] for v in model.deterministics if v.name in values}
    result = {
        "predictions": xr.Dataset(means, attrs={"left_out": left_out} if left_out else {}),
        "deterministics": labels.dataset(derived),
        "latent_posterior": probabilities(
            tables, labels, dict(zip(readout.latent_names, map(np.asarray, latents), strict=True))
        ),
    }
    if readout.latent_names:
        states, joint = readout.decode(point, data)
        given = np.asarray(joint) - np.asarray(units)
        result["latent_states"] = decoded(tables, labels, readout.latent_names, states, given, np.ones(len(given)))
    return result


def shape_of(model: pm.Model, rv: Variable, tables: ModelTables, unknown: bool) -> tuple[int, ...] | None:
    """The shape of an observed variable; None where nothing but its mean tells."""
    if not unknown:
        return tables.structure.leaves[rv].shape
    dims = model.named_vars_to_dims.get(rv.name)
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


@contextmanager
def new_data(model: pm.Model, data: Data, coords: Coords | None) -> Iterator[None]:
    """The model with other data; what it had before is put back at the end, whatever happens."""
    check_names(model, data, coords or {})
    held = [v for v in [*model.data_vars, *model.dim_lengths.values()] if isinstance(v, SharedVariable)]
    values, labels = [v.get_value() for v in held], dict(model.coords)
    try:
        for name, value in data.items():
            replace(model, name, value, coords)
        for dim, names in (coords or {}).items():
            if len(names) != int(model.dim_lengths[dim].eval(mode=PLAIN)):
                model.set_dim(dim, len(names), coord_values=names)
        yield
    finally:
        for variable, value in zip(held, values, strict=True):
            variable.set_value(value)
        model._coords.update(labels)


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


def engine_at(fit: Fit, estimator: str, data: Data, **options) -> Engine:
    """The compiled functions of the fit's model, which holds new data."""
    model, choices = fit.model, changed(fit._engine.choices, **options)
    try:
        engine = engine_for(model, estimator, choices, backend=fit._engine.backend)
        while grown := engine.larger_bounds(fit._optimum.point):
            engine = engine_for(model, estimator, changed(choices, bounds=grown), backend=fit._engine.backend)
    except UnsupportedModelError:
        raise
    except Exception as error:
        shapes = ", ".join(f"'{v.name}': {v.get_value(borrow=True).shape}" for v in model.data_vars)
        raise ValueError(
            f"The model cannot be evaluated with these data ({error}). The shapes now are {shapes}: give new values "
            "for all data whose length changes, and let the length of variables follow the data with dims= or "
            "shape=x.shape instead of a number."
        ) from error
    before, after = fit._engine.objective.space.shapes, engine.objective.space.shapes
    for name, shape in before.items():
        if after[name] != shape:
            raise ValueError(
                f"The parameter '{name}' has shape {shape} in the fit and {after[name]} with the new data: there is no "
                "estimate for all of its entries."
            )
    return engine
