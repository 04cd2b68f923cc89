"""An estimate labelled: parameters and Deterministics, latents, log-likelihoods by unit."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pm_mlem.estimate.estimate import Estimate
from pm_mlem.results.latents import decoded, probabilities


def parameters_and_deterministics(estimate: Estimate) -> xr.Dataset:
    """See :attr:`pm_mlem.Fit.estimates`."""
    skipped = estimate.target.tables.skipped
    left_out = {"left_out": "; ".join(f"{n}: {why}" for n, why in skipped.items())} if skipped else {}
    return estimate.labels.dataset(estimate.reported, estimator=estimate.target.estimator, **left_out)


def latent_probabilities(estimate: Estimate) -> xr.Dataset:
    """See :attr:`pm_mlem.Fit.latent_probabilities`."""
    return probabilities(estimate.target.tables, estimate.labels, estimate.latents)


def pointwise_log_likelihood(estimate: Estimate) -> xr.Dataset:
    """See :attr:`pm_mlem.Fit.pointwise_log_likelihood`."""
    units = np.bincount(estimate.independent, estimate.weighted_units)
    return xr.Dataset({g.name: estimate.labels.units(g, units[g.units]) for g in estimate.independent_groups})


def decoded_states(estimate: Estimate) -> xr.Dataset:
    """See :meth:`pm_mlem.Fit.decode`."""
    target = estimate.target
    names = target.readout.latent_names
    if not names:
        raise ValueError("The model has no discrete latent variables to decode.")
    states, joint = target.decode(estimate.point)
    with np.errstate(invalid="ignore"):  # impossible units of weight 0
        units = joint - estimate.units
    return decoded(target.tables, estimate.labels, names, states, units, target.weights)
