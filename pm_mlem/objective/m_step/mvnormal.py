"""Means and covariances of multivariate Normal distributions, from sums of weights, deviations and their products."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from pytensor.graph.basic import Variable
from pytensor.tensor.random.basic import MvNormalRV, NormalRV

from pm_mlem.graph.roles.structure import Parameter
from pm_mlem.graph.tables.model_tables import ModelTables, Site
from pm_mlem.objective.evaluators.protocol import Summand
from pm_mlem.objective.m_step.blocks import CholeskyBlock, DiagonalBlock, Hold, MeanBlock, VectorUse, updated
from pm_mlem.objective.m_step.bounds import support
from pm_mlem.objective.m_step.closed_forms import LINKS, SD_PRIORS, root_mean
from pm_mlem.objective.m_step.probing import Probing, selection
from pm_mlem.objective.m_step.sums import cell_shape, equal_axes, lower_parameters
from pm_mlem.objective.m_step.updates import Update
from pm_mlem.objective.objective import Objective

NEARLY = 1e-8
"""Relative accuracy of a Cholesky factor that is decoded from a covariance."""


# --- recognition ------------------------------------------------------------------------------------------


def mean_block(
    parameter: Parameter, arguments: Sequence[tuple[int, int]], tables: ModelTables, probing: Probing, prior: tuple
) -> MeanBlock | None:
    """A parameter whose vectors are means of multivariate Normal distributions and nothing else."""
    limits = support(parameter, probing.space, probing.points)
    if limits is None or np.any(np.isfinite(limits.lower) | np.isfinite(limits.upper)):
        return None
    found = []
    for i, _ in arguments:
        site = tables.sites[i]
        axes = equal_axes(tables, site, (0, 1))
        index = selection(probing.evaluate(site.parameters[0], parameter), probing.pair(parameter))
        if axes is None or index is None:
            return None
        found.append((i, axes, index))
    grouped = group_vectors([index for _, _, index in found], parameter)
    if grouped is None:
        return None
    entries, groups = grouped
    normal = normal_prior(prior, parameter, entries)
    if normal is None:
        return None
    uses = tuple(VectorUse(i, axes, g) for (i, axes, _), g in zip(found, groups, strict=True))
    return MeanBlock(parameter.name, uses, entries, normal, limits)


def group_vectors(indices: Sequence[np.ndarray], parameter: Parameter) -> tuple[np.ndarray, list[np.ndarray]] | None:
    """The vectors of entries that cells use, and for each cell the number of its vector (-1: none).

    ``indices`` have the entries of a vector along the last axis. None where vectors share entries.
    """
    width = indices[0].shape[-1]
    if any(np.any((i >= 0).any(axis=-1) != (i >= 0).all(axis=-1)) for i in indices):
        return None
    rows = np.unique(np.concatenate([i.reshape(-1, width) for i in indices]), axis=0)
    rows = rows[rows[:, 0] >= 0]
    if rows.size != np.unique(rows).size or rows.size != np.prod(parameter.shape, dtype=np.int64):
        return None
    numbers = {tuple(row): g for g, row in enumerate(rows)}
    groups = [
        np.array([numbers.get(tuple(row), -1) for row in i.reshape(-1, width)]).reshape(i.shape[:-1]) for i in indices
    ]
    return rows, groups


def normal_prior(prior: tuple, parameter: Parameter, entries: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Means and precision matrices of the vectors under their prior; ``()`` for a flat one, None for any other."""
    if not prior:
        return ()
    width = entries.shape[1]
    if prior[0] is NormalRV:
        mean, sd = (np.ravel(np.broadcast_to(a, parameter.shape))[entries] for a in prior[1:])
        return mean, np.eye(width) / sd[..., None] ** 2
    if prior[0] is MvNormalRV and np.array_equal(entries, np.arange(entries.size).reshape(-1, width)):
        mean = np.broadcast_to(prior[1], parameter.shape).reshape(-1, width)
        cov = np.broadcast_to(prior[2], (*parameter.shape, width)).reshape(-1, width, width)
        return mean, np.linalg.inv(cov)
    return None


def covariance_block(
    parameter: Parameter, arguments: Sequence[tuple[int, int]], tables: ModelTables, probing: Probing, prior: tuple
) -> CholeskyBlock | DiagonalBlock | None:
    """A parameter that decides covariances of multivariate Normal distributions and nothing else.

    How it does is decoded from the Cholesky factors of the covariances: their entries, or those of their diagonals, are
    the parameter's.
    """
    factors, axes = [], []
    for i, _ in arguments:
        site = tables.sites[i]
        axes.append(equal_axes(tables, site, (1,)))
        covariances = probing.evaluate(site.parameters[1], parameter)
        try:
            factors.append([np.linalg.cholesky(c) for c in covariances])
        except np.linalg.LinAlgError:
            return None
    if any(a is None for a in axes):
        return None
    places = [(i, a) for (i, _), a in zip(arguments, axes, strict=True)]
    if all(np.array_equal(f, f * np.eye(f.shape[-1])) for pair in factors for f in pair):
        return diagonal_block(parameter, places, factors, probing, prior)
    return None if prior else cholesky_block(parameter, places, factors, probing)


