"""
EM, step by step
================

The same mixture from a poor start. Every E-step lays a bound below the log-likelihood that touches it at the
estimates; every M-step climbs to the top of the bound.
"""

from itertools import islice

import numpy as np
import pymc as pm

import pm_mlem as mlem

waits = mlem.demo.waiting_times()

with pm.Model(coords={"kind": ["short", "long"]}) as model:
    w = pm.Dirichlet("w", np.ones(2), dims="kind")
    mu = pm.Normal("mu", 70, 20, dims="kind")
    sigma = pm.HalfNormal("sigma", 10)
    z = pm.Categorical("z", w, shape=len(waits))
    pm.Normal("waiting", mu[z], sigma, observed=waits)

start = {"mu": [66.0, 74.0], "sigma": 12.0}
steps = list(islice(mlem.em_steps(model, start=start), 30))
print(f"{steps[0].log_likelihood:.2f} -> {steps[-1].log_likelihood:.2f}")

# %%
# Nothing much happens until the components part; then a few steps do the work.
mlem.plot_em_steps(steps)
