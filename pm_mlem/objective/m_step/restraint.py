"""Keeping scales away from 0: a floor, and a penalty on small ones.

The likelihood of a mixture of distributions with a location and a scale has no maximum. It has one where the scales
have a lower bound, and where a penalty grows faster than the density as a scale goes to 0. The penalty for a scale
``sigma`` is ``-a * (s2 / sigma**2 + log(sigma**2))``, with ``s2`` the variance of the observations; for a covariance
matrix ``-a * (trace(S inv(Sigma)) + log(det(Sigma)))``. Both are what ``2 a`` more observations with that variance
would add to the expected log-likelihood, so closed forms stay what they are. A floor cuts off: the expected
log-likelihood has a single maximum in the scale, and in a covariance matrix the eigenvalues are cut off one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from pytensor.tensor.random.basic import HalfNormalRV, LogNormalRV, MvNormalRV, NormalRV, StudentTRV

from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.structure import PLAIN
from pm_mlem.graph.roles.transforms import initial_values
from pm_mlem.graph.tables.model_tables import DensityTerm, ModelTables, Site
from pm_mlem.graph.tables.tabulate import dependencies
from pm_mlem.objective.m_step.blocks import Block, CholeskyBlock, ClosedBlock, DiagonalBlock, Hold, MStepPlan
from pm_mlem.objective.m_step.mvnormal import factors_of, with_eigenvalues
from pm_mlem.objective.objective import Objective
from pm_mlem.objective.space import ParameterSpace

SCALES = {NormalRV: 1, LogNormalRV: 1, HalfNormalRV: 1, StudentTRV: 2, MvNormalRV: 1}
"""Which parameter of a distribution is its scale, or its covariance."""
ON_FLOOR = 1e-6
"""Relative distance from the floor at which a scale is on it."""
NO_SPREAD = 1e-12
"""Relative variance of the observations in some direction that counts as none."""

ScaleBlock = ClosedBlock | DiagonalBlock | CholeskyBlock


@dataclass(frozen=True)
class Restraint:
    """What the user asks for: a least standard deviation, and the strength of the penalty."""

    min_scale: float | None = None
    penalty: float | None = None

    @property
    def asked(self) -> str:
        """The arguments that were given."""
        given = {"min_scale=": self.min_scale, "penalty=": self.penalty}
        return " and ".join(name for name, value in given.items() if value is not None)


def restrained(plan: MStepPlan, objective: Objective, restraint: Restraint) -> MStepPlan:
    """The plan with a restraint on every scale of a distribution that reads a latent.

    Raises
    ------
    ValueError
        A scale that has no closed form, another distribution, nothing to restrain, a floor above the support.
    """
    tables = objective.tables
    if restraint.penalty is not None and objective.estimator == "map":
        raise ValueError(
            "penalty= belongs to estimator='mle'; with 'map' the priors of the scales do this, pm.InverseGamma say."
        )
    if not tables.structure.components:
        raise ValueError(f"{restraint.asked} belongs to models with discrete latents; this one has none.")
    terms = [i for i, d in enumerate(tables.densities) if is_continuous_given_latents(d)]
    closed = [hold_scales(b, objective, restraint) if is_scale_of(b, plan.sites, terms) else b for b in plan.closed]
    held = {b.name for b in closed if hold_of(b) is not None}
    for term in terms:
        check_held(term, plan.sites, tables, held, restraint)
    if not held:
        raise ValueError(
            f"{restraint.asked} finds nothing to hold: no scale of a distribution that reads a latent is estimated."
        )
    return replace(plan, closed=tuple(closed))


def is_continuous_given_latents(density: DensityTerm) -> bool:
    """Whether a term is the density of something observed that depends on a latent."""
    term = density.term
    reads = bool(density.lifted.slots) or term.only is not None
    continuous = term.rv is not None and str(term.rv.type.dtype).startswith("float")
    return term.kind == "observed" and reads and continuous


def is_scale_of(block: Block, sites: Sequence[Site], terms: Sequence[int]) -> bool:
    """Whether a block updates the scales of some of these terms."""
    if isinstance(block, DiagonalBlock | CholeskyBlock):
        return any(sites[use.site].term in terms for use in block.uses)
    return isinstance(block, ClosedBlock) and any(
        sites[use.site].term in terms and SCALES.get(type(sites[use.site].op)) == use.role for use in block.uses
    )


def hold_of(block: Block) -> Hold | None:
    return block.hold if isinstance(block, ScaleBlock) else None


def check_held(term: int, sites: Sequence[Site], tables: ModelTables, held: set[str], restraint: Restraint) -> None:
    """Refuse a term with a scale that is not held."""
    density = tables.densities[term]
    site = next((s for s in sites if s.term == term), None)
    known = site is not None and type(site.op) in SCALES
    array = site.parameters[SCALES[type(site.op)]] if known else density.array
    loose = [p.name for p in tables.structure.free if p.name not in held and dependencies([array], [p.placeholder])]
    remedy = "use a prior that keeps scales away from 0, with estimator='map' and without this argument"
    if loose and known:
        raise ValueError(
            f"{restraint.asked} cannot hold {', '.join(map(repr, loose))}, on which the scale of "
            f"'{density.term.name}' depends: its M-step has no closed form. Give the distribution a scale that is a "
            f"free variable of its own, or {remedy}."
        )
    if loose:
        raise ValueError(
            f"{restraint.asked} knows the scales of Normal, LogNormal, HalfNormal, StudentT and MvNormal "
            f"distributions; '{density.term.name}' has another. For {', '.join(map(repr, loose))} {remedy}."
        )


# --- what is held -----------------------------------------------------------------------------------------


def hold_scales(block: ScaleBlock, objective: Objective, restraint: Restraint) -> ScaleBlock:
    """A block with its floor and its pseudo-observations."""
    floor = 0.0 if restraint.min_scale is None else float(restraint.min_scale)
    free = objective.space.is_free(block.name)
    if floor and not isinstance(block, CholeskyBlock):
        check_floor(block, floor, free)
    if isinstance(block, CholeskyBlock):
        spread, used = covariances(block, objective)
    else:
        spread, used = variances(block, objective, free.shape)
        used = used & free
    strength = 2.0 * (restraint.penalty or 0.0)
    if strength and not np.all(varies(spread[used])):
        raise ValueError(
            f"penalty= needs observations that vary: those of a scale in '{block.name}' do not (in some direction)."
        )
    counts = np.where(used, strength, 0.0)
    squares = counts.reshape(counts.shape + (1,) * (spread.ndim - counts.ndim)) * np.nan_to_num(spread)
    return replace(block, hold=Hold(floor, counts, squares))


def varies(spread: np.ndarray) -> np.ndarray:
    """Whether variances are positive, or covariance matrices positive definite."""
    if spread.ndim < 3:
        return spread > 0
    values = np.linalg.eigvalsh(spread)
    return values[:, 0] > NO_SPREAD * values[:, -1]


def check_floor(block: ClosedBlock | DiagonalBlock, floor: float, free: np.ndarray) -> None:
    """Refuse a floor that is not below the largest scale of every entry that is free."""
    assert block.support is not None
    with np.errstate(all="ignore"):
        ends = [np.asarray(block.link.value(end)) for end in (block.support.lower, block.support.upper)]
    largest = np.min(np.fmax(*ends)[free])
    if not largest > floor:
        raise ValueError(f"min_scale={floor} is not below the largest scale that '{block.name}' allows, {largest}.")


def observations(objective: Objective, site: Site) -> np.ndarray:
    """What a distribution was observed at, with the axes of its density; logarithms where these have the scale."""
    tables = objective.tables
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    run = function(inputs, site.value, mode=PLAIN, on_unused_input="ignore")
    value = np.asarray(run(*initial_values(tables.structure), *[a for _, a in tables.data]), dtype=float)
    return np.log(value) if isinstance(site.op, LogNormalRV) else value


def by_variable(block: ScaleBlock, objective: Objective) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """For each observed variable pairs of observations and what uses them, -1 for nothing of the block's."""
    found: dict[str, list] = {}
    sites = objective.tables.sites
    for use in block.uses:
        site = sites[use.site]
        place = use.index if isinstance(block, ClosedBlock) else use.group
        name = objective.tables.densities[site.term].term.name
        found.setdefault(name, []).append((observations(objective, site), place))
    return list(found.values())


