"""EM, step by step: for teaching."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_base.labels import BaseLabeller
from arviz_plots.plot_collection import backend_from_object
from arviz_plots.visuals import labelled_x, line_xy, scatter_xy, set_xlim, set_ylim

from pm_mlem.arguments import checked, names, optional, whole
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

ELEMENTS = (
    "log_likelihood", "bound", "step_log_likelihood", "step_bound", "touch", "estimates", "name", "responsibilities",
    "title", "xlabel",
)  # fmt: skip
MOST_SHOWN = 6
"""Iterations whose responsibilities are drawn."""
LARGE = 12
"""Entries of a variable that is drawn by default."""


@checked(var_names=optional(names), step=optional(whole(0)), col_wrap=whole(1))
def plot_em_steps(
    steps: Iterable[Any],
    *,
    var_names: str | Sequence[str] | None = None,
    filter_vars: str | None = None,
    coords: Mapping[str, Any] | None = None,
    step: int | None = None,
    latent: str | None = None,
    col_wrap: int = 3,
    plot_collection: azp.PlotCollection | None = None,
    backend: str | None = None,
    labeller: BaseLabeller | None = None,
    aes_by_visuals: AesByVisuals = None,
    visuals: Visuals = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """What EM does: how the log-likelihood rises, by which bound, and what becomes of estimates and labels.

    Four kinds of panels. The log-likelihood by iteration, with the bound from each iteration to the next: what the
    M-step gains on the bound, the log-likelihood gains at least. One step in close-up: log-likelihood and bound on the
    straight way (of the unconstrained parameters) from the estimates to the next ones; they touch where the step
    begins. The estimates of every variable by iteration. The responsibilities (probabilities of the last state) at some
    iterations, the last one the darkest, over the observed value where there is one for each element.

    Parameters
    ----------
    steps : iterable of EMStep
        From :func:`pm_mlem.em_steps`.
    var_names : str or sequence of str, optional
        Default: the parameters of up to 12 entries. "~mu" leaves one out.
    filter_vars : {None, "like", "regex"}, optional
        Whether ``var_names`` are names, parts of names or regular expressions.
    coords : dict, optional
        The entries to draw, labels by dimension.
    step : int, optional
        The position of the step in close-up. Default: the one in which the log-likelihood gains most beyond the bound.
    latent : str, optional
        Whose responsibilities. Default: the first latent.
    col_wrap : int
        Panels in a row.
    plot_collection : PlotCollection, optional
        Where to draw. Default: a new one.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    labeller : labeller of ArviZ, optional
        For the titles.
    aes_by_visuals : dict, optional
        The aesthetics of each element. Default: ``color`` (the entries) for ``estimates`` and ``name``, ``alpha`` (the
        iterations) for ``responsibilities``.
    visuals : dict, optional
        Properties of (or False to leave out) ``log_likelihood``, ``bound``, ``step_log_likelihood``, ``step_bound``,
        ``touch`` (the points where the step begins and ends), ``estimates``, ``name`` (of their entries),
        ``responsibilities``, ``title``, ``xlabel``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection

    Raises
    ------
    TypeError
        Something else than steps of EM.
    ValueError
        No steps, a step that there is not, an unknown variable, latent or element.
    """
    check_elements(ELEMENTS, visuals, aes_by_visuals)
    steps = checked_steps(steps, step)
    step = most_beyond(steps) if step is None else step
    kind = "log-likelihood" if steps[0].fit.estimator == "mle" else "log-posterior"
    curves = {
        f"{kind} and bound (dashed)": climb(steps),
        f"the step from iteration {steps[step].iteration}": close_up(steps[step]),
    }
    tracks = tracks_of(steps, var_names, filter_vars, coords)
    labels = responsibilities(steps, latent)
    shown = xr.Dataset({**{n: curves[n][0] for n in curves}, **tracks, **({labels[0]: labels[1]} if labels else {})})
    pc = panels(
        shown, width=4.2, height=3.0, col_wrap=col_wrap, aes={"color": ["entry"]}, plot_collection=plot_collection,
        backend=backend, pc_kwargs=pc_kwargs,
    )  # fmt: skip
    canvas = Canvas(pc, visuals, aes_by_visuals)
    first, second = curves
    for name, elements in ((first, ("log_likelihood", "bound")), (second, ("step_log_likelihood", "step_bound"))):
        for element, data, style in zip(elements, curves[name], ({}, {"linestyle": "C1"}), strict=False):
            color = "C0" if element.endswith("log_likelihood") else "C1"
            canvas.draw(element, line_xy, data.to_dataset(name=name), color=color, width=1.8, **style)
    canvas.draw("touch", scatter_xy, curves[second][2].to_dataset(name=second), color="B1", size=canvas.size(25))
    canvas.draw("estimates", line_xy, xr.Dataset(tracks), aes=["color"], width=1.5)
    canvas.draw("name", names_at_the_end, xr.Dataset(tracks), aes=["color"], keep=False, size=9.0)
    frame(pc, tracks, steps[-1].iteration)
    texts = {first: "iteration", second: "way from these estimates (0) to the next (1)"}
    if labels:
        name, data, text = labels
        alpha = xr.DataArray(np.linspace(0.15, 1.0, data.sizes["shown"]), coords={"shown": data["shown"]}, dims="shown")
        pc.update_aes_from_dataset("alpha", alpha.to_dataset(name=name))
        canvas.draw("responsibilities", line_xy, data.to_dataset(name=name), aes=["alpha"], color="C0", width=1.5)
        texts[name] = text
    canvas.title(shown, labeller)
    canvas.text("xlabel", labelled_x, shown, {**dict.fromkeys(tracks, "iteration"), **texts})
    return pc


def checked_steps(steps: Iterable[Any], step: int | None) -> list[Any]:
    steps = list(steps)
    for item in steps:
        if not all(hasattr(item, a) for a in ("lower_bound", "next_estimates", "iteration")):
            raise TypeError(f"steps must be what mlem.em_steps() yields, not {type(item).__name__}.")
    if not steps:
        raise ValueError("There are no steps: pass mlem.em_steps(model), or a list of its steps.")
    if step is not None and not -len(steps) <= step < len(steps):
        raise ValueError(f"step={step}: there are {len(steps)} steps, from 0 to {len(steps) - 1}.")
    return steps


def most_beyond(steps: Sequence[Any]) -> int:
    """The step in which the log-likelihood rose most above the bound."""
    gaps = [after.log_likelihood - before.lower_bound for before, after in pairwise(steps)]
    return int(np.argmax(gaps)) if gaps else 0


def climb(steps: Sequence[Any]) -> tuple[xr.DataArray, xr.DataArray]:
    """The log-likelihood by iteration, and the bounds from each iteration to the next."""
    t = np.array([s.iteration for s in steps], dtype=float)
    value = np.array([s.log_likelihood for s in steps])
    bound = np.array([s.lower_bound for s in steps])
    x = np.stack([t, t + 1, np.nan * t], axis=-1).ravel()
    y = np.stack([value, bound, np.nan * t], axis=-1).ravel()
    return points_xy(t, value, ["time"]), points_xy(x, y, ["corner"])


def close_up(step) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Log-likelihood and bound along one step, and the points where it begins and ends."""
    way = np.linspace(-0.5, 2.0, 51)
    value, bound = step.along(way)
    touch = points_xy([0.0, 1.0], [step.log_likelihood, step.lower_bound], ["touch"])
    return points_xy(way, finite(value), ["way"]), points_xy(way, finite(bound), ["way"]), touch


