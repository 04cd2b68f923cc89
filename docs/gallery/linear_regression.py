"""
Linear regression: which observations matter
============================================

Least squares is maximum likelihood with Normal errors. One observation that was written down wrongly moves the line;
the influence of every observation on the estimates finds it.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

rng = np.random.default_rng(4)
hours = np.sort(rng.uniform(0, 10, 30))
points = 40 + 4.0 * hours + rng.normal(0, 4, 30)
points[27] -= 40  # a slip of the pen

with pm.Model(coords={"student": np.arange(30)}) as model:
    intercept, slope = pm.Normal("intercept", 0, 50), pm.Normal("slope", 0, 10)
    pm.Normal("points", intercept + slope * hours, pm.HalfNormal("sigma", 20), observed=points, dims="student")

fit = mlem.fit(model, progressbar=False)
print(fit.summary(kind=["observed", "sandwich"]))

# %%
# Cook's distance by student: number 27 stands out.
mlem.plot_influence(fit.influence())
