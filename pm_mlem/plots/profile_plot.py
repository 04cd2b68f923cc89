"""The profile of the log-likelihood, and what intervals are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_base.labels import BaseLabeller
from arviz_plots.visuals import labelled_x, labelled_y, line_xy, scatter_xy, vline

from pm_mlem.arguments import checked, level, whole
from pm_mlem.estimate.labels import entry_names
from pm_mlem.inference.intervals import likelihood_drop
from pm_mlem.plots.canvas import AesByVisuals, Canvas, Visuals, check_elements, panels, points_xy

ELEMENTS = (
    "profile", "wald", "interval", "bound", "maximum", "reference", "title", "xlabel", "ylabel", "legend",
)  # fmt: skip


@checked(level=level, col_wrap=whole(1), points=whole(3))
def plot_profile(
    fit,
    var: str | Sequence[str],
    *,
    reference: float | Mapping[str, float] | None = None,
    level: float = 0.95,
    points: int = 41,
    col_wrap: int = 3,
    plot_collection: azp.PlotCollection | None = None,
    backend: str | None = None,
    labeller: BaseLabeller | None = None,
    aes_by_visuals: AesByVisuals = None,
    visuals: Visuals = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """Profile log-likelihood (log-posterior under "map") with its maximum, its interval and the Wald parabola.

    The horizontal line is the height at which the profile ends the interval. Where profile and parabola differ there,
    Wald intervals are off.

    Parameters
    ----------
    fit : Fit
    var : str or sequence of str
        Variables, one panel an entry, or entries: "mu[a]".
    reference : float or dict, optional
        A value to compare with, a vertical line; by variable or entry where they differ.
    level : float
        Coverage of the interval.
    points : int
        Points of the curve.
    col_wrap : int
        Panels in a row.
    plot_collection : PlotCollection, optional
        Where to draw. Default: a new one.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    labeller : labeller of ArviZ, optional
        For the titles.
    aes_by_visuals : dict, optional
        The aesthetics of each element. Default: ``color`` (the curves) for ``profile`` and ``wald``.
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
        There is no such variable, entry or element, or it has no profile.
    """
    check_elements(ELEMENTS, visuals, aes_by_visuals)
    found, values, names = {}, {}, [var] if isinstance(var, str) else list(var)
    for name in names:
        own = by_entry(fit.profile(name, level, points), name)
        found |= own
        values |= {n: reference_at(reference, name, n) for n in own}
    if isinstance(reference, Mapping) and (unused := set(reference) - {*found, *names}):
        raise ValueError(f"reference: '{min(unused)}' is not drawn; there are {', '.join(map(repr, found))}.")
    lines = xr.Dataset({name: curves(panel) for name, panel in found.items()})
    pc = panels(
        lines, width=4.4, height=3.4, col_wrap=col_wrap, aes={"color": ["curve"]}, plot_collection=plot_collection,
        backend=backend, pc_kwargs=pc_kwargs,
    )  # fmt: skip
    canvas = Canvas(pc, visuals, aes_by_visuals)
    canvas.draw("wald", line_xy, lines.sel(curve=["wald"]), aes=["color"], linestyle="C1")
    canvas.draw("profile", line_xy, lines.sel(curve=["profile"]), aes=["color"], width=2.0)
    marks(canvas, found)
    values = {n: v for n, v in values.items() if v is not None}
    if values:
        canvas.draw("reference", vline, xr.Dataset(values), color="B1", linestyle="C2")
    canvas.title(lines, labeller)
    canvas.text("xlabel", labelled_x, lines, "value")
    kind = "log-likelihood" if fit.estimator == "mle" else "log-posterior"
    canvas.text("ylabel", labelled_y, lines, f"profile {kind}")
    canvas.legend("curve", title="")
    return pc


def reference_at(reference, var: str, entry: str) -> float | None:
    value = reference.get(entry, reference.get(var)) if isinstance(reference, Mapping) else reference
    return None if value is None else float(value)


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


def marks(canvas: Canvas, panels: Mapping[str, xr.Dataset]) -> None:
    """The maximum, the level and the ends of the interval."""
    levels, bounds, tops = {}, {}, {}
    for name, panel in panels.items():
        x = panel["value"].values
        top = panel.attrs["maximum"]
        cut = top - likelihood_drop(panel.attrs["level"])
        ends = panel["interval"].values
        shown = np.clip(ends, np.nanmin(x), np.nanmax(x))  # an infinite end is where the curve ends
        levels[name] = points_xy(shown, np.where(np.isnan(ends), np.nan, cut), ["mark"])
        bounds[name] = points_xy(np.where(np.isfinite(ends), ends, np.nan), np.full(2, cut), ["mark"])
        tops[name] = points_xy([panel["estimate"].item()], [top], ["mark"])
    canvas.draw("interval", line_xy, xr.Dataset(levels), color="B2")
    canvas.draw("bound", scatter_xy, xr.Dataset(bounds), color="B2", size=canvas.size(30))
    canvas.draw("maximum", scatter_xy, xr.Dataset(tops), color="B1", size=canvas.size(30))
