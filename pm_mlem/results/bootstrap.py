"""The bootstrap: a fit's sampling distribution from refits to resampled or simulated data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from pm_mlem.arguments import checked, level
from pm_mlem.errors import NotIdentifiedError
from pm_mlem.estimate.alignment import Alignment, align
from pm_mlem.estimate.covariance import clusters_of
from pm_mlem.estimate.draws import Draws, values_at
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.estimate.refits import Replicate, resampled, simulated
from pm_mlem.inference.covariance import Covariance, observed, unidentified
from pm_mlem.inference.resampling import (
    INTERVALS,
    acceleration_of,
    basic,
    bayesian_weights,
    bca,
    case_weights,
    grouped,
    percentile,
)
from pm_mlem.optimize.problem import Status
from pm_mlem.precision import in_double
from pm_mlem.progress import progress
from pm_mlem.results.datatree import attributes, posterior, tree_of
from pm_mlem.results.reported import Reported
from pm_mlem.results.uncertainty import free_entries, labelled_matrix

KINDS = ("case", "parametric", "bayesian")
REPLICATES = 1000
"""Replicates where the user names no number."""
AMBIGUOUS = 0.05
"""Margin of an alignment below which it might as well have been another."""
MOST_AMBIGUOUS = 0.3
"""Share of ambiguous replicates from which the states cannot be told apart."""


@in_double
@dataclass(frozen=True, eq=False, repr=False)
class Bootstrap:
    """Replicates of a fit, made by :meth:`pm_mlem.Fit.bootstrap`.

    Attributes
    ----------
    fit : Fit
        The fit that was replicated.
    kind : {"case", "parametric", "bayesian"}
    n : int
        Number of replicates, those that failed included.
    random_seed : int or None
    """

    fit: Reported
    kind: str
    n: int
    random_seed: int | None
    _estimate: Estimate
    _clusters: np.ndarray | None
    _replicates: tuple[Replicate, ...]
    _points: np.ndarray
    _alignment: Alignment

    # --- replicates ----------------------------------------------------------------------------------------

    @cached_property
    def converged(self) -> xr.DataArray:
        """Whether each replicate reached a maximum; those that did not are left out of all results."""
        return self._by_replicate([r.converged for r in self._replicates], "converged")

    @cached_property
    def log_likelihood(self) -> xr.DataArray:
        """The maximised log-likelihood of each replicate's own data."""
        return self._by_replicate([r.log_likelihood for r in self._replicates], "log_likelihood")

    @cached_property
    def estimates(self) -> xr.Dataset:
        """Parameters and Deterministics of up to 100 entries, first dimension ``replicate``; NaN where not converged.

        States of latents are in the order of the fit. A Deterministic that depends on a latent is its posterior mean
        for the fit's own data at the replicate's parameters.
        """
        estimate, arrays = self._estimate, {}
        for name, values in self._values.items():
            full = np.full((self.n, *values.shape[1:]), np.nan)
            full[self._used] = values
            arrays[name] = estimate.labels.array(name, full[0]).expand_dims(replicate=self.n).copy(data=full)
        dataset = xr.Dataset(arrays).assign_coords(replicate=np.arange(self.n))
        return dataset.assign_attrs(kind=self.kind, estimator=estimate.target.estimator)

    @cached_property
    def margin(self) -> xr.Dataset:
        """By how much the order of the states of each latent is the right one, between 0 and 1; see :attr:`aligned`.

        The states of a replicate are matched with those of the fit by the responsibilities that they share. The margin
        is how much better that is than the second best assignment, as a share of the responsibilities in the states in
        which the two differ. Empty where no latent has states that could be exchanged.
        """
        arrays = {}
        for symmetry, values in zip(self._alignment.symmetries, self._alignment.margins, strict=True):
            full = np.full(self.n, np.nan)
            full[self._used] = values
            arrays |= {name: ("replicate", full) for name in symmetry.latents}
        return xr.Dataset(arrays, coords={"replicate": np.arange(self.n)})

    @cached_property
    def aligned(self) -> xr.DataArray:
        """Whether a replicate converged and the order of its states is beyond doubt (all margins at least 0.05)."""
        result = self._used.copy()
        for values in self._alignment.margins:
            result[self._used] &= ~(values < AMBIGUOUS)
        return self._by_replicate(result, "aligned")

    @property
    def message(self) -> str:
        """How it went, in a sentence or two."""
        parts = [f"{self.n} replicates."]
        failed = self.n - int(self._used.sum())
        if failed:
            parts.append(f"{failed} did not converge and {'is' if failed == 1 else 'are'} left out.")
        if self._alignment.symmetries:
            renamed = int(self._alignment.renamed(int(self._used.sum())).sum())
            doubtful = int(self._used.sum() - self.aligned.sum())
            parts.append(f"{renamed} had their states in another order than the fit, {doubtful} in an ambiguous one.")
        if not self.fit.converged:
            parts.append("The fit itself has not converged.")
        return " ".join(parts)

    # --- what is made of them ------------------------------------------------------------------------------

    def covariance(self, space: str = "constrained") -> xr.DataArray:
        """Covariance matrix of the replicates, labelled as :meth:`pm_mlem.Fit.covariance`.

        Parameters
        ----------
        space : {"constrained", "unconstrained"}
        """
        estimate, parameters = self._estimate, self._estimate.target.space
        if space not in ("constrained", "unconstrained"):
            raise ValueError(f"space={space!r} must be 'constrained' or 'unconstrained'.")
        if space == "unconstrained":
            draws, labels = self._points[self._used], list(parameters.labels)
            blank = unidentified(np.eye(estimate.n_params), self._identified)
        else:
            free = {n: parameters.is_free(n) for n in parameters.names}
            draws = np.concatenate([self._values[n][:, free[n]] for n in free], axis=1)
            blank = np.concatenate([self._blank(n)[free[n]] for n in free])
            labels = free_entries(estimate)
        matrix = np.atleast_2d(np.cov(draws, rowvar=False))
        matrix[blank, :] = np.nan
        matrix[:, blank] = np.nan
        return labelled_matrix(matrix, labels, "bootstrap", estimate.target.estimator)

    def standard_errors(self) -> xr.Dataset:
        """Standard deviations of the replicates (divisor n - 1).

        NaN where an entry is held, not identified, or on the boundary of its support, where a bootstrap is not to be
        trusted either (Andrews 2000).
        """
        values = {n: np.where(self._blank(n), np.nan, v.std(axis=0, ddof=1)) for n, v in self._values.items()}
        return self._estimate.labels.dataset(values, kind="bootstrap")

    @checked(level=level)
    def confidence_intervals(self, level: float = 0.95, kind: str = "percentile") -> xr.Dataset:
        """Confidence intervals; dimension ``ci_bound`` (lower, upper).

        Parameters
        ----------
        level : float
        kind : {"percentile", "basic", "bca"}
            "percentile": quantiles of the replicates. "basic": these mirrored at the estimate, in the user's space, so
            bounds may leave the support. "bca": quantiles corrected for bias and acceleration [1]_, the latter from
            the influence of each unit (cluster) on the estimates, one step of Newton's method from them [2]_.

        References
        ----------
        .. [1] Efron, B. *Better bootstrap confidence intervals*. J. Am. Stat. Assoc. 82 (1987).
           https://doi.org/10.1080/01621459.1987.10478410
        .. [2] Efron, B. & Tibshirani, R. J. *An Introduction to the Bootstrap*. Chapman & Hall (1993).
        """
        if kind not in INTERVALS:
            raise ValueError(f"kind={kind!r} is unknown; use {', '.join(map(repr, INTERVALS[:-1]))} or 'bca'.")
        values = {n: np.where(self._blank(n)[..., None], np.nan, self._interval(n, level, kind)) for n in self._values}
        extra = {"ci_bound": ["lower", "upper"]}
        return self._estimate.labels.dataset(values, extra, level=level, kind=kind)

    def to_datatree(self) -> xr.DataTree:
        """The replicates as draws of a ``posterior`` group (one chain), marked as what they are, for ArviZ.

        ``fit.to_datatree(bootstrap=...)`` writes them beside everything else that is known of the fit.
        """
        groups = {"posterior": posterior(self._estimate, self.draws)}
        return tree_of(groups, {**attributes(self.fit), "bootstrap": self.kind}, {})

    def __repr__(self) -> str:
        kind = {"case": "Case", "parametric": "Parametric", "bayesian": "Bayesian"}[self.kind]
        grouped = "" if self._clusters is None else f", {len(np.unique(self._clusters))} clusters"
        return f"{kind} bootstrap of a fit by {self.fit.estimator}{grouped}. {self.message}"

    # --- parts ---------------------------------------------------------------------------------------------

    @cached_property
    def _used(self) -> np.ndarray:
        return np.array([r.converged for r in self._replicates])

    @property
    def draws(self) -> Draws:
        """The replicates that converged as draws of the estimator (unconstrained space), one chain."""
        what = f"{self.kind} bootstrap of the estimator, not a Bayesian posterior"
        return Draws(self._points[self._used], 1, what)

    def _by_replicate(self, values, name: str) -> xr.DataArray:
        return xr.DataArray(np.asarray(values), dims="replicate", coords={"replicate": np.arange(self.n)}, name=name)

    @cached_property
    def _values(self) -> Mapping[str, np.ndarray]:
        """Parameters and small Deterministics at the replicates that converged."""
        return values_at(self._estimate, self._points[self._used])

    @property
    def _identified(self) -> Covariance:
        information = self._estimate.diagnosis.information
        assert information is not None
        return observed(information)

    def _blank(self, name: str) -> np.ndarray:
        """Entries of a variable that are held or not identified."""
        space = self._estimate.target.space
        shape = np.shape(self._estimate.values[name])
        held = ~space.is_free(name) if name in space.held else np.zeros(shape, dtype=bool)
        if not self._identified.null.shape[1] and not self._identified.held.shape[1]:
            return held
        jacobian = self._estimate.jacobians[name]
        return held | unidentified(jacobian.reshape(-1, jacobian.shape[-1]), self._identified).reshape(shape)

    def _interval(self, name: str, level: float, kind: str) -> np.ndarray:
        replicates, estimate = self._values[name], self._estimate.values[name]
        if kind == "percentile":
            return percentile(replicates, level)
        if kind == "basic":
            return basic(estimate, replicates, level)
        jacobian = self._estimate.jacobians[name]
        influence, weights = self._influence
        acceleration = acceleration_of(influence @ jacobian.reshape(-1, jacobian.shape[-1]).T, weights)
        return bca(estimate, replicates, acceleration.reshape(estimate.shape), level)

    @cached_property
    def _influence(self) -> tuple[np.ndarray, np.ndarray]:
        """Influence of each unit (cluster) on the unconstrained estimates, and how often each counts."""
        estimate, sample = self._estimate, self._estimate.sample
        used = sample.weights > 0
        scores, weights = sample.mean(estimate.scores)[used], sample.weights[used]
        if self._clusters is not None:
            members, count = grouped(np.ones(len(weights)), self._clusters[used])
            sums = np.zeros((count, scores.shape[1]))
            np.add.at(sums, members, weights[:, None] * scores)
            scores, weights = sums, np.ones(count)
        return scores @ estimate.information.inverse, weights


