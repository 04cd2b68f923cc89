"""Missing entries: what PyMC makes of masked data."""

from __future__ import annotations

import pymc as pm
from pymc.distributions.distribution import PartialObservedRV
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors

from pm_mlem.errors import UnsupportedModelError


def whole_of(model: pm.Model, rv: Variable) -> Variable | None:
    """The variable that PyMC joins of an observed variable and the missing entries of its masked data."""
    name = rv.name.removesuffix("_observed")
    return model.named_vars[name] if name != rv.name and {name, f"{name}_unobserved"} <= set(model.named_vars) else None


def is_missing_leaf(model: pm.Model, rv: Variable) -> bool:
    """An entry that PyMC split off masked data and that nothing else depends on: it integrates to one.

    Discrete entries whose states can be listed are latents instead.
    """
    if not rv.name.endswith("_unobserved") or rv in model.observed_RVs:
        return False
    base = rv.name.removesuffix("_unobserved")
    if f"{base}_observed" not in model.named_vars or base not in model.named_vars:
        return False
    split = isinstance(rv.owner.op, PartialObservedRV) and not rv.owner.op.ndim_supp
    if rv.type.dtype.startswith(("int", "uint", "bool")) and not split:
        return False
    if not split and len([v for v in rv.owner.outputs if v in model.basic_RVs]) > 1:
        raise UnsupportedModelError(
            f"The missing entries '{rv.name}' are correlated with the observed ones; they have to be integrated out: "
            f"pass latents=['{rv.name}']."
        )
    users = [v for v in [*model.basic_RVs, *model.potentials] if v is not rv and rv in set(ancestors([v]))]
    if users:
        raise UnsupportedModelError(
            f"The missing entries '{rv.name}' enter '{users[0].name}'; they have to be integrated out: "
            f"pass latents=['{rv.name}']."
        )
    return True
