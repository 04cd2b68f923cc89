"""What is refused before a model is read: names, empty data, values that are none of the states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pymc as pm
from pymc.distributions.simulator import SimulatorRV
from pytensor.graph.basic import Variable
from pytensor.tensor.random.basic import BernoulliRV, CategoricalRV

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.lift import Context
from pm_mlem.graph.roles.densities import unscaled
from pm_mlem.graph.roles.domains import domain
from pm_mlem.graph.roles.structure import (
    ObservedPart,
    named,
)


def check_names(model: pm.Model, names: Iterable[str], argument: str) -> None:
    """Refuse names that are not free variables of the model."""
    known = [rv.name for rv in model.free_RVs]
    for name in names:
        if name not in known:
            import difflib

            close = difflib.get_close_matches(str(name), known, n=1)
            guess = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"'{name}' in {argument}= is not a free variable of the model.{guess} "
                f"The free variables are {', '.join(map(repr, known))}."
            )


def check_supported(model: pm.Model, latents: Sequence[str]) -> None:
    if not model.basic_RVs and not model.potentials:
        raise ValueError("The model is empty: declare parameters and an observed variable in it.")
    if not model.observed_RVs and not model.potentials:
        raise ValueError(
            "The model has no observed data: pass observed= to the variable that generates them, "
            "or add the log-likelihood with pm.Potential."
        )
    if latents:
        raise UnsupportedModelError(
            f"latents={list(latents)!r}: integrating out continuous variables is not implemented. "
            "Estimate them with estimator='map', or marginalize them in the model."
        )
    for rv in model.basic_RVs:
        if isinstance(rv.owner.op, SimulatorRV):
            raise UnsupportedModelError(
                f"'{rv.name}' is a pm.Simulator: it has draws, but no likelihood that could be maximised. Give it a "
                "density (pm.CustomDist with logp=), or sample the model with pm.sample_smc."
            )
        if not hasattr(rv.type, "broadcastable"):
            raise UnsupportedModelError(
                f"'{rv.name}' is not an ordinary tensor variable ({rv.type}). Declare it with pm instead of pymc.dims."
            )


def check_data(name: str, data: np.ndarray) -> None:
    if data.size == 0:
        raise ValueError(f"The observed data of '{name}' are empty.")
    if np.issubdtype(data.dtype, np.floating) and not np.all(np.isfinite(data)):
        bad = np.argwhere(~np.isfinite(data))
        where = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"The observed data of '{name}' contain {len(bad)} NaN or infinite value(s), the first at index {where}. "
            "Remove them, or declare them missing with a masked array."
        )


def check_labels(rv: Variable, data: np.ndarray, part: ObservedPart | None, context: Context) -> None:
    """Refuse observed states that a Categorical or Bernoulli variable does not have."""
    base = unscaled(rv)
    if not isinstance(base.owner.op, CategoricalRV | BernoulliRV):
        return
    with named(rv.name):
        lower, states = domain(base.owner.op, base, context)
    bad = np.argwhere((data < lower) | (data >= lower + states))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        value, name = data[where], rv.name
        if part is not None:
            position = part.positions[np.ravel_multi_index(where, data.shape)]
            name, where = part.name, tuple(map(int, np.unravel_index(position, part.shape)))
        raise ValueError(
            f"The observed data of '{name}' contain {value:g} at index {where}, which is none of its states "
            f"({lower} to {lower + states - 1}). Number the states from {lower}; where the state is not known, mask "
            "the entry: observed=np.ma.masked_array(values, mask=...)."
        )
