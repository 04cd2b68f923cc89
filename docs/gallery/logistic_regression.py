"""
Logistic regression: MLE, MAP and a posterior in one picture
============================================================

Whether an O-ring was damaged, by the temperature at launch (23 flights of the space shuttle before 1986). With few
data the likelihood is lopsided: profile intervals show it, and a weak prior pulls.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

degrees = np.array([66, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58])
damage = np.array([0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1])

with pm.Model() as model:
    intercept, slope = pm.Normal("intercept", 0, 5), pm.Normal("slope", 0, 0.3)
    pm.Bernoulli("damage", logit_p=intercept + slope * (degrees - 70), observed=damage)

mle, penalized = mlem.fit(model, progressbar=False), mlem.fit(model, "map", progressbar=False)
with model:
    posterior = pm.sample(500, tune=500, chains=2, random_seed=1, progressbar=False)

# %%
# The estimates with their intervals; the posterior is wider on one side.
results = {"MLE": mle, "MAP": penalized, "NUTS": posterior}
print(mlem.compare(results))
mlem.plot_estimates(results)
