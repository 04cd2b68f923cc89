"""The observed data and the density that was fitted to them."""

from __future__ import annotations

from collections.abc import Sequence

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_base.labels import BaseLabeller
from arviz_plots.plot_collection import backend_from_object
from arviz_plots.visuals import hist, labelled_x, labelled_y, line_xy, scatter_xy, set_xticks

from pm_mlem.arguments import checked, optional, whole
from pm_mlem.estimate.observed_density import ObservedDensity, observed_density
from pm_mlem.plots.canvas import (
    GREY,
    AesByVisuals,
    Canvas,
    Visuals,
    check_elements,
    entry_name,
    panels,
    points_xy,
)

ELEMENTS = ("data", "component", "density", "mass", "title", "xlabel", "ylabel", "legend")
MOST_INTEGERS = 200
"""Whole numbers that are drawn one by one."""


@checked(points=optional(whole(2)), col_wrap=whole(1))
def plot_density(
    fit,
    *,
    var_name: str | None = None,
    latent: str | None = None,
    points: int | None = None,
    bins: int | Sequence[float] | None = None,
    probs: Sequence[float] = (0.5, 0.95),
    col_wrap: int = 3,
    plot_collection: azp.PlotCollection | None = None,
    backend: str | None = None,
    labeller: BaseLabeller | None = None,
    aes_by_visuals: AesByVisuals = None,
    visuals: Visuals = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """The observed data with the fitted density, and with its components where there are any.

    Numbers are drawn as a histogram under the density of every component (weight times density) and their sum, whole
    numbers as bars of relative frequencies. Pairs of numbers with a joint density (or with one latent) are drawn as
    points in the colour of their most probable component, with contours that hold a share ``probs`` of each component.
    The columns of other matrices have a panel each.

    Parameters
    ----------
    fit : Fit
    var_name : str, optional
        The observed variable. Default: the first one.
    latent : str, optional
        The latent whose states are the components. Default: the first one that the variable depends on.
    points : int, optional
        Points of the curves. Default: 200; 60 along each axis of contours.
    bins : int or sequence of float, optional
        Number of bins or their edges.
    probs : sequence of float
        What contours hold.
    col_wrap : int
        Panels in a row.
    plot_collection : PlotCollection, optional
        Where to draw. Default: a new one.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    labeller : labeller of ArviZ, optional
        For the titles.
    aes_by_visuals : dict, optional
        The aesthetics of each element. Default: ``color`` (the states) for ``component``, and for ``data`` in pairs.
    visuals : dict, optional
        Properties of (or False to leave out) ``data``, ``component``, ``density`` (the sum), ``mass`` (its points, for
        whole numbers), ``title``, ``xlabel``, ``ylabel``, ``legend``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection

    Raises
    ------
    ValueError
        There is no such observed variable, latent or element; rows depend on each other, or are vectors of more than
        two numbers.

    Notes
    -----
    The density is evaluated by the compiled model itself. Where it differs from row to row (in a regression) it is
    averaged over the rows, with their weights: what one would expect of the histogram. The weight of a component is the
    model's where every row is an independent unit, and the average of its posterior probability where rows share
    latents with each other (a hidden Markov model) or with other variables. The density of a row whose label is known
    is the one given the label; components are drawn where all labels are hidden.
    """
    check_elements(ELEMENTS, visuals, aes_by_visuals)
    found = observed_density(fit._estimate, var_name, latent)
    names, axes = names_of(fit, found)
    draw = draw_pairs if found.pair else draw_columns
    common = dict(
        width=5.5 if len(names) == 1 else 4.0, height=3.6 if not found.pair else 4.4, col_wrap=col_wrap,
        aes={"color": ["state"]} if found.states else {}, plot_collection=plot_collection, backend=backend,
        pc_kwargs=pc_kwargs,
    )  # fmt: skip
    canvas, data = draw(found, names, common, visuals, aes_by_visuals, points, bins if not found.pair else probs)
    canvas.title(data, labeller)
    if found.pair:
        canvas.text("xlabel", labelled_x, data, axes[0])
        canvas.text("ylabel", labelled_y, data, axes[1])
    else:
        canvas.text("ylabel", labelled_y, data, "probability" if found.discrete else "density")
    if found.states:
        canvas.legend("state", title=found.latent)
    return canvas.collection


def names_of(fit, found: ObservedDensity) -> tuple[list[str], list[str]]:
    """Names of the panels, and of the axes of pairs."""
    structure = fit._estimate.target.structure
    name = structure.parts[found.name].name if found.name in structure.parts else found.name
    width = found.values.shape[-1] if found.values.ndim > 1 else 1
    if width == 1:
        return [name], []
    dim = (structure.dims.get(found.name) or (None,))[-1]
    labels = range(width) if dim is None else fit._estimate.labels.coord(dim, width).tolist()
    entries = [entry_name(name, [label]) for label in labels]
    return ([name], entries) if found.pair else (entries, [])


def draw_columns(found: ObservedDensity, names, common, visuals, aes_by_visuals, points, bins):
    columns = found.values.reshape(len(found.values), -1)
    x = grid_of(columns, found.discrete, points)
    joint = found.at(x)
    if found.discrete:
        used = np.flatnonzero(joint.sum(axis=(0, 2)) > 1e-9)
        x, joint = x[used], joint[:, used]
    bars, parts, total = {}, {}, {}
    for j, name in enumerate(names):
        bars[name] = bars_of(columns[:, j], found, x, bins).rename(hist_dim=f"bin_{j}")
        parts[name] = points_xy(x, joint[:, :, j], ["state", "point"])
        total[name] = points_xy(x, joint[:, :, j].sum(axis=0), ["point"])
    data = xr.Dataset(parts)
    if found.states:
        data = data.assign_coords(state=list(map(str, found.states)))
    pc = panels(data, **common)
    canvas = Canvas(pc, visuals, aes_by_visuals)
    canvas.draw("data", hist, xr.Dataset(bars), facecolor=GREY, edgecolor=GREY, alpha=0.4)
    if found.states:
        canvas.draw("component", line_xy, data, aes=["color"], width=2.0)
    single = {"color": "C0", "width": 2.0} if not found.states else {"color": "B1", "linestyle": "C1", "width": 1.3}
    canvas.draw("density", line_xy, xr.Dataset(total), **single)
    if found.discrete:
        if len(x) <= 12:
            canvas.collection.map(
                set_xticks, "ticks", data=data, values=x, labels=list(map(str, x)), ignore_aes="all", store_artist=False
            )
        canvas.draw("mass", scatter_xy, xr.Dataset(total), color=single["color"], size=canvas.size(16))
    return canvas, data


def draw_pairs(found: ObservedDensity, names, common, visuals, aes_by_visuals, points, probs):
    size = 60 if points is None else points
    ends = [grid_of(found.values[:, [j]], False, size) for j in range(2)]
    mesh = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1)
    joint = found.at(mesh.reshape(-1, 2))[:, :, 0].reshape(-1, size, size)
    states = list(map(str, found.states)) or ["all"]
    heights = xr.DataArray(
        joint, dims=("state", "gx", "gy"), coords={"state": states, "gx": ends[0], "gy": ends[1]}
    )  # fmt: skip
    own = np.broadcast_to(found.assigned[:, 0] == np.arange(len(states))[:, None], (len(states), len(found.values)))
    x, y = (np.where(own, found.values[:, j], np.nan) for j in range(2))
    dots = xr.Dataset({names[0]: points_xy(x, y, ["state", "row"], {"state": states})})
    pc = panels(dots, **common)
    canvas = Canvas(pc, visuals, aes_by_visuals)
    aes, plain = (["color"], {}) if found.states else ([], {"color": "C0"})
    dots, heights = (d if found.states else d.isel(state=0) for d in (dots, heights.to_dataset(name=names[0])))
    canvas.draw(
        "data", scatter_xy, dots, aes=aes, size=canvas.size(14), alpha=0.5, **({"color": GREY} if plain else {})
    )
    canvas.draw(
        "component" if found.states else "density", contours, heights, aes=aes, keep=False, probs=probs, **plain
    )
    return canvas, dots


