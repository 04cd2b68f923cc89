"""What users may pass, checked before anything is computed.

Public functions declare what their arguments must be: ``@checked(draws=whole(1), random_seed=seed)``. A rule takes a
value and the name of its argument, and returns the value that the function works with; a value that breaks it is
refused by one sentence that begins with the name.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    import pymc as pm

P = ParamSpec("P")
R = TypeVar("R")
Rule = Callable[[Any, str], Any]


CALM = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
"""How NumPy treats infinities and NaN by default: a user's ``np.seterr(all="raise")`` is not meant for this package."""


def checked(**rules: Rule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function whose arguments go through rules before it begins."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # Python's own message, with the name of the function
            for name, rule in rules.items():
                if name in given.arguments:
                    given.arguments[name] = rule(given.arguments[name], name)
            with np.errstate(**CALM):
                return function(*given.args, **given.kwargs)

        return wrapper

    return decorate


def check_fields(options: object, **rules: Rule) -> None:
    """Put the fields of a frozen dataclass through rules, for its ``__post_init__``."""
    for name, rule in rules.items():
        object.__setattr__(options, name, rule(getattr(options, name), name))


# --- rules ------------------------------------------------------------------------------------------------


def optional(rule: Rule) -> Rule:
    """None, or what another rule allows."""
    return lambda value, name: None if value is None else rule(value, name)


def whole(least: int) -> Rule:
    """A whole number, at least some other."""

    def rule(value: Any, name: str) -> int:
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name}={shown(value)} must be a whole number, at least {least}.")
        return int(value)

    return rule


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def positive(value: Any, name: str) -> float:
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name}={shown(value)} must be a number, positive and finite.")
    return value


def not_negative(value: Any, name: str) -> float:
    if not is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name}={shown(value)} must be a number, finite and not negative.")
    return value


def level(value: Any, name: str = "level") -> float:
    """The probability of an interval."""
    if not is_number(value) or not 0 < value < 1:
        raise ValueError(f"{name}={shown(value)} must lie between 0 and 1 (0.95 for 95 %).")
    return float(value)


def flag(value: Any, name: str) -> bool:
    if isinstance(value, bool | np.bool_) or (is_number(value) and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name}={shown(value)} must be True or False.")


def replicates(value: Any, name: str = "bootstrap") -> int | bool:
    """A number of replicates, True for the usual one, False for none."""
    return bool(value) if isinstance(value, bool | np.bool_) else whole(0)(value, name)


def seed(value: Any, name: str = "random_seed"):
    """What ``numpy.random.default_rng`` takes: None, a number that is not negative, a ``Generator``, ..."""
    try:
        if isinstance(value, bool):
            raise TypeError
        np.random.default_rng(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}={shown(value)} must be None, a whole number that is not negative, or a numpy.random.Generator."
        ) from None
    return value


def text(value: Any, name: str) -> str:
    """A name."""
    if not isinstance(value, str):
        raise TypeError(f"{name}={shown(value)} must be a name, a string.")
    return value


def some_names(value: Any, name: str) -> list[str]:
    """One name, several, or none."""
    found = [value] if isinstance(value, str) else value
    if isinstance(found, Mapping | bytes) or not hasattr(found, "__iter__"):
        raise TypeError(f"{name}={shown(value)} must be a name or a list of names.")
    found = list(found)
    for item in found:
        if not isinstance(item, str):
            raise TypeError(f"{name}={shown(value)} must be a name or a list of names, not of {type(item).__name__}.")
    return [str(item) for item in found]


def names(value: Any, name: str = "var_names") -> list[str]:
    """One name or several; an empty list is refused, since it may stand for none or for all."""
    found = some_names(value, name)
    if not found:
        raise ValueError(f"{name} is empty: name at least one, or leave {name}= out.")
    return found


def mapping(of: str) -> Rule:
    """A dictionary; ``of`` says of what to what, for the message."""

    def rule(value: Any, name: str) -> dict:
        if not isinstance(value, Mapping):
            raise TypeError(f"{name}={shown(value)} must be a dictionary {of}.")
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name}: the key {shown(key)} is no name; pass a dictionary {of}.")
        return dict(value)

    return rule


values = mapping("{name: value}")
labels = mapping("{dimension: labels}")


def starting_values(value: Any, name: str = "starts") -> int | list[dict]:
    """A number of starts, or their values by name."""
    if isinstance(value, Mapping):
        raise TypeError(f"{name} must be a number or a list of dictionaries: pass {name}=[{{name: value, ...}}].")
    if isinstance(value, str) or not isinstance(value, Sequence):
        return whole(1)(value, name)
    if not value:
        raise ValueError(f"{name} is an empty list; give a number or at least one {{name: value}}.")
    return [values(item, f"{name}[{i}]") for i, item in enumerate(value)]


def shown(value: Any) -> str:
    """A value as it is written, shortened for a message."""
    found = repr(value)
    return found if len(found) <= 60 else f"{found[:57]}..."


# --- arrays -----------------------------------------------------------------------------------------------


def array_of_numbers(value: Any, what: str) -> np.ndarray:
    """An array of floats, NaN where it is masked.

    Raises
    ------
    ValueError
        ``what`` it was meant for, and why it is none.
    """
    try:
        given = np.ma.filled(value.astype(float), np.nan) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
        if given.dtype.kind in "USmM":
            raise TypeError(f"it has the type {given.dtype}")
        if given.dtype.kind == "c":
            raise TypeError("complex numbers have no order")
        return given.astype(float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be numbers, not {shown(value)} ({error}).") from None


# --- models and choices -----------------------------------------------------------------------------------


def current_model(model: pm.Model | None) -> pm.Model:
    """The model that was passed, or the one on the context stack."""
    import pymc as pm

    if model is None:
        try:
            return pm.modelcontext(None)
        except TypeError:
            raise ValueError(
                "No model: pass one, mlem.fit(model), or call mlem.fit() inside 'with pm.Model() as model:'."
            ) from None
    if isinstance(model, pm.Model):
        return model
    backend = getattr(model, "backend", None)
    if isinstance(inner := getattr(backend, "model", None), pm.Model):  # a bambi.Model that is built
        if not getattr(model, "center_predictors", False):
            return inner
        from pm_mlem.graph.roles.uncentered import uncentered

        return uncentered(model, inner)
    hint = ""
    if hasattr(type(model), "backend") or hasattr(model, "backend"):
        hint = " If it is a bambi.Model, build it first: model.build(), then pass model.backend.model."
    elif hasattr(type(model), "model") or hasattr(model, "model"):
        hint = " It has an attribute 'model'; if that is the pm.Model, build it and pass that."
    raise TypeError(f"model must be a pm.Model, not {type(model).__name__}.{hint}")


def check_estimator(estimator) -> None:
    """Refuse what is no estimator, with a word on where methods go."""
    if isinstance(estimator, str) and estimator in ("mle", "map"):
        return
    method = estimator if isinstance(estimator, str) else type(estimator).__name__
    if method.lower() in ("auto", "em", "lbfgs", "newton", "adam"):
        given = repr(method) if isinstance(estimator, str) else f"mlem.{method}(...)"
        raise ValueError(f"estimator={shown(estimator)} is a method, not an estimator: pass method={given}.")
    check_choice(estimator, ("mle", "map"), "estimator")


def check_choice(value, choices: Sequence[str], argument: str) -> None:
    if not isinstance(value, str) or value not in choices:
        listed = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        close = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.5) if isinstance(value, str) else []
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{argument}={shown(value)} is unknown; use {listed}.{guess}")
