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
from pm_mlem.objective.verify import verify_plan
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