def variances(
    block: ClosedBlock | DiagonalBlock, objective: Objective, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """For each entry of a parameter the variance of the observations that it may belong to, and whether there are any.

    Those of several variables are deviations from the mean of each.
    """
    size = int(np.prod(shape, dtype=np.int64))
    count, squares = np.zeros(size), np.zeros(size)
    for pairs in by_variable(block, objective):
        both = [[a.ravel() for a in np.broadcast_arrays(*pair)] for pair in pairs]
        value, index = (np.concatenate(arrays) for arrays in zip(*both, strict=True))
        value, index = value[index >= 0], index[index >= 0]
        own = np.bincount(index, minlength=size)
        mean = np.bincount(index, value, size) / np.maximum(own, 1)
        count += own
        squares += np.bincount(index, (value - mean[index]) ** 2, size)
    return (squares / np.maximum(count, 1)).reshape(shape), (count > 0).reshape(shape)


def covariances(block: CholeskyBlock, objective: Objective) -> tuple[np.ndarray, np.ndarray]:
    """The same for each factor: the covariance of the vectors."""
    groups, width = len(block.entries), block.width
    count, products = np.zeros(groups), np.zeros((groups, width, width))
    for pairs in by_variable(block, objective):
        vectors, labels = [], []
        for value, group in pairs:
            shape = np.broadcast_shapes(value.shape[:-1], group.shape)
            vectors.append(np.broadcast_to(value, (*shape, width)).reshape(-1, width))
            labels.append(np.broadcast_to(group, shape).ravel())
        value, label = np.concatenate(vectors), np.concatenate(labels)
        for g in range(groups):
            own = value[label == g]
            if len(own):
                deviations = own - own.mean(axis=0)
                count[g] += len(own)
                products[g] += deviations.T @ deviations
    return products / np.maximum(count, 1)[:, None, None], count > 0


# --- what follows from it ---------------------------------------------------------------------------------


def penalty_of(plan: MStepPlan, space: ParameterSpace) -> Callable:
    """``parameters -> penalty``."""
    blocks = [(space.names.index(b.name), b, hold) for b in plan.closed if (hold := hold_of(b)) is not None]

    def evaluate(theta: Sequence):
        return sum((penalty_on(block, hold, theta[i]) for i, block, hold in blocks), jnp.zeros(()))

    return evaluate


def penalty_on(block: Block, hold: Hold, value):
    """What the pseudo-observations add to the log-likelihood."""
    if isinstance(block, CholeskyBlock):
        factors = factors_of(block, value)
        diagonal = jnp.abs(jnp.diagonal(factors, axis1=1, axis2=2))
        precision = jnp.linalg.inv(factors @ jnp.swapaxes(factors, 1, 2))
        distance = jnp.sum(hold.squares * precision, axis=(1, 2))
        return -jnp.sum(hold.counts * jnp.sum(jnp.log(diagonal), axis=1) + 0.5 * distance)
    assert isinstance(block, ClosedBlock | DiagonalBlock)
    scale = block.link.value(value)
    return -jnp.sum(hold.counts * jnp.log(scale) + 0.5 * hold.squares / scale**2)


def projection(plan: MStepPlan, space: ParameterSpace) -> Callable:
    """``u -> u`` with every scale at least at its floor."""
    held = [(space.names.index(b.name), b, hold) for b in plan.closed if (hold := hold_of(b)) is not None]
    blocks = [(i, b, hold) for i, b, hold in held if hold.floor]

    def project(u):
        theta = list(space.constrain(u))
        parts, below = list(space.split(u)), {}
        for i, block, hold in blocks:
            theta[i], below[i] = raised(block, hold, theta[i], space.is_free(block.name))
        moved = space.unconstrain_arrays(*theta)
        for i, any_below in below.items():
            parts[i] = jnp.where(any_below, moved[i], parts[i])
        return space.join(parts)

    return project


def raised(block: Block, hold: Hold, value, free: np.ndarray):
    """A parameter with its scales on the floor where they are below it, and whether any is."""
    if isinstance(block, CholeskyBlock):
        factors = factors_of(block, value)
        covariance = factors @ jnp.swapaxes(factors, 1, 2)
        low = jnp.linalg.eigvalsh(covariance)[:, 0] < hold.floor**2
        lifted = jnp.linalg.cholesky(with_eigenvalues(covariance, hold.floor**2))
        rows, columns = np.tril_indices(factors.shape[-1])
        new = jnp.where(low[:, None], lifted[:, rows, columns], jnp.ravel(value)[block.entries])
        return jnp.ravel(value).at[block.entries].set(new).reshape(value.shape), jnp.any(low)
    assert isinstance(block, ClosedBlock | DiagonalBlock)
    low = (block.link.value(value) < hold.floor) & free
    return jnp.where(low, block.link.user(hold.floor), value), jnp.any(low)


def on_floor(plan: MStepPlan, space: ParameterSpace, u: np.ndarray) -> dict[str, np.ndarray]:
    """For each parameter that is held which of its entries are on the floor (all, where a matrix is)."""
    values, found = space.values(u), {}
    for block in plan.closed:
        hold = hold_of(block)
        if hold is None or not hold.floor:
            continue
        value = values[block.name]
        if isinstance(block, CholeskyBlock):
            factors = np.asarray(factors_of(block, value))
            low = np.linalg.svd(factors, compute_uv=False)[:, -1] <= hold.floor * (1.0 + ON_FLOOR)
            entries = np.zeros(value.size, dtype=bool)
            entries[block.entries[low]] = True
            found[block.name] = entries.reshape(value.shape)
        else:
            assert isinstance(block, ClosedBlock | DiagonalBlock)
            low = np.asarray(block.link.value(value)) <= hold.floor * (1.0 + ON_FLOOR)
            found[block.name] = low & space.is_free(block.name)
    return found
