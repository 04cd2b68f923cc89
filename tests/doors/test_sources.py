"""Where models come from: the context, pymc.dims, Bambi, builders; and any name that PyMC accepts."""

import numpy as np
import pandas as pd
import pymc as pm
import pymc.dims as pmd
import pytensor.xtensor as px
import pytest
import xarray as xr
from pymc.dims.distributions.transforms import DimTransform

import pm_mlem as mlem
from pm_mlem.arguments import current_model
from pm_mlem.graph.roles.dims import plain

RNG = np.random.default_rng(0)
X = RNG.normal(size=30)
Y = 1.0 + 2.0 * X + RNG.normal(scale=0.3, size=30)
MIXED = np.r_[RNG.normal(-2, 0.5, 15), RNG.normal(2, 0.8, 25)]
pytestmark = [pytest.mark.compiled, pytest.mark.filterwarnings("ignore:.*dims.*experimental:UserWarning")]


def fit(model=None, *args, **kw):
    return mlem.fit(model, *args, progressbar=False, **{"random_seed": 1, **kw})


# --- the context ------------------------------------------------------------------------------------------


def test_the_model_of_the_context(coin):
    with coin:
        inside = mlem.fit(progressbar=False)
        plan = mlem.explain()
    assert inside.model is coin and "flips" in str(plan)
    with pytest.raises(ValueError, match="No model: pass one"):
        mlem.fit()


# --- pymc.dims --------------------------------------------------------------------------------------------


def regression():
    with pm.Model(coords={"obs": np.arange(30)}) as model:
        x = pmd.Data("x", X, dims="obs")
        a, b = pmd.Normal("a", 0, 10), pmd.Normal("b", 0, 10)
        mu = pmd.Deterministic("mu", a + b * x)
        pmd.Normal("y", mu, pmd.HalfNormal("s", 5), observed=pmd.Data("y_data", Y, dims="obs"))
    return model


def test_regression_with_dims():
    model = regression()
    found = fit(model)
    design = np.column_stack([np.ones(30), X])
    coefficients, residual, *_ = np.linalg.lstsq(design, Y)
    e = found.estimates
    np.testing.assert_allclose([e["a"], e["b"]], coefficients, rtol=1e-6)
    assert e["s"].item() == pytest.approx(np.sqrt(residual[0] / 30), rel=1e-6)
    assert e["mu"].dims == ("obs",)
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design))) * e["s"].item()
    np.testing.assert_allclose([found.standard_errors()[n] for n in "ab"], errors, rtol=1e-6)
    assert found.model is model
    np.testing.assert_array_equal(found.to_datatree(draws=5)["constant_data"]["x"], X)


def test_new_data_for_dims():
    model = regression()
    found = fit(model)
    new = found.predict({"x": np.array([0.0, 10.0])}, coords={"obs": ["p", "q"]})["predictions"]["y"]
    e = found.estimates
    np.testing.assert_allclose(new, [e["a"], e["a"] + 10 * e["b"]])
    np.testing.assert_array_equal(new["obs"], ["p", "q"])
    assert found.score({"y_data": Y}) == pytest.approx(found.log_likelihood)
    with model:
        pm.set_data({"y_data": -Y})
    again = fit(model)
    np.testing.assert_allclose(again.estimates["b"], -e["b"], rtol=1e-6)


@pytest.fixture(scope="module")
def labelled():
    with pm.Model(coords={"obs": range(40), "kind": ["a", "b"]}) as model:
        w = pmd.Dirichlet("w", pmd.as_xtensor(np.ones(2), dims=("kind",)), core_dims="kind")
        mu = pmd.Normal("mu", 0, 10, dims="kind", initval=np.array([-1.0, 1.0]))
        sigma = pmd.HalfNormal("sigma", 5)
        z = pmd.Categorical("z", p=w, core_dims="kind", dims="obs")
        pmd.Normal("y", mu.isel(kind=z), sigma, observed=pmd.as_xtensor(MIXED, dims=("obs",)))
    return model


