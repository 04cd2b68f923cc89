"""The pipeline: a model goes in, estimates come out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pymc as pm

from pm_mlem.objective.engine import Engine, engine_for
from pm_mlem.objective.starts import assignments, posterior_from_assignments
from pm_mlem.objective.weights import unit_weights
from pm_mlem.optimize import EM, LBFGS, Newton, Problem
from pm_mlem.optimize.loop import Algorithm
from pm_mlem.optimize.multistart import Run, Start, multistart
from pm_mlem.progress import progress
from pm_mlem.results.fit import Fit

Method = str | EM | LBFGS | Newton
MANY_PARAMETERS = 300
"""Above this, ``method="auto"`` does not form Hessians while it searches."""
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

    Discrete latent variables are summed out exactly. The model is not modified.

    Parameters
    ----------
    model : pm.Model, optional
        Default: the model on the context stack.
    estimator : {"mle", "map"}
        "mle" maximises log p(y | parameters): observed variables, Potentials and the distributions of latent
        variables count, the priors of parameters do not. "map" maximises the joint density in the user's own
        (constrained) space, without Jacobian, as ``pm.find_MAP`` does.
    method : {"auto", "em", "newton", "lbfgs"} or EM, Newton, LBFGS
        "auto": EM followed by Newton where there are latents, Newton otherwise (L-BFGS for many parameters).
    latents : sequence of str, optional
        Continuous free variables to integrate out.
    quadrature : int, optional
        Nodes per latent for continuous latents.
    fixed : dict, optional
        ``{name: value}`` (constrained space): free variables that are held.
    starts : int or sequence of dict, optional
        How many starts, or ``{name: value}`` dictionaries (constrained space; variables that are left out keep
        the model's initial point). Default: the initial point, plus random ones where there are latents.
    weights : array or dict, optional
        Per-observation weights: an array over the observations, or ``{observed name: array}``.
    random_seed : int, optional
        Makes random starts reproducible.
    backend : {"jax", "numba", "c"}
        Who evaluates the log-density: JAX, or a PyTensor-compiled function behind a callback (slower; works for
        every Op).
    progressbar : bool
        Show a progress bar where it is worth one.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        No model, no data, NaN in the data, unknown names, a start outside the support.
    UnsupportedModelError
        Something in the model cannot be handled exactly; the message names it and the way out.

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_mlem as mlem
    >>> with pm.Model() as model:
    ...     p = pm.Beta("p", 1, 1)
    ...     flips = pm.Bernoulli("flips", p, observed=np.repeat([1, 0], [60, 40]))
    >>> mlem.fit(model, progressbar=False).estimates["p"].item()
    0.6
    """
    began = time.perf_counter()
    model = current_model(model)
    check_choice(estimator, ("mle", "map"), "estimator")
    check_choice(backend, ("jax", "numba", "c"), "backend")
    if quadrature is not None:
        raise NotImplementedError("quadrature= belongs to continuous latents, which are not implemented.")
    engine = engine_for(model, estimator, latents=latents or (), fixed=fixed, backend=backend)
    unit = unit_weights(engine.objective.tables, weights)
    algorithms, chosen = choose(method, engine)
    points = start_points(starts, engine, unit, random_seed)
    with progress(chosen, enabled=progressbar) as observe:
        problem = problem_of(engine, unit)
        optimum, runs = multistart(algorithms, problem, points, observe=observe)
    message = " ".join(filter(None, [optimum.message, engine.note]))
    return Fit(
        model, estimator, chosen, message, time.perf_counter() - began, engine, optimum, tuple(map(record, runs)), unit
    )


def current_model(model: pm.Model | None) -> pm.Model:
    if model is None:
        try:
            return pm.modelcontext(None)
        except TypeError:
            raise ValueError(
                "No model: pass one, mlem.fit(model), or call mlem.fit() inside 'with pm.Model() as model:'."
            ) from None
    if not isinstance(model, pm.Model):
        raise TypeError(f"model must be a pm.Model, not {type(model).__name__}.")
    return model


