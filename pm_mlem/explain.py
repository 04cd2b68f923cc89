"""What pm_mlem sees in a model, before anything is fitted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pymc as pm

from pm_mlem.arguments import checked, current_model, optional, some_names
from pm_mlem.precision import wide_graphs

SMALLEST_LOOP = 6


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
            lines += ["", "Summed out exactly, in this order:", *[f"  {step}" for step in self.steps]]
            if len(self.steps) > 1:
                lines += [f"  in all {self.cost:,} table entries"]
        lines += [f"  {name} is not reported: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Plan({len(self.roles)} variables, {len(self.steps)} elimination steps, cost {self.cost})"


@checked(latents=optional(some_names))
@wide_graphs()
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
    from pm_mlem.graph.read import read
    from pm_mlem.graph.roles.choices import Choices
    from pm_mlem.graph.roles.dims import plain

    model = current_model(model)
    tables = read(model, Choices(tuple(latents or ())))
    steps = tables.elimination.steps
    plan = Plan(
        tuple(gathered(roles(plain(model), tables))),
        tuple(describe(step, tables.structure) for step in steps),
        sum(step.cost for step in steps),
        dict(tables.skipped),
    )
    print(plan)
    return plan


def roles(model: pm.Model, tables):
    """One entry for each named variable, in the order of declaration."""
    from pm_mlem.graph.roles.structure import distribution_name
    from pm_mlem.graph.tables.observations import penalties_of

    structure, penalties = tables.structure, penalties_of(tables)
    latents = {item.name: item for item in structure.latents}
    components = {item.mixture: item for item in structure.latents}
    shapes = {rv.name: lifted.shape for rv, lifted in structure.leaves.items()}
    for rv in model.basic_RVs:
        kind = distribution_name(rv)
        if rv.name in latents:
            item = latents[rv.name]
            yield Role(rv.name, "latent", f"{kind}, {latent_text(item)}")
        elif rv in model.observed_RVs:
            if rv.name in components:
                item = components[rv.name]
                detail = f"component of '{rv.name}', {item.n_elements} element(s) with {item.states} states"
                yield Role(item.name, "latent", detail)
            yield Role(rv.name, "data", f"{kind}, {shape_text(shapes[rv.name])}")
        elif rv.name in structure.dropped:
            yield Role(rv.name, "missing", "integrates to one")
        else:
            yield Role(rv.name, "parameter", f"{kind}, {shape_text(shapes[rv.name])}")
    for variable in model.potentials:
        yield Role(variable.name, "penalty" if variable.name in penalties else "data", "Potential")
    for variable in model.deterministics:
        yield Role(variable.name, "derived", "Deterministic")


def latent_text(item) -> str:
    """The states of a latent and how its entries are enumerated."""
    from pm_mlem.graph.tables.counts import NEGLIGIBLE

    text = f"{math.prod(item.shape)} element(s) with {item.states} states"
    if item.cut:
        text += f" ({item.lower} to {item.lower + item.states - 1}; above that the probability is below {NEGLIGIBLE:g})"
    if item.joined:
        text += f", enumerated jointly: {item.n_elements} of {item.joint_states} joint states"
    return text


def shape_text(shape: tuple[int, ...]) -> str:
    return "scalar" if shape == () else f"shape {shape}"


def gathered(roles: Iterable[Role]) -> Iterator[Role]:
    """The variables of a loop (names that differ in their numbers only) as one entry."""
    groups: dict[tuple, list[Role]] = {}
    for role in roles:
        groups.setdefault((re.sub(r"\d+", "#", role.name), role.role, role.detail), []).append(role)
    for members in groups.values():
        if len(members) < SMALLEST_LOOP:
            yield from members
        else:
            name = f"{members[0].name} ... {members[-1].name}"
            yield Role(name, members[0].role, f"{len(members)} variables, each {members[0].detail}")


def describe(step, structure) -> str:
    """One step of the elimination in words."""
    from pm_mlem.graph.roles.structure import distribution_name

    items = {item.name: item for item in structure.latents}
    known = [items[n] for n in step.latents if n in items]
    kinds = dict.fromkeys(distribution_name(item.rv) for item in known) or {"states": None}
    what = f"{' x '.join(kinds)}({step.states})"
    names = (
        ", ".join(step.latents) if len(step.latents) < SMALLEST_LOOP else f"{step.latents[0]} ... {step.latents[-1]}"
    )
    given = f" given {', '.join(dict.fromkeys(step.given))}" if step.given else ""
    if step.how != "plate":
        return f"{names}: {step.how}, {what}{given}; cost {step.cost:,} table entries"
    count = f"{step.elements:,} independent {what}" if step.elements > 1 else f"one {what}"
    return f"{names}: {count}{one_per(known, structure)}{given}; cost {step.cost:,} table entries"


def one_per(known, structure) -> str:
    """The dimensions of a latent, where the model names them."""
    if len(known) != 1 or known[0].joined:
        return ""
    dims = structure.dims.get(known[0].name)
    return f", one per {' and '.join(dims)}" if dims and all(dims) else ""