def contours(da: xr.DataArray, target, *, probs: Sequence[float], **properties):
    """Contours that hold shares of a density on a grid."""
    heights = da.values
    order = np.sort(heights, axis=None)[::-1]
    mass = np.cumsum(order) / order.sum()
    levels = sorted({float(order[min(np.searchsorted(mass, p), len(order) - 1)]) for p in probs})
    backend = backend_from_object(target)
    backend.contour(da["gx"].values, da["gy"].values, heights, target, levels=levels, **properties)
    return target


def grid_of(values: np.ndarray, discrete: bool, points: int | None) -> np.ndarray:
    """Where densities are evaluated: a little beyond the data."""
    low, high = float(values.min()), float(values.max())
    margin = 0.1 * (high - low) or 1.0
    if discrete:
        low, high = np.floor(low - margin), np.ceil(high + margin)
        return np.unique(np.linspace(low, high, min(int(high - low) + 1, MOST_INTEGERS)).round().astype(int))
    return np.linspace(low - margin, high + margin, 200 if points is None else points)


def bars_of(values: np.ndarray, found: ObservedDensity, x: np.ndarray, bins) -> xr.DataArray:
    """Bars of relative frequencies of whole numbers; a histogram of others, or where they are many."""
    if found.discrete and bins is None and np.all(np.diff(x) == 1):
        heights = np.array([found.weights[values == v].sum() for v in x])
        left, right = x - 0.5, x + 0.5
    else:
        number = min(40, max(10, len(values) // 12)) if bins is None else bins
        heights, edges = np.histogram(values, bins=number, density=True, weights=found.weights)
        left, right = edges[:-1], edges[1:]
    return histogram(heights, left, right)


def histogram(heights, left, right) -> xr.DataArray:
    """Bars as ``hist`` and ``step_hist`` want them."""
    return xr.DataArray(
        np.stack([heights, left, right]), dims=("plot_axis", "hist_dim"),
        coords={"plot_axis": ["histogram", "left_edges", "right_edges"]},
    )  # fmt: skip
