"""Estimates and intervals of several methods, one panel a variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_plots.visuals import labelled_title, line_x, scatter_x

from pm_mlem.compare import as_mapping, datasets
from pm_mlem.plots.utils import VariableNames, backend_module, figure_kwargs, visual


def plot_estimates(
    results: Mapping[str, Any],
    *,
    var_names: Sequence[str] | None = None,
    level: float = 0.95,
    inner_level: float = 0.5,
    col_wrap: int = 3,
    backend: str | None = None,
    visuals: Mapping[str, Mapping[str, Any] | bool] | None = None,
    **pc_kwargs,
) -> azp.PlotCollection:
    """Forest plot of point estimates and intervals, each variable on its own scale.

    Parameters
    ----------
    results : dict
        Name of the method -> :class:`pm_mlem.Fit`, or a DataTree with a ``posterior`` group.
    var_names : sequence of str, optional
        Default: the variables that all results share and that are not as large as the data.
    level, inner_level : float
        Coverage of the thin and of the thick interval (Wald for fits, equal-tailed for draws).
    col_wrap : int
        Panels in a row.
    backend : {"matplotlib", "plotly", "bokeh", "none"}, optional
    visuals : dict, optional
        Properties of (or False to leave out) ``twig``, ``trunk``, ``point``, ``title``, ``legend``.
    **pc_kwargs
        Passed to :meth:`arviz_plots.PlotCollection.wrap`.

    Returns
    -------
    arviz_plots.PlotCollection
    """
    results = as_mapping(results)
    names = common_variables(results, level) if var_names is None else list(var_names)
    point = stack({k: datasets(k, v, level, names)[0] for k, v in results.items()})
    twig = stack({k: datasets(k, v, level, names)[2] for k, v in results.items()})
    trunk = stack({k: datasets(k, v, inner_level, names)[2] for k, v in results.items()})
    heights = positions(point)
    rows = max(1, *[int(h.max()) + 1 for h in heights.values()])
    size = figure_kwargs(backend, min(len(names), col_wrap), -(-len(names) // col_wrap), 3.6, 0.8 + 0.36 * rows)
    pc_kwargs.setdefault("aes", {"color": ["model"]})
    pc = azp.PlotCollection.wrap(
        point, cols=["__variable__"], col_wrap=col_wrap, backend=backend,
        **{"figure_kwargs": size, **pc_kwargs},
    )  # fmt: skip
    pc.update_aes_from_dataset("y", heights)
    for name, data, width in (("twig", twig, 1.0), ("trunk", trunk, 3.0)):
        options = visual(visuals, name, width=width)
        if options is not False:
            pc.map(line_x, name, data=data, **options)
    options = visual(visuals, "point", size=30 if pc.backend == "matplotlib" else 9)
    if options is not False:
        pc.map(scatter_x, "point", data=point, **options)
    options = visual(visuals, "title")
    if options is not False:
        pc.map(
            labelled_title, "title", data=point, subset_info=True, labeller=VariableNames(), ignore_aes="all", **options
        )
    label_rows(pc, point)
    if len(results) > 1 and visual(visuals, "legend") is not False:
        pc.add_legend("model")
    return pc


def common_variables(results: Mapping[str, Any], level: float) -> list[str]:
    found = [list(datasets(name, item, level)[0].data_vars) for name, item in results.items()]
    names = [str(n) for n in found[0] if all(n in other for other in found)]
    if not names:
        raise ValueError("The results have no variable in common.")
    return names


def stack(parts: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """One dataset with the methods along a new dimension ``model``."""
    model = xr.DataArray(list(parts), dims="model", name="model")
    return xr.concat(list(parts.values()), dim=model, join="outer", coords="minimal", compat="override")


def positions(point: xr.Dataset) -> xr.Dataset:
    """Heights: one band an entry, from top to bottom, the methods side by side within it."""
    n_models = point.sizes["model"]
    shift = np.linspace(0.25, -0.25, n_models) if n_models > 1 else np.zeros(1)
    heights = {}
    for name, array in point.data_vars.items():
        dims = [d for d in array.dims if d != "model"]
        shape = tuple(array.sizes[d] for d in dims)
        bands = np.arange(int(np.prod(shape)))[::-1].reshape(shape)
        values = bands[None] + shift.reshape((-1,) + (1,) * len(shape))
        coords = {d: array.coords[d] for d in ["model", *dims]}
        heights[name] = xr.DataArray(values, dims=["model", *dims], coords=coords)
    return xr.Dataset(heights)


def label_rows(pc: azp.PlotCollection, point: xr.Dataset) -> None:
    """Tick labels at the left of every panel."""
    module = backend_module(pc)
    for name, array in point.data_vars.items():
        dims = [d for d in array.dims if d != "model"]
        entries = list(np.ndindex(*[array.sizes[d] for d in dims]))
        labels = [", ".join(str(array.coords[d].values[i]) for d, i in zip(dims, e, strict=True)) for e in entries]
        ticks = np.arange(len(entries))[::-1].astype(float)
        module.yticks(ticks, labels, pc.get_target(name, {}))
