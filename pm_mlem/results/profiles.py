"""Profiles of a fit, labelled: intervals and curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pm_mlem.arguments import array_of_numbers, whole
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.labels import entry_names, left_out, unknown
from pm_mlem.estimate.profile_scales import Profiles
from pm_mlem.results.estimates import parameters_and_deterministics


def find(estimate: Estimate, estimates: xr.Dataset, var: str) -> tuple[str, tuple[int, ...] | None]:
    """The variable that is meant, and the position if it is an entry.

    Raises
    ------
    ValueError
        There is none of that name.
    """
    known = [str(n) for n in estimates.data_vars]
    if var in known:
        return var, () if estimates[var].ndim == 0 else None
    owner = max((n for n in known if var.startswith(f"{n}[")), key=len, default=None)
    entries = [] if owner is None else entry_names(estimates[owner])
    if var in entries:
        return str(owner), tuple(map(int, np.unravel_index(entries.index(var), estimates[owner].shape)))
    raise ValueError(unknown(var, entries or known, "var") + left_out(estimate.target.tables, var))


def profile_intervals(
    estimate: Estimate, level: float, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Profile intervals of all entries of variables, by name, and remarks by entry."""
    profiles, estimates = Profiles(estimate), parameters_and_deterministics(estimate)
    values = {}
    for name in names:
        array = estimates[name]
        bounds = values[name] = np.full((*array.shape, 2), np.nan)
        reason = profiles.why_none(name)
        if reason:
            profiles.notes[name] = reason
            continue
        for index, label in zip(np.ndindex(*array.shape), entry_names(array), strict=True):
            entry = profiles.entry(name, index, label)
            if isinstance(entry, str):
                profiles.notes[label] = entry
            else:
                bounds[index] = profiles.interval(entry, level)
    profiles.warn()
    return values, profiles.notes


def profile_curves(estimate: Estimate, var: str, level: float, points: int | Sequence[float]) -> xr.Dataset:
    """The profile of a variable or of one of its entries, labelled."""
    grid = check_points(points)
    estimates = parameters_and_deterministics(estimate)
    name, only = find(estimate, estimates, var)
    array = estimates[name]
    count = grid if isinstance(grid, int) else len(grid)
    blank = np.full((*array.shape, count), np.nan)
    curves = {k: blank.copy() for k in ("value", "objective", "zeta", "wald")}
    curves["interval"] = np.full((*array.shape, 2), np.nan)
    profiles = Profiles(estimate)
    reason = profiles.why_none(name)
    if reason:
        raise ValueError(f"'{var}' has no profile: {reason}.")
    for index, label in zip(np.ndindex(*array.shape), entry_names(array), strict=True):
        if only is not None and index != only:
            continue
        entry = profiles.entry(name, index, label)
        if isinstance(entry, str):
            if only is not None:
                raise ValueError(f"'{label}' has no profile: {entry}.")
            profiles.notes[label] = entry
            continue
        for key, values in profiles.curve(entry, level, grid).items():
            curves[key][index] = values
    profiles.warn()
    kind = objective_name(estimate.target.estimator)
    extra = {"interval": {"ci_bound": ["lower", "upper"]}}
    arrays = {
        {"objective": kind}.get(k, k): estimate.labels.array(name, v, extra.get(k, {"point": np.arange(count)})).rename(
            None
        )
        for k, v in curves.items()
    }
    dataset = xr.Dataset({**arrays, "estimate": array}, attrs={
        "variable": var, "level": level, "estimator": estimate.target.estimator, "maximum": profiles.peak.value,
        **remarks(profiles.notes),
    })  # fmt: skip
    return dataset if only is None else dataset.isel(dict(zip(array.dims, only, strict=True)))


def objective_name(estimator: str) -> str:
    """What the profile is one of."""
    return {"mle": "log_likelihood", "map": "log_posterior"}[estimator]


def remarks(notes: dict[str, str]) -> dict[str, str]:
    """Notes by entry as an attribute, if there are any."""
    return {"notes": "; ".join(f"{label}: {note}" for label, note in notes.items())} if notes else {}


def check_points(points) -> int | np.ndarray:
    """The number of points, or the values of the user."""
    if np.ndim(points) == 0:
        return whole(3)(points, "points")
    values = array_of_numbers(points, "points")
    if values.ndim != 1 or not values.size or not np.all(np.isfinite(values)):
        raise ValueError("points must be a number of points, or finite values in one dimension.")
    return values
