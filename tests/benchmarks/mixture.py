"""Value and gradient of a univariate Normal mixture: pm_mlem and ``pymc_extras.marginalize`` with each backend.

``python tests/benchmarks/mixture.py``; N = 20,000 observations, K = 3 components, the same point for all, CPU time.
"""

import importlib
import json
import sys
import time

import numpy as np
import pymc as pm
from common import alternate, child, table

N, K = 20_000, 3
BACKENDS = {"jax": "JAX", "numba": "NUMBA", "c": "CVM"}


def build():
    rng = np.random.default_rng(0)
    z = rng.choice(K, p=[0.2, 0.3, 0.5], size=N)
    y = rng.normal(np.array([-3.0, 0.0, 4.0])[z], np.array([1.0, 0.7, 1.5])[z])
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(K))
        mu = pm.Normal("mu", 0, 10, shape=K)
        sigma = pm.HalfNormal("sigma", 10, shape=K)
        labels = pm.Categorical("z", w, shape=N)
        pm.Normal("y", mu[labels], sigma[labels], observed=y)
    return model


POINT = {"w_simplex__": [0.1, -0.2], "mu": [-2.0, 0.5, 3.0], "sigma_log__": [0.1, -0.1, 0.3]}
"""Unconstrained values."""


def ours(model):
    from pm_mlem.objective.engine import engine_for

    engine = engine_for(model, "map")
    objective = engine.objective
    unit = np.ones(objective.n_units)
    point = np.concatenate(list(POINT.values()))  # in the order of declaration

    def evaluate():
        value, gradient = objective.value_and_gradient(point, unit, engine.data)
        return float(value), np.asarray(gradient)

    return evaluate


def theirs(model, backend):
    import pymc_extras as pmx

    marginal = pmx.marginalize(model, ["z"])
    function = marginal.logp_dlogp_function(mode=BACKENDS[backend], ravel_inputs=True)
    function.set_extra_values({})
    point = np.concatenate([POINT[name] for name in marginal.initial_point()])

    def evaluate():
        value, gradient = function(point)
        return float(value), np.asarray(gradient)  # waits for JAX

    return evaluate


def evaluator(who, model):
    return ours(model) if who == "pm_mlem" else theirs(model, who)


def first(who):
    """CPU seconds from the model to the first value and gradient, imports excluded."""
    for module in ("jax", "pm_mlem.objective.engine") if who == "pm_mlem" else ("jax", "pymc_extras"):
        importlib.import_module(module)
    model = build()
    start = time.process_time()
    evaluator(who, model)()
    print(json.dumps(time.process_time() - start))


def main():
    names = ["pm_mlem"]
    try:
        import pymc_extras  # noqa: F401

        names += list(BACKENDS)
    except ImportError:
        print("pymc_extras is absent")
    firsts = {name: [child(__file__, name) for _ in range(3)] for name in names}
    names = [name for name in names if None not in firsts[name]]
    times = alternate({name: evaluator(name, build()) for name in names}, rounds=30)
    rows = [
        (
            name if name == "pm_mlem" else f"marginalize, {name}",
            f"{1e3 * times[name]:.2f}",
            f"{times[name] / times['pm_mlem']:.1f}",
            f"{min(firsts[name]):.2f}",
        )
        for name in names
    ]
    table(["", "value + gradient, CPU ms", "ratio", "model to first value, CPU s"], rows)


if __name__ == "__main__":
    first(sys.argv[1]) if len(sys.argv) > 1 else main()
