"""Estimates of several methods side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pm_mlem.arguments import checked, flag, level, names, optional
from pm_mlem.precision import double

if TYPE_CHECKING:
    import pandas as pd

    from pm_mlem.results.comparison import Comparison
    from pm_mlem.results.statistics import Statistics


@checked(level=level, var_names=optional(names), align=flag)
@double()
def compare(
    results: Mapping[str, Any],
    *,
    level: float = 0.95,
    var_names: str | list[str] | None = None,
    kind: str | Mapping[str, str] = "wald",
    reference: str | None = None,
    align: bool = True,
) -> Comparison:
    """One table of estimates, their uncertainty and their intervals, of fits and posteriors in any mixture.

    Parameters
    ----------
    results : dict
        Name of the method -> :class:`pm_mlem.Fit`, or an ``xarray.DataTree`` with a ``posterior`` group (from
        ``pm.sample``, ADVI, Pathfinder, a Laplace approximation, NumPyro, ...). All for the same data.
    level : float
        Coverage of the intervals.
    var_names : str or list of str, optional
        At least one. Default: the parameters of the fits, and Deterministics that are not as large as the data.
    kind : {"wald", "profile", "bootstrap"} or dict
        The intervals of fits; those of draws are equal-tailed ("eti"). A dictionary gives them by method,
        ``{"MLE": "profile", "NUTS": "hdi"}``.
    reference : str, optional
        The method from which shifts are measured. Default: the first with draws, otherwise the first.
    align : bool
        Bring the states of discrete latents into the order of the first fit, in draws (see :func:`pm_mlem.align`) and
        in other fits, before anything is summarised. Needs a Fit among the results.

    Returns
    -------
    Comparison
        A ``pandas.DataFrame``. Rows: entries named as ``az.summary`` does. Columns: ``(method, estimate | se | ci_lb |
        ci_ub | shift)``; for draws these are posterior mean, posterior standard deviation and interval. The shift is
        the estimate minus that of the reference, in standard errors of the reference. Beside it
        ``Comparison.criteria``, ``tidy()``, ``to_datatree()``, ``notes``.

    Raises
    ------
    ValueError
        An empty dictionary, an unknown variable, method or kind of interval, results for different data.
    TypeError
        Something that is neither a fit nor a DataTree with a posterior.
    NotIdentifiedError
        The states of a latent cannot be told apart in many draws; see :func:`pm_mlem.align`, or ``align=False``.

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_mlem as mlem
    >>> with pm.Model() as model:
    ...     flips = pm.Bernoulli("flips", pm.Beta("p", 4, 4), observed=np.repeat([1, 0], [6, 2]))
    >>> fits = {"MLE": mlem.fit(model, progressbar=False), "MAP": mlem.fit(model, "map", progressbar=False)}
    >>> table = mlem.compare(fits)
    >>> table.xs("estimate", axis=1, level=1).round(3).to_dict("records")
    [{'MLE': 0.75, 'MAP': 0.643}]
    """
    from pm_mlem.results.comparison import Comparison, Parts
    from pm_mlem.results.same_data import check_same_data
    from pm_mlem.results.state_order import in_one_order, latents_of
    from pm_mlem.results.statistics import as_mapping, check_result, statistics

    results = as_mapping(results)
    for name, item in results.items():
        check_result(name, item)
    kinds = kinds_of(results, kind)
    reference = reference_of(results, reference)
    notes = check_same_data(results)
    found: dict[str, Statistics] = {}
    used, more = in_one_order(results) if align else (results, [])
    notes += more
    for name, item in used.items():
        found[name] = statistics(name, item, level, kinds[name], var_names)
    tidy, more = rows_of(found, results, reference, var_names)
    table = Comparison(wide(tidy, list(results)))
    table._parts = Parts(results, found, tidy, latents_of(results))
    table.attrs = {"level": level, "reference": reference, "kinds": kinds, "notes": [*notes, *more]}
    return table


# --- arguments --------------------------------------------------------------------------------------------


def kinds_of(results: Mapping[str, Any], kind: str | Mapping[str, str]) -> dict[str, str]:
    from pm_mlem.results.reported import is_fit

    given = {name: kind for name, item in results.items() if is_fit(item)} if isinstance(kind, str) else dict(kind)
    for name in given:
        if name not in results:
            raise ValueError(f"kind= names '{name}', which is not among the results.")
    return {name: given.get(name, "wald" if is_fit(item) else "eti") for name, item in results.items()}


def reference_of(results: Mapping[str, Any], reference: str | None) -> str:
    from pm_mlem.results.reported import is_fit

    if reference is None:
        return next((name for name, item in results.items() if not is_fit(item)), next(iter(results)))
    if reference not in results:
        raise ValueError(f"reference={reference!r} is not among the results: {', '.join(map(repr, results))}.")
    return reference


# --- the table --------------------------------------------------------------------------------------------


def rows_of(
    found: Mapping[str, Statistics], results: Mapping[str, Any], reference: str, var_names: list[str] | None
) -> tuple[pd.DataFrame, list[str]]:
    """One row for each entry and method, and notes on entries that are missing."""
    import pandas as pd

    from pm_mlem.estimate.labels import LARGE
    from pm_mlem.results.reported import is_fit

    rows = {method: statistics.rows() for method, statistics in found.items()}
    leading = [m for m in rows if is_fit(results[m])] or list(rows)
    entries: dict[str, dict[str, None]] = {}
    for method in leading:
        for variable, own in rows[method].items():
            if var_names is not None or is_fit(results[method]) or len(own) <= LARGE:
                entries.setdefault(variable, {}).update(dict.fromkeys(own))
    tidy, notes = [], []
    for method, statistics in found.items():
        absent = [v for v, names in entries.items() if not set(names) <= set(rows[method].get(v, {}))]
        if absent:
            notes.append(f"'{method}' lacks (entries of) {', '.join(map(repr, absent))}.")
        for variable, wanted in entries.items():
            base, own = rows[reference].get(variable, {}), rows[method].get(variable, {})
            for entry in wanted:
                if entry not in own:
                    continue
                estimate, *others = own[entry]
                center, spread = base.get(entry, (np.nan, np.nan))[:2]
                shift = (estimate - center) / spread if spread > 0 else np.nan
                note = statistics.notes.get(entry, "")
                tidy.append((variable, entry, method, estimate, *others, statistics.kind, shift, note))
    columns = ["variable", "entry", "method", "estimate", "se", "ci_lb", "ci_ub", "kind", "shift", "note"]
    table = pd.DataFrame(tidy, columns=columns)
    missing = table[table["note"] != ""]
    for method, note in dict.fromkeys(zip(missing["method"], missing["note"], strict=True)):
        own = missing[(missing["method"] == method) & (missing["note"] == note)]
        notes.append(f"'{method}', {', '.join(own['entry'])}: {note}.")
    order = {entry: i for i, entry in enumerate(dict.fromkeys(e for names in entries.values() for e in names))}
    table = table.assign(order=table["entry"].map(order)).sort_values("order", kind="stable")
    return table.drop(columns="order").reset_index(drop=True), notes


def wide(tidy: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """The same numbers with one column for each method and number."""
    import pandas as pd

    from pm_mlem.results.comparison import COLUMNS

    entries = list(dict.fromkeys(tidy["entry"]))
    parts = {m: tidy[tidy["method"] == m].set_index("entry")[list(COLUMNS)].reindex(entries) for m in methods}
    table = pd.concat(parts, axis=1)
    table.index.name = None
    return table
