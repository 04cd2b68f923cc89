"""The parameter space: named constrained arrays on one side, one flat unconstrained vector on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from pytensor.graph.basic import Variable

from pm_mlem.arguments import array_of_numbers
from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.structure import PLAIN, ModelStructure, Parameter
from pm_mlem.graph.roles.transforms import constraining, initial_point, unconstraining
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.objective.lowering.lower import Backend, lower

SMALLEST = 1e-100
"""What takes the place of a 0 on the boundary."""


@dataclass(frozen=True, eq=False)
class ParameterSpace:
    """Free parameters in their order of declaration.

    Attributes
    ----------
    names : names of the free variables
    shapes, unconstrained_shapes : by name, in the user's space and in the optimizer's
    initial : PyMC's initial point, flat and unconstrained
    constrain : flat unconstrained vector -> list of constrained arrays (pure JAX)
    """

    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    unconstrained_shapes: Mapping[str, tuple[int, ...]]
    initial: np.ndarray
    constrain: Callable[..., list]
    unconstrain_arrays: Callable[..., list]
    """List of constrained arrays -> list of unconstrained arrays (pure JAX)."""
    held: Mapping[str, np.ndarray]
    """Values of the variables that are held in part, NaN where they are free; others are left out."""
    labels: tuple[str, ...]
    """Names of the unconstrained coordinates."""
    _forward: Callable[..., list]
    _backward: Callable[..., list]

    @property
    def size(self) -> int:
        """Number of free (unconstrained) parameters."""
        return len(self.initial)

    @property
    def slices(self) -> dict[str, slice]:
        """Where each variable sits in the flat vector."""
        slices, start = {}, 0
        for name in self.names:
            stop = start + int(np.prod(self.unconstrained_shapes[name], dtype=np.int64))
            slices[name] = slice(start, stop)
            start = stop
        return slices

    def is_free(self, name: str) -> np.ndarray:
        """Which entries of a variable are estimated."""
        return np.isnan(self.held[name]) if name in self.held else np.ones(self.shapes[name], dtype=bool)

    def split(self, u):
        """Flat vector -> list of unconstrained arrays."""
        return [u[s].reshape(self.unconstrained_shapes[name]) for name, s in self.slices.items()]

    def join(self, arrays: Sequence):
        """List of unconstrained arrays -> flat vector."""
        return jnp.concatenate([jnp.ravel(a) for a in arrays]) if arrays else jnp.zeros(0)

    def values(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """Constrained values by name (NumPy)."""
        with np.errstate(all="ignore"):
            return dict(zip(self.names, self._backward(*self.split(np.asarray(u))), strict=True))

    def unconstrain(self, values: Mapping[str, np.ndarray], argument: str = "starts") -> np.ndarray:
        """Flat vector of constrained values; variables that are not named keep the initial point, held entries theirs.

        Raises
        ------
        ValueError
            An unknown name, a wrong shape, or a value outside the support.
        """
        for name in values:
            if name not in self.names:
                raise ValueError(unknown_name(name, self.names, argument))
        u = np.array(self.initial)
        given = {name: self._checked(name, value, argument) for name, value in values.items()}
        current = self.values(u) if given else {}
        with np.errstate(all="ignore"):
            arrays = self._forward(*[given.get(name, current.get(name)) for name in self.names]) if given else []
        for (name, where), array in zip(self.slices.items(), arrays, strict=False):
            if name not in given:
                continue
            if not np.all(np.isfinite(array)):
                raise ValueError(f"{argument}: {short(given[name])} is outside the support of '{name}'.")
            u[where] = np.ravel(array)
        return u

    def just_inside(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Values of all variables, those on the boundary of the support moved to the next numbers inside it.

        Estimates may be on it (a probability of 1, a weight of 0); they have no finite unconstrained coordinates then.
        """
        inside = {name: np.asarray(values[name], dtype=float) for name in self.names}
        for move in (lambda a: np.where(a == 0, SMALLEST, a), lambda a: np.nextafter(a, 0.0)):
            with np.errstate(all="ignore"):
                arrays = self._forward(*inside.values())
            for name, array in zip(self.names, arrays, strict=True):
                if not np.all(np.isfinite(array)):
                    inside[name] = move(inside[name])
        return inside

    def _checked(self, name: str, value, argument: str) -> np.ndarray:
        array = array_of_numbers(value, f"{argument}: the values of '{name}'")
        try:
            array = np.broadcast_to(array, self.shapes[name]).astype(float)
        except ValueError:
            raise ValueError(
                f"{argument}: the value of '{name}' has shape {array.shape}, the variable {self.shapes[name]}."
            ) from None
        if name in self.held:
            array = np.where(self.is_free(name), array, self.held[name])
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{argument}: the value of '{name}' is not finite.")
        return array


def unknown_name(name: str, known: Sequence[str], argument: str) -> str:
    import difflib

    close = difflib.get_close_matches(str(name), known, n=1)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return (
        f"{argument}: '{name}' is not a free parameter.{guess} The free parameters are {', '.join(map(repr, known))}."
    )


def short(array: np.ndarray) -> str:
    return np.array2string(array, threshold=6, precision=4)


def build_space(structure: ModelStructure, tables: ModelTables, backend: Backend) -> ParameterSpace:
    """The parameter space of a model's free parameters."""
    start = initial_point(structure)
    shapes = {name: value.shape for name, value in start.items()}
    inputs, outputs = constraining(structure, shapes, tables.context)
    theta, unconstrained = unconstraining(structure, tables.context)
    backward = lower(inputs, outputs, backend)
    forward = lower(theta, unconstrained, backend)
    names = tuple(p.name for p in structure.free)
    initial = np.concatenate([np.ravel(start[n]) for n in names]) if names else np.zeros(0)
    sizes = [int(np.prod(shapes[n], dtype=np.int64)) for n in names]
    cuts = np.cumsum(sizes)[:-1] if sizes else []

    def constrain(u):
        parts = [part.reshape(shapes[n]) for part, n in zip(jnp.split(u, cuts), names, strict=True)] if names else []
        return backward(*parts)

    return ParameterSpace(
        names, {p.name: p.shape for p in structure.free}, shapes, initial, constrain, forward, structure.held,
        tuple(label for p in structure.free for label in coordinate_names(p, shapes[p.name])),
        evaluator(theta, unconstrained), evaluator(inputs, outputs),
    )  # fmt: skip


def coordinate_names(parameter: Parameter, shape: tuple[int, ...]) -> list[str]:
    """Names of a parameter's unconstrained coordinates, whose array has a shape."""
    if parameter.held is None:
        entries = list(np.ndindex(*shape))
    else:
        entries = list(zip(*np.unravel_index(parameter.transform.entries, parameter.shape), strict=True))
    name = f"{parameter.name}__"
    return [f"{name}[{', '.join(map(str, i))}]" if i else name for i in entries]


def evaluator(inputs: Sequence[Variable], outputs: Sequence[Variable]) -> Callable[..., list]:
    """A NumPy function of a small graph, nothing compiled."""
    compiled = []

    def run(*args):
        if not compiled:
            compiled.append(function(list(inputs), list(outputs), mode=PLAIN, on_unused_input="ignore"))
        return compiled[0](*args)

    return run
