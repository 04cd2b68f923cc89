"""Which entries of a latent are enumerated jointly.

An operation such as ``z.sum()`` or ``X @ z`` mixes elements of a latent, so no table over single elements can hold
its result. The entries that it mixes then become one element whose states are all their combinations, as long as
these are few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.lift import Refusal
from pm_mlem.graph.roles.structure import Latent, ModelStructure

MOST_JOINT_STATES = 4096

Joined = Mapping[str, tuple[int, ...]]


def widen(structure: ModelStructure, joined: Joined, error: UnsupportedModelError) -> Joined:
    """The next choice of joint axes after an attempt that was refused; raises the error where there is none."""
    refusal = error.__cause__
    if not isinstance(refusal, Refusal) or not refusal.mixed:
        raise error
    too_large = []
    for item in structure.latents:
        if not any(reads(slot, item) for slot in refusal.mixed):
            continue
        for axes in choices(item):
            if states(item, axes) > MOST_JOINT_STATES:
                too_large.append(item)
                break
            return {**joined, item.name: axes}
    if too_large:
        item = too_large[0]
        count = math.prod(item.shape[d] for d in next(choices(item)))
        raise UnsupportedModelError(
            f"{error} Enumerating the {count} entries of '{item.name}' jointly would take {item.states}**{count} "
            f"states; the limit is {MOST_JOINT_STATES:,}."
        ) from refusal
    raise error


def reads(slot, item: Latent) -> bool:
    return bool(((slot.address >= item.base) & (slot.address < item.base + item.n_elements)).any())


def choices(item: Latent):
    """Sets of axes that have not been tried, fewest joint states first."""
    axes = [d for d, n in enumerate(item.shape) if n > 1]
    sets = [c for r in range(1, len(axes) + 1) for c in combinations(axes, r)]
    sets.sort(key=lambda c: (math.prod(item.shape[d] for d in c), c))
    yield from sets[sets.index(item.joined) + 1 :] if item.joined in sets else sets


def states(item: Latent, axes: tuple[int, ...]) -> int:
    count = math.prod(item.shape[d] for d in axes)
    return item.states**count if count <= math.log2(MOST_JOINT_STATES) + 1 else MOST_JOINT_STATES + 1
