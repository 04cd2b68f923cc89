"""
How fast: EM, accelerated EM and L-BFGS
=======================================

Overlapping components make EM slow. SQUAREM extrapolates its steps; ``method="auto"`` finishes with Newton's method.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

rng = np.random.default_rng(3)
y = np.where(rng.random(300) < 0.35, rng.normal(2.0, 1.0, 300), rng.normal(-0.5, 1.0, 300))

with pm.Model() as model:
    w = pm.Dirichlet("w", np.ones(2))
    mu = pm.Normal("mu", 0, 5, shape=2, initval=[-1.0, 1.0])
    z = pm.Categorical("z", w, shape=len(y))
    pm.Normal("y", mu[z], pm.HalfNormal("sigma", 5), observed=y)

methods = {"EM": mlem.EM(accelerate=None), "SQUAREM": mlem.EM(), "L-BFGS": "lbfgs", "auto": "auto"}
fits = {name: mlem.fit(model, method=method, starts=1, progressbar=False) for name, method in methods.items()}
for name, fit in fits.items():
    print(f"{name:8s} {fit.iterations:4d} iterations  {fit.log_likelihood:.6f}")

# %%
# On the right a straight line is linear convergence.
mlem.plot_convergence(fits)
