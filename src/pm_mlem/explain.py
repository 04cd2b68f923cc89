"""What pm_mlem sees in a model, before anything is fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pymc as pm


@dataclass(frozen=True)
class Role:
    """One variable: its role and what is done with it."""

    name: str
    role: str
    detail: str


@dataclass(frozen=True)
class Plan:
    """Roles of a model's variables and how its latents are summed out.

    ``str(plan)`` is the text that :func:`pm_mlem.explain` prints.
    """

    roles: tuple[Role, ...]
    steps: tuple[str, ...]
    cost: int
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        names = max((len(r.name) for r in self.roles), default=0)
        kinds = max((len(r.role) for r in self.roles), default=0)
        lines = [f"{r.name:<{names}}  {r.role:<{kinds}}  {r.detail}".rstrip() for r in self.roles]
        if self.steps:
            lines += ["", "Summed out exactly:", *[f"  {step}" for step in self.steps]]
        lines += [f"  {name} is not reported: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Plan({len(self.roles)} variables, {len(self.steps)} elimination steps, cost {self.cost})"


def explain(model: pm.Model | None = None, *, latents: Sequence[str] | None = None) -> Plan:
    """Print which variables are parameters, latents and data, and how the latents are summed out.

    Nothing is compiled.

    Parameters
    ----------
    model : pm.Model, optional
        Default: the model on the context stack.
    latents : sequence of str, optional
        Continuous free variables to integrate out, as in :func:`pm_mlem.fit`.

    Returns
    -------
    Plan

    Raises
    ------
    UnsupportedModelError
        As :func:`pm_mlem.fit`.
    """
    from pm_mlem.fit import current_model
    from pm_mlem.graph.read import read

    model = current_model(model)
    tables = read(model, with_prior=False, latents=latents or ())
    plan = Plan(tuple(roles(model, tables.structure)), tuple(map(describe, tables.elimination.steps)),
                sum(step.cost for step in tables.elimination.steps), dict(tables.skipped))  # fmt: skip
    print(plan)
    return plan


def roles(model: pm.Model, structure):
    """One entry for each named variable, in the order of declaration."""
    latents = {item.name: item for item in structure.latents}
    shapes = {rv.name: lifted.shape for rv, lifted in structure.leaves.items()}
    for rv in model.basic_RVs:
        kind = type(rv.owner.op).__name__.removesuffix("RV")
        if rv.name in latents:
            item = latents[rv.name]
            yield Role(rv.name, "latent", f"{kind}, {latent_text(item)}")
        elif rv in model.observed_RVs:
            yield Role(rv.name, "data", f"{kind}, {shape_text(shapes[rv.name])}")
        elif rv.name in structure.dropped:
            yield Role(rv.name, "missing", "integrates to one")
        else:
            yield Role(rv.name, "parameter", f"{kind}, {shape_text(shapes[rv.name])}")
    for variable in model.potentials:
        yield Role(variable.name, "data", "Potential")
    for variable in model.deterministics:
        yield Role(variable.name, "derived", "Deterministic")


def latent_text(item) -> str:
    """The states of a latent and how its entries are enumerated."""
    from pm_mlem.graph.counts import NEGLIGIBLE

    text = f"{math.prod(item.shape)} element(s) with {item.states} states"
    if item.cut:
        text += f" ({item.lower} to {item.lower + item.states - 1}; above that the probability is below {NEGLIGIBLE:g})"
    if item.joined:
        text += f", enumerated jointly: {item.n_elements} of {item.joint_states} joint states"
    return text


def shape_text(shape: tuple[int, ...]) -> str:
    return "scalar" if shape == () else f"shape {shape}"


def describe(step) -> str:
    """One step of the elimination in words."""
    given = f" given {', '.join(step.given)}" if step.given else ""
    names = ", ".join(step.latents)
    if step.how == "plate":
        what = f"{step.elements} independent sums" if step.elements > 1 else "one sum"
    else:
        what = step.how
    return f"{names}: {what} over {step.states} states{given}; cost {step.cost:,} table entries"
