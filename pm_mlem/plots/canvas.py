"""What the plots share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

import arviz_plots as azp
import numpy as np
import xarray as xr
from arviz_base import rcParams
from arviz_base.labels import BaseLabeller
from arviz_plots.visuals import labelled_title

Visuals = Mapping[str, Mapping[str, Any] | bool] | None
AesByVisuals = Mapping[str, Sequence[str]] | None
NOT_ENTRIES = ("model", "column")
"""Dimensions that plots add to those of a variable."""
ADDED = ("model", "replicate", "iteration", "chain", "draw")
"""Dimensions along which a variable has several values."""


# --- what the user asked for ------------------------------------------------------------------------------


def select(
    data: xr.Dataset,
    var_names: str | Sequence[str] | None = None,
    filter_vars: str | None = None,
    coords: Mapping[str, Any] | None = None,
    owner: str = "The fit",
) -> xr.Dataset:
    """Some variables and entries of a dataset, by the conventions of ArviZ.

    Parameters
    ----------
    var_names : names, or "~name" for all but that one
    filter_vars : {None, "like", "regex"}
        Names are exact, parts of names, or regular expressions.
    coords : labels by dimension; variables without that dimension are kept whole
    owner : whose variables they are, for the message

    Raises
    ------
    ValueError
        There is no such variable, dimension or label.
    """
    names = list(map(str, data.data_vars))
    if var_names is not None:
        names = matching(names, [var_names] if isinstance(var_names, str) else var_names, filter_vars, owner)
    chosen = data[names]
    for dim, labels in (coords or {}).items():
        if dim not in chosen.dims:
            raise ValueError(f"coords: there is no dimension '{dim}' here; there are {listed(chosen.dims)}.")
        wanted = labels if isinstance(labels, slice) or np.ndim(labels) else [labels]
        try:
            chosen = chosen.sel({dim: wanted})
        except KeyError as error:
            known = listed(chosen[dim].values.tolist())
            raise ValueError(f"coords: '{dim}' has no label {error}; it has {known}.") from error
    return chosen


def matching(names: Sequence[str], wanted: Sequence[str], filter_vars: str | None, owner: str) -> list[str]:
    tests: dict[str | None, Callable[[str, str], Any]] = {
        None: str.__eq__,
        "like": lambda pattern, name: pattern in name,
        "regex": re.search,
    }
    if filter_vars not in tests:
        raise ValueError(f"filter_vars={filter_vars!r} is unknown; use None, 'like' or 'regex'.")
    kept, left_out = [], set()
    for pattern in wanted:
        negated = pattern.startswith("~") and pattern not in names
        found = [n for n in names if tests[filter_vars](pattern[negated:], n)]
        if not found:
            raise ValueError(f"{owner} has no variable '{pattern[negated:]}'; it has {listed(names)}.")
        left_out.update(found) if negated else kept.extend(found)
    return [n for n in dict.fromkeys(kept or names) if n not in left_out]


def listed(names: Collection[Any], most: int = 10) -> str:
    """Names for a message."""
    if not names:
        return "none"
    return ", ".join(repr(n) for n in list(names)[:most]) + (", ..." if len(names) > most else "")


def visual(visuals: Visuals, name: str, **defaults) -> dict[str, Any] | bool:
    """Properties of one visual element; False if the user switched it off."""
    given = (visuals or {}).get(name, {})
    if given is False:
        return False
    return {**defaults, **(given if isinstance(given, Mapping) else {})}


def check_elements(elements: Collection[str], *given: Mapping[str, Any] | None) -> None:
    """Refuse names of visual elements that a plot does not have."""
    for name in [name for mapping in given for name in mapping or {}]:
        if name not in elements:
            raise ValueError(f"The plot has no visual element '{name}'; it has {listed(elements, len(elements))}.")


# --- drawing ----------------------------------------------------------------------------------------------


GREY = "#a0a0a0"
"""What is neither a method nor a state; the colours of the cycles differ between backends."""


@dataclass(frozen=True)
class Canvas:
    """A plot collection and the wishes of the user about its visual elements.

    ``aes_by_visuals`` are the aesthetics that apply to each element, where the user has any wishes about that.
    """

    collection: azp.PlotCollection
    visuals: Visuals = None
    aes_by_visuals: AesByVisuals = field(default=None)

    def wants(self, element: str) -> bool:
        return visual(self.visuals, element) is not False

    def draw(
        self, element: str, function: Callable, data: xr.Dataset, *, aes: Sequence[str] = (), keep: bool = True, **more
    ) -> None:
        """Draw one element of all panels; ``more`` are its properties unless the user or an aesthetic sets them.

        ``keep`` is whether the artists are stored under the element's name.
        """
        options = visual(self.visuals, element)
        if isinstance(options, bool):
            return
        aes = (self.aes_by_visuals or {}).get(element, aes)
        given = self.collection.aes_set
        defaults = {k: v for k, v in more.items() if k not in given or k not in aes}
        ignored = set(given) - set(aes)
        self.collection.map(
            function, element, data=data, ignore_aes=ignored, store_artist=keep, **{**defaults, **options}
        )

    def title(self, data: xr.Dataset, labeller: BaseLabeller | None = None) -> None:
        """The variable (and its entry) above every panel."""
        self.draw("title", labelled_title, data, subset_info=True, labeller=labeller or EntryNames())

    def text(self, element: str, function: Callable, data: xr.Dataset, texts: str | Mapping[str, str]) -> None:
        """A label at an axis: the same for all panels, or by variable."""
        texts = {str(name): texts for name in data.data_vars} if isinstance(texts, str) else texts
        for name, text in texts.items():
            self.draw(element, function, data[[name]], keep=False, text=text)

    def legend(self, dim: str, **options) -> None:
        """A legend, if something in the collection goes by that dimension."""
        if not any(dim in part.dataset.dims for part in self.collection.aes.children.values()):
            return
        given = visual(self.visuals, "legend", **options)
        if not isinstance(given, bool):
            self.collection.add_legend(dim, **given)

    @property
    def module(self) -> ModuleType:
        return backend_module(self.collection)

    def size(self, points: float) -> float:
        """The size of a marker, given as in matplotlib (an area): ArviZ takes it for a width in bokeh."""
        if self.collection.backend == "bokeh":
            return 1.6 * math.sqrt(points)
        return 2.0 * points if self.collection.backend == "plotly" else points


def panels(
    data: xr.Dataset,
    *,
    width: float,
    height: float,
    col_wrap: int | None = None,
    dims: Sequence[str] = (),
    aes: Mapping[str, Sequence[str]] | None = None,
    plot_collection: azp.PlotCollection | None = None,
    backend: str | None = None,
    pc_kwargs: Mapping[str, Any],
) -> azp.PlotCollection:
    """A panel for every variable and every label of ``dims``, each of a size in inches; or the collection given."""
    if plot_collection is not None:
        return plot_collection
    count = sum(math.prod(array.sizes[d] for d in dims if d in array.dims) for array in data.data_vars.values())
    columns = min(count, col_wrap or count)
    options = {"cols": ["__variable__", *dims], "col_wrap": columns, "aes": dict(aes or {}), **pc_kwargs}
    size = figure_kwargs(backend, columns, -(-count // columns), width, height)
    options["figure_kwargs"] = {**size, **pc_kwargs.get("figure_kwargs", {})}
    return azp.PlotCollection.wrap(data, backend=backend, **options)


def backend_module(pc: azp.PlotCollection) -> ModuleType:
    """The arviz-plots functions of the backend that a collection was made with."""
    return import_module(f"arviz_plots.backend.{pc.backend}")


def figure_kwargs(backend: str | None, columns: int, rows: int, width: float, height: float) -> dict[str, Any]:
    """Size of a figure of panels given in inches; a layout that leaves room for titles and the legend."""
    name = rcParams["plot.backend"] if backend is None else backend
    size = (width * columns, height * rows + 0.3)
    if name == "matplotlib":
        return {"figsize": size, "layout": "constrained"}
    if name == "plotly":  # its margins are inside
        size = (size[0] + 0.8, size[1] + 1.4)
    return {"figsize": (100.0 * size[0], 100.0 * size[1]), "figsize_units": "dots"}


# --- data -------------------------------------------------------------------------------------------------


def points_xy(x, y, dims: Sequence[str], coords: Mapping[str, Any] | None = None) -> xr.DataArray:
    """Points with ``plot_axis`` in front, as ``line_xy`` and ``scatter_xy`` want them."""
    x, y = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
    return xr.DataArray(
        np.stack([x, y]), dims=("plot_axis", *dims), coords={"plot_axis": ["x", "y"], **(coords or {})}
    )  # fmt: skip


def entries(array: xr.DataArray, *others: str) -> Iterator[tuple[str, xr.DataArray]]:
    """The entries of a variable by their names as in ``summary()``: "mu[a]"; ``others`` are no entry's dimensions."""
    dims = [d for d in array.dims if d not in (*NOT_ENTRIES, *others)]
    for index in np.ndindex(*[array.sizes[d] for d in dims]):
        part = array.isel(dict(zip(dims, index, strict=True)))
        labels = [part.coords[d].item() if d in part.coords else i for d, i in zip(dims, index, strict=True)]
        yield entry_name(str(array.name), labels), part.drop_vars(dims, errors="ignore")


