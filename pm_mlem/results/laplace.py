"""Laplace's approximation of the posterior of a fitted model, and how good it is."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from pm_mlem.errors import NotIdentifiedError
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.posterior_mode import check_posterior, posterior_mode
from pm_mlem.results import recovery
from pm_mlem.results.datatree import attributes
from pm_mlem.results.reported import Reported

FEWEST = 100
"""Draws that the shape of the largest ratios can be told from."""
EQUAL = 1e-6
"""Log-ratios that differ by less are the same: the posterior is normal."""
CLOSE = 0.5
"""Shape of the largest ratios up to which their variance is finite (Yao et al. 2018)."""


def laplace(fit: Reported, draws: int, random_seed: int | None, resample: bool) -> xr.DataTree:
    estimate = fit._estimate
    check_posterior(estimate)
    if draws < FEWEST:
        raise ValueError(f"draws={draws} is too few to tell how good the approximation is; use {FEWEST} or more.")
    mode = estimate.kept(posterior_mode)
    if mode.reason:
        raise NotIdentifiedError(
            f"There is no normal approximation of the posterior: {mode.reason}. Give the parameters proper priors, "
            "write hierarchical effects as scale times standard normal, or sample: mlem.sample(fit)."
        )
    rng = np.random.default_rng(random_seed)
    points = mode.normal.draws(draws, rng)
    exact, normal = mode.log_density(points), mode.normal.log_density(points)
    log_weights, k = smoothed(exact - normal)
    stats = {"lp": exact, "log_q": normal, "log_weight": log_weights}
    if resample:
        weights = np.exp(log_weights)
        chosen = rng.choice(draws, size=draws, p=weights / weights.sum())
        points, stats = points[chosen], {"lp": exact[chosen], "log_q": normal[chosen]}
    good = min(1.0 - 1.0 / math.log10(draws), 0.7)
    shared = attributes(fit)
    posterior, groups, left_out = recovery.extended(estimate, parameters(estimate, points), int(rng.integers(2**31)))
    names = recovery.in_model_order(estimate, [str(n) for n in posterior.data_vars])
    notes = {
        **shared,
        "approximation": "normal approximation of the posterior (Laplace), unconstrained space"
        + (", importance resampled" if resample else ""),
        "pareto_k": k, "good_k": good, "message": verdict(k, good), "sample_dims": ["chain", "draw"],
    }  # fmt: skip
    if left_out:
        notes["left_out"] = ", ".join(left_out)
    groups = {"posterior": posterior[names].assign_attrs(notes), **groups}
    coords = {"chain": [0], "draw": np.arange(draws)}
    groups["sample_stats"] = xr.Dataset({n: (("chain", "draw"), v[None]) for n, v in stats.items()}, coords)
    groups["approximation"] = normal_of(estimate).assign_attrs(sample_dims=[])
    tree = xr.DataTree.from_dict({f"/{name}": data for name, data in {**groups, **recovery.data_of(estimate)}.items()})
    tree.attrs.update(shared)
    return tree


def smoothed(log_ratios: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed log-weights, normalized, and the shape k of the largest ratios; -inf where all are equal."""
    from arviz_stats.base import array_stats

    finite = np.isfinite(log_ratios)
    ratios = np.where(finite, log_ratios, np.min(log_ratios[finite], initial=0.0) - 700.0)
    ratios = ratios - ratios.max()
    if np.ptp(ratios) < EQUAL:
        return np.full(len(ratios), -math.log(len(ratios))), -math.inf
    log_weights, k = array_stats.psislw(-ratios)
    return np.asarray(log_weights), float(k)


def verdict(k: float, good: float) -> str:
    """A sentence about the approximation."""
    if k == -math.inf:
        return "The posterior of the unconstrained parameters is normal: the approximation is exact."
    start = f"Pareto k = {k:.2f}: "
    if k < min(CLOSE, good):
        return start + "the normal approximation is close to the posterior."
    if k < good:
        return start + "the normal approximation is usable with importance weights (resample=True)."
    return start + (
        f"the normal approximation is not to be trusted (k should be below {good:.2f}), with importance weights or "
        "without; sample the posterior: mlem.sample(fit)."
    )


def parameters(estimate: Estimate, points: np.ndarray) -> xr.Dataset:
    """Points of the unconstrained space (n, p) as labelled draws of the parameters."""
    return xr.Dataset(recovery.labelled(estimate, estimate.target.constrained(points), 1))


def normal_of(estimate: Estimate) -> xr.Dataset:
    """Mean and covariance in the unconstrained space."""
    normal, labels = estimate.kept(posterior_mode).normal, list(estimate.target.space.labels)
    return xr.Dataset(
        {"mean": ("parameter", normal.mean), "covariance": (("parameter", "parameter_bis"), normal.covariance)},
        coords={"parameter": labels, "parameter_bis": labels},
    )
