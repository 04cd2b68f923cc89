"""The M-step of EM: closed forms recognised by probing, a Newton step for everything else."""

from pm_mlem.objective.m_step.recognise import (
    ClosedBlock,
    MStepPlan,
    ProbabilityBlock,
    recognise,
)
from pm_mlem.objective.m_step.step import em_map
from pm_mlem.objective.m_step.variants import hard_map, q_function, stochastic_map, tempered_map

__all__ = [
    "ClosedBlock",
    "MStepPlan",
    "ProbabilityBlock",
    "em_map",
    "hard_map",
    "q_function",
    "recognise",
    "stochastic_map",
    "tempered_map",
]
