"""Estimates of several methods side by side."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pm_mlem.precision import double

if TYPE_CHECKING:
    import pandas as pd

    from pm_mlem.estimate.alignment import Alignment
    from pm_mlem.estimate.estimate import Estimate
    from pm_mlem.results.comparison import Comparison
    from pm_mlem.results.fit import Fit
    from pm_mlem.results.statistics import Statistics


@double()
def compare(
    results: Mapping[str, Any],
    *,
    level: float = 0.95,
    var_names: list[str] | None = None,
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
    var_names : list of str, optional
        Default: the parameters of the fits, and Deterministics that are not as large as the data.
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
    from pm_mlem.results.statistics import as_mapping, check_result, statistics

    results = as_mapping(results)
    for name, item in results.items():
        check_result(name, item)
    kinds = kinds_of(results, kind)
    reference = reference_of(results, reference)
    notes = check_same_data(results)
    found: dict[str, Statistics] = {}
    aligner = first_with_latents(results) if align else None
    for name, item in results.items():
        used = item
        if aligner is not None and name != aligner:
            used, note = in_order(results[aligner], aligner, item, name)
            notes += note
        found[name] = statistics(name, used, level, kinds[name], var_names)
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


# --- states in one order ----------------------------------------------------------------------------------


def estimates_of(results: Mapping[str, Any]) -> dict[str, Estimate]:
    """The estimates whose model is at hand, by name."""
    from pm_mlem.results.reported import is_fit

    found = {name: item._estimate for name, item in results.items() if is_fit(item)}
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def first_with_latents(results: Mapping[str, Any]) -> str | None:
    """The first fit that has discrete latents and can evaluate its model."""
    return next((n for n, e in estimates_of(results).items() if e.target.structure.components), None)


def latents_of(results: Mapping[str, Any]) -> tuple[str, ...]:
    name = first_with_latents(results)
    return () if name is None else tuple(item.name for item in results[name]._estimate.target.structure.latents)


def in_order(to: Fit, to_name: str, item: Any, name: str) -> tuple[Any, list[str]]:
    """A result with its states in the order of a fit, and notes on what was done."""
    from pm_mlem.align import align, check_order, flat_draws
    from pm_mlem.errors import NotIdentifiedError
    from pm_mlem.estimate.alignment import align as match
    from pm_mlem.results.reported import is_fit

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
        tree = align(item, to)
    except NotIdentifiedError as error:
        raise NotIdentifiedError(
            f"'{name}' cannot be aligned with '{to_name}'. {error} compare(..., align=False) leaves them as they are."
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
        for variable, names in entries.items():
            base, own = rows[reference].get(variable, {}), rows[method].get(variable, {})
            for entry in names:
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
