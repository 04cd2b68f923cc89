"""Maximum likelihood, MAP and EM for unmodified PyMC models, beside their posteriors in ArviZ."""

from pm_mlem.align import align
from pm_mlem.compare import compare
from pm_mlem.em_steps import EMStep, em_steps
from pm_mlem.errors import LocalOptimaWarning, NotIdentifiedError, UnsupportedModelError
from pm_mlem.explain import explain
from pm_mlem.fit import fit
from pm_mlem.likelihood_ratio import likelihood_ratio_test
from pm_mlem.marginalize import marginalize
from pm_mlem.optimize import EM, LBFGS, Adam, Newton
from pm_mlem.optimize.problem import Status
from pm_mlem.sample import sample
from pm_mlem.select import Selection, select

__version__ = "0.1.0"
__all__ = [
    "EM",
    "LBFGS",
    "Adam",
    "Bootstrap",
    "Comparison",
    "EMStep",
    "Fit",
    "HypothesisTest",
    "LocalOptimaWarning",
    "Newton",
    "NotIdentifiedError",
    "SavedFit",
    "Selection",
    "Status",
    "UnsupportedModelError",
    "add_estimates",
    "align",
    "compare",
    "em_steps",
    "explain",
    "fit",
    "from_datatree",
    "likelihood_ratio_test",
    "marginalize",
    "plot_bootstrap",
    "plot_convergence",
    "plot_density",
    "plot_em_steps",
    "plot_estimates",
    "plot_influence",
    "plot_latents",
    "plot_pair_estimates",
    "plot_profile",
    "register_m_step",
    "sample",
    "select",
]


LAZY = {
    "Bootstrap": "results.bootstrap",
    "Comparison": "results.comparison",
    "Fit": "results.fit",
    "HypothesisTest": "inference.hypotheses",
    "SavedFit": "results.saved",
    "from_datatree": "results.saved",
    "register_m_step": "objective.m_step",
}
"""What needs JAX or ArviZ is imported when it is first used."""


def __getattr__(name: str):
    from importlib import import_module

    if name == "demo":
        return import_module("pm_mlem.demo")
    if name in LAZY:
        return getattr(import_module(f"pm_mlem.{LAZY[name]}"), name)
    if name in __all__:
        return getattr(import_module("pm_mlem.plots"), name)
    raise AttributeError(f"module 'pm_mlem' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
