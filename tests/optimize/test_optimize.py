"""The optimizers on plain functions with known maxima: no PyMC here."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from pm_mlem.optimize import EM, LBFGS, Adam, EMMaps, Newton, Problem, Status, run
from pm_mlem.optimize.curvature import sizes_of, spectrum
from pm_mlem.optimize.multistart import Start, multistart
from pm_mlem.optimize.truncated import TruncatedNewton


@dataclass(frozen=True)
class Plain:
    name: str
    value: object
    gradient: object
    hessian: object
    start: np.ndarray
    maximum: np.ndarray

    def problem(self):
        return Problem(
            lambda u: (self.value(u), self.gradient(u)),
            lambda u: (self.value(u), self.gradient(u), self.hessian(u)),
            products=lambda u, d: self.hessian(u) @ d,
        )


A = np.array([[3.0, 1.0], [1.0, 2.0]])
CENTRE = np.array([1.0, -2.0])


def rosenbrock(u):
    return -((1 - u[0]) ** 2) - 100 * (u[1] - u[0] ** 2) ** 2


def rosenbrock_gradient(u):
    x, y = u
    return np.array([2 * (1 - x) + 400 * x * (y - x**2), -200 * (y - x**2)])


def rosenbrock_hessian(u):
    x, y = u
    return np.array([[-2 - 1200 * x**2 + 400 * y, 400 * x], [400 * x, -200.0]])


def bounded(u):
    """log(1 - u^2): minus infinity outside the interval."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.sum(np.where(np.abs(u) < 1, np.log(1 - u**2), -np.inf)))


def saddle(u):
    """Maxima at (+-1, 0), a saddle at the origin."""
    return -((u[0] ** 2 - 1) ** 2) - u[1] ** 2


PROBLEMS = [
    Plain(
        "quadratic",
        lambda u: -0.5 * (u - CENTRE) @ A @ (u - CENTRE),
        lambda u: -A @ (u - CENTRE),
        lambda u: -A,
        np.zeros(2),
        CENTRE,
    ),
    Plain("rosenbrock", rosenbrock, rosenbrock_gradient, rosenbrock_hessian, np.array([-1.2, 1.0]), np.ones(2)),
    Plain(
        "bounded",
        bounded,
        lambda u: -2 * u / (1 - u**2),
        lambda u: np.diag(-2 * (1 + u**2) / (1 - u**2) ** 2),
        np.array([0.99]),
        np.zeros(1),
    ),
]


@pytest.mark.parametrize("algorithm", [Newton(), LBFGS(), TruncatedNewton()], ids=lambda a: a.title)
@pytest.mark.parametrize("plain", PROBLEMS, ids=lambda p: p.name)
def test_finds_the_maximum(algorithm, plain):
    optimum = run(algorithm, plain.problem(), plain.start)
    assert optimum.status is Status.CONVERGED, optimum.message
    np.testing.assert_allclose(optimum.point, plain.maximum, atol=1e-4)
    assert optimum.history[0] == pytest.approx(plain.value(plain.start))
    assert optimum.value == optimum.history[-1]


def test_adam_finds_the_maximum():
    optimum = run(Adam(), PROBLEMS[0].problem(), PROBLEMS[0].start)
    np.testing.assert_allclose(optimum.point, CENTRE, atol=1e-3)


def test_newton_leaves_a_saddle():
    problem = Problem(
        lambda u: (saddle(u), None),
        lambda u: (
            saddle(u),
            np.array([-4 * u[0] * (u[0] ** 2 - 1), -2 * u[1]]),
            np.diag([-12 * u[0] ** 2 + 4, -2.0]),
        ),
    )
    optimum = run(Newton(), problem, np.zeros(2))
    assert optimum.converged
    assert abs(optimum.point[0]) == pytest.approx(1, abs=1e-4)


def halving(u):
    """A fixed-point map with linear rate 1/2 to 3, and the objective -(u - 3)^2."""
    return 3 + 0.5 * (u - 3), -float(np.sum((u - 3) ** 2))


def em_problem(mapping):
    return Problem(lambda u: (np.nan, u), lambda u: (np.nan, u, np.eye(len(u))), EMMaps(mapping))


ACCELERATED = pytest.mark.parametrize("accelerate", [None, "squarem", "anderson"])


@ACCELERATED
def test_em_stops_by_the_distance_and_not_by_the_last_gain(accelerate):
    em = EM(tolerance=1e-10, accelerate=accelerate)
    optimum = run(em, em_problem(halving), np.array([10.0]))
    assert optimum.converged
    assert abs(optimum.point[0] - 3) < 1e-4
    slow = run(replace(em, tolerance=1e-6), em_problem(lambda u: (3 + 0.999 * (u - 3), halving(u)[1])), np.array([3.1]))
    assert -slow.value < 1e-4  # a rule on the last gain would have stopped at once


