"""What users may pass, checked."""

from __future__ import annotations

from collections.abc import Sequence

import pymc as pm


def current_model(model: pm.Model | None) -> pm.Model:
    """The model that was passed, or the one on the context stack."""
    if model is None:
        try:
            return pm.modelcontext(None)
        except TypeError:
            raise ValueError(
                "No model: pass one, mlem.fit(model), or call mlem.fit() inside 'with pm.Model() as model:'."
            ) from None
    if isinstance(model, pm.Model):
        return model
    backend = getattr(model, "backend", None)
    if isinstance(inner := getattr(backend, "model", None), pm.Model):  # a bambi.Model that is built
        if not getattr(model, "center_predictors", False):
            return inner
        from pm_mlem.graph.roles.uncentered import uncentered

        return uncentered(model, inner)
    hint = ""
    if hasattr(type(model), "backend") or hasattr(model, "backend"):
        hint = " If it is a bambi.Model, build it first: model.build(), then pass model.backend.model."
    elif hasattr(type(model), "model") or hasattr(model, "model"):
        hint = " It has an attribute 'model'; if that is the pm.Model, build it and pass that."
    raise TypeError(f"model must be a pm.Model, not {type(model).__name__}.{hint}")


def check_choice(value, choices: Sequence[str], argument: str) -> None:
    if value not in choices:
        listed = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        raise ValueError(f"{argument}={value!r} is unknown; use {listed}.")