@pytest.fixture(scope="module")
def unlabelled():
    with pm.Model(coords={"obs": range(40), "kind": ["a", "b"]}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="kind")
        mu = pm.Normal("mu", 0, 10, dims="kind", initval=[-1.0, 1.0])
        sigma = pm.HalfNormal("sigma", 5)
        z = pm.Categorical("z", w, dims="obs")
        pm.Normal("y", mu[z], sigma, observed=MIXED, dims="obs")
    return model


@pytest.mark.parametrize("estimator", ["mle", "map"])
def test_mixture_with_dims(labelled, unlabelled, estimator):
    found, expected = fit(labelled, estimator), fit(unlabelled, estimator)
    pd.testing.assert_frame_equal(found.summary(), expected.summary())
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(found.latent_probabilities["z"], expected.latent_probabilities["z"])
    assert found.latent_probabilities["z"].dims == ("obs", "z_state")
    np.testing.assert_array_equal(found.latent_probabilities["z_state"], ["a", "b"])


@pytest.mark.slow
def test_the_rest_of_the_package_with_dims(labelled, unlabelled, capsys):
    plan = str(mlem.explain(labelled))
    assert "40 element(s) with 2 states" in plan and "Dirichlet" in plan
    new, reference = mlem.marginalize(labelled), mlem.marginalize(unlabelled)
    assert [rv.name for rv in new.free_RVs] == ["w", "mu", "sigma"]
    point = reference.initial_point()
    assert new.compile_logp()(point) == pytest.approx(float(reference.compile_logp()(point)))
    found = fit(labelled)
    boot = found.bootstrap(5, kind="parametric", random_seed=1, progressbar=False)
    assert boot.converged.all()
    held = fit(labelled, fixed={"mu[a]": -2.0})
    assert held.estimates["mu"].sel(kind="a") == -2.0


@pytest.mark.slow
def test_axes_in_another_order_than_the_distribution():
    """The distribution has its core dims last, whatever the order that the user asks for."""
    counts = np.array([[4, 1], [2, 5], [4, 4]])
    with pm.Model(coords={"row": range(3), "col": list("ab")}) as model:
        alpha = pmd.as_xtensor(np.ones(3), dims=("row",))
        rate = pmd.Dirichlet("rate", alpha, core_dims="row", dims=("row", "col"))
        pmd.Potential("counted", (counts_of(counts) * pmd.math.log(rate)).sum())
    found, point = plain(model), {"rate_simplex__": RNG.normal(size=(2, 2))}
    assert found.named_vars_to_dims["rate"] == ("col", "row")
    given = {"rate_simplex__": point["rate_simplex__"].T}
    expected = model.compile_logp(jacobian=False)(point)
    assert found.compile_logp(jacobian=False)(given) == pytest.approx(float(expected))
    result = fit(model)
    assert result.estimates["rate"].dims == ("col", "row")
    np.testing.assert_allclose(result.estimates["rate"].transpose("row", "col"), counts / 10, rtol=1e-6)


def counts_of(values):
    return pmd.as_xtensor(values, dims=("row", "col"))


def test_transforms_of_dims():
    with pm.Model(coords={"k": list("abc")}) as model:
        u = pmd.Uniform("u", -1, 3)
        p = pmd.Beta("p", 2, 2)
        c = pmd.ZeroSumNormal("c", core_dims="k", dims="k")
        pmd.Normal("y", u + p + c, 1.0, observed=pmd.as_xtensor(np.array([0.5, 1.0, 2.0]), dims=("k",)))
    assert model.point_logps() == plain(model).point_logps()
    found = mlem.fit(model, "map", progressbar=False)
    assert found.estimates["c"].sum().item() == pytest.approx(0, abs=1e-10)
    assert -1 < found.estimates["u"].item() < 3 and found.converged


def test_what_dims_cannot_be_taken_off():
    class Shifted(DimTransform):
        name = "shifted"

        def forward(self, value, *inputs):
            return value + 1.0

        def backward(self, value, *inputs):
            return value - 1.0

        def log_jac_det(self, value, *inputs):
            return px.math.zeros_like(value)

    with pm.Model() as model:
        a = pmd.Normal("a", transform=Shifted())
        pmd.Normal("y", a, 1.0, observed=0.0)
    with pytest.raises(mlem.UnsupportedModelError, match="transform Shifted of 'a', a variable of pymc.dims"):
        mlem.fit(model)


