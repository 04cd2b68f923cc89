"""The profile of the log-likelihood, and what intervals are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_plots.visuals import labelled_title, labelled_x, labelled_y, line_xy, scatter_xy, vline
from scipy.stats import chi2

from pm_mlem.plots.utils import EntryNames as VariableNames, figure_kwargs, visual
from pm_mlem.results.labels import entry_names


def plot_profile(
    fit,
    var: str,
    *,
    reference: float | None = None,
    level: float = 0.95,
    points: int = 41,
    col_wrap: int = 3,
    backend: str | None = None,
    visuals: Mapping[str, Mapping[str, Any] | bool] | None = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """Profile log-likelihood (log-posterior under "map") with its maximum, its interval and the Wald parabola.

    The horizontal line is the height at which the profile ends the interval. Where profile and parabola differ there,
    Wald intervals are off.

    Parameters
    ----------
    fit : Fit
    var : str
        A variable, one panel an entry, or an entry: "mu[a]".
    reference : float, optional
        A value to compare with, a vertical line.
    level : float
        Coverage of the interval.
    points : int
        Points of the curve.
    col_wrap : int
        Panels in a row.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    visuals : dict, optional
        Properties of (or False to leave out) ``profile``, ``wald``, ``interval``, ``bound``, ``maximum``,
        ``reference``, ``title``, ``xlabel``, ``ylabel``, ``legend``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection

    Raises
    ------
    ValueError
        There is no such variable or entry, or it has no profile.
    """
    panels = by_entry(fit.profile(var, level, points), var)
    data = {name: curves(panel) for name, panel in panels.items()}
    lines = xr.Dataset({name: item for name, item in data.items()})
    size = figure_kwargs(backend, min(len(panels), col_wrap), -(-len(panels) // col_wrap), 4.4, 3.4)
    pc_kwargs.setdefault("aes", {"color": ["curve"]})
    pc = azp.PlotCollection.wrap(
        lines, cols=["__variable__"], col_wrap=col_wrap, backend=backend,
        **{"figure_kwargs": size, **pc_kwargs},
    )  # fmt: skip
    for name, defaults in (("wald", {"linestyle": "C1"}), ("profile", {"width": 2.0})):
        options = visual(visuals, name, **defaults)
        if options is not False:
            pc.map(line_xy, name, data=lines.sel(curve=[name]), **options)
    marks(pc, panels, visuals, reference)
    label(pc, lines, "log-likelihood" if fit.estimator == "mle" else "log-posterior", visuals)
    if visual(visuals, "legend") is not False:
        pc.add_legend("curve")
    return pc


def by_entry(curve: xr.Dataset, var: str) -> dict[str, xr.Dataset]:
    """The profile of each entry that has one, by its name."""
    estimate = curve["estimate"]
    if estimate.ndim == 0:
        return {var: curve}
    names = entry_names(estimate.rename(var))
    found = {
        name: curve.isel(dict(zip(estimate.dims, index, strict=True)))
        for name, index in zip(names, np.ndindex(*estimate.shape), strict=True)
    }
    return {name: panel.drop_vars(estimate.dims) for name, panel in found.items() if panel["value"].notnull().any()}


def height(curve: xr.Dataset) -> xr.DataArray:
    return curve["log_likelihood" if "log_likelihood" in curve else "log_posterior"]


def curves(panel: xr.Dataset) -> xr.DataArray:
    """Profile and parabola with the axes (plot_axis, curve, point); the parabola no deeper than the profile."""
    y = height(panel).values
    parabola = panel["wald"].values
    parabola = np.where(parabola < np.nanmin(y), np.nan, parabola)
    x = panel["value"].values
    values = np.stack([np.stack([x, x]), np.stack([y, parabola])])
    return xr.DataArray(
        values, dims=("plot_axis", "curve", "point"),
        coords={"plot_axis": ["x", "y"], "curve": ["profile", "wald"], "point": panel["point"].values},
    )  # fmt: skip


def marks(pc: azp.PlotCollection, panels: Mapping[str, xr.Dataset], visuals, reference: float | None) -> None:
    """The maximum, the level, the ends of the interval, and the reference value."""
    levels, bounds, tops, values = {}, {}, {}, {}
    for name, panel in panels.items():
        x = panel["value"].values
        top = panel.attrs["maximum"]
        cut = top - 0.5 * float(chi2.ppf(panel.attrs["level"], 1))
        ends = panel["interval"].values
        shown = np.clip(ends, np.nanmin(x), np.nanmax(x))  # an infinite end is where the curve ends
        levels[name] = pairs(shown, np.where(np.isnan(ends), np.nan, cut))
        bounds[name] = pairs(np.where(np.isfinite(ends), ends, np.nan), np.full(2, cut))
        tops[name] = pairs(np.array([panel["estimate"].item()]), np.array([top]))
        values[name] = xr.DataArray(np.nan if reference is None else float(reference))
    size = {"size": 30 if pc.backend == "matplotlib" else 8}
    for element, function, data, defaults in (
        ("interval", line_xy, levels, {"color": "B2"}),
        ("bound", scatter_xy, bounds, {"color": "B2", **size}),
        ("maximum", scatter_xy, tops, {"color": "B1", **size}),
    ):
        options = visual(visuals, element, **defaults)
        if options is not False:
            pc.map(function, element, data=xr.Dataset(data), ignore_aes="all", **options)
    options = visual(visuals, "reference", color="B1", linestyle="C2")
    if reference is not None and options is not False:
        pc.map(vline, "reference", data=xr.Dataset(values), ignore_aes="all", **options)


def pairs(x: np.ndarray, y: np.ndarray) -> xr.DataArray:
    """Points with the axes (plot_axis, mark)."""
    return xr.DataArray(np.stack([x, y]), dims=("plot_axis", "mark"), coords={"plot_axis": ["x", "y"]})


def label(pc: azp.PlotCollection, lines: xr.Dataset, kind: str, visuals) -> None:
    texts = {"ylabel": (labelled_y, f"profile {kind}"), "xlabel": (labelled_x, "value")}
    for element, (function, text) in texts.items():
        options = visual(visuals, element)
        if options is not False:
            pc.map(function, element, data=lines, text=text, ignore_aes="all", **options)
    options = visual(visuals, "title")
    if options is not False:
        pc.map(
            labelled_title, "title", data=lines, subset_info=True, labeller=VariableNames(), ignore_aes="all",
            **options,
        )  # fmt: skip
