"""States of latents have no order of their own: draws of the parameters are given the fit's.

The states at a draw are matched with the states of the fit by their responsibilities for the fit's own data
(Papastamoulis 2016 compares such methods), or by the parameters themselves. Which axes of which parameters go with the
states of a latent is found by trying: the likelihood of every unit must stay the same, and the latent's posterior must
be permuted, when they are permuted. Parameters that are numbered (``chol_0``, ``chol_1``) count as one with a leading
axis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from pm_mlem.estimate.covariance import standard_errors
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.graph.tables.units import units_of_elements

Axes = tuple[tuple[str | tuple[str, ...], int], ...]
"""Axes of parameters: (name, axis); (names, 0) for numbered parameters, one for each state."""
Draws = Mapping[str, np.ndarray]
MOST_STATES = 30
"""Latents with more states than this are not components."""
MOST_AXES = 10
"""Axes among which the right ones are looked for."""


@dataclass(frozen=True, eq=False)
class Symmetry:
    """Latents whose states can be exchanged, all of them together.

    Attributes
    ----------
    latents : their names
    vectors : positions of the vectors of latents they make up
    states : the number of states
    axes : the axes of parameters that are permuted with the states
    """

    latents: tuple[str, ...]
    vectors: tuple[int, ...]
    states: int
    axes: Axes


@dataclass(frozen=True, eq=False)
class Alignment:
    """Permutations that bring draws into the order of a fit's states.

    Attributes
    ----------
    symmetries : what may be permuted; empty where no states can be exchanged
    permutations : for each symmetry ``(draws, states)``: state k of the fit is state ``permutations[d, k]`` of draw d
    margins : for each symmetry ``(draws,)``: how much better that is than the second best assignment, as a share of
        the responsibilities in the states in which the two differ (0: equally good; 1: not to be confused)
    """

    symmetries: tuple[Symmetry, ...]
    permutations: tuple[np.ndarray, ...]
    margins: tuple[np.ndarray, ...]

    def apply(self, draws: Draws) -> dict[str, np.ndarray]:
        """The draws with the states in the order of the fit."""
        result = dict(draws)
        for symmetry, permutation in zip(self.symmetries, self.permutations, strict=True):
            result = permuted(result, symmetry.axes, permutation)
        return result

    def renamed(self, n: int) -> np.ndarray:
        """Which of n draws have states in another order than the fit."""
        changed = np.zeros(n, dtype=bool)
        for permutation in self.permutations:
            changed |= np.any(permutation != np.arange(permutation.shape[1]), axis=1)
        return changed


def align(estimate: Estimate, draws: Draws, by: str = "responsibilities") -> Alignment:
    """Match the states of latents at draws of the parameters with those of an estimate.

    Parameters
    ----------
    estimate : the reference
    draws : ``{name: array (draws, *shape)}``, constrained values of all free parameters
    by : {"responsibilities", "parameters"}
        States are matched by the observations that they are responsible for, or by squared distances between the
        parameters, each in units of its standard errors.

    Returns
    -------
    Alignment

    References
    ----------
    .. [1] Papastamoulis, P. *label.switching: an R package for dealing with the label switching problem in MCMC
       outputs*. J. Stat. Softw. 69 (2016). https://doi.org/10.18637/jss.v069.c01
    """
    matcher = estimate.kept(Matcher)
    found = matcher.found
    if by == "parameters":
        likeness, share = [-distances(estimate, s, draws) for s in found], spared
    else:
        likeness, share = matcher.confusions(found, draws), agreed
    permutations, margins = [], []
    for matrices in likeness:
        pairs = [assign(m, share) for m in matrices]
        permutations.append(np.array([p for p, _ in pairs], dtype=int).reshape(len(pairs), -1))
        margins.append(np.array([m for _, m in pairs]))
    return Alignment(found, tuple(permutations), tuple(margins))


def permuted(draws: Draws, axes: Axes, permutation: np.ndarray) -> dict[str, np.ndarray]:
    """Draws with state k replaced by state ``permutation[d, k]``, ``(draws, states)``."""
    result = dict(draws)
    states = permutation.shape[1]
    for name, axis in axes:
        array = states_of(result, name)
        index = permutation.reshape([-1 if d == 0 else states if d == axis + 1 else 1 for d in range(array.ndim)])
        array = np.take_along_axis(array, index, axis=axis + 1)
        result |= {name: array} if isinstance(name, str) else {n: array[:, k] for k, n in enumerate(name)}
    return result


def states_of(draws: Draws, name: str | tuple[str, ...]) -> np.ndarray:
    """The draws of a parameter; numbered ones along a new axis after the draws."""
    return draws[name] if isinstance(name, str) else np.stack([draws[n] for n in name], axis=1)


def distances(estimate: Estimate, symmetry: Symmetry, draws: Draws) -> np.ndarray:
    """Squared distances between states of the estimate and of each draw, ``(draws, states, states)``."""
    total = 0.0
    for name, axis in symmetry.axes:
        names = (name,) if isinstance(name, str) else name
        point = np.array([estimate.reported[n] for n in names])
        point, array = (point[0] if isinstance(name, str) else point), states_of(draws, name)
        errors = [standard_errors(estimate, n) for n in names]
        spread = np.array([np.nanmean(e**2) for e in errors if np.any(np.isfinite(e))])
        scale = np.mean(spread) if len(spread) and np.mean(spread) > 0 else np.var(array) or 1.0
        others = [d for n, d in symmetry.axes if n == name]
        if len(others) > 1:  # transitions from states to states: by their diagonal
            if others[0] != axis:
                continue
            point, array = np.diagonal(point, 0, *others), np.diagonal(array, 0, *[d + 1 for d in others])
        along = axis if len(others) == 1 else point.ndim - 1
        own = np.moveaxis(point, along, 0).reshape(symmetry.states, -1)
        drawn = np.moveaxis(array, along + 1, 1).reshape(len(array), symmetry.states, -1)
        total = total + ((own[:, None] - drawn[:, None]) ** 2).sum(axis=-1) / scale
    return np.asarray(total)


def agreed(own: float, other: float) -> float:
    """By how much one assignment is better than another, as a share of the responsibilities it has in common."""
    return (own - other) / own if own > 0 else 0.0


def spared(own: float, other: float) -> float:
    """By how much one assignment is better than another, as a share of the other's distance (minus its gain)."""
    return (own - other) / -other if other < 0 else 0.0


