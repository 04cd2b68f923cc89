"""
Estimates on ArviZ's own plots
==============================

Every plot of ArviZ can carry the estimates of a fit and their intervals.
"""

import arviz as az
import numpy as np
import pymc as pm

import pm_mlem as mlem

rng = np.random.default_rng(7)
x = rng.normal(size=25)
y = 1.0 + 0.5 * x + rng.normal(size=25)

with pm.Model() as model:
    a, b = pm.Normal("a", 0, 0.5), pm.Normal("b", 0, 0.5)
    pm.Normal("y", a + b * x, pm.HalfNormal("sigma", 1), observed=y)
    posterior = pm.sample(500, tune=500, chains=2, random_seed=1, progressbar=False)

fit = mlem.fit(model, progressbar=False)

# %%
# The prior draws the posterior of the intercept away from the maximum of the likelihood.
mlem.add_estimates(az.plot_dist(posterior), fit)
