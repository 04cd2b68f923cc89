"""Profiles of an estimate's objective: on which scale, and which functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logit

from pm_mlem.errors import LocalOptimaWarning, warn
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.inference.covariance import changing
from pm_mlem.inference.intervals import likelihood_drop
from pm_mlem.inference.profile import HIGHER, Derivatives, End, Peak, Profile, find_peak
from pm_mlem.objective.collapse import Guard
from pm_mlem.optimize.problem import Status

REACH = 50.0
"""How far transformed scales are searched: probabilities and scales out there are at the end of their support."""
BEYOND = 0.25
"""By how much of its length a curve reaches beyond each end of the interval."""
FEW = 12
"""Numbers that a warning spells out as a start."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One number of a fit, on the scale on which its profile is computed.

    Attributes
    ----------
    name, index : variable and position
    label : as in ``summary()``
    estimate : in the user's space
    estimand : its derivatives, on the scale
    natural, scaled : from the scale to the user's space and back
    reach : values on the scale beyond which nothing is looked for
    """

    name: str
    index: tuple[int, ...]
    label: str
    estimate: float
    estimand: Derivatives
    natural: Callable[[float], float]
    scaled: Callable[[float], float]
    reach: tuple[float, float] = (-np.inf, np.inf)


class Profiles:
    """The profiles of an estimate.

    Raises
    ------
    ValueError
        The fit is not at a maximum.
    """

    def __init__(self, estimate: Estimate):
        self.estimate, self.target, self.space = estimate, estimate.target, estimate.target.space
        self.peak = self.checked_peak()
        self.higher: list[tuple[Entry, End, float]] = []
        """Entries whose profile is higher than the fit, where, and by how much."""
        self.notes: dict[str, str] = {}

    def checked_peak(self) -> Peak:
        if self.estimate.status is Status.DEGENERATE:
            raise ValueError("The fit has no profile: the objective has no maximum here, see its message.")
        peak = find_peak(self.target.derivatives, self.estimate.optimum.point)
        gained = peak.value - self.estimate.optimum.value
        if gained > HIGHER:
            raise ValueError(
                f"The fit is not at a maximum of what its profile is made of: a few Newton steps gain {gained:.3g}. "
                "Fit again with method='newton' from there, starts=[the estimates], without a floor for scales."
            )
        return peak

    def why_none(self, name: str) -> str:
        """Why no entry of a variable has a profile; empty if they may have."""
        readout = self.target.readout
        if name not in readout.names:
            return "it is held"
        return "it depends on a latent" if name in readout.of_latents else ""

    # --- entries -------------------------------------------------------------------------------------------

    def entry(self, name: str, index: tuple[int, ...], label: str) -> Entry | str:
        """What is needed for the profile of an entry, or why there is none."""
        if name in self.space.names and not self.space.is_free(name)[index]:
            return "it is held"
        estimate = float(self.estimate.values[name][index])
        if not np.isfinite(estimate):
            return "its estimate is not finite"
        row = np.asarray(self.estimate.jacobians[name][index])
        if name in self.space.names:
            if self.is_simplex(name):
                return self.probability(name, index, label, estimate)
            own = range(*self.space.slices[name].indices(self.space.size))
            moved = np.flatnonzero(row)
            free = np.count_nonzero(self.space.is_free(name))
            if len(own) == free and set(moved) <= {self.own_coordinate(name, index)}:
                return self.coordinate(name, index, label, estimate)
        entry = self.natural_scale(name, index, label, estimate)
        known = self.estimate.information
        runs = np.any(changing(row[None] / known.sizes, known.away))
        return self.log_scale(entry) if runs and self.stays_positive(entry) else entry

    def is_simplex(self, name: str) -> bool:
        structure = self.target.structure
        return next(p.scale for p in structure.free if p.name == name) == "simplex"

    def own_coordinate(self, name: str, index: tuple[int, ...]) -> int:
        """Position of an entry in the unconstrained vector, if each has its own."""
        free = self.space.is_free(name)
        position = int(np.cumsum(free.ravel())[np.ravel_multi_index(index, free.shape) if index else 0]) - 1
        return self.space.slices[name].start + position

    def coordinate(self, name: str, index: tuple[int, ...], label: str, estimate: float) -> Entry:
        """An entry with an unconstrained coordinate of its own."""
        space, j, u = self.space, self.own_coordinate(name, index), self.peak.point
        unit, nothing = np.eye(space.size)[j], np.zeros((space.size, space.size))

        def natural(c: float) -> float:
            value = at(c)
            return value if not np.isnan(value) else at(float(np.clip(c, -700.0, 700.0)))

        def at(c: float) -> float:
            moved = u.copy()
            moved[j] = c
            return float(space.values(moved)[name][index])

        def scaled(value: float) -> float:
            values = np.array(space.values(u)[name])
            values[index] = value
            return float(space.unconstrain({name: values}, "points")[j])

        structure = self.target.structure
        bounded = next(p.scale for p in structure.free if p.name == name) != ""
        reach = (min(u[j], 0.0) - REACH, max(u[j], 0.0) + REACH) if bounded else (-np.inf, np.inf)
        return Entry(name, index, label, estimate, lambda v: (v[j], unit, nothing), natural, scaled, reach)

    def probability(self, name: str, index: tuple[int, ...], label: str, estimate: float) -> Entry:
        """An entry of a row of probabilities: its log-odds within what the free entries of the row share."""
        free, value = self.space.is_free(name), self.space.values(self.peak.point)[name]
        top, rest = np.zeros(free.shape), np.zeros(free.shape)
        top[index] = 1.0
        rest[index[:-1]] = free[index[:-1]]
        rest[index] = 0.0
        share = float(np.sum((top + rest) * value))

        estimand = self.target.log_odds(name, top, rest)

        def scaled(v: float) -> float:
            if not 0 < v < share:
                raise ValueError(f"points: {v:g} is outside the support of '{label}', 0 to {share:g}.")
            return float(logit(v / share))

        centre = estimand(self.peak.point)[0]
        reach = (min(centre, 0.0) - REACH, max(centre, 0.0) + REACH)
        return Entry(name, index, label, estimate, estimand, lambda c: share * float(expit(c)), scaled, reach)

    def natural_scale(self, name: str, index: tuple[int, ...], label: str, estimate: float) -> Entry:
        """Any other number, as it is."""
        shape = self.estimate.values[name].shape
        position = int(np.ravel_multi_index(index, shape)) if index else 0
        return Entry(name, index, label, estimate, self.target.entry(name, position), float, float)

    def stays_positive(self, entry: Entry) -> bool:
        """Whether a number is positive at the estimates, at the initial point, and as far on its other side."""
        initial, point = self.space.initial, self.peak.point
        values = [entry.estimand(u)[0] for u in (point, initial, 2.0 * initial - point)]
        return all(np.isfinite(v) and v > 0 for v in values)

    def log_scale(self, entry: Entry) -> Entry:
        """A positive number that runs away to infinity or to 0, by its logarithm."""

        def estimand(u):
            value, gradient, hessian = entry.estimand(u)
            slope = gradient / value
            return float(np.log(value)), slope, hessian / value - np.outer(slope, slope)

        def scaled(value: float) -> float:
            if not value > 0:
                raise ValueError(f"points: {value:g} must be positive, as '{entry.label}' is at infinity or at 0.")
            return float(np.log(value))

        centre = estimand(self.peak.point)[0]
        reach = (min(centre, 0.0) - REACH, max(centre, 0.0) + REACH)
        return replace(entry, estimand=estimand, natural=lambda c: float(np.exp(c)), scaled=scaled, reach=reach)

    # --- intervals and curves ------------------------------------------------------------------------------

    def profile(self, entry: Entry) -> Profile:
        return Profile(self.target.derivatives, entry.estimand, self.peak, entry.reach)

    def ends(self, entry: Entry, profile: Profile, level: float) -> tuple[float, float]:
        """Ends of an interval on the scale of the entry; notes are kept."""
        if profile.constant:
            return np.nan, np.nan
        drop = likelihood_drop(level)
        found = [profile.end(side, drop) for side in (-1, 1)]
        for end in found:
            self.note(entry, end)
        return found[0].at, found[1].at

    def note(self, entry: Entry, end: End) -> None:
        if end.kind == "higher":
            collapse = Guard(self.target.engine.inspector, self.target.weights).collapse(end.point)
            if collapse:
                self.notes[entry.label] = f"the profile leads to where the likelihood has no bound ({collapse})"
            else:
                self.higher.append((entry, end, self.target.derivatives(end.point)[0] - self.peak.value))
                self.notes[entry.label] = "the profile rises above the fit"
        elif end.kind == "limit":
            self.notes[entry.label] = f"the profile ends at {entry.natural(end.at):.4g}"
        elif end.kind == "lost":
            reached = entry.natural(entry.estimand(end.point)[0])
            self.notes[entry.label] = f"the profile could not be followed beyond {reached:.4g}"

    def interval(self, entry: Entry, level: float) -> tuple[float, float]:
        profile = self.profile(entry)
        if profile.constant:
            return entry.estimate, entry.estimate
        return in_order(entry, self.ends(entry, profile, level))

    def warn(self) -> None:
        """Say so where a profile is higher than the fit."""
        if not self.higher:
            return
        entry, end, above = max(self.higher, key=lambda item: item[2])
        if self.space.size <= FEW:
            start = {n: np.round(v, 4).tolist() for n, v in self.space.values(end.point).items()}
            advice = f"mlem.fit(model, starts=[{start}])"
        else:
            held = entry.natural(entry.estimand(end.point)[0])
            advice = f"fit with fixed={{'{entry.label}': {held:.4g}}}, then without, starts=[those estimates]"
        warn(
            f"The fit is not the maximum: the profile of {entry.label} leads to a point that is higher by {above:.3g}. "
            f"Start there: {advice}. Bounds that are missing are NaN.",
            LocalOptimaWarning,
        )

    def goals(self, profile: Profile, ends: tuple[float, float], count: int) -> np.ndarray:
        """Values on the scale from beyond one end of the interval to beyond the other, the estimate among them."""
        centre = profile.top.at
        widths = [abs(end - centre) if np.isfinite(end) else np.nan for end in ends]
        finite = [w for w in widths if np.isfinite(w)]
        widths = [w if np.isfinite(w) else (3.0 * max(finite) if finite else 3.0 * (1.0 + abs(centre))) for w in widths]
        below = count // 2
        left = centre - (1.0 + BEYOND) * widths[0] * np.linspace(1.0, 0.0, below, endpoint=False)
        right = centre + (1.0 + BEYOND) * widths[1] * np.linspace(0.0, 1.0, count - below)
        return np.concatenate([left, right])

    def curve(self, entry: Entry, level: float, points: int | np.ndarray) -> dict[str, np.ndarray]:
        """Values, objective, root of the deviance and normal approximation along the profile of an entry."""
        profile = self.profile(entry)
        if profile.constant:
            raise ValueError(f"'{entry.label}' does not depend on the parameters, so it has no profile.")
        ends = self.ends(entry, profile, level)
        given = not isinstance(points, int)
        goals = np.array([entry.scaled(v) for v in points]) if given else self.goals(profile, ends, points)
        found = profile.curve(goals)
        best = max((p for p in found if p is not None), key=lambda p: p.value, default=profile.top)
        if best.value > self.peak.value + HIGHER:
            self.note(entry, End(best.at, "higher", best.point))
        heights = np.array([np.nan if p is None else p.value for p in found])
        values = np.asarray(points) if given else np.array([entry.natural(c) for c in goals])
        root = np.sqrt(2.0 * np.maximum(self.peak.value - heights, 0.0))
        wald = self.peak.value - 0.5 * ((goals - profile.top.at) / profile.error) ** 2
        return {
            "value": values, "objective": heights, "zeta": np.sign(values - entry.natural(profile.top.at)) * root,
            "wald": wald, "interval": np.array(in_order(entry, ends)),
        }  # fmt: skip


def in_order(entry: Entry, ends: tuple[float, float]) -> tuple[float, float]:
    """Ends of an interval in the user's space, the lower one first (some transforms fall)."""
    low, high = (np.nan if np.isnan(c) else entry.natural(c) for c in ends)
    rising = entry.natural(1.0) >= entry.natural(0.0)
    return (low, high) if rising else (high, low)
