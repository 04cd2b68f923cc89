"""Random variables of a marginal model: data whose latents are summed out, parameters with a given initial value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import count
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.distributions.distribution import SymbolicRandomVariable, _support_point
from pymc.logprob.abstract import _logprob
from pymc.logprob.utils import CheckParameterValue
from pymc.pytensorf import collect_default_updates
from pytensor.graph.basic import Variable
from pytensor.graph.op import Op
from pytensor.graph.replace import graph_replace
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.variable import TensorVariable


class MarginalRV(SymbolicRandomVariable):
    """Observed variables with the latents they depend on summed out.

    Draws come from the user's own graph, latents included. The log-density is a graph of the parameters: one value
    for every independent unit, at the data that were observed.

    Attributes
    ----------
    placeholders : for every parent the input of ``log_likelihood`` that stands for it, or None
    log_likelihood : log-likelihood of every unit
    guards : scalar booleans, functions of the placeholders; all must hold for the density to be positive
    data : the observed values
    """

    _print_name = ("Marginal", "\\operatorname{Marginal}")
    placeholders: tuple[Variable | None, ...]
    log_likelihood: Variable
    guards: tuple[Variable, ...]
    data: np.ndarray


def marginal_rv(
    draw: TensorVariable,
    parents: Mapping[Variable, Variable | None],
    log_likelihood: Variable,
    guards: Sequence[Variable],
    kind: type[MarginalRV] = MarginalRV,
    **attributes: Any,
) -> TensorVariable:
    """A random variable with the draws of one graph and the log-density of another.

    Parameters
    ----------
    draw : variable
        Random graph of the observed variables.
    parents : dict
        The model's random variables that the draws or the density read, and the placeholder of each in the density
        (None: it has none).
    log_likelihood, guards : see :class:`MarginalRV`
    kind, attributes : the class, and what it has beyond these
    """
    inputs = list(parents)
    updates = collect_default_updates(inputs=inputs, outputs=[draw])
    letters = (f"x{i}" for i in count())
    core = ["(" + ",".join(next(letters) for _ in range(v.type.ndim)) + ")" for v in (*inputs, draw)]
    rngs = ["[rng]"] * len(updates)
    op = kind(
        [*updates, *inputs],
        [*updates.values(), draw],
        extended_signature=f"{','.join([*rngs, *core[:-1]])}->{','.join([*rngs, core[-1]])}",
    )
    op.placeholders = tuple(parents.values())
    op.log_likelihood, op.guards = log_likelihood, tuple(guards)
    for name, value in attributes.items():
        setattr(op, name, value)
    return op(*updates, *inputs, return_list=True)[-1]


@_logprob.register(MarginalRV)
def marginal_logp(op, values, *inputs, **kwargs):
    [value] = values
    parents = [v for v in inputs if not isinstance(v.type, RandomType)]
    known = {p: v for p, v in zip(op.placeholders, parents, strict=True) if p is not None}
    density = density_at(op.log_likelihood, op.guards, known)
    same = pt.all(pt.eq(value, pt.constant(op.data, dtype=value.type.dtype)))
    return CheckParameterValue("the marginal log-density is known at the observed data only")(density, same)


class MixedPriorRV(MarginalRV):
    """A parameter whose prior is a mixture over discrete latents.

    Draws come from the user's own graph. ``log_likelihood`` is the log-density of the parameter, a scalar function of
    the placeholders and of ``own``, which stands for the value; ``batch_ndim`` are the axes of the density that PyMC
    expects, ``initial`` is where samplers start.
    """

    _print_name = ("MixedPrior", "\\operatorname{MixedPrior}")
    own: Variable
    batch_ndim: int
    initial: np.ndarray


@_support_point.register(MixedPriorRV)
def initial_point_of_mixed(op, rv, *inputs):
    return pt.constant(op.initial, dtype=rv.type.dtype)


@_logprob.register(MixedPriorRV)
def mixed_prior_logp(op, values, *inputs, **kwargs):
    [value] = values
    parents = [v for v in inputs if not isinstance(v.type, RandomType)]
    known = {p: v for p, v in zip(op.placeholders, parents, strict=True) if p is not None}
    density = density_at(op.log_likelihood, op.guards, {**known, op.own: value})
    shape = op.own.type.shape[: op.batch_ndim]
    return pt.full(shape, density / max(math.prod(shape), 1)) if shape else density


def density_at(log_likelihood: Variable, guards: Sequence[Variable], values: Mapping[Variable, Variable]) -> Variable:
    """The log-likelihood by unit as a function of other variables; refused (minus infinity) where a guard fails.

    ``values`` maps placeholders to what takes their place.
    """
    fitting = {p: fitted(v, p) for p, v in values.items()}
    density, *conditions = graph_replace([log_likelihood, *guards], fitting, strict=False)
    if not conditions:
        return density
    return CheckParameterValue("a condition on the parameters of the likelihood", True)(density, *conditions)


def fitted(value: Variable, placeholder: Variable) -> Variable:
    """The value with the type of the placeholder."""
    return pt.specify_shape(value.astype(placeholder.type.dtype), placeholder.type.shape)


class StartsAt:
    """Mixed into the Op of a distribution: its support point is ``initial``."""

    initial: np.ndarray


def starting_at(op: Op, initial: np.ndarray) -> Op:
    """The same distribution with ``initial`` as the point where samplers start.

    PyMC refuses to transform models with ``initval=`` (among others to compute log-likelihoods); a support point does
    the same and stays out of the way.
    """
    kind = starting_kind(type(op))
    result = kind.__new__(kind)
    result.__dict__.update(op.__dict__, initial=np.asarray(initial))
    return result


@cache
def starting_kind(kind: type) -> type:
    return type(kind.__name__, (StartsAt, kind), {"__module__": kind.__module__})


@_support_point.register(StartsAt)
def initial_point(op, rv, *inputs):
    return pt.broadcast_to(pt.constant(op.initial, dtype=rv.type.dtype), rv.shape)
