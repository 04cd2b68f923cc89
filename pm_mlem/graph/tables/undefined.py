"""Why a log-density is not a number: missing covariates, impossible expressions, values outside a support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import ancestors

from pm_mlem.graph.lift import Context
from pm_mlem.graph.roles.structure import ModelStructure, Term, distribution_name, expression
from pm_mlem.graph.tables.model_tables import DensityTerm

REMEDY = "Remove those rows, or model the missing values."


def check_missing(context: Context, term: Term | None, structure: ModelStructure) -> None:
    """Refuse NaN in anything that enters a log-density, by the name of what is to blame.

    Raises
    ------
    ValueError
    """
    if not context.missing:
        return
    array = context.missing[0]
    if term is not None:
        found = missing_data(term) or undefined_expression(term, context) or outside_support(term, array)
        if found:
            raise ValueError(found)
    raise ValueError(
        f"An array of shape {array.shape} that the model uses (a covariate or an index) contains NaN. {REMEDY}"
    )


def missing_data(term: Term) -> str:
    """A sentence about constants of a term that contain NaN."""
    for v in ancestors([term.density]):
        if isinstance(v, Constant | SharedVariable):
            data = v.data if isinstance(v, Constant) else v.get_value(borrow=True)
            if isinstance(data, np.ndarray) and data.dtype.kind == "f" and np.isnan(data).any():
                what = f"'{v.name}'" if v.name else f"An array of shape {data.shape}"
                at = first(np.isnan(data))
                return f"{what}, a covariate or an index of '{term.name}', contains NaN at {at}. {REMEDY}"
    return ""


def undefined_expression(term: Term, context: Context) -> str:
    """A sentence about an expression in the data that has no value, in the arguments of a term's distribution."""
    for v in ancestors(list(term.rv.owner.inputs) if term.rv is not None else [term.density]):
        lifted = context.memo.get(v)
        if v.owner and lifted is not None and lifted.is_constant and lifted.data.dtype.kind == "f":
            wrong = np.isnan(lifted.data)
            if np.any(wrong):
                return (
                    f"{expression(v.owner)}, which '{term.name}' depends on, is not a number at {first(wrong)} (the "
                    "logarithm or the root of a negative number, say). Correct the expression or these data."
                )
    return ""


def outside_support(term: Term, array: np.ndarray) -> str:
    """A sentence about the first observation at which a log-density is not finite."""
    if term.kind != "observed" or term.rv is None or term.value is None or not term.value.is_constant:
        return ""
    values = np.broadcast_to(term.value.data, term.value.shape)
    try:
        own = array.shape[array.ndim - values.ndim :]
        wrong = np.broadcast_to(np.isnan(array).reshape(-1, *own).any(axis=0), values.shape)
    except ValueError:
        return ""
    if not np.any(wrong):
        return ""
    return of_value(term, values, wrong) + " Correct or remove it, or use a distribution that allows it."


def impossible_values(densities: Sequence[DensityTerm], arrays: Sequence[np.ndarray]) -> Mapping[str, str]:
    """For observed variables whose density is 0 or undefined at some observations a sentence about the first."""
    found = {}
    for density, array in zip(densities, arrays, strict=True):
        term, slots = density.term, len(density.lifted.slots)
        if term.kind != "observed" or term.rv is None or term.value is None or not term.value.is_constant:
            continue
        wrong = np.all(~np.isfinite(array) & (np.asarray(array) != np.inf), axis=tuple(range(slots)))
        values = np.broadcast_to(term.value.data, term.value.shape)
        if values.shape == density.lifted.shape and np.any(wrong) and not np.all(wrong):
            found[term.name] = of_value(term, values, np.broadcast_to(wrong, values.shape))
    return found


def of_value(term: Term, values: np.ndarray, wrong: np.ndarray) -> str:
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    name = term.name if term.family is None else term.members[where[0]]
    place = where if term.family is None else where[1:]
    at = f" at index {place}" if place else ""
    return (
        f"The observed value {values[where]:g}{at} of '{name}' is outside the support of its distribution "
        f"({distribution_name(term.rv)})."
    )


def first(wrong: np.ndarray) -> str:
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"index {where}" if where else "its only entry"
