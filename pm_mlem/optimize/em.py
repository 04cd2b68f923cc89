"""Expectation-maximization: a fixed-point iteration, accelerated or not, and its variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pm_mlem.arguments import array_of_numbers, check_fields, flag, not_negative, optional, positive, whole
from pm_mlem.optimize.acceleration import ACCELERATORS, Climb, begin, noise
from pm_mlem.optimize.problem import Problem, Status, Vector, Verdict

KINDS = ("soft", "hard", "stochastic")
VARIANTS = {"hard": "classification EM", "stochastic": "stochastic EM"}
"""The kinds whose results are no maximum of the likelihood, with their titles."""
HARDEST = 2.0
"""Inverse temperature at the end of an annealed run, before the ordinary iterations."""
PER_TEMPERATURE = 10
"""Iterations at every temperature of an annealed run."""


@dataclass(frozen=True)
class EMState:
    """A climb, and what the variants add to it.

    Attributes
    ----------
    climb : the iteration so far
    count : iterations so far
    mean, averaged : mean of the points of a stochastic run after its first half, and how many they are
    joint : the joint log-likelihood of data and labels that a hard run maximises
    settled : whether the labels of a hard run stopped changing
    """

    climb: Climb
    count: int = 0
    mean: Vector | None = None
    averaged: int = 0
    joint: float = -np.inf
    settled: bool = False

    @property
    def point(self) -> Vector:
        return self.climb.point

    @property
    def value(self) -> float:
        return self.climb.value

    @property
    def gain(self) -> float:
        return self.climb.gain


@dataclass(frozen=True)
class EM:
    """Expectation-maximization (Dempster, Laird & Rubin 1977).

    Each iteration computes the posterior probabilities of the latents and maximises the expected complete-data
    log-likelihood: in closed form where a parameter has one, by safeguarded Newton steps otherwise. The
    log-likelihood never falls (except under ``kind="stochastic"`` and while ``anneal`` lasts).

    Parameters
    ----------
    max_iterations : int
        With ``accelerate="squarem"`` an iteration takes two EM steps.
    tolerance : float
        Stop when the log-likelihood still to be gained is below this. It is extrapolated from the gain of the last
        step and the slowest recent rate of convergence (Aitken).
    accelerate : {"squarem", "anderson", None}
        Extrapolation of the iteration in the unconstrained space. Extrapolated points that are lower than the plain
        EM step are not accepted.
    kind : {"soft", "hard", "stochastic"}
        "soft": EM. "hard": classification EM, which gives each latent its jointly most probable state in every
        iteration; fast, but it maximises the joint likelihood of parameters and labels, which is biased for
        overlapping components. "stochastic": the latents are drawn from their posterior in every iteration (SEM), and
        the estimate is the mean over the second half of ``draws`` iterations; it leaves saddle points and poor local
        maxima, and has Monte Carlo error.
    anneal : float or sequence of float, optional
        Deterministic annealing [4]_: inverse temperatures, powers to which the densities of the observations are raised
        for 10 iterations each before the ordinary ones begin. A number between 0 and 1 stands for eight from there to
        2; components that have merged at high temperature part again only above 1 where their scales are free [5]_.
        Makes the result less dependent on the start.
    draws : int
        Iterations under ``kind="stochastic"``.
    finish : bool
        Finish on the marginal log-likelihood with Newton's method (L-BFGS where there are very many parameters), as
        ``method="auto"`` does where it pays.
    min_scale : float, optional
        Least standard deviation, in the units of the data (of their logarithms for LogNormal), for the scales of
        Normal, LogNormal, HalfNormal and StudentT distributions that read a latent; its square is the least eigenvalue
        of the covariance matrices of MvNormal [6]_. The likelihood is bounded then. Scales that end on the floor are
        named in ``Fit.message``.
    penalty : float, optional
        Strength ``a`` of a penalty on the same scales, ``-a * (s2 / sigma**2 + log(sigma**2))`` for each, with ``s2``
        the variance of all observations that the scale may belong to (not weighted; of their logarithms for LogNormal),
        and ``-a * (trace(S inv(Sigma)) + log(det(Sigma)))`` for covariance matrices [7]_ [8]_. A small one is enough
        to bound the likelihood: ``1 / n``, say, n the number of observations. It belongs to ``estimator="mle"``; with
        "map" priors do this. ``Fit.history`` and ``Fit.starts`` then show the penalized log-likelihood,
        ``Fit.log_likelihood`` is that of the data alone.

    References
    ----------
    .. [1] Dempster, A. P., Laird, N. M. & Rubin, D. B. *Maximum likelihood from incomplete data via the EM
       algorithm*. J. R. Stat. Soc. B 39 (1977). https://doi.org/10.1111/j.2517-6161.1977.tb01600.x
    .. [2] Varadhan, R. & Roland, C. *Simple and globally convergent methods for accelerating the convergence of any
       EM algorithm*. Scand. J. Stat. 35 (2008). https://doi.org/10.1111/j.1467-9469.2007.00585.x
    .. [3] Celeux, G. & Govaert, G. *A classification EM algorithm for clustering and two stochastic versions*.
       Comput. Stat. Data Anal. 14 (1992). https://doi.org/10.1016/0167-9473(92)90042-E
    .. [4] Ueda, N. & Nakano, R. *Deterministic annealing EM algorithm*. Neural Networks 11 (1998).
       https://doi.org/10.1016/S0893-6080(97)00133-0
    .. [5] Naim, I. & Gildea, D. *Convergence of the EM algorithm for Gaussian mixtures with unbalanced mixing
       coefficients*. ICML (2012). https://doi.org/10.48550/arXiv.1206.6427
    .. [6] Hathaway, R. J. *A constrained formulation of maximum-likelihood estimation for normal mixture
       distributions*. Ann. Stat. 13 (1985). https://doi.org/10.1214/aos/1176349557
    .. [7] Chen, J., Tan, X. & Zhang, R. *Inference for normal mixtures in mean and variance*. Stat. Sinica 18 (2008).
    .. [8] Chen, J. & Tan, X. *Inference for multivariate normal mixtures*. J. Multivar. Anal. 100 (2009).
       https://doi.org/10.1016/j.jmva.2009.01.004

    Examples
    --------
    >>> import pm_mlem as mlem
    >>> mlem.EM(accelerate="anderson", tolerance=1e-10).title
    'EM with Anderson acceleration'
    """

    max_iterations: int = 10_000
    tolerance: float = 1e-8
    accelerate: str | None = "squarem"
    kind: str = "soft"
    anneal: float | Sequence[float] | None = None
    draws: int = 300
    finish: bool = False
    min_scale: float | None = None
    penalty: float | None = None

    def __post_init__(self) -> None:
        if self.accelerate not in ACCELERATORS:
            raise ValueError(f"accelerate={self.accelerate!r} is unknown; use 'squarem', 'anderson' or None.")
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is unknown; use 'soft', 'hard' or 'stochastic'.")
        check_fields(
            self, max_iterations=whole(1), tolerance=not_negative, draws=whole(2), finish=flag,
            min_scale=optional(positive), penalty=optional(positive),
        )  # fmt: skip
        if self.min_scale is not None and self.finish:
            raise ValueError("min_scale= and finish=True do not go together: only EM knows the floor.")
        if self.anneal is not None and self.kind != "soft":
            raise ValueError(f'anneal= belongs to kind="soft", not to kind={self.kind!r}.')
        schedule = self.schedule
        alone = self.anneal is not None and np.ndim(self.anneal) == 0
        wrong = self.anneal is not None and not schedule
        if wrong or any(not 0 < t < np.inf for t in schedule) or (alone and not 0 < self.anneal < 1):
            raise ValueError(
                f"anneal={self.anneal!r} must be a number between 0 and 1 or a sequence of positive inverse "
                "temperatures."
            )

    @property
    def title(self) -> str:
        if self.kind in VARIANTS:
            return VARIANTS[self.kind]
        accelerators = {None: "EM", "squarem": "EM with SQUAREM", "anderson": "EM with Anderson acceleration"}
        return ("annealed " if self.anneal is not None else "") + accelerators[self.accelerate]

    @property
    def schedule(self) -> tuple[float, ...]:
        """The inverse temperature of every annealed iteration."""
        if self.anneal is None:
            return ()
        given = np.atleast_1d(array_of_numbers(self.anneal, "anneal"))
        if np.ndim(self.anneal) == 0 and given[0] > 0:
            given = np.geomspace(given[0], HARDEST, 8)
        return tuple(float(t) for t in np.repeat(given, PER_TEMPERATURE))

    def init(self, problem: Problem, point: Vector) -> EMState:
        if problem.em is None:
            raise ValueError("EM needs an EM map.")
        return EMState(begin(problem.em.soft, problem.em.project(point)))

    def step(self, problem: Problem, state: EMState) -> EMState:
        assert problem.em is not None
        count = state.count + 1
        if self.kind == "stochastic":
            return self.drawn(problem, replace(state, count=count))
        if self.kind == "hard":
            return classified(problem, replace(state, count=count))
        if state.count < len(self.schedule):
            return replace(annealed(problem, state.climb, self.schedule[state.count], count), count=count)
        climb = ACCELERATORS[self.accelerate](problem.em.soft, state.climb, problem.em.project)
        return replace(state, climb=climb, count=count)

    def drawn(self, problem: Problem, state: EMState) -> EMState:
        """An M-step with drawn latents; at the end the mean of the points takes their place."""
        assert problem.em is not None
        point = problem.em.stochastic(state.climb.point, state.count)
        mean, averaged = state.mean, state.averaged
        if 2 * state.count > self.draws:
            averaged += 1
            mean = point if mean is None else mean + (point - mean) / averaged
        if state.count >= self.draws and mean is not None:
            point = problem.em.project(mean)
        climb = begin(problem.em.soft, point)
        return replace(state, climb=climb, mean=mean, averaged=averaged)

    def done(self, state: EMState) -> Verdict | None:
        if self.kind == "stochastic":
            return self.drawn_enough(state)
        if self.kind == "hard":
            return converged_labels(state)
        return None if state.count < len(self.schedule) else converged(state.climb, self.tolerance)

    def drawn_enough(self, state: EMState) -> Verdict | None:
        if state.count < self.draws:
            return None
        return Verdict(
            Status.CONVERGED,
            f"Stochastic EM: the mean over the last {state.averaged} of {self.draws} draws of the latents; it has "
            "Monte Carlo error and is not exactly the maximum (finish=True goes there); unless it is as good as that, "
            "there are no standard errors.",
        )


def converged(climb: Climb, tolerance: float) -> Verdict | None:
    """Whether an iteration stands at its limit."""
    if climb.fell:
        return Verdict(Status.STALLED, f"An EM step changed the log-likelihood by {climb.fell:.2g} and was rejected.")
    if climb.gained_within(max(tolerance, 0.1 * noise(climb.value))):
        left = f"about {climb.gain:.1g}" if climb.gain > noise(climb.value) else "nothing measurable"
        return Verdict(Status.CONVERGED, f"Converged: {left} of log-likelihood is left to gain.")
    return None


def converged_labels(state: EMState) -> Verdict | None:
    if not state.settled:
        return None
    return Verdict(
        Status.CONVERGED,
        "Classification EM: the labels no longer change. This maximises the joint likelihood of parameters and labels, "
        "not the likelihood of the data (finish=True goes there); unless the two agree there are no standard errors.",
    )


def classified(problem: Problem, state: EMState) -> EMState:
    """One step of classification EM: it ends when the joint log-likelihood stops rising."""
    assert problem.em is not None
    point, joint = problem.em.hard(state.climb.point)
    if joint <= state.joint + noise(joint):
        return replace(state, settled=True)
    return replace(state, climb=begin(problem.em.soft, point), joint=joint)


def annealed(problem: Problem, climb: Climb, temperature: float, count: int) -> EMState:
    """One step with flattened posterior probabilities, and a nudge, so that components that have merged can part."""
    assert problem.em is not None
    point = problem.em.tempered(climb.point, temperature)
    nudge = 1e-3 * np.random.default_rng(count).normal(size=len(point))
    return EMState(begin(problem.em.soft, problem.em.project(point + nudge)))
