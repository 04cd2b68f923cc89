"""Hypotheses about estimates, written as equations between the names of their entries."""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Mapping, Sequence

import numpy as np

from pm_mlem.estimate.labels import entry_names
from pm_mlem.graph.roles.axis_labels import several

DEEPEST = 100
"""Brackets, powers and functions within each other."""
Hypotheses = str | Mapping[str, float] | Sequence
STEP = 1e-30
"""Imaginary step: derivatives of analytic functions without rounding."""
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos}  # fmt: skip
FUNCTIONS = {"log": np.log, "exp": np.exp, "sqrt": np.sqrt}


def equations(hypotheses: Hypotheses) -> list[tuple[str, str]]:
    """Left-hand and right-hand sides.

    Raises
    ------
    ValueError
    """
    if isinstance(hypotheses, Mapping):
        return [(str(name), repr(np.asarray(value).tolist())) for name, value in hypotheses.items()]
    if not isinstance(hypotheses, str | Sequence):
        raise TypeError(f"A hypothesis is an equation like 'b = 0', or several in a list, not {hypotheses!r}.")
    if not isinstance(hypotheses, str):
        return [side for h in hypotheses for side in equations(h)]
    sides = hypotheses.split("=")
    if len(sides) != 2 or not all(s.strip() for s in sides):
        raise ValueError(f"'{hypotheses}' is not a hypothesis; write an equation such as 'mu[a] = mu[b]' or 'b = 0'.")
    return [(sides[0].strip(), sides[1].strip())]


