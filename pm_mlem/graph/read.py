"""Reading a model: which states are enumerated is found out by trying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pymc as pm

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.roles.dims import plain
from pm_mlem.graph.roles.structure import analyse
from pm_mlem.graph.tables.counts import Bounds, at_initial_point
from pm_mlem.graph.tables.joint import Joined, widen
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.graph.tables.tabulate import tabulate


def read(
    model: pm.Model,
    *,
    with_prior: bool,
    latents: Sequence[str] = (),
    fixed: Mapping[str, object] | None = None,
    bounds: Bounds | None = None,
    unknown: Sequence[str] = (),
    means: bool = False,
    replaceable: bool = False,
) -> ModelTables:
    """The tables of a model; one of ``pymc.dims`` is read as a model of ordinary tensors.

    Entries of a latent that an operation mixes are enumerated jointly, and counts up to a bound above which they
    are negligible at the initial point.

    Parameters
    ----------
    model, latents, fixed, unknown, means, replaceable : as in :func:`~pm_mlem.graph.roles.structure.analyse`
    with_prior : as in :func:`~pm_mlem.graph.tables.tabulate.tabulate`
    bounds : largest states of counts without an upper bound, as far as they are known

    Raises
    ------
    ValueError, UnsupportedModelError
    """
    model = plain(model)
    joined: Joined = {}
    chosen = dict(bounds or {})
    while True:
        structure = analyse(
            model,
            latents=latents,
            fixed=fixed,
            joined=joined,
            bounds=chosen,
            unknown=unknown,
            means=means,
            replaceable=replaceable,
        )
        try:
            tables = tabulate(structure, with_prior=with_prior)
        except UnsupportedModelError as error:
            joined = widen(structure, joined, error)
            continue
        grown = {} if bounds else at_initial_point(tables)
        if not grown:
            return tables
        chosen |= grown
