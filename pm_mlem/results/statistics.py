"""Point, spread and interval of fits and of draws, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from pm_mlem.estimate.labels import entry_names
from pm_mlem.results.reported import Reported, is_fit, listed

SAMPLE = ("chain", "draw")
OF_FITS = ("wald", "profile", "bootstrap")
OF_DRAWS = ("eti", "hdi")


@dataclass(frozen=True, eq=False)
class Statistics:
    """One result: point, spread and interval (last dim ``ci_bound``) by variable, and notes by entry."""

    estimate: xr.Dataset
    error: xr.Dataset
    bounds: xr.Dataset
    kind: str
    notes: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> dict[str, dict[str, tuple[float, float, float, float]]]:
        """``{variable: {entry: (estimate, se, ci_lb, ci_ub)}}``."""
        return {
            str(name): dict(
                zip(
                    entry_names(array),
                    zip(
                        np.ravel(array.values).astype(float).tolist(),
                        np.ravel(self.error[name].transpose(*array.dims).values).astype(float).tolist(),
                        *self.bounds[name].transpose("ci_bound", *array.dims).values.reshape(2, -1).tolist(),
                        strict=True,
                    ),
                    strict=True,
                )
            )
            for name, array in self.estimate.data_vars.items()
        }


def check_result(name: str, item: Any) -> None:
    """Refuse what is neither a fit nor draws."""
    if is_fit(item):
        return
    if not isinstance(item, xr.DataTree) or "posterior" not in item.children:
        raise TypeError(
            f"'{name}' must be an mlem.Fit or a DataTree with a posterior group, not {type(item).__name__}."
            + (" It has no group 'posterior'." if isinstance(item, xr.DataTree) else "")
        )
    if not set(SAMPLE) <= set(item["posterior"].dims):
        raise TypeError(f"The group 'posterior' of '{name}' needs the dims 'chain' and 'draw'.")


def check_kind(kind: str, item: Any, name: str) -> None:
    known = OF_FITS if is_fit(item) else OF_DRAWS
    if kind not in known:
        what = "fits have" if is_fit(item) else "draws have"
        listed_kinds = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        raise ValueError(f"kind={kind!r} is no kind of interval of '{name}': {what} {listed_kinds}.")


def statistics(name: str, item: Any, level: float, kind: str, var_names: Sequence[str] | None) -> Statistics:
    """Point, spread and interval of a fit or of draws, checked."""
    check_result(name, item)
    check_kind(kind, item, name)
    return of_fit(name, item, level, kind, var_names) if is_fit(item) else of_draws(name, item, level, kind, var_names)


def of_fit(name: str, fit: Reported, level: float, kind: str, var_names: Sequence[str] | None) -> Statistics:
    names = listed(fit) if var_names is None else list(var_names)
    check_variables(names, fit.estimates, name)
    errors = fit.standard_errors() if kind != "bootstrap" else fit.standard_errors("bootstrap")
    chosen = {"var_names": [n for n in names if n in errors]} if kind == "profile" and var_names is not None else {}
    intervals = fit.confidence_intervals(level, kind, **chosen)
    estimate, error, bounds = fit.estimates[names], {}, {}
    for variable in names:
        blank = xr.full_like(estimate[variable], np.nan, dtype=float)
        error[variable] = errors.get(variable, blank)
        missing = blank.expand_dims(ci_bound=["lower", "upper"])
        bounds[variable] = intervals.get(variable, missing)
    return Statistics(estimate, xr.Dataset(error), xr.Dataset(bounds), kind, notes_of(fit, level))


def notes_of(fit: Reported, level: float) -> dict[str, str]:
    """Why entries have no standard error."""
    table = fit.summary(level)
    notes = zip(table.index.tolist(), table["note"].tolist(), strict=True)
    return {str(entry): note for entry, note in notes if note}


def of_draws(name: str, tree: xr.DataTree, level: float, kind: str, var_names: Sequence[str] | None) -> Statistics:
    posterior = tree["posterior"].to_dataset()
    names = [str(n) for n, a in posterior.items() if set(SAMPLE) <= set(a.dims)]
    if var_names is not None:
        names = list(var_names)
        check_variables(names, posterior, name)
    draws = posterior[[n for n in names if posterior[n].size]]
    if kind == "hdi":
        import arviz as az

        bounds = az.hdi(draws, prob=level, dim=list(SAMPLE))
        bounds = bounds.assign_coords(ci_bound=["lower", "upper"])
    else:
        tails = draws.quantile([0.5 - level / 2, 0.5 + level / 2], dim=SAMPLE)
        bounds = tails.rename(quantile="ci_bound").assign_coords(ci_bound=["lower", "upper"])
    several = draws.sizes["chain"] * draws.sizes["draw"] > 1
    error = draws.std(SAMPLE, ddof=1) if several else draws.mean(SAMPLE) * np.nan
    return Statistics(draws.mean(SAMPLE), error, bounds, kind)


def check_variables(names: Sequence[str], dataset: xr.Dataset, method: str) -> None:
    for variable in names:
        if variable not in dataset:
            known = ", ".join(map(repr, dataset.data_vars))
            raise ValueError(f"'{method}' has no variable '{variable}'; it has {known}.")


def as_mapping(results: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(results, Mapping) or not results:
        raise ValueError("Pass a dictionary {name: fit or DataTree} with at least one entry.")
    return results


def datasets(
    name: str, item: Any, level: float, var_names: list[str] | None = None
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Point, spread and interval (dimension ``ci_bound``) of a fit or of posterior draws, as datasets."""
    found = statistics(name, item, level, "wald" if is_fit(item) else "eti", var_names)
    return found.estimate, found.error, found.bounds
