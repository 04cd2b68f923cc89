"""How much single units move the estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_base.labels import BaseLabeller
from arviz_plots.plot_collection import backend_from_object
from arviz_plots.visuals import hline, labelled_x, line_xy, scatter_xy

from pm_mlem.arguments import checked, names, optional, whole
from pm_mlem.plots.canvas import GREY, AesByVisuals, Canvas, Visuals, check_elements, entries, panels, points_xy, select
from pm_mlem.results.reported import knows_model

ELEMENTS = ("stem", "point", "label", "zero", "title", "xlabel")
DISTANCE = "cooks_distance"


@checked(var_names=optional(names), n_labels=whole(0), col_wrap=whole(1))
def plot_influence(
    influence,
    *,
    var_names: str | Sequence[str] | None = None,
    filter_vars: str | None = None,
    coords: Mapping[str, Any] | None = None,
    n_labels: int = 5,
    col_wrap: int = 2,
    plot_collection: azp.PlotCollection | None = None,
    backend: str | None = None,
    labeller: BaseLabeller | None = None,
    aes_by_visuals: AesByVisuals = None,
    visuals: Visuals = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """Cook's distance of every unit, and by how much it moves each parameter.

    Parameters
    ----------
    influence : xarray.Dataset or Fit
        What :meth:`Fit.influence` returns; a fit stands for its own.
    var_names : str or sequence of str, optional
        Default: ``cooks_distance`` and all parameters. "~mu" leaves one out.
    filter_vars : {None, "like", "regex"}, optional
        Whether ``var_names`` are names, parts of names or regular expressions.
    coords : dict, optional
        Entries of the parameters (or units) to draw, labels by dimension.
    n_labels : int
        How many units are named in each panel, the largest.
    col_wrap : int
        Panels in a row.
    plot_collection : PlotCollection, optional
        Where to draw. Default: a new one.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    labeller : labeller of ArviZ, optional
        For the titles.
    aes_by_visuals : dict, optional
        The aesthetics of each element. Default: none.
    visuals : dict, optional
        Properties of (or False to leave out) ``stem``, ``point``, ``label``, ``zero``, ``title``, ``xlabel``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection
        Its variables are the entries, "mu[a]". Entries that are held or have no standard error are left out.

    Raises
    ------
    TypeError
        Something that is neither.
    ValueError
        An unknown variable, label or element, or nothing but entries without standard errors.
    """
    influence = influence.influence() if knows_model(influence) else influence
    if not isinstance(influence, xr.Dataset) or DISTANCE not in influence:
        raise TypeError(f"influence must be what fit.influence() returns, or a fit, not {type(influence).__name__}.")
    check_elements(ELEMENTS, visuals, aes_by_visuals)
    ordered = influence[[DISTANCE, *[n for n in influence.data_vars if n != DISTANCE]]]
    dims = list(influence[DISTANCE].dims)
    names = unit_names(select(ordered, [DISTANCE], coords={d: v for d, v in (coords or {}).items() if d in dims}))
    chosen = select(ordered, var_names, filter_vars, coords, "The influence")
    shown = {
        name: part.values.ravel()
        for variable, array in chosen.data_vars.items()
        for name, part in entries(array.transpose(..., *dims), *map(str, dims))
    }
    shown = {name: values for name, values in shown.items() if np.any(np.nan_to_num(values) != 0.0)}
    if not shown:
        raise ValueError(
            "None of these entries has a standard error (or all are held), so units have no influence on them."
        )
    x = np.arange(len(names))
    data = xr.Dataset({name: points_xy(x, values, ["unit"]) for name, values in shown.items()})
    stems = {n: points_xy(np.repeat(x, 3), np.stack([0 * v, v, np.nan * v], -1).ravel(), ["end"])
             for n, v in shown.items()}  # fmt: skip
    pc = panels(
        data, width=5.0, height=2.6, col_wrap=col_wrap, plot_collection=plot_collection, backend=backend,
        pc_kwargs=pc_kwargs,
    )  # fmt: skip
    canvas = Canvas(pc, visuals, aes_by_visuals)
    canvas.draw("zero", hline, xr.Dataset({n: 0.0 for n in shown}), color=GREY, width=0.8)
    canvas.draw("stem", line_xy, xr.Dataset(stems), color="C0", width=0.8, alpha=0.7)
    canvas.draw("point", scatter_xy, data, color="C0", size=canvas.size(10))
    canvas.draw("label", annotate_largest, data, keep=False, names=names, n_labels=n_labels, color="B1", size=9.0)
    canvas.title(data, labeller)
    canvas.text("xlabel", labelled_x, data, ", ".join(map(str, dims)))
    return pc


def unit_names(distance: xr.Dataset) -> list[str]:
    """A name for every unit: its labels."""
    array = distance[DISTANCE]
    labels = [array[d].values if d in array.coords else np.arange(array.sizes[d]) for d in array.dims]
    return [", ".join(str(own[i]) for own, i in zip(labels, index, strict=True)) for index in np.ndindex(*array.shape)]


def annotate_largest(da, target, *, names: Sequence[str], n_labels: int, **properties):
    """The names of the units with the largest values, away from the axis; none over another."""
    x, y = (da.sel(plot_axis=axis).values for axis in ("x", "y"))
    backend = backend_from_object(target)
    largest = [i for i in np.argsort(-np.abs(np.nan_to_num(y)), kind="stable")[: max(n_labels, 0)] if y[i] != 0]
    taken: list[tuple[float, float]] = []
    width, height = 0.05 * max(len(x), 1), 0.08 * float(np.nanmax(y) - min(np.nanmin(y), 0.0))
    for i in largest:
        if any(abs(x[i] - a) < width and abs(y[i] - b) < height for a, b in taken):
            continue
        taken.append((x[i], y[i]))
        side, away = ("bottom", height / 4) if y[i] > 0 else ("top", -height / 4)
        backend.text(x[i], y[i] + away, names[i], target, vertical_align=side, horizontal_align="center", **properties)
    margin = 0.18 * float(max(np.nanmax(y), 0.0) - min(np.nanmin(y), 0.0))
    low, high = min(np.nanmin(y), 0.0), max(np.nanmax(y), 0.0)
    backend.ylim((float(low - (margin if low < 0 else 0.03 * (high - low))), float(high + margin)), target)
    return target