# --- making them ------------------------------------------------------------------------------------------


def bootstrap(fit: Reported, n: int, kind: str, random_seed: int | None, unit, progressbar: bool) -> Bootstrap:
    """See :meth:`pm_mlem.Fit.bootstrap`."""
    estimate = fit._estimate
    check(estimate, kind, unit)
    clusters = None if unit is None else clusters_of(estimate, unit, "unit")
    rngs = np.random.default_rng(random_seed).spawn(n)
    if kind == "parametric":
        check_plain_weights(estimate)
        replicates = simulated(estimate, rngs)
    else:
        sample = estimate.sample
        check_several(sample.weights, clusters)
        make = case_weights if kind == "case" else bayesian_weights
        draw = make(sample.weights, clusters)
        replicates = resampled(estimate, lambda rng: sample.spread(draw(rng)), rngs)
    found = []
    with progress(f"{kind} bootstrap", enabled=progressbar) as observe:
        for i, replicate in enumerate(replicates):
            found.append(replicate)
            observe(i + 1, replicate.log_likelihood)
    used = np.array([r.converged for r in found])
    if used.sum() < 2:
        raise NotIdentifiedError(
            f"{n - used.sum()} of {n} replicates did not reach a maximum, so the bootstrap says nothing; see "
            "fit.message and fit.summary() for what the data do not determine."
        )
    points = np.full((n, estimate.n_params), np.nan)
    points[used] = [r.point for r in found if r.converged]
    points[used], alignment = in_order(estimate, points[used])
    result = Bootstrap(fit, kind, n, random_seed, estimate, clusters, tuple(found), points, alignment)
    check_order(result)
    return result


