"""Every plan is checked before it is used: a wrong sum must never be maximised.

At a random point and a random configuration of the latents (:func:`points`),

1. every term's array, read at that configuration, equals PyMC's own log-density of the variable;
2. the sum over the latents, with all but that configuration made impossible, equals the sum of the arrays read at
   it (the components of built-in mixtures stay summed; PyMC's own mixture density takes their place);
3. independent units share no latent;
4. the compiled objective equals the sum without that restriction, and its slope its differences.

A plan that is wrong is wrong almost everywhere, but a right one may fail at a point where numbers run out of digits (a
survival probability of 1e-16, say). So where a check fails, others of the points are tried, and it counts only if it
fails at all of them. Nothing is compiled: PyTensor evaluates the graphs node by node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymc.logprob.utils import ParameterValueError
from pytensor.compile.mode import Mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.lift import Lifted
from pm_mlem.graph.ops.function import function
from pm_mlem.graph.roles.densities import log_density, unscaled
from pm_mlem.graph.roles.structure import PLAIN, ModelStructure
from pm_mlem.graph.tables.model_tables import DensityTerm, ModelTables

IMPOSSIBLE = -1e8
REWRITTEN = Mode("py", "fast_compile")
TRIES = 3
"""Configurations of the latents at which a plan is checked."""
SCALES = (0.1, 0.1, 0.5, 0.02, 1.0, 2.0)
"""How far from the initial point, in unconstrained coordinates, the points are where a plan is checked."""
MANY = 10_000
"""Latent elements of which one configuration shows every combination that occurs many times over."""


@dataclass(frozen=True)
class Point:
    """Where a plan is checked: parameters by name and the state of every element of every vector of latents."""

    values: Mapping[str, np.ndarray]
    states: Sequence[np.ndarray]


class Mismatch(Exception):
    """A check failed at one point; the message says what was found and what should be."""


class SlopeMismatch(UnsupportedModelError):
    """The log-density is right, its derivatives are not."""


def points(initial: np.ndarray) -> Iterator[np.ndarray]:
    """Where plans are checked, one after the other: near a model's initial point, then further from it."""
    rng = np.random.default_rng(7)
    for scale in SCALES:
        yield initial + rng.normal(scale=scale, size=len(initial))


def verify_plan(tables: ModelTables, values: Mapping[str, np.ndarray], seed: int = 0) -> float:
    """Check the lifted densities and the sum over the latents.

    Parameters
    ----------
    tables : the plan
    values : constrained values of the free parameters

    Returns
    -------
    float
        The log-likelihood at these values, plus the log-prior where the plan has one.

    Raises
    ------
    Mismatch
        A check fails at these values.
    """
    rng = np.random.default_rng(seed)
    arrays = evaluate_densities(tables, values)
    compare_terms = term_checks(tables)
    partition = partition_of(tables)
    zeros = [np.zeros(p.shape) for p in tables.probes]
    probed = {p.name for p in tables.probes}
    free = [v.name in probed and not is_component(tables, i) for i, v in enumerate(tables.structure.vectors)]
    elements = sum(v.n_elements for v in tables.structure.vectors)
    for _ in range(TRIES if 0 < elements < MANY else 1):
        point = Point(values, [rng.integers(v.states, size=v.n_elements) for v in tables.structure.vectors])
        read = [at_states(a, d.lifted, tables, point) for a, d in zip(arrays, tables.densities, strict=True)]
        own = compare_terms(point, read)
        if not all(f or is_component(tables, i) for i, f in enumerate(free)):
            continue  # a latent without a probe cannot be held
        held = [clamp(p, tables, point, free) for p in tables.probes]
        total = sum(float(np.sum(v)) for v in partition(arrays, held))
        expected = own + sum(
            float(np.sum(r)) for r, d in zip(read, tables.densities, strict=True) if not of_mixture(d, tables)
        )
        if expected > IMPOSSIBLE / 2 and not close(total, expected):
            raise Mismatch(
                f"with the latents held at one configuration their sum is {total!r}, the log-density {expected!r}"
            )
    with_latents = 0.0 if tables.mixed is None else evaluate(tables, tables.mixed.total, values)  # it is in both
    return (
        sum(float(np.sum(v)) for v in partition(arrays, zeros))
        + evaluate(tables, tables.log_prior, values)
        - with_latents
    )


