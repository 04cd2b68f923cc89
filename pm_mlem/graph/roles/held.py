"""Single entries of parameters that are held at a value while the others are estimated.

A parameter with held entries keeps its full shape everywhere. Only its map to the unconstrained space differs: it has
coordinates for the free entries alone, and puts the held ones in on the way back.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytensor.tensor as pt
from pymc.logprob.transforms import SimplexTransform, Transform
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.op import RandomVariable

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.axis_labels import entry_names, several

ROUNDING = 1e-6
"""By how much probabilities that were given may miss a sum of 1."""


# --- names of entries -------------------------------------------------------------------------------------


def by_variable(fixed: Mapping[str, np.ndarray], known: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
    """The values that were given for each variable, by the names under which they were given.

    Names of entries that belong to no variable are left as they are.
    """
    names = set(known)
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, value in fixed.items():
        owner = key
        if key not in names:
            fitting = [n for n in names if str(key).startswith(f"{n}[") and str(key).endswith("]")]
            owner = max(fitting, key=len, default=key)
        found.setdefault(owner, {})[key] = value
    return found


def held_values(
    name: str, shape: tuple[int, ...], labels: Sequence[Sequence], given: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What a variable's entries are held at; NaN where they stay free.

    Parameters
    ----------
    name, shape : of the variable
    labels : those of each of its axes
    given : values by the name of the variable or of one of its entries

    Raises
    ------
    ValueError
        A wrong shape, an unknown entry, infinite values, contradictions, or nothing that is held.
    """
    result = np.full(shape, np.nan)
    if name in given:
        array = given[name]
        try:
            result = np.array(np.broadcast_to(array, shape))
        except ValueError:
            raise ValueError(f"fixed={{'{name}': ...}} has shape {array.shape}, the variable {shape}.") from None
        if np.any(np.isinf(result)) or (result.size and np.all(np.isnan(result))):
            raise ValueError(
                f"fixed={{'{name}': ...}} contains a value that is not finite. In an array, NaN leaves an entry free; "
                "at least one has to be held."
            )
    elements = {key: value for key, value in given.items() if key != name}
    positions = {entry: i for i, entry in enumerate(entry_names(name, labels))} if elements else {}
    for key, array in elements.items():
        if key not in positions:
            raise ValueError(unknown_entry(key, name, list(positions)))
        if array.shape or not np.isfinite(array):
            raise ValueError(f"fixed={{'{key}': ...}} must be one finite number.")
        before = result.flat[positions[key]]
        if not np.isnan(before) and before != array:
            raise ValueError(f"fixed= gives '{key}' two values, {before:g} and {array.item():g}.")
        result.flat[positions[key]] = array
    return result


