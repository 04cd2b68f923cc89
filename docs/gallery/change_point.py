"""
Change point: coal mining disasters
===================================

Disasters in British coal mines by year, 1851 to 1961 (Jarrett 1979), with two years that are missing. When did they
become rarer? The year of the change is discrete: it is summed out, and its probabilities are the answer.
"""

import numpy as np
import pymc as pm

import pm_mlem as mlem

years = np.arange(1851, 1962)
text = """4 5 4 0 1 4 3 4 0 6 3 3 4 0 2 6 3 3 5 4 5 3 1 4 4 1 5 5 3 4 2 5 2 2 3 4 2 1 3 - 2 1 1 1 1 3 0 0 1 0 1 1 0 0
3 1 0 3 2 2 0 1 1 1 0 1 0 1 0 0 0 2 1 0 0 0 1 1 0 2 3 3 1 - 2 1 1 1 1 2 4 2 0 0 1 4 0 0 0 1 0 0 0 0 0 1 0 0 1 0 1"""
counts = np.array([-1 if c == "-" else int(c) for c in text.split()])
disasters = np.ma.masked_values(counts, -1)

with pm.Model() as model:
    change = pm.DiscreteUniform("change", 1851, 1961)
    early, late = pm.Exponential("early", 1), pm.Exponential("late", 1)
    pm.Poisson("disasters", pm.math.switch(change >= years, early, late), observed=disasters)

fit = mlem.fit(model, random_seed=1, progressbar=False)
print(fit.summary())
print("most probable:", fit.latent_probabilities["change"].idxmax("change_state").item())

# %%
# The last year of the old rate.
mlem.plot_latents(fit, var_name="change")
