"""One model, analysed and lowered once; compiled functions are shared by all fits of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from threading import Lock
from typing import Literal
from weakref import WeakKeyDictionary

import jax
import numpy as np
import pymc as pm

from pm_mlem.graph.ops.function import function
from pm_mlem.graph.read import PLAINLY, read
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.graph.roles.rebuild import LOCK
from pm_mlem.graph.roles.snapshot import constants, digest, snapshot
from pm_mlem.graph.roles.structure import PLAIN
from pm_mlem.graph.roles.transforms import initial_values
from pm_mlem.graph.tables.counts import NEGLIGIBLE, Bounds, bounds_of, counts, edges, growth, tails
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.graph.tables.tabulate import check_informed
from pm_mlem.objective.compiled_refit import refitting
from pm_mlem.objective.lowering.lower import Backend, NotLowered
from pm_mlem.objective.m_step import (
    MStepPlan,
    Restraint,
    em_map,
    hard_map,
    penalty_of,
    plan_of,
    projection,
    q_function,
    restrained,
    stochastic_map,
    tempered_map,
)
from pm_mlem.objective.objective import Estimator, Objective, build_objective, data_of
from pm_mlem.objective.readout import Readout, build_readout
from pm_mlem.objective.verify import Mismatch, bug, check_units, points, verify_objective, verify_plan
from pm_mlem.objective.watches import Inspector


@dataclass(frozen=True, eq=False)
class Engine:
    """The compiled functions of one model under one estimator."""

    objective: Objective
    data: tuple
    """The data that the model was read with, for the objective's functions."""
    choices: Choices
    """How the model was read."""
    backend: Backend = "jax"
    """Who was asked to evaluate it; that of the objective is who does."""
    restraint: Restraint | None = None
    note: str = ""
    plan: MStepPlan | None = None
    """The M-step, where scales are held; otherwise it is found when it is needed."""
    verified: set[str] = field(default_factory=set)
    """The compiled functions that were checked."""

    @property
    def estimator(self) -> Estimator:
        return self.objective.estimator

    @cached_property
    def references(self) -> Replayed:
        """Points and the objective there, evaluated and checked when they are asked for."""
        return Replayed(self.checked_points())

    def check_plan(self) -> None:
        """Check the plan, compiled functions apart.

        Raises
        ------
        UnsupportedModelError
            A check fails at all points: a bug of this package.
        """
        next(iter(self.references))

    def checked_points(self) -> Iterator[tuple[np.ndarray, float]]:
        """Points and the objective there, evaluated and checked without what is compiled (see ``verify.py``).

        Those where it is finite come first.

        Raises
        ------
        UnsupportedModelError
            A check fails at all points: a bug of this package.
        """
        space, tables, penalty = self.objective.space, self.objective.tables, self.objective.penalty
        check_units(tables)
        failed, late = "", []
        for u in points(space.initial):
            try:
                value = verify_plan(tables, space.values(u))
            except Mismatch as mismatch:
                failed = failed or str(mismatch)
                continue
            if not np.isfinite(value):
                late.append((u, value))
                continue
            failed = ""
            late = []
            yield u, value if penalty is None else value + float(penalty(space.constrain(u)))
        if failed:
            raise bug(failed)
        yield from late

    def verify(self, name: Literal["em_map", "value_and_gradient", "derivatives"]) -> None:
        """Check a compiled function against the reference before its first use.

        Raises
        ------
        UnsupportedModelError
            A check fails: a bug of this package.
        """
        if name in self.verified:
            return
        objective = self.objective
        unit = np.ones(objective.n_units)

        def evaluate(v):
            if name == "em_map":
                return float(self.em_map(v, unit, self.data, objective.no_posterior, False)[1]), None
            value, gradient, *_ = getattr(objective, name)(v, unit, self.data)
            return float(value), np.asarray(gradient)

        verify_objective(evaluate, self.references)
        self.verified.add(name)

    @cached_property
    def readout(self) -> Readout:
        return build_readout(self.objective)

    def neglected(self, u: np.ndarray) -> dict[str, float]:
        """For each count without an upper bound how much probability the enumeration leaves out at a point."""
        tables = self.objective.tables
        if not counts(tables):
            return {}
        above = tails(tables, list(self.objective.space.values(u).values()))
        latents = self.readout.evaluate(u, self.data)[1]
        pressing = edges(tables, dict(zip(self.readout.latent_names, map(np.asarray, latents), strict=True)))
        return {name: max(above[name], pressing[name]) for name in above}

    def larger_bounds(self, u: np.ndarray) -> Bounds:
        """Bounds for all counts, if some have to grow at a point and can; otherwise none."""
        tables = self.objective.tables
        grown = growth(tables, self.neglected(u)) if counts(tables) else {}
        return {**bounds_of(tables), **grown} if grown else {}

    def cut_off(self, u: np.ndarray) -> str:
        """A sentence about the counts whose enumeration leaves out more than it should at a point."""
        lost = {name: mass for name, mass in self.neglected(u).items() if not mass < NEGLIGIBLE}
        bounds = bounds_of(self.objective.tables)
        parts = [
            f"'{name}' was enumerated up to {bounds[name]:,}, where it has probability {lost[name]:.1g}"
            for name in lost
        ]
        return f"The counts {'; '.join(parts)}: they may have no finite optimum." if parts else ""

    @cached_property
    def inspector(self) -> Inspector:
        return Inspector(self.objective, self.data)

    @cached_property
    def m_step(self) -> MStepPlan:
        return plan_of(self.objective) if self.plan is None else self.plan

    @cached_property
    def project(self) -> Callable:
        """``u -> u`` with every scale at least at its floor."""
        return jax.jit(projection(self.m_step, self.objective.space))

    @cached_property
    def em_map(self) -> Callable:
        return jax.jit(em_map(self.objective, self.m_step))

    @cached_property
    def expected(self) -> Callable:
        """``(u, u to evaluate at, weights, data) -> Q``, plus the log-prior under "map"."""
        return jax.jit(partial(q_function, self.objective))

    @cached_property
    def refit(self) -> Callable:
        """``(start, transform, weights, data) -> (end, log-likelihood, converged, iterations)``, one compiled refit."""
        return refitting(self.objective)

    @cached_property
    def hard_map(self) -> Callable:
        return jax.jit(hard_map(self.objective, self.m_step))

    @cached_property
    def stochastic_map(self) -> Callable:
        return jax.jit(stochastic_map(self.objective, self.m_step))

    @cached_property
    def tempered_map(self) -> Callable:
        return jax.jit(tempered_map(self.objective, self.m_step))


