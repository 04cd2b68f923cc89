"""How often 95 % intervals hold the value that made the data: Wald and profile intervals on eight models.

    python tests/benchmarks/coverage.py                       # all models, 1,000 data sets each
    python tests/benchmarks/coverage.py hmm zip --sets 200    # some of them, fewer

Every model is compiled once; data sets are drawn with NumPy from the parameters below and refitted from there. Fits
that do not converge are counted, not hidden, and so are intervals that do not exist.
"""

import argparse
import dataclasses
import time
import warnings
from typing import ClassVar

import numpy as np
import pymc as pm
import pymc_extras as pmx
from common import table

import pm_mlem as mlem
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.optimize.loop import run

LEVEL = 0.95
SEED = 20260101
FIXED = np.random.default_rng(1)
N = 100
X = np.column_stack([np.ones(N), FIXED.normal(size=N), FIXED.random(N) < 0.3])


# --- the models: true parameters, data, model -------------------------------------------------------------


class Model:
    """True parameters by name, the parameters whose intervals are shown, and how to draw data."""

    truth: ClassVar[dict]
    shown: ClassVar[list[str]]


class Logit(Model):
    truth: ClassVar = {"beta": np.array([-0.5, 0.8, 0.7])}
    shown: ClassVar = ["beta"]

    def draw(self, rng):
        return {"y": rng.random(N) < 1 / (1 + np.exp(-X @ self.truth["beta"]))}

    def model(self, data):
        with pm.Model() as model:
            pm.Bernoulli("y", logit_p=X @ pm.Normal("beta", 0, 5, shape=3), observed=data["y"].astype(int))
        return model


class Poisson(Model):
    truth: ClassVar = {"beta": np.array([0.3, 0.4, -0.6])}
    shown: ClassVar = ["beta"]

    def draw(self, rng):
        return {"y": rng.poisson(np.exp(X @ self.truth["beta"]))}

    def model(self, data):
        with pm.Model() as model:
            pm.Poisson("y", pm.math.exp(X @ pm.Normal("beta", 0, 5, shape=3)), observed=data["y"])
        return model


class Weibull(Model):
    """Survival times, right-censored at 2: about a third."""

    truth: ClassVar = {"alpha": 1.5, "beta": np.array([0.6, -0.4, 0.3])}
    shown: ClassVar = ["alpha", "beta"]

    def draw(self, rng):
        times = np.exp(X @ self.truth["beta"]) * rng.weibull(self.truth["alpha"], N)
        return {"y": np.minimum(times, 2.0)}

    def model(self, data):
        with pm.Model() as model:
            alpha, beta = pm.HalfNormal("alpha", 5, initval=1.0), pm.Normal("beta", 0, 5, shape=3)
            latent = pm.Weibull.dist(alpha, pm.math.exp(X @ beta))
            pm.Censored("y", latent, lower=None, upper=2.0, observed=data["y"])
        return model


class NormalMixture(Model):
    truth: ClassVar = {"w": np.array([0.3, 0.7]), "mu": np.array([0.0, 3.0]), "sigma": np.array([1.0, 0.8])}
    shown: ClassVar = ["w", "mu", "sigma"]

    def draw(self, rng):
        z = (rng.random(200) < self.truth["w"][1]).astype(int)
        return {"y": rng.normal(self.truth["mu"][z], self.truth["sigma"][z])}

    def model(self, data):
        with pm.Model() as model:
            w = pm.Dirichlet("w", np.ones(2))
            mu, sigma = pm.Normal("mu", 0, 5, shape=2), pm.HalfNormal("sigma", 3, shape=2)
            z = pm.Categorical("z", w, shape=200)
            pm.Normal("y", mu[z], sigma[z], observed=data["y"])
        return model


class PoissonMixture(Model):
    truth: ClassVar = {"w": np.array([0.4, 0.6]), "rate": np.array([2.0, 8.0])}
    shown: ClassVar = ["w", "rate"]

    def draw(self, rng):
        return {"y": rng.poisson(self.truth["rate"][(rng.random(200) < 0.6).astype(int)])}

    def model(self, data):
        with pm.Model() as model:
            rate = pm.Gamma("rate", 1, 0.1, shape=2)
            z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=200)
            pm.Poisson("y", rate[z], observed=data["y"])
        return model


class HMM(Model):
    truth: ClassVar = {
        "P": np.array([[0.9, 0.1], [0.2, 0.8]]), "mu": np.array([0.0, 2.5]), "sigma": 1.0,
    }  # fmt: skip
    shown: ClassVar = ["P", "sigma"]

    def draw(self, rng):
        z = np.zeros(300, dtype=int)
        for t in range(1, 300):
            z[t] = rng.random() < self.truth["P"][z[t - 1], 1]
        return {"y": rng.normal(self.truth["mu"][z], self.truth["sigma"])}

    def model(self, data):
        with pm.Model() as model:
            P = pm.Dirichlet("P", np.ones((2, 2)))
            mu, sigma = pm.Normal("mu", 0, 5, shape=2), pm.HalfNormal("sigma", 3)
            start = pm.Categorical.dist([0.999999, 0.000001])
            z = pmx.distributions.DiscreteMarkovChain("z", P=P, init_dist=start, shape=300)
            pm.Normal("y", mu[z], sigma, observed=data["y"])
        return model


