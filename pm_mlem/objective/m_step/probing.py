"""How arrays depend on a parameter, from their values at two random points.

The two points differ in one model parameter only. An entry of an array is *selected* from it if it equals (bit for bit,
or through a link) the same one of its entries at both points. Entries that are the same at both points do not depend
on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pytensor.graph.basic import Variable

from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.structure import PLAIN, Parameter
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.objective.m_step.closed_forms import LINKS, Link
from pm_mlem.objective.space import ParameterSpace


class Probing:
    """Values of symbolic arrays at random points of the parameter space, two for each parameter."""

    def __init__(self, tables: ModelTables, space: ParameterSpace, seed: int = 20):
        self.inputs = list(tables.free_inputs)
        self.data = tables.data
        rng = np.random.default_rng(seed)
        self.points = tuple(space.initial + rng.normal(scale=0.3, size=space.size) for _ in range(2))
        self.theta = [list(space.values(u).values()) for u in self.points]
        self.space, self.point = space, self.points[0]

    def pair(self, parameter: Parameter) -> tuple[np.ndarray, np.ndarray]:
        """The two values of a parameter."""
        position = self.space.names.index(parameter.name)
        return self.theta[0][position], self.theta[1][position]

    def spans_unit_interval(self, name: str) -> bool:
        """Whether a parameter takes all values between 0 and 1 and no others."""
        where, bounds = self.space.slices[name], (0.0, 1.0)
        free = self.space.is_free(name)
        if np.prod(self.space.unconstrained_shapes[name], dtype=np.int64) != np.count_nonzero(free):
            return False
        for far, bound in zip((-60.0, 60.0), bounds, strict=True):
            moved = self.point.copy()
            moved[where] = far
            if not np.allclose(self.space.values(moved)[name][free], bound, rtol=0, atol=1e-12):
                return False
        return True

    def evaluate(self, array: Variable, parameter: Parameter) -> list[np.ndarray]:
        """An array at the two points of a parameter."""
        position = self.space.names.index(parameter.name)
        first, second = list(self.theta[0]), list(self.theta[0])
        second[position] = self.theta[1][position]
        names = [v for v, _ in self.data]
        run = function([*self.inputs, *names], array, mode=PLAIN, on_unused_input="ignore")
        with np.errstate(all="ignore"):
            return [run(*theta, *[a for _, a in self.data]) for theta in (first, second)]


def selection(
    tables: Sequence[np.ndarray], theta: Sequence[np.ndarray], link: Link = LINKS[0], rtol: float | None = None
) -> np.ndarray | None:
    """For each entry of a table the flat position of the parameter entry it equals at both points.

    -1 where the entry does not depend on the parameter; None if any entry depends on it in another way, or none does.
    """
    rtol = link.rtol if rtol is None else rtol
    flat = [np.ravel(t) for t in theta]
    order = np.argsort(flat[0], kind="stable")
    ranked = flat[0][order]
    tables = [np.asarray(t, dtype=float) for t in tables]
    values = [np.asarray(link.user(t), dtype=float) for t in tables]
    place = np.clip(np.searchsorted(ranked, values[0]), 0, len(ranked) - 1)
    if rtol:
        left = np.clip(place - 1, 0, None)
        place = np.where(np.abs(ranked[left] - values[0]) < np.abs(ranked[place] - values[0]), left, place)
    index = order[place]
    matches = np.all(
        [np.abs(f[index] - v) <= rtol * np.abs(f[index]) for f, v in zip(flat, values, strict=True)], axis=0
    )
    unmoved = tables[0] == tables[1]
    if not np.all(matches | unmoved) or np.all(unmoved):
        return None
    return np.where(unmoved, -1, index)


def linked_selection(tables: Sequence, theta: Sequence[np.ndarray]) -> tuple[Link, list[np.ndarray]] | None:
    """The link through which all tables select entries of a parameter, and their selection maps."""
    for link in LINKS:
        indices = []
        for values in tables:
            with np.errstate(all="ignore"):
                index = selection(values, theta, link)
            if index is None:
                break
            indices.append(index)
        else:
            return link, indices
    return None
