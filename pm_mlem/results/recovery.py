"""What posterior draws of the parameters say about everything else: latents, Deterministics, units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
import xarray as xr
from pymc.pytensorf import find_rng_nodes
from pytensor.graph.basic import Variable
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors

from pm_mlem.errors import warn
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.structure import PLAIN
from pm_mlem.graph.tables.counts import edges
from pm_mlem.results.datatree import data_groups
from pm_mlem.results.latents import probabilities

Draws = Mapping[str, np.ndarray]
"""Values by name, draws along the first axis."""
CUT_OFF = 1e-6
"""Posterior probability near the largest count that is enumerated which should not go unnoticed."""


@dataclass(frozen=True, eq=False)
class Recovered:
    """Latents and log-likelihoods at posterior draws.

    Attributes
    ----------
    states : for each latent its states at every draw, ``(draws, *shape)``
    probabilities : for each latent its posterior probabilities, states first, averaged over the draws
    units : log-likelihood of every unit at every draw, or None
    """

    states: Draws
    probabilities: Draws
    units: np.ndarray | None


def recover(estimate: Estimate, parameters: Draws, seed: int, pointwise: bool = False) -> Recovered:
    """Draws of the latents given draws of the parameters (constrained space), one configuration for each."""
    means, states, units = estimate.target.recovered(parameters, seed, pointwise)
    names = estimate.target.readout.latent_names
    return Recovered(
        dict(zip(names, map(np.asarray, states), strict=True)),
        dict(zip(names, map(np.asarray, means), strict=True)),
        None if units is None else np.asarray(units),
    )


def extended(
    estimate: Estimate, posterior: xr.Dataset, seed: int, pointwise: bool = False
) -> tuple[xr.Dataset, dict[str, xr.Dataset], list[str]]:
    """Draws of the parameters with latents, missing data and Deterministics beside them.

    Returns
    -------
    posterior
    groups : ``latent_posterior`` where there are latents, ``log_likelihood`` if ``pointwise``
    left_out : what cannot be evaluated

    Warns
    -----
    UserWarning
        Counts reach the largest that is enumerated.
    """
    chains = posterior.sizes["chain"]
    drawn = {str(name): flattened(array) for name, array in posterior.data_vars.items()}
    found = recover(estimate, drawn, seed, pointwise)
    values, left_out = follow(estimate, {**drawn, **found.states}, seed)
    draws = {"chain": posterior["chain"], "draw": posterior["draw"]}
    arrays = labelled(estimate, {**found.states, **values}, chains)
    posterior = posterior.assign({name: array.assign_coords(draws) for name, array in arrays.items()})
    groups = {}
    if found.probabilities:
        groups["latent_posterior"] = latent_posterior(estimate, found)
    if found.units is not None:
        groups["log_likelihood"] = log_likelihood(estimate, found.units, chains).assign_coords(draws)
    if sentence := cut_off(estimate, found):
        warn(sentence)
    return posterior, groups, left_out


def cut_off(estimate: Estimate, found: Recovered) -> str:
    """A sentence about counts whose posterior reaches beyond what is enumerated."""
    pressing = {n: mass for n, mass in edges(estimate.target.tables, found.probabilities).items() if mass > CUT_OFF}
    if not pressing:
        return ""
    listed = ", ".join(f"'{name}' (probability {mass:.1g})" for name, mass in pressing.items())
    return (
        f"Posterior draws reach the largest states that are enumerated of {listed}. Give these counts a bound, with "
        "pm.DiscreteUniform or pm.Binomial."
    )


# --- Deterministics and missing data ----------------------------------------------------------------------


def follow(estimate: Estimate, values: Draws, seed: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """What follows from draws of parameters and latents: missing entries of observed variables, Deterministics.

    Missing entries that the likelihood does not depend on are drawn from their distribution.

    Returns
    -------
    values : by name, draws along the first axis, without those that were given
    left_out : what depends on a variable that is not given
    """
    model, structure = estimate.target.source, estimate.target.structure
    inputs = {rv: rv.type() for rv in model.free_RVs if rv.name in values}
    given: dict[Variable, Variable] = dict(inputs)
    given |= {rv: pt.constant(structure.fixed[rv.name], dtype=rv.type.dtype) for rv in model.free_RVs
              if rv.name in structure.fixed}  # fmt: skip
    given |= {rv: model.rvs_to_values[rv] for rv in model.observed_RVs}
    drawn = {rv for rv in model.free_RVs if rv not in given and rv.name in structure.dropped}
    unknown = {rv for rv in model.free_RVs if rv not in given} - drawn
    wanted = [v for v in [*drawn, *model.deterministics] if v.name not in values]
    left_out = [v.name for v in [*unknown, *wanted] if v in unknown or unknown & set(ancestors([v], blockers=given))]
    wanted = [v for v in wanted if v.name not in left_out]
    if not wanted:
        return {}, left_out
    outputs = graph_replace(wanted, given, strict=False)
    shared = find_rng_nodes(outputs)
    generators = [rng.type() for rng in shared]  # the model's own stay as they are
    outputs = graph_replace(outputs, dict(zip(shared, generators, strict=True)), strict=False) if shared else outputs
    run = function([*generators, *inputs.values()], outputs, mode=PLAIN, on_unused_input="ignore")
    arrays = [np.asarray(values[rv.name], dtype=rv.type.dtype) for rv in inputs]
    rng, n = np.random.default_rng(seed), len(next(iter(values.values())))
    found = [run(*rng.spawn(len(generators)), *[a[i] for a in arrays]) for i in range(n)]
    return {v.name: np.stack(column) for v, column in zip(wanted, zip(*found, strict=True), strict=True)}, left_out


# --- labels -----------------------------------------------------------------------------------------------


def labelled(estimate: Estimate, values: Draws, chains: int) -> dict[str, xr.DataArray]:
    """Draws by name with the dims and coords of the model behind ``chain`` and ``draw``."""
    return {name: along_chains(estimate.labels.array(name, array[0]), array, chains) for name, array in values.items()}


def along_chains(one: xr.DataArray, draws: np.ndarray, chains: int) -> xr.DataArray:
    """Draws labelled like one of them."""
    shaped = draws.reshape(chains, len(draws) // chains, *one.shape)
    coords = {"chain": np.arange(chains), "draw": np.arange(shaped.shape[1]), **one.coords}
    return xr.DataArray(shaped, dims=("chain", "draw", *one.dims), coords=coords, name=one.name)


SUMMED_OUT = "summed out"
"""How log-likelihoods by draw treat the latents, in the attribute ``latents`` of their group."""


def log_likelihood(estimate: Estimate, units: np.ndarray, chains: int) -> xr.Dataset:
    """Log-likelihoods (draws, units) by independent unit, as in ``Fit.pointwise_log_likelihood``."""
    joined = estimate.independent
    summed = np.stack([np.bincount(joined, row) for row in units])
    groups = estimate.data_groups  # a penalty cannot be left out by cross-validation
    arrays = {}
    for group in groups:
        own = summed[:, group.units]
        arrays[group.name] = along_chains(estimate.labels.units(group, own[0]), own, chains)
    return xr.Dataset(arrays, attrs={"latents": SUMMED_OUT})


def latent_posterior(estimate: Estimate, found: Recovered) -> xr.Dataset:
    """Posterior probabilities of the latents averaged over the draws."""
    return probabilities(estimate.target.tables, estimate.labels, found.probabilities)


def in_model_order(estimate: Estimate, names: Sequence[str]) -> list[str]:
    """Names in the order of the model's variables: free ones, hidden components, Deterministics."""
    model = estimate.target.model
    free, derived = ([v.name for v in variables] for variables in (model.free_RVs, model.deterministics))
    return [n for n in [*free, *[n for n in names if n not in {*free, *derived}], *derived] if n in set(names)]


def flattened(array: xr.DataArray) -> np.ndarray:
    """Draws of all chains along the first axis."""
    array = array.transpose("chain", "draw", ...)
    return np.asarray(array).reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def data_of(estimate: Estimate) -> dict[str, xr.Dataset]:
    """Groups of data of the user's model; what is held with ``fixed=`` is a constant."""
    groups = data_groups(estimate.target.source, estimate.labels)
    held = list(estimate.target.structure.fixed)
    if held:
        constants = estimate.labels.dataset({name: estimate.reported[name] for name in held})
        groups["constant_data"] = xr.merge([groups.get("constant_data", xr.Dataset()), constants])
    return groups