def finite(values: Sequence[float]) -> np.ndarray:
    array = np.array(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def tracks_of(steps: Sequence[Any], var_names, filter_vars, coords) -> dict[str, xr.DataArray]:
    """Estimates by iteration, one line an entry."""
    estimates = steps[0].estimates
    parameters = {v.name for v in steps[0].fit.model.free_RVs}
    default = [n for n, a in estimates.data_vars.items() if n in parameters and a.size <= LARGE]
    chosen = select(estimates if var_names is not None else estimates[default], var_names, filter_vars, coords)
    iteration = np.array([s.iteration for s in steps])
    result = {}
    for name, array in chosen.data_vars.items():
        own = [select(s.estimates, [str(name)], coords={d: v for d, v in (coords or {}).items() if d in array.dims})
               for s in steps]  # fmt: skip
        values = np.stack([o[name].values.ravel() for o in own], axis=1)
        labels = [label[len(str(name)) + 1 : -1] for label, _ in entries(array)]
        data = points_xy(iteration, values, ["entry", "iteration"], {"entry": np.arange(len(labels))})
        result[str(name)] = data.assign_coords(label=("entry", labels))
    most = max((a.sizes["entry"] for a in result.values()), default=1)
    return {n: a.reindex(entry=np.arange(most)).drop_vars("label").assign_attrs(labels=a["label"].values.tolist())
            for n, a in result.items()}  # fmt: skip


def frame(pc, tracks: Mapping[str, xr.DataArray], end: int) -> None:
    """Limits of the panels of the estimates, with room for names on the right."""
    pc.map(
        set_xlim, "xlim", data=xr.Dataset(tracks), limits=(-0.05 * end - 0.1, 1.2 * end + 0.2), ignore_aes="all",
        store_artist=False,
    )  # fmt: skip
    for name, track in tracks.items():
        y = track.sel(plot_axis="y").values
        margin = 0.1 * float(np.nanmax(y) - np.nanmin(y)) or 0.1
        limits = (float(np.nanmin(y)) - margin, float(np.nanmax(y)) + margin)
        shape = track.to_dataset(name=name)
        pc.map(set_ylim, "ylim", data=shape, limits=limits, ignore_aes="all", store_artist=False)


def names_at_the_end(da, target, **properties):
    """The name of an entry at the end of its line."""
    y = da.sel(plot_axis="y").values
    labels = da.attrs["labels"]
    entry = int(da["entry"])
    if entry >= len(labels) or not np.isfinite(y[-1]) or not labels[entry]:
        return target
    backend = backend_from_object(target)
    backend.text(float(da.sel(plot_axis="x").values[-1]), float(y[-1]), f" {labels[entry]}", target,
                 horizontal_align="left", vertical_align="bottom", **properties)  # fmt: skip
    return target


def responsibilities(steps: Sequence[Any], latent: str | None) -> tuple[str, xr.DataArray, str] | None:
    """Probabilities of a latent's last state at some iterations, what they are called, and over what they are."""
    names = list(map(str, steps[0].latent_probabilities.data_vars))
    if latent is not None and latent not in names:
        raise ValueError(f"The model has no latent '{latent}'; it has {listed(names)}.")
    if not names:
        return None
    name = latent or names[0]
    some = list(range(len(steps)))
    if len(steps) > MOST_SHOWN:
        some = sorted({round(i) - 1 for i in np.geomspace(1, len(steps), MOST_SHOWN)})
    values = np.stack([steps[i].latent_probabilities[name].values[..., -1].ravel() for i in some])
    state = steps[0].latent_probabilities[name][f"{name}_state"].values[-1]
    x, text = position_of(steps[0].fit, name, values.shape[1])
    order = np.argsort(x, kind="stable")
    data = points_xy(
        x[order], values[:, order], ["shown", "unit"], {"shown": [steps[i].iteration for i in some]}
    )  # fmt: skip
    return f"p({name} = {state} | data)", data, text


def position_of(fit, latent: str, size: int) -> tuple[np.ndarray, str]:
    from pm_mlem.results.latents import observed_at

    tables = fit._estimate.target.tables
    index, item = tables.structure.vector_of(latent)
    found = None if item.joined else observed_at(tables, index, range(item.base, item.base + item.n_elements))
    return (np.arange(size, dtype=float), "element") if found is None else (found[1].astype(float), found[0])
