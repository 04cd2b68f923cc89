"""Maximising plain functions of a flat vector: one loop, several algorithms, many starts."""

from pm_mlem.optimize.adam import Adam
from pm_mlem.optimize.em import EM
from pm_mlem.optimize.lbfgs import LBFGS
from pm_mlem.optimize.loop import Algorithm, run
from pm_mlem.optimize.newton import Newton
from pm_mlem.optimize.problem import EMMaps, Optimum, Problem, Status

__all__ = ["EM", "LBFGS", "Adam", "Algorithm", "EMMaps", "Newton", "Optimum", "Problem", "Status", "run"]