def test_a_model_that_grows():
    with pm.Model(coords={"obs": range(3)}) as model:
        a = pmd.Normal("a")
        pmd.Normal("y", a, 1.0, observed=pmd.as_xtensor(np.array([1.0, 2.0, 3.0]), dims=("obs",)))
    assert plain(model) is plain(model)
    first = fit(model)
    with model:
        pmd.Normal("y2", a, 1.0, observed=10.0)
    assert first.estimates["a"].item() == pytest.approx(2.0) and fit(model).estimates["a"].item() == pytest.approx(4.0)


# --- Bambi and builders -----------------------------------------------------------------------------------

bambi_warns = pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes:Warning")


@bambi_warns
def test_bambi():
    bmb = pytest.importorskip("bambi")
    data = pd.DataFrame({"x": X, "g": np.tile(list("abc"), 10), "y": Y})
    model = bmb.Model("y ~ x + g", data, center_predictors=False)
    with pytest.raises(TypeError, match=r"model.build\(\), then pass model.backend.model"):
        mlem.fit(model)
    model.build()
    found = fit(model)
    design = np.column_stack([np.ones(30), X, data["g"] == "b", data["g"] == "c"]).astype(float)
    names = ["Intercept", "x", "g[b]", "g[c]"]
    np.testing.assert_allclose(found.summary().loc[names, "estimate"], np.linalg.lstsq(design, Y)[0], rtol=1e-6)
    assert found.model is model.backend.model
    assert fit(model.backend.model).log_likelihood == found.log_likelihood


@bambi_warns
def test_bambi_with_groups_and_splines():
    bmb = pytest.importorskip("bambi")
    data = pd.DataFrame({"x": X, "g": np.tile(list("abc"), 10), "y": Y})
    model = bmb.Model("y ~ bs(x, df=4) + (1|g)", data)
    model.build()
    found = fit(model, "map", fixed={"1|g_sigma": 1.0})
    assert {"bs(x, df=4)[0]", "1|g[a]"} <= set(found.summary().index) and found.converged
    free = fit(model).summary()  # the likelihood has sigma times the offsets only
    assert np.isnan(free.loc["1|g_sigma", "se"]) and free.loc["1|g_sigma", "note"]


def frame():
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"x": rng.normal(3, 1, 36), "v": rng.normal(-2, 2, 36), "g": np.tile(list("abc"), 12)})
    data["y"] = 1 + 2 * data.x + rng.normal(size=36)
    data["k"], data["kind"] = rng.poisson(np.exp(0.3 * data.x)), np.repeat(list("pqr"), 12)
    return data


def formulas(bmb):
    return {
        "categorical predictors": (("y ~ x + v*g",), {}),
        "a transformed response": (("k ~ x + offset(v)",), {"family": "poisson"}),
        "two parts": ((bmb.Formula("y ~ x + g", "sigma ~ v + x"),), {}),
        "one part": ((bmb.Formula("y ~ 0 + x", "sigma ~ v"),), {}),
        "several levels": (("kind ~ x + v + g",), {"family": "categorical"}),
        "splines and groups": (("y ~ bs(v, df=4) + x + (1|g)",), {}),
        "not centered": (("y ~ x",), {"center_predictors": False}),
        "no slope": (("y ~ 1",), {}),
    }


