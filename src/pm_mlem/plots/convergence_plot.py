"""How the objective rose, iteration by iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_plots.visuals import labelled_title, labelled_x, line_xy, set_yscale

from pm_mlem.plots.utils import VariableNames, figure_size, visual


def plot_convergence(
    fits,
    *,
    backend: str | None = None,
    visuals: Mapping[str, Mapping[str, Any] | bool] | None = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """The objective by iteration, and how far it is from the best value seen (logarithmic).

    A straight line on the right is linear convergence (EM), one that bends down is faster (Newton).

    Parameters
    ----------
    fits : Fit or dict of {name: Fit}
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    visuals : dict, optional
        Properties of (or False to leave out) ``line``, ``title``, ``xlabel``, ``legend``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection
    """
    fits = fits if isinstance(fits, Mapping) else {"fit": fits}
    histories = {name: next(iter(fit.history.data_vars.values())).values for name, fit in fits.items()}
    data = curves(histories, "log-likelihood" if all(f.estimator == "mle" for f in fits.values()) else "objective")
    pc_kwargs.setdefault("aes", {"color": ["model"]})
    pc_kwargs.setdefault("figure_kwargs", {"figsize": figure_size(backend, 2, 1, 5.0, 3.4)})
    pc = azp.PlotCollection.wrap(data, cols=["__variable__"], backend=backend, **pc_kwargs)
    options = visual(visuals, "line")
    if options is not False:
        pc.map(line_xy, "line", data=with_axis(data), **options)
    gap = list(data.data_vars)[1]
    pc.map(set_yscale, "yscale", data=data[[gap]], scale="log", ignore_aes="all", store_artist=False)
    for element, function, text in (("title", labelled_title, None), ("xlabel", labelled_x, "iteration")):
        options = visual(visuals, element)
        if options is not False:
            extra = {"subset_info": True, "labeller": VariableNames()} if text is None else {"text": text}
            pc.map(function, element, data=data, ignore_aes="all", **extra, **options)
    if len(fits) > 1 and visual(visuals, "legend") is not False:
        pc.add_legend("model")
    return pc


def curves(histories: Mapping[str, np.ndarray], name: str) -> xr.Dataset:
    """Objective and distance to the best value of all runs, padded with NaN."""
    length = max(map(len, histories.values()))
    best = max(np.nanmax(h) for h in histories.values())
    value = np.full((len(histories), length), np.nan)
    for row, history in zip(value, histories.values(), strict=True):
        row[: len(history)] = history
    floor = 1e-10 * (1.0 + abs(best))
    gap = np.where(np.isnan(value), np.nan, np.maximum(best - value, floor))
    coords = {"model": list(histories), "iteration": np.arange(length)}
    dims = ("model", "iteration")
    return xr.Dataset({name: (dims, value), "distance to the best": (dims, gap)}, coords=coords)


def with_axis(data: xr.Dataset) -> xr.Dataset:
    """x and y along ``plot_axis``, as ``line_xy`` wants them."""
    x = xr.zeros_like(data) + data["iteration"]
    return xr.concat([x, data], dim=xr.DataArray(["x", "y"], dims="plot_axis", name="plot_axis"))
