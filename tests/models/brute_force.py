"""Enumeration of all latent configurations through PyMC's own log-densities: slow, and right by construction."""

import itertools
from dataclasses import dataclass

import numpy as np
import pymc as pm
from pymc.logprob.basic import conditional_logp
from pytensor import function
from pytensor.compile.mode import Mode
from pytensor.gradient import grad
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.basic import MergeOptimizer
from pytensor.graph.traversal import ancestors
from pytensor.tensor import TensorConstant, constant
from scipy.special import logsumexp


@dataclass
class Enumeration:
    """Log-likelihood and posterior probabilities at one point.

    ``probabilities`` maps a latent to (*shape, states); ``configurations`` and ``weights`` are the joint posterior.
    """

    log_likelihood: float
    probabilities: dict
    configurations: list
    weights: np.ndarray


def joint_log_density(model: pm.Model, latents):
    """``(values by name) -> log p(y, latents | parameters)``, Potentials included, parameters' priors left out."""
    values = {rv: rv.type(rv.name) for rv in model.free_RVs}
    observed = {rv: model.rvs_to_values[rv] for rv in model.observed_RVs}
    densities = conditional_logp({**values, **observed}, warn_rvs=False)
    wanted = [v for rv, v in values.items() if rv.name in latents] + list(observed.values())
    terms = [densities[v].sum() for v in wanted]
    replacements = {**values, **observed}
    terms += [p.sum() for p in clone_replace(model.potentials, replacements, rebuild_strict=False)]
    total = sum(terms)
    inputs = list(values.values())
    run = function(inputs, total, mode=Mode("py", None), on_unused_input="ignore")
    names = [v.name for v in inputs]

    def evaluate(point):
        with np.errstate(all="ignore"):
            values = [
                point.get(n, np.zeros([n or 1 for n in v.type.shape])) for n, v in zip(names, inputs, strict=True)
            ]
            return float(run(*[np.asarray(a, dtype=v.type.dtype) for a, v in zip(values, inputs, strict=True)]))

    return evaluate


