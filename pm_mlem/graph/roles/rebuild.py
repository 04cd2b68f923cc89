"""A model made anew of counterparts of its variables, under the same names, dims and coords."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pymc as pm
from pytensor.graph.basic import Variable

LOCK = threading.RLock()
"""Held while models are copied and read, and while engines are made or looked up."""


@dataclass(frozen=True, eq=False)
class Counterpart:
    """What takes a random variable's place, and the order in which that one has the axes of this one."""

    variable: Variable
    order: tuple[int, ...]

    @property
    def back(self) -> tuple[int, ...]:
        return tuple(np.argsort(self.order).tolist())


@dataclass(frozen=True, eq=False)
class Rebuilding:
    """Registers counterparts in a new model.

    Attributes
    ----------
    model : the model that is made anew
    of : the counterpart of every graph in it: values of observed variables, initial values, data, lengths of
        dimensions, Deterministics, Potentials; what is not in it stays as it is
    of_random : that of a random variable
    of_transform : (transform, name, dims) -> the counterpart of the transform of a variable
    """

    model: pm.Model
    of: Mapping[Variable, Variable]
    of_random: Callable[[Variable], Counterpart]
    of_transform: Callable
    new: pm.Model = field(default_factory=lambda: pm.Model(model=None))

    def build(self) -> pm.Model:
        model = self.model
        for name, labels in model.coords.items():
            length = model.dim_lengths[name]
            self.new.add_coord(name, labels, length=self.of.get(length, length))
        for variable in model.data_vars:
            self.new.register_data_var(self.of.get(variable, variable), self.dims(variable))
        for rv in model.free_RVs:
            self.register_free(rv)
        for rv in model.observed_RVs:
            self.register_observed(rv)
        for kind in ("deterministics", "potentials"):
            for variable in getattr(model, kind):
                copy = self.of[variable].copy()
                copy.name = variable.name
                getattr(self.new, kind).append(copy)
                self.new.add_named_variable(copy, self.dims(variable))
        return self.new

    def dims(self, variable: Variable):
        return self.model.named_vars_to_dims.get(variable.name)

    def register_free(self, rv: Variable) -> None:
        found = self.of_random(rv)
        dims, start, back = self.dims(rv), self.model.rvs_to_initial_values[rv], found.back
        dims = None if dims is None else tuple(dims[i] for i in back)
        if isinstance(start, Variable):
            start = self.of[start].transpose(back) if len(back) > 1 else self.of[start]
        elif isinstance(start, np.ndarray) and start.ndim == len(back):
            start = start.transpose(back)
        transform = self.of_transform(self.model.rvs_to_transforms[rv], rv.name, dims or ())
        self.new.register_rv(
            found.variable, rv.name, dims=dims, default_transform=None, transform=transform, initval=start
        )

    def register_observed(self, rv: Variable) -> None:
        found, dims = self.of_random(rv), self.dims(rv)
        value, back = self.of[self.model.rvs_to_values[rv]], found.back
        value = value.transpose(back) if back != tuple(sorted(back)) else value
        dims = None if dims is None else tuple(dims[i] for i in back)
        add_observed(self.new, found.variable, rv.name, value, dims)


def add_observed(model: pm.Model, variable: Variable, name: str, value: Variable, dims) -> None:
    """Register an observed variable whose data are a graph."""
    variable.name = name
    model.observed_RVs.append(variable)
    model.create_value_var(variable, default_transform=None, transform=None, value_var=value)
    model.add_named_variable(variable, dims)
