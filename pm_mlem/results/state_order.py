"""The states of latents in the order of a fit: in draws, in other fits, wherever several results stand side by side."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from pm_mlem.errors import NotIdentifiedError
from pm_mlem.estimate.alignment import Alignment, permuted
from pm_mlem.estimate.alignment import align as match
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.objective.space import ParameterSpace
from pm_mlem.results.bootstrap import AMBIGUOUS, MOST_AMBIGUOUS
from pm_mlem.results.reported import Reported, is_fit
from pm_mlem.results.statistics import SAMPLE

# --- several results ----------------------------------------------------------------------------------------


def in_one_order(results: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Results with their states in the order of the first fit that has latents, and notes on what was done.

    Raises
    ------
    NotIdentifiedError
        The states of a latent cannot be told apart in many draws.
    """
    first, found, notes = first_with_latents(results), dict(results), []
    for name, item in results.items() if first is not None else ():
        if name != first:
            found[name], more = in_order(results[first], first, item, name)
            notes += more
    return found, notes


def estimates_of(results: Mapping[str, Any]) -> dict[str, Estimate]:
    """The estimates whose model is at hand, by name."""
    found = {name: item._estimate for name, item in results.items() if is_fit(item)}
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def first_with_latents(results: Mapping[str, Any]) -> str | None:
    """The first fit that has discrete latents and can evaluate its model."""
    return next((n for n, e in estimates_of(results).items() if e.target.structure.components), None)


def latents_of(results: Mapping[str, Any]) -> tuple[str, ...]:
    name = first_with_latents(results)
    return () if name is None else tuple(item.name for item in results[name]._estimate.target.structure.latents)


def in_order(to: Reported, to_name: str, item: Any, name: str) -> tuple[Any, list[str]]:
    """A result with its states in the order of a fit, and notes on what was done."""
    posterior = item.estimates.expand_dims(chain=1, draw=1) if is_fit(item) else item["posterior"].to_dataset()
    try:
        draws = flat_draws(to._estimate.target.space, posterior)
    except ValueError as error:
        return item, [f"The states of '{name}' are as they are: {error}"]
    try:
        if is_fit(item):
            order = match(to._estimate, draws)
            check_order(order, 1)
            return (item, []) if not order.renamed(1)[0] else renamed_fit(to_name, item, name, order, draws)
        tree = aligned_tree(item, to._estimate, "responsibilities")
    except NotIdentifiedError as error:
        raise NotIdentifiedError(
            f"'{name}' cannot be aligned with '{to_name}'. {error} align=False leaves them as they are."
        ) from error
    how = tree["alignment"].attrs
    if not (how["relabelled"] or how["ambiguous"]):
        return tree, []
    note = (
        f"{how['relabelled']} of {how['draws']} draws of '{name}' were relabelled to the states of '{to_name}', "
        f"{how['ambiguous']} ambiguously (smallest margin {how['smallest_margin']:.2f})."
    )
    return tree, [note]


def renamed_fit(to_name: str, fit: Any, name: str, order: Alignment, draws) -> tuple[Any, list[str]]:
    """The same fit at the point where its states have other names, if it is one."""
    margin = min(float(m[0]) for m in order.margins)
    estimate = fit._estimate
    if estimate is not None:
        target, values = estimate.target, order.apply(draws)
        own = {n: values[n][0] if n in values else estimate.values[n] for n in target.space.names}
        with suppress(ValueError):  # its parameters may not allow it: held, or ordered by a transform
            point = target.space.unconstrain(own)
            if np.isclose(target.value(point), estimate.optimum.value, rtol=1e-9, atol=1e-9):
                moved = replace(fit, _estimate=estimate.moved(point))
                return moved, [f"The states of '{name}' were renamed to those of '{to_name}' (margin {margin:.2f})."]
    return fit, [
        f"The states of '{name}' have another order than those of '{to_name}' (margin {margin:.2f}) and cannot be "
        "renamed: its priors, held values or transforms tell them apart, or its model is not at hand."
    ]


# --- draws --------------------------------------------------------------------------------------------------


def aligned_tree(datatree: xr.DataTree, estimate: Estimate, by: str) -> xr.DataTree:
    """See :func:`pm_mlem.align`."""
    posterior = datatree["posterior"].to_dataset()
    draws = flat_draws(estimate.target.space, posterior)
    found = match(estimate, draws, by)
    check_order(found, len(next(iter(draws.values()), ())))
    report = summary(found, posterior, by)
    attributes = report.attrs
    groups = {k: v for k, v in datatree.to_dict().items() if not k.startswith("/unconstrained_posterior")}
    groups["/posterior"] = reordered(estimate, found, draws, posterior).assign_attrs({**posterior.attrs, **attributes})
    groups["/alignment"] = report
    tree = xr.DataTree.from_dict(groups, name=datatree.name)
    tree.attrs.update(datatree.attrs)
    return tree


def flat_draws(space: ParameterSpace, posterior: xr.Dataset) -> dict[str, np.ndarray]:
    """Constrained values of the free parameters, ``(chains * draws, *shape)``."""
    draws = {}
    for name in space.names:
        if name not in posterior:
            raise ValueError(
                f"The posterior has no '{name}', a parameter of the fit; draws can be aligned with fits of the same "
                "model only."
            )
        array = posterior[name].transpose(*SAMPLE, ...).values
        if array.shape[2:] != space.shapes[name]:
            raise ValueError(
                f"'{name}' has shape {array.shape[2:]} in the posterior and {space.shapes[name]} in the fit; draws can "
                "be aligned with fits of the same model only."
            )
        draws[name] = array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
    return draws


