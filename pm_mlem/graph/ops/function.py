"""Compiled PyTensor functions that threads may share."""

from __future__ import annotations

import threading
import warnings
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

    Other threads' calls of other functions go on meanwhile. Of several modes the first counts that compiles and runs.
    """

    def __init__(self, inputs: Sequence[Variable], outputs: Sequence[Variable], *modes: str | Mode):
        self.inputs, self.outputs, self.modes = list(inputs), list(outputs), modes
        self.function, self.lock = None, threading.Lock()

    def __call__(self, *args):
        with self.lock:
            if self.function is None:
                with COMPILING, warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="Numba will use object mode")
                    self.function = self.first_that_runs(args)
            return self.function(*args)

    def first_that_runs(self, args: Sequence) -> Callable:
        for mode in self.modes[:-1]:
            try:
                run = self.build(mode)
                run(*args)  # some fail when they are run
                return run
            except Exception:  # whatever a compiler raises; an error of the model's comes again below
                continue
        return self.build(self.modes[-1])

    def build(self, mode: str | Mode) -> Callable:
        return pytensor.function(self.inputs, self.outputs, mode=mode, on_unused_input="ignore")
