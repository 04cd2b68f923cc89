"""Many starts on plain functions with known optima."""

import numpy as np
import pytest

from pm_mlem.optimize import LBFGS, Newton, Status
from pm_mlem.optimize.multistart import Start, multistart, run_sequence, unconfirmed
from pm_mlem.optimize.problem import Problem

PEAKS = np.array([-6.0, 0.0, 6.0])
HEIGHTS = np.array([1.0, 3.0, 2.0])


def hills(u):
    """Three separate hills."""
    return float(np.sum(HEIGHTS * np.exp(-0.5 * (u[0] - PEAKS) ** 2)) - 1e-4 * u[0] ** 2)


def problem(function=hills, h=1e-4):
    def derivatives(u):
        e = np.array([h])
        low, here, high = function(u - e), function(u), function(u + e)
        return here, np.array([(high - low) / (2 * h)]), np.array([[(high - 2 * here + low) / h**2]])

    return Problem(lambda u: derivatives(u)[:2], derivatives)


def starts(*points):
    return [Start(f"at {p}", np.array([p])) for p in points]


def search(points, **kw):
    return multistart([Newton(tolerance=1e-10)], problem(), starts(*points), **kw)


def test_it_stops_when_the_best_optimum_was_reached_twice():
    best, runs = search([-6.2, 0.3, 0.2, -0.1, 6.3, 5.8, -5.9], short=0)
    assert best.point[0] == pytest.approx(0.0, abs=1e-3)
    assert runs[0].number == 1
    assert sum(r.number == 0 for r in runs) == 2
    assert sum(r.finished for r in runs) == 3
    assert unconfirmed(best, runs) == ""


def test_all_starts_are_finished_where_the_best_was_reached_once():
    best, runs = search([-6.2, 6.3, 5.8, -5.9, 0.3])
    assert best.point[0] == pytest.approx(0.0, abs=1e-3)
    assert [r.number for r in runs] == [2, 1, 1, 2, 0]
    assert [r.reached for r in runs] == [2, 2, 2, 2, 1]
    assert "Only 1 of 5 starts" in unconfirmed(best, runs)
    assert "starts=20" in unconfirmed(best, runs)


def test_one_start_is_no_reason_for_doubt():
    best, runs = search([0.3])
    assert (runs[0].number, runs[0].reached) == (0, 1)
    assert unconfirmed(best, runs) == ""


def test_more_starts_are_asked_for_when_the_best_is_in_doubt():
    asked = []

    def more(count):
        asked.append(count)
        return starts(0.1 * len(asked), 6.1)

    best, runs = search([-6.2, 0.3], more=more, insist=True)
    assert asked == [2]
    assert best.point[0] == pytest.approx(0.0, abs=1e-3)
    assert len(runs) == 4
    search([-6.2, 0.3], more=more)
    assert asked == [2]  # not where the user named a number


def test_degenerate_optima_are_passed_over():
    best, runs = search([0.3, 0.1, 6.2, 5.9], flaw=lambda o: "at zero" if abs(o.point[0]) < 1 else "")
    assert best.point[0] == pytest.approx(6.0, abs=1e-2)
    assert runs[0].reason == "at zero"
    assert runs[0].number is None
    assert [r.number for r in runs[2:]] == [0, 0]


def test_three_times_as_many_starts_if_all_are_degenerate():
    asked = []

    def more(count):
        asked.append(count)
        return starts(5.9, 0.2)

    best, runs = search([0.3, 0.1], more=more, flaw=lambda o: "bad")
    assert asked == [2, 2]
    assert len(runs) == 6
    assert best.status is Status.DEGENERATE
    assert not best.converged
    assert best.point[0] == pytest.approx(0.0, abs=1e-3)  # the largest value
    assert "All 6 starts" in best.message
    assert "bad" in best.message


def test_no_more_starts_where_the_density_vanishes():
    def nowhere(u):
        return -np.inf

    best, runs = multistart(
        [LBFGS()], problem(nowhere), starts(0.0, 1.0), more=lambda count: pytest.fail("asked for more")
    )
    assert best.status is Status.NOT_FINITE
    assert all(r.reason for r in runs)


def test_runs_that_blow_up_do_not_win():
    def cliff(u):
        return 1.0 / (1.0 - u[0]) if u[0] < 1.0 else np.nan

    def both(u):
        return cliff(u) if u[0] > 0.5 else hills(u)

    best, runs = multistart(
        [Newton(max_iterations=50)], problem(both), starts(0.1, -0.1, 0.9),
        flaw=lambda o: "" if o.value < 1e3 else "the value explodes",
    )  # fmt: skip
    assert best.value < 10
    assert best.converged
    assert len(runs) == 3


def test_optima_are_the_same_up_to_the_fingerprint():
    """The sign of the point is only a name."""

    def symmetric(u):
        return -((u[0] ** 2 - 1.0) ** 2)

    args = [Newton()], problem(symmetric), starts(-0.5, 0.9, 1.2)
    best, runs = multistart(*args, fingerprint=np.abs)
    assert best.point[0] == pytest.approx(-1.0, abs=1e-4)  # the first start's name
    assert {r.number for r in runs if r.number is not None} == {0}
    _, told_apart = multistart(*args)
    assert {r.number for r in told_apart if r.number is not None} == {0, 1}


@pytest.mark.parametrize("after", [1, 3, 8, 12])
def test_an_interrupt_returns_the_best_point_so_far(after):
    calls = []

    def observe(iteration, value):
        calls.append(value)
        if len(calls) == after:
            raise KeyboardInterrupt

    best, runs = search([-6.8, 6.8, 0.9, 1.1, -0.9], short=2, observe=observe, least=5)
    assert best.status is Status.INTERRUPTED
    assert best.value >= max(calls) - 1e-9
    assert "Interrupted" in best.message
    assert runs


def test_an_interrupt_of_a_fingerprint_returns_the_best_point_so_far():
    def fingerprint(point):
        raise KeyboardInterrupt

    best, _ = search([0.3, 0.2], fingerprint=fingerprint)
    assert best.status is Status.INTERRUPTED
    assert best.value > 2.9


def test_nothing_follows_a_hopeless_optimum():
    algorithms = [Newton(max_iterations=1), LBFGS()]
    assert run_sequence(algorithms, problem(), np.array([0.9])).method == f"{Newton.title}, then {LBFGS.title}"
    stopped = run_sequence(algorithms, problem(), np.array([0.9]), hopeless=lambda o: "no")
    assert stopped.method == Newton.title
    assert stopped.status is Status.MAX_ITERATIONS
