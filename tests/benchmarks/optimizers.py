"""The package's optimizers beside kept ones, on the same compiled functions in the same scaled coordinates.

    python tests/benchmarks/optimizers.py [--models 5]

The problems are those of ``tests/models/zoo.py`` without latents, random models in units from 1e-8 to 1e8
(``tests/models/units.py``), powers of the year, and separated outcomes. Every optimizer starts at the model's initial
point; others than the package's see coordinates with unit curvature at the start, as L-BFGS does. A run fails where it
ends more than 1e-6 of log-likelihood below the best of all. Evaluations are calls of value and gradient, of Hessians
and of products (none are counted of optimistix). optimistix, optax and fides are used where they are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

import pymc as pm
from scipy.optimize import minimize

from pm_mlem.estimate.target import target_of
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.optimize import LBFGS, Adam, Newton, run
from pm_mlem.optimize.curvature import diagonal
from pm_mlem.optimize.truncated import TruncatedNewton
from pm_mlem.precision import double
from units import FAMILIES, draw, units_of
from zoo import ZOO

FAILS = 1e-6


class Counted:
    """A problem that counts, with what SciPy and others want of it: minimised, in scaled coordinates."""

    def __init__(self, target, problem, start):
        self.objective = lambda u: target.objective.value(u, target.weights, target.data)
        self.calls = defaultdict(int)
        self.problem = replace(
            problem,
            value_and_gradient=self.counting("value", problem.value_and_gradient),
            derivatives=self.counting("hessian", problem.derivatives),
            products=self.counting("product", problem.products),
            em=None,
        )
        self.start = start
        self.sizes = diagonal(problem, start)
        self.best = -np.inf

    def counting(self, name, function):
        def call(*args):
            self.calls[name] += 1
            return function(*args)

        return call

    def point(self, v):
        return self.start + v / self.sizes

    def fun(self, v):
        value, gradient = self.problem.value_and_gradient(self.point(v))
        if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
            return 1e300, np.zeros(len(v))
        self.best = max(self.best, float(value))
        return -value, -gradient / self.sizes

    def hess(self, v):
        hessian = self.problem.derivatives(self.point(v))[2]
        return -np.nan_to_num(hessian) / np.outer(self.sizes, self.sizes)

    def hessp(self, v, d):
        return -self.problem.products(self.point(v), d / self.sizes) / self.sizes


def of_ours(algorithm):
    def optimize(counted):
        return run(algorithm, counted.problem, counted.start).value

    return optimize


def of_scipy(method, **options):
    def optimize(counted):
        extra = {"hess": counted.hess} if method == "trust-exact" else {}
        extra |= {"hessp": counted.hessp} if method in ("trust-krylov", "trust-ncg") else {}
        minimize(counted.fun, np.zeros(len(counted.start)), jac=True, method=method, options=options, **extra)
        return counted.best

    return optimize


def of_optax(counted, steps=3000):
    import jax
    import optax

    rule = optax.adam(optax.linear_schedule(0.05, 0.0, steps))
    v = np.zeros(len(counted.start))
    state, update = rule.init(v), jax.jit(rule.update)
    for _ in range(steps):
        change, state = update(counted.fun(v)[1], state, v)
        v = v + np.asarray(change)
    counted.fun(v)
    return counted.best


def of_fides(counted):
    import fides

    def evaluate(v):
        value, slope = counted.fun(v)
        return value, slope, counted.hess(v)

    bound = np.full(len(counted.start), np.inf)
    options = {
        fides.Options.FATOL: 0.0,
        fides.Options.FRTOL: 1e-15,
        fides.Options.GATOL: 1e-7,
        fides.Options.MAXITER: 500,
    }
    fides.Optimizer(evaluate, ub=bound, lb=-bound, verbose=50, options=options).minimize(np.zeros(len(counted.start)))
    return counted.best


def of_optimistix(counted):
    import optimistix

    def minus(v, _):
        return -counted.objective(counted.start + v / counted.sizes)

    solver = optimistix.BFGS(rtol=1e-12, atol=1e-12)
    found = optimistix.minimise(minus, solver, np.zeros(len(counted.start)), max_steps=2000, throw=False)
    counted.fun(np.asarray(found.value))
    return counted.best


def peers():
    yield "Newton", of_ours(Newton())
    yield "SciPy trust-exact", of_scipy("trust-exact", gtol=1e-7, maxiter=500)
    yield "truncated Newton", of_ours(TruncatedNewton())
    yield "SciPy trust-krylov", of_scipy("trust-krylov", gtol=1e-7, maxiter=500)
    yield "L-BFGS", of_ours(LBFGS())
    yield "SciPy L-BFGS-B", of_scipy("L-BFGS-B", gtol=1e-7, ftol=1e-15, maxcor=20, maxiter=5000, maxfun=20000)
    yield "Adam", of_ours(Adam())
    for module, name, optimize in (
        ("optax", "optax Adam", of_optax),
        ("fides", "fides", of_fides),
        ("optimistix", "optimistix BFGS", of_optimistix),
    ):
        if importlib.util.find_spec(module):
            yield name, optimize


def year(degree):
    rng = np.random.default_rng(6)
    t = rng.integers(1990, 2020, 400).astype(float)
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10, shape=degree + 1)
        mean = sum(b[d] * t**d for d in range(degree + 1))
        pm.Normal("y", mean, pm.HalfNormal("s", 2), observed=3 + 0.1 * (t - 2005) + rng.normal(size=400))
    return model


def separated():
    x = np.random.default_rng(0).normal(size=40)
    with pm.Model() as model:
        pm.Bernoulli("y", logit_p=pm.Normal("b") * 1e4 * x, observed=(x > 0).astype(int))
    return model


def problems(count):
    for entry in ZOO.values():
        if not entry.latent:
            yield "zoo", entry.name, entry.build()
    for family in FAMILIES:
        if family in ("mixture", "chain"):
            continue
        for i in range(count):
            rng = np.random.default_rng([11, i])
            case = draw(rng, family)
            yield "units", f"{family} {i}", case.model(units_of(rng, case))
    for degree in (2, 3):
        yield "year", f"year**{degree}", year(degree)
    yield "separated", "separated", separated()


@double()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=3, help="random models of each family")
    count = parser.parse_args().models
    warnings.simplefilter("ignore")
    table = defaultdict(lambda: defaultdict(lambda: [0, 0, 0.0, 0, 0, 0]))
    for kind, name, model in problems(count):
        target = target_of(model, "mle", Choices(), None)
        problem, start = target.problem(0), target.space.initial
        ends = {}
        for peer, optimize in peers():
            if not ends or peer.startswith("optimistix"):  # compiled before anything is timed
                optimize(Counted(target, problem, start))
            counted = Counted(target, problem, start)
            began = time.process_time()
            try:
                ends[peer] = optimize(counted)
            except Exception as error:
                ends[peer] = -np.inf
                print(f"{name}: {peer} raised {type(error).__name__}: {error}")
            row = table[kind][peer]
            row[0] += 1
            row[2] += time.process_time() - began
            for k, what in enumerate(("value", "hessian", "product"), start=3):
                row[k] += counted.calls[what]
        best = max(ends.values())
        for peer, value in ends.items():
            failed = not value >= best - FAILS - 1e-12 * abs(best)
            table[kind][peer][1] += failed
            if failed:
                print(f"{name}: {peer} ends {best - value:.3g} below the best")
    for kind, rows in table.items():
        print(f"\n{kind:<22} runs  failed   CPU s   values  Hessians  products")
        for peer, (runs, failed, cpu, *calls) in rows.items():
            print(f"{peer:<22} {runs:>4} {failed:>7} {cpu:>7.2f} " + " ".join(f"{c:>8}" for c in calls))


if __name__ == "__main__":
    main()
