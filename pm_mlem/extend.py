"""The names that teach the package something new, in one place.

The guide "Extending the package" has a recipe for each group of them. They stay in the rooms that own them and are
imported when they are first asked for: who adds a rule for an operation loads neither JAX nor ArviZ.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pm_mlem.graph.elimination.pieces import Piece, Step, Vector, View, move_sources, scatter_rows, split_twins
    from pm_mlem.graph.lift.core import Context, Lifted, Refusal, Slot, as_lifted, lift_node, materialize, operands
    from pm_mlem.graph.lift.rules_elementwise import refuse_mixing
    from pm_mlem.graph.ops.operations import logsumexp
    from pm_mlem.graph.read import read
    from pm_mlem.graph.roles.domains import domain, unbounded_from
    from pm_mlem.objective.m_step.register import register_m_step
    from pm_mlem.plots.canvas import Canvas, check_elements, panels, points_xy, select

ROOMS = {
    "graph.elimination.pieces": "Piece Step Vector View move_sources scatter_rows split_twins",
    "graph.lift.core": "Context Lifted Refusal Slot as_lifted lift_node materialize operands",
    "graph.lift.rules_elementwise": "refuse_mixing",
    "graph.ops.operations": "logsumexp",
    "graph.read": "read",
    "graph.roles.domains": "domain unbounded_from",
    "objective.m_step.register": "register_m_step",
    "plots.canvas": "Canvas check_elements panels points_xy select",
}
"""What is at home where; type checkers read the same from the imports above."""

__all__ = [
    "Canvas",
    "Context",
    "Lifted",
    "Piece",
    "Refusal",
    "Slot",
    "Step",
    "Vector",
    "View",
    "as_lifted",
    "check_elements",
    "domain",
    "lift_node",
    "logsumexp",
    "materialize",
    "move_sources",
    "operands",
    "panels",
    "points_xy",
    "read",
    "refuse_mixing",
    "register_m_step",
    "scatter_rows",
    "select",
    "split_twins",
    "unbounded_from",
]


def __getattr__(name: str) -> Any:
    for room, names in ROOMS.items():
        if name in names.split():
            return getattr(import_module(f"pm_mlem.{room}"), name)
    raise AttributeError(f"module 'pm_mlem.extend' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
