"""What the plots share."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import arviz_plots as azp
from arviz_base import rcParams


def visual(visuals: Mapping[str, Mapping[str, Any] | bool] | None, name: str, **defaults) -> dict[str, Any] | bool:
    """Properties of one visual element; False if the user switched it off."""
    given = (visuals or {}).get(name, {})
    if given is False:
        return False
    return {**defaults, **(given if isinstance(given, Mapping) else {})}


def backend_module(pc: azp.PlotCollection) -> ModuleType:
    """The arviz-plots functions of the backend that a collection was made with."""
    return import_module(f"arviz_plots.backend.{pc.backend}")


def figure_kwargs(backend: str | None, columns: int, rows: int, width: float, height: float) -> dict[str, Any]:
    """Size of a figure of panels given in inches; a layout that leaves room for titles and the legend."""
    name = rcParams["plot.backend"] if backend is None else backend
    size = (width * columns, height * rows + 0.3)
    if name == "matplotlib":
        return {"figsize": size, "layout": "constrained"}
    return {"figsize": (100.0 * size[0], 100.0 * size[1]), "figsize_units": "dots"}


class VariableNames:
    """A labeller for panel titles: the variable's name."""

    def make_label_vert(self, var_name, sel, isel):
        return var_name
