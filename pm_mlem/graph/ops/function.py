"""Compiled PyTensor functions that threads may share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytensor
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable

COMPILING = threading.RLock()
"""Held while PyTensor compiles anything, and while its plain functions run: Ops compile what is inside them then."""


def function(inputs: Sequence, outputs, *, mode: Mode | None, on_unused_input: str = "raise") -> Callable:
    """``pytensor.function`` whose calls do not meet: the arguments of a call are kept in the function itself."""
    with COMPILING:
        run = pytensor.function(list(inputs), outputs, mode=mode, on_unused_input=on_unused_input)

    def call(*args):
        with COMPILING:
            return run(*args)

    return call


class Compiled:
    """A PyTensor function of a compiling backend, compiled at its first call; one call at a time.

    Other threads' calls of other functions go on meanwhile.
    """

    def __init__(self, inputs: Sequence[Variable], outputs: Sequence[Variable], mode: str):
        self.inputs, self.outputs, self.mode = list(inputs), list(outputs), mode
        self.function, self.lock = None, threading.Lock()

    def __call__(self, *args):
        with self.lock:
            if self.function is None:
                with COMPILING:
                    self.function = pytensor.function(
                        self.inputs, self.outputs, mode=self.mode, on_unused_input="ignore"
                    )
            return self.function(*args)