@bambi_warns
def test_bambi_has_the_intercepts_that_it_reports():
    """The same density as that of Bambi's model at the point that it would report."""
    bmb, rng = pytest.importorskip("bambi"), np.random.default_rng(0)
    for case, (formula, options) in formulas(bmb).items():
        built = bmb.Model(*formula, frame(), **options)
        built.build()
        own, new = built.backend.model, current_model(built)
        assert current_model(built) is new
        assert (new is own) == (case in ("not centered", "no slope"))
        assert [v.name for v in new.free_RVs] == [v.name for v in own.free_RVs]
        point = {name: value + rng.normal(size=np.shape(value)) for name, value in own.initial_point().items()}
        draws = {name: (("chain", "draw", *own.named_vars_to_dims.get(name, ())), np.asarray(v)[None, None])
                 for name, v in point.items() if name in {v.name for v in own.free_RVs}}  # fmt: skip
        tree = xr.DataTree.from_dict({"posterior": xr.Dataset(draws)})
        reported = built.backend._clean_results(tree, False, False)["posterior"]
        moved = {n: reported[n].values[0, 0] if "Intercept" in n else v for n, v in point.items()}
        mode = {"mode": "FAST_COMPILE"}
        assert new.compile_logp(**mode)(moved) == pytest.approx(own.compile_logp(**mode)(point), rel=1e-9), case
        if new is not own:
            assert all(np.shape(new.initial_point()[n]) == np.shape(v) for n, v in point.items())


@bambi_warns
def test_bambi_intercepts_have_their_own_uncertainty():
    bmb, data = pytest.importorskip("bambi"), frame()
    found = []
    for centered in (True, False):
        built = bmb.Model("y ~ x + g", data, center_predictors=centered)
        built.build()
        found.append(fit(built))
    one, other = found
    np.testing.assert_allclose(one.summary()[["estimate", "se"]], other.summary()[["estimate", "se"]], rtol=1e-6)
    assert np.abs(mlem.compare({"one": one, "other": other})["one"]["shift"].loc["Intercept"]) < 1e-5
    assert fit(one.model, fixed={"Intercept": 1.0}).estimates["Intercept"] == 1.0
    built = bmb.Model("y ~ x", data, priors={"Intercept": bmb.Prior("HalfNormal", sigma=5)})
    built.build()
    with pytest.raises(mlem.UnsupportedModelError, match="prior of 'Intercept' has bounds.*center_predictors=False"):
        fit(built)


class Backend:
    def __init__(self, model):
        self.model = model


class Shaped:
    """Shaped like a bambi.Model."""

    backend = None


class Builder:
    """Shaped like a ModelBuilder."""

    def __init__(self, model):
        self.model = model


class Unbuilt:
    @property
    def model(self):
        raise RuntimeError("The model has not been built")


def test_what_holds_a_model(coin):
    shaped = Shaped()
    with pytest.raises(TypeError, match=r"not Shaped. If it is a bambi.Model, build it first"):
        mlem.fit(shaped)
    shaped.backend = Backend(coin)
    assert fit(shaped).model is coin
    for builder in (Builder(coin), Unbuilt(), fit(coin)):
        with pytest.raises(TypeError, match="It has an attribute 'model'"):
            mlem.fit(builder)
    with pytest.raises(TypeError, match=r"model must be a pm.Model, not int\.$"):
        mlem.fit(3)


# --- names ------------------------------------------------------------------------------------------------


def test_any_name_will_do():
    """Some names are dtypes for pt.tensor."""
    with pm.Model() as model:
        a, b = pm.Normal("float"), pm.Normal("bs(x, df=4)", shape=2)
        c = pm.Normal("1|g_sigma")
        z = pm.Bernoulli("int64", 0.5, shape=2)
        pm.Deterministic("C(g)[T.x]:z", a + b.sum())
        pm.Normal("object", b, 1, observed=[1.0, 2.0])
        pm.Normal("y(2)", a + 10 * z, 1, observed=[1.0, 11.0])
        pm.Normal("str", c, 1, observed=[1.0, 4.0])
    found = fit(model)
    e = found.estimates
    np.testing.assert_allclose(e["bs(x, df=4)"], [1, 2], atol=1e-6)
    assert e["1|g_sigma"].item() == pytest.approx(2.5) and e["float"].item() == pytest.approx(1.0, abs=1e-4)
    assert e["C(g)[T.x]:z"].item() == pytest.approx(4.0, abs=1e-3)
    assert found.bootstrap(3, kind="parametric", progressbar=False, random_seed=1).n == 3
