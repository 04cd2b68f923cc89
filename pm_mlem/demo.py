"""Old Faithful, fitted by maximum likelihood, EM and MAP, beside NUTS: ``python -m pm_mlem.demo``."""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

import numpy as np
import pymc as pm

import pm_mlem as mlem

INTRODUCTION = """\
Old Faithful: 272 waiting times between eruptions (minutes).

There seem to be two kinds of eruption, followed by a short or a long wait, but nobody wrote down which was
which: the kind is a hidden label. The PyMC model says so with z = pm.Categorical(...).

  MLE  finds the parameters that make the data most probable. With the labels known it would be two means and
       two standard deviations; without them the likelihood sums over both possibilities for every eruption.
  EM   climbs to the same maximum in two alternating steps: guess the labels (as probabilities) from the
       current parameters, then refit the parameters as if the guesses were data. It can stop in a local
       optimum, so it is started from several points.
  MAP  adds the log-prior: the mode of the posterior instead of the peak of the likelihood.
  NUTS draws from the whole posterior: slower, and more than a point.
"""


def waiting_times() -> np.ndarray:
    """Minutes to the next eruption of Old Faithful, 272 of them (R's ``datasets::faithful``)."""
    with (files("pm_mlem") / "data" / "old_faithful.csv").open() as lines:
        return np.loadtxt(lines, delimiter=",", comments="#", skiprows=3, usecols=1)


def old_faithful(waiting: np.ndarray) -> pm.Model:
    """The model as any PyMC user would write it: a hidden kind of eruption behind every waiting time."""
    with pm.Model(coords={"kind": ["short", "long"], "eruption": np.arange(len(waiting))}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="kind")
        mu = pm.Normal("mu", 70, 20, initval=[55.0, 80.0], dims="kind")
        sigma = pm.HalfNormal("sigma", 10, dims="kind")
        z = pm.Categorical("z", w, shape=len(waiting))
        pm.Deterministic("expected_wait", mu[z], dims="eruption")
        pm.Normal("waiting", mu[z], sigma[z], observed=waiting, dims="eruption")
    return model


def run(out: Path, *, mcmc: bool) -> None:
    """Fit, compare, print and save the figures."""
    print(INTRODUCTION)
    waiting = waiting_times()
    model = old_faithful(waiting)
    print("What pm_mlem sees in the model:\n")
    mlem.explain(model)

    fits = {
        "MLE": mlem.fit(model, "mle", method="newton", random_seed=1, progressbar=False),
        "EM": mlem.fit(model, "mle", method="em", random_seed=1, progressbar=False),
        "MAP": mlem.fit(model, "map", random_seed=1, progressbar=False),
    }
    print("\nHow the fits ended:\n")
    for name, fit in fits.items():
        print(f"  {name:4s} log-likelihood {fit.log_likelihood:.4f} after {fit.iterations} iterations. {fit.message}")

    results = dict(fits)
    if mcmc:
        print("\nNUTS on the same model (the labels are summed out, and drawn afterwards) ...")
        results["NUTS"] = mlem.sample(fits["EM"], chains=2, cores=1, random_seed=1, progressbar=False)

    print("\nEstimates: value (standard error) [95 % interval]; for NUTS posterior mean (sd) [interval]\n")
    print(side_by_side(mlem.compare(results)))

    unsure = fits["EM"].latent_probabilities["z"].max("z_state") < 0.9
    print(
        f"\nThe labels: for {int((~unsure).sum())} of {len(waiting)} eruptions the kind is at least 90 % certain; "
        f"the other {int(unsure.sum())} waited between {waiting[unsure].min():g} and {waiting[unsure].max():g} minutes."
    )
    save_figures(out, fits, results)


def side_by_side(table) -> str:
    """The comparison with one text column a method."""
    import pandas as pd

    columns = {}
    for method in table.columns.get_level_values(0).unique():
        part = table[method]
        columns[method] = [f"{r.estimate:7.3f} ({r.se:.3f}) [{r.ci_lb:.3f}, {r.ci_ub:.3f}]" for r in part.itertuples()]
    return pd.DataFrame(columns, index=table.index).to_string()


def save_figures(out: Path, fits, results) -> None:
    out.mkdir(parents=True, exist_ok=True)
    names = ["w", "mu", "sigma"]
    figures = {
        "estimates": mlem.plot_estimates(results, var_names=names, backend="matplotlib"),
        "convergence": mlem.plot_convergence(fits, backend="matplotlib"),
        "latents": mlem.plot_latents(fits["EM"], backend="matplotlib"),
    }
    print("\nFigures:")
    for name, figure in figures.items():
        path = out / f"{name}.png"
        figure.savefig(path, dpi=130)
        print(f"  {path}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pm_mlem.demo", description=__doc__)
    parser.add_argument("--no-mcmc", action="store_true", help="leave NUTS out")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), metavar="DIR", help="folder for the figures")
    options = parser.parse_args(arguments)
    import matplotlib

    matplotlib.use("agg")
    run(options.out, mcmc=not options.no_mcmc)


if __name__ == "__main__":
    main()
