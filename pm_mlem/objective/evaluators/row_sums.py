"""Sums over the latents for the rows of a chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from pytensor.graph.basic import Variable

from pm_mlem.graph.elimination import Elimination
from pm_mlem.graph.ops.semirings import Semiring, choosing
from pm_mlem.graph.tables.model_tables import ModelTables, Probe
from pm_mlem.graph.tables.rows import Place, RowTables
from pm_mlem.objective.evaluators.pieces import chosen, full_shape, merged, offsets
from pm_mlem.objective.lowering.lower import lower


@dataclass(frozen=True, eq=False)
class RowSums:
    """Sums over the latents, for what does not run along the rows and for the rows of a chunk.

    ``fixed`` and ``rows`` are functions of (density arrays, probes, data[, data of a key]).
    """

    probes: tuple[Probe, ...]
    probe_places: tuple[Place, ...]
    offsets: tuple[tuple[int, int], ...]
    unit_places: tuple[Place, ...]
    fixed: Callable[..., list]
    rows: Callable[..., list]

    def merge_probes(self, fixed: Sequence, rows: Sequence) -> list:
        return merged(self.probe_places, fixed, rows)

    def zeros(self, length: int, count: int) -> tuple[list, list]:
        """The probes without rows, and those of a chunk."""
        pairs = list(zip(self.probes, self.probe_places, strict=True))
        fixed = [jnp.zeros(p.shape) for p, place in pairs if place is None]
        return fixed, [jnp.zeros(full_shape(p.shape, place, length, count)) for p, place in pairs if place is not None]


def row_sums(
    tables: ModelTables, found: RowTables, elimination: Elimination, probes: Sequence[Probe], semiring: Semiring | None
) -> RowSums | None:
    """Sums over the latents with probes among their inputs; None where they mix rows.

    With a ``semiring`` each chooses one configuration.
    """
    part = found.part_of([*[p.input for p in probes], *elimination.units])
    if part is None:
        return None
    variables, places = part
    own, units = variables[: len(probes)], variables[len(probes) :]
    probe_places, unit_places = places[: len(probes)], places[len(probes) :]

    def function(data: Sequence[Variable], rows: bool) -> Callable[..., list]:
        inputs, outputs = [*found.stand_ins, *own, *data], chosen(units, unit_places, rows)
        return lower(*((inputs, outputs) if semiring is None else choosing(inputs, outputs, semiring)))

    with jax.ensure_compile_time_eval():  # constants stay constants where this is first needed within a trace
        alone, along = function([v for v, _ in tables.data], False), function(found.data, True)
    return RowSums(tuple(probes), probe_places, offsets(elimination.sizes), unit_places, alone, along)
