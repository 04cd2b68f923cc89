"""Many starts: run all of them a little, the best of them to the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pm_mlem.optimize.loop import Algorithm, run
from pm_mlem.optimize.problem import Optimum, Problem, Status, Vector


@dataclass(frozen=True)
class Start:
    """A start point and where it came from."""

    origin: str
    point: Vector


@dataclass(frozen=True)
class Run:
    """What became of a start.

    ``twin`` is the position of the run that stands at the same optimum; ``reason`` says why the optimum was not
    acceptable, if it was not.
    """

    start: Start
    optimum: Optimum
    finished: bool
    reason: str = ""
    twin: int | None = None


@dataclass(frozen=True)
class Fallback:
    """An algorithm for where the one before it did not converge."""

    algorithm: Algorithm


Plan = Sequence[Algorithm | Fallback]
"""Algorithms to run one after the other; the first is no fallback."""


def run_sequence(algorithms: Plan, problem: Problem, point: Vector, observe: Callable | None = None) -> Optimum:
    """Run algorithms one after the other, each from where the last one ended; histories are joined.

    A :class:`Fallback` only runs where the one before it did not converge.
    """
    history: list[np.ndarray] = []
    legs: list[tuple[str, int]] = []
    optimum: Optimum | None = None
    for leg in algorithms:
        if isinstance(leg, Fallback) and optimum is not None and optimum.converged:
            continue
        algorithm = leg.algorithm if isinstance(leg, Fallback) else leg
        following = run(algorithm, problem, point, observe=observe)
        legs.extend(following.legs)
        history.append(following.history if optimum is None else following.history[1:])
        if optimum is None or following.value >= optimum.value - 1e-9 * (1 + abs(optimum.value)):
            optimum = following
        point = optimum.point
        if optimum.status in (Status.NOT_FINITE, Status.INTERRUPTED):
            break
    assert optimum is not None
    return replace(optimum, history=np.concatenate(history), legs=tuple(legs))


def multistart(
    algorithms: Plan,
    problem: Problem,
    starts: Sequence[Start],
    *,
    short: int = 30,
    keep: int = 3,
    flaw: Callable[[Vector], str | None] = lambda point: None,
    observe: Callable | None = None,
) -> tuple[Optimum, list[Run]]:
    """The best optimum over several starts.

    Parameters
    ----------
    algorithms : run one after the other
    short : iterations of the first algorithm that every start gets
    keep : number of distinct candidates that are run to the end
    flaw : point -> reason why an optimum is not acceptable (degenerate), or None

    Returns
    -------
    optimum, runs
        The best acceptable optimum (the best of all if none is acceptable; the earliest start's among equals), and
        what became of every start.
    """
    if len(starts) == 1:
        optimum = run_sequence(algorithms, problem, starts[0].point, observe)
        return optimum, [Run(starts[0], optimum, True, flaw(optimum.point) or "")]
    trials = [Run(s, run(algorithms[0], problem, s.point, max_iterations=short), False) for s in starts]
    order = sorted(range(1, len(trials)), key=lambda i: -rank(trials[i].optimum.value))
    accepted: list[int] = []
    for i in [0, *order]:  # the first start always, so that its labels win where optima differ only by them
        trial = trials[i]
        twin = next((j for j in accepted if same_value(trial, trials[j])), None)
        if twin is not None:
            trials[i] = replace(trial, twin=twin)
        if len(accepted) >= keep or twin is not None or trial.optimum.status is Status.NOT_FINITE:
            continue
        optimum = run_sequence(algorithms, problem, trial.optimum.point, observe)
        joined = np.concatenate([trial.optimum.history, optimum.history[1:]])
        reason = flaw(optimum.point) or ""
        trials[i] = Run(trial.start, replace(optimum, history=joined), True, reason)
        if not reason:
            accepted.append(i)
    finished = [t for t in trials if t.finished]
    good = [t for t in finished if not t.reason] or finished or trials
    best = max(rank(t.optimum.value) for t in good)
    chosen = next(t for t in good if rank(t.optimum.value) >= best - 1e-7 * (1.0 + abs(best)))
    return chosen.optimum, trials


def rank(value: float) -> float:
    return value if np.isfinite(value) else -np.inf


def same_value(trial: Run, other: Run) -> bool:
    """A trial that already stands at the value of a finished optimum leads nowhere new."""
    value = trial.optimum.value
    return abs(value - other.optimum.value) <= 1e-7 * (1 + abs(value))
