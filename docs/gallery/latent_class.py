"""
Latent classes: what people have in common
==========================================

Answers of 216 people to four dilemmas between a friend and a rule (Stouffer & Toby 1951; every row is a pattern of
answers and how often it came). Two classes explain how the answers go together; frequencies are weights.
"""

from itertools import product

import numpy as np
import pymc as pm

import pm_mlem as mlem

answers = np.array(list(product([0, 1], repeat=4)))
count = np.array([20, 2, 9, 2, 6, 1, 4, 1, 38, 7, 24, 6, 25, 6, 23, 42])

coords = {"class": ["first", "second"], "item": ["car", "drama", "insurance", "board"]}
with pm.Model(coords=coords) as model:
    w = pm.Dirichlet("w", np.ones(2), dims="class")
    p = pm.Beta("p", 1, 1, dims=("class", "item"), initval=np.array([[0.3] * 4, [0.7] * 4]))
    z = pm.Categorical("z", w, shape=len(answers))
    pm.Bernoulli("answer", p[z], observed=answers)

fit = mlem.fit(model, weights=count, random_seed=1, progressbar=False)
print(fit.log_likelihood, fit.n_params, fit.bic)

# %%
# Probabilities of the answer in each class, with 95 % intervals.
mlem.plot_estimates({"two classes": fit}, var_names=["p", "w"])
