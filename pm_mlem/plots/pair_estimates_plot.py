"""Pairs of parameters: draws, points and ellipses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_plots.visuals import labelled_x, labelled_y, line_xy, scatter_xy

from pm_mlem.arguments import checked, flag, level, names, optional, whole
from pm_mlem.plots.canvas import (
    AesByVisuals,
    Canvas,
    Visuals,
    check_elements,
    entries,
    listed,
    panels,
    points_xy,
    select,
)
from pm_mlem.results.bootstrap import Bootstrap
from pm_mlem.results.reported import is_fit, knows_model
from pm_mlem.results.state_order import in_one_order
from pm_mlem.results.statistics import as_mapping, datasets

ELEMENTS = ("draws", "point", "ellipse", "xlabel", "ylabel", "legend")
MOST_ENTRIES = 6
"""Entries whose pairs are drawn where the user names none."""


@checked(var_names=optional(names), level=level, most_draws=whole(1), col_wrap=whole(1), align=flag)
def plot_pair_estimates(
    results: Mapping[str, Any],
    *,
    var_names: str | Sequence[str] | None = None,
    filter_vars: str | None = None,
    coords: Mapping[str, Any] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    level: float = 0.95,
    most_draws: int = 500,
    align: bool = True,
    col_wrap: int = 3,
    plot_collection: azp.PlotCollection | None = None,
    backend: str | None = None,
    aes_by_visuals: AesByVisuals = None,
    visuals: Visuals = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """Pairs of parameters: posterior draws as a cloud, fits as points with the ellipse of their normal approximation.

    Parameters
    ----------
    results : dict
        Name of the method -> :class:`pm_mlem.Fit`, a DataTree with a ``posterior`` group, or a
        :class:`pm_mlem.Bootstrap`, whose replicates are drawn.
    var_names : str or sequence of str, optional
        Default: the parameters that all results share. "~mu" leaves one out.
    filter_vars : {None, "like", "regex"}, optional
        Whether ``var_names`` are names, parts of names or regular expressions.
    coords : dict, optional
        The entries to draw, labels by dimension.
    pairs : sequence of (str, str), optional
        The pairs to draw, entries named as in ``summary()``: ``[("mu[a]", "sigma[a]")]``. Default: all.
    level : float
        What the ellipse holds: values that a joint Wald test of both parameters would not reject.
    most_draws : int
        Draws of each result that are drawn, evenly spaced.
    align : bool
        Bring the states of discrete latents into the order of the first fit, as :func:`pm_mlem.compare` does.
    col_wrap : int
        Panels in a row.
    plot_collection : PlotCollection, optional
        Where to draw. Default: a new one.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    aes_by_visuals : dict, optional
        The aesthetics of each element. Default: ``color`` (the methods).
    visuals : dict, optional
        Properties of (or False to leave out) ``draws``, ``point``, ``ellipse``, ``xlabel``, ``ylabel``, ``legend``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection
        Its variables are the pairs, "mu[a], sigma[a]".

    Raises
    ------
    ValueError
        Fewer than two entries, too many to draw all pairs, an unknown variable, pair or element.

    Notes
    -----
    The ellipse is that of :meth:`Fit.covariance` in the user's space; a fit has none where one of the two has no
    standard error. It need not lie within the support, and where the cloud is not elliptic it is off.
    """
    results = as_mapping(results)
    check_elements(ELEMENTS, visuals, aes_by_visuals)
    results = {name: as_draws(name, item) for name, item in results.items()}
    results = in_one_order(results)[0] if align else results
    parts = {name: part_of(item, most_draws) for name, item in results.items()}
    known = parts_in_common(parts, var_names, filter_vars, coords)
    wanted = chosen_pairs(known, pairs, var_names is None and coords is None)
    own = {f"{a}, {b}": [clouds(p, a, b, level) for p in parts.values()] for a, b in wanted}
    scatter, points, ellipses = (
        stacked({name: [c[k] for c in found] for name, found in own.items()}, dim, list(parts))
        for k, dim in enumerate(("draw", "one", "angle"))
    )
    data = points
    pc = panels(
        data, width=3.8, height=3.4, col_wrap=col_wrap, aes={"color": ["model"]}, plot_collection=plot_collection,
        backend=backend, pc_kwargs=pc_kwargs,
    )  # fmt: skip
    canvas = Canvas(pc, visuals, aes_by_visuals)
    if scatter.sizes["draw"]:
        canvas.draw("draws", scatter_xy, scatter, aes=["color"], size=canvas.size(8), alpha=0.3)
    canvas.draw("ellipse", line_xy, ellipses, aes=["color"], width=1.8)
    canvas.draw("point", scatter_xy, data, aes=["color"], size=canvas.size(45), edgecolor="B1")
    canvas.text("xlabel", labelled_x, data, {f"{a}, {b}": a for a, b in wanted})
    canvas.text("ylabel", labelled_y, data, {f"{a}, {b}": b for a, b in wanted})
    if len(parts) > 1:
        canvas.legend("model", title="")
    return pc


def stacked(clouds: Mapping[str, Sequence[np.ndarray]], dim: str, models: list[str]) -> xr.Dataset:
    """Points ``(2, n)`` by pair and model as one dataset, padded with NaN."""
    length = max(c.shape[1] for own in clouds.values() for c in own)
    result = {}
    for name, own in clouds.items():
        padded = np.full((2, len(own), length), np.nan)
        for i, c in enumerate(own):
            padded[:, i, : c.shape[1]] = c
        result[name] = points_xy(*padded, ["model", dim], {"model": models})
    return xr.Dataset(result)


def as_draws(name: str, item: Any) -> Any:
    """A fit that knows its model as it is, others as draws."""
    if knows_model(item):
        return item
    tree = item.to_datatree() if isinstance(item, Bootstrap) or is_fit(item) else item
    datasets(name, tree, 0.5)  # refuses what is neither
    return tree


def part_of(item: Any, most_draws: int) -> dict[str, Any]:
    """What is drawn of one result: point and covariance of a fit, draws of others; by entry."""
    if knows_model(item):
        covariance = item.covariance()
        names = [n for n in item._estimate.target.space.names]
        values = {e: float(v) for n in names for e, v in entries(item.estimates[n])}
        return {"data": item.estimates[names], "point": values, "covariance": covariance}
    stacked = item["posterior"].to_dataset().stack(sample=["chain", "draw"])
    some = np.unique(np.linspace(0, stacked.sizes["sample"] - 1, most_draws).astype(int))
    few = stacked.isel(sample=some).drop_vars(["sample", "chain", "draw"])
    return {"data": few.isel(sample=0), "draws": few}


def parts_in_common(parts: Mapping[str, Any], var_names, filter_vars, coords) -> list[str]:
    """The entries that all results have and the user wants."""
    first = next(iter(parts.values()))["data"]
    common = [n for n in first.data_vars if all(n in p["data"] for p in parts.values())]
    fits = [p["data"] for p in parts.values() if "point" in p]
    common = [n for n in (fits[0] if fits else first).data_vars if n in common]
    chosen = select(first[common], var_names, filter_vars, coords, "All results together")
    names = [e for array in chosen.data_vars.values() for e, _ in entries(array)]
    for p in parts.values():
        if "draws" in p:
            p["draws"] = dict(e for n in chosen.data_vars for e in entries(p["draws"][n], "sample"))
    for name, p in parts.items():
        missing = [e for e in names if e not in (p["draws"] if "draws" in p else p["point"])]
        if missing:
            raise ValueError(f"'{name}' has no {missing[0]}: its entries have other labels than those of the others.")
    return names


def chosen_pairs(known: list[str], pairs, by_default: bool) -> list[tuple[str, str]]:
    if pairs is not None:
        for entry in [e for pair in pairs for e in pair]:
            if entry not in known:
                raise ValueError(f"pairs: there is no entry '{entry}'; there are {listed(known, 20)}.")
        return [(a, b) for a, b in pairs]
    if len(known) < 2:
        raise ValueError(f"There are no pairs: the only entry is {listed(known)}.")
    if len(known) > MOST_ENTRIES and by_default:
        raise ValueError(
            f"There are {len(known)} entries, too many to draw all pairs: choose by var_names=, coords= or pairs=; "
            f"they are {listed(known, 20)}."
        )
    return list(combinations(known, 2))


def clouds(part: Mapping[str, Any], a: str, b: str, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws, point and ellipse of one pair, each ``(2, points)``."""
    none = np.zeros((2, 0))
    if "draws" in part:
        return np.stack([part["draws"][e].values for e in (a, b)]), none, none
    center = np.array([part["point"][e] for e in (a, b)])
    covariance = part["covariance"]
    if not all(e in covariance["parameter"] for e in (a, b)):  # held
        return none, center[:, None], none
    matrix = covariance.sel(parameter=[a, b], parameter_bis=[a, b]).values
    if not np.all(np.isfinite(matrix)):
        return none, center[:, None], none
    return none, center[:, None], center[:, None] + ellipse(matrix, level)


def ellipse(matrix: np.ndarray, level: float) -> np.ndarray:
    """Points around the origin at which ``x' V^-1 x`` is the quantile of a chi-square with 2 degrees of freedom."""
    values, vectors = np.linalg.eigh(matrix)
    angle = np.linspace(0.0, 2.0 * np.pi, 121)
    circle = np.sqrt(-2.0 * np.log1p(-level)) * np.stack([np.cos(angle), np.sin(angle)])
    return vectors @ (np.sqrt(np.maximum(values, 0.0))[:, None] * circle)
