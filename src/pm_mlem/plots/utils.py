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


def figure_size(backend: str | None, columns: int, rows: int, width: float, height: float) -> tuple[float, float]:
    """Size of a figure of panels given in inches, in the units of the backend."""
    name = rcParams["plot.backend"] if backend is None else backend
    scale = 1.0 if name in ("matplotlib", "none") else 100.0
    return scale * width * columns, scale * (height * rows + 0.4)


class VariableNames:
    """A labeller for panel titles: the variable's name."""

    def make_label_vert(self, var_name, sel, isel):
        return var_name
