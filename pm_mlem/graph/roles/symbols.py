"""Inputs of graphs, by any name that a variable of a model may have."""

from __future__ import annotations

from collections.abc import Sequence

from pytensor.graph.basic import Variable
from pytensor.tensor.type import TensorType


def tensor(name: str | None, *, dtype: str, shape: Sequence[int | None]) -> Variable:
    """As ``pt.tensor``, which takes some names (``float``, ``1|group``) for a dtype and refuses them."""
    return TensorType(dtype, tuple(shape))(name)