def linear_map(slowest, n=12, seed=0):
    """A map that contracts by different rates along different directions towards the maximum of a quadratic, at 0."""
    rng = np.random.default_rng(seed)
    rates, weights = np.append(rng.uniform(0, slowest, n - 1), slowest), rng.uniform(1, 100, n)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))

    def mapping(u):
        c = basis.T @ u
        return basis @ (rates * c), float(-50.0 - 0.5 * np.sum(weights * c**2))

    return mapping, basis @ rng.normal(size=n)


@pytest.mark.parametrize("slowest", [0.5, 0.9, 0.99, 0.995])
def test_acceleration_climbs_and_saves_evaluations(slowest):
    mapping, start = linear_map(slowest)
    calls = {}
    for name in (None, "squarem", "anderson"):
        calls[name] = 0

        def counted(u, name=name):
            calls[name] += 1
            return mapping(u)

        optimum = run(EM(accelerate=name, tolerance=1e-9), em_problem(counted), start)
        assert optimum.converged
        assert -50.0 - optimum.value < 1e-6
        assert np.all(np.diff(optimum.history) >= -1e-10)
    assert calls["anderson"] <= 25
    assert calls["squarem"] < (calls[None] if slowest > 0.5 else 1.5 * calls[None])


@ACCELERATED
def test_extrapolation_out_of_the_support_falls_back(accelerate):
    """Far from its limit the map promises more than there is: beyond 3 the value is not finite."""

    def mapping(u):
        inside = u[0] < 3.0
        return np.array([u[0] + 0.01 * (3 - u[0])]), float(-((u[0] - 2.99) ** 2)) if inside else np.nan

    optimum = run(EM(accelerate=accelerate, tolerance=1e-7), em_problem(mapping), np.array([-50.0]))
    assert np.isfinite(optimum.value)
    assert np.all(np.diff(optimum.history) >= -1e-9)
    assert optimum.point[0] == pytest.approx(2.99, abs=0.02)


def test_variants_of_em_are_checked():
    for wrong, text in [
        ({"accelerate": "fast"}, "accelerate='fast' is unknown"),
        ({"kind": "firm"}, "kind='firm' is unknown"),
        ({"anneal": 1.5}, "a number between 0 and 1"),
        ({"anneal": 0}, "a number between 0 and 1"),
        ({"anneal": [0.5, -0.2]}, "positive inverse"),
        ({"anneal": 0.5, "kind": "hard"}, "belongs to kind"),
        ({"draws": 1, "kind": "stochastic"}, "at least 2"),
    ]:
        with pytest.raises(ValueError, match=text):
            EM(**wrong)


@ACCELERATED
def test_em_rejects_a_step_down(accelerate):
    optimum = run(EM(accelerate=accelerate), em_problem(lambda u: (u + 1, -float(u[0] ** 2))), np.array([-0.25]))
    assert optimum.status is Status.STALLED
    assert optimum.value == pytest.approx(-0.0625)
    assert "rejected" in optimum.message


def test_iteration_limit_says_how_much_is_left():
    optimum = run(EM(accelerate=None), em_problem(halving), np.array([10.0]), max_iterations=3)
    assert optimum.status is Status.MAX_ITERATIONS
    assert optimum.iterations == 3
    assert "still rising by about" in optimum.message


def test_not_finite_at_the_start():
    optimum = run(Newton(), PROBLEMS[2].problem(), np.array([1.5]))
    assert optimum.status is Status.NOT_FINITE


def test_interruption_returns_the_best_point():
    calls = []

    def interrupting(u):
        calls.append(u)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return halving(u)

    optimum = run(EM(), em_problem(interrupting), np.array([10.0]))
    assert optimum.status is Status.INTERRUPTED
    assert optimum.value == max(optimum.history)


def test_stalled_line_search_is_reported():
    """A gradient of the wrong sign: no step improves."""
    wrong = Problem(lambda u: (-float(u @ u), 2 * u), lambda u: (-float(u @ u), 2 * u, -2 * np.eye(1)))
    assert run(LBFGS(), wrong, np.ones(1)).status is Status.STALLED
    assert run(Newton(), wrong, np.ones(1)).status is Status.STALLED


def two_hills(u):
    return float(np.log(np.exp(-((u[0] + 2) ** 2)) + 2 * np.exp(-((u[0] - 2) ** 2))))


