"""Data drawn from a fitted model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytensor.tensor as pt
from pymc.pytensorf import find_rng_nodes
from pytensor import function
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace

from pm_mlem.graph.densities import unscaled
from pm_mlem.graph.dims import plain
from pm_mlem.graph.structure import PLAIN

if TYPE_CHECKING:
    from pm_mlem.results.fit import Fit

Draw = Callable[[np.random.Generator], dict[str, np.ndarray]]


def simulate(fit: Fit, n: int, random_seed: int | None = None) -> dict[str, np.ndarray]:
    """Draws of all observed variables from a fitted model.

    Parameters
    ----------
    fit : Fit
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
    draw, rng = simulator(fit), np.random.default_rng(random_seed)
    drawn = [draw(rng) for _ in range(n)]
    return {name: np.stack([values[name] for values in drawn]) for name in (drawn[0] if drawn else ())}


def simulator(fit: Fit) -> Draw:
    """A function that draws all observed variables: parameters at their estimates, latents from their distribution.

    Raises
    ------
    ValueError
        The model has Potentials, or a distribution that cannot be drawn from (found by drawing once).
    """
    if fit.model.potentials:
        raise ValueError(
            f"Data cannot be drawn from the model: its Potential '{fit.model.potentials[0].name}' is a density, not a "
            "distribution; use kind='case', or write it as an observed variable."
        )
    observed = fit._engine.objective.tables.structure.observed
    variables = [rv for rv in plain(fit.model).observed_RVs if rv.name in observed]
    draw = sampler(variables, estimates_of(fit))
    try:
        draw(np.random.default_rng(0))
    except Exception as error:  # anything may happen in a user's random()
        raise ValueError(
            f"Data cannot be drawn from the model: {culprit(variables, estimates_of(fit))} cannot be simulated "
            f"({error}); give it a random function, or use kind='case'."
        ) from error
    return draw


def estimates_of(fit: Fit) -> dict[Variable, np.ndarray]:
    """The values of all parameters, and of whatever else is held."""
    values = {**fit._engine.objective.tables.structure.fixed, **fit._report[0]}
    return {rv: values[rv.name] for rv in plain(fit.model).free_RVs if rv.name in values}


def sampler(variables: list[Variable], values: dict[Variable, np.ndarray]) -> Draw:
    """A function that draws variables given the values of others; nothing is compiled."""
    given = {rv: pt.constant(value, dtype=rv.type.dtype) for rv, value in values.items()}
    outputs = graph_replace([unscaled(rv) for rv in variables], given, strict=False)
    shared = find_rng_nodes(outputs)
    generators = [rng.type() for rng in shared]  # the model's own stay as they are
    outputs = graph_replace(outputs, dict(zip(shared, generators, strict=True)), strict=False) if shared else outputs
    run = function(generators, outputs, mode=PLAIN, on_unused_input="ignore")

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        arrays = run(*rng.spawn(len(generators)))
        return {rv.name: np.asarray(a) for rv, a in zip(variables, arrays, strict=True)}

    return draw


def culprit(variables: list[Variable], values: dict[Variable, np.ndarray]) -> str:
    """The observed variables that cannot be drawn."""
    failed = []
    for rv in variables:
        try:
            sampler([rv], values)(np.random.default_rng(0))
        except Exception:
            failed.append(repr(rv.name))
    return ", ".join(failed) or "a variable"
