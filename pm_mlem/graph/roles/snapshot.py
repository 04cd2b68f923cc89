"""What a model holds at one time: the values of all shared variables, the lengths and labels of its dimensions.

A fit remembers the data that it was made of in this way, and predictions for new data are read off a copy of the model
that holds these, so that the user's own model is never written to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import pymc as pm
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.type import RandomType

from pm_mlem.graph.roles.dims import plain
from pm_mlem.graph.roles.rebuild import LOCK, Counterpart, Rebuilding

MOST_COPIES = 8
"""Copies of a model that are kept."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a model held. Two of the same content are equal, so that they can be the key of a cache.

    Attributes
    ----------
    values : of the ``pm.Data``, of the lengths of dimensions that can change and of the user's other shared variables,
        by name
    labels : of the dimensions, None where they have none
    """

    values: Mapping[str, np.ndarray]
    labels: Mapping[str, tuple | None]

    @cached_property
    def digests(self) -> tuple:
        """What stands for the values."""
        return tuple((n, digest(v)) for n, v in self.values.items())

    @property
    def key(self) -> tuple:
        return self.digests, tuple(self.labels.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def digest(array) -> tuple:
    array = np.ascontiguousarray(array)
    return array.shape, str(array.dtype), hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()


def snapshot(model: pm.Model) -> Snapshot:
    """What a model holds now."""
    values = {name: np.asarray(v.get_value(borrow=True)) for name, v in holders(plain(model)).items()}
    labels = {dim: None if own is None else tuple(own) for dim, own in model.coords.items()}
    return Snapshot(values, labels)


def holders(model: pm.Model) -> dict[str, SharedVariable]:
    """The shared variables that hold a model's data, and the lengths of its dimensions.

    Those of the user's own go by their position among all that the model's graphs read, for names may be missing.
    """
    found = {str(v.name): v for v in model.data_vars if isinstance(v, SharedVariable)}
    lengths = {f"length of {d}": v for d, v in model.dim_lengths.items() if isinstance(v, SharedVariable)}
    known = {*found.values(), *lengths.values()}
    others = [v for v in inputs_of(model) if isinstance(v, SharedVariable) and v not in known]
    return {**found, **lengths, **{f"shared variable {i}": v for i, v in enumerate(others)}}


def constants(model: pm.Model) -> tuple:
    """Digests of the arrays in a model's graphs: PyTensor does not copy them, so that they may change in place."""
    arrays = [v.data for v in inputs_of(plain(model)) if isinstance(v, Constant)]
    return tuple(digest(a) for a in arrays if isinstance(a, np.ndarray) and a.ndim)


INPUTS: WeakKeyDictionary[pm.Model, tuple[tuple, tuple[Variable, ...]]] = WeakKeyDictionary()


def inputs_of(model: pm.Model) -> tuple[Variable, ...]:
    """The shared variables (random generators left out) and constants that a model's graphs read, in a fixed order."""
    wanted = graphs_of(model)
    key = tuple(map(id, wanted))
    with LOCK:
        if model not in INPUTS or INPUTS[model][0] != key:
            read = [v for v in ancestors(wanted) if isinstance(v, SharedVariable | Constant) and not is_generator(v)]
            INPUTS[model] = key, tuple(read)
        return INPUTS[model][1]


def graphs_of(model: pm.Model) -> list[Variable]:
    """All graphs of a model of ordinary tensors: its variables, observed values, initial values, data and lengths."""
    values = [model.rvs_to_values[rv] for rv in model.observed_RVs]
    starts = [v for rv in model.free_RVs if isinstance(v := model.rvs_to_initial_values[rv], Variable)]
    named = [*model.basic_RVs, *model.deterministics, *model.potentials, *model.data_vars]
    return list(dict.fromkeys([*named, *values, *starts, *model.dim_lengths.values()]))


COPIES: WeakKeyDictionary[pm.Model, dict[tuple, pm.Model]] = WeakKeyDictionary()


def copy_with(model: pm.Model, content: Snapshot) -> pm.Model:
    """A model of ordinary tensors like this one that holds something else; made once for the same content.

    The copy is for reading: who wants to write to one makes their own with :func:`own_copy`.
    """
    model = plain(model)
    variables = [*model.basic_RVs, *model.deterministics, *model.potentials, *model.data_vars]
    key = (tuple(map(id, variables)), content)
    with LOCK:
        copies = COPIES.setdefault(model, {})
        if key not in copies:
            copies[key] = own_copy(model, content)
            while len(copies) > MOST_COPIES:
                copies.pop(next(iter(copies)))
        return copies[key]


def own_copy(model: pm.Model, content: Snapshot | None = None) -> pm.Model:
    """A new model of ordinary tensors with storage of its own for all data, and the content that is asked for."""
    model = plain(model)
    wanted = graphs_of(model)
    twins = {v: twin(v) for v in ancestors(wanted) if isinstance(v, SharedVariable) and not is_generator(v)}
    of = dict(zip(wanted, clone_replace(wanted, twins, rebuild_strict=False), strict=True))
    copy = Rebuilding(model, of, lambda rv: same_axes(of[rv]), lambda transform, name, dims: transform).build()
    if content is not None:
        for name, variable in holders(model).items():
            twins[variable].set_value(content.values[name])
        copy._coords.update(content.labels)
    return copy


def is_generator(variable: Variable) -> bool:
    return isinstance(variable.type, RandomType)


def twin(variable: SharedVariable) -> SharedVariable:
    """A shared variable of the same type and value with a container of its own."""
    return type(variable)(type=variable.type, value=variable.get_value(), strict=None, name=variable.name)


def same_axes(variable: Variable) -> Counterpart:
    return Counterpart(variable, tuple(range(variable.type.ndim)))
