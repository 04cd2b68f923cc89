"""Plots on arviz-plots: each returns a ``PlotCollection``, in every backend that arviz-plots has."""

from pm_mlem.plots.convergence_plot import plot_convergence
from pm_mlem.plots.estimates_plot import plot_estimates
from pm_mlem.plots.latents_plot import plot_latents
from pm_mlem.plots.profile_plot import plot_profile

__all__ = ["plot_convergence", "plot_estimates", "plot_latents", "plot_profile"]
