"""
Hidden Markov model: calm and busy days
=======================================

Calls to a help line by day; the days have moods that last. The chain is summed out by a forward recursion, and
``fit.decode()`` finds the most probable path (Viterbi).
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

rng = np.random.default_rng(5)
mood = np.zeros(120, dtype=int)
for t in range(1, 120):
    mood[t] = mood[t - 1] if rng.random() < 0.92 else 1 - mood[t - 1]
calls = rng.poisson(np.where(mood == 1, 9.0, 3.0))

with pm.Model(coords={"mood": ["calm", "busy"]}) as model:
    stay = pm.Beta("stay", 9, 1, dims="mood")
    rate = pm.Gamma("rate", 2, 0.3, dims="mood", initval=[2.0, 8.0])
    P = pm.math.stack([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]])
    days = [pm.Categorical("day_0", [0.5, 0.5])]
    for t in range(1, len(calls)):
        days.append(pm.Categorical(f"day_{t}", P[days[-1]]))
    pm.Poisson("calls", rate[pm.math.stack(days)], observed=calls)

fit = mlem.fit(model, random_seed=1, progressbar=False)
print(fit.summary())

# %%
# The probability of a busy day, over time.
mlem.plot_latents(fit)