def check_order(found: Alignment, n: int) -> None:
    """Refuse draws whose states cannot be told apart."""
    for symmetry, margins in zip(found.symmetries, found.margins, strict=True):
        doubtful = int(np.sum(~(margins >= AMBIGUOUS)))
        if doubtful > MOST_AMBIGUOUS * n:
            raise NotIdentifiedError(
                f"The states of '{symmetry.latents[0]}' cannot be told apart in {doubtful} of {n} draws, so the "
                "parameters of single states have no posterior of their own. Use fewer states, priors or a transform "
                "that order them, or align by other means (by='parameters', by='responsibilities'); quantities that "
                "do not depend on the names of states need no alignment."
            )


def summary(found: Alignment, posterior: xr.Dataset, by: str) -> xr.Dataset:
    """The group ``alignment``."""
    sizes = tuple(posterior.sizes[d] for d in SAMPLE)
    n, arrays = int(np.prod(sizes)), {}
    doubtful, smallest = np.zeros(n, dtype=bool), 1.0
    for symmetry, order, margins in zip(found.symmetries, found.permutations, found.margins, strict=True):
        for name in symmetry.latents:
            arrays[f"{name}_margin"] = (SAMPLE, margins.reshape(sizes))
            arrays[f"{name}_order"] = ((*SAMPLE, f"{name}_state"), order.reshape(*sizes, -1))
        doubtful |= ~(margins >= AMBIGUOUS)
        smallest = min(smallest, float(np.min(margins, initial=1.0)))
    attributes: dict[str, Any] = {"aligned_by": by, "draws": n, "relabelled": int(found.renamed(n).sum())}
    attributes |= {"ambiguous": int(doubtful.sum()), "smallest_margin": smallest}
    return xr.Dataset(arrays, coords={d: posterior.coords[d] for d in SAMPLE}, attrs=attributes)


def reordered(estimate: Estimate, found: Alignment, draws: dict[str, np.ndarray], posterior: xr.Dataset) -> xr.Dataset:
    """The posterior with all that depends on the order of the states in the order of the fit."""
    shape = tuple(posterior.sizes[d] for d in SAMPLE)
    renamed = found.renamed(int(np.prod(shape)))
    if not renamed.any():
        return posterior
    parameters = found.apply(draws)
    computed = deterministics(estimate, {n: v[renamed] for n, v in parameters.items()}, posterior)
    known = {*estimate.target.readout.names, *estimate.target.structure.fixed}
    result = posterior.copy()
    for name in map(str, posterior.data_vars):
        array = posterior[name]
        if not set(SAMPLE) <= set(array.dims):
            continue
        ordered = array.transpose(*SAMPLE, ...)
        values = ordered.values.reshape(ordered.shape[0] * ordered.shape[1], *ordered.shape[2:]).copy()
        if name in parameters:
            values = parameters[name]
        elif name in computed:
            values[renamed] = computed[name].reshape(values[renamed].shape)
        elif (states := states_drawn(estimate, found, name, values)) is not None:
            values = states
        elif name not in known or name in estimate.target.readout.of_latents:
            values = along_dims(estimate, found, ordered.dims[2:], values)
        result[name] = ordered.copy(data=values.reshape(ordered.shape)).transpose(*array.dims)
    return result


def deterministics(
    estimate: Estimate, parameters: dict[str, np.ndarray], posterior: xr.Dataset
) -> dict[str, np.ndarray]:
    """Deterministics of the parameters alone, as far as the posterior has them."""
    readout, space = estimate.target.readout, estimate.target.space
    wanted = [d.name for d in readout.derived if d.name in posterior and d.name not in readout.of_latents]
    if not wanted:
        return {}
    count = len(next(iter(parameters.values())))
    points = [space.unconstrain({n: v[i] for n, v in parameters.items()}) for i in range(count)]
    return estimate.target.estimands(np.array(points), wanted)


def states_drawn(estimate: Estimate, found: Alignment, name: str, values: np.ndarray) -> np.ndarray | None:
    """Draws of a latent with its states renamed; None for other variables."""
    structure = estimate.target.structure
    for symmetry, order in zip(found.symmetries, found.permutations, strict=True):
        if name in symmetry.latents:
            lower = structure.vector_of(name)[1].lower
            new = np.argsort(order, axis=1).reshape(len(order), *[1] * (values.ndim - 2), -1)
            index = (values - lower).astype(int)
            if values.ndim == 1:
                return np.take_along_axis(new, index[:, None], axis=1)[:, 0] + lower
            return np.take_along_axis(np.broadcast_to(new, (*values.shape[:-1], order.shape[1])), index, -1) + lower
    return None


def along_dims(estimate: Estimate, found: Alignment, dims: tuple, values: np.ndarray) -> np.ndarray:
    """Values permuted along the dims that belong to the states."""
    for symmetry, order in zip(found.symmetries, found.permutations, strict=True):
        own = {f"{latent}_state" for latent in symmetry.latents}
        for name, axis in symmetry.axes:
            if isinstance(name, str):
                own.add(estimate.labels.dims_of(name, estimate.values[name].ndim)[axis])
        axes = tuple(("values", d) for d, dim in enumerate(dims) if dim in own)
        values = permuted({"values": values}, axes, order)["values"]
    return values
