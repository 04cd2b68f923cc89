"""All numbers are of 64 bits, whatever the user's settings are, and these stay as they are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any


@contextmanager
def wide_graphs() -> Iterator[None]:
    """Within it, PyTensor's new graphs are of 64 bits."""
    from pytensor import config

    with nullcontext() if config.floatX == "float64" else config.change_flags(floatX="float64"):
        yield


@contextmanager
def double() -> Iterator[None]:
    """Within it, JAX computes in 64 bits (in this thread), and PyTensor's new graphs are of 64 bits."""
    import jax

    with wide_graphs(), jax.enable_x64(True):
        yield


def items_in_double(generator):
    """A generator function whose items are computed in 64 bits, one after the other."""

    @functools.wraps(generator)
    def generate(*args, **kwargs):
        items = generator(*args, **kwargs)
        while True:
            with double():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    return generate


def in_double[Class: type](cls: Class) -> Class:
    """A class whose public methods and properties compute in 64 bits."""
    for name, member in list(vars(cls).items()):
        if name.startswith("_"):
            continue
        new: Any = None
        if isinstance(member, property) and member.fget is not None:
            new = property(double()(member.fget), doc=member.__doc__)
        elif isinstance(member, functools.cached_property):
            new = functools.cached_property(double()(member.func))
            new.__set_name__(cls, name)
        elif inspect.isfunction(member):
            new = double()(member)
        if new is not None:
            setattr(cls, name, new)
    return cls
