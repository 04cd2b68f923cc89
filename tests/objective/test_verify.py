"""The check of every plan: it accepts what is right (all structures) and refuses what is not."""

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem
from pm_mlem.graph.elimination import plates
from pm_mlem.graph.lift import rules_indexing
from pm_mlem.graph.read import read
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.graph.roles.transforms import initial_values
from pm_mlem.graph.tables import tabulate
from pm_mlem.objective import objective
from pm_mlem.objective.engine import Replayed
from pm_mlem.objective.verify import SlopeMismatch, points, verify_objective, verify_plan
from structures import STRUCTURES, build


@pytest.mark.parametrize("name", STRUCTURES)
def test_right_plans_pass(name):
    model, _ = build(name)
    tables = read(model, Choices(with_prior=True))
    names = [p.name for p in tables.structure.free]
    verify_plan(tables, dict(zip(names, initial_values(tables.structure), strict=True)))


def mixture():
    rng = np.random.default_rng(0)
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2), initval=[0.4, 0.6])
        mu = pm.Normal("mu", 0, 3, shape=2, initval=[-1.0, 1.0])
        z = pm.Categorical("z", w, shape=6)
        pm.Normal("y", mu[z], 1.0, observed=rng.normal(size=6))
        pm.Normal("x", mu[z[::-1]], 1.0, observed=rng.normal(size=6))
    return model


def wrong_addresses(monkeypatch):
    """An indexing rule that moves the latents' addresses the wrong way."""
    right = rules_indexing.index_address

    def wrong(slot, entries, layout):
        return np.roll(right(slot, entries, layout), 1)

    monkeypatch.setattr(rules_indexing, "index_address", wrong)


def forgotten_rows(monkeypatch):
    """A factor table that loses a term's contribution."""
    right = tabulate.factorize

    def wrong(term, *rest):
        return [] if term == "y" else right(term, *rest)

    monkeypatch.setattr(tabulate, "factorize", wrong)


def shuffled_rows(monkeypatch):
    """Rows that are added to the wrong elements."""
    right = plates.scatter_rows

    def wrong(table, address, n, context):
        return right(table, address if np.all(np.diff(address) > 0) else np.roll(address, 1), n, context)

    monkeypatch.setattr(plates, "scatter_rows", wrong)


def wrong_sum(monkeypatch):
    """A sum over the states that takes one of them twice."""
    monkeypatch.setattr(plates, "logsumexp", lambda x, axis: x.max(axis=axis) + 0.5)


def wrong_compiled(monkeypatch):
    """A compiled function that is not the graph's."""
    right = objective.lower

    def wrong(inputs, outputs, *args, **kwargs):
        run = right(inputs, outputs, *args, **kwargs)
        return lambda *values: [1.001 * v if v.dtype == float else v for v in run(*values)]

    monkeypatch.setattr(objective, "lower", wrong)


@pytest.mark.compiled
@pytest.mark.parametrize("mutant", [wrong_addresses, forgotten_rows, shuffled_rows, wrong_sum, wrong_compiled])
def test_wrong_plans_are_refused(mutant, monkeypatch):
    model = mixture()
    mutant(monkeypatch)
    with pytest.raises(mlem.UnsupportedModelError, match="bug in pm_mlem"):
        mlem.fit(model, starts=1, progressbar=False)


# --- several points -------------------------------------------------------------------------------------------


def quadratic(u, *, value=0.0, slope=1.0):
    return -float(u @ u) + value, -2.0 * slope * u


PLACES = [np.array([1.0, 2.0]), np.array([0.5, -1.0])]
REFERENCES = [(u, quadratic(u)[0]) for u in PLACES]


def test_a_check_that_holds_at_one_point_is_enough():
    def extreme(u):
        return (np.nan, u) if u[0] == 1.0 else quadratic(u)

    verify_objective(extreme, REFERENCES)


def test_slopes_that_are_wrong_everywhere_are_told_from_values():
    with pytest.raises(SlopeMismatch, match="differences"):
        verify_objective(lambda u: quadratic(u, slope=np.nan), REFERENCES)
    with pytest.raises(SlopeMismatch, match="differences"):
        verify_objective(lambda u: quadratic(u, slope=-1.0), REFERENCES)
    with pytest.raises(mlem.UnsupportedModelError, match="bug in pm_mlem") as caught:
        verify_objective(lambda u: quadratic(u, value=1.0), REFERENCES)
    assert not isinstance(caught.value, SlopeMismatch)


def test_points_are_the_same_every_time_and_evaluated_once():
    first, second = (list(points(np.zeros(3))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    asked = []
    source = Replayed(asked.append(i) or i for i in range(3))
    assert next(iter(source)) == 0
    assert asked == [0]
    assert list(source) == list(source) == [0, 1, 2]
    assert asked == [0, 1, 2]


@pytest.mark.compiled
@pytest.mark.parametrize("unit", [1.0, 3e7], ids=["years", "seconds"])
def test_times_in_any_unit(unit):
    """PyMC's survival probabilities are 0 at the initial point for times in seconds."""
    rng = np.random.default_rng(3)
    times, ends = rng.weibull(1.5, 60), rng.uniform(0.3, 2, 60)
    with pm.Model() as model:
        alpha, beta = pm.HalfNormal("alpha", 2), pm.HalfNormal("beta", 2)
        observed = unit * np.minimum(times, ends)
        pm.Censored("t", pm.Weibull.dist(alpha, beta), None, unit * ends, observed=observed)
    fit = mlem.fit(model, starts=1, progressbar=False)
    assert fit.converged
    deaths = np.sum(times <= ends)
    a, b = fit.estimates["alpha"].item(), fit.estimates["beta"].item()
    scaled = observed / b  # the likelihood equations of a censored Weibull sample
    assert np.sum(scaled**a) == pytest.approx(deaths, rel=1e-5)
    slope = deaths / a + np.sum(np.log(scaled)[times <= ends]) - np.sum(scaled**a * np.log(scaled))
    assert slope == pytest.approx(0.0, abs=1e-4)
