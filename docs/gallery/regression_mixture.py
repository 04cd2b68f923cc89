"""
Mixture of regressions: two lines in one cloud
==============================================

Two kinds of customers answer to the price in opposite ways; which is which is hidden.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

rng = np.random.default_rng(2)
price = rng.uniform(-1, 1, 150)
bargain = rng.random(150) < 0.4
sales = np.where(bargain, 2.0 - 3.0 * price, 3.0 + 1.0 * price) + rng.normal(0, 0.4, 150)

with pm.Model(coords={"kind": ["bargain hunter", "collector"], "customer": np.arange(150)}) as model:
    w = pm.Dirichlet("w", np.ones(2), dims="kind")
    a = pm.Normal("a", 0, 5, dims="kind")
    b = pm.Normal("b", 0, 5, dims="kind", initval=[-1.0, 1.0])
    z = pm.Categorical("z", w, dims="customer")
    pm.Normal("sales", a[z] + b[z] * price, pm.HalfNormal("sigma", 1), observed=sales, dims="customer")

fit = mlem.fit(model, random_seed=1, progressbar=False)
print(fit.summary())
found = fit.latent_probabilities["z"].sel(z_state="bargain hunter").values > 0.5
print(f"{np.mean(found == bargain):.0%} of the labels are right")

# %%
# Where the lines cross nobody can tell.
mlem.plot_latents(fit)
