"""What the data say about the latent state of each unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_plots.visuals import labelled_title, labelled_x, line_xy, scatter_xy, step_hist

from pm_mlem.plots.utils import VariableNames, figure_kwargs, visual


def plot_latents(
    fit,
    *,
    var_name: str | None = None,
    backend: str | None = None,
    visuals: Mapping[str, Mapping[str, Any] | bool] | None = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """Posterior probabilities of a latent's states, given the data and the estimates.

    Where one observed number belongs to each element of the latent, the probabilities are drawn over it, below
    the data's histogram and the fitted density of every component (its weight times its density) and of their
    sum; otherwise over the element's position.

    Parameters
    ----------
    fit : Fit
    var_name : str, optional
        The latent; default: the first one.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    visuals : dict, optional
        Properties of (or False to leave out) ``probability``, ``component``, ``density``, ``histogram``,
        ``title``, ``xlabel``, ``legend``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection

    Raises
    ------
    ValueError
        The model has no latent of that name.
    """
    name = pick(fit, var_name)
    probability = fit.latent_probabilities[name]
    observed = fit._observation_of(name)
    x = np.arange(probability[..., 0].size) if observed is None else observed[1]
    order = np.argsort(x, kind="stable")
    values = probability.values.reshape(-1, probability.shape[-1])[order]
    states = [str(s) for s in probability.coords[f"{name}_state"].values]
    coords = {"state": states, "unit": np.arange(len(x))}
    panels = {}
    joint = fit._joint_density(name) if observed is not None else None
    if joint is not None:
        panels["density"] = axes(x[order], joint.reshape(joint.shape[0], -1)[:, order])
    panels[f"p({name} | data)"] = axes(x[order], values.T)
    data = xr.Dataset({k: (("plot_axis", "state", "unit"), v) for k, v in panels.items()}, coords=coords)
    data = data.assign_coords(plot_axis=["x", "y"])
    pc_kwargs.setdefault("aes", {"color": ["state"]})
    pc_kwargs.setdefault("figure_kwargs", figure_kwargs(backend, 1, len(panels), 7.5, 2.6))
    pc = azp.PlotCollection.wrap(data, cols=["__variable__"], col_wrap=1, backend=backend, **pc_kwargs)
    if joint is not None:
        draw_density(pc, data[["density"]], x, visuals)
    options = visual(visuals, "probability", size=12 if pc.backend == "matplotlib" else 5)
    if options is not False:
        pc.map(scatter_xy, "probability", data=data[[f"p({name} | data)"]], **options)
    label(pc, data, observed[0] if observed is not None else "element", visuals)
    if visual(visuals, "legend") is not False:
        pc.add_legend("state", title=name)
    return pc


def pick(fit, var_name: str | None) -> str:
    names = list(fit.latent_probabilities.data_vars)
    if not names:
        raise ValueError("The model has no discrete latent variable.")
    if var_name is None:
        return str(names[0])
    if var_name not in names:
        raise ValueError(f"The model has no latent '{var_name}'; it has {', '.join(map(repr, names))}.")
    return var_name


def axes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coordinates with the axes (plot_axis, state, unit)."""
    return np.stack([np.broadcast_to(x, y.shape), y])


def draw_density(pc: azp.PlotCollection, data: xr.Dataset, x: np.ndarray, visuals) -> None:
    options = visual(visuals, "histogram", color="C7", alpha=0.6)
    if options is not False:
        heights, edges = np.histogram(x, bins=min(40, max(10, len(x) // 12)), density=True)
        bars = xr.DataArray(
            np.stack([heights, edges[:-1], edges[1:]]), dims=("plot_axis", "hist_dim"),
            coords={"plot_axis": ["histogram", "left_edges", "right_edges"]}, name="density",
        )  # fmt: skip
        pc.map(step_hist, "histogram", data=bars.to_dataset(), ignore_aes="all", **options)
    options = visual(visuals, "component")
    if options is not False:
        pc.map(line_xy, "component", data=data, **options)
    options = visual(visuals, "density", color="B1", linestyle="C1")
    if options is not False:
        total = data.sum("state")
        total["density"].loc[{"plot_axis": "x"}] = data["density"].isel(state=0).sel(plot_axis="x")
        pc.map(line_xy, "density", data=total, ignore_aes="all", **options)


def label(pc: azp.PlotCollection, data: xr.Dataset, text: str, visuals) -> None:
    options = visual(visuals, "title")
    if options is not False:
        pc.map(
            labelled_title, "title", data=data, subset_info=True, labeller=VariableNames(), ignore_aes="all", **options
        )
    options = visual(visuals, "xlabel")
    if options is not False:
        pc.map(labelled_x, "xlabel", data=data, text=text, ignore_aes="all", **options)
