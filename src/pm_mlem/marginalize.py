"""A PyMC model with its discrete latents summed out."""

from __future__ import annotations

from collections.abc import Sequence

import pymc as pm


def marginalize(model: pm.Model | None = None, *, latents: Sequence[str] | None = None) -> pm.Model:
    """TODO."""
    from pm_mlem.fit import current_model
    from pm_mlem.graph.marginal_model import marginal_model
    from pm_mlem.graph.read import read

    model = current_model(model)
    return marginal_model(model, read(model, with_prior=False, latents=latents or ()))
