"""The lifting interpreter: a log-density graph as a table over the states of the latents."""

from pm_mlem.graph.lift import (  # noqa: F401  (each module registers its rules)
    rules_assembly,
    rules_checks,
    rules_elementwise,
    rules_generic,
    rules_indexing,
    rules_linalg,
    rules_symbolic,
)
from pm_mlem.graph.lift.core import (
    Context,
    Lifted,
    Refusal,
    Slot,
    Violation,
    latent,
    lift_node,
    operands,
    parameter,
)

__all__ = ["Context", "Lifted", "Refusal", "Slot", "Violation", "latent", "lift_node", "operands", "parameter"]
