"""What each variable of a PyMC model is to an estimator: its role, its shape, its log-density."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.lift import Lifted, Refusal, Violation
from pm_mlem.graph.roles.densities import unscaled
from pm_mlem.graph.roles.families import Family

TermKind = Literal["observed", "latent", "potential", "prior"]
PLAIN = Mode("py", None)
"""Evaluates small graphs without compiling anything."""


@dataclass(frozen=True, eq=False)
class Parameter:
    """A continuous free variable that is estimated (or held fixed)."""

    name: str
    rv: Variable
    placeholder: Variable
    """Its constrained value."""
    transform: object | None
    held: np.ndarray | None = None
    """Values of single entries that are held, NaN where they are free."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.placeholder.type.shape)

    @property
    def scale(self) -> str:
        """The name of its transform; empty where it has none."""
        return getattr(self.transform, "name", "")


@dataclass(frozen=True, eq=False)
class Latent:
    """A discrete free variable, or the hidden component of the mixture ``mixture`` (an observed variable).

    Its elements are numbered from ``base`` across all latents of the model. The entries along the ``joined`` axes are
    one element together, with ``states`` to the power of their number joint states.
    """

    name: str
    rv: Variable
    lower: int
    states: int
    shape: tuple[int, ...]
    base: int
    states_dim: str | None
    """The model's dimension of the state probabilities, whose labels name the states."""
    joined: tuple[int, ...] = ()
    cut: bool = False
    """Whether it has more states, without end, than are enumerated."""
    mixture: str | None = None

    @property
    def joint_states(self) -> int:
        return self.states ** math.prod(self.shape[d] for d in self.joined)

    @property
    def n_elements(self) -> int:
        return math.prod(n for d, n in enumerate(self.shape) if d not in self.joined)


@dataclass(frozen=True, eq=False)
class LatentVector:
    """Latent elements with the same states that are summed out together: one latent, or those of a python loop."""

    name: str
    states: int
    elements: np.ndarray
    """Numbers of its elements."""
    latents: tuple[int, ...]
    """Positions of its latents."""

    @property
    def n_elements(self) -> int:
        return len(self.elements)


@dataclass(frozen=True, eq=False)
class Term:
    """One summand of the log-density: a variable's element-wise log-density, or a Potential.

    A family of variables is one term: ``density``, ``rv`` and ``name`` are those of its template, and ``value``
    has the members along its first axis.

    Attributes
    ----------
    name : the variable it belongs to (a mixture has several terms)
    rv, value : the distribution and where it is evaluated; the density may be -inf where that of ``rv`` is not
    only : a latent (an array like the density) and a state; the term counts where the latent has that state
    scale : how often each observation counts (``total_size`` over their number)
    """

    name: str
    kind: TermKind
    density: Variable
    rv: Variable | None
    value: Lifted | None
    family: Family | None = None
    only: tuple[Variable, int] | None = None
    scale: float = 1.0

    @property
    def members(self) -> tuple[str, ...]:
        return (self.name,) if self.family is None else self.family.members


@dataclass(frozen=True, eq=False)
class ObservedPart:
    """The observed entries of a variable whose data are masked: its name and shape, and the flat position of each.

    ``missing`` is the variable of the other entries.
    """

    name: str
    shape: tuple[int, ...]
    positions: np.ndarray
    missing: Variable

    def draws(self, ndim: int) -> tuple[tuple[int, ...], np.ndarray]:
        """The shape of all draws of the variable, and the flat position of each that is observed.

        ``ndim`` is the number of axes of one draw.
        """
        axes = len(self.shape) - ndim
        return self.shape[:axes], self.positions[:: math.prod(self.shape[axes:])] // math.prod(self.shape[axes:])


@dataclass(frozen=True, eq=False)
class ModelStructure:
    """The roles of a model's variables (without a reference to the model itself, so that caches can let go of it).

    ``terms`` are the data terms and the distributions of the latents, ``priors`` those of the parameters;
    ``leaves`` gives every random variable its lifted value.
    """

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, np.ndarray]
    latents: tuple[Latent, ...]
    vectors: tuple[LatentVector, ...]
    terms: tuple[Term, ...]
    priors: tuple[Term, ...]
    dropped: tuple[str, ...]
    leaves: Mapping[Variable, Lifted]
    stand_ins: Mapping[Variable, Variable]
    """For every random variable the placeholder of its value."""
    deterministics: tuple[Variable, ...]
    dims: Mapping[str, tuple[str | None, ...]]
    coords: Mapping[str, Sequence | None]
    initial: Mapping[Variable, object]
    """Initial-value strategies of the random variables."""
    parts: Mapping[str, ObservedPart]
    """What the observed variables that PyMC split off masked data are parts of."""
    inputs: Mapping[str, tuple[Variable, np.ndarray]]
    """Observed variables whose data are inputs: the input and the values."""

    @property
    def free(self) -> tuple[Parameter, ...]:
        return tuple(p for p in self.parameters if p.name not in self.fixed)

    @property
    def held(self) -> dict[str, np.ndarray]:
        """Values of parameters that are held in part, NaN where they are free."""
        return {p.name: p.held for p in self.free if p.held is not None}

    @property
    def local_optima(self) -> bool:
        """Whether the likelihood may well have several optima that matter, so that one start is not enough."""
        return bool(self.latents)

    @property
    def complete_data(self) -> bool:
        """Whether EM has an E-step: something that nobody observed is summed out (or integrated)."""
        return bool(self.latents)

    @property
    def components(self) -> bool:
        """Whether there are states that observations are assigned to: they may collapse, be empty, or be the same."""
        return bool(self.latents)

    def vector_of(self, name: str) -> tuple[int, Latent]:
        """The position of the vector that a latent belongs to, and the latent."""
        position, item = next((i, item) for i, item in enumerate(self.latents) if item.name == name)
        return next(i for i, v in enumerate(self.vectors) if position in v.latents), item

    @property
    def chosen_priors(self) -> dict[str, tuple[str, ...]]:
        """The parameters whose prior reads discrete latents, and which."""
        names = {item.rv: item.name for item in self.latents}
        found = {}
        for term in self.priors if names else ():
            read = ancestors(list(term.rv.owner.inputs), blockers=set(self.leaves)) if term.rv is not None else []
            if chosen := tuple(dict.fromkeys(names[v] for v in read if v in names)):
                found[term.name] = chosen
        return found

    @property
    def observed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for t in self.terms if t.kind == "observed" for name in t.members))


def distribution_name(rv: Variable) -> str:
    """The name of a variable's distribution, as a user knows it."""
    return type(unscaled(rv).owner.op).__name__.removesuffix("RV").lstrip("_")


class named:
    """Turns a refusal of the interpreter into an error that names the variable."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Violation):
            raise ValueError(f"'{self.name}' {error.reason}. {error.hint}.") from error
        if isinstance(error, Refusal):
            raise UnsupportedModelError(describe(error, self.name)) from error
        return False


def describe(refusal: Refusal, name: str) -> str:
    """One message: the variable, the reason, the place in the user's expression, the way out."""
    text = f"'{name}' cannot be handled exactly: {refusal.reason}"
    if refusal.node is not None:
        text += f" (in {expression(refusal.node)})"
    return f"{text}. {refusal.hint}".rstrip(". ") + "."


def expression(node) -> str:
    """A short rendering of a node of the user's graph."""
    from pytensor.printing import pprint

    try:
        text = pprint(node.outputs[0])
    except Exception:
        text = str(node.op)
    text = " ".join(str(text).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
