"""
Coins and clicks: the likelihood as a curve
===========================================

Two versions of a web page were shown; some visitors clicked. The maximum of the log-likelihood is the share of
clicks, and how steeply it falls on both sides says how sure that is.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

shown, clicks = np.array([120, 140]), np.array([9, 21])

with pm.Model(coords={"page": ["old", "new"]}) as model:
    rate = pm.Beta("rate", 1, 1, dims="page")
    pm.Deterministic("lift", rate[1] / rate[0])
    pm.Binomial("clicked", n=shown, p=rate, observed=clicks, dims="page")

fit = mlem.fit(model, progressbar=False)
print(fit.summary())
np.testing.assert_allclose(fit.estimates["rate"], clicks / shown, rtol=1e-6)

# %%
# The profile of the lift, with the quadratic curve that a Wald interval believes in. No lift at all (1) is inside the
# interval where the curve is above the line.
mlem.plot_profile(fit, "lift", reference=1.0)
