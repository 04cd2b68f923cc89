"""Copies of models with storage of their own."""

import numpy as np
import pytest

from pm_mlem.graph.read import read
from pm_mlem.graph.roles.snapshot import own_copy
from pm_mlem.graph.roles.transforms import initial_values
from pm_mlem.objective.verify import verify_plan
from structures import DIVERSE, build


@pytest.mark.parametrize("name", DIVERSE)
def test_a_copy_has_the_same_density(name):
    model, _ = build(name)
    tables, copied = read(model), read(own_copy(model))
    free = [p.name for p in tables.structure.free]
    assert [p.name for p in copied.structure.free] == free
    for own, other in zip(initial_values(tables.structure), initial_values(copied.structure), strict=True):
        np.testing.assert_array_equal(own, other)
    point = dict(zip(free, initial_values(tables.structure), strict=True))
    assert verify_plan(copied, point) == pytest.approx(verify_plan(tables, point), rel=1e-13)
