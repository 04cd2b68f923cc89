"""Hypotheses as text: what they say, and that no text hangs."""

import time

import numpy as np
import pytest
import xarray as xr

from pm_mlem.results.expressions import Expressions, equations

ESTIMATES = xr.Dataset(
    {"mu": ("group", [1.5, -2.0]), "s": 0.5, "_name_0": 3.0},
    coords={"group": ["a", "b"]},
)
JACOBIANS = {"mu": np.eye(4)[:2], "s": np.eye(4)[2], "_name_0": np.eye(4)[3]}


def linearized(text):
    return Expressions(ESTIMATES).linearized(equations(text), JACOBIANS)


@pytest.mark.parametrize(
    "text, value, slope",
    [
        ("mu[a] = mu[b]", 3.5, [1, -1, 0, 0]),
        ("mu[b] ** 3 = -1", -7.0, [0, 12, 0, 0]),
        ("-mu[b] * 2 - 1 = 0", 3.0, [0, -2, 0, 0]),
        ("2 - mu[a] - 3 = 0", -2.5, [-1, 0, 0, 0]),
        ("8 / s / 4 = 0", 4.0, [0, 0, -8, 0]),
        ("2 ** s ** 2 = 1", 2**0.25 - 1, [0, 0, np.log(2) * 2**0.25, 0]),
        ("log(exp(s)) + sqrt(s ** 2) = 1", 0.0, [0, 0, 2, 0]),
        ("_name_0 + mu[a] = 0", 4.5, [1, 0, 0, 1]),
        ("+".join(["s"] * 1000) + " = 0", 500.0, [0, 0, 1000, 0]),
    ],
)
def test_values_and_slopes(text, value, slope):
    found, slopes = linearized(text)
    np.testing.assert_allclose(found, [value], rtol=1e-12)
    np.testing.assert_allclose(slopes, [slope], rtol=1e-12, atol=1e-14)


DEEP = 5000
SIZES = [
    "9**9**9 = mu[a]",
    "mu[a] = 9.0**9**9",
    "2**10000000 * s = 1",
    "(9**9)**(9**9) = s",
    "s ** 1e9 ** 9 = 1 / 0",
    f"{'9' * 4000} ** {'9' * 4000} = s",
    f"{'9' * 5000} = s",
    f"{'-' * DEEP}s = 0",
    f"{'(' * DEEP}s{')' * DEEP} = 0",
    f"{'log(' * DEEP}s{')' * DEEP} = 0",
    f"{'[' * DEEP}s{']' * DEEP} = 0",
    f"{'+'.join(['s'] * 50_000)} = 0",
    f"{'**'.join(['s'] * DEEP)} = 0",
    f"{'s-(' * DEEP}s{')' * DEEP} = 0",
]


@pytest.mark.parametrize("text", SIZES, ids=lambda t: t[:20])
def test_no_hypothesis_hangs(text):
    began = time.process_time()
    with pytest.raises(ValueError) as caught:
        linearized(text)
    assert len(str(caught.value)) < 400
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("log(mu[b]) = 0", "has no finite real value at the estimates"),
        ("mu[b] ** 0.5 = 0", "has no finite real value at the estimates"),
        ("s / 0 = 1", "has no finite real value at the estimates"),
        ("s = True", "'True' is not an expression in the names of the estimates"),
        ("s = 1j", "'1j' is not an expression"),
        ("s = 'a'", "is not an expression"),
        ("_name_1 = 0", "'_name_1' is not an expression"),
        ("s.real = 0", "is not an expression"),
        ("__import__('os') = 0", "is not an expression"),
        ("[1, [2]] = mu", "have different shapes"),
        ("\0 = s", "is not an expression"),
    ],
)
def test_what_is_no_hypothesis(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        linearized(text)


@pytest.mark.parametrize("text", ["s = 0", "0 = s", "2 * s - 1 = -1", "s - 0 = 0", {"s": 0}, ["s = 0"]])
def test_the_value_that_makes_an_equation_true(text):
    [sides] = equations(text)
    name, value = Expressions(ESTIMATES).solution(sides)
    assert (name, float(value)) == ("s", pytest.approx(0.0, abs=1e-15))


@pytest.mark.parametrize("text", ["s ** 2 = 0", "mu[a] = mu[b]", "mu = 0", "s * mu[a] = 0", "1 = 1"])
def test_equations_that_are_not_about_one_entry(text):
    [sides] = equations(text)
    assert Expressions(ESTIMATES).solution(sides) is None
