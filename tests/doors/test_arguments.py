"""What users may pass: every public function refuses nonsense by one sentence, before anything is computed."""

import inspect

import numpy as np
import pymc as pm
import pytest

import pm_mlem as mlem
from pm_mlem.results.bootstrap import Bootstrap
from pm_mlem.results.saved import SavedFit

COUNTS = [2.5, -1, "a", True, None, [3], np.nan]
NAMES = [[], 3, [3], {"mu": 1}, b"mu"]
TABLES = [3, "mu", ["mu"], {1: 2}]
NONSENSE = {
    "level": ["0.9", 95, 0, 1.0, np.nan, True, None, [0.9]],
    "inner_level": [50, "a"],
    "random_seed": ["a", -1, 1.5, True, {"a": 1}],
    "var_names": NAMES,
    "release": NAMES,
    "var": [3, None, []],
    "draws": COUNTS,
    "chains": COUNTS,
    "n": [*COUNTS, 1],
    "col_wrap": COUNTS,
    "most_draws": COUNTS,
    "n_labels": COUNTS,
    "max_iterations": [*COUNTS, 0],
    "tolerance": [-1, "a", np.nan, np.inf, None, True],
    "memory": [*COUNTS, 0],
    "radius": [0, -1, "a", np.inf],
    "learning_rate": [0, -1, "a", np.nan],
    "min_scale": [0, -1, "a", np.inf],
    "penalty": [0, -1, "a", np.inf],
    "anneal": ["a", [], 0, [-1.0], [0.5, np.inf], 1.5, {}],
    "finish": ["no", 2, None],
    "fixed": TABLES,
    "start": TABLES,
    "data": TABLES,
    "coords": TABLES,
    "latents": [3, [3], {"z": 1}],
    "boundary": [-1, 0.5, "a"],
    "small_sample": ["no", 2],
    "resample": ["no", None],
    "recover": ["no"],
    "align": ["no"],
    "progressbar": ["no", 2.5],
    "log_likelihood": ["no"],
}
ELSEWHERE = {("plot", "coords"), ("plot_profile", "var"), ("plot", "var")}
"""Plots take labels of any kind, and several variables where a method takes one."""

FILLED = {"var": "mu", "data": {}}
"""What required arguments are that have rules themselves."""


def public_functions():
    for name in mlem.__all__:
        item = getattr(mlem, name)
        if inspect.isfunction(item):
            yield name, item
    for kind in (mlem.Fit, SavedFit, Bootstrap):
        for name, item in vars(kind).items():
            if inspect.isfunction(item) and not name.startswith("_"):
                yield f"{kind.__name__}.{name}", item
    for kind in (mlem.EM, mlem.LBFGS, mlem.Newton, mlem.Adam):
        yield kind.__name__, kind


def cases():
    for name, function in public_functions():
        for parameter in inspect.signature(function).parameters:
            plot = name.startswith(("plot_", "add_")) and ("plot", parameter) in ELSEWHERE
            if parameter in NONSENSE and not plot:
                yield pytest.param(function, parameter, id=f"{name}-{parameter}")


@pytest.mark.parametrize("function, parameter", list(cases()))
def test_nonsense_is_refused_by_name(function, parameter):
    required = [
        p.name for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name != parameter
    ]  # fmt: skip
    for value in NONSENSE[parameter]:
        if value is None and inspect.signature(function).parameters[parameter].default is None:
            continue
        with pytest.raises((ValueError, TypeError), match=rf"^{parameter}\b") as caught:
            function(*[FILLED.get(name) for name in required], **{parameter: value})
        assert str(caught.value).endswith((".", ")."))


def test_every_kind_of_argument_is_met():
    assert {case.values[1] for case in cases()} == set(NONSENSE)


def test_what_is_sensible_passes():
    assert mlem.EM(max_iterations=np.int64(3), tolerance=0, anneal=[0.5, 1.0], min_scale=np.float32(1)).draws == 300
    assert mlem.LBFGS(memory=5).memory == 5
    assert mlem.EM(finish=np.bool_(True)).finish is True


def test_python_says_what_is_wrong_with_a_call():
    with pytest.raises(TypeError, match=r"fit\(\) got an unexpected keyword argument 'metod'"):
        mlem.fit(None, metod="em")
    assert list(inspect.signature(mlem.fit).parameters)[:2] == ["model", "estimator"]


@pytest.mark.parametrize(
    "starts, sentence",
    [
        ({"mu": 0.0}, r"pass starts=\[\{name: value, \.\.\.\}\]"),
        (2.5, r"starts=2.5 must be a whole number, at least 1"),
        (0, r"starts=0 must be a whole number, at least 1"),
        (True, r"starts=True must be a whole number"),
        ("mu", r"starts='mu' must be a whole number"),
        ([], r"starts is an empty list"),
        ([None], r"starts\[0\]=None must be a dictionary"),
        ([{"mu": 0.0}, 3], r"starts\[1\]=3 must be a dictionary"),
    ],
)
def test_starts(starts, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        mlem.fit(None, starts=starts)


@pytest.fixture(scope="module")
def coin():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=np.arange(3.0))
    return model


@pytest.mark.parametrize("method", ["auto", "em", "EM", "lbfgs", "newton", "adam", mlem.EM(), mlem.Newton()])
def test_a_method_in_the_place_of_the_estimator(coin, method):
    for call in (mlem.fit, mlem.em_steps):
        with pytest.raises(ValueError, match="is a method, not an estimator: pass method="):
            call(coin, method)


@pytest.mark.parametrize("estimator", ["MLE", "ml", "mpa", 3, None, ["mle"], np.array(["mle"])])
def test_an_unknown_estimator(coin, estimator):
    with pytest.raises(ValueError, match=r"^estimator=.* is unknown; use 'mle' or 'map'\."):
        mlem.fit(coin, estimator)


NO_NUMBERS = ["a", ["a"] * 3, {"a": 1}, object(), [1, [2]], np.array(["2020-01-01"], dtype="M8[D]"), 1j]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=[type(v).__name__ for v in NO_NUMBERS])
def test_values_that_are_no_numbers(coin, value):
    with pytest.raises(ValueError, match="^fixed: the values of 'mu' must be numbers, not"):
        mlem.fit(coin, fixed={"mu": value})


@pytest.mark.compiled
def test_numpy_may_be_told_to_raise():
    with pm.Model() as model:
        z = pm.Bernoulli("z", pm.Beta("p", 1, 1), shape=4)
        pm.Normal("y", pm.Normal("mu", shape=2)[z], 1, observed=[-900.0, -901.0, 900.0, 902.0])
    with np.errstate(all="raise"):
        fit = mlem.fit(model, method="em", random_seed=0, progressbar=False)
        assert fit.summary().shape[0] == 3
        np.testing.assert_allclose(np.sort(fit.estimates["mu"]), [-900.5, 901.0], atol=1e-3)
        with pytest.raises(FloatingPointError):
            np.float64(1.0) / np.float64(0.0)
