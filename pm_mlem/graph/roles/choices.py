"""What a reading of a model is asked for, as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pm_mlem.arguments import array_of_numbers


@dataclass(frozen=True, eq=False)
class Choices:
    """How a model is read. Two of the same content are equal, so that they can be the key of a cache.

    Attributes
    ----------
    latents : names of continuous free variables to integrate out
    fixed : values (constrained space) of free variables that are not estimated, or of single entries of them: NaN
        where an entry of an array stays free, or by the entry's name (``mu[a]``)
    bounds : for latent counts without an upper bound the largest state that is enumerated, as far as it is known
    unknown : observed variables whose values do not count
    means : whether the means of the observed variables are among the Deterministics
    replaceable : whether the observed data are inputs, not constants, so that others of the same shape can replace them
    joined : for each latent the axes whose entries are enumerated jointly
    with_prior : whether the prior densities of the parameters count
    """

    latents: Sequence[str] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, int] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    means: bool = False
    replaceable: bool = False
    joined: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    with_prior: bool = False

    def __post_init__(self) -> None:
        held = {n: array_of_numbers(v, f"fixed: the values of '{n}'") for n, v in self.fixed.items()}
        object.__setattr__(self, "fixed", held)

    @cached_property
    def key(self) -> tuple:
        held = tuple((name, a.shape, a.tobytes()) for name, a in sorted(self.fixed.items()))
        mappings = (tuple(sorted(m.items())) for m in (self.bounds, self.joined))
        return (
            tuple(self.latents), held, *mappings, tuple(self.unknown), self.means, self.replaceable, self.with_prior
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choices) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)
