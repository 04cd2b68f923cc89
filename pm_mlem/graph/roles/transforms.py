"""The map between the user's (constrained) space and the unconstrained one, as graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytensor.tensor as pt
from pymc.initial_point import make_initial_point_expression
from pymc.pytensorf import find_rng_nodes
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors

from pm_mlem.graph.lift import Context, Lifted, Refusal
from pm_mlem.graph.lift import parameter as lifted_parameter
from pm_mlem.graph.lift.core import materialize
from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.held import HeldSimplex
from pm_mlem.graph.roles.structure import PLAIN, ModelStructure, Parameter
from pm_mlem.graph.roles.symbols import tensor


def initial_point(structure: ModelStructure) -> dict[str, np.ndarray]:
    """PyMC's initial point (``initval`` or support point) in the unconstrained space, by variable name."""
    parameters = structure.free
    outputs = make_initial_point_expression(
        free_rvs=[p.rv for p in parameters],
        rvs_to_transforms={p.rv: p.transform for p in structure.parameters},
        initval_strategies=dict(structure.initial),
        return_transformed=True,
    )
    values = function([], outputs, mode=PLAIN, on_unused_input="ignore")() if outputs else []
    return {p.name: np.asarray(v, dtype=float) for p, v in zip(parameters, values, strict=True)}


def initial_values(structure: ModelStructure) -> list[np.ndarray]:
    """PyMC's initial point in the constrained space, in the order of the free parameters."""
    outputs = make_initial_point_expression(
        free_rvs=[p.rv for p in structure.free],
        rvs_to_transforms={p.rv: p.transform for p in structure.parameters},
        initval_strategies=dict(structure.initial),
        return_transformed=False,
    )
    values = function([], outputs, mode=PLAIN)() if outputs else []
    return [
        v if p.held is None else plug_in(v, p) for v, p in zip(map(np.asarray, values), structure.free, strict=True)
    ]


def plug_in(value: np.ndarray, parameter: Parameter) -> np.ndarray:
    """A parameter's value with the entries that are held."""
    free, held = np.isnan(parameter.held), np.nan_to_num(parameter.held)
    if isinstance(parameter.transform, HeldSimplex):
        total = np.sum(np.where(free, value, 0.0), axis=-1, keepdims=True)
        value = value * parameter.transform.share / np.where(total > 0, total, 1.0)
    return np.where(free, value, held)


def prior_sampler(structure: ModelStructure) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
    """A function that draws the free parameters from their joint prior (constrained space), given what is held.

    What it returns raises where a prior cannot be drawn from (``pm.Flat``, a CustomDist without ``random``).
    """
    held = {p.rv: pt.constant(structure.fixed[p.name]) for p in structure.parameters if p.name in structure.fixed}
    outputs = [p.rv for p in structure.free]
    outputs = graph_replace(outputs, held, strict=False) if held else outputs
    shared = find_rng_nodes(outputs)
    generators = [rng.type() for rng in shared]
    if shared:  # the model's own generators stay as they are
        outputs = graph_replace(outputs, dict(zip(shared, generators, strict=True)), strict=False)
    run = function(generators, outputs, mode=PLAIN, on_unused_input="ignore")

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        values = run(*rng.spawn(len(generators)))
        return {p.name: np.asarray(v, dtype=float) for p, v in zip(structure.free, values, strict=True)}

    return draw


def distribution_inputs(parameter: Parameter, context: Context) -> list[Variable]:
    """Inputs of a parameter's distribution, as functions of the other parameters' placeholders.

    Some transforms read them: the bounds of an interval, say.
    """
    inputs = []
    for variable in parameter.rv.owner.inputs:
        if not hasattr(variable.type, "ndim") or variable.type.ndim is None or not hasattr(variable.type, "dtype"):
            inputs.append(variable)
            continue
        try:
            lifted = context.lift(variable)
        except Refusal:  # a component distribution, say: no transform looks at it
            inputs.append(variable)
            continue
        inputs.append(variable if lifted.opaque else input_of(materialize(lifted), context))
    return inputs


def input_of(value: Lifted, context: Context) -> Variable:
    """A value as a symbol; constants stay constants, however large, so that no function needs further inputs."""
    if value.data is None or value.slots:
        return context.symbol(value)
    return pt.constant(value.data, dtype=str(value.data.dtype))


def constraining(
    structure: ModelStructure, shapes: Mapping[str, tuple[int, ...]], context: Context
) -> tuple[list[Variable], list[Variable]]:
    """Unconstrained inputs and the constrained values as functions of them, for the free parameters.

    ``shapes`` are those of the unconstrained values (a simplex of K has K - 1 entries there).
    """
    inputs, outputs = [], []
    for parameter in structure.free:
        u = tensor(f"{parameter.name}_unconstrained", dtype="float64", shape=shapes[parameter.name])
        value = u
        if parameter.transform is not None:
            value = parameter.transform.backward(u, *distribution_inputs(parameter, context))
        context.leaves[u] = lifted_parameter(u)
        value = context.symbol(materialize(context.lift(value)))
        inputs.append(u)
        outputs.append(value)
    return inputs, substitute_upstream(structure, outputs)


def log_jacobian(
    structure: ModelStructure, shapes: Mapping[str, tuple[int, ...]], context: Context
) -> tuple[list[Variable], Variable]:
    """Unconstrained inputs and the log of the Jacobian determinant of the constrained values, a scalar.

    Densities of constrained values become densities of unconstrained ones when it is added to their logarithm.
    ``shapes`` are those of the unconstrained values.
    """
    inputs, outputs = constraining(structure, shapes, context)
    terms = []
    for parameter, u in zip(structure.free, inputs, strict=True):
        if parameter.transform is not None:
            term = parameter.transform.log_jac_det(u, *distribution_inputs(parameter, context))
            terms.append(context.symbol(materialize(context.lift(term))).sum())
    total = pt.add(pt.constant(0.0), *terms) if terms else pt.constant(0.0)
    known = {p.placeholder: v for p, v in zip(structure.free, outputs, strict=True)}
    used = set(ancestors([total]))
    needed = {p: v for p, v in known.items() if p in used}
    return inputs, graph_replace([total], needed, strict=False)[0] if needed else total


def substitute_upstream(structure: ModelStructure, values: list[Variable]) -> list[Variable]:
    """Replace the placeholders of other parameters (bounds that are estimated) by their own expressions."""
    known: dict[Variable, Variable] = {}
    results = []
    for parameter, value in zip(structure.free, values, strict=True):
        needed = {p: v for p, v in known.items() if p in set(ancestors([value]))}
        resolved = graph_replace([value], needed, strict=False)[0] if needed else value
        known[parameter.placeholder] = resolved
        results.append(resolved)
    return results


def unconstraining(structure: ModelStructure, context: Context) -> tuple[list[Variable], list[Variable]]:
    """Constrained inputs and the unconstrained values as functions of them, for the free parameters."""
    inputs, outputs = [], []
    for parameter in structure.free:
        value = parameter.placeholder
        if parameter.transform is not None:
            value = parameter.transform.forward(value, *distribution_inputs(parameter, context))
            value = context.symbol(materialize(context.lift(value)))
        inputs.append(parameter.placeholder)
        outputs.append(value)
    return inputs, outputs
