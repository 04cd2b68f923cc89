"""Choosing among models by an information criterion."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import pymc as pm

if TYPE_CHECKING:
    import pandas as pd

    from pm_mlem.results.fit import Fit

CRITERIA = ("aic", "aicc", "bic", "icl")
COLUMNS = ("n_params", "log_likelihood", *CRITERIA, "entropy", "converged", "status")


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """Fits of several models, and the one that a criterion prefers.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a value of the grid: ``n_params``, ``log_likelihood``, ``aic``, ``aicc``, ``bic``, ``icl``, ``entropy``,
        ``converged``, ``status``.
    fits : dict
        Value of the grid -> :class:`pm_mlem.Fit`.
    criterion : {"aic", "aicc", "bic", "icl"}
    best_value
        The value of the grid with the smallest criterion among the fits that converged (among all, if none did); fits
        whose criterion is NaN take no part.
    """

    table: pd.DataFrame
    fits: Mapping[Any, Fit]
    criterion: str
    best_value: Any

    @property
    def best(self) -> Fit:
        """The fit that the criterion prefers."""
        return self.fits[self.best_value]

    def __repr__(self) -> str:
        table = self.table.to_string(float_format=lambda v: f"{v:.2f}")
        return f"{self.criterion.upper()} prefers {self.best_value!r}\n\n{table}"

    def _repr_html_(self) -> str:
        table = self.table.to_html(float_format=lambda v: f"{v:.2f}")
        return f"<p>{self.criterion.upper()} prefers {escape(repr(self.best_value))}</p>{table}"


def select(build: Callable[[Any], pm.Model], grid: Iterable, criterion: str = "bic", **fit_arguments: Any) -> Selection:
    """Fit a model for every value of a grid and compare them by information criteria.

    Parameters
    ----------
    build : callable
        ``build(value)`` returns the ``pm.Model``; all of the same data.
    grid : iterable
        Numbers of components, say.
    criterion : {"aic", "aicc", "bic", "icl"}
        What :attr:`Selection.best` is chosen by. For numbers of components "bic" finds the number that describes the
        density [1]_, "icl" that of well separated clusters [2]_.
    **fit_arguments
        For :func:`pm_mlem.fit`, the same for all.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        An unknown criterion, one that is NaN for all models, an empty grid, values that occur twice, models of
        different data; whatever :func:`pm_mlem.fit` raises, with the value of the grid as a note.
    TypeError
        ``build`` is no function or does not return a ``pm.Model``; values that cannot be keys of a dictionary.

    References
    ----------
    .. [1] Keribin, C. *Consistent estimation of the order of mixture models*. Sankhya A 62 (2000).
    .. [2] Biernacki, C., Celeux, G. & Govaert, G. *Assessing a mixture model for clustering with the integrated
       completed likelihood*. IEEE Trans. PAMI 22 (2000). https://doi.org/10.1109/34.865189

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_mlem as mlem
    >>> x = np.linspace(-1, 1, 40)
    >>> y = 1 + 2 * x + 0.1 * np.cos(40 * x)
    >>> def polynomial(degree):
    ...     with pm.Model() as model:
    ...         beta = pm.Normal("beta", shape=degree + 1)
    ...         pm.Normal("y", np.vander(x, degree + 1) @ beta, pm.HalfNormal("sigma"), observed=y)
    ...     return model
    >>> mlem.select(polynomial, [0, 1, 2], progressbar=False).best_value
    1
    """
    import pandas as pd

    from pm_mlem.arguments import check_choice
    from pm_mlem.fit import fit
    from pm_mlem.results.pairs import check_same_observations

    check_choice(criterion, CRITERIA, "criterion")
    if not callable(build) or not isinstance(grid, Iterable):
        raise TypeError(
            "select takes a function that returns a pm.Model, and an iterable of the values to call it with."
        )
    values = list(grid)
    if not all(isinstance(v, Hashable) for v in values):
        raise TypeError("grid must hold values that can be keys of a dictionary: numbers, strings, tuples of these.")
    if not values or len(set(values)) < len(values):
        raise ValueError("grid must hold at least one value, and none twice.")
    fits = {}
    for value in values:
        try:
            model = build(value)
            if not isinstance(model, pm.Model):
                raise TypeError(f"build({value!r}) returned {type(model).__name__}; it must return the pm.Model.")
            fits[value] = fit(model, **fit_arguments)
        except Exception as error:
            error.add_note(f"This happened in mlem.select at the value {value!r} of the grid.")
            raise
        first, latest = (fits[v]._estimate for v in (values[0], value))
        check_same_observations(first, latest, f"the values {values[0]!r} and {value!r} of the grid")
    rows = [[*(getattr(f, c) for c in COLUMNS[:-1]), str(f.status)] for f in fits.values()]
    table = pd.DataFrame(rows, index=pd.Index(values, name="value"), columns=list(COLUMNS))
    known = [v for v in values if not math.isnan(getattr(fits[v], criterion))]
    if not known:
        raise ValueError(unknown_criterion(criterion, fits[values[0]]))
    candidates = [v for v in known if fits[v].converged] or known
    best = min(candidates, key=lambda v: getattr(fits[v], criterion))
    return Selection(table, fits, criterion, best)


def unknown_criterion(criterion: str, fit: Fit) -> str:
    """Why a criterion is NaN for all fits."""
    if math.isnan(fit.n_obs):
        return (
            f"{criterion.upper()} needs the number of observations, and the models have no data by rows: nothing is "
            "observed, and the likelihood is a Potential of one number. Give the Potential an entry for each row, or "
            "use criterion='aic'."
        )
    return (
        f"{criterion.upper()} is not defined for any of the models: {fit.n_obs:g} observations are too few for their "
        "parameters. Use criterion='aic'."
    )
