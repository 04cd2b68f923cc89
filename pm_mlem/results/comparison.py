"""The table that :func:`pm_mlem.compare` returns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from pm_mlem.results.recovery import SUMMED_OUT
from pm_mlem.results.reported import is_fit
from pm_mlem.results.statistics import Statistics

if TYPE_CHECKING:
    import xarray as xr

COLUMNS = ("estimate", "se", "ci_lb", "ci_ub", "shift")
HIGH_PARETO_K = 0.7
"""Above this, importance sampling says nothing about a unit (fewer than 2200 draws: above a lower value)."""


@dataclass(frozen=True, eq=False, repr=False)
class Criteria:
    """Information criteria of fits and leave-one-out cross-validation of draws: two tables, since they do not compare.

    Attributes
    ----------
    fits : pandas.DataFrame
        By method: ``log_likelihood``, ``n_params``, ``n_obs`` (observations), ``aic``, ``bic``, ``icl``,
        ``seconds``.
    draws : pandas.DataFrame
        By method (and observed variable, where there are several): ``elpd_loo``, ``se``, ``p_loo``, ``n``, ``high_k``
        (how many units have a Pareto k above the limit), ``seconds``.
    notes : tuple of str
    """

    fits: pd.DataFrame
    draws: pd.DataFrame
    notes: tuple[str, ...] = ()

    def blocks(self) -> list[tuple[str, pd.DataFrame]]:
        named = [("Fits", self.fits), ("Draws (leave-one-out; no rank beside fits)", self.draws)]
        return [(title, table) for title, table in named if len(table)]

    def __repr__(self) -> str:
        parts = [f"{title}\n{table.to_string(float_format=number, na_rep='')}" for title, table in self.blocks()]
        return "\n\n".join([*parts, *self.notes])

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{escape(title)}</b></p>{html_table(table)}" for title, table in self.blocks()]
        return "".join([*parts, *[f"<p>{escape(note)}</p>" for note in self.notes]])


class Parts:
    """What a comparison is made of; it lets go of the results when it is pickled."""

    def __init__(self, results: Mapping[str, Any], statistics: Mapping[str, Statistics], tidy: pd.DataFrame, latents):
        self.results, self.statistics, self.tidy, self.latents = dict(results), dict(statistics), tidy, latents

    @cached_property
    def criteria(self) -> Criteria:
        fits = {name: item for name, item in self.results.items() if is_fit(item)}
        draws = {name: item for name, item in self.results.items() if not is_fit(item)}
        table, notes = leave_one_out(draws, self.latents)
        return Criteria(criteria_of_fits(fits), table, tuple(notes))

    def __getstate__(self) -> dict[str, Any]:
        _ = self.criteria
        return {**self.__dict__, "results": {}}


class Comparison(pd.DataFrame):
    """A table of estimates by several methods, made by :func:`pm_mlem.compare`.

    A ``pandas.DataFrame`` in all respects: rows are entries named as ``az.summary`` does, columns are pairs
    ``(method, estimate | se | ci_lb | ci_ub | shift)``, so that ``table["MLE"]`` is the table of one method. What is
    cut out of it or computed from it is an ordinary DataFrame. Its ``attrs`` have ``level``, ``reference``, ``kinds``
    (of the intervals, by method) and ``notes``.

    Attributes
    ----------
    criteria : Criteria
        ``criteria.fits``: log-likelihood, number of parameters, AIC, BIC, ICL and seconds of each fit;
        ``criteria.draws``: ELPD by leave-one-out (``az.loo``) of each set of draws with a pointwise log-likelihood.
        Computed when it is first asked for.
    notes : list of str
        What was relabelled, what is missing, what is not comparable.
    """

    _parts: Parts
    _metadata: ClassVar[list[str]] = ["_parts"]

    @property
    def _constructor(self):
        return pd.DataFrame

    @property
    def criteria(self) -> Criteria:
        return self._parts.criteria

    @property
    def notes(self) -> list[str]:
        return list(self.attrs["notes"])

    def tidy(self) -> pd.DataFrame:
        """One row for each entry and method.

        Returns
        -------
        pandas.DataFrame
            Columns ``variable``, ``entry``, ``method``, ``estimate``, ``se``, ``ci_lb``, ``ci_ub``, ``kind``,
            ``shift``, ``note``; no rows where a method has no such entry.
        """
        return self._parts.tidy.copy()

    def to_datatree(self) -> xr.DataTree:
        """The numbers with the model's dims and coords, the methods along a dim ``model``, as in ArviZ.

        Returns
        -------
        xarray.DataTree
            Groups ``point_estimate``, ``standard_error``, ``confidence_interval`` (dim ``ci_bound``) and ``shift``;
            NaN where a method has no such entry.
        """
        import xarray as xr

        parts = self._parts.statistics
        estimate = stacked({m: s.estimate for m, s in parts.items()}, self._parts.tidy)
        error = stacked({m: s.error for m, s in parts.items()}, self._parts.tidy)
        reference = self.attrs["reference"]
        shift = shifts(estimate, estimate.sel(model=reference), error.sel(model=reference))
        groups = {
            "point_estimate": estimate,
            "standard_error": error,
            "confidence_interval": stacked({m: s.bounds for m, s in parts.items()}, self._parts.tidy),
            "shift": shift.assign_coords(model=estimate["model"]),
        }
        attributes = {"level": self.attrs["level"], "reference": reference, "notes": " ".join(self.notes)}
        tree = xr.DataTree.from_dict({f"/{k}": v for k, v in groups.items()})
        tree.attrs.update({**attributes, "kinds": ", ".join(f"{m}: {k}" for m, k in self.attrs["kinds"].items())})
        return tree

    def to_latex(self, *args, **options) -> str:
        """As ``pandas.DataFrame.to_latex``; special characters are escaped and numbers have four digits by default."""
        options = {"escape": True, "float_format": number, "na_rep": "", "multicolumn_format": "c", **options}
        return pd.DataFrame(self).to_latex(*args, **options)

    def heading(self) -> str:
        kinds = ", ".join(f"{method} {kind}" for method, kind in self.attrs["kinds"].items())
        return (
            f"{100 * self.attrs['level']:g} % intervals ({kinds}); shifts from {self.attrs['reference']} in its "
            "standard errors"
        )

    def __repr__(self) -> str:
        table = pd.DataFrame(self).to_string(float_format=number, na_rep="", line_width=120)
        parts = [f"{self.heading()}\n{table}", repr(self.criteria)]
        return "\n\n".join([*parts, *(["\n".join(f"* {note}" for note in self.notes)] if self.notes else [])])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        table = html_table(pd.DataFrame(self))
        foot = f"<ul>{notes}</ul>" if notes else ""
        return f"<p>{escape(self.heading())}</p>{table}{self.criteria._repr_html_()}{foot}"


def number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.2f}"


def html_table(table: pd.DataFrame) -> str:
    return table.to_html(float_format=number, na_rep="")


def shifts(value, reference, spread):
    """By how many of the reference's spreads a value differs from the reference; NaN without a spread."""
    return (value - reference) / spread.where(spread > 0)