def cholesky_block(parameter, places, factors, probing) -> CholeskyBlock | None:
    rows, columns = np.tril_indices(factors[0][0].shape[-1])
    indices = [
        selection([f[..., rows, columns] for f in pair], probing.pair(parameter), rtol=NEARLY) for pair in factors
    ]
    grouped = None if any(i is None for i in indices) else group_vectors(indices, parameter)
    if grouped is None:
        return None
    uses = tuple(VectorUse(i, axes, g) for (i, axes), g in zip(places, grouped[1], strict=True))
    return CholeskyBlock(parameter.name, uses, grouped[0])


def diagonal_block(parameter, places, factors, probing, prior) -> DiagonalBlock | None:
    limits = support(parameter, probing.space, probing.points)
    if limits is None:
        return None
    scales = [[np.diagonal(f, axis1=-2, axis2=-1) for f in pair] for pair in factors]
    for link in LINKS:
        with np.errstate(all="ignore"):
            indices = [selection(pair, probing.pair(parameter), link, rtol=NEARLY) for pair in scales]
        if any(i is None for i in indices):
            continue
        maximise = SD_PRIORS.get((link.name, prior[0])) if prior else root_mean
        if maximise is None:
            return None
        constants = tuple(np.broadcast_to(a, parameter.shape) for a in prior[1:])
        uses = tuple(VectorUse(i, axes, index) for (i, axes), index in zip(places, indices, strict=True))
        return DiagonalBlock(parameter.name, uses, maximise, constants, link, limits)
    return None


# --- sums -------------------------------------------------------------------------------------------------


def moments(weights, mean, value, axes: Sequence[int]) -> list:
    """Weights, weighted deviations from the mean, and their weighted products, added up along axes."""
    deviation = value - mean
    weights = jnp.broadcast_to(weights, deviation.shape[:-1])
    weighted = weights[..., None] * deviation
    letters = string.ascii_lowercase[: weights.ndim]
    kept = "".join(x for d, x in enumerate(letters) if d not in axes)
    products = jnp.einsum(f"{letters}y,{letters}z->{kept}yz", weighted, deviation)
    axes = tuple(axes)
    return [
        weights.sum(axis=axes, keepdims=True),
        weighted.sum(axis=axes, keepdims=True),
        jnp.expand_dims(products, axes),
    ]


def outer(a, b):
    return a[..., :, None] * b[..., None, :]


def moved_products(count, deviations, products, change):
    """The products of deviations from a mean that has changed."""
    return (
        products
        - outer(change, deviations)
        - outer(deviations, change)
        + count[..., None, None] * outer(change, change)
    )


@dataclass(frozen=True, eq=False)
class Moments:
    """The moments that a block makes use of.

    Attributes
    ----------
    summand : what is added up, shared by all blocks that use the same
    cells : the shape of what the parameters differ between
    now : ``(sums, before, now, data) -> (covariance, count, deviations, products)``, about the mean as it is now
    reads, follows : as for :class:`Update <pm_mlem.objective.m_step.updates.Update>`
    """

    summand: Summand
    cells: tuple[int, ...]
    now: Callable
    reads: tuple[Variable, ...]
    follows: tuple[Variable, ...]


def lower_moments(objective: Objective, use: VectorUse, sites: Sequence[Site], shared: dict) -> Moments:
    """The moments of one distribution; ``shared`` keeps the summands, so that one is enough for all blocks.

    They follow a mean that is updated, unless it differs between the rows that are added up.
    """
    site, axes = sites[use.site], use.axes
    mean, value = site.parameters[0], site.value
    if (use.site, axes) not in shared:
        shared[use.site, axes] = Summand(site.term, (mean, value), lambda w, arrays: moments(w, *arrays, axes))
    parameters_of = lower_parameters(objective, site)
    varies = any(mean.type.shape[d] != 1 for d in axes)

    def at(sums, before, now, data):
        mean, covariance = parameters_of(*now, *data)
        count, deviations, products = sums
        if varies:
            return covariance, count, deviations, products
        change = mean - parameters_of(*before, *data)[0]
        return (
            covariance,
            count,
            deviations - count[..., None] * change,
            moved_products(count, deviations, products, change),
        )

    reads = (mean, value) if varies else (value,)
    cells = cell_shape(objective.tables, site, axes)
    return Moments(shared[use.site, axes], cells, at, reads, site.parameters)


def update_of(name: str, found: Sequence[Moments], make: Callable) -> Update:
    """An update from the moments of all uses; ``make(moments of each use, old value) -> new value``."""

    def from_sums(sums, old, before, now, data):
        return make([m.now(own, before, now, data) for m, own in zip(found, sums, strict=True)], old)

    reads, follows = (tuple(a for m in found for a in arrays(m)) for arrays in (lambda m: m.reads, lambda m: m.follows))
    return Update(name, tuple(m.summand for m in found), from_sums, reads, follows)


