"""How parameters are updated: what is added up over the rows, and what is made of the sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytensor.graph.basic import Variable

from pm_mlem.objective.evaluators.protocol import Summand


@dataclass(frozen=True, eq=False)
class Update:
    """A parameter with a closed form.

    Attributes
    ----------
    name : the parameter
    summands : what is added up
    make : ``(sums, old value, before, now, data) -> new value``, with the sums in the order of the summands, the
        parameters at which they were formed, and the parameters with the updates since; no row of the data is read
    reads : arrays of the model on which the sums depend; other values of these would make the sums worthless
    follows : arrays on which the update depends, at the parameters as they are ``now``
    gather : ``(posterior, parameters, data) -> array``, for what no sums describe: it takes all rows at once, and
        comes after the sums
    """

    name: str
    summands: tuple[Summand, ...]
    make: Callable
    reads: tuple[Variable, ...] = ()
    follows: tuple[Variable, ...] = ()
    gather: Callable | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True, eq=False)
class Climb:
    """Parameters that the data reach through a few sums.

    Attributes
    ----------
    names : the parameters
    summands, reads : as for :class:`Update`
    climb : ``(sums, u, data) -> next u``; no row of the data is read
    """

    names: tuple[str, ...]
    summands: tuple[Summand, ...]
    climb: Callable
    reads: tuple[Variable, ...]