def unknown_entry(key: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    guess = several(key, known) or (f" Did you mean '{close[0]}'?" if close else "")
    listed = ", ".join(known[:6]) + (", ..." if len(known) > 6 else "")
    return f"'{key}' in fixed= is not an entry of '{name}'.{guess} Its entries are {listed}."


# --- transforms -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class HeldEntries(Transform):
    """A transform that acts entry by entry (or none), on the entries that are free.

    Attributes
    ----------
    base : transform of the whole variable, or None
    held : values of the entries, NaN where they are free
    """

    base: object | None
    held: np.ndarray
    ndim_supp = 0

    @property
    def name(self) -> str:
        return getattr(self.base, "name", "")

    @cached_property
    def free(self) -> np.ndarray:
        """Which entries are estimated."""
        return np.isnan(self.held)

    @cached_property
    def entries(self) -> np.ndarray:
        """Flat position of the entry that each unconstrained coordinate belongs to."""
        return np.flatnonzero(self.free)

    def forward(self, value, *inputs):
        moved = pt.as_tensor(value) if self.base is None else self.base.forward(value, *inputs)
        return moved.ravel()[self.entries]

    def backward(self, value, *inputs):
        spread = spread_out(value, self.entries, self.held.shape)
        moved = spread if self.base is None else self.base.backward(spread, *inputs)
        return pt.where(self.free, moved, np.nan_to_num(self.held))

    def log_jac_det(self, value, *inputs):
        """Of the free entries."""
        if self.base is None:
            return pt.zeros(self.held.shape)
        jacobian = self.base.log_jac_det(spread_out(value, self.entries, self.held.shape), *inputs)
        return pt.where(self.free, jacobian, 0.0)


@dataclass(frozen=True, eq=False)
class HeldSimplex(Transform):
    """Probabilities of which some are held: the free ones of a row share what these leave.

    With everything free it is PyMC's simplex transform. Rows may differ in what they hold, so the unconstrained value
    is flat; every row has one coordinate less than free entries.

    Attributes
    ----------
    held : values of the entries, NaN where they are free; a row has no free entry or at least two
    """

    held: np.ndarray
    ndim_supp = 1
    name = SimplexTransform.name

    @cached_property
    def free(self) -> np.ndarray:
        return np.isnan(self.held)

    @cached_property
    def last(self) -> np.ndarray:
        """The last free entry of each row."""
        after = np.cumsum(self.free[..., ::-1], axis=-1)[..., ::-1]
        return self.free & (after == 1)

    @cached_property
    def entries(self) -> np.ndarray:
        return np.flatnonzero(self.free & ~self.last)

    @property
    def share(self) -> np.ndarray:
        """What is left for the free entries of each row."""
        return 1.0 - np.nansum(self.held, axis=-1, keepdims=True)

    def forward(self, value, *inputs):
        logs = pt.log(pt.as_tensor(value))
        count = np.maximum(self.free.sum(axis=-1, keepdims=True), 1)
        centre = pt.where(self.free, logs, 0.0).sum(axis=-1, keepdims=True) / count
        return (logs - centre).ravel()[self.entries]

    def backward(self, value, *inputs):
        spread = spread_out(value, self.entries, self.held.shape)
        logits = pt.where(self.last, -spread.sum(axis=-1, keepdims=True), spread)
        odds = pt.where(self.free, pt.exp(logits - logits.max(axis=-1, keepdims=True)), 0.0)
        total = odds.sum(axis=-1, keepdims=True) + ~self.free.any(axis=-1, keepdims=True)
        return pt.where(self.free, self.share * odds / total, np.nan_to_num(self.held))

    def log_jac_det(self, value, *inputs):
        """Of the free entries of each row but the last."""
        count = self.free.sum(axis=-1)
        some = count > 0
        logs = pt.where(self.free, pt.log(pt.where(self.free, self.backward(value), 1.0)), 0.0).sum(axis=-1)
        return logs + np.where(some, np.log(np.maximum(count, 1) / np.where(some, self.share[..., 0], 1.0)), 0.0)


def spread_out(value, entries: np.ndarray, shape: tuple[int, ...]):
    """A vector brought to positions of an array that is 0 elsewhere."""
    source = np.full(math.prod(shape), len(entries))
    source[entries] = np.arange(len(entries))
    return pt.concatenate([value, [0.0]])[source.reshape(shape)]


def complete(name: str, held: np.ndarray, transform: object | None) -> np.ndarray:
    """Held values with those that follow from them: what is left of a row of probabilities to its only free entry.

    Raises
    ------
    ValueError
        Probabilities that are negative or add up to more than 1.
    """
    if not isinstance(transform, SimplexTransform):
        return held
    total, free = np.nansum(held, axis=-1, keepdims=True), np.isnan(held)
    if np.any(held < 0):
        raise ValueError(f"fixed= is outside the support of '{name}': a probability is negative.")
    bad = (total > 1 + ROUNDING) | (~free.any(axis=-1, keepdims=True) & (total < 1 - ROUNDING))
    if np.any(bad):
        raise ValueError(
            f"fixed= is outside the support of '{name}': the probabilities of a row add up to {total[bad][0]:.6g}"
            + (", more than 1." if total[bad][0] > 1 else "; hold fewer of them, or let them add up to 1.")
        )
    rest = np.maximum(1.0 - total, 0.0)
    decided = free & ((free.sum(axis=-1, keepdims=True) == 1) | (rest <= ROUNDING**2))
    return np.where(decided, rest, held)


def check_support(name: str, values: np.ndarray, transform: object | None, rv: Variable) -> None:
    """Refuse values that a transform that acts entry by entry cannot take; those on the border are allowed.

    Bounds that depend on other random variables are not known here and not checked.

    Raises
    ------
    ValueError
    """
    if transform is None or getattr(transform, "ndim_supp", None) != 0:
        return
    moved = transform.forward(pt.constant(values), *rv.owner.inputs)
    if any(isinstance(v.owner.op, RandomVariable) for v in ancestors([moved]) if v.owner is not None):
        return
    with np.errstate(all="ignore"):
        outside = np.isnan(function([], moved, mode=Mode("py", None))()) & ~np.isnan(values)
    if np.any(outside):
        raise ValueError(f"fixed=: {values[outside][0]:g} is outside the support of '{name}'.")


def holding(name: str, held: np.ndarray, transform: object | None) -> HeldEntries | HeldSimplex:
    """The transform of a parameter some of whose entries are held.

    Raises
    ------
    UnsupportedModelError
        The parameter's transform ties its entries to each other.
    """
    if isinstance(transform, SimplexTransform):
        return HeldSimplex(held)
    if transform is None or getattr(transform, "ndim_supp", None) == 0:
        return HeldEntries(transform, held)
    kind = getattr(transform, "name", type(transform).__name__)
    raise UnsupportedModelError(
        f"Single entries of '{name}' cannot be held: its transform '{kind}' ties them to the others. Hold all of "
        f"'{name}', or build it in the model from variables of its own for what is known and what is not."
    )
