"""Element-wise log-densities of a model's variables, as graphs on the model's own variables.

Nothing goes through ``fgraph_from_model``, so initial values, named dims and transforms never matter. A
density is a function of its variable's placeholder and of whatever the distribution's inputs are; other random
variables stay in the graph as they are and get their values when the graph is lifted.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytensor.tensor as pt
from pymc.distributions.distribution import PartialObservedRV
from pymc.logprob.abstract import _logprob
from pymc.logprob.basic import logp
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pytensor.graph.basic import Variable
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.op import RandomVariable

from pm_mlem.errors import UnsupportedModelError


def log_density(rv: Variable, value: Variable, stand_ins: Mapping[Variable, Variable]) -> Variable:
    """Log-density of one random variable at ``value``.

    Parameters
    ----------
    rv : variable of the model
    value : placeholder or constant
    stand_ins : dict
        For every random variable of the model the variable that stands for its value where PyMC has to
        rewrite the graph to derive the density.
    """
    if is_part(rv):
        return density_of_all(rv, value, stand_ins)[~rv.owner.inputs[1]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Rr]andom ?[Vv]ariables.*")
        try:
            density = _logprob(rv.owner.op, (value,), *rv.owner.inputs)
            if has_copies(density, stand_ins):
                [own] = severed([rv], stand_ins)
                density = _logprob(own.owner.op, (value,), *own.owner.inputs)
        except NotImplementedError:
            density = derived_density(rv, value, stand_ins)
    if isinstance(density, list | tuple):
        if len(density) != 1:
            raise UnsupportedModelError(
                f"The density of '{rv.name}' is joint with other variables ({rv.owner.op}); it cannot be used alone."
            )
        [density] = density
    return density


def is_part(rv: Variable) -> bool:
    """Whether a variable is the observed entries of masked data whose entries are independent draws."""
    op = rv.owner.op
    return isinstance(op, PartialObservedRV) and not op.ndim_supp and rv is rv.owner.outputs[0]


def density_of_all(rv: Variable, value: Variable, stand_ins: Mapping[Variable, Variable]) -> Variable:
    """Log-density of all entries of masked data, the missing ones at the value of an observed one."""
    whole, mask = rv.owner.inputs
    return log_density(whole, complete(value, ~mask), stand_ins)


def complete(value: Variable, seen: Variable) -> Variable:
    """An array with the observed values at their places, and one of them wherever nothing was observed."""
    filled = pt.full(seen.shape, value[0], dtype=value.type.dtype)
    return pt.set_subtensor(filled[seen], value)


def unscaled(rv: Variable) -> Variable:
    """A variable without the factor that ``total_size=`` gives to its log-density."""
    return rv.owner.inputs[0] if isinstance(rv.owner.op, MinibatchRandomVariable) else rv


def has_copies(density, stand_ins: Mapping[Variable, Variable]) -> bool:
    """Whether PyMC rewrote a copy of the graph, as for random walks: its random variables are not the model's."""
    densities = density if isinstance(density, list | tuple) else [density]
    return any(
        v.owner is not None and isinstance(v.owner.op, RandomVariable) and v is v.owner.outputs[-1]
        for v in ancestors(densities, blockers=list(stand_ins))
        if v not in stand_ins
    )


def severed(variables: list[Variable], stand_ins: Mapping[Variable, Variable]) -> list[Variable]:
    """A copy that no longer contains other random variables of the model."""
    upstream = {a: stand_ins[a] for a in ancestors(variables) if a in stand_ins and a not in variables}
    return clone_replace(variables, upstream, rebuild_strict=False) if upstream else variables


def derived_density(rv: Variable, value: Variable, stand_ins: Mapping[Variable, Variable]) -> Variable:
    """A density that PyMC derives by rewriting, on a copy that no longer contains other random variables."""
    try:
        return logp(*severed([rv], stand_ins), value, warn_rvs=False)
    except NotImplementedError as error:
        raise UnsupportedModelError(
            f"PyMC has no log-density for '{rv.name}' ({type(rv.owner.op).__name__}): {error}"
        ) from error
