"""Latents that hang together in the same way share one recursion."""

import numpy as np
import pytensor.tensor as pt
import pytest
from pytensor.graph.traversal import ancestors

from pm_mlem.graph.elimination import alike
from pm_mlem.graph.elimination.pieces import Piece, Vector, View
from pm_mlem.graph.ops.operations import WindowLogZ
from pm_mlem.graph.read import read
from structures import build


def recursions(tables):
    nodes = {v.owner for v in ancestors(tables.elimination.units) if v.owner is not None}
    return sum(isinstance(node.op, WindowLogZ) for node in nodes)


@pytest.mark.parametrize("name, count", [("loop_of_chains_of_different_lengths", 1), ("hidden_markov", 1)])
def test_one_recursion_for_chains_that_differ_in_length(name, count):
    tables = read(build(name)[0])
    assert recursions(tables) == count
    latents = {item.name for item in tables.structure.latents if item.name.startswith("z")}
    assert {n for step in tables.elimination.steps if step.how != "plate" for n in step.latents} == latents


def chain(name, states, size, factor):
    """A chain with tables of its own: steps and emissions."""
    vector, rows = Vector(name, states, size), np.arange(size)
    views = View(vector, rows[:-1]), View(vector, rows[1:])
    steps = Piece(pt.tensor(shape=(states, states, 1)), views, size - 1, {factor: rows[:-1]})
    emissions = Piece(pt.tensor(shape=(states, size)), (View(vector, rows),), size, {factor + 1: rows})
    return vector, [steps, emissions]


def test_groups_are_alike_by_states_and_tables():
    a, first = chain("a", 2, 4, 0)
    b, second = chain("b", 2, 6, 2)
    c, third = chain("c", 3, 4, 4)
    found = alike.merge([*first, *second, *third], [a, b, c])
    assert sorted(p.rows for p in found) == [3, 4, 8, 10]
    merged = next(p for p in found if p.rows == 10)
    assert merged.views[0].vector.names == ("a", "b")
    np.testing.assert_array_equal(merged.views[0].address, np.arange(10))
    assert alike.merge([*first, *third], [a, c]) is None
    assert alike.merge([*first, second[1]], [a, b]) is None


def test_tables_that_would_be_written_out_are_left_alone(monkeypatch):
    monkeypatch.setattr(alike, "LARGEST_COPY", 10)
    a, first = chain("a", 2, 4, 0)
    b, second = chain("b", 2, 6, 2)
    assert alike.merge([*first, *second], [a, b]) is None
