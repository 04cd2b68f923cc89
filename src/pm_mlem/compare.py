"""Estimates of several methods side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def compare(results: Mapping[str, Any], *, level: float = 0.95, var_names: list[str] | None = None) -> pd.DataFrame:
    """One table of estimates, their uncertainty and their intervals.

    Parameters
    ----------
    results : dict
        Name of the method -> :class:`pm_mlem.Fit`, or an ``xarray.DataTree`` with a ``posterior`` group (from
        ``pm.sample``, ADVI, Pathfinder, ...).
    level : float
        Coverage of the intervals: Wald intervals for fits, equal-tailed posterior intervals for draws.
    var_names : list of str, optional
        Default: the parameters of the fits, and Deterministics that are not as large as the data.

    Returns
    -------
    pandas.DataFrame
        Rows: entries named as ``az.summary`` does. Columns: ``(method, estimate | se | ci_lb | ci_ub)``; for draws
        these are posterior mean, posterior standard deviation and interval.

    Raises
    ------
    ValueError
        An empty dictionary, or an unknown variable.
    TypeError
        Something that is neither a fit nor a DataTree with a posterior.
    """
    import pandas as pd

    columns = {name: statistics(name, item, level, var_names) for name, item in as_mapping(results).items()}
    if var_names is None:
        from pm_mlem.results.fit import Fit

        fitted = [columns[name].index for name, item in results.items() if isinstance(item, Fit)]
        if fitted:
            rows = list(dict.fromkeys(entry for index in fitted for entry in index))
            columns = {name: table.reindex(rows) for name, table in columns.items()}
    return pd.concat(columns, axis=1)


def as_mapping(results: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(results, Mapping) or not results:
        raise ValueError("Pass a dictionary {name: fit or DataTree} with at least one entry.")
    return results


def statistics(name: str, item: Any, level: float, var_names: list[str] | None) -> pd.DataFrame:
    """Columns estimate, se, ci_lb, ci_ub of one result."""
    import pandas as pd

    from pm_mlem.results.labels import entry_names

    estimate, error, bounds = datasets(name, item, level, var_names)
    rows, index = [], []
    for variable, values in estimate.data_vars.items():
        index += entry_names(values)
        interval = bounds[variable].transpose(..., "ci_bound").values
        for i in np.ndindex(*values.shape):
            rows.append((values.values[i], error[variable].values[i], *interval[i]))
    return pd.DataFrame(np.array(rows, dtype=float).reshape(-1, 4), index, ["estimate", "se", "ci_lb", "ci_ub"])


def datasets(
    name: str, item: Any, level: float, var_names: list[str] | None = None
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Point, spread and interval (dimension ``ci_bound``) of a fit or of posterior draws, as datasets."""
    import xarray as xr

    from pm_mlem.results.fit import Fit
    from pm_mlem.results.summary import listed

    if isinstance(item, Fit):
        names = [n for n in listed(item) if n in item.standard_errors()] if var_names is None else list(var_names)
        check_variables(names, item.standard_errors(), name)
        return item.estimates[names], item.standard_errors()[names], item.confidence_intervals(level)[names]
    if not isinstance(item, xr.DataTree) or "posterior" not in item.children:
        raise TypeError(
            f"'{name}' must be an mlem.Fit or a DataTree with a posterior group, not {type(item).__name__}."
        )
    posterior = item["posterior"].to_dataset()
    names = [str(n) for n in posterior.data_vars] if var_names is None else list(var_names)
    check_variables(names, posterior, name)
    draws = posterior[names]
    dims = ["chain", "draw"]
    tails = draws.quantile([0.5 - level / 2, 0.5 + level / 2], dim=dims)
    bounds = tails.rename(quantile="ci_bound").assign_coords(ci_bound=["lower", "upper"])
    return draws.mean(dims), draws.std(dims, ddof=1), bounds


def check_variables(names, dataset, method: str) -> None:
    for variable in names:
        if variable not in dataset:
            known = ", ".join(map(repr, dataset.data_vars))
            raise ValueError(f"'{method}' has no variable '{variable}'; it has {known}.")
