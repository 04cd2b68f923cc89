"""Models written with ``pymc.dims``, as models of ordinary tensors."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.distributions import transforms
from pytensor.compile.ops import ViewOp
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.sharedvar import TensorSharedVariable
from pytensor.tensor.type import TensorType

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.roles.rebuild import LOCK, Counterpart, Rebuilding

PLAIN_MODELS: WeakKeyDictionary[pm.Model, tuple[tuple, pm.Model]] = WeakKeyDictionary()


def plain(model: pm.Model) -> pm.Model:
    """The model itself, or for one with variables of ``pymc.dims`` the same model of ordinary tensors.

    Names, dims, coords, transforms and initial values stay; ``pm.Data`` share their values with those of the model.
    Free variables have the axes in the order of their distribution.

    Raises
    ------
    UnsupportedModelError
        A variable that has no counterpart among ordinary tensors.
    """
    named = [*model.basic_RVs, *model.deterministics, *model.potentials, *model.data_vars]
    if not any(has_dims(v) for v in named):
        return model
    starts = [model.rvs_to_initial_values.get(rv) for rv in model.free_RVs]
    labels = tuple((name, None if values is None else tuple(values)) for name, values in model.coords.items())
    key = (*map(id, named), *map(id, starts), labels)
    with LOCK:
        if model not in PLAIN_MODELS or PLAIN_MODELS[model][0] != key:
            PLAIN_MODELS[model] = key, Plain(model).build()
        return PLAIN_MODELS[model][1]


def has_dims(variable) -> bool:
    """Whether a variable knows its dims (an XTensor)."""
    return isinstance(variable, Variable) and hasattr(variable.type, "dims")


class Plain:
    """Lowered counterparts of a model's variables."""

    def __init__(self, model: pm.Model):
        from pytensor.xtensor.basic import tensor_from_xtensor

        self.model = model
        values = [model.rvs_to_values[rv] for rv in model.observed_RVs]
        starts = [v for rv in model.free_RVs if isinstance(v := model.rvs_to_initial_values[rv], Variable)]
        named = [*model.basic_RVs, *model.deterministics, *model.potentials]
        wanted = list(dict.fromkeys([*named, *values, *starts]))
        twins = {v: twin(v) for v in ancestors(wanted) if v.owner is None and has_dims(v)}
        outputs = clone_replace(wanted, twins, rebuild_strict=False) if twins else wanted
        outputs = [tensor_from_xtensor(v) if has_dims(v) else v for v in outputs]
        data = {v: twins[v].owner.inputs[0] for v in model.data_vars if v in twins}
        self.lowered = {**data, **dict(zip(wanted, lower(outputs), strict=True))}

    def build(self) -> pm.Model:
        return Rebuilding(self.model, self.lowered, self.distribution, ordinary).build()

    def distribution(self, rv: Variable) -> Counterpart:
        """The random variable itself and the order in which the model's variable has its axes."""
        variable = self.lowered[rv]
        order = tuple(range(variable.type.ndim))
        while isinstance(op := getattr(variable.owner, "op", None), DimShuffle) and op.is_transpose:
            order = tuple(op.new_order[i] for i in order)
            variable = variable.owner.inputs[0]
        if variable.owner is None or not hasattr(variable.owner.op, "ndim_supp"):
            raise UnsupportedModelError(
                f"'{rv.name}', a variable of pymc.dims, is no plain random variable once its dims are taken off "
                f"({variable.owner.op if variable.owner else variable}). Declare it with pm instead of pymc.dims."
            )
        return Counterpart(variable, order)


def twin(variable: Variable) -> Variable:
    """An ordinary constant, shared variable or input with dims put on; shared variables share their value."""
    from pytensor.xtensor.basic import xtensor_from_tensor

    kind = TensorType(variable.type.dtype, shape=variable.type.shape)
    if isinstance(variable, Constant):
        own: Variable = pt.constant(np.asarray(variable.data), dtype=variable.type.dtype)
    elif isinstance(variable, SharedVariable):
        own = TensorSharedVariable(type=kind, value=None, strict=None, container=variable.container, name=variable.name)
    else:
        own = kind(name=variable.name)
    return xtensor_from_tensor(own, dims=variable.type.dims)


def lower(outputs: Sequence[Variable]) -> list[Variable]:
    """The graphs with operations on dims replaced by those on axes."""
    from pytensor.xtensor.rewriting.utils import lower_xtensor_db

    graph = FunctionGraph(outputs=list(outputs), clone=True, copy_inputs=False)
    for node in graph.toposort():  # names of Deterministics hide the dims from the rewrites
        if isinstance(node.op, ViewOp):
            graph.replace(node.outputs[0], node.inputs[0], import_missing=True)
    lower_xtensor_db.query("+fast_run").rewrite(graph)
    for variable in graph.variables:
        if has_dims(variable):
            raise UnsupportedModelError(
                f"PyTensor cannot take the dims off {variable.owner.op if variable.owner else variable}, an operation "
                "of pymc.dims. Write that part with pm and pytensor.tensor."
            )
    return list(graph.outputs)


def ordinary(transform, name: str, dims: Sequence[str | None]):
    """The transform of an ordinary variable that does the same."""
    kind = type(transform).__name__
    if transform is None:
        return None
    if kind == "LogTransform":
        return transforms.log
    if kind == "LogOddsTransform":
        return transforms.logodds
    if kind == "SimplexTransform" and dims and dims[-1] == transform.core_dim:
        return transforms.simplex
    if kind == "IntervalTransform":
        lower, upper = (
            float(v.data) if v.ndim == 0 else np.asarray(v.data) for v in (transform.lower, transform.upper)
        )
        return transforms.Interval(lower, upper)
    if kind == "ZeroSumTransform" and dims and tuple(dims[-len(transform.dims) :]) == tuple(transform.dims):
        return transforms.ZeroSumTransform([-1 - i for i in range(len(transform.dims))][::-1])
    raise UnsupportedModelError(
        f"The transform {kind} of '{name}', a variable of pymc.dims, has no counterpart for ordinary variables. "
        "Declare it with pm instead of pymc.dims."
    )
