"""
A few labels go a long way
==========================

Two groups that overlap. With every label known this is a complete-data problem; with none it is a mixture. One label
in twenty lies in between.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

rng = np.random.default_rng(6)
group = (rng.random(400) < 0.4).astype(int)
y = rng.normal(np.where(group == 1, 1.0, -1.0), 1.0)


def fitted(share):
    labels = np.ma.masked_array(group, rng.random(400) >= share)
    with pm.Model(coords={"group": ["low", "high"]}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="group")
        mu = pm.Normal("mu", 0, 5, dims="group", initval=[-1.0, 1.0])
        z = pm.Categorical("z", w, observed=labels) if share else pm.Categorical("z", w, shape=400)
        pm.Normal("y", mu[z], pm.HalfNormal("sigma", 5), observed=y)
    return mlem.fit(model, random_seed=1, progressbar=False)


# %%
# How much narrower the intervals become.
mlem.plot_estimates({"no labels": fitted(0), "5 %": fitted(0.05), "all": fitted(1.0)}, var_names=["w", "mu", "sigma"])
