"""Draws of the estimator's sampling distribution as labelled arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from pm_mlem.estimate.draws import Draws, Seed, normal_draws
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.labels import Labels


def draws_of(estimate: Estimate, draws: int, chains: int, random_seed: Seed, given: Draws | None = None) -> Draws:
    """Draws that are at hand (the replicates of a bootstrap), or new ones from the normal approximation.

    Raises
    ------
    NotIdentifiedError
        The estimator has no normal approximation.
    ValueError
        Numbers that are not positive.
    """
    if given is not None:
        return given
    return replace(normal_draws(estimate, draws * chains, random_seed), chains=chains)


def labelled(labels: Labels, draws: Draws, values: dict[str, np.ndarray]) -> xr.Dataset:
    """Arrays of variables at draws (draws first) with the dims and coords of the model."""
    arrays = {n: with_samples(draws, labels.array(n, v[0]), v) for n, v in values.items()}
    return xr.Dataset(arrays, coords=draws.coords)


def with_samples(draws: Draws, one: xr.DataArray, values: Sequence | np.ndarray) -> xr.DataArray:
    """One labelled array for each draw, from the label of the first and the values of all."""
    coords = {**draws.coords, **{d: one.coords[d] for d in one.dims}}
    return xr.DataArray(draws.shaped(np.asarray(values)), dims=("chain", "draw", *one.dims), coords=coords)
