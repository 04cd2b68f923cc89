"""Tables and text for people."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from pm_mlem.results.labels import entry_names

if TYPE_CHECKING:
    import pandas as pd

    from pm_mlem.results.fit import Fit

LARGE = 100
"""A Deterministic with more entries than this is not a row of the table."""


def listed(fit: Fit) -> list[str]:
    """Variables with rows in the summary."""
    return [str(n) for n, a in fit.estimates.data_vars.items() if n in fit._parameters or a.size <= LARGE]


def summary_table(fit: Fit, level: float, kind: str | Sequence[str] = "observed") -> pd.DataFrame:
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


def header(fit: Fit) -> list[tuple[str, str]]:
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
        ("units", f"{fit.n_obs:g}"),
        ("AIC, BIC", f"{fit.aic:.2f}, {fit.bic:.2f}"),
        ("status", f"{fit.status}: {fit.message}"),
    ]
    return lines


def text(fit: Fit) -> str:
    lines = header(fit)
    width = max(len(key) for key, _ in lines)
    top = "\n".join(f"{key:<{width}}  {value}" for key, value in lines)
    table = estimates_table(fit)
    return f"{top}\n\n{table.to_string(float_format=lambda v: f'{v:.4g}')}"


def estimates_table(fit: Fit) -> pd.DataFrame:
    """Estimates only: what a quick look needs, without computing any curvature."""
    import pandas as pd

    index, values = [], []
    for name in listed(fit):
        index += entry_names(fit.estimates[name])
        values += np.ravel(fit.estimates[name].values).tolist()
    return pd.DataFrame({"estimate": values}, index=index)


def html(fit: Fit) -> str:
    rows = "".join(f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in header(fit))
    return f"<table>{rows}</table>{summary_table(fit, 0.95).to_html(float_format=lambda v: f'{v:.4g}')}"
