"""New data from a fitted model, with and without the uncertainty of its parameters."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence

import numpy as np
import pymc as pm
import xarray as xr
from pytensor.graph.basic import Variable

from pm_mlem.errors import NotIdentifiedError
from pm_mlem.estimate.draws import Draws
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.labels import Labels, unknown
from pm_mlem.estimate.simulate import DrawGiven, checked_sampler, sampler, values_in
from pm_mlem.graph.roles.snapshot import copy_with
from pm_mlem.results.datatree import attributes, data_groups, posterior, tree_of
from pm_mlem.results.draws import draws_of, labelled
from pm_mlem.results.predict import Coords, Data, with_new_data
from pm_mlem.results.reported import Reported

PARAMETERS = ("draws", "estimates")
SLOW = 20.0
"""Seconds without a compiler from which a function that draws is compiled."""


def sample_posterior_predictive(
    fit: Reported,
    draws: int,
    chains: int,
    random_seed: int | None,
    parameters: str,
    var_names: Sequence[str] | None,
    replicates: Draws | None,
    data: Data | None,
    coords: Coords | None,
) -> xr.DataTree:
    """See :meth:`pm_mlem.Fit.sample_posterior_predictive`."""
    estimate, rng = fit._estimate, np.random.default_rng(random_seed)
    drawn = parameter_draws(estimate, draws, chains, rng, parameters, replicates)
    new = data is not None or coords is not None
    target = estimate.target
    model = copy_with(target.model, with_new_data(target, data or {}, coords)) if new else target.source
    arrays = simulated(estimate, model, chosen(estimate, model, var_names), drawn, rng)
    labels = Labels(model.named_vars_to_dims, model.coords) if new else estimate.labels
    found = data_groups(model, labels)
    predictive = labelled(labels, drawn, arrays).assign_attrs(parameters=drawn.approximation)
    groups = {"posterior": posterior(estimate, drawn)}
    if new:
        groups["predictions"] = predictive
        if "constant_data" in found:
            groups["predictions_constant_data"] = found["constant_data"]
    else:
        groups |= {"posterior_predictive": predictive, **found}
    return tree_of(groups, attributes(fit), {})


def parameter_draws(
    estimate: Estimate, draws: int, chains: int, rng: np.random.Generator, parameters: str, replicates: Draws | None
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
            return draws_of(estimate, draws, chains, rng, replicates)
        except NotIdentifiedError as error:
            raise NotIdentifiedError(f"{error} Use parameters='estimates' for data at the estimates alone.") from None
    if replicates is not None:
        raise ValueError("bootstrap= belongs to parameters='draws', not to 'estimates'.")
    points = np.repeat(estimate.point[None], draws * chains, axis=0)
    return Draws(points, chains, "the estimates, without their uncertainty")


def chosen(estimate: Estimate, model: pm.Model, names: Sequence[str] | None) -> list[Variable]:
    """The variables of a model that are drawn.

    Raises
    ------
    ValueError
        A parameter, or no variable at all.
    """
    observed = [rv for rv in model.observed_RVs if rv.name in estimate.target.structure.observed]
    if names is None:
        return observed
    held = {rv.name for rv in values_in(model, estimate)}
    latents = [rv for rv in model.free_RVs if rv.name not in held]
    known = {str(v.name): v for v in [*observed, *latents, *model.deterministics]}
    for name in names:
        if name in held:
            raise ValueError(f"var_names: '{name}' is a parameter; its draws are in the group 'posterior'.")
        if name not in known:
            raise ValueError(unknown(name, list(known), "var_names"))
    return [known[name] for name in names]


def simulated(
    estimate: Estimate, model: pm.Model, variables: Sequence[Variable], drawn: Draws, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Variables drawn from their distributions given the parameters of each draw, draws first."""
    values = values_in(model, estimate)
    draw = checked_sampler(model, variables, list(values), values)
    began = time.perf_counter()
    draw(np.random.default_rng(0), values)
    if (time.perf_counter() - began) * len(drawn.points) > SLOW:
        draw = compiled(variables, list(values), draw)
    by_name = estimate.target.constrained(drawn.points)
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
