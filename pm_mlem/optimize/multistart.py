"""Many starts: run all of them a little, then the best of them to the end until the best optimum is confirmed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pm_mlem.optimize.loop import Algorithm, run
from pm_mlem.optimize.problem import Optimum, Problem, Status, Vector

SHORT = 20
"""Iterations of the first algorithm that every start gets."""
LEAST = 3
"""Starts that are run to the end even if the first two agree."""
ROUNDS = 3
"""Up to this many times as many starts are tried where those that were asked for do not settle the matter."""
NOT_FINITE = "the objective is not finite at the start"
SAME_VALUE = 1e-4
"""Optima whose objective differs by less may be the same (log-likelihood units)."""
SAME_FINGERPRINT = 1e-2
"""Squared distance between the fingerprints of two runs that ended at the same optimum."""


@dataclass(frozen=True)
class Start:
    """A start point and where it came from."""

    origin: str
    point: Vector


@dataclass(frozen=True)
class Run:
    """What became of a start.

    Attributes
    ----------
    finished : whether it was run to the end
    reason : why its optimum is not acceptable (degenerate), if it is not
    twin : position of the finished run at the same optimum, where the run was spared for that
    number : which distinct optimum it reached, 0 the best; None if it was set aside or is not acceptable
    reached : how many starts reached that optimum
    """

    start: Start
    optimum: Optimum
    finished: bool
    reason: str = ""
    twin: int | None = None
    number: int | None = None
    reached: int = 0


@dataclass(frozen=True)
class Fallback:
    """An algorithm for where the one before it did not converge."""

    algorithm: Algorithm


@dataclass(frozen=True)
class Check:
    """An algorithm with an exact criterion, after one without: it says whether the optimum is one, or goes on."""

    algorithm: Algorithm


Plan = Sequence[Algorithm | Fallback | Check]
"""Algorithms to run one after the other; the first is no fallback."""
ENOUGH = 1e-9
"""Exact Newton decrement (log-likelihood) with which an algorithm is taken at its word: 4e-5 standard errors."""
CHECKED = " The exact Newton decrement confirms it."


def run_sequence(
    algorithms: Plan,
    problem: Problem,
    point: Vector,
    observe: Callable | None = None,
    hopeless: Callable[[Optimum], str] = lambda optimum: "",
) -> Optimum:
    """Run algorithms one after the other, each from where the last one ended; histories are joined.

    A :class:`Fallback` only runs where the one before it did not converge, a :class:`Check` unless it ran into its
    limit, and nothing follows an optimum that is ``hopeless``.
    """
    history: list[np.ndarray] = []
    legs: list[tuple[str, int]] = []
    optimum: Optimum | None = None
    for leg in algorithms:
        if isinstance(leg, Fallback) and optimum is not None and optimum.converged:
            continue
        checks = isinstance(leg, Check)
        if checks and optimum is not None and optimum.status is Status.MAX_ITERATIONS:
            continue
        algorithm = leg.algorithm if isinstance(leg, Fallback | Check) else leg
        enough = ENOUGH + 1e-14 * abs(optimum.value) if checks and optimum is not None else 0.0
        following = run(algorithm, problem, point, observe=observe, enough=enough)
        if checks and optimum is not None and following.converged and not following.iterations:
            message = optimum.message if optimum.converged else "Converged."
            optimum = replace(
                optimum,
                status=following.status,
                message=message + CHECKED,
                gain=following.gain,
                checked=algorithm.title,
            )
            continue
        legs.extend(following.legs)
        history.append(following.history if optimum is None else following.history[1:])
        if optimum is None or following.value >= optimum.value - 1e-9 * (1 + abs(optimum.value)):
            optimum = following
        elif following.status is Status.INTERRUPTED:
            optimum = replace(optimum, status=following.status, message=following.message)
        point = optimum.point
        if optimum.status in (Status.NOT_FINITE, Status.INTERRUPTED):
            break
        if leg is not algorithms[-1] and hopeless(optimum):
            break
    assert optimum is not None
    return replace(optimum, history=np.concatenate(history), legs=tuple(legs))


def continued(trial: Optimum, optimum: Optimum) -> Optimum:
    """An optimum as the end of a trial, whose algorithm was the first to be run again."""
    (title, count), *rest = optimum.legs
    legs = ((title, trial.iterations + count), *rest)
    return replace(optimum, history=np.concatenate([trial.history, optimum.history[1:]]), legs=legs)


class Search:
    """The state of a search over starts: one entry in ``runs`` for every start, in their order."""

    def __init__(
        self,
        algorithms: Plan,
        problem: Problem,
        flaw: Callable[[Optimum], str],
        fingerprint: Callable[[Vector], Vector],
        short: int,
        observe: Callable | None,
    ):
        self.algorithms, self.problem = algorithms, problem
        self.flaw, self.fingerprint = flaw, fingerprint
        self.short, self.observe = short, observe
        self.runs: list[Run] = []
        self.prints: dict[int, Vector] = {}
        self.stopped = False

    # --- what the runs do --------------------------------------------------------------------------------------

    def try_all(self, starts: Sequence[Start]) -> None:
        """Run new starts a little."""
        for start in starts:
            optimum = run(
                self.algorithms[0], self.problem, start.point, max_iterations=self.short, observe=self.observe
            )
            reason = NOT_FINITE if optimum.status is Status.NOT_FINITE else ""
            self.runs.append(Run(start, optimum, False, reason))
            if optimum.status is Status.INTERRUPTED:
                raise KeyboardInterrupt

    def finish(self, i: int) -> None:
        """Run a start to the end from where its trial stopped, unless a finished run is there already."""
        trial = self.runs[i]
        twin = next((j for j in self.finished() if self.same(i, j)), None)
        if twin is not None:
            self.runs[i] = replace(trial, twin=twin, reason=self.runs[twin].reason)
            return
        optimum = run_sequence(self.algorithms, self.problem, trial.optimum.point, self.observe, self.reason)
        self.finish_with(i, continued(trial.optimum, optimum))

    def finish_with(self, i: int, optimum: Optimum) -> None:
        self.prints.pop(i, None)
        self.runs[i] = Run(self.runs[i].start, optimum, True)
        if optimum.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        self.runs[i] = replace(self.runs[i], reason=self.reason(optimum))

    def reason(self, optimum: Optimum) -> str:
        if optimum.status is Status.NOT_FINITE:
            return NOT_FINITE
        if not (np.isfinite(optimum.value) and np.all(np.isfinite(optimum.point))):
            return "the objective blew up"
        return self.flaw(optimum)

    # --- what they have shown ----------------------------------------------------------------------------------

    def finished(self) -> list[int]:
        return [i for i, r in enumerate(self.runs) if r.finished]

    def waiting(self) -> list[int]:
        """Starts that may still lead somewhere, the best first."""
        left = [
            i
            for i, r in enumerate(self.runs)
            if not r.finished and r.twin is None and r.optimum.status is not Status.NOT_FINITE
        ]
        return sorted(left, key=lambda i: -rank(self.runs[i].optimum.value))

    def print_of(self, i: int) -> Vector:
        if i not in self.prints:
            self.prints[i] = self.fingerprint(self.runs[i].optimum.point)
        return self.prints[i]

    def same(self, i: int, j: int) -> bool:
        """Whether two runs stand at the same optimum, up to what the fingerprint does not tell apart."""
        a, b = self.runs[i].optimum.value, self.runs[j].optimum.value
        if not abs(a - b) <= SAME_VALUE + 1e-9 * abs(b):
            return False
        return float(np.sum((self.print_of(i) - self.print_of(j)) ** 2)) <= SAME_FINGERPRINT

    def acceptable(self) -> list[int]:
        return [i for i in self.finished() if not self.runs[i].reason]

    def optima(self) -> list[list[int]]:
        """The runs at each distinct acceptable optimum (spared twins too), the best optimum first."""
        groups: list[list[int]] = []
        for i in sorted(self.acceptable(), key=lambda i: -rank(self.runs[i].optimum.value)):
            group = next((g for g in groups if self.same(i, g[0])), None)
            groups.append([i]) if group is None else group.append(i)
        for i, r in enumerate(self.runs):
            for group in groups:
                if r.twin in group and not r.finished:
                    group.append(i)
        return groups

    def confirmed(self) -> bool:
        """Whether the best optimum was reached at least twice."""
        groups = self.optima()
        return bool(groups) and len(groups[0]) > 1

    def settle(self, least: int) -> None:
        """Finish starts, the best first, until the best optimum is confirmed or none is left."""
        while waiting := self.waiting():
            if self.confirmed() and len(self.finished()) + sum(r.twin is not None for r in self.runs) >= least:
                return
            self.finish(waiting[0])

    def best(self) -> int:
        """The best acceptable run (the best of all if none is), the earliest among equals."""
        groups = self.optima()
        if groups:
            return min(i for i in groups[0] if self.runs[i].finished)
        pool = self.finished() or range(len(self.runs))
        return max(pool, key=lambda i: (rank(self.runs[i].optimum.value), -i))

    def numbered(self) -> list[Run]:
        """The runs with the number of the optimum that each reached and how often it was reached."""
        runs = list(self.runs)
        for number, group in enumerate(self.optima()):
            for i in group:
                runs[i] = replace(runs[i], number=number, reached=len(group))
        return runs


def multistart(
    algorithms: Plan,
    problem: Problem,
    starts: Sequence[Start],
    *,
    short: int = SHORT,
    least: int = LEAST,
    flaw: Callable[[Optimum], str] = lambda optimum: "",
    fingerprint: Callable[[Vector], Vector] = lambda point: point,
    more: Callable[[int], Sequence[Start]] = lambda count: (),
    insist: bool = False,
    observe: Callable | None = None,
) -> tuple[Optimum, list[Run]]:
    """The best optimum over several starts.

    All starts are run a little. Then they are run to the end, the best first, until the best acceptable optimum was
    reached twice and ``least`` starts have ended; where that does not happen, all are. So an easy problem is cheap,
    and in a hard one no start is left out.

    Parameters
    ----------
    algorithms : run one after the other
    short : iterations of the first algorithm that every start gets
    least : starts that are run to the end at least
    flaw : optimum -> reason why it is not acceptable (degenerate), or ""
    fingerprint : point -> vector that is the same for points that differ only by a relabelling; two optima are the same
        if their values agree and the squared distance of their fingerprints is small
    more : number -> further starts, asked for up to twice where no start led to an acceptable optimum
    insist : also ask for more where the best optimum was reached only once
    observe : called with (iteration, value)

    Returns
    -------
    optimum, runs
        The best acceptable optimum (the earliest start's among equals), and what became of every start. If none is
        acceptable the best of all, with status ``DEGENERATE``. After a keyboard interrupt the best so far, with
        status ``INTERRUPTED``.
    """
    search = Search(algorithms, problem, flaw, fingerprint, short, observe)
    try:
        explore(search, starts, least, more, insist)
    except KeyboardInterrupt:
        if not search.runs:
            raise
        return interrupted(search)
    best = search.runs[search.best()]
    optimum = best.optimum
    if best.reason and optimum.status is not Status.NOT_FINITE:
        optimum = replace(optimum, status=Status.DEGENERATE, message=all_degenerate(best, len(search.runs)))
    return optimum, search.numbered()


def explore(search: Search, starts: Sequence[Start], least: int, more: Callable, insist: bool) -> None:
    alone = len(starts) == 1
    for attempt in range(ROUNDS):
        batch = starts if attempt == 0 else more(len(starts))
        if not batch:
            return
        if alone and attempt == 0:
            search.runs.append(Run(batch[0], unknown(batch[0]), False))
            search.finish_with(
                0, run_sequence(search.algorithms, search.problem, batch[0].point, search.observe, search.reason)
            )
        else:
            search.try_all(batch)
            if attempt == 0:
                search.finish(0)  # always, so that its labels win where optima differ only by them
            search.settle(least)
        if search.acceptable() and (alone or not insist or search.confirmed()):
            return
        if all(r.optimum.status is Status.NOT_FINITE for r in search.runs):
            return  # outside the support: for the user to mend


def unknown(start: Start) -> Optimum:
    """Before anything was evaluated."""
    return Optimum(start.point, -np.inf, Status.INTERRUPTED, "Interrupted.", np.array([-np.inf]))


def interrupted(search: Search) -> tuple[Optimum, list[Run]]:
    order = sorted(search.runs, key=lambda r: -rank(r.optimum.value))
    chosen = next((r for r in order if not (r.reason or search.reason(r.optimum))), order[0])
    if not np.isfinite(chosen.optimum.value):
        raise KeyboardInterrupt
    done = sum(r.finished for r in search.runs)
    message = f"Interrupted with {done} of {len(search.runs)} starts at their end; the best point so far."
    return replace(chosen.optimum, status=Status.INTERRUPTED, message=message), search.runs


def rank(value: float) -> float:
    return value if np.isfinite(value) else -np.inf


# --- what to tell the user --------------------------------------------------------------------------------


def all_degenerate(best: Run, count: int) -> str:
    tried = "The only start leads" if count == 1 else f"All {count} starts lead"
    return (
        f"{tried} to a degenerate point: {best.reason}. The objective has no maximum there; these are the estimates "
        "with the largest value found. Use fewer components or let them share their scale, a prior that keeps scales "
        "away from 0 (with estimator='map'), or other starts (starts=...)."
    )


def unconfirmed(optimum: Optimum, runs: Sequence[Run]) -> str:
    """A sentence if several starts were tried and only one of them reached the best optimum; otherwise ""."""
    ended = [r for r in runs if r.number is not None or (r.reason and r.optimum.status is not Status.NOT_FINITE)]
    best = [r for r in ended if r.number == 0]
    if not optimum.converged or len(ended) < 2 or len(best) != 1:
        return ""
    return (
        f"Only 1 of {len(ended)} starts reached the best optimum (see Fit.starts), so there may be a better one: try "
        f"more, starts={4 * len(runs)}, or start where you expect it, starts=[{{name: value}}]."
    )
