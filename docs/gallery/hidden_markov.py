"""
Hidden Markov model: calm and busy days
=======================================

Calls to a help line by day; the days have moods that last. The chain is summed out by a forward recursion, and
``fit.decode()`` finds the most probable path (Viterbi).
"""

import numpy as np
import pymc as pm
import pymc_extras as pmx

import pm_mlem as mlem

rng = np.random.default_rng(5)
mood = np.zeros(120, dtype=int)
for t in range(1, 120):
    mood[t] = mood[t - 1] if rng.random() < 0.92 else 1 - mood[t - 1]
calls = rng.poisson(np.where(mood == 1, 9.0, 3.0))

with pm.Model(coords={"mood": ["calm", "busy"], "then": ["calm", "busy"], "day": np.arange(120)}) as model:
    P = pm.Dirichlet("P", np.ones(2), dims=("mood", "then"))
    rate = pm.Gamma("rate", 2, 0.3, dims="mood", initval=[2.0, 8.0])
    state = pmx.DiscreteMarkovChain("state", P=P, init_dist=pm.Categorical.dist([0.5, 0.5]), dims="day")
    pm.Poisson("calls", rate[state], observed=calls, dims="day")

fit = mlem.fit(model, random_seed=1, progressbar=False)
print(fit.summary())

# %%
# The calls, the probability of each mood, and the most probable path.
mlem.plot_latents(fit)
