"""Log-densities with kinks: absolute values of what depends on parameters, as in Laplace distributions.

Between kinks such a log-likelihood may be linear in a parameter, so its curvature says nothing about the maximum, which
is often on a kink. Its scores exist almost everywhere, and their outer product is the information all the same
(Huber 1967, https://projecteuclid.org/euclid.bsmsp/1200512988).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.scalar.basic import Abs, Sign
from pytensor.tensor.elemwise import Elemwise

from pm_mlem.graph.tables.model_tables import ModelTables
from pm_mlem.graph.tables.tabulate import dependencies
from pm_mlem.objective.lowering.lower import Backend, lower

ON_IT = 1e-6
"""A prior is on its kink where the absolute value is smaller than this."""


@dataclass(frozen=True, eq=False)
class Kinks:
    """Where an objective is not smooth.

    Attributes
    ----------
    terms : data terms with absolute values of what depends on the parameters and varies over the rows
    names : the parameters that these depend on
    in_priors : how many absolute values of what depends on the parameters the log-prior has
    priors : ``(theta, data) -> `` what it takes them of, one array for each
    """

    terms: tuple[str, ...]
    names: tuple[str, ...]
    in_priors: int
    priors: Callable[..., list]

    @property
    def none(self) -> bool:
        """Whether the objective is smooth everywhere."""
        return not self.terms and not self.in_priors

    def prior_at(self, theta: Sequence, data: Sequence) -> bool:
        """Whether the log-prior has a kink at a point."""
        return any(bool(np.any(np.abs(np.asarray(a)) < ON_IT)) for a in self.priors(*theta, *data))


def find_kinks(tables: ModelTables, backend: Backend) -> Kinks:
    """Look through the log-density graphs of the data terms and of the priors."""
    inputs = [*tables.free_inputs, *[v for v, _ in tables.data]]
    name_of = {p.placeholder: p.name for p in tables.structure.free}
    terms, names = [], set()
    for density in tables.densities:
        for argument in absolute_values([density.array], tables.free_inputs):
            read = dependencies([argument], tables.free_inputs)
            if math.prod(argument.type.shape) > sum(math.prod(v.type.shape) for v in read):
                terms.append(density.term.name)
                names |= {name_of[v] for v in read}
    priors = absolute_values([tables.log_prior], tables.free_inputs)
    evaluate = lower(inputs, priors, backend)
    return Kinks(tuple(dict.fromkeys(terms)), tuple(sorted(names)), len(priors), evaluate)


def absolute_values(graphs: Sequence[Variable], inputs: Sequence[Variable]) -> list[Variable]:
    """What the graphs take the absolute value, or the sign, of, if it depends on the inputs."""
    found = {}
    for variable in ancestors(graphs):
        node = variable.owner
        if node is not None and isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, Abs | Sign):
            [argument] = node.inputs
            if dependencies([argument], inputs):
                found[argument] = None
    return list(found)