def entry_name(name: str, labels: Sequence[Any]) -> str:
    return f"{name}[{', '.join(map(str, labels))}]" if len(labels) else name


def reference_of(data: xr.Dataset, values: Mapping[str, Any] | None) -> dict[str, xr.DataArray]:
    """Values to compare with, by variable with the labels of its entries; NaN where there are none.

    Raises
    ------
    ValueError
        A variable that is not drawn, or values of another shape.
    """
    given = {str(name): value for name, value in (values or {}).items()}
    select(data, list(given) or None, owner="The plot")
    result = {}
    for name, array in data.data_vars.items():
        one = array.isel({d: 0 for d in array.dims if d in ADDED}, drop=True)
        value = given.get(str(name), np.nan)
        try:
            if isinstance(value, xr.DataArray):
                value = value.sel({d: one[d] for d in one.dims}).transpose(*one.dims).values
            value = np.broadcast_to(np.asarray(value, dtype=float), one.shape)
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"reference: the values of '{name}' must be a number or an array of shape {one.shape} ({error})."
            ) from error
        result[str(name)] = xr.DataArray(value, dims=one.dims, coords={d: one[d] for d in one.dims}, name=name)
    return result


class EntryNames(BaseLabeller):
    """A labeller that names panels as ``summary()`` names its rows: "mu[a]"."""

    def make_label_vert(self, var_name, sel, isel):
        return entry_name(str(var_name), [v for d, v in sel.items() if d not in NOT_ENTRIES])