def assign(gain: np.ndarray, share: Callable[[float, float], float] = agreed) -> tuple[np.ndarray, float]:
    """The best assignment of columns to rows and its margin over the second best."""
    from scipy.optimize import linear_sum_assignment  # half a second to import, for models with latents only

    if not np.all(np.isfinite(gain)):
        return np.arange(len(gain)), np.nan
    rows, best = linear_sum_assignment(gain, maximize=True)
    margin, low = 1.0, -1.0 - 2.0 * len(rows) * np.max(np.abs(gain), initial=0.0)
    for row in rows:  # the second best differs from the best in some row
        without = gain.copy()
        without[row, best[row]] = low
        _, other = linear_sum_assignment(without, maximize=True)
        differ = other != best
        margin = min(margin, share(gain[rows, best][differ].sum(), gain[rows, other][differ].sum()))
    return best, float(margin)


def numbered(shapes: Mapping[str, tuple[int, ...]], states: int) -> list[tuple[str, ...]]:
    """Parameters of one shape whose names differ in one number: as many as there are states."""
    stems: dict[tuple, dict[int, str]] = {}
    for name, shape in shapes.items():
        for match in re.finditer(r"\d+", name):
            stem = name[: match.start()], name[match.end() :], shape
            stems.setdefault(stem, {})[int(match.group())] = name
    return [tuple(names[i] for i in sorted(names)) for names in stems.values() if len(names) == states]


