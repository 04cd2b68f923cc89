"""The pipeline, from top to bottom: a model goes in, estimates come out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm

from pm_mlem.arguments import (
    check_choice,
    check_estimator,
    checked,
    current_model,
    flag,
    optional,
    seed,
    shown,
    some_names,
    starting_values,
    values,
)
from pm_mlem.errors import LocalOptimaWarning, warn
from pm_mlem.optimize import EM, LBFGS, Adam, Newton, Optimum, Status
from pm_mlem.optimize.multistart import Check, Fallback, Plan, Run, Start, multistart, unconfirmed
from pm_mlem.optimize.truncated import TruncatedNewton
from pm_mlem.precision import double
from pm_mlem.progress import progress

if TYPE_CHECKING:  # JAX is imported when the first model is fitted
    from pm_mlem.estimate.estimate import Estimate
    from pm_mlem.estimate.target import Target
    from pm_mlem.objective.collapse import Guard
    from pm_mlem.objective.engine import Engine
    from pm_mlem.objective.m_step import Restraint
    from pm_mlem.results.fit import Fit

Method = str | EM | LBFGS | Newton | Adam
METHODS = ("auto", "em", "lbfgs", "newton", "adam")
MANY_PARAMETERS = 300
"""Above this, ``method="auto"`` does not form Hessians while it searches, ..."""
MANY_MORE = 1000
"""... up to this where they are cheap."""


@checked(latents=optional(some_names), fixed=optional(values), starts=optional(starting_values), random_seed=seed,
         progressbar=flag)  # fmt: skip
@double()
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
        that is built stands for the PyMC model in it, with the intercepts that Bambi reports (for predictors that
        are not centered; the priors stay those of Bambi's model).
    estimator : {"mle", "map"}
        "mle" maximises log p(y | parameters): observed variables, Potentials and the distributions of latent
        variables count, the priors of parameters do not. "map" maximises the joint density in the user's own
        (constrained) space, without Jacobian, as ``pm.find_MAP`` does.
    method : {"auto", "em", "lbfgs", "newton", "adam"} or EM, LBFGS, Newton, Adam
        "auto": EM followed by Newton where there are latents, Newton otherwise (L-BFGS for many parameters). No method
        certifies itself: where L-BFGS or Adam end, the exact Newton decrement is computed, and Newton's method goes on
        where it is not small.
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
        Where the log-likelihood is not finite at the initial point, a point near it or drawn from the prior takes its
        place.
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
    check_estimator(estimator)
    check_choice(backend, ("jax", "numba", "c"), "backend")
    check_method(method)
    if quadrature is not None:
        raise NotImplementedError("quadrature= belongs to continuous latents, which are not implemented.")

    from pm_mlem.estimate.estimate import Estimate
    from pm_mlem.estimate.target import target_of
    from pm_mlem.graph.roles.choices import Choices
    from pm_mlem.objective.verify import SlopeMismatch
    from pm_mlem.results.fit import Fit

    choices = Choices(tuple(latents or ()), dict(fixed or {}))
    for evaluated_by in dict.fromkeys((backend, "numba" if backend == "jax" else backend, "differences")):
        target = target_of(model, estimator, choices, weights, backend=evaluated_by, restraint=restraint_of(method))
        try:
            target, optimum, runs, judge = maximize(target, method, starts, random_seed, progressbar)
            break
        except SlopeMismatch:  # somebody else's derivatives may be right
            if evaluated_by == "differences":
                raise
    if optimum.status is Status.NOT_FINITE:
        raise ValueError(nowhere_finite(target, optimum.point))
    doubt = unconfirmed(optimum, runs)
    if doubt:
        warn(doubt, LocalOptimaWarning)
    estimate = Estimate(target, optimum)
    sentences = [
        optimum.message, ran(optimum), doubt, *notes(estimate, judge.guard), target.engine.note,
        target.engine.cut_off(optimum.point),
    ]  # fmt: skip
    how = f"{optimum.method} (auto)" if method == "auto" else optimum.method
    message, seconds = " ".join(filter(None, sentences)), time.perf_counter() - began
    return Fit(model, estimator, how, message, seconds, estimate, records(runs, estimator))


def maximize(
    target: Target, method: Method, starts: Any, random_seed: int | None, progressbar: bool
) -> tuple[Target, Optimum, Sequence[Run], Judge]:
    """The target (with larger bounds for its counts, if need be), its optimum, and the runs from all starts."""
    from pm_mlem.estimate.starts import possible, start_points

    algorithms = choose(method, target)
    with progress(algorithms[0].title, enabled=progressbar) as observe:
        points, more = start_points(starts, target, random_seed)
        judge = Judge(target)
        optimum, runs = multistart(
            algorithms, target.problem(random_seed), points, flaw=judge.flaw,
            fingerprint=judge.guard.fingerprint, more=more, insist=starts is None, observe=observe,
        )  # fmt: skip
        mine = starts is None or isinstance(starts, int | np.integer)
        if mine and optimum.status is Status.NOT_FINITE and (start := possible(target, random_seed)) is not None:
            optimum, runs = multistart(algorithms, target.problem(random_seed), [start], observe=observe)
        while optimum.status is not Status.INTERRUPTED and (grown := target.engine.larger_bounds(optimum.point)):
            target = target.with_bounds(grown)
            start = Start("optimum with fewer states", optimum.point)
            optimum, _ = multistart(algorithms, target.problem(random_seed), [start], observe=observe)
            judge = Judge(target)
    return target, optimum, runs, judge


# --- what to run ------------------------------------------------------------------------------------------


def check_method(method: Method) -> None:
    if isinstance(method, str):
        check_choice(method, METHODS, "method")
    elif not isinstance(method, EM | LBFGS | Newton | Adam):
        raise TypeError(
            f"method must be one of {', '.join(map(repr, METHODS))} or an mlem.EM(...), mlem.LBFGS(...), "
            f"mlem.Newton(...) or mlem.Adam(...), not {shown(method)}."
        )


NAMED: dict[str, EM | LBFGS | Newton | Adam] = {"em": EM(), "newton": Newton(), "lbfgs": LBFGS(), "adam": Adam()}


def choose(method: Method, target: Target) -> Plan:
    """The algorithms to run one after the other."""
    size, kinks = target.space.size, target.objective.kinks
    formed = size <= MANY_PARAMETERS or (size <= MANY_MORE and target.objective.cheap_hessian)
    finish = NAMED["newton" if formed and kinks.none else "lbfgs"]
    exact = [Check(NAMED["newton"] if formed else TruncatedNewton())] if kinks.none else []
    checks = exact if isinstance(finish, LBFGS) else []
    if isinstance(method, str) and method != "auto":
        method = NAMED[method]
    if isinstance(method, EM) and (method.finish or stalls_at_kinks(method, target.engine)):
        return [method, finish, *checks]
    if isinstance(method, LBFGS | Adam):
        return [method, *exact]
    if not isinstance(method, str):
        return [method]
    if not target.structure.complete_data:
        return [finish, *checks]
    if target.objective.cheap_hessian:
        return [EM(max_iterations=500, tolerance=1e-3), finish, *checks]
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


# --- what to say about an optimum ---------------------------------------------------------------------------


class Judge:
    """Tells optima that are none from others."""

    def __init__(self, target: Target):
        from pm_mlem.objective.collapse import Guard

        self.target, self.guard = target, Guard(target.engine.inspector, target.weights)

    def flaw(self, found: Optimum) -> str:
        """Why an optimum is not acceptable; empty where it is."""
        from pm_mlem.estimate.notes import without_bound

        collapsed = "" if self.target.engine.plan else self.guard.collapse(found.point)
        return collapsed or without_bound(self.target, found)


def notes(estimate: Estimate, guard: Guard) -> list[str]:
    """Sentences about what is peculiar at the optimum.

    Where Newton's method was not run no Hessian is formed for them.
    """
    from pm_mlem.estimate.diagnosis import diagnose
    from pm_mlem.estimate.notes import dropped_priors, kink_notes, optimum_notes, restraint_notes

    target, optimum = estimate.target, estimate.optimum
    if optimum.status in (Status.INTERRUPTED, Status.DEGENERATE) or not np.all(np.isfinite(optimum.point)):
        return []
    remarks = list(guard.remarks(optimum.point)) if target.structure.components else []
    if target.engine.plan is not None:
        remarks += restraint_notes(target, target.engine.plan, optimum)
    remarks += kink_notes(target, optimum)
    curved = target.objective.kinks.none and Newton.title in (*dict(optimum.legs), optimum.checked)
    diagnosis = estimate.diagnosis if curved else diagnose(target, optimum.point, None)
    return [*dropped_priors(target), *remarks, *optimum_notes(diagnosis)]


def nowhere_finite(target: Target, point: np.ndarray) -> str:
    """Which term is to blame, and where."""
    bad = [n for n, arrays in target.densities(point).items() if not all(np.all(np.isfinite(a)) for a in arrays)]
    where = ", ".join(
        f"{n} = {np.array2string(np.asarray(v), threshold=6, precision=4)}"
        for n, v in target.space.values(point).items()
    )
    blame = f"the log-density of {', '.join(map(repr, bad))}" if bad else "a parameter condition"
    from pm_mlem.graph.tables.undefined import impossible_values

    arrays = target.objective.densities(*target.space.constrain(point), *target.data)
    impossible = impossible_values(target.tables.densities, [np.asarray(a) for a in arrays])
    if impossible:
        return (
            f"The log-likelihood is not finite at any start. {' '.join(impossible.values())} Correct or remove it, or "
            f"use a distribution that allows it; where that depends on parameters (here {where}), pass "
            "starts=[{name: value}] inside the support."
        )
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
