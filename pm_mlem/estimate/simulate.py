"""Data drawn from a fitted model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pymc as pm
from pymc.pytensorf import find_rng_nodes
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace

from pm_mlem.estimate.estimate import Estimate
from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.densities import unscaled
from pm_mlem.graph.roles.structure import PLAIN

Values = Mapping[Variable, np.ndarray]
Draw = Callable[[np.random.Generator], dict[str, np.ndarray]]
DrawGiven = Callable[[np.random.Generator, Values], dict[str, np.ndarray]]


def simulate(estimate: Estimate, n: int, random_seed: int | None = None) -> dict[str, np.ndarray]:
    """Draws of all observed variables from a fitted model.

    Parameters
    ----------
    estimate : Estimate
    n : number of data sets
    random_seed : int or None

    Returns
    -------
    dict
        ``{observed name: array (n, *shape)}``; of masked data the entries that were observed.

    Raises
    ------
    ValueError
        The model has Potentials, or a distribution that cannot be drawn from.
    """
    draw, rng = simulator(estimate), np.random.default_rng(random_seed)
    drawn = [draw(rng) for _ in range(n)]
    return {name: np.stack([values[name] for values in drawn]) for name in (drawn[0] if drawn else ())}


def simulator(estimate: Estimate) -> Draw:
    """A function that draws all observed variables: parameters at their estimates, latents from their distribution.

    Raises
    ------
    ValueError
        The model has Potentials, or a distribution that cannot be drawn from (found by drawing once).
    """
    names, model = estimate.target.structure.observed, estimate.target.source
    values = values_in(model, estimate)
    variables = [rv for rv in model.observed_RVs if rv.name in names]
    draw = checked_sampler(model, variables, list(values), values, "use kind='case'")
    return lambda rng: draw(rng, values)


def checked_sampler(
    model: pm.Model, variables: Sequence[Variable], given: Sequence[Variable], values: Values, remedy: str = ""
) -> DrawGiven:
    """A function that draws variables of a model given the values of others, tried once.

    Raises
    ------
    ValueError
        The model has Potentials, or a distribution that cannot be drawn from; ``remedy`` is what else to do then.
    """
    otherwise = f", or {remedy}" if remedy else ""
    if model.potentials:
        raise ValueError(
            f"Data cannot be drawn from the model: its Potential '{model.potentials[0].name}' is a density, not a "
            f"distribution; write it as an observed variable{otherwise}."
        )
    draw = sampler(variables, given)
    try:
        draw(np.random.default_rng(0), values)
    except Exception as error:  # anything may happen in a user's random()
        raise ValueError(
            f"Data cannot be drawn from the model: {culprit(variables, given, values)} cannot be simulated "
            f"({error}); give it a random function{otherwise}."
        ) from error
    return draw


def values_in(model: pm.Model, estimate: Estimate) -> dict[Variable, np.ndarray]:
    """The values of all parameters, and of whatever else is held, by the variables of a model."""
    values = {**estimate.target.structure.fixed, **estimate.values}
    return {rv: values[rv.name] for rv in model.free_RVs if rv.name in values}


def sampler(variables: Sequence[Variable], given: Sequence[Variable], mode: Mode | None = PLAIN) -> DrawGiven:
    """A function that draws variables given the values of others; nothing is compiled, unless in another mode.

    The draws are the same in all modes.
    """
    inputs = {rv: rv.type() for rv in given}
    outputs = graph_replace([unscaled(rv) for rv in variables], inputs, strict=False)
    shared = find_rng_nodes(outputs)
    generators = [rng.type() for rng in shared]  # the model's own stay as they are
    outputs = graph_replace(outputs, dict(zip(shared, generators, strict=True)), strict=False) if shared else outputs
    run = function([*generators, *inputs.values()], outputs, mode=mode, on_unused_input="ignore")

    def draw(rng: np.random.Generator, values: Values) -> dict[str, np.ndarray]:
        own = [np.asarray(values[rv], dtype=rv.type.dtype) for rv in inputs]
        arrays = run(*rng.spawn(len(generators)), *own)
        return {str(v.name): np.asarray(a) for v, a in zip(variables, arrays, strict=True)}

    return draw


def culprit(variables: Sequence[Variable], given: Sequence[Variable], values: Values) -> str:
    """The variables that cannot be drawn."""
    failed = []
    for variable in variables:
        try:
            sampler([variable], given)(np.random.default_rng(0), values)
        except Exception:
            failed.append(repr(variable.name))
    return ", ".join(failed) or "a variable"
