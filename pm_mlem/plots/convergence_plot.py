"""How the objective rose, iteration by iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_base.labels import BaseLabeller
from arviz_plots.visuals import labelled_x, line_xy, multiple_lines, set_ylim

from pm_mlem.plots.canvas import AesByVisuals, Canvas, Visuals, check_elements, panels, points_xy
from pm_mlem.results.reported import knows_model

ELEMENTS = ("line", "starts", "title", "xlabel", "legend")
GAP = "log10 of the distance to the best"
"""Its own logarithm: only matplotlib's axes of ArviZ have a logarithmic scale."""


def plot_convergence(
    fits,
    *,
    starts: bool = True,
    plot_collection: azp.PlotCollection | None = None,
    backend: str | None = None,
    labeller: BaseLabeller | None = None,
    aes_by_visuals: AesByVisuals = None,
    visuals: Visuals = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """The objective by iteration, and how far it is from the best value seen (logarithmic).

    The run that was kept is a thick line, other starts are thin ones. A straight line on the right is linear
    convergence (EM), one that bends down is faster (Newton), one that levels off ended at a local optimum.

    Parameters
    ----------
    fits : Fit or dict of {name: Fit}
    starts : bool
        Whether to draw the starts that were not kept.
    plot_collection : PlotCollection, optional
        Where to draw. Default: a new one.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    labeller : labeller of ArviZ, optional
        For the titles.
    aes_by_visuals : dict, optional
        The aesthetics of each element. Default: ``color`` (the fits) for ``line`` and ``starts``.
    visuals : dict, optional
        Properties of (or False to leave out) ``line``, ``starts``, ``title``, ``xlabel``, ``legend``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection

    Raises
    ------
    ValueError
        An empty dictionary, or an element that the plot does not have.
    TypeError
        Something that is no fit.
    """
    fits = checked(fits)
    check_elements(ELEMENTS, visuals, aes_by_visuals)
    kept, others = curves(fits)
    pc = panels(
        kept, width=5.0, height=3.4, aes={"color": ["model"]}, plot_collection=plot_collection, backend=backend,
        pc_kwargs=pc_kwargs,
    )  # fmt: skip
    canvas = Canvas(pc, visuals, aes_by_visuals)
    if starts and others.sizes["start"]:
        canvas.draw("starts", multiple_lines, others, aes=["color"], x_dim="iteration", width=0.8, alpha=0.35)
    lines = kept.map(lambda a: points_xy(a["iteration"], a, a.dims, a.coords), keep_attrs=False)
    canvas.draw("line", line_xy, lines, aes=["color"], width=2.0)
    clip(canvas, kept)
    canvas.title(kept, labeller)
    canvas.text("xlabel", labelled_x, kept, "iteration")
    if len(fits) > 1:
        canvas.legend("model", title="")
    return pc


def clip(canvas: Canvas, kept: xr.Dataset) -> None:
    """Show the range of the runs that were kept: hopeless starts would hide it."""
    name = next(n for n in kept.data_vars if n != GAP)
    values = kept[name].values[np.isfinite(kept[name].values)]
    margin = 0.05 * np.ptp(values) or 1e-3 * (1.0 + abs(values[0]))
    limits = (float(values.min() - 3 * margin), float(values.max() + margin))
    canvas.collection.map(set_ylim, "ylim", data=kept[[name]], limits=limits, ignore_aes="all", store_artist=False)


def checked(fits) -> Mapping[str, Any]:
    fits = fits if isinstance(fits, Mapping) else {"fit": fits}
    if not fits:
        raise ValueError("Pass a fit or a dictionary {name: fit} with at least one entry.")
    for name, fit in fits.items():
        if not knows_model(fit):
            raise TypeError(f"'{name}' must be an mlem.Fit, not {type(fit).__name__}: draws have no history.")
    return fits


def curves(fits: Mapping[str, Any]) -> tuple[xr.Dataset, xr.Dataset]:
    """Objective and distance to the best value of all runs of the same estimator, padded with NaN.

    First of the runs that were kept, then of the others along ``start``.
    """
    kept = [history_of(fit.history) for fit in fits.values()]
    others = [other_starts(fit) for fit in fits.values()]
    estimators = [fit.estimator for fit in fits.values()]
    best = {
        e: max(h.max() for h, own in zip(kept, estimators, strict=True) if own == e) for e in estimators
    }  # fmt: skip
    name = {("map",): "log-posterior", ("mle",): "log-likelihood"}.get(tuple(sorted(best)), "objective")
    top = np.array([best[e] for e in estimators])
    length = max(*map(len, kept), *(o.shape[1] for o in others))
    runs = np.stack([padded(h[None], 1, length)[0] for h in kept])
    rest = np.stack([padded(o, max(len(o) for o in others), length) for o in others])
    coords = {"model": list(fits), "iteration": np.arange(length)}
    return (
        dataset(name, ("model", "iteration"), runs, top[:, None], coords),
        dataset(name, ("model", "start", "iteration"), rest, top[:, None, None], coords),
    )


def dataset(name: str, dims, value: np.ndarray, top: np.ndarray, coords) -> xr.Dataset:
    gap = np.maximum(top - value, 1e-12 * (1.0 + np.abs(top)))
    return xr.Dataset({name: (dims, value), GAP: (dims, np.log10(gap))}, coords=coords)


def history_of(history: xr.Dataset) -> np.ndarray:
    return next(iter(history.data_vars.values())).values


def other_starts(fit) -> np.ndarray:
    """Histories of the starts that were not kept, ``(starts, iterations)``; infinite values are not drawn."""
    rows, kept = history_of(fit.start_history), history_of(fit.history)
    same = [np.array_equal(row[np.isfinite(row)], kept[np.isfinite(kept)]) for row in rows]
    chosen = [i for i in range(len(rows)) if i != (same.index(True) if True in same else -1)]
    return np.where(np.isfinite(rows[chosen]), rows[chosen], np.nan)


def padded(rows: np.ndarray, count: int, length: int) -> np.ndarray:
    result = np.full((count, length), np.nan)
    result[: rows.shape[0], : rows.shape[1]] = rows
    return result
