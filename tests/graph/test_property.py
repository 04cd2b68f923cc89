"""Random models from a grammar (``grammar.py``): everything the graph room says about them against enumeration."""

import itertools
import os
import random
from collections import Counter
from functools import cache

import numpy as np
import pytensor
import pytest
from hypothesis import HealthCheck, Phase, event, given, note, seed, settings

import pm_mlem as mlem
from brute_force import enumerate_exactly
from exactness import check
from grammar import build, programs, write_program
from in_one_piece import evaluated
from pm_mlem.graph.read import read
from pm_mlem.graph.tables.tabulate import check_informed
from pm_mlem.objective.engine import engine_for

pytest.importorskip("pymc_extras")

SETTINGS = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
REFUSED_AT_MOST = 0.05
MANY = int(os.environ.get("RANDOM_MODELS", "0"))


def spread(starts):
    """Seeds; all but the first are studies."""
    return pytest.mark.parametrize("start", [pytest.param(s, marks=[pytest.mark.slow] * (s > 0)) for s in starts])


def study(number: int, start: int) -> Counter:
    """Check many programs; returns how many were checked and why some were refused."""
    outcomes = Counter()

    @seed(start)
    @settings(SETTINGS, max_examples=number)
    @given(programs())
    def property_(source):
        note(source)
        try:
            found = check(build(source))
        except mlem.UnsupportedModelError as refusal:
            event("refused")
            outcomes[f"refused: {refusal}"] += 1
            return
        outcomes["checked"] += 1
        outcomes.update(f"not reported: {reason}" for reason in found.tables.skipped.values())

    with pytensor.config.change_flags(traceback__limit=0):
        property_()
    return outcomes


def report(outcomes: Counter) -> None:
    refused = sum(n for reason, n in outcomes.items() if reason.startswith("refused"))
    total = refused + outcomes["checked"]
    assert refused <= REFUSED_AT_MOST * total, "\n".join(f"{n} x {reason}" for reason, n in outcomes.most_common(20))


@spread(range(8))
def test_random_models_equal_their_enumeration(start):
    report(study(40, start))


@cache
def informed_programs(n: int = 10) -> list[str]:
    """Programs whose parameters all enter the likelihood."""
    found = []
    for start in itertools.count():
        source = write_program(random.Random(start).randrange)
        try:
            check_informed(read(build(source).model))
        except mlem.UnsupportedModelError:
            continue
        found.append(source)
        if len(found) == n:
            return found


@pytest.mark.compiled
@pytest.mark.parametrize("number", [pytest.param(i, marks=[pytest.mark.slow] * (i > 4)) for i in range(10)])
def test_lowered_to_jax(number):
    """A few through everything that a fit evaluates: unconstrained space, JAX, the report."""
    import jax

    built = build(informed_programs()[number])
    engine = engine_for(built.model, "mle")
    objective = engine.objective
    space, rng = objective.space, np.random.default_rng(number)
    u = space.initial + 0.3 * rng.normal(size=space.size)
    direction = rng.normal(size=space.size)
    constrained, tangent = jax.jvp(space.constrain, (u,), (direction,))
    exact = enumerate_exactly(
        built.model, built.domains, dict(zip(space.names, map(np.asarray, constrained), strict=True))
    )

    found = evaluated(engine, u)
    assert found.value == pytest.approx(exact.log_likelihood, abs=1e-8)
    slope = sum(float(np.sum(exact.gradient[name] * t)) for name, t in zip(space.names, tangent, strict=True))
    assert found.gradient @ direction == pytest.approx(slope, rel=1e-7, abs=1e-7)

    for item in objective.tables.structure.latents:
        of_item = exact.posterior(item.name, item.lower, item.states)
        np.testing.assert_allclose(found.latents[item.name], of_item, atol=1e-8)
    for name in {d.name for d in objective.tables.derived}:
        np.testing.assert_allclose(found.estimands[name], exact.mean(name), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.skipif(not MANY, reason="half an hour: `make study` runs it, or RANDOM_MODELS=10000 in the environment")
@spread(range(100, 110))
def test_many_random_models_equal_their_enumeration(start):
    report(study(MANY // 10, start))
