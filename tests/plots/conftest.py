"""Pictures are asked for by users whose JAX computes in 32 bits."""

import jax
import pytest


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield
