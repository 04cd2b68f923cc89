"""The symbolic content of a model: the data that the graph room hands on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pytensor.graph.basic import Variable
from pytensor.tensor.random.op import RandomVariable

from pm_mlem.graph.elimination import Elimination
from pm_mlem.graph.elimination.factors import Factor
from pm_mlem.graph.lift import Context, Lifted
from pm_mlem.graph.roles.structure import ModelStructure, Term


@dataclass(frozen=True, eq=False)
class DensityTerm:
    """A data term or the distribution of a latent, lifted.

    ``array`` is its element-wise log-density (slot axes first) as a function of the parameters, ``input`` the
    placeholder that stands for it in the elimination, ``whole`` whether it is all of the term's density (a term
    that mixes elements of a latent has several parts).
    """

    term: Term
    lifted: Lifted
    array: Variable
    input: Variable
    whole: bool

    def part_of(self, name: str) -> tuple[int, tuple[int, ...]]:
        """Where the entries of one of the term's variables start in the flat density, and their shape."""
        if self.term.family is None:
            return 0, self.lifted.shape
        shape = self.lifted.shape[1:]
        return self.term.members.index(name) * math.prod(shape), shape


@dataclass(frozen=True, eq=False)
class DerivedValue:
    """A Deterministic of the model: its array (slot axes first) and the latent elements that it reads.

    ``probe`` names the probe whose derivative is the joint posterior of what it reads; where it reads one element for
    each of its entries that is the probe of their vector, and ``places`` says which elements of it.
    """

    name: str
    lifted: Lifted
    array: Variable
    probe: str = ""
    places: np.ndarray | None = None

    def joint(self, probabilities: Mapping[str, Any]) -> Any:
        """The joint posterior of what it reads, slot axes first, from those of the probes."""
        found = probabilities[self.probe]
        return found if self.places is None else found[:, self.places]


@dataclass(frozen=True, eq=False)
class Probe:
    """A table of zeros added to the log-density: the gradient with respect to it is a posterior probability.

    ``shape`` is that of the array (states first); ``name`` the vector of latents that it serves, or the first of the
    Deterministics that do.
    """

    name: str
    input: Variable
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Site:
    """One distribution of the likelihood.

    Attributes
    ----------
    term : position of its term
    op : the distribution (a PyTensor random-variable Op)
    parameters, value : arrays whose leading axes are those of the density (slots, then batch axes; 1 where
        nothing varies), followed by the distribution's core axes
    """

    term: int
    op: RandomVariable
    parameters: tuple[Variable, ...]
    value: Variable


@dataclass(frozen=True, eq=False)
class MixedPriors:
    """The priors of a model that read latents.

    Attributes
    ----------
    densities : their element-wise log-densities given the latents, the last of the model's
    factors : their tables
    vectors : the latents that are summed out of them, by position
    terms : positions of the densities that belong to the prior: these, and the distributions of the latents
    total : scalar, the log-density of the parameters with the latents summed out
    """

    densities: tuple[DensityTerm, ...]
    factors: tuple[Factor, ...]
    vectors: frozenset[int]
    terms: frozenset[int]
    total: Variable


@dataclass(frozen=True, eq=False)
class ModelTables:
    """The symbolic content of a model.

    Attributes
    ----------
    structure : roles of the variables
    densities : the terms of the log-likelihood
    factors : their log-factor tables, functions of the densities' placeholders
    elimination : the sum over the latents, a function of the densities' placeholders
    log_prior : scalar, the density of the free parameters in the constrained space
    guards, prior_guards : scalar booleans; all must hold for the density to be positive
    derived : Deterministics that can be reported
    skipped : name -> reason, for Deterministics that cannot
    probes : zero tables for the posterior of every vector of latents and of every Deterministic that reads one
    sites : the plain distributions among the terms
    """

    structure: ModelStructure
    densities: tuple[DensityTerm, ...]
    factors: tuple[Factor, ...]
    elimination: Elimination
    log_prior: Variable
    guards: tuple[Variable, ...]
    prior_guards: tuple[Variable, ...]
    derived: tuple[DerivedValue, ...]
    skipped: Mapping[str, str]
    probes: tuple[Probe, ...]
    probed: Elimination
    """The elimination of all factors and probes together."""
    by_element: Elimination
    """The elimination of all factors and the probes of the latents: every element has a table of its own, even where
    nothing but its distribution reads it."""
    sites: tuple[Site, ...]
    context: Context
    priors: tuple[Variable, ...] = ()
    """The prior log-densities of the free parameters, which add up to ``log_prior``."""
    mixed: MixedPriors | None = None
    """The priors that latents choose: their densities given the latents are the last among ``densities``."""

    @property
    def of_prior(self) -> frozenset[int]:
        """Positions of the densities that belong to the prior of parameters, not to the likelihood."""
        return self.mixed.terms if self.mixed is not None else frozenset()

    @property
    def free_inputs(self) -> tuple[Variable, ...]:
        return tuple(p.placeholder for p in self.structure.free)

    @property
    def data(self) -> tuple[tuple[Variable, np.ndarray], ...]:
        """Inputs for large constants and their values."""
        return tuple(self.context.placeholders.values())