def stacked(parts: Mapping[str, xr.Dataset], tidy: pd.DataFrame) -> xr.Dataset:
    """Datasets of several methods along a new dim ``model``, for the variables that the table has."""
    import xarray as xr

    arrays = {}
    for variable in tidy["variable"].unique():
        have = {m: d[variable].transpose(..., *(["ci_bound"] if "ci_bound" in d[variable].dims else []))
                for m, d in parts.items() if variable in d}  # fmt: skip
        dims = next(iter(have.values())).dims
        have = {m: a.rename(dict(zip(a.dims, dims, strict=True))) for m, a in have.items() if a.ndim == len(dims)}
        model = xr.DataArray(list(have), dims="model", name="model")
        array = xr.concat([a.astype(float) for a in have.values()], dim=model, join="outer", coords="minimal",
                          compat="override")  # fmt: skip
        arrays[variable] = array.reindex(model=list(parts))
    return xr.Dataset(arrays)


# --- criteria ---------------------------------------------------------------------------------------------


def criteria_of_fits(fits: Mapping[str, Any]) -> pd.DataFrame:
    names = ("log_likelihood", "n_params", "n_obs", "aic", "bic", "icl", "seconds")
    rows = [[getattr(fit, name, np.nan) for name in names] for fit in fits.values()]
    return pd.DataFrame(rows, index=pd.Index(list(fits), name="method"), columns=list(names))


def leave_one_out(trees: Mapping[str, xr.DataTree], latents: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    rows, index, notes = [], [], []
    for name, tree in trees.items():
        seconds = float(tree["posterior"].attrs.get("sampling_time", np.nan))
        group = tree["log_likelihood"].to_dataset() if "log_likelihood" in tree.children else {}
        pointwise = [str(v) for v in group if {"chain", "draw"} <= set(group[v].dims)]
        if not pointwise:
            notes.append(
                f"'{name}' has no log-likelihood by draw, so no ELPD: mlem.sample(..., "
                "idata_kwargs={'log_likelihood': True}) gives it, or pm.compute_log_likelihood."
            )
            rows.append([np.nan] * 5 + [seconds])
            index.append(name)
        for variable in pointwise:
            try:
                rows.append([*elpd(tree, variable), seconds])
            except Exception as error:  # ArviZ needs several draws, and says so in many ways
                notes.append(f"ArviZ gives no ELPD of '{name}': {error}")
                rows.append([np.nan] * 5 + [seconds])
            index.append(name if len(pointwise) == 1 else f"{name}: {variable}")
        drawn = [z for z in latents if z in tree["posterior"]]
        if pointwise and drawn and group.attrs.get("latents") != SUMMED_OUT:
            notes.append(
                f"The ELPD of '{name}' takes the drawn labels ('{drawn[0]}') as known, not as to be predicted; "
                "mlem.sample(fit) gives that of new observations."
            )
    columns = ["elpd_loo", "se", "p_loo", "n", "high_k", "seconds"]
    return pd.DataFrame(rows, index=pd.Index(index, name="method"), columns=columns), notes


def elpd(tree: xr.DataTree, variable: str) -> list[float]:
    import arviz as az

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # high Pareto k are counted instead
        found = az.loo(tree, var_name=variable, pointwise=True)
    limit = min(HIGH_PARETO_K, getattr(found, "good_k", HIGH_PARETO_K))
    high = int(np.sum(np.asarray(found.pareto_k) > limit))
    return [float(found.elpd), float(found.se), float(found.p), int(found.n_data_points), high]
