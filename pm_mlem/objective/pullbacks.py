"""Derivatives where only pullbacks are known: functions that are derivatives themselves, in reverse mode."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def forward_by_reverse(function: Callable, u, at_once: int) -> jax.Array:
    """Jacobian of a vector ``(n,)``, ``(n, p)``, by p passes where only pullbacks are known.

    Column j is the derivative of ``c -> <J' c, e_j>``, which is linear in c; see :func:`somewhere`.
    """
    values, pullback = jax.vjp(function, u)

    def column(direction):
        return jax.grad(lambda c: pullback(c)[0] @ direction)(somewhere(values))

    columns = jnp.eye(len(u), dtype=values.dtype)
    if len(u) <= at_once:
        return jax.vmap(column)(columns).T
    return jax.lax.map(column, columns, batch_size=at_once).T


def jacobian_by_reverse(function: Callable, u, data) -> list:
    """Columns ``J e_j`` from the pullback alone: the derivative of ``c -> <J' c, e_j>``; see :func:`somewhere`."""
    values, pullback = jax.vjp(lambda v: function(v, data), u)
    start = [somewhere(v) for v in values]
    columns = [jax.grad(lambda c, j=j: pullback(c)[0][j])(start) for j in range(len(u))]
    return [jnp.stack([column[i] for column in columns], axis=-1) for i in range(len(values))]


def somewhere(values: jax.Array) -> jax.Array:
    """Where a linear function of cotangents is derived: guarded pullbacks are constant at 0 and only there."""
    return (1.0 + 0.5 * jnp.sin(jnp.arange(1.0, values.size + 1.0))).reshape(values.shape).astype(values.dtype)
