"""Incomplete gamma and beta functions with their derivatives, and the stable forms that lead to them."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pymc.math import log1mexp
from pytensor.graph.basic import equal_computations
from pytensor.graph.fg import FunctionGraph
from scipy import special, stats

import pm_mlem as mlem
from pm_mlem.objective.lowering import incomplete, kernels
from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.lowering.stable import stabilize

pytestmark = pytest.mark.compiled

ROWS = list(csv.reader(Path(__file__).with_name("incomplete_functions.csv").read_text().splitlines()))[1:]
"""Values, first and second derivatives by mpmath, which shares no code with anything here."""


def gamma(lower_part):
    def function(a, x):
        part = incomplete.log_gamma_part(a, x)
        below = incomplete.gamma_below(a, x) == lower_part
        return jnp.where(below, part, incomplete.log1mexp(part))

    return function


def beta(a, b, x):
    part = incomplete.log_beta_part(a, b, x, 1.0 - x)
    return jnp.where(incomplete.beta_below(a, b, x, 1.0 - x), part, incomplete.log1mexp(part))


FUNCTIONS = {"gammainc": gamma(True), "gammaincc": gamma(False), "betainc": beta}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_two_derivatives(name):
    """Forward over reverse, as in Hessians, for shapes from 0.01 to 1e5 and probabilities from exp(-900) on."""
    rows = [row for row in ROWS if row[0] == name]
    points = np.array([[float(v) for v in row[1:4] if v] for row in rows])
    expected = np.array([[float(v) for v in row[4:]] for row in rows])
    function, n = FUNCTIONS[name], points.shape[1]

    def derivatives(point):
        slopes = jax.grad(lambda p: function(*p))
        curved = jax.jacfwd(slopes)(point)
        return jnp.concatenate([function(*point)[None], slopes(point), curved[jnp.triu_indices(n)]])

    found = np.asarray(jax.jit(jax.vmap(derivatives))(points))
    np.testing.assert_allclose(found, expected, rtol=2e-9, atol=1e-9)


def test_ends_of_the_line():
    P, Q = FUNCTIONS["gammainc"], FUNCTIONS["gammaincc"]
    x = np.array([0.0, np.inf, 1.0, -1.0])
    a = np.array([2.0, 2.0, 0.0, 2.0])
    np.testing.assert_array_equal(P(a, x), [-np.inf, 0.0, np.nan, np.nan])
    np.testing.assert_array_equal(Q(a, x), [0.0, -np.inf, np.nan, np.nan])
    np.testing.assert_array_equal(beta(2.0, 3.0, np.array([0.0, 1.0, 2.0])), [-np.inf, 0.0, np.nan])


@pytest.mark.parametrize(
    ("function", "slope", "points"),
    [
        (incomplete.log1mexp, lambda x: -1 / np.expm1(-x), [-1e-300, -1e-17, -1e-5, -0.6, -0.8, -30.0, -700.0]),
        (kernels.log_erfc, lambda x: -2 / np.sqrt(np.pi) / special.erfcx(x), [-3.0, 0.0, 0.1, 5.0, 40.0, 1e5]),
        (kernels.log_erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2)) / special.erf(x), [1e-200, 0.4, 0.6, 5.0]),
        (kernels.log_i0, lambda x: special.i1e(x) / special.i0e(x), [0.0, 1.0, 30.0, 1e4]),
    ],
)
def test_guarded_logarithms(function, slope, points):
    points = np.array(points)
    second = jax.vmap(jax.jacfwd(jax.grad(function)))(points)
    np.testing.assert_allclose(jax.vmap(jax.grad(function))(points), slope(points), rtol=1e-12)
    assert np.all(np.isfinite(second[np.abs(points) > 1e-100]))


def student_logcdf(t):
    """As PyMC writes it, for 5 degrees of freedom."""
    root = pt.sqrt(t**2 + 5.0)
    return pt.log(pt.betainc(2.5, 2.5, (t + root) / (2.0 * root)))


def forms():
    """Expressions of distribution functions, and what they are equal to."""
    x, y, c = pt.dvector("x"), pt.dvector("y"), pt.lvector("c")
    tail, mass = pt.log(pt.gammainc(x, y)), pt.log1p(-pt.erfc(x))
    far, near = stats.gamma.logsf(90.0, 2.0), stats.gamma.logsf(89.0, 2.0)
    before = pt.log(pt.gammainc(x, y - 1.0))
    rest = special.betainc(2.0, 3.0, 2.0**-40)
    return {
        "log1mexp of log1mexp": ([x], log1mexp(log1mexp(x)), [-1e-20], -1e-20),
        "survival of a gamma": ([x, y], log1mexp(tail), [2.0, 90.0], far),
        "survival of a beta": ([x], log1mexp(pt.log(pt.betainc(3.0, 2.0, x))), [1 - 2.0**-40], np.log(rest)),
        "Student t": ([x], log1mexp(student_logcdf(x)), [1e12], stats.t.logsf(1e12, 5.0)),
        "through a switch": ([c, x, y], log1mexp(pt.switch(c > 0, tail, -np.inf)), [1, 2.0, 90.0], far),
        "half-normal": ([x], log1mexp(mass), [30.0], np.log(special.erfcx(30.0)) - 900),
        "logistic": ([x], log1mexp(-pt.softplus(-x)), [800.0], -800.0),
        "power": ([x, y], pt.log1p(-(x**y)), [0.5, 1e-20], np.log(np.log(2.0) * 1e-20)),
        "underflow": ([x], pt.log(x * pt.exp(-x) * 3.0 / 2.0), [2000.0], np.log(3000.0) - 2000.0),
        "one minus": ([x], log1mexp(pt.log(1 - x)), [1e-30], np.log(1e-30)),
        "far interval": ([x, y], tail + log1mexp(before - tail), [2.0, 90.0], near + np.log1p(-np.exp(far - near))),
    }


@pytest.mark.parametrize("name", forms())
def test_stable_forms_keep_their_digits(name):
    inputs, expression, values, expected = forms()[name]
    arrays = [np.array([v], dtype=i.type.dtype) for v, i in zip(values, inputs, strict=True)]
    run = lower(inputs, [expression])
    [[found]] = run(*arrays)
    assert float(found) == pytest.approx(float(expected), rel=1e-13)
    real = [i for i, v in enumerate(inputs) if v.type.dtype == "float64"]
    for i in real:
        slope = jax.grad(lambda v, i=i: run(*[v if k == i else a for k, a in enumerate(arrays)])[0].sum())(arrays[i])
        assert np.all(np.isfinite(slope))


def test_what_has_no_stable_form_stays():
    x = pt.dvector("x")
    expression = pt.log(x) + pt.log1p(x * x)
    graph = FunctionGraph([x], [expression], clone=False)
    stabilize(graph)
    assert equal_computations(graph.outputs, [pt.log(x) + pt.log1p(x * x)])


# --- fits -----------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(1)
DRAWS = {
    "gamma": (RNG.gamma(2, 1, 60), lambda t: stats.gamma(t[0], scale=1 / t[1])),
    "negative binomial": (RNG.negative_binomial(3, 0.4, 60), lambda t: stats.nbinom(t[1], t[1] / (t[0] + t[1]))),
    "weibull": (2 * RNG.weibull(2.5, 300), lambda t: stats.weibull_min(t[0], scale=t[1])),
}


def distribution(family):
    a, b = pm.HalfNormal("a", 3), pm.HalfNormal("b", 3)
    makers = {
        "gamma": lambda: pm.Gamma.dist(a, b),
        "weibull": lambda: pm.Weibull.dist(a, b), "negative binomial": lambda: pm.NegativeBinomial.dist(mu=a, alpha=b),
    }  # fmt: skip
    return makers[family]()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind"),
    [("gamma", "right"), ("negative binomial", "left"), ("weibull", "truncated")],
)
def test_censored_and_truncated_fits(family, kind):
    """The maximum of SciPy's log-likelihood, and standard errors from its curvature."""
    y, frozen = DRAWS[family]
    low, high = np.quantile(y, [0.15, 0.8]).astype(y.dtype)
    with pm.Model() as model:
        if kind == "truncated":
            y = y[(y >= low) & (y <= high)]
            pm.Truncated("y", distribution(family), low, high, observed=y)
        else:
            low, high = (None if kind == "right" else low), (None if kind == "left" else high)
            pm.Censored("y", distribution(family), low, high, observed=np.clip(y, low, high))

    def log_likelihood(t):
        law = frozen(t)
        density = law.logpmf if family == "negative binomial" else law.logpdf
        if kind == "truncated":
            return np.sum(density(y)) - len(y) * np.log(law.cdf(high) - law.cdf(low))
        if kind == "right":
            return np.sum(density(y[y < high])) + np.sum(y >= high) * law.logsf(high)
        return np.sum(density(y[y > low])) + np.sum(y <= low) * law.logcdf(low)

    fit = mlem.fit(model, progressbar=False)
    at = np.array([fit.estimates["a"].item(), fit.estimates["b"].item()])
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(log_likelihood(at), abs=1e-9)
    step = 1e-4 * at
    hessian = np.empty((2, 2))
    for i, j in np.ndindex(2, 2):
        e = [np.eye(2)[k] * step for k in (i, j)]
        ends = [log_likelihood(at + s * e[0] + t * e[1]) * s * t for s in (1, -1) for t in (1, -1)]
        hessian[i, j] = sum(ends) / (4 * step[i] * step[j])
    errors = np.sqrt(np.diag(np.linalg.inv(-hessian)))
    found = fit.standard_errors()
    np.testing.assert_allclose([found["a"], found["b"]], errors, rtol=1e-4)
