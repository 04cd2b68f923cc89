"""Enumeration of all latent configurations through PyMC's own log-densities: slow, and right by construction."""

import itertools
from dataclasses import dataclass

import numpy as np
import pymc as pm
from pymc.logprob.basic import conditional_logp
from pytensor import function
from pytensor.compile.mode import Mode
from pytensor.graph.replace import clone_replace
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
