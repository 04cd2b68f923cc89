"""What an M-step consists of: the plan that recognition makes and the step carries out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from pytensor.graph.basic import Variable

from pm_mlem.graph.tables.model_tables import Site
from pm_mlem.objective.m_step.bounds import Support
from pm_mlem.objective.m_step.closed_forms import ClosedForm, Link
from pm_mlem.objective.m_step.coupling import Groups


@dataclass(frozen=True, eq=False)
class Use:
    """A parameter as one argument of a distribution: entry ``index`` of the flat parameter, -1 for other values."""

    site: int
    role: int
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Hold:
    """What keeps scales away from 0 (see :mod:`restraint <pm_mlem.objective.m_step.restraint>`).

    Attributes
    ----------
    floor : least standard deviation, 0 for none
    counts, squares : pseudo-observations by entry of the parameter and their sums of squares; for factors of
        covariances by factor, and their sums of products
    """

    floor: float
    counts: np.ndarray
    squares: np.ndarray


@dataclass(frozen=True, eq=False)
class ClosedBlock:
    """A parameter that is updated by a closed form.

    ``maximise`` is a function of the sums and of the parameters of its ``prior``; ``link`` leads from the
    distribution's parameter back to the user's. A vector of probabilities has no ``support``.
    """

    name: str
    form: ClosedForm
    uses: tuple[Use, ...]
    maximise: Callable
    prior: tuple[np.ndarray, ...]
    link: Link
    support: Support | None
    hold: Hold | None = None

    @property
    def order(self) -> int:
        return self.form.order


@dataclass(frozen=True, eq=False)
class ProbabilityBlock:
    """Probabilities that only enter as their logarithms: the update is normalized expected counts.

    ``uses`` are (term, index of the probability for each entry of its log-density).
    """

    name: str
    uses: tuple[tuple[int, np.ndarray], ...]
    prior: np.ndarray
    order = 0


@dataclass(frozen=True, eq=False)
class BinaryBlock:
    """Probabilities of two outcomes that only enter as ``log(p)`` and ``log(1 - p)``: expected successes and failures.

    ``uses`` are (term, index into the flat array of p followed by 1 - p, -1 for constants); ``prior`` holds the
    pseudo-counts of the two outcomes, ``(2, *shape)``.
    """

    name: str
    uses: tuple[tuple[int, np.ndarray], ...]
    prior: np.ndarray
    order = 0


@dataclass(frozen=True, eq=False)
class MedianBlock:
    """Locations of Laplace distributions: weighted medians; ``link`` and ``support`` as for :class:`ClosedBlock`."""

    name: str
    uses: tuple[Use, ...]
    link: Link
    support: Support
    order = 0


@dataclass(frozen=True, eq=False)
class VectorUse:
    """A parameter in the mean or the covariance of a multivariate Normal distribution.

    Attributes
    ----------
    site : position of the distribution
    axes : of the density, along which the distribution's parameters are the same
    group : for each cell (the density with these axes at length 1) the vector or matrix it uses, -1 for another's
    """

    site: int
    axes: tuple[int, ...]
    group: np.ndarray


@dataclass(frozen=True, eq=False)
class MeanBlock:
    """Mean vectors; ``entries[g]`` are the positions of vector g in the flat parameter.

    ``prior`` are the mean vectors and the precision matrices of a Normal prior.
    """

    name: str
    uses: tuple[VectorUse, ...]
    entries: np.ndarray
    prior: tuple[np.ndarray, ...]
    support: Support
    order = 0


@dataclass(frozen=True, eq=False)
class CholeskyBlock:
    """Cholesky factors of covariances; ``entries[g]`` are the positions of factor g, row by row."""

    name: str
    uses: tuple[VectorUse, ...]
    entries: np.ndarray
    hold: Hold | None = None
    order = 1

    @property
    def width(self) -> int:
        """The dimension of the covariances."""
        return math.isqrt(2 * self.entries.shape[1])


@dataclass(frozen=True, eq=False)
class DiagonalBlock:
    """Scales of uncorrelated coordinates; groups are the positions of each cell's entries, ``(*cells, dimension)``."""

    name: str
    uses: tuple[VectorUse, ...]
    maximise: Callable
    prior: tuple[np.ndarray, ...]
    link: Link
    support: Support
    hold: Hold | None = None
    order = 1


def updated(block: ClosedBlock | DiagonalBlock, sums: Sequence):
    """The distribution's parameter that the sums make the best, within what holds it."""
    if block.hold is None:
        return block.maximise(*sums, *block.prior)
    squares, count = sums
    best = block.maximise(squares + block.hold.squares, count + block.hold.counts, *block.prior)
    return jnp.maximum(best, block.hold.floor)


Block = ClosedBlock | ProbabilityBlock | BinaryBlock | MedianBlock | MeanBlock | CholeskyBlock | DiagonalBlock


@dataclass(frozen=True, eq=False)
class NewtonBlock:
    """Parameters that take Newton steps together.

    ``terms`` are the terms and ``priors`` the prior densities that depend on them, ``groups`` those coordinates
    (in the order of ``names``) that the terms and the priors couple. An M-step takes at most ``iterations`` steps.
    """

    names: tuple[str, ...]
    terms: tuple[int, ...]
    priors: tuple[Variable, ...]
    groups: Groups
    iterations: int = 1


@dataclass(frozen=True, eq=False)
class MStepPlan:
    """How each free parameter is updated.

    ``closed`` blocks in the order of their updates, then the parameters of distributions that ``reduced`` sums
    describe, by Newton steps to the maximum, then all the others by ``newton`` steps over the data.
    """

    sites: tuple[Site, ...]
    closed: tuple[Block, ...]
    reduced: NewtonBlock | None = None
    newton: NewtonBlock | None = None
