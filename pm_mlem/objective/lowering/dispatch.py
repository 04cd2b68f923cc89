"""PyTensor's conversions to JAX, without what their import does to the user's JAX.

The import switches 64 bits on (or off) for the whole process. Here the switch stays as it was, and it is turned when
somebody else comes for the conversions for the first time, as PyTensor would have done.
"""

from __future__ import annotations

import sys
from threading import Thread
from types import ModuleType

import jax
import pytensor

PLACE = "pytensor.link.jax.dispatch"


def switch() -> bool:
    """Whether JAX computes in 64 bits by default, whatever the context of this thread says."""
    found = []
    thread = Thread(target=lambda: found.append(bool(jax.config.jax_enable_x64)))
    thread.start()
    thread.join()
    return found[0]


class Deferred(ModuleType):
    """The module of PyTensor's conversions, which turns the switch when it is used."""

    def __getattribute__(self, name: str):
        if name == "jax_funcify":
            self.__class__ = ModuleType
            jax.config.update("jax_enable_x64", pytensor.config.floatX == "float64")
        return ModuleType.__getattribute__(self, name)


known = PLACE in sys.modules
before = switch()

from pytensor.link.jax.dispatch import jax_funcify  # noqa: E402

if not known and switch() != before:
    jax.config.update("jax_enable_x64", before)
    sys.modules[PLACE].__class__ = Deferred

__all__ = ["jax_funcify"]
