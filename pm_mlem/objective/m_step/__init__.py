"""The M-step of EM: closed forms recognised by probing, Newton steps for everything else."""

from pm_mlem.objective.m_step.blocks import ClosedBlock, MStepPlan, ProbabilityBlock
from pm_mlem.objective.m_step.passes import Pass, passes_of
from pm_mlem.objective.m_step.recognise import recognise
from pm_mlem.objective.m_step.register import register_m_step
from pm_mlem.objective.m_step.restraint import Restraint, on_floor, penalty_of, projection, restrained
from pm_mlem.objective.m_step.step import em_map, plan_of
from pm_mlem.objective.m_step.variants import hard_map, q_function, stochastic_map, tempered_map

__all__ = [
    "ClosedBlock",
    "MStepPlan",
    "Pass",
    "ProbabilityBlock",
    "Restraint",
    "em_map",
    "hard_map",
    "on_floor",
    "passes_of",
    "penalty_of",
    "plan_of",
    "projection",
    "q_function",
    "recognise",
    "register_m_step",
    "restrained",
    "stochastic_map",
    "tempered_map",
]
