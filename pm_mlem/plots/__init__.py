"""Plots on arviz-plots: each returns a ``PlotCollection``, in every backend that arviz-plots has."""

from pm_mlem.plots.add_estimates import add_estimates
from pm_mlem.plots.bootstrap_plot import plot_bootstrap
from pm_mlem.plots.convergence_plot import plot_convergence
from pm_mlem.plots.density_plot import plot_density
from pm_mlem.plots.em_steps_plot import plot_em_steps
from pm_mlem.plots.estimates_plot import plot_estimates
from pm_mlem.plots.influence_plot import plot_influence
from pm_mlem.plots.latents_plot import plot_latents
from pm_mlem.plots.pair_estimates_plot import plot_pair_estimates
from pm_mlem.plots.profile_plot import plot_profile

__all__ = [
    "add_estimates",
    "plot_bootstrap",
    "plot_convergence",
    "plot_density",
    "plot_em_steps",
    "plot_estimates",
    "plot_influence",
    "plot_latents",
    "plot_pair_estimates",
    "plot_profile",
]
