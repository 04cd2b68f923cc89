"""One step of the recursion over a window of time, forwards and backwards, for any array library.

Arrays have the axes ``(leading..., window of states..., components)``. The window holds the states of ``m``
vectors at ``lag`` times, oldest first; while a step is taken it is one time longer. All values are logarithms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Pattern = tuple[tuple[int, int], ...]
"""For each view of a table ``(vector, steps back from the newest time that the table reads)``."""


@dataclass(frozen=True)
class Window:
    """The shape of a recursion.

    Attributes
    ----------
    states : states of each moving vector
    lag : how many steps back the tables reach
    patterns : one for each table
    leading : number of leading axes (constants of the chains)
    steps : number of times
    """

    states: tuple[int, ...]
    lag: int
    patterns: tuple[Pattern, ...]
    leading: int
    steps: int

    @cached_property
    def oldest(self) -> tuple[int, ...]:
        """Axes of the oldest time in the longer window."""
        return tuple(range(self.leading, self.leading + len(self.states)))

    @cached_property
    def newest(self) -> tuple[int, ...]:
        """Axes of the newest time in the longer window."""
        start = self.leading + self.lag * len(self.states)
        return tuple(range(start, start + len(self.states)))

    @property
    def width(self) -> int:
        """Number of state axes of the longer window."""
        return (self.lag + 1) * len(self.states)

    def axis(self, vector: int, back: int) -> int:
        return self.leading + (self.lag - back) * len(self.states) + vector

    def first(self, table: int) -> int:
        """The first time at which a table can be read."""
        return max((back for _, back in self.patterns[table]), default=0)

    def spread(self, table: Any, index: int) -> Any:
        """``(leading, views, components, times)`` to ``(times, leading, longer window, components)``."""
        lead, views = self.leading, len(self.patterns[index])
        order = np.argsort([self.axis(v, b) for v, b in self.patterns[index]]).tolist() if views else []
        table = table.transpose((lead + views + 1, *range(lead), *[lead + i for i in order], lead + views))
        shape = [1] * self.width
        for v, b in self.patterns[index]:
            shape[self.axis(v, b) - lead] = self.states[v]
        return table.reshape((table.shape[0], *table.shape[1 : 1 + lead], *shape, table.shape[-1]))

    def gather(self, gradient: Any, index: int) -> Any:
        """The inverse of :meth:`spread` for an array that was summed over the axes the table does not have."""
        lead, pattern = self.leading, self.patterns[index]
        order = np.argsort([self.axis(v, b) for v, b in pattern]).tolist()
        sizes = [self.states[pattern[i][0]] for i in order]
        shape = (gradient.shape[0], *gradient.shape[1 : 1 + lead], *sizes, gradient.shape[-1])
        gradient = gradient.reshape(shape)
        back = np.argsort(order).tolist() if order else []
        views = len(order)
        return gradient.transpose((*range(1, 1 + lead), *[1 + lead + i for i in back], 1 + lead + views, 0))

    def absent(self, index: int) -> tuple[int, ...]:
        """Axes of the longer window that a table does not have."""
        own = {self.axis(v, b) for v, b in self.patterns[index]}
        return tuple(a for a in range(self.leading, self.leading + self.width) if a not in own)

    def start(self, xp: Any, leading_shape: Sequence[int], n: int) -> Any:
        """Before the first time there is one state: the zeroth."""
        states = self.states * self.lag
        value = np.full((*[1] * self.leading, *states, 1), -np.inf)
        value[(0,) * (value.ndim)] = 0.0
        return xp.broadcast_to(xp.asarray(value), (*leading_shape, *states, n))

    def leading_shape(self, tables: Sequence[Any]) -> tuple[int, ...]:
        return np.broadcast_shapes(*[t.shape[: self.leading] for t in tables]) if tables else ()


def logsumexp(xp: Any, x: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
    """-inf, with derivative 0, where all entries are -inf."""
    top = x.max(axis=axes, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0.0)
    total = xp.exp(x - top).sum(axis=axes, keepdims=True)
    empty = total == 0
    result = xp.where(empty, -np.inf, xp.log(xp.where(empty, 1.0, total)) + top)
    return result if keepdims else result.reshape([n for d, n in enumerate(result.shape) if d not in axes])


def longer(window: Window, alpha: Any) -> Any:
    """Append axes for the newest time."""
    shape = alpha.shape
    return alpha.reshape((*shape[:-1], *[1] * len(window.states), shape[-1]))


def older(window: Window, beta: Any) -> Any:
    """Prepend axes for the oldest time."""
    lead, shape = window.leading, beta.shape
    return beta.reshape((*shape[:lead], *[1] * len(window.states), *shape[lead:]))


def total(tables: Sequence[Any]) -> Any:
    result = tables[0]
    for table in tables[1:]:
        result = result + table
    return result


def largest(xp: Any, x: Any, axes: tuple[int, ...]) -> Any:
    """The maximum, in place of :func:`logsumexp`."""
    return x.max(axis=axes)


def forward(
    xp: Any, window: Window, alpha: Any, tables: Sequence[Any], valid: Any, reduce: Callable = logsumexp
) -> Any:
    """``alpha`` one time later; components that have ended keep theirs."""
    new = reduce(xp, longer(window, alpha) + total(tables), window.oldest)
    new = xp.broadcast_to(new, alpha.shape)
    return xp.where(valid, new, alpha)


def backward(xp: Any, window: Window, alpha: Any, new: Any, gamma: Any, tables: Sequence[Any], valid: Any):
    """The posterior of the states in the longer window, and of those in the window one time earlier.

    ``alpha`` and ``new`` are the values of :func:`forward` before and after the step, ``gamma`` is the posterior of
    the window after it. Given the states after the step, those before it do not depend on anything later, so the
    posterior is their conditional probability times ``gamma``; all factors are between 0 and 1.
    """
    after = older(window, new)
    possible = valid & xp.isfinite(after)
    conditional = longer(window, alpha) + total(tables) - xp.where(possible, after, 0.0)
    posterior = xp.exp(xp.where(possible, conditional, -np.inf)) * older(window, gamma)
    return posterior, xp.where(valid, posterior.sum(axis=window.newest), gamma)


def final(xp: Any, alpha: Any, log_z: Any) -> Any:
    """The posterior of the last window; ``log_z`` has the axes (leading, 1..., components)."""
    return xp.exp(alpha - xp.where(xp.isfinite(log_z), log_z, 0.0))


def run_forward(window: Window, lengths: np.ndarray, tables: Sequence[np.ndarray]) -> tuple[np.ndarray, list]:
    """With NumPy: log-partition ``(leading..., components)``, the alphas before every step, and the last one."""
    spread = [window.spread(t, i) for i, t in enumerate(tables)]
    alpha = window.start(np, window.leading_shape(tables), len(lengths))
    alphas = []
    for t in range(window.steps):
        alphas.append(alpha)
        alpha = forward(np, window, alpha, at_time(window, spread, t), t < lengths)
    alphas.append(alpha)
    axes = tuple(range(window.leading, alpha.ndim - 1))
    return logsumexp(np, alpha, axes), alphas


def at_time(window: Window, spread: Sequence[Any], t: int) -> list[Any]:
    """The tables that are read at one time; those that are the same at all times from the first possible on."""
    chosen = [s[t] if s.shape[0] > 1 else s[0] for i, s in enumerate(spread) if s.shape[0] > 1 or t >= window.first(i)]
    return chosen or [np.zeros((1,) * (window.leading + window.width + 1))]


def run_backward(window: Window, lengths: np.ndarray, tables: Sequence[np.ndarray], cotangent: np.ndarray) -> list:
    """With NumPy: gradients of ``sum(cotangent * log-partition)`` by the tables."""
    log_z, alphas = run_forward(window, lengths, tables)
    lead = window.leading
    weight = cotangent.reshape((*log_z.shape[:lead], *[1] * window.width, log_z.shape[-1]))
    spread = [window.spread(t, i) for i, t in enumerate(tables)]
    last = alphas[-1]
    gamma = final(np, last, log_z.reshape((*log_z.shape[:lead], *[1] * (last.ndim - lead - 1), log_z.shape[-1])))
    results = [np.zeros(s.shape) for s in spread]
    for t in reversed(range(window.steps)):
        tables_now = at_time(window, spread, t)
        posterior, gamma = backward(np, window, alphas[t], alphas[t + 1], gamma, tables_now, t < lengths)
        weighted = posterior * weight
        for i, s in enumerate(spread):
            if s.shape[0] > 1 or t >= window.first(i):
                axes = tuple(d for d in range(weighted.ndim) if s.shape[1 + d] == 1 and weighted.shape[d] != 1)
                results[i][t if s.shape[0] > 1 else 0] += weighted.sum(axis=axes, keepdims=True)
    return [window.gather(r, i) for i, r in enumerate(results)]
