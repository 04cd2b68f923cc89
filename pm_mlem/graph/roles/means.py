"""Means of observed variables as graphs of their parents, for predictions."""

from __future__ import annotations

import pytensor.tensor as pt
from pymc import Model
from pymc.distributions import moments
from pymc.distributions.distribution import PartialObservedRV
from pymc.distributions.mixture import MixtureRV
from pymc.exceptions import UndefinedMomentException
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.basic import CategoricalRV
from pytensor.tensor.random.op import RandomVariable

from pm_mlem.graph.roles.densities import unscaled


class NoMean(Exception):
    """PyMC knows no mean of a distribution, or it has none."""


def mean_name(rv: Variable) -> str:
    """The name of its mean among the Deterministics."""
    return f"mean of {rv.name}"


def has_probabilities(rv: Variable) -> bool:
    """Whether the predictions of a variable are the probabilities of its states, along a last axis."""
    return isinstance(with_missing(unscaled(rv)).owner.op, CategoricalRV)


def with_missing(rv: Variable) -> Variable:
    """The variable whose observed entries another one is."""
    return rv.owner.inputs[0] if isinstance(rv.owner.op, PartialObservedRV) else rv


def prediction(rv: Variable, component: Variable | None) -> Variable:
    """The mean of a variable given its parents; the probabilities of the states of a Categorical.

    Its shape is that of the parameters, whatever the length of the observations.

    Parameters
    ----------
    rv : observed variable
    component : the hidden component of a mixture: the mean is that of the component; None averages over them

    Raises
    ------
    NoMean
    """
    rv = unscaled(rv)
    try:
        mean = mean_of(with_missing(rv), component)
    except (NotImplementedError, UndefinedMomentException) as error:
        raise NoMean(f"PyMC knows no mean of it ({error})") from error
    if rv is with_missing(rv):
        return mean
    seen = ~rv.owner.inputs[1]
    core = [mean.shape[-1]] if has_probabilities(rv) else []
    return pt.broadcast_to(mean, (*seen.shape, *core))[seen]


def mean_of(rv: Variable, component: Variable | None) -> Variable:
    op = rv.owner.op
    if isinstance(op, CategoricalRV):
        return op.dist_params(rv.owner)[0]
    if isinstance(op, MixtureRV):
        _, weights, *parts = rv.owner.inputs
        if component is not None:
            weights = pt.eq(component[..., None], pt.arange(weights.shape[-1]))
        core = parts[0].owner.op.ndim_supp
        means = [mean_of(part, None) for part in parts]
        table = means[0] if len(means) == 1 else pt.stack(pt.broadcast_arrays(*means), axis=-core - 1)
        return pt.sum(pt.shape_padright(weights, core) * table, axis=-core - 1)
    return moments.mean(without_size(rv))


def without_size(rv: Variable) -> Variable:
    """The distribution with the shape of its parameters."""
    op = rv.owner.op
    if not isinstance(op, RandomVariable):
        return rv
    return op.make_node(op.rng_param(rv.owner), None, *op.dist_params(rv.owner)).outputs[1]


def data_of(model: Model, rv: Variable) -> set[str]:
    """Names of the ``pm.Data`` that hold the values of an observed variable."""
    upstream = set(ancestors([model.rvs_to_values[rv]]))
    return {v.name for v in model.data_vars if v in upstream}