def verify_objective(
    value_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray | None]],
    references: Iterable[tuple[np.ndarray, float]],
) -> None:
    """Check the compiled objective: its value, and its slope along a random direction.

    Parameters
    ----------
    value_and_gradient : ``u -> (value, gradient or None)``
    references : points and the objective there; the checks have to hold at one of them

    Raises
    ------
    SlopeMismatch
        The values are right, the slopes are wrong at all points.
    UnsupportedModelError
        The values are wrong: a bug of this package.
    """
    wrong, slopes = "", ""
    for u, expected in references:
        value, gradient = value_and_gradient(u)
        if np.isfinite(expected) and not close(value, expected):
            wrong = wrong or f"the compiled log-density is {value!r}, the sum over the latents {expected!r}"
            continue
        problem = "" if gradient is None or not np.isfinite(value) else slope_problem(value_and_gradient, u)
        if not problem:
            return
        slopes = slopes or problem
    if slopes:
        raise SlopeMismatch(
            f"pm_mlem failed its own check of this model's derivatives: {slopes}. Fit with "
            "method='lbfgs', which finds that out before it starts and forms them by differences."
        )
    raise bug(wrong)


def slope_problem(value_and_gradient: Callable, u: np.ndarray) -> str:
    """What is wrong with the slope at a point."""
    value, gradient = value_and_gradient(u)
    direction = np.random.default_rng(1).normal(size=len(u))
    step = 1e-5
    ends = [value_and_gradient(u + s * step * direction)[0] for s in (1.0, -1.0)]
    difference, slope = (ends[0] - ends[1]) / (2 * step), float(gradient @ direction)
    scale = abs(difference) + abs(slope) + 1e-9 * abs(value) / step + 1.0
    if np.isfinite(difference) and not abs(difference - slope) <= 0.01 * scale:
        return f"the slope of the compiled log-density is {slope!r}, its differences say {difference!r}"
    return ""


def close(a: float, b: float) -> bool:
    """Equal up to rounding; some of PyMC's constants are only single precision."""
    return bool(a == b or abs(a - b) <= 1e-5 * (1.0 + abs(a) + abs(b)))


def bug(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"pm_mlem failed its own check of this model: {what}. This is a bug in pm_mlem, not in the model, and nothing "
        "was estimated. Please report it together with the model."
    )


# --- reading arrays at a configuration --------------------------------------------------------------------


def evaluate_densities(tables: ModelTables, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    run = function(inputs, [d.array for d in tables.densities], mode=PLAIN, on_unused_input="ignore")
    with np.errstate(all="ignore"):
        return run(*[values[p.name] for p in tables.structure.free], *[a for _, a in tables.data])


def evaluate(tables: ModelTables, scalar: Variable, values: Mapping[str, np.ndarray]) -> float:
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    run = function(inputs, scalar, mode=PLAIN, on_unused_input="ignore")
    with np.errstate(all="ignore"):
        return float(run(*[values[p.name] for p in tables.structure.free], *[a for _, a in tables.data]))


def partition_of(tables: ModelTables) -> Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], list[np.ndarray]]:
    """(density arrays, probes) -> log-partition of every unit."""
    inputs = [d.input for d in tables.densities] + [p.input for p in tables.probes] + [v for v, _ in tables.data]
    run = function(inputs, list(tables.probed.units), mode=PLAIN, on_unused_input="ignore")

    def evaluate(arrays, probes):
        with np.errstate(all="ignore"):
            return run(*arrays, *probes, *[a for _, a in tables.data])

    return evaluate


def state_of_elements(tables: ModelTables, point: Point) -> np.ndarray:
    """The state of every latent element by its number; 0 at the last position, where -1 points to."""
    vectors = tables.structure.vectors
    states = np.zeros(1 + sum(v.n_elements for v in vectors), dtype=int)
    for vector, own in zip(vectors, point.states, strict=True):
        states[vector.elements] = own
    return states


def at_states(array: np.ndarray, lifted: Lifted, tables: ModelTables, point: Point) -> np.ndarray:
    """A lifted array with every slot read at the state of its element, over the full data axes."""
    full = np.broadcast_to(array, (*array.shape[: len(lifted.slots)], *lifted.shape))
    if not lifted.slots:
        return full
    states = state_of_elements(tables, point)
    index = [np.broadcast_to(states[s.address], lifted.shape) for s in lifted.slots]
    return full[(*index, *np.indices(lifted.shape, sparse=True))]


def clamp(probe, tables: ModelTables, point: Point, free: Sequence[bool]) -> np.ndarray:
    """A probe's table that leaves its latents one state."""
    for i, vector in enumerate(tables.structure.vectors):
        if vector.name == probe.name and free[i]:
            table = np.full(probe.shape, IMPOSSIBLE)
            table[point.states[i], np.arange(vector.n_elements)] = 0.0
            return table
    return np.zeros(probe.shape)


# --- PyMC's own densities ---------------------------------------------------------------------------------


def is_component(tables: ModelTables, vector: int) -> bool:
    """Whether a vector is the hidden component of a built-in mixture."""
    latents = tables.structure.latents
    return any(latents[i].mixture is not None for i in tables.structure.vectors[vector].latents)


