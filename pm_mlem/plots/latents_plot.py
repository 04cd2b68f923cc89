"""What the data say about the latent state of each unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_base.labels import BaseLabeller
from arviz_plots.visuals import labelled_x, line_xy, scatter_xy, step_hist

from pm_mlem.graph.tables.units import units_of_elements
from pm_mlem.plots.canvas import GREY, AesByVisuals, Canvas, Visuals, check_elements, listed, panels, points_xy, select
from pm_mlem.plots.density_plot import histogram
from pm_mlem.results.latents import observed_at

ELEMENTS = (
    "probability", "component", "density", "histogram", "observation", "series", "path", "title", "xlabel", "legend",
)  # fmt: skip
PATH = "most probable path"
MOST_SEQUENCES = 4


def plot_latents(
    fit,
    *,
    var_name: str | None = None,
    over: Literal["auto", "value", "position"] = "auto",
    coords: Mapping[str, Any] | None = None,
    plot_collection: azp.PlotCollection | None = None,
    backend: str | None = None,
    labeller: BaseLabeller | None = None,
    aes_by_visuals: AesByVisuals = None,
    visuals: Visuals = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """Posterior probabilities of a latent's states, given the data and the estimates.

    Where one observed number belongs to each element of the latent, the probabilities are drawn over it, below
    the data's histogram and the fitted density of every component (its weight times its density) and of their
    sum. Where the elements of the latent hang together (a hidden Markov model) they are drawn over time, between the
    observed series, in the colours of the decoded states, and the most probable path (:meth:`Fit.decode`); each
    sequence has a column. The probabilities of a latent with a single element (a change point) are drawn over its
    states. Otherwise they are drawn over the element's position.

    Parameters
    ----------
    fit : Fit
    var_name : str, optional
        The latent; default: the first one. Of the latents of a python loop, any.
    over : {"auto", "value", "position"}
        What the horizontal axis is.
    coords : dict, optional
        Labels by dimension: the elements to draw, of many sequences say. Default: all elements, of the first four
        sequences.
    plot_collection : PlotCollection, optional
        Where to draw. Default: a new one.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    labeller : labeller of ArviZ, optional
        For the titles.
    aes_by_visuals : dict, optional
        The aesthetics of each element. Default: ``color`` (the states) for ``probability``, ``component`` and
        ``observation``.
    visuals : dict, optional
        Properties of (or False to leave out) ``probability``, ``component``, ``density``, ``histogram``;
        over time ``series``, ``observation`` and ``path``; ``title``, ``xlabel``, ``legend``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection

    Raises
    ------
    ValueError
        The model has no latent of that name, or no number belongs to each of its elements with ``over="value"``.
    """
    check_elements(ELEMENTS, visuals, aes_by_visuals)
    if over not in ("auto", "value", "position"):
        raise ValueError(f"over={over!r} is unknown; use 'auto', 'value' or 'position'.")
    item = read(fit, pick(fit, var_name), coords)
    if over == "value" and item.observed is None:
        raise ValueError(f"There is no single observed number for each element of '{item.name}'; use over='position'.")
    by_value = item.observed is not None and (over == "value" or (over == "auto" and item.time is None))
    single = item.probability.size == len(item.states)
    draw = draw_by_value if by_value else draw_by_state if single else draw_by_position
    common = dict(aes={"color": ["state"]}, plot_collection=plot_collection, backend=backend, pc_kwargs=pc_kwargs)
    canvas, data, text = draw(fit, item, common, visuals, aes_by_visuals)
    canvas.title(data, labeller)
    last = list(data.data_vars)[-1:] if over_time(data) else list(data.data_vars)
    canvas.text("xlabel", labelled_x, data[last], text)
    canvas.legend("state", title=item.name)
    return canvas.collection


# --- what is drawn ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Chosen:
    """A latent, as it is drawn.

    Attributes
    ----------
    name : of the latent
    probability : of its states, the dimension ``state`` last; ``path`` the states that are jointly most probable, by
        their positions
    observed, variable : the number observed for each element, if there is one, and whose it is
    time : the dimension along which the elements hang together, if they do
    whole : whether all elements are there
    """

    name: str
    probability: xr.DataArray
    path: xr.DataArray
    observed: xr.DataArray | None
    variable: str
    time: str | None
    whole: bool

    @property
    def states(self) -> list[str]:
        return [str(s) for s in self.probability["state"].values]

    @property
    def label(self) -> str:
        return f"p({self.name} | data)"


def over_time(data: xr.Dataset) -> bool:
    return PATH in data


def pick(fit, var_name: str | None) -> str:
    names = list(fit.latent_probabilities.data_vars)
    if not names:
        raise ValueError("The model has no discrete latent variable.")
    if var_name is None:
        return str(names[0])
    if var_name not in names:
        raise ValueError(f"The model has no latent '{var_name}'; it has {listed(names)}.")
    return var_name


def read(fit, name: str, coords: Mapping[str, Any] | None) -> Chosen:
    tables = fit._estimate.target.tables
    structure = tables.structure
    index, latent = structure.vector_of(name)
    members = [structure.latents[i] for i in structure.vectors[index].latents]
    if len(members) > 1 and latent.n_elements == 1 and not latent.shape:  # a python loop over scalars
        parts = [fit.latent_probabilities[m.name].rename({f"{m.name}_state": "state"}) for m in members]
        probability = xr.concat(parts, "step", coords="minimal", compat="override")
        path = xr.concat([fit.decode()[m.name] for m in members], "step", coords="minimal", compat="override")
        name = f"{members[0].name} ... {members[-1].name}"
    else:
        members = [latent]
        probability = fit.latent_probabilities[name].rename({f"{name}_state": "state"})
        path = fit.decode()[name]
    found = observed_at(tables, index, [m.base + i for m in members for i in range(m.n_elements)])
    observed = None if found is None else path.copy(data=found[1].reshape(path.shape))
    chosen = {"probability": probability, "path": path - latent.lower}
    chosen |= {} if observed is None else {"observed": observed}
    time = time_of(tables, members, path)
    if coords:
        chosen = dict(select(xr.Dataset(chosen), coords=coords, owner="The latent").data_vars)
    elif time is not None:
        chosen = {k: v.isel({d: slice(MOST_SEQUENCES) for d in v.dims if d not in (time, "state")})
                  for k, v in chosen.items()}  # fmt: skip
    return Chosen(
        name, chosen["probability"].transpose(..., "state"), chosen["path"], chosen.get("observed"),
        "" if found is None else found[0], time, not coords,
    )  # fmt: skip


def time_of(tables, members, path: xr.DataArray) -> str | None:
    """The dimension along which the elements of latents share their unit, if there is one."""
    units = units_of_elements(tables, np.arange(sum(tables.elimination.sizes)))
    unit = np.concatenate([units[m.base : m.base + m.n_elements] for m in members])
    if any(m.joined for m in members) or unit.size != path.size:
        return None
    unit = unit.reshape(path.shape)
    shared = [d for axis, d in enumerate(path.dims) if path.sizes[d] > 1 and np.all(unit == unit.take([0], axis))]
    return str(shared[-1]) if shared else None


# --- over the observed value ------------------------------------------------------------------------------


def draw_by_value(fit, item: Chosen, common, visuals, aes_by_visuals):
    observed = item.observed
    assert observed is not None
    x = observed.values.ravel().astype(float)
    order = np.argsort(x, kind="stable")
    coords = {"state": item.states, "unit": np.arange(len(x))}
    probability = item.probability.values.reshape(len(x), -1)[order].T
    joint = fit._estimate.joint_density(item.name) if item.whole and item.time is None else None
    shown = {}
    if joint is not None:
        shown["density"] = points_xy(x[order], joint.reshape(joint.shape[0], -1)[:, order], ["state", "unit"], coords)
    shown[item.label] = points_xy(x[order], probability, ["state", "unit"], coords)
    data = xr.Dataset(shown)
    pc = panels(data, width=7.5, height=2.6, col_wrap=1, **common)
    canvas = Canvas(pc, visuals, aes_by_visuals)
    if joint is not None:
        draw_density(canvas, data[["density"]], x)
    canvas.draw("probability", scatter_xy, data[[item.label]], aes=["color"], size=canvas.size(12))
    return canvas, data, item.variable


def draw_density(canvas: Canvas, data: xr.Dataset, x: np.ndarray) -> None:
    heights, edges = np.histogram(x, bins=min(40, max(10, len(x) // 12)), density=True)
    bars = histogram(heights, edges[:-1], edges[1:]).to_dataset(name="density")
    canvas.draw("histogram", step_hist, bars, color=GREY, alpha=0.6)
    canvas.draw("component", line_xy, data, aes=["color"])
    total = data.sum("state")
    total["density"].loc[{"plot_axis": "x"}] = data["density"].isel(state=0).sel(plot_axis="x")
    canvas.draw("density", line_xy, total, color="B1", linestyle="C1")


# --- over the states --------------------------------------------------------------------------------------


def draw_by_state(fit, item: Chosen, common, visuals, aes_by_visuals):
    """The distribution of a single element: there is nothing to colour."""
    states = item.probability["state"].values
    numbers = states.dtype.kind in "iuf"
    x = states.astype(float) if numbers else np.arange(len(states), dtype=float)
    data = points_xy(x, item.probability.values.ravel(), ["state"]).to_dataset(name=item.label)
    pc = panels(data, width=7.5, height=2.6, col_wrap=1, **(common | {"aes": {}}))
    canvas = Canvas(pc, visuals, aes_by_visuals)
    canvas.draw("series", line_xy, data, color=GREY, alpha=0.5, width=0.8)
    canvas.draw("probability", scatter_xy, data, color="C0", size=canvas.size(14))
    if not numbers:
        canvas.module.xticks(x, item.states, pc.get_target(item.label, {}))
    return canvas, data, item.name


# --- over time --------------------------------------------------------------------------------------------


def draw_by_position(fit, item: Chosen, common, visuals, aes_by_visuals):
    time, path, probability = item.time, item.path, item.probability
    if time is None or probability.ndim != path.ndim + 1 or time not in path.dims:
        time = "element"
        probability = (
            probability.stack({time: path.dims}) if path.ndim != 1 else probability.rename({path.dims[0]: time})
        )
        path = path.stack({time: path.dims}) if path.ndim != 1 else path.rename({path.dims[0]: time})
        probability, path = (a.drop_vars([*a.coords.keys() - {"state"}]) for a in (probability, path))
    others = [str(d) for d in path.dims if d != time]
    x = axis_of(path, time)
    coords = {d: path.coords[d] for d in others if d in path.coords}
    probability = probability.transpose(*others, "state", time)
    states = {"state": item.states}
    dims = [*others, "state", "time"]
    shown = {item.label: points_xy(x, probability.values, dims, {**coords, **states})}
    series = None
    if item.time is not None:
        own = path.transpose(*others, time).values
        if item.observed is not None:
            series = item.observed.transpose(*others, time).values.astype(float)
            of_state = np.where(own[..., None, :] == np.arange(len(item.states))[:, None], series[..., None, :], np.nan)
            shown = {item.variable: points_xy(x, of_state, dims, {**coords, **states}), **shown}
        shown[PATH] = points_xy(x, np.broadcast_to(own[..., None, :], probability.shape), dims, {**coords, **states})
    data = xr.Dataset(shown)
    columns = int(np.prod([path.sizes[d] for d in others])) if others else 1
    pc = panels(data, width=7.5 if columns == 1 else 4.0, height=1.9 if item.time is not None else 2.6,
                col_wrap=columns, dims=others, **common)  # fmt: skip
    canvas = Canvas(pc, visuals, aes_by_visuals)
    if series is not None:
        whole = points_xy(x, series, [*others, "time"], coords).to_dataset(name=item.variable)
        canvas.draw("series", line_xy, whole, color=GREY, alpha=0.5, width=0.8)
        canvas.draw("observation", scatter_xy, data[[item.variable]], aes=["color"], size=canvas.size(10))
    if item.time is None:
        canvas.draw("probability", scatter_xy, data[[item.label]], aes=["color"], size=canvas.size(12))
        return canvas, data, "element"
    canvas.draw("probability", line_xy, data[[item.label]], aes=["color"], width=1.5)
    draw_path(canvas, data[[PATH]].isel(state=0, drop=True), item.states)
    return canvas, data, "time" if str(time) == f"{item.name}_dim_{path.ndim - 1}" else str(time)


def draw_path(canvas: Canvas, path: xr.Dataset, states: Sequence[str]) -> None:
    """The states over time, as steps."""
    x, y = path[PATH].sel(plot_axis="x"), path[PATH].sel(plot_axis="y")
    half = 0.5 * (float(x.diff("time").min()) if x.sizes["time"] > 1 else 1.0)
    corners = np.stack([x.values - half, x.values + half], axis=-1).reshape(*x.shape[:-1], -1)
    dims = [d for d in y.dims if d != "time"]
    steps = points_xy(corners, np.repeat(y.values, 2, axis=-1), [*dims, "time"], {d: y.coords[d] for d in dims})
    canvas.draw("path", line_xy, steps.to_dataset(name=PATH), color="B1", width=1.2)
    if canvas.wants("path"):
        canvas.collection.map(
            state_ticks, "ticks", data=path, module=canvas.module, states=states, ignore_aes="all", store_artist=False
        )


def state_ticks(da, target, *, module, states: Sequence[str]):
    module.yticks(np.arange(len(states), dtype=float), list(states), target)
    module.ylim((-0.3, len(states) - 0.7), target)


def axis_of(path: xr.DataArray, time: str) -> np.ndarray:
    """Positions along the time axis: its labels where these are numbers."""
    labels = path.coords[time].values if time in path.coords else np.arange(path.sizes[time])
    return labels.astype(float) if labels.dtype.kind in "iuf" else np.arange(len(labels), dtype=float)
