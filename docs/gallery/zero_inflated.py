"""
Zero-inflated counts: more zeros than a Poisson distribution has
================================================================

Fish caught by groups of campers, some of whom did not fish at all. The hidden component of ``pm.ZeroInflatedPoisson``
is summed out like any other latent.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

rng = np.random.default_rng(8)
fished = rng.random(200) < 0.6
caught = np.where(fished, rng.poisson(3.2, 200), 0)

with pm.Model() as plain:
    pm.Poisson("caught", pm.HalfNormal("mu", 10), observed=caught)
with pm.Model() as inflated:
    psi = pm.Beta("psi", 1, 1)
    pm.ZeroInflatedPoisson("caught", psi, pm.HalfNormal("mu", 10), observed=caught)

fits = {"Poisson": mlem.fit(plain, progressbar=False), "zero-inflated": mlem.fit(inflated, progressbar=False)}
for name, fit in fits.items():
    print(f"{name:14s} log-likelihood {fit.log_likelihood:8.2f}   BIC {fit.bic:.1f}")

# %%
# The shares of each count, and the fitted probabilities by component.
mlem.plot_density(fits["zero-inflated"])
