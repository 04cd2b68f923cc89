"""Tables and text for people."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from pm_mlem.estimate.labels import entry_names
from pm_mlem.results.reported import Reported, listed

if TYPE_CHECKING:
    import pandas as pd

    from pm_mlem.graph.roles.structure import ModelStructure


class Shown(Reported):
    """A fit that shows itself in a terminal, in a notebook and through rich."""

    def __repr__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)

    def __rich__(self):
        return rich_display(self)


def summary_table(fit: Reported, level: float, kind: str | Sequence[str] = "observed") -> pd.DataFrame:
    import pandas as pd

    kinds = [kind] if isinstance(kind, str) else list(kind)
    if not kinds:
        raise ValueError("kind is an empty list; name at least one kind of covariance.")
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"kind={kinds} names a kind twice.")
    by_replicates = kinds[0] == "bootstrap"
    intervals = fit.confidence_intervals(level, "bootstrap" if by_replicates else "wald",
                                         covariance="observed" if by_replicates else kinds[0])  # fmt: skip
    errors = [fit.standard_errors(k) for k in kinds]
    observed = errors[0] if kinds[0] in ("observed", "bootstrap") else fit.standard_errors()
    rows, index = [], []
    for name in listed(fit):
        estimate = fit.estimates[name]
        index += entry_names(estimate)
        blank = np.full(estimate.shape, np.nan)
        own = [e[name].values if name in e else blank for e in errors]
        bounds = intervals[name].values if name in intervals else np.stack([blank, blank], axis=-1)
        for i in np.ndindex(*estimate.shape):
            note = fit._note(name, i, float(own[0][i]))
            if np.isnan(own[0][i]) and name in observed and np.isfinite(observed[name].values[i]):
                note = f"no standard error of kind {kinds[0]!r}: the scores of the units depend on each other"
            rows.append((float(estimate.values[i]), *[float(e[i]) for e in own], *map(float, bounds[i]), note))
    columns = ["se"] if isinstance(kind, str) else [f"se_{k}" for k in kinds]
    return pd.DataFrame(rows, index=index, columns=["estimate", *columns, "ci_lb", "ci_ub", "note"])


def header(fit: Reported) -> list[tuple[str, str]]:
    kind = {"mle": "maximum likelihood", "map": "maximum a posteriori"}[fit.estimator]
    lines = [
        ("estimator", f"{kind} ({fit.estimator})"),
        ("method", fit.method),
        ("log-likelihood", f"{fit.log_likelihood:.4f}"),
    ]
    if fit.log_posterior is not None:
        lines.append(("log-posterior", f"{fit.log_posterior:.4f}"))
    lines += [
        ("parameters", str(fit.n_params)),
        ("observations", rows_line(fit)),
        ("AIC, BIC", f"{fit.aic:.2f}, {fit.bic:.2f}"),
    ]
    if fit._summed_out:
        lines.append(("summed out", fit._summed_out))
    return [*lines, ("status", f"{fit.status}: {fit.message}")]


def rows_line(fit: Reported) -> str:
    """Observations, and independent units where these are others."""
    return f"{fit.n_obs:g}" if fit.n_obs == fit.n_units else f"{fit.n_obs:g} in {fit.n_units:g} independent units"


def latents_line(structure: ModelStructure) -> str:
    """The latents, with their shapes and states; those of a python loop together."""
    parts = []
    for vector in structure.vectors:
        items = [structure.latents[i] for i in vector.latents]
        shape = " x ".join(map(str, items[0].shape)) or "1"
        name = items[0].name if len(items) == 1 else f"{items[0].name}, ..., {items[-1].name}"
        many = f"{len(items)} x {shape}" if len(items) > 1 else shape
        parts.append(f"{name} ({many}; {items[0].states} state{'' if items[0].states == 1 else 's'})")
    return ", ".join(parts)


def text(fit: Reported) -> str:
    lines = header(fit)
    width = max(len(key) for key, _ in lines)
    top = "\n".join(f"{key:<{width}}  {value}" for key, value in lines)
    table = estimates_table(fit)
    return f"{top}\n\n{table.to_string(float_format=lambda v: f'{v:.4g}')}"


def estimates_table(fit: Reported) -> pd.DataFrame:
    """Estimates only: what a quick look needs, without computing any curvature."""
    import pandas as pd

    index, values = [], []
    for name in listed(fit):
        index += entry_names(fit.estimates[name])
        values += np.ravel(fit.estimates[name].values).tolist()
    return pd.DataFrame({"estimate": values}, index=index)


def shown(fit: Reported) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Columns and rows of the summary as text; notes only where there are any."""
    table = summary_table(fit, 0.95)
    columns = [c for c in table.columns if c != "note" or any(table["note"])]
    rows = [
        (str(entry), [v if isinstance(v, str) else "" if np.isnan(v) else f"{v:.4g}" for v in row])
        for entry, row in zip(table.index, table[columns].itertuples(index=False), strict=True)
    ]
    return columns, rows


def html(fit: Reported) -> str:
    """For notebooks."""
    left, right = "text-align:left", "text-align:right"
    top = "".join(f"<tr><th style='{left}'>{escape(k)}</th><td style='{left}'>{escape(v)}</td></tr>"
                  for k, v in header(fit))  # fmt: skip
    columns, rows = shown(fit)
    head = "".join(f"<th style='{right}'>{escape(c)}</th>" for c in ["", *columns])
    body = ""
    for entry, cells in rows:
        styled = [f"<td style='{left if c == 'note' else right}'>{escape(v)}</td>"
                  for c, v in zip(columns, cells, strict=True)]  # fmt: skip
        body += f"<tr><th style='{left}'>{escape(entry)}</th>{''.join(styled)}</tr>"
    return f"<table>{top}</table><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def rich_display(fit: Reported):
    """For ``rich.print`` and IPython with rich."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    top = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, value in header(fit):
        top.add_row(Text(key, style="bold"), Text(value))
    columns, rows = shown(fit)
    table = Table()
    for column in ["", *columns]:
        table.add_column(column, justify="left" if column in ("", "note") else "right")
    for entry, cells in rows:
        table.add_row(Text(entry), *map(Text, cells))
    return Group(top, table)
