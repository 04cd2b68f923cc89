"""The states of discrete random variables."""

from __future__ import annotations

from functools import singledispatch

import numpy as np
from pymc.distributions.discrete import DiscreteUniformRV
from pytensor.graph.basic import Variable
from pytensor.graph.op import Op
from pytensor.tensor.random.basic import (
    BernoulliRV,
    BetaBinomialRV,
    BinomialRV,
    CategoricalRV,
    GeometricRV,
    NegBinomialRV,
    PoissonRV,
)

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.lift import Context


@singledispatch
def domain(op: Op, rv: Variable, context: Context) -> tuple[int, int]:
    """``(lower, size)`` of the states ``lower, ..., lower + size - 1`` of a discrete variable.

    Register a distribution with ``@domain.register(OpType)``.
    """
    probabilities = state_probabilities(rv)
    if probabilities is not None:
        return 0, context.lift(probabilities).shape[-1]
    raise UnsupportedModelError(
        f"The discrete variable '{rv.name}' is unobserved and its states cannot be listed "
        f"({getattr(op, '_print_name', [type(op).__name__])[0]}). Use a distribution with finitely many states "
        "(Categorical, Bernoulli, DiscreteUniform, Binomial) or a count (Poisson, NegativeBinomial, Geometric), or "
        "observe it."
    )


@domain.register(BernoulliRV)
def _(op, rv, context):
    return 0, 2


def bounds(rv: Variable, context: Context, lower: Variable | None, upper: Variable) -> tuple[int, int]:
    values = []
    for bound in (lower, upper):
        lifted = None if bound is None else context.lift(bound)
        if lifted is not None and not lifted.is_constant:
            raise UnsupportedModelError(f"The states of '{rv.name}' depend on a parameter. Give it constant bounds.")
        values.append(None if lifted is None else lifted.data)
    low = 0 if values[0] is None else int(np.min(values[0]))
    return low, int(np.max(values[1])) - low + 1


@domain.register(DiscreteUniformRV)
def _(op, rv, context):
    lower, upper = op.dist_params(rv.owner)
    return bounds(rv, context, lower, upper)


@domain.register(BinomialRV)
@domain.register(BetaBinomialRV)
def _(op, rv, context):
    return bounds(rv, context, None, op.dist_params(rv.owner)[0])


@singledispatch
def unbounded_from(op: Op) -> int | None:
    """The smallest state of a distribution of counts without an upper bound; None for all others.

    Register a distribution with ``@unbounded_from.register(OpType)``.
    """
    return None


@unbounded_from.register(PoissonRV)
@unbounded_from.register(NegBinomialRV)
def _(op):
    return 0


@unbounded_from.register(GeometricRV)
def _(op):
    return 1


def by_name(rv: Variable) -> str:
    """Distributions of packages that need not be installed are known by their name."""
    return f"{type(rv.owner.op).__module__}.{type(rv.owner.op).__name__}"


def state_probabilities(rv: Variable) -> Variable | None:
    """The probabilities of a variable's states, along their last axis; None where it has none."""
    op = rv.owner.op
    if isinstance(op, CategoricalRV):
        return op.dist_params(rv.owner)[0]
    return rv.owner.inputs[0] if by_name(rv) in MARKOV_CHAINS else None


MARKOV_CHAINS = {"pymc_extras.distributions.timeseries.DiscreteMarkovChainRV"}
