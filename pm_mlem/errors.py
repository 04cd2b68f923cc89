"""The errors a user can act on; every message names the variable and the remedy."""

from __future__ import annotations

import contextlib
import functools
import warnings
from pathlib import Path


class UnsupportedModelError(ValueError):
    """The model contains something that cannot be handled exactly.

    The message names the variable, the operation and what to do instead.
    """


class NotIdentifiedError(ValueError):
    """The data say nothing about some direction of the parameter space.

    The message names the parameters of that direction.
    """


class LocalOptimaWarning(UserWarning):
    """Only one of several starts reached the best optimum, so there may be a better one.

    The message says how many starts there were and how to try more.
    """


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """A warning that points at the line of the user who called this package."""
    decorators = [Path(module.__file__).with_suffix("") for module in (contextlib, functools)]  # no callers
    between = tuple(map(str, (Path(__file__).parent, *decorators)))
    warnings.warn(message, category, skip_file_prefixes=between)