class LatentClass(Model):
    truth: ClassVar = {
        "w": np.array([0.4, 0.6]), "p": np.array([[0.9, 0.8, 0.7, 0.8, 0.9], [0.2, 0.1, 0.3, 0.2, 0.4]]),
    }  # fmt: skip
    shown: ClassVar = ["w"]

    def draw(self, rng):
        z = (rng.random(300) < 0.6).astype(int)
        return {"y": rng.random((300, 5)) < self.truth["p"][z]}

    def model(self, data):
        with pm.Model() as model:
            p = pm.Beta("p", 1, 1, shape=(2, 5))
            z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=300)
            pm.Bernoulli("y", p[z], observed=data["y"].astype(int))
        return model


class ZeroInflated(Model):
    truth: ClassVar = {"beta": np.array([0.8, 0.4, -0.3]), "psi": 0.7}
    shown: ClassVar = ["beta", "psi"]

    def draw(self, rng):
        counts = rng.poisson(np.exp(X @ self.truth["beta"]))
        return {"y": np.where(rng.random(N) < self.truth["psi"], counts, 0)}

    def model(self, data):
        with pm.Model() as model:
            rate = pm.math.exp(X @ pm.Normal("beta", 0, 5, shape=3))
            pm.ZeroInflatedPoisson("y", pm.Beta("psi", 1, 1), rate, observed=data["y"])
        return model


MODELS = {
    "logit": Logit, "poisson": Poisson, "weibull": Weibull, "normal_mixture": NormalMixture,
    "poisson_mixture": PoissonMixture, "hmm": HMM, "latent_class": LatentClass, "zip": ZeroInflated,
}  # fmt: skip


# --- the study --------------------------------------------------------------------------------------------

KINDS = ("wald", "profile")


class Refits:
    """Fits of one model to data of the same shapes, started at the truth; compiled functions are shared."""

    def __init__(self, fit, truth):
        self.fit, estimate = fit, fit._estimate
        self.target = estimate.target.replaceable(estimate.point)
        self.start = self.target.space.unconstrain(truth)

    def __call__(self, drawn):
        target = self.target.with_data(drawn)
        return dataclasses.replace(
            self.fit, _estimate=Estimate(target, run(mlem.Newton(), target.problem(), self.start))
        )


def study(name, sets, seed):
    """For each entry and kind of interval: how often it held the truth, over how many intervals; and failed fits."""
    kind = MODELS[name]()
    rng = np.random.default_rng([seed, list(MODELS).index(name)])
    fit = mlem.fit(kind.model(kind.draw(rng)), method="newton", starts=[kind.truth], progressbar=False)
    refit = Refits(fit, kind.truth)
    counts, failed = {}, 0
    for _ in range(sets):
        fit = refit(kind.draw(rng))
        if not fit.converged:
            failed += 1
            continue
        for how in KINDS:
            with warnings.catch_warnings():  # profiles that lead to a higher optimum: their bounds are missing
                warnings.simplefilter("ignore", mlem.LocalOptimaWarning)
                intervals = fit.confidence_intervals(LEVEL, kind=how, var_names=kind.shown)
            for variable in kind.shown:
                truth: ClassVar = np.asarray(kind.truth[variable])
                for i in np.ndindex(*truth.shape):
                    lower, upper = intervals[variable].values[i]
                    held, made = counts.get((variable, i, how), (0, 0))
                    exists = not np.isnan(lower + upper)
                    counts[variable, i, how] = held + (exists and lower <= truth[i] <= upper), made + exists
    return counts, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=", ".join(MODELS))
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    rows = []
    for name in options.models or MODELS:
        start = time.process_time()
        counts, failed = study(name, options.sets, options.seed)
        for variable, i, how in counts:
            if how == KINDS[0]:
                entry = f"{variable}[{', '.join(map(str, i))}]" if i else variable
                missing = [options.sets - failed - counts[variable, i, k][1] for k in KINDS]
                rows.append((name, entry, *[shown(*counts[variable, i, k]) for k in KINDS], failed, *missing))
        print(f"{name}: {options.sets} data sets in {time.process_time() - start:.0f} CPU s", flush=True)
    table(("model", "parameter", *KINDS, "failed fits", "no Wald", "no profile"), rows)


def shown(held, made):
    """Coverage in per cent with its Monte Carlo standard error."""
    share = held / made
    return f"{100 * share:.1f} ({100 * np.sqrt(share * (1 - share) / made):.1f})"


if __name__ == "__main__":
    main()