def check_choice(value, choices: Sequence[str], argument: str) -> None:
    if value not in choices:
        raise ValueError(f"{argument}={value!r} is unknown; use {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}.")


def choose(method: Method, engine: Engine) -> tuple[list[Algorithm], str]:
    """The algorithms to run one after the other, and what they are called."""
    if not isinstance(method, str):
        if not isinstance(method, EM | LBFGS | Newton):
            raise TypeError(f"method must be a name or one of mlem.EM, mlem.Newton, mlem.LBFGS, not {method!r}.")
        return [method], type(method).__name__
    check_choice(method, ("auto", "em", "newton", "lbfgs"), "method")
    if method == "em":
        return [EM()], "EM"
    if method == "newton":
        return [Newton()], "trust-region Newton"
    if method == "lbfgs":
        return [LBFGS()], "L-BFGS"
    large = engine.objective.space.size > MANY_PARAMETERS
    finish: Algorithm = LBFGS() if large else Newton()
    name = "L-BFGS" if large else "trust-region Newton"
    if engine.objective.tables.structure.latents:
        return [EM(max_iterations=500, tolerance=1e-3), finish], f"auto: EM, then {name} on the marginal likelihood"
    return [finish], f"auto: {name}"


def problem_of(engine: Engine, unit: np.ndarray) -> Problem:
    """Close the compiled functions over data and weights."""
    objective = engine.objective
    data = objective.data
    posterior = [np.zeros(d.input.type.shape) for d in objective.tables.densities]

    def value_and_gradient(u):
        value, gradient = objective.value_and_gradient(u, unit, data)
        return float(value), np.asarray(gradient)

    def derivatives(u):
        value, gradient, hessian = objective.derivatives(u, unit, data)
        return float(value), np.asarray(gradient), np.asarray(hessian)

    def em_map(u):
        new, value = engine.em_map(u, unit, data, posterior, False)
        return np.asarray(new), float(value)

    return Problem(value_and_gradient, derivatives, em_map)


def start_points(starts, engine: Engine, unit: np.ndarray, random_seed: int | None) -> list[Start]:
    """The user's starts, or the initial point and data-informed ones."""
    space = engine.objective.space
    has_latents = bool(engine.objective.tables.structure.latents)
    if starts is None:
        starts = DEFAULT_STARTS if has_latents else 1
    if isinstance(starts, int | np.integer):
        if starts < 1:
            raise ValueError(f"starts={starts} must be at least 1.")
        rng = np.random.default_rng(random_seed)
        points = [Start("initial point", leave_symmetry(space.initial, has_latents, rng))]
        return points + [random_start(engine, unit, rng, i) for i in range(int(starts) - 1)]
    points = [space.unconstrain(given) for given in starts]
    if not points:
        raise ValueError("starts is an empty list; give a number or at least one {name: value}.")
    return [Start(f"starts[{i}]", point) for i, point in enumerate(points)]


def leave_symmetry(point: np.ndarray, has_latents: bool, rng: np.random.Generator) -> np.ndarray:
    """Components that start equal would stay equal for ever."""
    return point + rng.normal(scale=0.01, size=point.shape) if has_latents else point


def random_start(engine: Engine, unit: np.ndarray, rng: np.random.Generator, number: int) -> Start:
    """With latents, an M-step from clusters of the data; otherwise a perturbed initial point."""
    objective = engine.objective
    point = objective.space.initial + rng.normal(scale=0.5, size=objective.space.size)
    if not objective.tables.structure.latents:
        return Start("perturbed initial point", point)
    guess = assignments(objective, rng, purity=0.9)
    posterior = posterior_from_assignments(objective)(guess, unit)
    for _ in range(3):
        new, _ = engine.em_map(point, unit, objective.data, posterior, True)
        point = np.asarray(new)
    return Start("clusters of the data", point)


def record(run: Run) -> dict[str, Any]:
    optimum = run.optimum
    return {
        "origin": run.start.origin,
        "objective": optimum.value,
        "iterations": optimum.iterations,
        "status": str(optimum.status) if run.finished else "set aside early",
        "reason": run.reason,
    }


_ = warnings
