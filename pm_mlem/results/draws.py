"""Draws of the estimator's sampling distribution, and what the fit reports at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from pm_mlem.errors import NotIdentifiedError
from pm_mlem.results.summary import LARGE

if TYPE_CHECKING:
    import xarray as xr

    from pm_mlem.estimate.labels import Labels
    from pm_mlem.results.bootstrap import Bootstrap
    from pm_mlem.results.fit import Fit

Seed = int | np.random.Generator | None
NORMAL = "normal approximation of the estimator's sampling distribution (unconstrained space), not a Bayesian posterior"


@dataclass(frozen=True, eq=False)
class Draws:
    """Points of the unconstrained space, drawn from an approximation of the estimator's distribution.

    Attributes
    ----------
    points : (chains * draws, p)
    chains : how many chains they are written as
    approximation : what they are, in words
    log_density : the approximation's log-density at the points; None where it has none
    """

    points: np.ndarray
    chains: int
    approximation: str
    log_density: np.ndarray | None = None

    def shaped(self, values: np.ndarray) -> np.ndarray:
        """``(chain, draw, ...)`` instead of one first axis."""
        return values.reshape(self.chains, -1, *values.shape[1:])

    @property
    def coords(self) -> dict[str, np.ndarray]:
        return {"chain": np.arange(self.chains), "draw": np.arange(len(self.points) // self.chains)}


def draws_of(fit: Fit, draws: int, chains: int, random_seed: Seed, bootstrap: Bootstrap | None) -> Draws:
    """The replicates of a bootstrap, or draws from the normal approximation.

    Raises
    ------
    NotIdentifiedError
        The estimator has no normal approximation.
    ValueError
        Numbers that are not positive, or the bootstrap of another fit.
    """
    if bootstrap is not None:
        if bootstrap.fit is not fit:
            raise ValueError("bootstrap= was made from another fit; make it with this one's bootstrap().")
        what = f"{bootstrap.kind} bootstrap of the estimator, not a Bayesian posterior"
        return Draws(bootstrap._used_points, 1, what)
    check_sizes(draws, chains)
    return replace(normal_draws(fit, draws * chains, random_seed), chains=chains)


def check_sizes(draws: int, chains: int) -> None:
    """Refuse numbers of draws or chains that are none.

    Raises
    ------
    ValueError
    """
    for name, number in (("draws", draws), ("chains", chains)):
        if not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{name}={number!r} must be a whole number, at least 1.")


def normal_draws(fit: Fit, n: int, random_seed: Seed) -> Draws:
    """Draws from the normal distribution with the estimate as mean and the inverse information as covariance.

    Entries that are held, on the boundary or at infinity stay where they are.

    Raises
    ------
    NotIdentifiedError
    """
    if not fit._information.regular:
        sentences = [sentence for _, sentence in fit._diagnosis.flat]
        why = fit._curvature[1] or "; ".join(sentences) or "the estimates are not a maximum"
        raise NotIdentifiedError(f"The estimator has no normal approximation: {why}.")
    variances, axes = np.linalg.eigh(fit._information.inverse)
    kept = variances > 0
    axes, deviations = axes[:, kept], np.sqrt(variances[kept])
    z = np.random.default_rng(random_seed).standard_normal((n, int(kept.sum())))
    density = -0.5 * np.sum(z**2, axis=1) - np.sum(np.log(deviations)) - 0.5 * z.shape[1] * np.log(2 * np.pi)
    return Draws(fit._optimum.point + (z * deviations) @ axes.T, 1, NORMAL, density)


# --- what the fit reports at them ---------------------------------------------------------------------------


def constrained(fit: Fit, points: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters at unconstrained points ``(n, p)``, by name."""
    space = fit._engine.objective.space
    if fit._engine.objective.backend == "jax":
        arrays = jax.jit(jax.vmap(space.constrain))(points)
    else:
        arrays = [np.stack(a) for a in zip(*[space.constrain(u) for u in points], strict=True)]
    return dict(zip(space.names, map(np.asarray, arrays), strict=True))


def values_at(fit: Fit, points: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters and small Deterministics at unconstrained points ``(n, p)``, in the order of the model."""
    readout, data = fit._engine.readout, fit._engine.data
    names = fit._engine.objective.space.names
    values = constrained(fit, points)
    small = [i for i, n in enumerate(readout.names) if n not in names and np.size(fit._report[0][n]) <= LARGE]
    if small:
        evaluate = jax.jit(lambda u, data: [readout.estimands(u, data)[i] for i in small])
        rows = [evaluate(u, data) for u in points]
        values |= {readout.names[i]: np.stack([r[k] for r in rows]) for k, i in enumerate(small)}
    return fit._in_model_order(values)


def units_at(fit: Fit, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood of every unit, ``(n, units)``, and the objective, ``(n,)``, at unconstrained points ``(n, p)``.

    Weights are applied. Both are minus infinity where a parameter condition fails.
    """
    objective = fit._engine.objective

    def at(u, data):
        theta = objective.space.constrain(u)
        units = objective.evaluator.units(theta, data)
        return jnp.where(objective.allowed(theta, data), units, -jnp.inf), objective.additions(u, data)

    units, more = jax.jit(lambda points, data: jax.lax.map(lambda u: at(u, data), points))(points, fit._engine.data)
    weighted = fit._weights * np.where(fit._weights == 0, 0.0, np.asarray(units))
    return weighted, weighted.sum(axis=1) + np.asarray(more)


def labelled(labels: Labels, draws: Draws, values: dict[str, np.ndarray]) -> xr.Dataset:
    """Arrays of variables at draws (draws first) with the dims and coords of the model."""
    import xarray as xr

    arrays = {n: with_samples(draws, labels.array(n, v[0]), v) for n, v in values.items()}
    return xr.Dataset(arrays, coords=draws.coords)


def with_samples(draws: Draws, one: xr.DataArray, values: Sequence | np.ndarray) -> xr.DataArray:
    """One labelled array for each draw, from the label of the first and the values of all."""
    import xarray as xr

    coords = {**draws.coords, **{d: one.coords[d] for d in one.dims}}
    return xr.DataArray(draws.shaped(np.asarray(values)), dims=("chain", "draw", *one.dims), coords=coords)