class Matcher:
    """Responsibilities of the states of the latents of one target, at any parameters."""

    def __init__(self, estimate: Estimate):
        self.estimate, self.target = estimate, estimate.target
        self.tables, self.space = self.target.tables, self.target.space
        self.vectors = [i for i in range(len(self.tables.structure.vectors)) if self.usable(i)]

    def usable(self, vector: int) -> bool:
        structure = self.tables.structure
        item = structure.vectors[vector]
        plain = not any(structure.latents[j].cut or structure.latents[j].joined for j in item.latents)
        known = item.name in {p.name for p in self.tables.probes}
        return plain and known and 1 < item.states <= MOST_STATES

    # --- which axes ----------------------------------------------------------------------------------------

    @cached_property
    def found(self) -> tuple[Symmetry, ...]:
        return tuple(self.symmetries())

    def symmetries(self) -> Iterator[Symmetry]:
        """The latents whose states can be exchanged, each with the fewest axes that go with them."""
        if not self.vectors:
            return
        structure = self.tables.structure
        space = self.space
        noise = np.random.default_rng(11).normal(scale=0.3, size=space.size)
        values = space.values(self.estimate.point + noise)
        reference = self.at(values)
        covered: set[int] = set()
        for vector in self.vectors:
            if vector in covered:
                continue
            states = structure.vectors[vector].states
            shapes = {n: space.shapes[n] for n in space.names}
            candidates: list[tuple[str | tuple[str, ...], int]]
            candidates = [(n, d) for n in space.names for d, size in enumerate(shapes[n]) if size == states]
            candidates += [(names, 0) for names in numbered(shapes, states)]
            for axes in subsets(candidates[:MOST_AXES]):
                moved = self.moved(values, reference, axes, states)
                if vector in moved:
                    covered |= moved
                    latents = [structure.latents[j].name for v in sorted(moved) for j in structure.vectors[v].latents]
                    yield Symmetry(tuple(latents), tuple(sorted(moved)), states, axes)
                    break

    def at(self, values: Draws) -> tuple[list[np.ndarray], np.ndarray]:
        return self.target.posterior(values, tuple(self.tables.structure.vectors[i].name for i in self.vectors))

    def moved(self, values: Draws, reference, axes: Axes, states: int) -> set[int]:
        """The vectors whose states are permuted with some axes; none where that is no symmetry of the model."""
        result: set[int] | None = None
        for permutation in (np.r_[1, 0, 2:states], np.roll(np.arange(states), 1)):  # these generate all others
            chosen = self.moved_by(values, reference, axes, permutation)
            if result is not None and chosen != result:
                return set()
            result = chosen
        return result or set()

    def moved_by(self, values: Draws, reference, axes: Axes, permutation: np.ndarray) -> set[int]:
        single = {name: np.asarray(value)[None] for name, value in values.items()}
        renamed = {name: value[0] for name, value in permuted(single, axes, permutation[None]).items()}
        try:  # within the support, and with the same density of the prior
            points = [self.space.unconstrain(v) for v in (renamed, values)]
        except ValueError:
            return set()
        if self.target.estimator == "map" and not same(*map(self.target.log_prior, points)):
            return set()
        posterior, units = self.at(renamed)
        if not same(units, reference[1]):
            return set()
        result = set()
        for vector, new, old in zip(self.vectors, posterior, reference[0], strict=True):
            if len(old) == len(permutation) and same(new, old[permutation]) and not same(new, old):
                result.add(vector)
            elif not same(new, old):
                return set()
        return result

    # --- which states --------------------------------------------------------------------------------------

    def confusions(self, symmetries: Sequence[Symmetry], draws: Draws) -> list[list[np.ndarray]]:
        """For each symmetry and draw how much responsibility states of the fit and of the draw share."""
        if not symmetries:
            return []
        own = self.target.weights
        weights = np.append(own, 0.0)[units_of_elements(self.tables, np.arange(len(own)))]
        reference, _ = self.at(self.space.values(self.estimate.point))
        weighted = {
            v: r * weights[self.tables.structure.vectors[v].elements]
            for v, r in zip(self.vectors, reference, strict=True)
        }
        result: list[list[np.ndarray]] = [[] for _ in symmetries]
        for d in range(len(next(iter(draws.values())))):
            posterior, _ = self.at({n: draws[n][d] for n in self.space.names})
            own = dict(zip(self.vectors, posterior, strict=True))
            for symmetry, matrices in zip(symmetries, result, strict=True):
                matrices.append(np.sum([weighted[v] @ own[v].T for v in symmetry.vectors], axis=0))
        return result


def subsets(axes: Sequence[tuple[str | tuple[str, ...], int]]) -> Iterator[Axes]:
    """All but the empty one, the smallest first."""
    for size in range(1, len(axes) + 1):
        yield from combinations(axes, size)


def same(a, b) -> bool:
    return bool(np.allclose(a, b, rtol=1e-7, atol=1e-9, equal_nan=True))
