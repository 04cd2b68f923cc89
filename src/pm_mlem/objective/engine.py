"""One model, analysed and lowered once; compiled functions are shared by all fits of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import jax
import numpy as np
import pymc as pm
from pytensor.compile.sharedvalue import SharedVariable

from pm_mlem.graph.tabulate import check_informed, read
from pm_mlem.objective.lower import Backend, NotLowered
from pm_mlem.objective.m_step import MStepPlan, em_map, recognise
from pm_mlem.objective.objective import Estimator, Objective, build_objective
from pm_mlem.objective.report import Report, build_report


@dataclass(frozen=True, eq=False)
class Engine:
    """The compiled functions of one model under one estimator."""

    objective: Objective
    note: str = ""

    @cached_property
    def report(self) -> Report:
        return build_report(self.objective)

    @cached_property
    def m_step(self) -> MStepPlan:
        return recognise(self.objective.tables, self.objective.space, self.objective.estimator)

    @cached_property
    def em_map(self) -> Callable:
        return jax.jit(em_map(self.objective, self.m_step))


ENGINES: WeakKeyDictionary[pm.Model, dict[tuple, Engine]] = WeakKeyDictionary()


def engine_for(
    model: pm.Model,
    estimator: Estimator,
    *,
    latents: Sequence[str] = (),
    fixed: Mapping[str, object] | None = None,
    backend: Backend = "jax",
) -> Engine:
    """The engine of a model, built at the first call and whenever the model or its data have changed."""
    key = (estimator, tuple(latents), fixed_key(fixed or {}), backend, fingerprint(model))
    engines = ENGINES.setdefault(model, {})
    if key not in engines:
        engines[key] = build_engine(model, estimator, latents=latents, fixed=fixed, backend=backend)
        while len(engines) > 8:
            engines.pop(next(iter(engines)))
    return engines[key]


def build_engine(model, estimator, *, latents, fixed, backend) -> Engine:
    tables = read(model, with_prior=estimator == "map", latents=latents, fixed=fixed)
    if estimator == "mle":
        check_informed(tables)
    try:
        return Engine(build_objective(tables, estimator, backend))
    except NotLowered as error:
        note = f"JAX lacks an operation of this model ({error}); it is evaluated by PyTensor's numba backend instead."
        return Engine(build_objective(tables, estimator, "numba"), note)


def fixed_key(fixed: Mapping[str, object]) -> tuple:
    return tuple((name, np.asarray(value).shape, np.asarray(value).tobytes()) for name, value in sorted(fixed.items()))


def fingerprint(model: pm.Model) -> tuple:
    """Changes when variables are added, data are set, or initial values change."""
    variables = [*model.basic_RVs, *model.potentials, *model.deterministics]
    transforms = [model.rvs_to_transforms.get(rv) for rv in model.free_RVs]
    starts = [model.rvs_to_initial_values.get(rv) for rv in model.free_RVs]
    shared = [v.get_value(borrow=True) for v in model.data_vars if isinstance(v, SharedVariable)]
    lengths = [v.get_value(borrow=True) for v in model.dim_lengths.values() if isinstance(v, SharedVariable)]
    return (
        tuple(map(id, variables)),
        tuple(map(id, transforms)),
        tuple(digest(s) if isinstance(s, np.ndarray | list | float | int) else s for s in starts),
        tuple(digest(a) for a in [*shared, *lengths]),
    )


def digest(array) -> tuple:
    array = np.ascontiguousarray(array)
    return array.shape, str(array.dtype), hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