def of_mixture(density: DensityTerm, tables: ModelTables) -> bool:
    """Whether a term is part of a built-in mixture: of its component, or of its emissions."""
    hidden = [item for item in tables.structure.latents if item.mixture is not None]
    names = {item.mixture for item in hidden} | {item.name for item in hidden}
    return density.term.name in names


def term_checks(tables: ModelTables) -> Callable[[Point, Sequence[np.ndarray]], float]:
    """Compares the arrays with PyMC's densities; returns the log-density of the built-in mixtures."""
    structure = tables.structure
    expected: list[tuple[str | None, Variable]] = []
    mixed = () if tables.mixed is None else tables.mixed.densities
    for term in [*structure.terms, *[d.term for d in mixed]]:
        if any(d.term is term and of_mixture(d, tables) for d in tables.densities):
            continue
        expected += [(name, density) for name, density in member_densities(term, structure)]
    mixtures = [rv for rv in structure.stand_ins if rv.name in {item.mixture for item in structure.latents}]
    own = [log_density(unscaled(rv), structure.stand_ins[rv], structure.stand_ins) for rv in mixtures]
    inputs = {
        v: rv
        for rv, value in structure.stand_ins.items()
        for v in (rv, value)
        if not isinstance(v, Constant | SharedVariable)
    }
    outputs = [density.sum() for _, density in expected] + [density.sum() for density in own]
    run = as_pymc(list(inputs), outputs)

    def compare(point: Point, read: Sequence[np.ndarray]) -> float:
        given = {rv: variable_value(rv, tables, point) for rv in structure.stand_ins}
        with np.errstate(all="ignore"):
            results = run([np.asarray(given[rv], dtype=v.type.dtype) for v, rv in inputs.items()])
        for (name, _), result in zip(expected, results, strict=False):
            value = float(result)
            found = 0.0
            for density, array in zip(tables.densities, read, strict=True):
                if name in density.term.members:
                    start, shape = density.part_of(name)
                    found += float(np.sum(np.ravel(array)[start : start + int(np.prod(shape, dtype=np.int64))]))
            if not np.isnan(value) and not np.isnan(found) and not close(found, value):
                raise Mismatch(
                    f"at one configuration of the latents the log-density of '{name}' is {found!r}, PyMC's {value!r}"
                )
        return float(sum(results[len(expected) :]))

    return compare


def as_pymc(inputs: list[Variable], outputs: list[Variable]) -> Callable[[list], list]:
    """The graphs node by node, or, where a node cannot be evaluated as it stands, rewritten as PyMC would."""
    runs = [function(inputs, outputs, mode=PLAIN, on_unused_input="ignore")]

    def run(arguments):
        try:
            return runs[-1](*arguments)
        except ParameterValueError:  # no parameters of the distribution: nothing to compare with
            return [np.nan] * len(outputs)
        except Exception:
            if len(runs) > 1:
                raise
            runs.append(function(inputs, outputs, mode=REWRITTEN, on_unused_input="ignore"))
            return run(arguments)

    return run


def member_densities(term, structure: ModelStructure):
    """PyMC's density of a term, or of some members of a family."""
    if term.family is None:
        yield term.name, term.density
        return
    members = term.family.variables
    for variable in dict.fromkeys([members[0], members[len(members) // 2], members[-1]]):
        if term.rv is None:
            yield variable.name, variable
        else:
            yield variable.name, log_density(variable, structure.stand_ins[variable], structure.stand_ins)


def variable_value(rv: Variable, tables: ModelTables, point: Point) -> Any:
    """The value of a random variable at the point."""
    structure = tables.structure
    if rv.name in point.values:
        return point.values[rv.name]
    if rv.name in structure.inputs:
        return structure.inputs[rv.name][1]
    lifted = structure.leaves[rv]
    if lifted.data is None:
        raise AssertionError(f"'{rv.name}' has no value")
    return np.asarray(at_states(lifted.data, lifted, tables, point), dtype=rv.type.dtype)


# --- units ------------------------------------------------------------------------------------------------


def check_units(tables: ModelTables) -> None:
    """All rows belong to a unit, and rows that read the same latent element to the same one."""
    units_of = [np.full(v.n_elements, -1) for v in tables.structure.vectors]
    for factor, units in zip(tables.factors, tables.elimination.unit_of_row, strict=True):
        if np.any(units < 0):
            raise bug(f"rows of '{factor.term}' belong to no unit")
        for view in factor.views:
            known = units_of[view.vector]
            fresh = known[view.address] < 0
            known[view.address[fresh]] = units[fresh]
            if not np.array_equal(known[view.address], units):
                raise bug(f"units of '{factor.term}' share a latent")
