"""E-step of a hidden Markov model: pm_mlem and hmmlearn.

``python tests/benchmarks/hmm.py``; 50 sequences of 2,000 steps, K = 4 states with Normal emissions, CPU time. The
E-step of pm_mlem is the log-partition and its derivative with respect to every log-density array (initial states,
transitions, emissions); that of hmmlearn its private ``_do_estep``, which accumulates sufficient statistics.
"""

import numpy as np
import pymc as pm
from common import alternate, table

SEQUENCES, STEPS, K = 50, 2_000, 4
P = np.full((K, K), 0.04) + np.eye(K) * (1 - 0.04 * K)
MU, SIGMA = np.array([-2.0, -0.6, 0.7, 2.2]), np.array([1.0, 0.7, 0.9, 1.2])


def simulate():
    rng = np.random.default_rng(14)
    z = np.empty((SEQUENCES, STEPS), int)
    z[:, 0] = rng.integers(K, size=SEQUENCES)
    cumulated = P.cumsum(axis=1)
    for t in range(1, STEPS):
        z[:, t] = (rng.random(SEQUENCES)[:, None] > cumulated[z[:, t - 1]]).sum(axis=1).clip(0, K - 1)
    return rng.normal(MU[z], SIGMA[z])


def ours(y):
    import jax
    from pymc_extras.distributions import DiscreteMarkovChain

    from pm_mlem.objective.engine import engine_for
    from pm_mlem.objective.m_step.step import e_step

    with pm.Model() as model:
        p = pm.Dirichlet("p", np.ones(K))
        transitions = pm.Dirichlet("P", np.ones((K, K)))
        mu = pm.Normal("mu", 0, 10, shape=K)
        sigma = pm.HalfNormal("sigma", 10, shape=K)
        z = DiscreteMarkovChain("z", P=transitions, init_dist=pm.Categorical.dist(p=p), shape=y.shape)
        pm.Normal("y", mu[z], sigma[z], observed=y)
    engine = engine_for(model, "mle")
    objective = engine.objective
    point = objective.space.unconstrain({"p": np.full(K, 1 / K), "P": P, "mu": MU, "sigma": SIGMA})
    unit = np.ones(objective.n_units)
    run = jax.jit(lambda u, weights, data: e_step(objective, objective.space.constrain(u), weights, data))
    return lambda: float(jax.block_until_ready(run(point, unit, engine.data))[0])


def theirs(y, implementation):
    from hmmlearn.hmm import GaussianHMM

    hmm = GaussianHMM(K, "diag", implementation=implementation)
    hmm.n_features = 1
    hmm.startprob_, hmm.transmat_ = np.full(K, 1 / K), P
    hmm.means_, hmm.covars_ = MU[:, None], SIGMA[:, None] ** 2
    flat, lengths = y.reshape(-1, 1), [STEPS] * SEQUENCES
    return lambda: float(hmm._do_estep(flat, lengths)[1])


def main():
    y = simulate()
    functions = {"pm_mlem": ours(y)}
    try:
        functions |= {f"hmmlearn, {name}": theirs(y, name) for name in ("log", "scaling")}
    except ImportError:
        print("hmmlearn is absent")
    values = {name: function() for name, function in functions.items()}
    times = alternate(functions)
    rows = [
        (name, f"{1e3 * times[name]:.1f}", f"{times[name] / times['pm_mlem']:.1f}", f"{values[name]:.6f}")
        for name in functions
    ]
    table(["", "E-step, CPU ms", "ratio", "log-likelihood"], rows)


if __name__ == "__main__":
    main()
