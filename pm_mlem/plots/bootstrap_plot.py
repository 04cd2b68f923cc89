"""The replicates of a bootstrap, and the intervals that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_base.labels import BaseLabeller
from arviz_plots.visuals import hist, line_xy, remove_ticks, scatter_xy, vline

from pm_mlem.arguments import checked, level, names, optional, whole
from pm_mlem.plots.canvas import (
    GREY,
    AesByVisuals,
    Canvas,
    Visuals,
    check_elements,
    entries,
    listed,
    panels,
    points_xy,
    reference_of,
    select,
)
from pm_mlem.plots.density_plot import histogram
from pm_mlem.results.bootstrap import Bootstrap
from pm_mlem.results.reported import listed as shown_variables

ELEMENTS = ("replicates", "estimate", "interval", "bound", "reference", "title", "legend")


@checked(var_names=optional(names), level=level, bins=whole(1), col_wrap=whole(1))
def plot_bootstrap(
    bootstrap: Bootstrap,
    *,
    var_names: str | Sequence[str] | None = None,
    filter_vars: str | None = None,
    coords: Mapping[str, Any] | None = None,
    level: float = 0.95,
    kind: str | Sequence[str] = "percentile",
    reference: Mapping[str, Any] | None = None,
    bins: int = 30,
    col_wrap: int = 3,
    plot_collection: azp.PlotCollection | None = None,
    backend: str | None = None,
    labeller: BaseLabeller | None = None,
    aes_by_visuals: AesByVisuals = None,
    visuals: Visuals = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """The distribution of the replicates, entry by entry, with the estimate and its interval.

    Parameters
    ----------
    bootstrap : Bootstrap
        Made by :meth:`Fit.bootstrap`.
    var_names : str or sequence of str, optional
        Default: the parameters, and Deterministics that are not as large as the data. "~mu" leaves one out.
    filter_vars : {None, "like", "regex"}, optional
        Whether ``var_names`` are names, parts of names or regular expressions.
    coords : dict, optional
        The entries to draw, labels by dimension.
    level : float
        Coverage of the intervals.
    kind : {"percentile", "basic", "bca"} or sequence of these
        The intervals, below the histogram; see :meth:`Bootstrap.confidence_intervals`.
    reference : dict, optional
        Values to compare with, ``{variable: number or array}``.
    bins : int
        Number of bins of the histograms.
    col_wrap : int
        Panels in a row.
    plot_collection : PlotCollection, optional
        Where to draw. Default: a new one.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    labeller : labeller of ArviZ, optional
        For the titles.
    aes_by_visuals : dict, optional
        The aesthetics of each element. Default: ``color`` (the kinds) for ``interval`` and ``bound``.
    visuals : dict, optional
        Properties of (or False to leave out) ``replicates``, ``estimate``, ``interval``, ``bound`` (its ends),
        ``reference``, ``title``, ``legend``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection
        Its variables are the entries, "mu[a]". Entries without an interval (held, not identified) are left out.

    Raises
    ------
    TypeError
        Something that is no bootstrap.
    ValueError
        An unknown variable, kind or element, or no entry with an interval.
    """
    if not isinstance(bootstrap, Bootstrap):
        raise TypeError(f"bootstrap must be what fit.bootstrap() returns, not {type(bootstrap).__name__}.")
    check_elements(ELEMENTS, visuals, aes_by_visuals)
    kinds = [kind] if isinstance(kind, str) else list(kind)
    intervals = {k: bootstrap.confidence_intervals(level, k) for k in kinds}
    replicates = bootstrap.estimates
    known = [n for n in shown_variables(bootstrap.fit) if n in replicates]
    chosen = select(replicates[known], var_names, filter_vars, coords, "The bootstrap")
    shown = entries_of(chosen, intervals, kinds, bootstrap.fit.estimates, reference)
    if not shown:
        raise ValueError(
            f"No entry of {listed(list(chosen.data_vars))} has an interval: they are held or not identified."
        )
    bars, lines, points, marks = {}, {}, {}, {}
    for i, (name, (values, estimate, bounds, mark)) in enumerate(shown.items()):
        heights, edges = np.histogram(values, bins=bins, density=True)
        bars[name] = histogram(heights, edges[:-1], edges[1:]).rename(hist_dim=f"bin_{i}")
        y = -0.06 * heights.max() * (1.0 + np.arange(len(kinds)))
        lines[name] = points_xy(bounds, y[:, None], ["interval", "end"], {"interval": kinds})
        points[name], marks[name] = xr.DataArray(estimate), xr.DataArray(mark)
    data = xr.Dataset(lines)
    pc = panels(
        data, width=3.6, height=2.8, col_wrap=col_wrap, aes={"color": ["interval"]}, plot_collection=plot_collection,
        backend=backend, pc_kwargs=pc_kwargs,
    )  # fmt: skip
    canvas = Canvas(pc, visuals, aes_by_visuals)
    canvas.draw("replicates", hist, xr.Dataset(bars), facecolor=GREY, edgecolor=GREY, alpha=0.4)
    canvas.draw("estimate", vline, xr.Dataset(points), color="B1", width=1.5)
    if reference is not None:
        canvas.draw("reference", vline, xr.Dataset(marks), color="B1", linestyle="C1")
    canvas.draw("interval", line_xy, data, aes=["color"], width=2.5)
    canvas.draw("bound", scatter_xy, data, aes=["color"], size=canvas.size(16))
    pc.map(remove_ticks, "ticks", data=data, axis="y", ignore_aes="all", store_artist=False)
    canvas.title(data, labeller)
    if len(kinds) > 1:
        canvas.legend("interval")
    return pc


def entries_of(chosen: xr.Dataset, intervals, kinds, estimates: xr.Dataset, reference) -> dict[str, tuple]:
    """For each entry that has an interval its replicates, estimate, bounds by kind, and reference."""
    references = reference_of(chosen, reference)
    result = {}
    for variable, array in chosen.data_vars.items():
        labels = {d: array[d] for d in array.dims if d != "replicate"}
        parts = [dict(entries(a.sel(labels).rename(variable), *also)) for a, also in [
            (array, ["replicate"]), (estimates[variable], []), (references[variable], []),
            *[(intervals[k][variable], ["ci_bound"]) for k in kinds],
        ]]  # fmt: skip
        for name, values in parts[0].items():
            bounds = np.stack([p[name].values for p in parts[3:]])
            known = values.values[np.isfinite(values.values)]
            if np.all(np.isfinite(bounds)) and len(known):
                result[name] = known, parts[1][name].item(), bounds, parts[2][name].item()
    return result
