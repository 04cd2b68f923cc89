"""New data from a fitted model, with and without the uncertainty of its parameters."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from pytensor.graph.basic import Variable

from pm_mlem.errors import NotIdentifiedError
from pm_mlem.estimate.labels import Labels, unknown
from pm_mlem.estimate.simulate import DrawGiven, checked_sampler, estimates_of, sampler
from pm_mlem.graph.roles.dims import plain
from pm_mlem.results.datatree import attributes, data_groups, posterior, tree_of
from pm_mlem.results.draws import Draws, check_sizes, constrained, draws_of, labelled
from pm_mlem.results.hypothesis_tests import check_data
from pm_mlem.results.predict import Coords, Data, new_data

if TYPE_CHECKING:
    from pm_mlem.results.bootstrap import Bootstrap
    from pm_mlem.results.fit import Fit

PARAMETERS = ("draws", "estimates")
SLOW = 20.0
"""Seconds without a compiler from which a function that draws is compiled."""


def sample_posterior_predictive(
    fit: Fit,
    draws: int,
    chains: int,
    random_seed: int | None,
    parameters: str,
    var_names: Sequence[str] | None,
    bootstrap: Bootstrap | None,
    data: Data | None,
    coords: Coords | None,
) -> xr.DataTree:
    """See :meth:`pm_mlem.Fit.sample_posterior_predictive`."""
    check_data(fit)
    rng = np.random.default_rng(random_seed)
    drawn = parameter_draws(fit, draws, chains, rng, parameters, bootstrap)
    variables = chosen(fit, var_names)
    new = data is not None or coords is not None
    with new_data(fit.model, data or {}, coords) if new else nullcontext():
        arrays = simulated(fit, variables, drawn, rng)
        labels = Labels(fit.model.named_vars_to_dims, fit.model.coords) if new else fit._labels
        found = data_groups(fit, labels)
    predictive = labelled(labels, drawn, arrays).assign_attrs(parameters=drawn.approximation)
    groups = {"posterior": posterior(fit, drawn)}
    if new:
        groups["predictions"] = predictive
        if "constant_data" in found:
            groups["predictions_constant_data"] = found["constant_data"]
    else:
        groups |= {"posterior_predictive": predictive, **found}
    return tree_of(groups, attributes(fit), {})


def parameter_draws(
    fit: Fit, draws: int, chains: int, rng: np.random.Generator, parameters: str, bootstrap: Bootstrap | None
) -> Draws:
    """The parameters of each data set.

    Raises
    ------
    ValueError
        Wrong arguments.
    NotIdentifiedError
        The estimator has no normal approximation.
    """
    if parameters not in PARAMETERS:
        raise ValueError(f"parameters={parameters!r} is unknown; use 'draws' or 'estimates'.")
    if parameters == "draws":
        try:
            return draws_of(fit, draws, chains, rng, bootstrap)
        except NotIdentifiedError as error:
            raise NotIdentifiedError(f"{error} Use parameters='estimates' for data at the estimates alone.") from None
    if bootstrap is not None:
        raise ValueError("bootstrap= belongs to parameters='draws', not to 'estimates'.")
    check_sizes(draws, chains)
    points = np.repeat(fit._optimum.point[None], draws * chains, axis=0)
    return Draws(points, chains, "the estimates, without their uncertainty")


def chosen(fit: Fit, names: Sequence[str] | None) -> list[Variable]:
    """The variables that are drawn.

    Raises
    ------
    ValueError
        A parameter, or no variable at all.
    """
    model, structure = plain(fit.model), fit._engine.objective.tables.structure
    observed = [rv for rv in model.observed_RVs if rv.name in structure.observed]
    if names is None:
        return observed
    held = {rv.name for rv in estimates_of(fit)}
    latents = [rv for rv in model.free_RVs if rv.name not in held]
    known = {str(v.name): v for v in [*observed, *latents, *model.deterministics]}
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name in held:
            raise ValueError(f"var_names: '{name}' is a parameter; its draws are in the group 'posterior'.")
        if name not in known:
            raise ValueError(unknown(name, list(known), "var_names"))
    return [known[name] for name in names]


def simulated(fit: Fit, variables: Sequence[Variable], drawn: Draws, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Variables drawn from their distributions given the parameters of each draw, draws first."""
    values = estimates_of(fit)
    draw = checked_sampler(plain(fit.model), variables, list(values), values)
    began = time.perf_counter()
    draw(np.random.default_rng(0), values)
    if (time.perf_counter() - began) * len(drawn.points) > SLOW:
        draw = compiled(variables, list(values), draw)
    by_name = constrained(fit, drawn.points)
    found = []
    for i in range(len(drawn.points)):
        found.append(draw(rng, {rv: by_name[rv.name][i] if rv.name in by_name else v for rv, v in values.items()}))
    return {str(v.name): np.stack([one[v.name] for one in found]) for v in variables}


def compiled(variables: Sequence[Variable], given: Sequence[Variable], otherwise: DrawGiven) -> DrawGiven:
    """The same function by PyTensor's default linker; as it is where that cannot compile it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts that stay Python
        try:
            return sampler(variables, given, mode=None)
        except Exception:
            return otherwise