class Expressions:
    """Values and derivatives of the differences of equations.

    Parameters
    ----------
    estimates : dataset of parameters and Deterministics
    """

    def __init__(self, estimates):
        self.values = {str(n): np.asarray(a.values, dtype=complex) for n, a in estimates.data_vars.items()}
        self.known: dict[str, tuple[str, int | None]] = {n: (n, None) for n in self.values}
        for name, array in estimates.data_vars.items():
            self.known |= {e: (str(name), i) for i, e in enumerate(entry_names(array)) if e != name}
        names = sorted(self.known, key=len, reverse=True)
        self.pattern = re.compile(r"(?<![\w.])(?:" + "|".join(map(re.escape, names)) + r")(?![\w\[])")

    def parsed(self, text: str) -> tuple[ast.expr, list[str]]:
        """The syntax tree and the names in the order of their stand-ins."""
        found: list[str] = []
        prefix = stand_in_prefix(text)

        def stand_in(match: re.Match) -> str:
            found.append(match.group())
            return f"{prefix}{len(found) - 1}"

        replaced = self.pattern.sub(stand_in, text)
        try:
            return ast.parse(replaced, mode="eval").body, found
        except (RecursionError, MemoryError):
            raise ValueError(too_deep(text)) from None
        except (SyntaxError, ValueError) as error:
            raise ValueError(too_deep(text) if "too many nested" in str(error) else self.unknown(text)) from None

    def unknown(self, text: str) -> str:
        close = difflib.get_close_matches(text, self.known, n=1)
        guess = several(text, list(self.known)) or (f" Did you mean '{close[0]}'?" if close else "")
        listed = ", ".join(list(self.known)[:6]) + (", ..." if len(self.known) > 6 else "")
        return f"'{shortened(text)}' is not an expression in the names of the estimates.{guess} These are {listed}."

    def evaluate(self, text: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
        tree, found = self.parsed(text)
        prefix = stand_in_prefix(text)

        def walk(node: ast.expr, depth: int):
            if depth > DEEPEST:
                raise ValueError(too_deep(text))
            later = []  # a sum of many terms nests to the left
            while isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
                later.append((OPERATORS[type(node.op)], node.right))
                node = node.left
            value = operand(node, depth + 1)
            for operation, right in reversed(later):
                value = operation(value, walk(right, depth + 1))
            return value

        def operand(node: ast.expr, depth: int):
            match node:
                case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                    return number(node.value)
                case ast.List(elts=items):
                    return np.array([walk(item, depth) for item in items])
                case ast.Name(id=name) if name.startswith(prefix):
                    variable, position = self.known[found[int(name.removeprefix(prefix))]]
                    return values[variable] if position is None else values[variable].flat[position]
                case ast.BinOp(op=op) if type(op) in OPERATORS:
                    return walk(node, depth)
                case ast.UnaryOp(op=op, operand=inner) if type(op) in OPERATORS:
                    return OPERATORS[type(op)](walk(inner, depth))
                case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                    return FUNCTIONS[name](walk(argument, depth))
            raise ValueError(self.unknown(text))

        with np.errstate(all="ignore"):
            return np.asarray(walk(tree, 0))

    def differences(self, sides: Sequence[tuple[str, str]], values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Left-hand minus right-hand sides, one entry after the other."""
        parts = []
        for left, right in sides:
            try:
                parts.append(np.ravel(self.evaluate(left, values) - self.evaluate(right, values)))
            except ValueError as error:
                if "broadcast" in str(error) or "inhomogeneous" in str(error):
                    raise ValueError(f"The two sides of '{left} = {right}' have different shapes.") from None
                raise
        return np.concatenate(parts).astype(complex)

    def solution(self, sides: tuple[str, str]) -> tuple[str, np.ndarray] | None:
        """The variable that an equation is about, with the value that makes it true; None where it is about several
        entries, or not linear in the one.
        """
        used = {name for text in sides for name in self.parsed(text)[1]}
        if len(used) != 1:
            return None
        name, position = self.known[used.pop()]
        if position is None and self.values[name].ndim:
            return None
        moved = {**self.values, name: self.values[name].copy()}
        start = moved[name].flat[position or 0].real
        moved[name].flat[position or 0] += 1j * STEP
        [difference] = self.differences([sides], moved)
        with np.errstate(all="ignore"):
            moved[name].flat[position or 0] = start - difference.real / (difference.imag / STEP)
        [left] = self.differences([sides], moved)
        return (name, moved[name].real) if abs(left) <= 1e-12 * (abs(difference) + abs(start)) else None

    def linearized(
        self, sides: Sequence[tuple[str, str]], jacobians: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The differences (m,), and their derivatives (m, p) by the chain rule."""
        at_estimates = self.differences(sides, self.values)
        if not np.all(np.isfinite(at_estimates)) or np.any(at_estimates.imag):
            listed = ", ".join(f"{shortened(left)} = {shortened(right)}" for left, right in sides)
            raise ValueError(f"{listed} has no finite real value at the estimates.")
        value = at_estimates.real
        used = {self.known[name][0] for side in sides for text in side for name in self.parsed(text)[1]}
        if not used:
            raise ValueError("The hypothesis contains no estimate.")
        p = next(iter(jacobians.values())).shape[-1]
        slopes = np.zeros((len(value), p))
        for name in used & set(jacobians):
            for i in np.ndindex(*self.values[name].shape):
                moved = dict(self.values)
                moved[name] = moved[name].copy()
                moved[name][i] += 1j * STEP
                column = self.differences(sides, moved).imag / STEP
                slopes += column[:, None] * jacobians[name][i]
        return value, slopes


def stand_in_prefix(text: str) -> str:
    """How the names that stand in for those of estimates begin: as nothing in the text does."""
    prefix = "_name_"
    while prefix in text:
        prefix = f"_{prefix}"
    return prefix


def number(value: float) -> np.complex128:
    """A number whose powers overflow to infinity, where those of Python's integers grow without end."""
    try:
        return np.complex128(value)
    except OverflowError:
        return np.complex128(np.inf)


def shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def too_deep(text: str) -> str:
    return f"'{shortened(text)}' is nested too deeply; write it with fewer brackets and signs within each other."
