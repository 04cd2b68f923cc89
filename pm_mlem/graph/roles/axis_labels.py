"""Labels of axes and names of entries: one way for estimates, held entries and whatever is read from a file."""

from __future__ import annotations

import datetime
import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np


def axis_labels(values: Sequence) -> np.ndarray:
    """The labels of a dimension as an array of one axis that xarray takes and files can hold.

    Numbers, strings and booleans stay as they are, times become ``datetime64[ns]`` and ``timedelta64[ns]``; anything
    else (tuples, periods, intervals, a mixture of types) becomes its text.
    """
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biufUS":
        return values
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    kinds = {type(v) for v in array}
    if kinds and all(issubclass(k, datetime.date | np.datetime64) for k in kinds):
        return np.array([np.datetime64(v, "ns") for v in array])
    if kinds and all(issubclass(k, datetime.timedelta | np.timedelta64) for k in kinds):
        return np.array([np.timedelta64(v, "ns") for v in array])
    if kinds and all(issubclass(k, PLAIN) for k in kinds):
        return np.asarray(array.tolist())
    return np.array([text(v) for v in array]) if len(array) else np.empty(0, dtype=str)


PLAIN = (bool, int, float, str, bytes, np.bool_, np.number, np.str_, np.bytes_)


def text(label: object) -> str:
    """A label in words; tuples with what they hold as it is."""
    return f"({', '.join(map(str, label))})" if isinstance(label, tuple) else str(label)


def texts(labels: Sequence) -> list[str]:
    """The labels of an axis as parts of names, each of them different.

    Times are written as far as they differ from midnight or from whole seconds. Where a label occurs more than once its
    position is added, ``a#0``.
    """
    array = axis_labels(labels)
    if array.dtype.kind == "M":
        days, seconds = array.astype("datetime64[D]"), array.astype("datetime64[s]")
        array = days if np.all(days == array) else seconds if np.all(seconds == array) else array
    elif array.dtype.kind == "m":
        seconds = array.astype("timedelta64[s]")
        array = seconds if np.all(seconds == array) else array
    return apart([str(v) for v in array])


def apart(names: Sequence[str]) -> list[str]:
    """Names with the positions added to those that occur more than once."""
    names, count = list(names), Counter(names)
    while len(count) < len(names):
        names = [f"{name}#{i}" if count[name] > 1 else name for i, name in enumerate(names)]
        count = Counter(names)
    return names


def several(name: str, known: Sequence[str]) -> str:
    """A sentence about a name that fits several entries, whose label occurs more than once; empty for all others."""
    found = [n for n in known if name.endswith("]") and n.startswith(f"{name[:-1]}#")]
    return f" There are several entries of that label: {', '.join(found)}." if found else ""


def entry_names(name: str, labels: Sequence[Sequence]) -> list[str]:
    """Names of the entries of an array, as in ``az.summary``: ``mu``, ``mu[a]``, ``p[a, b]``; all are different.

    ``labels`` holds those of each axis.
    """
    if not labels:
        return [name]
    inside = apart([", ".join(entry) for entry in itertools.product(*map(texts, labels))])
    return [f"{name}[{entry}]" for entry in inside]
