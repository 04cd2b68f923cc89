"""
Beside the posterior: a point and its ellipse
=============================================

The posterior of a mixture with its labels summed out, and the normal approximation of the maximum-likelihood
estimator. Where they agree the cheap answer will do.
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
posterior = mlem.sample(fit, draws=500, tune=500, chains=2, random_seed=1, progressbar=False)

# %%
# Draws of NUTS, the estimate, and its 95 % ellipse.
mlem.plot_pair_estimates({"NUTS": posterior, "MLE": fit}, var_names=["mu"])
