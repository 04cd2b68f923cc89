"""What fits and posterior draws have in common when they stand side by side: a point, a spread, an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from pm_mlem.estimate.labels import entry_names
from pm_mlem.inference.intervals import check_level
from pm_mlem.results.summary import LARGE, listed

if TYPE_CHECKING:
    import xarray as xr

SAMPLE = ("chain", "draw")
OF_FITS = ("wald", "profile", "bootstrap")
OF_DRAWS = ("eti", "hdi")


@runtime_checkable
class Reported(Protocol):
    """What is needed of a fit: :class:`pm_mlem.Fit` is one, and so is what restores one from a file."""

    @property
    def estimates(self) -> xr.Dataset: ...
    @property
    def log_likelihood(self) -> float: ...
    def standard_errors(self) -> xr.Dataset: ...
    def confidence_intervals(self, level: float = 0.95, kind: str = "wald") -> xr.Dataset: ...
    def to_datatree(self) -> xr.DataTree: ...


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


def is_fit(item: Any) -> bool:
    """Whether something reports like a fit; anything else has to be draws."""
    return isinstance(item, Reported)


def check_result(name: str, item: Any) -> None:
    """Refuse what is neither a fit nor draws."""
    import xarray as xr

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
    check_level(level)
    return of_fit(name, item, level, kind, var_names) if is_fit(item) else of_draws(name, item, level, kind, var_names)


def of_fit(name: str, fit: Any, level: float, kind: str, var_names: Sequence[str] | None) -> Statistics:
    import xarray as xr

    if var_names is None:
        names = listed(fit) if hasattr(fit, "model") else [str(n) for n, a in fit.estimates.items() if a.size <= LARGE]
    else:
        names = list(var_names)
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


def notes_of(fit: Any, level: float) -> dict[str, str]:
    """Why entries have no standard error."""
    table = fit.summary(level) if hasattr(fit, "summary") else None
    if table is None or "note" not in table:
        return {}
    return {str(entry): note for entry, note in table["note"].items() if note}


def of_draws(name: str, tree: xr.DataTree, level: float, kind: str, var_names: Sequence[str] | None) -> Statistics:
    posterior = tree["posterior"].to_dataset()
    names = [str(n) for n, a in posterior.items() if set(SAMPLE) <= set(a.dims)]
    if var_names is not None:
        names = list(var_names)
        check_variables(names, posterior, name)
    draws = posterior[names]
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


# --- the data ---------------------------------------------------------------------------------------------


def observations(item: Any) -> dict[str, np.ndarray]:
    """The observed data by variable; masked data are whole, with NaN where they are not known."""
    if not hasattr(item, "_engine"):
        item = item.to_datatree() if is_fit(item) else item
        group = item["observed_data"].to_dataset() if "observed_data" in item.children else {}
        return {str(name): np.asarray(group[name].values) for name in group}
    structure, found = item._engine.objective.tables.structure, {}
    for name, values in observed_arrays(item).items():
        part = structure.parts.get(name)
        found[name] = values
        if part is not None:
            whole = np.full(int(np.prod(part.shape)), np.nan)
            whole[part.positions] = np.ravel(values)
            found[part.name] = whole.reshape(part.shape)
    return found


def observed_arrays(fit: Any) -> dict[str, np.ndarray]:
    from pymc.backends.arviz import find_observations

    return {str(name): np.asarray(values) for name, values in find_observations(fit.model).items()}


def check_same_data(results: Mapping[str, Any]) -> list[str]:
    """Refuse results for different data; notes on data that are known in part.

    Raises
    ------
    ValueError
        Values of an observed variable differ; the message names it.
    """
    seen: dict[str, tuple[str, np.ndarray]] = {}
    notes = []
    for method, item in results.items():
        own = observations(item)
        for variable, values in own.items():
            if variable.removesuffix("_observed") != variable and variable.removesuffix("_observed") in own:
                continue  # a part of masked data, which are compared as a whole
            if variable not in seen:
                seen[variable] = method, values
                continue
            first, others = seen[variable]
            if values.shape != others.shape:
                raise ValueError(different(variable, first, method, f"shapes {others.shape} and {values.shape}"))
            if values.dtype.kind not in "fiub" or others.dtype.kind not in "fiub":
                continue
            here, there = np.isfinite(values.astype(float)), np.isfinite(others.astype(float))
            where = np.argwhere(here & there & (values != others))
            if len(where):
                raise ValueError(different(variable, first, method, f"{len(where)} of {values.size} values differ"))
            if np.any(here != there):
                notes.append(
                    f"'{first}' and '{method}' know different entries of '{variable}': their log-likelihoods are not "
                    "comparable."
                )
    return notes


def different(variable: str, first: str, second: str, how: str) -> str:
    return (
        f"'{first}' and '{second}' were given different data: the observed variable '{variable}' differs ({how}). "
        "Compare results for the same data."
    )
