"""How the objective rose, iteration by iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_plots.visuals import labelled_title, labelled_x, line_xy, set_yscale

from pm_mlem.plots.utils import VariableNames, figure_kwargs, visual


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
    data = curves(fits)
    pc_kwargs.setdefault("aes", {"color": ["model"]})
    pc_kwargs.setdefault("figure_kwargs", figure_kwargs(backend, 2, 1, 5.0, 3.4))
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


def curves(fits: Mapping[str, Any]) -> xr.Dataset:
    """Objective and distance to the best value of all runs of the same estimator, padded with NaN."""
    histories = [next(iter(fit.history.data_vars.values())).values for fit in fits.values()]
    estimators = [fit.estimator for fit in fits.values()]
    best = {e: max(h.max() for h, own in zip(histories, estimators, strict=True) if own == e) for e in estimators}
    value = np.full((len(fits), max(map(len, histories))), np.nan)
    gap = value.copy()
    for i, (history, estimator) in enumerate(zip(histories, estimators, strict=True)):
        top = best[estimator]
        value[i, : len(history)] = history
        gap[i, : len(history)] = np.maximum(top - history, 1e-12 * (1.0 + abs(top)))
    name = {("map",): "log-posterior", ("mle",): "log-likelihood"}.get(tuple(sorted(best)), "objective")
    dims, coords = ("model", "iteration"), {"model": list(fits), "iteration": np.arange(value.shape[1])}
    return xr.Dataset({name: (dims, value), "distance to the best": (dims, gap)}, coords=coords)


def with_axis(data: xr.Dataset) -> xr.Dataset:
    """X and y along ``plot_axis``, as ``line_xy`` wants them."""
    x = xr.zeros_like(data) + data["iteration"]
    return xr.concat([x, data], dim=xr.DataArray(["x", "y"], dims="plot_axis", name="plot_axis"))
