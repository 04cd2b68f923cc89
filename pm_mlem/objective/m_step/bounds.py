"""The support of parameters whose entries are independent of each other, and how to stay inside it."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from pm_mlem.graph.roles.structure import Parameter
from pm_mlem.objective.space import ParameterSpace

BORDER = 1e-12
"""As close as an entry is brought to a bound, relative to the width of its support or to the bound."""
SMALLEST = 1e-200
"""As close as an entry is brought to a bound of 0 beyond which the support has no end: units are the user's."""
FAR = (600.0, 700.0)
"""Unconstrained coordinates at which a bounded entry is on its bound."""


@dataclass(frozen=True, eq=False)
class Support:
    """Bounds of every entry of a parameter, infinite where there is none."""

    lower: np.ndarray
    upper: np.ndarray

    def inside(self, new, old):
        """New values moved into the support, never much closer to a bound in one step than the old ones.

        A value on the bound could never leave it again: its unconstrained coordinate is infinite.
        """
        width = np.where(np.isfinite(self.upper - self.lower), self.upper - self.lower, 0.0)
        new = jnp.maximum(new, self.lower + margin(old, self.lower, width))
        return jnp.minimum(new, self.upper - margin(old, self.upper, width))


def margin(old, bound: np.ndarray, width: np.ndarray):
    """How far from a bound an entry has to stay; 0 where there is no bound."""
    finite = np.isfinite(bound)
    distance = jnp.abs(old - np.where(finite, bound, 0.0))
    least = np.maximum(BORDER * np.maximum(width, np.abs(np.where(finite, bound, 0.0))), SMALLEST)
    return jnp.where(finite, jnp.maximum(1e-3 * distance, jnp.minimum(distance, least)), 0.0)


def support(parameter: Parameter, space: ParameterSpace, points: tuple[np.ndarray, np.ndarray]) -> Support | None:
    """The support of a parameter, from its values far out; None where entries, or other parameters, decide it.

    ``points`` are two unconstrained points.
    """
    if getattr(parameter.transform, "ndim_supp", 0) != 0:
        return None
    name, (point, other) = parameter.name, points
    where = space.slices[name]

    def at(u: float, around: np.ndarray) -> np.ndarray:
        moved = around.copy()
        moved[where] = u
        return np.asarray(space.values(moved)[name])

    if any(not np.array_equal(at(u, point), at(u, other), equal_nan=True) for u in (-1.0, 1.0)):
        return None
    ends = [limit(at(sign * FAR[0], point), at(sign * FAR[1], point)) for sign in (-1, 1)]
    if ends[0] is None or ends[1] is None:
        return None
    return Support(np.minimum(*ends), np.maximum(*ends))


def limit(near: np.ndarray, far: np.ndarray) -> np.ndarray | None:
    """The bound that two far values agree on, infinity where they run away; None where they do neither."""
    bounded = np.abs(near - far) <= 1e-15 * np.abs(far) + 1e-200
    if not np.all(bounded | (np.abs(far) >= FAR[0])):
        return None
    return np.where(bounded, np.where(np.abs(far) < 1e-200, 0.0, far), np.copysign(np.inf, far))