def two_hills_problem():
    def first(u, h=1e-6):
        return np.array([(two_hills(u + h) - two_hills(u - h)) / (2 * h)])

    def second(u, h=1e-4):
        return np.array([[(two_hills(u + h) - 2 * two_hills(u) + two_hills(u - h)) / h**2]])

    return Problem(lambda u: (two_hills(u), first(u)), lambda u: (two_hills(u), first(u), second(u)))


def test_multistart_keeps_the_best_and_sets_flawed_optima_aside():
    starts = [Start("left", np.array([-2.5])), Start("right", np.array([1.5]))]
    best, runs = multistart([Newton()], two_hills_problem(), starts)
    assert best.point[0] == pytest.approx(2, abs=1e-3)
    assert len(runs) == 2
    best, runs = multistart(
        [Newton()], two_hills_problem(), starts, flaw=lambda o: "right is forbidden" if o.point[0] > 0 else ""
    )
    assert best.point[0] == pytest.approx(-2, abs=1e-3)
    assert [r.reason for r in runs] == ["", "right is forbidden"]


def test_among_equal_optima_the_first_start_wins():
    def symmetric(u):
        return -((u[0] ** 2 - 1) ** 2)

    problem = Problem(
        lambda u: (symmetric(u), np.array([-4 * u[0] * (u[0] ** 2 - 1)])),
        lambda u: (symmetric(u), np.array([-4 * u[0] * (u[0] ** 2 - 1)]), np.array([[-12 * u[0] ** 2 + 4]])),
    )
    starts = [Start("minus", np.array([-0.5])), Start("plus", np.array([0.9]))]
    best, _ = multistart([Newton()], problem, starts, short=1)
    assert best.point[0] == pytest.approx(-1, abs=1e-5)


def test_newton_stops_on_a_boundary():
    """The maximum lies at infinity: 3 of 3 successes on the log-odds scale."""

    def derivatives(u):
        p = 1 / (1 + np.exp(-u[0]))
        return 3 * np.log(p), np.array([3 * (1 - p)]), np.array([[-3 * p * (1 - p)]])

    optimum = run(Newton(), Problem(lambda u: derivatives(u)[:2], derivatives), np.zeros(1))
    assert optimum.status is Status.CONVERGED
    assert optimum.value == pytest.approx(0.0, abs=1e-6)


# --- coordinates without units ----------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [Newton(), LBFGS(), TruncatedNewton()], ids=lambda a: a.title)
def test_units_change_nothing(algorithm):
    """Coordinates in other units: as many iterations, the same value, the same point in its units."""
    units = np.array([1e8, 1e-8])

    def problem(scale):
        return Problem(
            lambda u: (rosenbrock(u / scale), rosenbrock_gradient(u / scale) / scale),
            lambda u: (
                rosenbrock(u / scale),
                rosenbrock_gradient(u / scale) / scale,
                rosenbrock_hessian(u / scale) / np.outer(scale, scale),
            ),
            products=lambda u, d: rosenbrock_hessian(u / scale) @ (d / scale) / scale,
        )

    start = np.array([-1.2, 1.0])
    plain, other = run(algorithm, problem(np.ones(2)), start), run(algorithm, problem(units), start * units)
    assert plain.converged and other.converged
    assert other.iterations == plain.iterations
    np.testing.assert_allclose(other.point / units, plain.point, rtol=1e-5)


def test_sizes_follow_the_units_of_any_symmetric_matrix():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 4))
    matrix = matrix + matrix.T
    units = 10.0 ** np.array([-8, 3, 0, 8])
    found = sizes_of(matrix * np.outer(units, units)) / units
    np.testing.assert_allclose(found, sizes_of(matrix), rtol=0.2)
    rows = np.max(np.abs(matrix) / np.outer(found, found), axis=1)
    assert np.all((rows > 0.5) & (rows < 2.0))


def test_small_curvature_is_computed_along_its_own_direction():
    """Columns that differ by 1e-9 of their length: the sums of squares lose the difference, a direction does not."""
    rng = np.random.default_rng(1)
    first, extra = rng.normal(size=(2, 200))
    design = np.column_stack([first, first + 1e-9 * extra])
    matrix = design.T @ design
    found = spectrum(matrix, lambda d: -design.T @ (design @ d), sizes_of(matrix))
    assert not found.flat.any()
    rest = extra - first * (first @ extra) / (first @ first)
    expected = 0.5 * (1e-9 * np.linalg.norm(rest) / np.linalg.norm(first)) ** 2
    assert found.values.min() == pytest.approx(expected, rel=1e-5)
    same = np.column_stack([first, first])
    assert spectrum(same.T @ same, lambda d: -same.T @ (same @ d), sizes_of(same.T @ same)).flat.sum() == 1
