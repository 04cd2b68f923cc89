"""Terms with the same graph, such as the steps of a python loop, are lifted once.

A loop over time declares a thousand scalar variables. Their densities are one graph up to the constants and the
latents at its leaves, so one *template* stands for all of them: constants that differ get an axis for the members
of the family, latents of the template stand for one latent of each member. The lifted template then becomes an
array with the members along its first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pytensor.graph.basic import Variable

from pm_mlem.graph.lift import Context, Lifted, Slot
from pm_mlem.graph.lift.core import arrange, as_lifted

SMALLEST_FAMILY = 4
MOST_LEAVES = 200
MEMBERS = -(2**31)
"""Lower bound of the states of the slot that stands for the members: no latent shares it."""

Leaf = tuple[Hashable, bool]
"""What a leaf has to share with its counterparts, and whether its value may differ."""


@dataclass(frozen=True, eq=False)
class Family:
    """The terms that one template stands for.

    Attributes
    ----------
    members : names of the variables or Potentials
    variables : the variables themselves
    leaves : template's leaf -> what stands there in each member
    """

    members: tuple[str, ...]
    variables: tuple[Variable, ...]
    leaves: Mapping[Variable, tuple[Variable, ...]]


class Signatures:
    """Numbers that are equal for variables whose graphs are equal up to their leaves.

    ``kind_of_leaf`` describes leaves (None: the variable is no leaf).
    """

    def __init__(self, kind_of_leaf: Callable[[Variable], Leaf | None]):
        self.kind_of_leaf = kind_of_leaf
        self.numbers: dict[Hashable, int] = {}
        self.memo: dict[Variable, tuple[int, tuple[Variable, ...]]] = {}

    def number(self, key: Hashable) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    def of_inputs(self, inputs: Sequence[Variable], *rest: Hashable) -> tuple[Hashable, tuple[Variable, ...]]:
        """The signature of some graphs together, and their leaves in order (each once)."""
        parts = [self.of(v) for v in inputs]
        leaves = [leaf for _, own in parts for leaf in own]
        first = {leaf: i for i, leaf in reversed(list(enumerate(leaves)))}
        pattern = tuple(first[leaf] for leaf in leaves)
        return (*rest, *[n for n, _ in parts], pattern), tuple(dict.fromkeys(leaves))

    def of(self, variable: Variable) -> tuple[int, tuple[Variable, ...]]:
        stack = [variable]
        while stack:
            current = stack[-1]
            if current in self.memo:
                stack.pop()
                continue
            leaf = self.kind_of_leaf(current)
            if leaf is not None:
                kind, varies = leaf
                self.memo[current] = self.number(kind), (current,) if varies else ()
                continue
            missing = [v for v in current.owner.inputs if v not in self.memo]
            if missing:
                stack.extend(missing)
                continue
            self.memo[current] = self.apply(current)
        return self.memo[variable]

    def apply(self, variable: Variable) -> tuple[int, tuple[Variable, ...]]:
        node = variable.owner
        parts = [self.memo[v] for v in node.inputs]
        leaves = tuple(leaf for _, own in parts for leaf in own)
        if len(leaves) > MOST_LEAVES:
            return self.number(("itself", variable)), ()
        key = (node.op, node.outputs.index(variable), *[(n, len(own)) for n, own in parts])
        return self.number(key), leaves


def group(signatures: Iterable[tuple[Hashable, tuple[Variable, ...]]]) -> list[list[int]]:
    """Positions with equal signatures; groups that are too small are left alone, one position each."""
    groups: dict[Hashable, list[int]] = {}
    for i, (key, _) in enumerate(signatures):
        groups.setdefault(key, []).append(i)
    result = []
    for members in groups.values():
        result += [members] if len(members) >= SMALLEST_FAMILY else [[i] for i in members]
    return sorted(result)


class TemplateContext(Context):
    """Lifts graphs of a family's template; :meth:`unfold` puts the members along the first axis."""

    def __init__(self, family: Family, outer: Context):
        self.family, self.size = family, len(family.members)
        latents = [s.address for v in outer.leaves.values() for s in v.slots]
        self.n_outer = 1 + max((int(a.max(initial=-1)) for a in latents), default=-1)
        self.addresses: list[np.ndarray] = []
        super().__init__(
            self.template_leaves(outer), outer.placeholders, outer.guards, outer.missing, sample=outer.sample
        )

    def template_leaves(self, outer: Context) -> dict[Variable, Lifted]:
        leaves = dict(outer.leaves)
        self.axis = Slot(MEMBERS, self.size, np.asarray(self.n_outer))
        for variable, members in self.family.leaves.items():
            if all(m is variable for m in members):
                continue
            values = [outer.lift(m) for m in members]
            if values[0].slots:
                leaves[variable] = self.own_latent(values)
            elif not all(v.data is values[0].data for v in values):
                leaves[variable] = self.stacked(values)
        return leaves

    def own_latent(self, values: Sequence[Lifted]) -> Lifted:
        """A latent of the template: numbers of its own that :meth:`unfold` translates."""
        [slot] = values[0].slots
        addresses = np.stack([v.slots[0].address.ravel() for v in values])
        start = next((s for s, known in self.numbered() if np.array_equal(known, addresses)), None)
        if start is None:
            start = self.first_own + sum(a.shape[1] for a in self.addresses)
            self.addresses.append(addresses)
        own = start + np.arange(addresses.shape[1]).reshape(slot.address.shape)
        return Lifted(values[0].shape, (slot.with_address(own),), data=values[0].data)

    @property
    def first_own(self) -> int:
        return self.n_outer + 1

    def numbered(self):
        start = self.first_own
        for addresses in self.addresses:
            yield start, addresses
            start += addresses.shape[1]

    def stacked(self, values: Sequence[Lifted]) -> Lifted:
        """Constants of the members along an axis of the family."""
        shape = values[0].shape
        arrays = np.stack([v.data for v in values])
        if np.all(arrays == arrays[:1]):
            return values[0]
        slot = self.axis.with_address(self.axis.address.reshape((1,) * len(shape)))
        return Lifted(shape, (slot,), data=arrays)

    def unfold(self, value: Lifted) -> Lifted:
        """The members along the first axis, latents by their own numbers."""
        own = len(value.slots)
        places = [i for i, s in enumerate(value.slots) if s.lower == MEMBERS]
        kept = [i for i in range(own) if i not in places]
        order = [*kept, places[0] if places else "x", *range(own, own + value.ndim)]
        table = np.concatenate(self.addresses, axis=1) if self.addresses else np.empty((self.size, 0), dtype=int)
        slots = [value.slots[i].with_address(self.translate(value.slots[i].address, table)) for i in kept]
        return as_lifted(arrange(value, order), (self.size, *value.shape), slots)

    def translate(self, address: np.ndarray, table: np.ndarray) -> np.ndarray:
        """``(members, *address.shape)``; of length 1 where the members read the same."""
        if np.all(address < self.n_outer):
            return address[None]
        inner = np.clip(address - self.first_own, 0, None)
        return np.where(address < self.n_outer, address[None], table[:, inner])


def context_of(family: Family | None, context: Context) -> Context:
    """The context in which the graphs of a term are lifted."""
    if family is None:
        return context
    inner = context.families.get(family)
    if inner is None:
        inner = context.families[family] = TemplateContext(family, context)
    return inner


def unfold(value: Lifted, family: Family | None, context: Context) -> Lifted:
    """A value of a term's own context as one of the model."""
    if family is None:
        return value
    inner = context_of(family, context)
    assert isinstance(inner, TemplateContext)
    return inner.unfold(value)
