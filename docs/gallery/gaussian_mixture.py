"""
Gaussian mixture: two kinds of eruptions
========================================

Waiting times of Old Faithful. Which kind an eruption was nobody wrote down; the labels are summed out.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

waits = mlem.demo.waiting_times()

with pm.Model(coords={"kind": ["short", "long"]}) as model:
    w = pm.Dirichlet("w", np.ones(2), dims="kind")
    mu = pm.Normal("mu", 70, 20, dims="kind", initval=[55.0, 80.0])
    sigma = pm.HalfNormal("sigma", 10, dims="kind")
    z = pm.Categorical("z", w, shape=len(waits))
    pm.Normal("waiting", mu[z], sigma[z], observed=waits)

fit = mlem.fit(model, random_seed=1, progressbar=False)
print(fit.summary())

# %%
# The data, each component times its weight, and their sum.
mlem.plot_density(fit)
