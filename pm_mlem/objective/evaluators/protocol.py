"""What the rest of the objective asks of whoever goes through the rows of the data.

The log-likelihood is a sum over independent units, and so is everything that an E-step and an M-step need. Who adds up
is an *evaluator*: :class:`Whole <pm_mlem.objective.evaluators.whole.Whole>` evaluates all rows in one piece,
:class:`Chunks <pm_mlem.objective.evaluators.chunks.Chunks>` goes through large data a chunk at a time. Callers do not
know which of them they have, so an evaluator of another kind (blocks of a source that does not fit in memory, say)
takes nothing but one more class with these methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
from pytensor.graph.basic import Variable

from pm_mlem.graph.ops.semirings import Semiring

Tree = Any
"""A pytree of arrays."""
Posterior = Any
"""What an E-step hands on to the M-step. The evaluators of this package keep one array for each log-density array, of
its shape; only the evaluator that made it looks into it."""


@dataclass(frozen=True, eq=False)
class Summand:
    """Something to be added up over the rows of one log-density array.

    Attributes
    ----------
    term : position of the log-density array
    arrays : arrays of the model that are read, as functions of parameters and data; they broadcast against it
    function : ``(posterior weights of the log-density array, arrays, *indices) -> tree``, a sum over their rows
    indices : pairs of an integer array and the position in ``arrays`` of what it belongs to: its rows are those of
        that array
    """

    term: int
    arrays: tuple[Variable, ...]
    function: Callable[..., Tree]
    indices: tuple[tuple[Any, int], ...] = ()


Sums = Callable[[Posterior, Sequence, Sequence], list[Tree]]
"""(posterior, parameters, data) -> a tree for each summand, additive over rows"""
Parts = Callable[[Posterior, Sequence, Sequence], Tree]
"""(posterior, parameters, data) -> a tree, additive over rows"""


@runtime_checkable
class Evaluator(Protocol):
    """Goes through the rows of one model's data.

    ``theta`` are the constrained parameters, ``data`` the model's data, ``weights`` has one entry for each unit. What
    is *additive* may be evaluated for some of the rows at a time and added up: the log-prior, the penalty and the
    conditions on parameters are no part of it; they are the caller's and count once. Scalars that are *differentiable*
    can be derived twice by ``theta``, forwards and in reverse (under PyTensor's callbacks only in reverse).
    """

    @property
    def entries(self) -> int:
        """Entries of the largest log-density array that is held at once."""
        ...

    @property
    def no_posterior(self) -> Posterior | None:
        """What :meth:`possible` accepts, for callers that have no posterior to give; None where it would be large."""
        ...

    def units(self, theta: Sequence, data: Sequence) -> jax.Array:
        """Log-likelihood of every unit, ``(units,)``."""
        ...

    def log_likelihood(self, theta: Sequence, weights, data: Sequence) -> jax.Array:
        """Weighted sum over the units: a scalar, additive, differentiable."""
        ...

    def scores(self, constrain: Callable, u, data: Sequence, at_once: int) -> jax.Array:
        """Derivative of every unit's log-likelihood by the unconstrained vector, ``(units, p)``.

        ``constrain`` leads from the vector to ``theta``; at most ``at_once`` directions are worked on together.
        """
        ...

    def e_step(
        self, theta: Sequence, weights, data: Sequence, powers: Sequence | None = None
    ) -> tuple[jax.Array, Posterior]:
        """Log-likelihood (additive), and its derivative by every log-density array.

        With ``powers``, one for each array, those of the densities to these powers.
        """
        ...

    def possible(self, posterior: Posterior, theta: Sequence, data: Sequence) -> Posterior:
        """A posterior without the weights of entries whose density is zero."""
        ...

    def expected(self, theta: Sequence, posterior: Posterior, data: Sequence) -> jax.Array:
        """Sum of the log-density arrays weighted by the posterior: a scalar, additive, differentiable."""
        ...

    def sums(self, summands: Sequence[Summand]) -> Sums:
        """A function that adds up all summands in one pass over the rows; what it returns is additive."""
        ...

    def parts(self, terms: Sequence[int], function: Callable[[Sequence[int], Sequence], Tree]) -> Parts:
        """A function that adds up ``function(positions, arrays) -> tree`` over the rows; what it returns is additive.

        The arrays are log-densities times their posterior weights, each that of ``terms[position]``. Arrays with and
        without rows may come in separate calls.
        """
        ...

    def posterior(self, theta: Sequence, data: Sequence) -> tuple[dict[str, jax.Array], jax.Array]:
        """Joint posterior probabilities of the states in every probe, and the log-likelihood of every unit.

        Probabilities have the shape of their probe, states first. Not to be differentiated.
        """
        ...

    def choose(
        self, semiring: Semiring, theta: Sequence, weights, data: Sequence, *, probes: bool, key: Any = None
    ) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
        """One configuration of the latents, by sums over the latents that choose (:mod:`pm_mlem.graph.ops.semirings`).

        Parameters
        ----------
        weights : one for each sum; they come in the order of ``tables.by_element``
        probes : whether to derive by the probes of the latents instead of the log-density arrays
        key : ``jax.random.key`` for draws

        Returns
        -------
        total, slopes, sums
            Weighted total (additive), its derivatives by the probes of the latents or by the log-density arrays, and
            the sums, one vector for each group of latents.
        """
        ...
