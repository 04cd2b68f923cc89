"""
Bootstrap: the estimator's own distribution
===========================================

A skewed estimator: the ratio of two means. Resampling the rows shows its distribution, and intervals that follow it.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

rng = np.random.default_rng(1)
pairs = rng.gamma([2.0, 3.0], [1.0, 1.5], size=(40, 2))

with pm.Model() as model:
    mean = pm.HalfNormal("mean", 10, shape=2)
    shape = pm.HalfNormal("shape", 5, shape=2)
    pm.Deterministic("ratio", mean[1] / mean[0])
    pm.Gamma("pairs", alpha=shape, beta=shape / mean, observed=pairs)

fit = mlem.fit(model, progressbar=False)
replicates = fit.bootstrap(400, random_seed=1, progressbar=False)
print(fit.confidence_intervals(kind="bootstrap", bootstrap=replicates, var_names=["ratio"])["ratio"].values)

# %%
# Replicates, the estimate and the interval.
mlem.plot_bootstrap(replicates, var_names=["ratio"])
