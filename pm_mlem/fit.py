"""The pipeline, from top to bottom: a model goes in, estimates come out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm

from pm_mlem.errors import LocalOptimaWarning
from pm_mlem.optimize import EM, LBFGS, Adam, EMMaps, Newton, Optimum, Problem, Status
from pm_mlem.optimize.multistart import Fallback, Plan, Run, Start, multistart, unconfirmed
from pm_mlem.progress import progress

if TYPE_CHECKING:  # JAX is imported when the first model is fitted
    from pm_mlem.objective.collapse import Guard
    from pm_mlem.objective.engine import Engine
    from pm_mlem.objective.m_step import Restraint
    from pm_mlem.results.fit import Fit

Method = str | EM | LBFGS | Newton | Adam
METHODS = ("auto", "em", "lbfgs", "newton", "adam")
MANY_PARAMETERS = 300
"""Above this, ``method="auto"`` does not form Hessians while it searches."""
CHEAP_HESSIAN = 50_000
"""Entries of a log-density array times parameters: below this a few Hessians cost next to nothing."""
DEFAULT_STARTS = 8
"""Starts where a latent makes local optima likely and the user names no number."""


def fit(
    model: pm.Model | None = None,
    estimator: str = "mle",
    *,
    method: Method = "auto",
    latents: Sequence[str] | None = None,
    quadrature: int | None = None,
    fixed: Mapping[str, Any] | None = None,
    starts: int | Sequence[Mapping[str, Any]] | None = None,
    weights=None,
    random_seed: int | None = None,
    backend: str = "jax",
    progressbar: bool = True,
) -> Fit:
    """Maximum-likelihood or maximum-a-posteriori estimates of a PyMC model.

    Discrete latent variables are summed out exactly, the hidden components of observed ``pm.Mixture``, zero-inflated
    and hurdle distributions among them. The model is not modified.

    Parameters
    ----------
    model : pm.Model, optional
        Default: the model on the context stack. Variables of ``pymc.dims`` may be among its own. A ``bambi.Model``
        that is built stands for the PyMC model in it.
    estimator : {"mle", "map"}
        "mle" maximises log p(y | parameters): observed variables, Potentials and the distributions of latent
        variables count, the priors of parameters do not. "map" maximises the joint density in the user's own
        (constrained) space, without Jacobian, as ``pm.find_MAP`` does.
    method : {"auto", "em", "lbfgs", "newton", "adam"} or EM, LBFGS, Newton, Adam
        "auto": EM followed by Newton where there are latents, Newton otherwise (L-BFGS for many parameters).
    latents : sequence of str, optional
        Continuous free variables to integrate out.
    quadrature : int, optional
        Nodes per latent for continuous latents.
    fixed : dict, optional
        ``{name: value}`` (constrained space): free variables that are held. Single entries are held by their name
        as in :meth:`Fit.summary`, ``{"mu[a]": 0.0, "P[0, 2]": 0.0}``, or by an array with NaN (or a mask) where the
        entry stays free. The free entries of a row of probabilities share what the held ones leave. Entries that a
        joint transform ties together (ordered, Cholesky factors, zero sum) are held together or not at all.
    starts : int or sequence of dict, optional
        How many starts, or ``{name: value}`` dictionaries (constrained space; variables that are left out keep
        the model's initial point). Default: the initial point and, where there are latents, seven more made from
        the data and the priors; up to 24 in all where fewer do not agree on the best optimum.
    weights : array or dict, optional
        Per-observation weights: an array over the observations or their leading axes, for every observed variable
        of that shape, or ``{observed name: array}``. An integer weight is a number of repetitions, a weight of 0
        drops the row (the data must be numbers all the same), fractions are allowed; observations that share a
        latent need the same weight. For masked data the shape is that of all entries.
    random_seed : int, optional
        Makes random starts reproducible.
    backend : {"jax", "numba", "c"}
        Who evaluates the log-density: JAX, or a PyTensor-compiled function behind a callback (slower; works for
        every Op).
    progressbar : bool
        Show the progress of the optimizer.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        No model, no data, NaN in the data, states that a label does not have, unknown names, a start or a held value
        outside the support, weights that are negative, not finite, all 0 or of the wrong shape.
    UnsupportedModelError
        Something in the model cannot be handled exactly; the message names it and the way out.

    Warns
    -----
    LocalOptimaWarning
        Only one of several starts reached the best optimum.

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_mlem as mlem
    >>> with pm.Model() as model:
    ...     p = pm.Beta("p", 1, 1)
    ...     flips = pm.Bernoulli("flips", p, observed=np.repeat([1, 0], [60, 40]))
    >>> round(mlem.fit(model, progressbar=False).estimates["p"].item(), 6)
    0.6
    """
    began = time.perf_counter()
    model = current_model(model)
    check_choice(estimator, ("mle", "map"), "estimator")
    check_choice(backend, ("jax", "numba", "c"), "backend")
    check_method(method)
    if quadrature is not None:
        raise NotImplementedError("quadrature= belongs to continuous latents, which are not implemented.")

    from pm_mlem.estimate.notes import without_bound
    from pm_mlem.graph.roles.choices import Choices
    from pm_mlem.objective.collapse import Guard
    from pm_mlem.objective.engine import engine_for
    from pm_mlem.objective.weights import unit_weights
    from pm_mlem.results.fit import Fit

    choices = Choices(tuple(latents or ()), dict(fixed or {}))
    build = partial(engine_for, model, estimator, backend=backend, restraint=restraint_of(method))
    engine = build(choices)
    unit = unit_weights(engine.objective.tables, weights)
    algorithms = choose(method, engine)
    with progress(algorithms[0].title, enabled=progressbar) as observe:
        points, more = start_points(starts, engine, unit, random_seed)
        guard, problem = Guard(engine.inspector, unit), problem_of(engine, unit, random_seed)

        def flaw(found: Optimum) -> str:
            value = problem.value_and_gradient
            collapsed = "" if engine.plan else guard.collapse(found.point)
            return collapsed or without_bound(engine.objective, lambda u: value(u)[0], found)

        optimum, runs = multistart(
            algorithms, problem, points, flaw=flaw,
            fingerprint=guard.fingerprint, more=more, insist=starts is None, observe=observe,
        )  # fmt: skip
        while optimum.status is not Status.INTERRUPTED and (grown := engine.larger_bounds(optimum.point)):
            engine = build(replace(choices, bounds=grown))
            start = Start("optimum with fewer states", optimum.point)
            guard, problem = Guard(engine.inspector, unit), problem_of(engine, unit, random_seed)
            optimum, _ = multistart(algorithms, problem, [start], observe=observe)
    if optimum.status is Status.NOT_FINITE:
        raise ValueError(nowhere_finite(engine, optimum.point))
    doubt = unconfirmed(optimum, runs)
    if doubt:
        warnings.warn(doubt, LocalOptimaWarning, stacklevel=2)
    remarks = notes(engine, guard, problem, optimum)
    sentences = [optimum.message, ran(optimum), doubt, *remarks, engine.note, engine.cut_off(optimum.point)]
    how = f"{optimum.method} (auto)" if method == "auto" else optimum.method
    return Fit(
        model, estimator, how, " ".join(filter(None, sentences)), time.perf_counter() - began, engine, optimum,
        records(runs, estimator), unit,
    )  # fmt: skip


# --- arguments --------------------------------------------------------------------------------------------


def current_model(model: pm.Model | None) -> pm.Model:
    """The model that was passed, or the one on the context stack."""
    if model is None:
        try:
            return pm.modelcontext(None)
        except TypeError:
            raise ValueError(
                "No model: pass one, mlem.fit(model), or call mlem.fit() inside 'with pm.Model() as model:'."
            ) from None
    if isinstance(model, pm.Model):
        return model
    backend = getattr(model, "backend", None)
    if isinstance(inner := getattr(backend, "model", None), pm.Model):
        return inner  # a bambi.Model that is built
    hint = ""
    if hasattr(type(model), "backend") or hasattr(model, "backend"):
        hint = " If it is a bambi.Model, build it first: model.build(), then pass model.backend.model."
    elif hasattr(type(model), "model") or hasattr(model, "model"):
        hint = " It has an attribute 'model'; if that is the pm.Model, build it and pass that."
    raise TypeError(f"model must be a pm.Model, not {type(model).__name__}.{hint}")


def check_choice(value, choices: Sequence[str], argument: str) -> None:
    if value not in choices:
        listed = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        raise ValueError(f"{argument}={value!r} is unknown; use {listed}.")


def check_method(method: Method) -> None:
    if isinstance(method, str):
        check_choice(method, METHODS, "method")
    elif not isinstance(method, EM | LBFGS | Newton | Adam):
        raise TypeError(
            f"method must be one of {', '.join(map(repr, METHODS))} or an mlem.EM(...), mlem.LBFGS(...), "
            f"mlem.Newton(...) or mlem.Adam(...), not {method!r}."
        )


# --- what to run ------------------------------------------------------------------------------------------


NAMED: dict[str, EM | LBFGS | Newton | Adam] = {"em": EM(), "newton": Newton(), "lbfgs": LBFGS(), "adam": Adam()}


def choose(method: Method, engine: Engine) -> Plan:
    """The algorithms to run one after the other."""
    size, kinks = engine.objective.space.size, engine.objective.kinks
    finish = NAMED["newton" if size <= MANY_PARAMETERS and kinks.none else "lbfgs"]
    if isinstance(method, str) and method != "auto":
        method = NAMED[method]
    if isinstance(method, EM) and (method.finish or stalls_at_kinks(method, engine)):
        return [method, finish]
    if not isinstance(method, str):
        return [method]
    if not engine.objective.tables.structure.latents:
        return [finish]
    if engine.objective.work * size <= CHEAP_HESSIAN:
        return [EM(max_iterations=500, tolerance=1e-3), finish]
    em = EM(max_iterations=max(50, 3 * size))  # by then it has cost what Newton's method would
    return [em, Fallback(finish)]


def stalls_at_kinks(method: EM, engine: Engine) -> bool:
    """Whether parameters of terms with kinks take Newton steps, which end at the first kink."""
    plan = engine.m_step
    stepped = {name for block in (plan.reduced, plan.newton) if block for name in block.names}
    return method.kind == "soft" and method.min_scale is None and not stepped.isdisjoint(engine.objective.kinks.names)


def restraint_of(method: Method) -> Restraint | None:
    """What keeps scales away from 0."""
    from pm_mlem.objective.m_step import Restraint

    if not isinstance(method, EM) or (method.min_scale is None and method.penalty is None):
        return None
    return Restraint(method.min_scale, method.penalty)


def ran(optimum: Optimum) -> str:
    """A sentence about what was run."""
    legs = [f"{title} for {count} iteration{'' if count == 1 else 's'}" for title, count in optimum.legs]
    return f"Ran {', then '.join(legs)}."


def problem_of(engine: Engine, unit: np.ndarray, random_seed: int | None = None) -> Problem:
    """Close the compiled functions over the data and the weights; each is checked before its first use."""
    seed = int(np.random.default_rng(random_seed).integers(2**31))
    objective, data = engine.objective, engine.data

    def value_and_gradient(u):
        engine.verify("value_and_gradient")
        value, gradient = objective.value_and_gradient(u, unit, data)
        return float(value), np.asarray(gradient)

    recent: dict[bytes, tuple] = {}  # the curvature at the optimum is asked for again

    def derivatives(u):
        key = np.asarray(u).tobytes()
        if key not in recent:
            engine.verify("derivatives")
            value, gradient, hessian = objective.derivatives(u, unit, data)
            while len(recent) > 1:
                recent.pop(next(iter(recent)))
            recent[key] = float(value), np.asarray(gradient), np.asarray(hessian)
        return recent[key]

    def soft(u):
        engine.verify("em_map")
        new, value = engine.em_map(u, unit, data, objective.no_posterior, False)
        return np.asarray(new), float(value)

    def tempered(u, power):
        return np.asarray(engine.tempered_map(u, unit, data, power))

    def hard(u):
        new, value = engine.hard_map(u, unit, data)
        return np.asarray(new), float(value)

    def stochastic(u, iteration):
        return np.asarray(engine.stochastic_map(u, unit, data, seed + iteration))

    def project(u):
        return np.asarray(engine.project(u))

    maps = EMMaps(soft, hard, stochastic, tempered)
    return Problem(value_and_gradient, derivatives, replace(maps, project=project) if engine.plan else maps)


def start_points(
    starts, engine: Engine, unit: np.ndarray, random_seed: int | None
) -> tuple[list[Start], Callable[[int], list[Start]]]:
    """The user's starts, or the initial point and others, and a function that makes further ones."""
    from pm_mlem.objective.starts import StartMaker

    objective = engine.objective
    maker = StartMaker(objective, lambda: engine.em_map, unit, engine.data, np.random.default_rng(random_seed))

    def more(count: int) -> list[Start]:
        return [Start(origin, point) for origin, point in maker.further(count)]

    if starts is None:
        starts = DEFAULT_STARTS if objective.tables.structure.latents else 1
    if not isinstance(starts, int | np.integer):
        points = [objective.space.unconstrain(given) for given in starts]
        if not points:
            raise ValueError("starts is an empty list; give a number or at least one {name: value}.")
        return [Start(f"starts[{i}]", point) for i, point in enumerate(points)], more
    if starts < 1:
        raise ValueError(f"starts={starts} must be at least 1.")
    return [Start(*maker.first()), *more(int(starts) - 1)], more


def notes(engine: Engine, guard: Guard, problem: Problem, optimum: Optimum) -> list[str]:
    """Sentences about what is peculiar at the optimum."""
    from pm_mlem.estimate.diagnosis import diagnose
    from pm_mlem.estimate.notes import kink_notes, optimum_notes, restraint_notes

    if optimum.status in (Status.INTERRUPTED, Status.DEGENERATE) or not np.all(np.isfinite(optimum.point)):
        return []
    point, objective = optimum.point, engine.objective
    hessian = problem.derivatives(point)[2] if objective.kinks.none and Newton.title in dict(optimum.legs) else None
    remarks = list(guard.remarks(optimum.point)) if engine.objective.tables.structure.latents else []
    if engine.plan is not None:
        remarks += restraint_notes(engine.objective, engine.plan, optimum)
    remarks += kink_notes(objective, optimum)
    return [*remarks, *optimum_notes(diagnose(objective, point, hessian, problem.derivatives))]


def nowhere_finite(engine: Engine, point: np.ndarray) -> str:
    """Which term is to blame, and where."""
    objective = engine.objective
    theta = objective.space.constrain(point)
    arrays = objective.densities(*theta, *engine.data)
    names = [d.term.name for d in objective.tables.densities]
    bad = [n for n, a in zip(names, arrays, strict=True) if not np.all(np.isfinite(np.asarray(a)))]
    where = ", ".join(
        f"{n} = {np.array2string(np.asarray(v), threshold=6, precision=4)}"
        for n, v in objective.space.values(point).items()
    )
    blame = f"the log-density of {', '.join(map(repr, bad))}" if bad else "a parameter condition"
    return (
        f"The log-likelihood is not finite at any start; {blame} fails at {where}. Pass starts=[{{name: value}}] "
        "inside the support, or set initval= in the model."
    )


def records(runs: Sequence[Run], estimator: str) -> tuple[Mapping[str, Any], ...]:
    """The rows of ``Fit.starts``, and the history of each."""
    return tuple(
        record(i, run, "log_likelihood" if estimator == "mle" else "log_posterior") for i, run in enumerate(runs)
    )


def record(i: int, run: Run, objective: str) -> dict[str, Any]:
    status = str(run.optimum.status) if run.finished else "set aside early"
    return {
        "start": i,
        "origin": run.start.origin,
        objective: run.optimum.value,
        "iterations": run.optimum.iterations,
        "status": status if run.twin is None else f"same optimum as start {run.twin}",
        "optimum": run.number,
        "reached": run.reached,
        "reason": run.reason,
        "history": run.optimum.history,
    }
