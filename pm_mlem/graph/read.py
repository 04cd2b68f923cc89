"""Reading a model: which states are enumerated is found out by trying."""

from __future__ import annotations

from dataclasses import replace

import pymc as pm

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.roles.analyse import analyse
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.graph.roles.dims import plain
from pm_mlem.graph.tables.counts import at_initial_point
from pm_mlem.graph.tables.joint import widen
from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.graph.tables.tabulate import tabulate

PLAINLY = Choices()
"""Nothing is asked for: the likelihood of the whole model."""


def read(model: pm.Model, choices: Choices = PLAINLY) -> ModelTables:
    """The tables of a model; one of ``pymc.dims`` is read as a model of ordinary tensors.

    Entries of a latent that an operation mixes are enumerated jointly, and counts up to a bound above which they
    are negligible at the initial point.

    Raises
    ------
    ValueError, UnsupportedModelError
    """
    model = plain(model)
    given = choices
    while True:
        structure = analyse(model, choices)
        try:
            tables = tabulate(structure, with_prior=choices.with_prior)
        except UnsupportedModelError as error:
            choices = replace(choices, joined=widen(structure, choices.joined, error))
            continue
        grown = {} if given.bounds else at_initial_point(tables)
        if not grown:
            return tables
        choices = replace(choices, bounds={**choices.bounds, **grown})