def check(estimate: Estimate, kind: str, unit) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; use {', '.join(map(repr, KINDS[:-1]))} or {KINDS[-1]!r}.")
    if unit is not None and kind == "parametric":
        raise ValueError("unit= belongs to kind='case' and 'bayesian'; simulated data have the model's own structure.")
    if estimate.n_params == 0:
        raise ValueError("The fit has no free parameters, so there is nothing to bootstrap.")
    if estimate.target.engine.plan is not None and estimate.target.objective.penalty is None:
        raise ValueError(
            "The fit has scales on a floor (EM(min_scale=...)), which refits do not know; use EM(penalty=...) instead."
        )
    reason = estimate.reason
    if (
        reason
        and estimate.target.objective.penalty is None
        and (estimate.optimum.converged or estimate.status is Status.DEGENERATE)
    ):
        raise ValueError(f"Refits go to maxima of the likelihood, which the fit is not: {reason}.")


def check_plain_weights(estimate: Estimate) -> None:
    if not np.all((estimate.target.weights == 0) | (estimate.target.weights == 1)):
        raise ValueError(
            "kind='parametric' cannot simulate weighted data (weights= or total_size=): repeat the rows, or use "
            "kind='case'."
        )


def check_several(weights: np.ndarray, clusters: np.ndarray | None) -> None:
    _, count = grouped(weights, clusters)
    if clusters is not None and count < 2:
        raise ValueError("unit: there is a single cluster, so nothing can be resampled; use two or more.")
    if clusters is None and (weights.sum() if np.all(weights == np.round(weights)) else count) < 2:
        raise ValueError(
            "The data are a single independent unit (observations that share a latent are one), so nothing can be "
            "resampled; use kind='parametric'."
        )


def in_order(estimate: Estimate, points: np.ndarray) -> tuple[np.ndarray, Alignment]:
    """Points with the states of latents in the order of the fit."""
    if not estimate.target.structure.components:
        return points, Alignment((), (), ())
    draws = estimate.target.constrained(points)
    alignment = align(estimate, draws)
    changed = np.flatnonzero(alignment.renamed(len(points)))
    if len(changed):
        renamed, points, space = alignment.apply(draws), points.copy(), estimate.target.space
        for i in changed:
            points[i] = space.unconstrain(space.just_inside({n: v[i] for n, v in renamed.items()}))
    return points, alignment


def check_order(result: Bootstrap) -> None:
    """Refuse replicates whose states cannot be told apart."""
    for symmetry, margins in zip(result._alignment.symmetries, result._alignment.margins, strict=True):
        doubtful = int(np.sum(margins < AMBIGUOUS))
        if doubtful > MOST_AMBIGUOUS * len(margins):
            raise NotIdentifiedError(
                f"The states of '{symmetry.latents[0]}' cannot be told apart in {doubtful} of {len(margins)} "
                "replicates, so the parameters of single states have no bootstrap distribution; use fewer states, or "
                "a transform that orders them."
            )
