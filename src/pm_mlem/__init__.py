"""Maximum likelihood, MAP and EM for unmodified PyMC models, beside their posteriors in ArviZ."""

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
    "EMStep",
    "Fit",
    "HypothesisTest",
    "LocalOptimaWarning",
    "Newton",
    "NotIdentifiedError",
    "Selection",
    "Status",
    "UnsupportedModelError",
    "compare",
    "em_steps",
    "explain",
    "fit",
    "likelihood_ratio_test",
    "marginalize",
    "plot_convergence",
    "plot_estimates",
    "plot_latents",
    "plot_profile",
    "register_m_step",
    "sample",
    "select",
]


def __getattr__(name: str):
    """Import what needs JAX or ArviZ when it is first used."""
    if name == "Fit":
        from pm_mlem.results.fit import Fit

        return Fit
    if name == "Bootstrap":
        from pm_mlem.results.bootstrap import Bootstrap

        return Bootstrap
    if name == "HypothesisTest":
        from pm_mlem.inference.hypotheses import HypothesisTest

        return HypothesisTest
    if name == "register_m_step":
        from pm_mlem.objective.m_step import register_m_step

        return register_m_step
    if name == "demo":
        from importlib import import_module

        return import_module("pm_mlem.demo")
    if name in __all__ and name.startswith("plot_"):
        from pm_mlem import plots

        return getattr(plots, name)
    raise AttributeError(f"module 'pm_mlem' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
