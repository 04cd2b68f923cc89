"""Several functions of an engine, compiled together: half the time in the compiler."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np


def evaluated(engine, u: np.ndarray, decode: bool = False) -> SimpleNamespace:
    """Value and gradient, the report, and the most probable configuration at an unconstrained point; all weights 1.

    Attributes: ``value``, ``gradient`` (p,), ``estimands`` and ``latents`` by name, and with ``decode`` also ``states``
    by name and ``joint`` (units,).
    """
    objective, readout = engine.objective, engine.readout

    def evaluate(u, data):
        found = {
            "slope": jax.value_and_grad(objective.value)(u, np.ones(objective.n_units), data),
            "report": readout.evaluate.__wrapped__(u, data),
        }
        if decode:
            found["decoded"] = readout.decode.__wrapped__(u, data)
        return found

    found = jax.tree.map(np.asarray, objective.jit_once(evaluate)(u, engine.data))
    value, gradient = found["slope"]
    estimands, latents, _ = found["report"]
    result = SimpleNamespace(
        value=float(value),
        gradient=gradient,
        estimands=dict(zip(readout.names, estimands, strict=True)),
        latents=dict(zip(readout.latent_names, latents, strict=True)),
    )
    if decode:
        states, result.joint = found["decoded"]
        result.states = dict(zip(readout.latent_names, states, strict=True))
    return result