def enumerate_latents(model: pm.Model, domains: dict, parameters: dict) -> Enumeration:
    """Sum over every configuration.

    Parameters
    ----------
    domains : latent name -> (shape, list of states)
    parameters : name -> constrained value
    """
    density = joint_log_density(model, set(domains))
    sizes = {name: int(np.prod(shape)) for name, (shape, _) in domains.items()}
    spaces = [itertools.product(states, repeat=sizes[name]) for name, (_, states) in domains.items()]
    configurations, values = [], []
    for parts in itertools.product(*[list(s) for s in spaces]):
        point = {n: np.reshape(p, domains[n][0]) for n, p in zip(domains, parts, strict=True)}
        configurations.append(point)
        values.append(density({**parameters, **point}))
    values = np.nan_to_num(np.array(values), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    total = float(logsumexp(values))
    weights = np.exp(values - total)
    probabilities = {}
    for name, (shape, states) in domains.items():
        table = np.zeros((*shape, len(states)))
        for point, weight in zip(configurations, weights, strict=True):
            for k, state in enumerate(states):
                table[..., k] += weight * (point[name] == state)
        probabilities[name] = table
    return Enumeration(total, probabilities, configurations, weights)


@dataclass
class Exact:
    """Everything about a small model at one point, by enumeration with one compiled function.

    Attributes
    ----------
    log_likelihood : summed over the configurations
    gradient : by parameter (constrained space)
    configurations : latent -> (configurations, *shape)
    deterministics : name -> (configurations, *shape)
    weights : (configurations,), the joint posterior
    """

    log_likelihood: float
    gradient: dict[str, np.ndarray]
    configurations: dict[str, np.ndarray]
    deterministics: dict[str, np.ndarray]
    weights: np.ndarray

    def posterior(self, name: str, lower: int, size: int) -> np.ndarray:
        """Probabilities of the states of every element: (states, *shape)."""
        values = self.configurations[name]
        states = np.arange(lower, lower + size).reshape(-1, *[1] * values.ndim)
        return np.einsum("kc...,c->k...", values == states, self.weights)

    def mean(self, name: str) -> np.ndarray:
        """Posterior mean of a Deterministic."""
        values = self.deterministics[name]
        possible = self.weights.reshape(-1, *[1] * (values.ndim - 1)) > 0
        return np.einsum("c...,c->...", np.where(possible, values, 0), self.weights)


def wide_constants(outputs) -> dict:
    """Constants in 64 bits; PyTensor keeps 3 as an int8, whose logarithm has half precision."""
    small = [v for v in ancestors(outputs) if isinstance(v, TensorConstant)]
    targets = {"i": "int64", "u": "int64", "f": "float64"}
    wide = {v: targets.get(v.data.dtype.kind, str(v.data.dtype)) for v in small}
    return {v: constant(v.data.astype(dtype)) for v, dtype in wide.items() if dtype != str(v.data.dtype)}


def enumerate_exactly(model: pm.Model, domains: dict, parameters: dict) -> Exact:
    """As :func:`enumerate_latents`, with the exact gradient and the Deterministics in every configuration."""
    values = {rv: rv.type(rv.name) for rv in model.free_RVs}
    observed = {rv: model.rvs_to_values[rv] for rv in model.observed_RVs}
    data_terms = {rv: v for rv, v in values.items() if rv.name in domains} | observed
    densities = conditional_logp({**values, **observed}, warn_rvs=False)
    terms = [*[densities[v] for v in data_terms.values()], *model.potentials]
    outputs = clone_replace([*terms, *model.deterministics], {**values, **observed}, rebuild_strict=False)
    outputs = clone_replace(outputs, wide_constants(outputs), rebuild_strict=False)
    total = sum(t.sum() for t in outputs[: len(terms)])
    derived = outputs[len(terms) :]
    theta = [v for rv, v in values.items() if rv.name in parameters]
    slopes = grad(total, theta, disconnected_inputs="ignore") if theta else []
    states = [v for rv, v in values.items() if rv.name in domains]
    missing = [v for rv, v in values.items() if v not in [*theta, *states]]  # integrate to one
    run = function(
        [*theta, *missing, *states],
        [total, *slopes, *derived],
        mode=Mode("py", MergeOptimizer()),
        on_unused_input="ignore",
    )
    run.trust_input = True

    point = [np.asarray(parameters[v.name], dtype=v.type.dtype) for v in theta]
    point += [np.full(v.type.shape, np.nan) for v in missing]
    names = [v.name for v in states]
    grids = [itertools.product(domains[n][1], repeat=int(np.prod(domains[n][0]))) for n in names]
    combined = list(itertools.product(*[list(g) for g in grids]))
    configurations = {
        name: np.array([c[i] for c in combined], dtype=v.type.dtype).reshape(-1, *domains[name][0])
        for i, (name, v) in enumerate(zip(names, states, strict=True))
    }
    with np.errstate(all="ignore"):
        results = [run(*point, *[np.asarray(configurations[n][i]) for n in names]) for i in range(len(combined))]
    values = np.array([float(r[0]) for r in results])
    values = np.where(np.isnan(values), -np.inf, values)
    log_likelihood = float(logsumexp(values))
    weights = np.exp(values - log_likelihood) if np.isfinite(log_likelihood) else np.zeros(len(values))
    gradient = {}
    for k, v in enumerate(theta):
        gradient[v.name] = sum(w * np.asarray(r[1 + k]) for w, r in zip(weights, results, strict=True) if w > 0)
    deterministics = {
        d.name: np.array([r[1 + len(theta) + k] for r in results]) for k, d in enumerate(model.deterministics)
    }
    return Exact(log_likelihood, gradient, configurations, deterministics, weights)
