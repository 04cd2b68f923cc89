"""Log-densities in forms that keep their digits, and that JAX can differentiate twice.

PyMC writes the densities of censored and truncated variables through distribution functions: ``log(gammainc(a, x))``,
and ``log1mexp`` of such a logarithm for the probability beyond a bound. Beyond a dozen standard deviations the latter
is minus infinity with an infinite slope, and JAX cannot differentiate incomplete gamma and beta functions by their
shapes. Here logarithms meet what they are taken of: ``log(1 - exp(log P(a, x)))`` is ``log Q(a, x)``, a function of its
own. The identities are exact and local, whatever distribution they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytensor.scalar as ps
import pytensor.scalar.math as psm
import pytensor.tensor as pt
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.scalar.basic import ScalarOp
from pytensor.tensor.elemwise import DimShuffle, Elemwise

from pm_mlem.graph.ops.operations import guarded as with_guard
from pm_mlem.objective.lowering import incomplete, kernels
from pm_mlem.objective.lowering.dispatch import jax_funcify

HALF = float(np.log(0.5))


class Special(ScalarOp):
    """A function of this package, by name (JAX only)."""

    __props__ = ("name",)

    def __init__(self, name: str):
        super().__init__(ps.upgrade_to_float64, name=name)

    def impl(self, *inputs):
        raise NotImplementedError

    def c_code(self, *arguments, **more):
        raise NotImplementedError


KERNELS: dict[str, Callable] = {
    "log1mexp": incomplete.log1mexp,
    "softplus": jax.nn.softplus,
    "log_erf": kernels.log_erf,
    "log_erfc": kernels.log_erfc,
    "log_i0": kernels.log_i0,
    "log_gamma_part": incomplete.log_gamma_part,
    "gamma_below": incomplete.gamma_below,
    "log_beta_part": incomplete.log_beta_part,
    "beta_below": incomplete.beta_below,
}
PARTS = {
    "log_gammainc": ("gamma", True), "log_gammaincc": ("gamma", False),
    "log_betainc": ("beta", True), "log_betaincc": ("beta", False),
}  # fmt: skip
"""What is one of two parts of a whole, evaluated together, and whether it is the lower one."""
OPS = {name: Elemwise(Special(name), name=name) for name in [*KERNELS, *PARTS, "gammainc", "gammaincc", "betainc"]}
COMPLEMENTS = {
    "log_gammainc": "log_gammaincc", "log_gammaincc": "log_gammainc",
    "log_betainc": "log_betaincc", "log_betaincc": "log_betainc",
    "log_erf": "log_erfc", "log_erfc": "log_erf",
}  # fmt: skip
"""Pairs of logarithms whose exponentials add up to 1."""
PLAIN = {
    psm.GammaInc: "gammainc", psm.GammaIncC: "gammaincc", psm.BetaInc: "betainc", psm.Log1mexp: "log1mexp",
    psm.Softplus: "softplus",
}  # fmt: skip
"""What JAX has no derivative of, or not a sound one."""
LOGS = {psm.Erfc: "log_erfc", psm.I0: "log_i0", psm.Erf: "log_erf"}


@jax_funcify.register(Special)
def _(op, **kwargs):
    return KERNELS[op.name]


def stabilize(graph: FunctionGraph) -> None:
    """Put stable forms in the place of unstable ones, in place."""
    for rule in (rewritten, evaluated):
        for node in graph.toposort():
            new = rule(node)
            if new is not None and new is not node.outputs[0]:
                graph.replace(node.outputs[0], node.outputs[0].type.filter_variable(new), reason="stabilize")


def evaluated(node) -> Variable | None:
    """The parts of a whole by the one of them that is evaluated."""
    op, inputs = parts(node.outputs[0])
    if not isinstance(op, Special) or op.name in KERNELS:
        return None
    name = op.name if op.name in PARTS else f"log_{op.name}"
    whole, lower = PARTS[name]
    if whole == "beta":
        inputs = [*inputs[:2], *both_tails(inputs[2])]
    below, part = OPS[f"{whole}_below"](*inputs), OPS[f"log_{whole}_part"](*inputs)
    sides = (part, OPS["log1mexp"](part))
    value = pt.switch(below > 0, *(sides if lower else sides[::-1]))
    return value if name == op.name else pt.exp(value)


def rewritten(node) -> Variable | None:
    if not isinstance(node.op, Elemwise) or len(node.outputs) != 1:
        return None
    if not node.outputs[0].type.dtype.startswith("float"):
        return None
    op, inputs = node.op.scalar_op, node.inputs
    if isinstance(op, ps.Log):
        return log(inputs[0], otherwise=node.outputs[0])
    if isinstance(op, ps.Log1p):
        return log1p(inputs[0], otherwise=node.outputs[0])
    if isinstance(op, psm.Log1mexp):
        return complement(inputs[0])
    if isinstance(op, ps.Add):
        return interval(inputs)
    name = PLAIN.get(type(op))
    return None if name is None else OPS[name](*inputs)


# --- logarithms -----------------------------------------------------------------------------------------------


def log(x: Variable, otherwise: Variable | None = None) -> Variable:
    """``log(x)``."""
    op, inputs = parts(x)
    if isinstance(op, Special) and f"log_{op.name}" in OPS:
        return OPS[f"log_{op.name}"](*inputs)
    if type(op) in LOGS:
        return OPS[LOGS[type(op)]](*inputs)
    if isinstance(op, ps.Exp):
        return inputs[0]
    if isinstance(op, psm.Sigmoid):
        return -OPS["softplus"](-inputs[0])
    if isinstance(op, ps.Sub) and is_constant(inputs[0], 1.0):
        return log1p(negated(inputs[1]))
    if isinstance(op, DimShuffle):
        inner = log(inputs[0])
        return inner.dimshuffle(*op.new_order)
    if isinstance(op, ps.Mul | ps.TrueDiv):
        outside, inside = known_factors(x)
        if outside and inside:
            return pt.add(*outside, log(pt.mul(*inside) if len(inside) > 1 else inside[0]))
        if outside:
            return pt.add(*outside) if len(outside) > 1 else outside[0]
    return with_guard(Elemwise(ps.log))(x) if otherwise is None else otherwise


def known_factors(x: Variable) -> tuple[list[Variable], list[Variable]]:
    """Logarithms of the factors of a product that cannot be negative, and the other factors.

    An exponential that underflows to 0 has a logarithm all the same.
    """
    op, inputs = parts(x)
    if isinstance(op, ps.Exp):
        return [inputs[0]], []
    if positive(x):
        return [pt.constant(np.log(x.data))], []
    if isinstance(op, ps.Mul):
        pairs = [known_factors(v) for v in inputs]
        return [v for known, _ in pairs for v in known], [v for _, rest in pairs for v in rest]
    if isinstance(op, ps.TrueDiv):
        (known, rest), (below, left) = known_factors(inputs[0]), known_factors(inputs[1])
        if not left:
            return [*known, *[-v for v in below]], rest
        if known and not rest:
            return [*known, -log(inputs[1])], []
        if known:
            return known, [(pt.mul(*rest) if len(rest) > 1 else rest[0]) / inputs[1]]
    return [], [x]


def log1p(x: Variable, otherwise: Variable | None = None) -> Variable:
    """``log(1 + x)``."""
    op, inputs = parts(x)
    if isinstance(op, ps.Exp):
        return OPS["softplus"](inputs[0])
    if isinstance(op, DimShuffle):
        return log1p(inputs[0]).dimshuffle(*op.new_order)
    if isinstance(op, ps.Neg):
        inner, inputs = parts(inputs[0])
        name = inner.name if isinstance(inner, Special) else LOGS.get(type(inner), "")[4:]
        if f"log_{name}" in COMPLEMENTS:
            return OPS[COMPLEMENTS[f"log_{name}"]](*inputs)
        if isinstance(inner, ps.Exp):
            return complement(inputs[0])
        if isinstance(inner, ps.Pow) and inputs[1].type.dtype.startswith("float") and not is_constant(inputs[1]):
            return complement(inputs[1] * log(inputs[0]))  # a fractional power: of a positive number
        if isinstance(inner, psm.Sigmoid):
            return -OPS["softplus"](inputs[0])
    return with_guard(Elemwise(ps.log1p))(x) if otherwise is None else otherwise


def complement(x: Variable) -> Variable:
    """``log(1 - exp(x))``, for the logarithm x of a probability."""
    found = known_complement(x)
    return OPS["log1mexp"](x) if found is None else found


def known_complement(x: Variable) -> Variable | None:
    """``log(1 - exp(x))`` where it is a function that needs no difference."""
    if isinstance(x, Constant):
        with np.errstate(divide="ignore"):
            return pt.constant(np.log(-np.expm1(np.asarray(x.data, dtype=float))))
    op, inputs = parts(x)
    if isinstance(op, Special):
        if op.name == "log1mexp":
            return inputs[0]
        return OPS[COMPLEMENTS[op.name]](*inputs) if op.name in COMPLEMENTS else None
    if isinstance(op, ps.Switch):
        branches = [known_complement(v) for v in inputs[1:]]
        if None in branches:
            branches = [complement(v) for v in inputs[1:]]
        return pt.switch(inputs[0], *branches)
    if isinstance(op, DimShuffle):
        inner = known_complement(inputs[0])
        return None if inner is None else inner.dimshuffle(*op.new_order)
    if isinstance(op, ps.Log):
        return log1p(negated(inputs[0]))
    if isinstance(op, ps.Log1p):
        return log(negated(inputs[0]))
    if isinstance(op, ps.Neg):
        inner, inputs = parts(inputs[0])
        if isinstance(inner, Special) and inner.name == "softplus":
            return -OPS["softplus"](negated(inputs[0]))
    return None


def interval(terms: list[Variable]) -> Variable | None:
    """``a + log(1 - exp(b - a))``, the logarithm of ``exp(a) - exp(b)``: by the complements where these are smaller."""
    for a in terms:
        for term in terms:
            op, inputs = parts(term)
            if not (isinstance(op, Special) and op.name == "log1mexp" and len(terms) == 2):
                continue
            inner, ends = parts(inputs[0])
            if not isinstance(inner, ps.Sub) or ends[1] is not a:
                continue
            b = ends[0]
            beyond_a, beyond_b = known_complement(a), known_complement(b)
            if beyond_a is None or beyond_b is None:
                continue
            by_complements = beyond_b + OPS["log1mexp"](beyond_a - beyond_b)
            return pt.switch(pt.gt(b, HALF), by_complements, a + term)
    return None


def both_tails(x: Variable) -> tuple[Variable, Variable]:
    """``x`` and ``1 - x`` without the difference where one is written, or where x is PyMC's of a Student t.

    That is ``(t + s) / (2 s)``, ``s = sqrt(t**2 + nu)``; the smaller of the two is ``nu / (2 s (s + abs(t)))``.
    """
    op, inputs = parts(x)
    if isinstance(op, ps.Sub) and is_constant(inputs[0], 1.0):
        return x, inputs[1]
    if isinstance(op, ps.TrueDiv):
        for t, root, nu in roots(*inputs):
            large = (abs(t) + root) / (2.0 * root)
            small = nu / (2.0 * root * (root + abs(t)))
            return pt.switch(t > 0, large, small), pt.switch(t > 0, small, large)
    return x, 1.0 - x


def roots(top: Variable, bottom: Variable) -> Iterator[tuple[Variable, Variable, Variable]]:
    """``t, s, nu`` where the two are ``t + s`` and ``2 s``, s the square root of ``t**2 + nu``."""
    (add, terms), (mul, factors) = parts(top), parts(bottom)
    if not (isinstance(add, ps.Add) and isinstance(mul, ps.Mul) and len(terms) == len(factors) == 2):
        return
    for t, root in (terms, terms[::-1]):
        op, inside = parts(root)
        if not isinstance(op, ps.Sqrt) or not any(
            f is root and is_constant(g, 2.0) for f, g in (factors, factors[::-1])
        ):
            continue
        add, summands = parts(inside[0])
        for square, nu in (summands, summands[::-1]) if isinstance(add, ps.Add) and len(summands) == 2 else ():
            power, base = parts(square)
            squared = isinstance(power, ps.Pow) and is_constant(base[1], 2.0)
            if (squared or isinstance(power, ps.Sqr)) and base[0] is t:
                yield t, root, nu


# --- reading graphs -------------------------------------------------------------------------------------------


def parts(x: Variable) -> tuple[object, list[Variable]]:
    """What an entry of an array is the result of, and of what."""
    if x.owner is None or len(x.owner.outputs) != 1:
        return None, []
    op = x.owner.op
    return (op.scalar_op if isinstance(op, Elemwise) else op), list(x.owner.inputs)


def negated(x: Variable) -> Variable:
    """``-x`` without a sign that is there already."""
    op, inputs = parts(x)
    if isinstance(op, ps.Neg):
        return inputs[0]
    if isinstance(op, ps.Sub):
        return inputs[1] - inputs[0]
    if isinstance(op, ps.TrueDiv):
        return negated(inputs[0]) / inputs[1]
    if isinstance(op, ps.Mul) and len(inputs) == 2:
        for factor, rest in (inputs, inputs[::-1]):
            if isinstance(factor, Constant):
                return pt.mul(pt.constant(-np.asarray(factor.data)), rest)
    return -x


def is_constant(x: Variable, value: float | None = None) -> bool:
    """Whether something is a constant, or a certain one."""
    op, inputs = parts(x)
    if isinstance(op, DimShuffle):
        return is_constant(inputs[0], value)
    return isinstance(x, Constant) and (value is None or bool(np.all(np.asarray(x.data) == value)))


def positive(x: Variable) -> bool:
    return isinstance(x, Constant) and bool(np.all(np.asarray(x.data) > 0))
