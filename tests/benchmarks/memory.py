"""CPU time and resident memory as the data grow: a univariate Normal mixture with K = 10 components.

``python tests/benchmarks/memory.py``; every figure is from a process of its own. The peak includes that of the imports.
"""

import json
import sys
import time

import numpy as np
import pymc as pm
from common import child, peak_megabytes, table

K = 10
SIZES = (10_000, 100_000, 1_000_000)
TASKS = {
    "value": "value and gradient",
    "em": "fit: EM, 20 iterations, 1 start",
    "auto": "fit: auto, 1 start",
    "errors": "... and standard errors",
}


def build(n):
    rng = np.random.default_rng(0)
    mu = 4.0 * np.arange(K)
    y = rng.normal(mu[rng.integers(K, size=n)], 1.0)
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(K))
        location = pm.Normal("mu", 0, 10, shape=K)
        sigma = pm.HalfNormal("sigma", 10, shape=K)
        z = pm.Categorical("z", w, shape=n)
        pm.Normal("y", location[z], sigma[z], observed=y)
    return model, {"mu": mu + rng.normal(scale=0.3, size=K), "sigma": np.ones(K)}


def run(task, n):
    """One task; CPU seconds from the model to the end, and of the repeated part of it."""
    import pm_mlem as mlem
    from pm_mlem.objective.engine import engine_for

    model, start = build(n)
    began = time.process_time()
    if task == "value":
        engine = engine_for(model, "mle")
        objective = engine.objective
        point, unit = objective.space.unconstrain(start), np.ones(objective.n_units)
        each = []
        for _ in range(6):
            before = time.process_time()
            np.asarray(objective.value_and_gradient(point, unit, engine.data)[1])
            each.append(time.process_time() - before)
        part = min(each)
    else:
        method = mlem.EM(max_iterations=20) if task == "em" else "auto"
        fit = mlem.fit(model, method=method, starts=[start], progressbar=False)
        if task == "errors":
            fit.standard_errors()
        part = None
    print(json.dumps({"seconds": time.process_time() - began, "part": part, "peak": peak_megabytes()}))


def main():
    rows = []
    for task, title in TASKS.items():
        for n in SIZES:
            found = child(__file__, task, n)
            if found is None:
                continue
            part = "" if found["part"] is None else f"{1e3 * found['part']:.1f}"
            rows.append((title, f"{n:,}", f"{found['seconds']:.1f}", part, f"{found['peak']:.0f}"))
    table(["", "N", "from the model, CPU s", "once more, CPU ms", "peak MB"], rows)


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