DIFFERENCES = {
    0: "An operation of this model has no derivative: the gradient is a central difference of the log-density, and "
    "standard errors come from differences of these.",
    1: "An operation of this model has no second derivative: Hessians, and standard errors from them, are central "
    "differences of the gradient.",
    2: "",
}
"""What is said where derivatives are missing, by the number of those that are exact."""
NO_SLOPE = (
    "The derivatives that JAX and PyTensor give for this model are not those of its log-density (they differ from its "
    "differences at several points): the gradient and the Hessian are central differences of the log-density instead."
)


class Replayed:
    """An iterator that can be gone through again, as far as it has been gone through."""

    def __init__(self, source: Iterator):
        self.source, self.seen, self.lock = source, [], Lock()

    def __iter__(self) -> Iterator:
        for i in count():
            with self.lock:  # threads share it
                if i == len(self.seen):
                    try:
                        self.seen.append(next(self.source))
                    except StopIteration:
                        return
            yield self.seen[i]


ENGINES: WeakKeyDictionary[pm.Model, dict[tuple, Engine]] = WeakKeyDictionary()


def engine_for(
    model: pm.Model,
    estimator: Estimator,
    choices: Choices = PLAINLY,
    *,
    backend: Backend = "jax",
    restraint: Restraint | None = None,
) -> Engine:
    """The engine of a model, built at the first call and whenever the model or what it holds have changed."""
    choices = replace(choices, with_prior=estimator == "map")
    key = (choices, backend, restraint, fingerprint(model))
    with LOCK:
        engines = ENGINES.setdefault(model, {})
        if key not in engines:
            engine = build_engine(model, estimator, choices, backend)
            engines[key] = engine if restraint is None else with_restraint(engine, restraint)
            while len(engines) > 8:
                engines.pop(next(iter(engines)))
        return engines[key]


def build_engine(model: pm.Model, estimator: Estimator, choices: Choices, backend: Backend) -> Engine:
    tables = read(model, choices)
    if estimator == "mle" and not choices.means:
        check_informed(tables)
    if estimator == "map":
        check_held(tables)
    data = data_of(tables)
    try:
        objective, note = build_objective(tables, estimator, backend), ""
    except NotLowered as error:
        objective = build_objective(tables, estimator, "numba")
        reason = str(error).split("{")[0].rstrip(".")  # without the parameters of an Op
        note = f"JAX lacks an operation of this model ({reason}); it is evaluated by PyTensor's numba backend instead. "
    note += DIFFERENCES[objective.exact] if backend != "differences" else NO_SLOPE
    return Engine(objective, data, choices, backend, note=note.strip())


def with_restraint(engine: Engine, restraint: Restraint) -> Engine:
    """The engine with scales that are kept away from 0."""
    objective = engine.objective
    plan = restrained(plan_of(objective, joint=False), objective, restraint)
    if restraint.penalty is not None:
        objective = replace(objective, penalty=penalty_of(plan, objective.space))
    return replace(engine, objective=objective, plan=plan, restraint=restraint)


def check_held(tables: ModelTables) -> None:
    """Refuse held entries where the prior of their variable has no density.

    Raises
    ------
    ValueError
    """
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    values = [*initial_values(tables.structure), *[a for _, a in tables.data]] if tables.structure.held else []
    for term in tables.structure.priors:
        if term.name not in tables.structure.held:
            continue
        density = tables.context.symbol(tables.context.lift(term.density))
        with np.errstate(all="ignore"):
            value = function(inputs, density.sum(), mode=PLAIN, on_unused_input="ignore")(*values)
        if not np.isfinite(value):
            raise ValueError(
                f"fixed= holds entries of '{term.name}' where its prior density is 0 or infinite, so there is no MAP "
                "estimate. Give it a prior that allows these values (a Dirichlet with weight 1 at a probability that "
                "is held at 0, say), or use estimator='mle'."
            )


def fingerprint(model: pm.Model) -> tuple:
    """Everything that functions of a model depend on.

    Its variables, transforms and dims, initial values, what its shared variables hold, labels, and the arrays in its
    graphs.
    """
    variables = [*model.basic_RVs, *model.potentials, *model.deterministics]
    transforms = [model.rvs_to_transforms.get(rv) for rv in model.free_RVs]
    values = [model.rvs_to_values.get(rv) for rv in model.observed_RVs]
    starts = [model.rvs_to_initial_values.get(rv) for rv in model.free_RVs]
    return (
        tuple(map(id, variables)),
        tuple(map(id, transforms)),
        tuple(map(id, values)),
        tuple(digest(s) if isinstance(s, np.ndarray | list | float | int) else s for s in starts),
        tuple((name, tuple(dims)) for name, dims in model.named_vars_to_dims.items()),
        snapshot(model),
        constants(model),
    )
