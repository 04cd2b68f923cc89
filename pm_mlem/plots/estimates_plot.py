"""Estimates and intervals of several methods, one panel a variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_base.labels import BaseLabeller
from arviz_plots.visuals import line_x, line_xy, scatter_x

from pm_mlem.arguments import checked, flag, level, names, optional, whole
from pm_mlem.plots.canvas import (
    AesByVisuals,
    Canvas,
    Visuals,
    check_elements,
    entries,
    panels,
    points_xy,
    reference_of,
    select,
)
from pm_mlem.results.reported import is_fit, knows_model
from pm_mlem.results.state_order import in_one_order
from pm_mlem.results.statistics import as_mapping, datasets

ELEMENTS = ("twig", "trunk", "point", "reference", "title", "legend")
TALLEST = 12.0
"""Height of a panel in inches beyond which its rows move together."""
MOST_LABELS = 60
"""Rows of a panel that have a label each; where there are more, some have none."""


@checked(var_names=optional(names), level=level, inner_level=level, col_wrap=whole(1), align=flag)
def plot_estimates(
    results: Mapping[str, Any],
    *,
    var_names: str | Sequence[str] | None = None,
    filter_vars: str | None = None,
    coords: Mapping[str, Any] | None = None,
    level: float = 0.95,
    inner_level: float = 0.5,
    kind: str | Mapping[str, str] = "wald",
    bootstrap: Any = None,
    reference: Mapping[str, Any] | None = None,
    align: bool = True,
    col_wrap: int = 3,
    plot_collection: azp.PlotCollection | None = None,
    backend: str | None = None,
    labeller: BaseLabeller | None = None,
    aes_by_visuals: AesByVisuals = None,
    visuals: Visuals = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """Forest plot of point estimates and intervals, each variable on its own scale.

    Parameters
    ----------
    results : dict
        Name of the method -> :class:`pm_mlem.Fit`, or a DataTree with a ``posterior`` group. A single fit or DataTree
        stands for itself.
    var_names : str or sequence of str, optional
        Default: the variables that all results share and that are not as large as the data. "~mu" leaves one out.
    filter_vars : {None, "like", "regex"}, optional
        Whether ``var_names`` are names, parts of names or regular expressions.
    coords : dict, optional
        The entries to draw, labels by dimension: ``{"school": ["A", "B"]}``.
    level, inner_level : float
        Coverage of the thin and of the thick interval (equal-tailed for draws).
    kind : {"wald", "profile", "bootstrap"} or dict, optional
        The intervals of fits, as in :meth:`Fit.confidence_intervals`; by name of the method where they differ.
        Intervals are drawn as they are, symmetric or not.
    bootstrap : Bootstrap or dict, optional
        For ``kind="bootstrap"``: a bootstrap of the fit, or of each by name of the method. Default: one made for it.
    reference : dict, optional
        Values to compare with (the truth of a simulation, say), ``{variable: number or array}``.
    align : bool
        Bring the states of discrete latents into the order of the first fit, as :func:`pm_mlem.compare` does.
    col_wrap : int
        Panels in a row.
    plot_collection : PlotCollection, optional
        Where to draw. Default: a new one.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    labeller : labeller of ArviZ, optional
        For the titles.
    aes_by_visuals : dict, optional
        The aesthetics of each element. Default: ``color`` (the methods) and ``y``.
    visuals : dict, optional
        Properties of (or False to leave out) ``twig``, ``trunk``, ``point``, ``reference``, ``title``, ``legend``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection

    Raises
    ------
    ValueError
        No results, no variable in common, an unknown variable, kind or element, dimensions that differ between results.
    """
    results = as_mapping(results if isinstance(results, Mapping) and not isinstance(results, xr.DataTree)
                         else {"fit" if is_fit(results) else "draws": results})  # fmt: skip
    check_elements(ELEMENTS, visuals, aes_by_visuals)
    if align:
        ordered, _ = in_one_order(results)
        check_bootstraps(results, ordered, bootstrap)
        results = ordered
    names = chosen_names(results, level, var_names, filter_vars)
    point = select(stack({k: datasets(k, v, level, names)[0] for k, v in results.items()}), coords=coords)
    twig, trunk = (
        select(stack({k: bounds(k, v, at, names, kind, bootstrap) for k, v in results.items()}), coords=coords)
        for at in (level, inner_level)
    )
    heights = positions(point)
    rows = max(1, *[int(h.max()) + 1 for h in heights.values()])
    band = min(0.28 + 0.08 * len(results), TALLEST / rows)
    pc = panels(
        point, width=3.6, height=0.8 + band * rows, col_wrap=col_wrap, aes={"color": ["model"]},
        plot_collection=plot_collection, backend=backend, pc_kwargs=pc_kwargs,
    )  # fmt: skip
    pc.update_aes_from_dataset("y", heights)
    canvas = Canvas(pc, visuals, aes_by_visuals)
    if reference is not None:
        marks = reference_marks(point, reference)
        canvas.draw("reference", line_xy, marks, color="B1", linestyle="C1", width=1.2)
    canvas.draw("twig", line_x, twig, aes=("color", "y"), width=1.0)
    canvas.draw("trunk", line_x, trunk, aes=("color", "y"), width=3.0)
    canvas.draw("point", scatter_x, point, aes=("color", "y"), size=canvas.size(30 if band > 0.25 else 12))
    canvas.title(point, labeller)
    label_rows(canvas, point, band, rows)
    if len(results) > 1:
        canvas.legend("model", title="")
    return pc


def chosen_names(results: Mapping[str, Any], level: float, var_names, filter_vars) -> list[str]:
    """The variables to draw: of those that are common, or that the first result has where they are named in full."""
    if var_names is not None and filter_vars is None:
        names = [var_names] if isinstance(var_names, str) else list(var_names)
        if not any(n.startswith("~") for n in names):
            return names
    points = [datasets(name, item, level)[0] for name, item in results.items()]
    found = [[str(n) for n, a in point.data_vars.items() if a.size] for point in points]
    names = [n for n in found[0] if all(n in other for other in found)]
    if not names:
        have = "; ".join(f"'{k}' has {', '.join(map(repr, v))}" for k, v in zip(results, found, strict=True))
        raise ValueError(f"The results have no variable in common: {have}.")
    return list(map(str, select(xr.Dataset({n: 0.0 for n in names}), var_names, filter_vars, owner="All").data_vars))


def check_bootstraps(results: Mapping[str, Any], ordered: Mapping[str, Any], bootstrap) -> None:
    """Refuse bootstraps of fits whose states were renamed."""
    given = bootstrap if isinstance(bootstrap, Mapping) else dict.fromkeys(results, bootstrap)
    for name, item in results.items():
        if given.get(name) is not None and is_fit(item) and ordered[name] is not item:
            raise ValueError(
                f"The states of '{name}' were renamed to those of another fit, but not those of its bootstrap: use "
                "align=False, or leave out bootstrap=."
            )


def bounds(name: str, item: Any, level: float, names: Sequence[str], kind, bootstrap) -> xr.Dataset:
    """Interval of one result at a level."""
    own = kind.get(name, "wald") if isinstance(kind, Mapping) else kind
    if not knows_model(item) or own == "wald":
        return datasets(name, item, level, list(names))[2]
    replicates = bootstrap.get(name) if isinstance(bootstrap, Mapping) else bootstrap
    found = item.confidence_intervals(level, own, var_names=list(names), bootstrap=replicates)
    blank = {n: xr.full_like(item.estimates[n].expand_dims(ci_bound=["lower", "upper"], axis=-1), np.nan, float)
             for n in names if n not in found}  # fmt: skip
    return found.assign(blank)[list(names)]


def stack(parts: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """One dataset with the methods along a new dimension ``model``."""
    first, *others = parts
    for other in others:
        for name, array in parts[first].data_vars.items():
            if set(array.dims) != set(parts[other][name].dims):
                raise ValueError(
                    f"'{name}' has the dimensions {array.dims} in '{first}' and {parts[other][name].dims} in "
                    f"'{other}', so its entries cannot be matched; give the model dims, or rename them in the DataTree."
                )
    model = xr.DataArray(list(parts), dims="model", name="model")
    return xr.concat(list(parts.values()), dim=model, join="outer", coords="minimal", compat="override")


def positions(point: xr.Dataset) -> xr.Dataset:
    """Heights: one band an entry, from top to bottom, the methods side by side within it."""
    n_models = point.sizes["model"]
    shift = np.linspace(0.25, -0.25, n_models) if n_models > 1 else np.zeros(1)
    heights = {}
    for name, array in point.data_vars.items():
        dims = [d for d in array.dims if d != "model"]
        shape = tuple(array.sizes[d] for d in dims)
        bands = np.arange(int(np.prod(shape)))[::-1].reshape(shape)
        values = bands[None] + shift.reshape((-1,) + (1,) * len(shape))
        heights[name] = xr.DataArray(values, dims=["model", *dims], coords={d: array.coords[d] for d in dims})
    return xr.Dataset(heights).assign_coords(model=point["model"])


def reference_marks(point: xr.Dataset, reference: Mapping[str, Any]) -> xr.Dataset:
    """A short vertical line in the row of every entry that has a reference."""
    marks = {}
    for name, values in reference_of(point, reference).items():
        y = np.arange(values.size)[::-1, None] + np.array([-0.4, 0.4, np.nan])
        marks[name] = points_xy(np.repeat(values.values.ravel(), 3), y.ravel(), [f"{name}_mark"])
    return xr.Dataset(marks)


def label_rows(canvas: Canvas, point: xr.Dataset, band: float, rows: int) -> None:
    """Tick labels at the left of every panel; rows are as far apart in all of them."""
    for name, array in point.data_vars.items():
        labels = [label[len(str(name)) + 1 : -1] for label, _ in entries(array)]
        ticks = np.arange(len(labels))[::-1].astype(float)
        step = -(-len(labels) // MOST_LABELS)
        target = canvas.collection.get_target(name, {})
        canvas.module.yticks(ticks[::step], labels[::step], target)
        if band < 0.22 and canvas.collection.backend == "matplotlib":
            target.tick_params("y", labelsize=max(5.0, 40.0 * band * step))
        canvas.module.ylim((len(labels) - rows - 0.6, len(labels) - 0.4), target)
