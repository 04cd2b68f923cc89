"""Every structure against enumeration: value, gradient, posteriors, mode, Deterministics, units. No compiler."""

import pytest

from exactness import check
from grammar import Built
from structures import STRUCTURES, build, near_start


@pytest.mark.parametrize("name", STRUCTURES)
def test_equal_to_enumeration(name):
    model, domains = build(name)
    found = check(Built(model, domains, near_start(model)))
    assert {item.name for item in found.tables.structure.latents} == set(domains)
