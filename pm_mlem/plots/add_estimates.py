"""Point estimates and intervals on plots of ArviZ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_plots.plot_collection import backend_from_object

from pm_mlem.arguments import checked, level, names, optional
from pm_mlem.plots.canvas import AesByVisuals, Canvas, Visuals, check_elements, listed, select
from pm_mlem.results.reported import knows_model

ELEMENTS = ("estimate", "interval")


@checked(var_names=optional(names), level=level)
def add_estimates(
    plot_collection: azp.PlotCollection,
    fit,
    *,
    var_names: str | Sequence[str] | None = None,
    filter_vars: str | None = None,
    coords: Mapping[str, Any] | None = None,
    level: float = 0.95,
    kind: str = "wald",
    bootstrap=None,
    orientation: Literal["auto", "vertical", "horizontal"] = "auto",
    aes_by_visuals: AesByVisuals = None,
    visuals: Visuals = None,
) -> azp.PlotCollection:
    """Draw the estimates of a fit, and their intervals, into a plot of ArviZ.

    In ``plot_forest`` each gets a row's point and line, just below the posterior's; in all plots with a panel for every
    variable (``plot_dist``, ``plot_trace``, ...) a line and a band across the panel.

    Parameters
    ----------
    plot_collection : PlotCollection
        What ``az.plot_dist``, ``az.plot_forest``, ``az.plot_trace`` and so on return.
    fit : Fit
    var_names : str or sequence of str, optional
        Default: what the plot and the fit share.
    filter_vars : {None, "like", "regex"}, optional
        Whether ``var_names`` are names, parts of names or regular expressions.
    coords : dict, optional
        The entries to draw, labels by dimension.
    level : float
    kind : {"wald", "profile", "bootstrap"}
        The intervals, as in :meth:`Fit.confidence_intervals`, drawn as they are.
    bootstrap : Bootstrap, optional
        For ``kind="bootstrap"``, a bootstrap of this fit.
    orientation : {"auto", "vertical", "horizontal"}
        Direction of the lines across panels. Default: horizontal where the vertical axis of the plot is the parameter
        (``plot_trace``), vertical elsewhere.
    aes_by_visuals : dict, optional
        The aesthetics of each element. Default: none.
    visuals : dict, optional
        Properties of (or False to leave out) ``estimate`` and ``interval``.

    Returns
    -------
    arviz_plots.PlotCollection
        The one that was passed.

    Raises
    ------
    ValueError
        The plot and the fit share no variable, an unknown variable, kind or element.

    Examples
    --------
    >>> import arviz as az, numpy as np, pymc as pm, pm_mlem as mlem
    >>> with pm.Model() as model:
    ...     flips = pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=np.repeat([1, 0], [60, 40]))
    >>> fit = mlem.fit(model, progressbar=False)
    >>> pc = az.plot_dist(fit.to_datatree(draws=50, random_seed=1), backend="none")
    >>> sorted(mlem.add_estimates(pc, fit).viz["mle_estimate"].data_vars)
    ['p']
    """
    if not isinstance(plot_collection, azp.PlotCollection):
        raise TypeError(f"plot_collection must be what a plot of ArviZ returns, not {type(plot_collection).__name__}.")
    if not knows_model(fit):
        raise TypeError(f"fit must be an mlem.Fit, not {type(fit).__name__}.")
    check_elements(ELEMENTS, visuals, aes_by_visuals)
    if orientation not in ("auto", "vertical", "horizontal"):
        raise ValueError(f"orientation={orientation!r} is unknown; use 'auto', 'vertical' or 'horizontal'.")
    data = plot_collection.data
    shared = [n for n in fit.estimates.data_vars if n in data.data_vars]
    if not shared:
        raise ValueError(
            f"The plot and the fit share no variable: the plot has {listed(list(data.data_vars))}, the fit "
            f"{listed(list(fit.estimates.data_vars))}."
        )
    point = in_plot(select(fit.estimates[shared], var_names, filter_vars, coords, "What plot and fit share"), data)
    names = list(map(str, point.data_vars))
    bounds = fit.confidence_intervals(level, kind, var_names=names, bootstrap=bootstrap)
    bounds = xr.Dataset({n: bounds[n].sel({d: point[n][d] for d in point[n].dims}) for n in names if n in bounds})
    canvas = Canvas(plot_collection, prefixed(fit, visuals), prefixed(fit, aes_by_visuals))
    draw = on_forest if "column" in plot_collection.facet_dims else on_panels
    draw(canvas, fit.estimator, point, bounds, orientation)
    return plot_collection


def prefixed(fit, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The names under which elements are kept: MLE and MAP can be added to the same plot."""
    return {f"{fit.estimator}_{name}": value for name, value in (options or {}).items()}


