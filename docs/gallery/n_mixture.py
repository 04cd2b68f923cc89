"""
N-mixture: animals that were not seen
=====================================

Repeated counts of birds at 30 sites. How many were there is a latent count without an upper bound; it is summed out up
to where nothing is left. Counts that vary from visit to visit tell detection from abundance.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

rng = np.random.default_rng(9)
there = rng.poisson(6.0, 30)
seen = rng.binomial(there[:, None], 0.5, size=(30, 4))

with pm.Model(coords={"site": np.arange(30), "visit": np.arange(4)}) as model:
    abundance = pm.Gamma("abundance", 2, 0.2)
    detection = pm.Beta("detection", 1, 1)
    n = pm.Poisson("n", abundance, dims="site")
    pm.Binomial("seen", n[:, None], detection, observed=seen, dims=("site", "visit"))

fit = mlem.fit(model, random_seed=1, progressbar=False)
print(fit.summary())

# %%
# Detection and abundance trade off: the likelihood has a ridge.
mlem.plot_profile(fit, "abundance")