def add_up(arrays, group: np.ndarray, count: int, cells: tuple[int, ...]):
    """Add up the arrays of the cells ``(*cells, ...)`` that use the same vector."""
    arrays = jnp.broadcast_to(arrays, (*cells, *arrays.shape[len(cells) :]))
    flat = arrays.reshape(-1, *arrays.shape[len(cells) :])
    target = np.broadcast_to(group, cells).ravel()
    return jnp.zeros((count + 1, *flat.shape[1:])).at[np.where(target < 0, count, target)].add(flat)[:-1]


# --- updates ----------------------------------------------------------------------------------------------


def lower_mean(objective: Objective, sites: Sequence[Site], block: MeanBlock, shared: dict) -> Update:
    """Means weighted by the precisions."""
    found = [lower_moments(objective, use, sites, shared) for use in block.uses]
    count, width = block.entries.shape

    def make(moments, old):
        information, slope = jnp.zeros((count, width, width)), jnp.zeros((count, width))
        for use, own, (covariance, weight, deviations, _) in zip(block.uses, found, moments, strict=True):
            precision = jnp.linalg.inv(covariance)
            information += add_up(weight[..., None, None] * precision, use.group, count, own.cells)
            slope += add_up(jnp.einsum("...ij,...j->...i", precision, deviations), use.group, count, own.cells)
        vectors = jnp.ravel(old)[block.entries]
        if block.prior:
            mean, precision = block.prior
            information += precision
            slope += jnp.einsum("gij,gj->gi", precision, mean - vectors)
        new = vectors + jnp.linalg.solve(information, slope[..., None])[..., 0]
        new = jnp.where(jnp.all(jnp.isfinite(new), axis=1, keepdims=True), new, vectors)
        return jnp.ravel(old).at[block.entries].set(new).reshape(old.shape)

    return update_of(block.name, found, make)


def lower_cholesky(objective: Objective, sites: Sequence[Site], block: CholeskyBlock, shared: dict) -> Update:
    """Factors of the weighted covariances."""
    found = [lower_moments(objective, use, sites, shared) for use in block.uses]
    count = len(block.entries)

    def make(moments, old):
        weight, products = 0.0, 0.0
        for use, own, (_, number, _, moved) in zip(block.uses, found, moments, strict=True):
            weight += add_up(number, use.group, count, own.cells)
            products += add_up(moved, use.group, count, own.cells)
        factors = jnp.linalg.cholesky(covariances(weight, products, block.hold))
        rows, columns = np.tril_indices(factors.shape[-1])
        before = jnp.ravel(old)[block.entries]
        usable = jnp.all(jnp.isfinite(factors) & (jnp.diagonal(factors, axis1=1, axis2=2) > 0)[..., None], axis=(1, 2))
        new = jnp.where(usable[:, None], factors[:, rows, columns], before)
        return jnp.ravel(old).at[block.entries].set(new).reshape(old.shape)

    return update_of(block.name, found, make)


def covariances(weight, products, hold: Hold | None):
    """The covariances with the largest expected log-likelihood; NaN where nothing was observed."""
    if hold is not None:
        weight, products = weight + hold.counts, products + hold.squares
    result = products / jnp.where(weight > 0, weight, jnp.nan)[:, None, None]
    return with_eigenvalues(result, hold.floor**2) if hold is not None and hold.floor else result


def with_eigenvalues(matrices, least: float):
    """Symmetric matrices with every eigenvalue raised to at least this."""
    values, vectors = jnp.linalg.eigh(matrices)
    return (vectors * jnp.maximum(values, least)[:, None, :]) @ jnp.swapaxes(vectors, 1, 2)


def factors_of(block: CholeskyBlock, value):
    """The triangular matrices of a parameter's entries: (groups, dimension, dimension)."""
    entries = jnp.ravel(value)[block.entries]
    rows, columns = np.tril_indices(block.width)
    return jnp.zeros((len(entries), block.width, block.width)).at[:, rows, columns].set(entries)


def lower_diagonal(objective: Objective, sites: Sequence[Site], block: DiagonalBlock, shared: dict) -> Update:
    """Root mean squares of the coordinates."""
    found = [lower_moments(objective, use, sites, shared) for use in block.uses]

    def make(moments, old):
        squares = weight = jnp.zeros(old.size)
        for use, own, (_, number, _, moved) in zip(block.uses, found, moments, strict=True):
            variances = jnp.diagonal(moved, axis1=-2, axis2=-1)
            shape = (*own.cells, variances.shape[-1])
            squares += add_up(variances, use.group, old.size, shape)
            weight += add_up(number[..., None], use.group, old.size, shape)
        new = updated(block, [squares.reshape(old.shape), weight.reshape(old.shape)])
        new = block.support.inside(block.link.user(new), old)
        return jnp.where(jnp.isfinite(new), new, old)

    return update_of(block.name, found, make)


LOWERED_MVNORMAL: Mapping[type, Callable] = {
    MeanBlock: lower_mean,
    CholeskyBlock: lower_cholesky,
    DiagonalBlock: lower_diagonal,
}
