"""Effective draws per second: mlem.sample, NUTS on the marginal model, and what PyMC does with the model as it is.

Run ``python tests/benchmarks/sampling.py``; every row is a process of its own with fixed seeds.
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path

from common import child, table

sys.path = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]  # numba looks for "coverage"

import arviz as az  # noqa: E402
import numpy as np  # noqa: E402
import pymc as pm  # noqa: E402

import pm_mlem as mlem  # noqa: E402

OPTIONS = {"chains": 2, "cores": 1, "random_seed": 1, "progressbar": False, "compute_convergence_checks": False}


def mixture():
    rng = np.random.default_rng(1)
    kind = rng.random(200) < 0.4
    y = np.where(kind, rng.normal(-1.0, 1.0, 200), rng.normal(1.5, 0.7, 200))
    with pm.Model() as model:
        w = pm.Dirichlet("w", [2.0, 2.0])
        mu = pm.Normal("mu", 0, 3, shape=2)
        sigma = pm.HalfNormal("sigma", 2, shape=2)
        z = pm.Categorical("z", w, shape=200)
        pm.Normal("y", mu[z], sigma[z], observed=y)
    return model, ["w", "mu", "sigma"]


def chain():
    from pymc_extras.distributions import DiscreteMarkovChain

    rng = np.random.default_rng(2)
    states = np.cumsum(rng.random(200) < 0.1) % 2
    y = rng.normal(2.0 * states - 1.0, 0.8)
    with pm.Model() as model:
        P = pm.Dirichlet("P", np.array([[8.0, 2.0], [2.0, 8.0]]))
        mu = pm.Normal("mu", 0, 3, shape=2)
        sigma = pm.HalfNormal("sigma", 2)
        start = pm.Categorical.dist([0.5, 0.5])
        z = DiscreteMarkovChain("z", P=P, init_dist=start, shape=(200,))
        pm.Normal("y", mu[z], sigma, observed=y)
    return model, ["P", "mu", "sigma"]


MODELS = {"mixture": mixture, "chain": chain}


def from_fit(model, fit, draws=1000, tune=300):
    return mlem.sample(fit, draws, tune=tune, **OPTIONS)


def on_the_marginal(model, fit, draws=1000, tune=1000):
    return pm.sample(draws, tune=tune, model=mlem.marginalize(model), **OPTIONS)


def as_it_is(model, fit, draws=1000, tune=1000):
    start = {name: fit.estimates[name].values for name in fit._estimate.target.engine.objective.space.names}
    return pm.sample(draws, tune=tune, model=model, initvals=start, **OPTIONS)


METHODS = {
    "mlem.sample(fit), tune=300": from_fit,
    "pm.sample of mlem.marginalize(model), tune=1000": on_the_marginal,
    "pm.sample of the model, NUTS and Gibbs, tune=1000": as_it_is,
}


def measure(which, method):
    logging.getLogger("pymc").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    model, names = MODELS[which]()
    started = time.process_time()
    fit = mlem.fit(model, "map", random_seed=1, progressbar=False)
    fitted = time.process_time() - started
    METHODS[method](model, fit, 10, 10)  # compile
    started = time.process_time()
    tree = METHODS[method](model, fit)
    seconds = time.process_time() - started
    posterior = tree["posterior"].to_dataset()[names]
    ess, rhat = az.ess(posterior), az.rhat(posterior)
    least = min(float(ess[name].min()) for name in names)
    worst = max(float(rhat[name].max()) for name in names)
    return {
        "fit": fitted,
        "seconds": seconds,
        "sampling": posterior.attrs["sampling_time"],
        "ess": least,
        "rhat": worst,
    }


def main():
    for which in MODELS:
        rows = []
        for method in METHODS:
            found = child(__file__, which, method)
            if found is None:
                rows.append((method, *["failed"] * 6))
                continue
            rate, inner = found["ess"] / found["seconds"], found["ess"] / found["sampling"]
            figures = [f"{found['ess']:.0f}", f"{found['rhat']:.3f}", f"{found['seconds']:.1f}", f"{rate:.1f}"]
            rows.append((method, *figures, f"{found['sampling']:.2f}", f"{inner:.0f}"))
        print(f"\n{which}: smallest bulk ESS of the parameters in 2 x 1000 draws, second call of each")
        header = ["", "ESS", "R-hat", "CPU s", "ESS / CPU s", "sampling s", "ESS / sampling s"]
        table(header, rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main()
