"""Bambi models whose intercepts are those that Bambi reports.

Bambi subtracts the means of the predictors in the PyMC model that it builds, and undoes that in what it reports. Here
the PyMC model is made anew with an intercept for predictors as they are: everything about it (standard errors, held
values, predictions, draws) then belongs to the number that is reported. Likelihood and priors stay what they are; the
prior of the intercept is still one of the intercept for centered predictors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.initial_point import make_initial_point_fn
from pymc.logprob.abstract import _logprob
from pytensor.graph.basic import Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import graph_replace
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.type_other import NoneTypeT

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.rebuild import LOCK, Rebuilding
from pm_mlem.graph.roles.snapshot import graphs_of, same_axes
from pm_mlem.graph.roles.structure import PLAIN

UNCENTERED: WeakKeyDictionary[pm.Model, tuple[tuple, pm.Model]] = WeakKeyDictionary()


def uncentered(bambi_model: Any, model: pm.Model) -> pm.Model:
    """The PyMC model of a Bambi model with the intercepts that Bambi reports; itself where nothing is centered.

    Raises
    ------
    UnsupportedModelError
        The prior of an intercept has bounds, which its transform puts where the predictors are centered, or is no plain
        distribution.
    """
    key = tuple(map(id, graphs_of(model)))
    with LOCK:
        if model not in UNCENTERED or UNCENTERED[model][0] != key:
            shifts = dict(intercepts(bambi_model, model))
            UNCENTERED[model] = key, rebuilt(model, shifts) if shifts else model
        return UNCENTERED[model][1]


def intercepts(bambi_model: Any, model: pm.Model) -> Iterator[tuple[Variable, Variable]]:
    """The intercepts for centered predictors, and by what they exceed those that Bambi reports."""
    if not getattr(bambi_model, "center_predictors", False):
        return
    for part in bambi_model.backend.distributional_components.values():
        component, design = part.component, part.design_matrix_without_intercept
        if not component.intercept_term or not component.common_terms or design is None:
            continue
        start, shift = 0, None
        for term in component.common_terms.values():
            width = 1 if np.ndim(term.data) == 1 else term.data.shape[1]
            own = contribution(design[:, start : start + width].mean(axis=0), model[name_of(term)], bool(term.coords))
            start, shift = start + width, own if shift is None else shift + own
        if shift is not None:
            yield model[name_of(component.intercept_term)], shift


def contribution(means: np.ndarray, coefficients: Variable, several: bool) -> Variable:
    """Coefficients times the means of their predictors, for each level of the response where it has some."""
    if not several:
        return means.item() * coefficients
    return (means.reshape([-1] + [1] * (coefficients.type.ndim - 1)) * coefficients).sum(axis=0)


def name_of(term: Any) -> str:
    """The name of a term's variable."""
    return getattr(term, "alias", None) or term.name


def rebuilt(model: pm.Model, shifts: dict[Variable, Variable]) -> pm.Model:
    """The model with other intercepts in place of some."""
    wanted = graphs_of(model)
    graph = FunctionGraph(outputs=[*wanted, *shifts.values()], clone=True, copy_inputs=False)
    twins = dict(zip([*wanted, *shifts.values()], graph.outputs, strict=True))
    moved = {rv: moved_by(model, rv, twins[rv], twins[shift]) for rv, shift in shifts.items()}
    for rv, shift in shifts.items():
        graph.replace(twins[rv], moved[rv] + twins[shift], import_missing=True)
    of = dict(zip(wanted, graph.outputs, strict=False)) | moved
    new = Rebuilding(model, of, lambda rv: same_axes(of[rv]), lambda transform, name, dims: transform).build()
    values = make_initial_point_fn(model=model, return_transformed=False)(0)
    known = {rv: pt.constant(values[rv.name], dtype=rv.type.dtype) for rv in model.free_RVs}
    starts = function([], graph_replace(list(shifts.values()), known, strict=False), mode=PLAIN)()
    for rv, shift in zip(shifts, starts, strict=True):
        new.rvs_to_initial_values[new[rv.name]] = np.asarray(values[rv.name] - shift)
    return new


def moved_by(model: pm.Model, rv: Variable, twin: Variable, shift: Variable) -> Variable:
    """A variable distributed like another (and its twin) minus something.

    Raises
    ------
    UnsupportedModelError
    """
    op = rv.owner.op
    if model.rvs_to_transforms.get(rv) is not None or not isinstance(op, RandomVariable) or op.ndim_supp:
        raise UnsupportedModelError(
            f"The prior of '{rv.name}' has bounds (or is no plain distribution), and Bambi has centered the "
            "predictors, so that these bounds are none of the intercept that Bambi reports. Give it a prior without "
            "bounds, or build the model with bambi.Model(..., center_predictors=False), where the prior is one of that "
            "intercept."
        )

    def log_density(value, *inputs):
        *parameters, by = inputs
        return _logprob(op, (value + by,), None, None, *parameters)

    def draw(*inputs, rng=None, size=None):
        *parameters, by = inputs
        return op.rng_fn(rng, *parameters, size) - by

    size = op.size_param(twin.owner)
    given = {} if isinstance(size.type, NoneTypeT) else {"shape": size}
    return pm.CustomDist.dist(*op.dist_params(twin.owner), shift, logp=log_density, random=draw, **given)
