"""EM maps that use something else than the posterior probabilities of the latents."""

from __future__ import annotations

from collections.abc import Callable

import jax

from pm_mlem.objective.m_step.recognise import MStepPlan
from pm_mlem.objective.m_step.step import e_step, m_step
from pm_mlem.objective.objective import Objective


def tempered_map(objective: Objective, plan: MStepPlan) -> Callable:
    """``(u, weights, data, power) -> next u``: the observations' densities to a power.

    The distributions of the latents themselves keep their weight: above a power of 1 states of little weight would
    lose the rest of it before their other parameters could move.
    """
    maximise = m_step(objective, plan)
    latent = [d.term.kind == "latent" for d in objective.tables.densities]

    def step(u, weights, data, power):
        theta = objective.space.constrain(u)
        powers = [1.0 if own else power for own in latent]
        return maximise(u, objective.evaluator.e_step(theta, weights, data, powers)[1], data)

    return step


def hard_map(objective: Objective, plan: MStepPlan) -> Callable:
    """``(u, weights, data) -> (next u, joint log-density)``: the jointly most probable states of the latents."""
    maximise = m_step(objective, plan)

    def step(u, weights, data):
        value, posterior = objective.decoded(objective.space.constrain(u), weights, data)
        return maximise(u, posterior, data), value + objective.additions(u, data)

    return step


def stochastic_map(objective: Objective, plan: MStepPlan) -> Callable:
    """``(u, weights, data, seed) -> next u``: a draw of the latents from their posterior."""
    maximise = m_step(objective, plan)

    def step(u, weights, data, seed):
        _, posterior = objective.sampled(objective.space.constrain(u), weights, data, jax.random.key(seed))
        return maximise(u, posterior, data)

    return step


def q_function(objective: Objective, u, to, weights, data):
    """Expected complete-data log-likelihood at ``to``, the expectation taken at ``u`` (plus log-prior or penalty)."""
    _, posterior = e_step(objective, objective.space.constrain(u), weights, data)
    return objective.expected(objective.space.constrain(to), posterior, data) + objective.additions(to, data)