def in_plot(point: xr.Dataset, data: xr.Dataset) -> xr.Dataset:
    """The entries that the plot shows."""
    for dim in point.dims:
        if dim in data.dims:
            shown = np.isin(point[dim].values, data[dim].values)
            if not shown.any():
                raise ValueError(f"The plot and the fit share no label of '{dim}'.")
            point = point.isel({dim: shown})
    for name, array in point.data_vars.items():
        if missing := [d for d in array.dims if d not in data[name].dims]:
            raise ValueError(
                f"'{name}' has the dimension '{missing[0]}' in the fit but not in the plot; choose an entry by coords=."
            )
    return point


def on_forest(canvas: Canvas, estimator: str, point: xr.Dataset, bounds: xr.Dataset, orientation: str) -> None:
    """A row below the posterior's; ``y`` decreases downwards."""
    rows = canvas.collection.get_aes_as_dataset("y")
    below = 0.3 if estimator == "mle" else 0.5
    over = [d for d in rows.dims if d not in point.dims]
    lowest = {n: rows[n].min([d for d in over if d in rows[n].dims]) - below for n in point.data_vars}
    y = xr.Dataset(
        {n: a.broadcast_like(point[n]).sel({d: point[n][d] for d in point[n].dims}) for n, a in lowest.items()}
    )
    color = "C1" if estimator == "mle" else "C2"
    options = {"coords": {"column": "forest"}, "color": color, "y": y}
    canvas.draw(f"{estimator}_interval", in_rows, bounds, width=2.0, **options)
    canvas.draw(f"{estimator}_estimate", dots, point, size=canvas.size(25), **options)


def in_rows(da, target, *, y, **properties):
    """A line for every entry at its own height: all of them as one, with gaps."""
    ends = da.transpose(*y.dims, "ci_bound").values.reshape(-1, 2)
    gap = np.full((len(ends), 1), np.nan)
    x = np.concatenate([ends, gap], axis=1).ravel()
    return backend_from_object(target).line(x, np.repeat(y.values.ravel(), 3), target, **properties)


def dots(da, target, *, y, **properties):
    """A point for every entry at its own height."""
    return backend_from_object(target).scatter(
        da.transpose(*y.dims).values.ravel(), y.values.ravel(), target, **properties
    )  # fmt: skip


def on_panels(canvas: Canvas, estimator: str, point: xr.Dataset, bounds: xr.Dataset, orientation: str) -> None:
    """Lines and bands across the panels."""
    if orientation == "auto":
        orientation = "horizontal" if "trace" in canvas.collection.viz.children else "vertical"
    color = "C1" if estimator == "mle" else "C2"
    options = {"color": color, "upright": orientation == "vertical"}
    canvas.draw(f"{estimator}_interval", bands, bounds, alpha=0.2, **options)
    canvas.draw(f"{estimator}_estimate", lines, point, width=1.8, **options)


def lines(da, target, *, upright: bool, **properties):
    """A line for every entry."""
    backend = backend_from_object(target)
    drawn = [(backend.vline if upright else backend.hline)(float(v), target, **properties) for v in da.values.ravel()]
    return drawn[0]


def bands(da, target, *, upright: bool, **properties):
    """A band for every entry; ``ci_bound`` are its ends. None where an end is missing."""
    backend, drawn = backend_from_object(target), [None]
    for low, high in da.transpose(..., "ci_bound").values.reshape(-1, 2):
        if np.isfinite(low) and np.isfinite(high):
            drawn.append((backend.vspan if upright else backend.hspan)(float(low), float(high), target, **properties))
    return drawn[-1]
