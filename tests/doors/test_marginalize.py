"""The model without its latents: its density, its variables, and what PyMC, nutpie and ArviZ make of it."""

import warnings

import arviz as az
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pymc.blocking import DictToArrayBijection
from pytensor import config, function
from pytensor.compile.mode import Mode

import pm_mlem as mlem
from brute_force import enumerate_latents
from pm_mlem.graph.ops.numba import layout_of
from pm_mlem.graph.ops.operations import WindowLogZ
from pm_mlem.graph.ops.recursion import Window
from structures import DIVERSE, SINGLE, build

PLAIN = Mode("py", None)
RNG = np.random.default_rng(8)
ANSWERS = RNG.integers(0, 2, (12, 3))
SCORES = RNG.normal(size=12)


def point_near_start(model):
    """A point in the unconstrained space and the constrained values there."""
    rng = np.random.default_rng(0)
    point = {k: v + 0.1 * rng.normal(size=np.shape(v)) for k, v in model.initial_point().items()}
    values = []
    for rv in model.free_RVs:
        transform, value = model.rvs_to_transforms[rv], model.rvs_to_values[rv]
        values.append(value if transform is None else transform.backward(value, *rv.owner.inputs))
    found = model.compile_fn(values, inputs=model.value_vars, mode=PLAIN, on_unused_input="ignore")(point)
    return point, dict(zip([rv.name for rv in model.free_RVs], found, strict=True))


def evaluate(model, graph, point):
    return model.compile_fn(graph, inputs=model.value_vars, mode=PLAIN, on_unused_input="ignore")(point)


# --- the density ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIVERSE)
def test_the_density_is_the_sum_over_all_latents(name):
    model, domains = build(name)
    marginal = mlem.marginalize(model)
    point, values = point_near_start(marginal)
    expected = enumerate_latents(model, domains, values).log_likelihood
    tolerance = 1e-6 if name in SINGLE else 1e-8
    assert float(evaluate(marginal, marginal.datalogp, point)) == pytest.approx(expected, abs=tolerance)

    flat = DictToArrayBijection.map(point)
    density = marginal.compile_logp(mode=PLAIN)
    direction = np.random.default_rng(1).normal(size=flat.data.shape)
    ends = [
        density(DictToArrayBijection.rmap(flat._replace(data=flat.data + s * 1e-5 * direction), point)) for s in (1, -1)
    ]
    gradient = marginal.compile_dlogp(mode=PLAIN)(point)
    assert gradient @ direction == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-5)


@pytest.mark.compiled
def test_chains_compiled_by_numba_equal_numpy():
    """A leading constant, two lags, tables with and without axes of components and time, ragged lengths."""
    window = Window((2, 3), 1, (((0, 0),), ((0, 1), (0, 0)), ((1, 1), (1, 0)), ((0, 0), (1, 0))), 1, 5)
    shapes = [(1, 2, 4, 5), (2, 2, 2, 1, 1), (1, 3, 3, 4, 1), (2, 2, 3, 1, 5)]
    lengths = np.array([5, 3, 1, 4])
    tables = [pt.tensor(f"t{i}", dtype="float64", shape=s) for i, s in enumerate(shapes)]
    values = [RNG.normal(size=s) for s in shapes]
    values[1][0, 0, 1] = -np.inf
    log_z = WindowLogZ(window)(pt.constant(lengths), *tables)
    weights = RNG.normal(size=(2, 4))
    outputs = [log_z, *pt.grad((log_z * weights).sum(), tables)]
    expected = function(tables, outputs, mode=PLAIN)(*values)
    for found, wanted in zip(function(tables, outputs, mode="NUMBA")(*values), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert layout_of(window, shapes)[0].shape == (4, 2, 36)


# --- its variables ----------------------------------------------------------------------------------------


def survey(**start):
    coords = {"person": [f"p{i}" for i in range(12)], "item": list("abc"), "kind": ["lo", "hi"]}
    with pm.Model(coords=coords) as model:
        x = pm.Data("x", np.linspace(-1, 1, 12), dims="person")
        w = pm.Dirichlet("w", [2.0, 2.0], dims="kind")
        p = pm.Beta("p", 2, 2, dims=("kind", "item"), **start)
        z = pm.Categorical("z", w, dims="person")
        pm.Deterministic("odds", p / (1 - p), dims=("kind", "item"))
        pm.Bernoulli("answer", pm.Deterministic("pz", p[z], dims=("person", "item")), observed=ANSWERS)
        b = pm.Normal("b", pm.HalfNormal("tau"), 2)
        pm.Normal("score", b * x, 1, observed=SCORES, dims="person")
        pm.Potential("ridge", -(b**2))
    return model


START = np.array([[0.3] * 3, [0.7] * 3])


@pytest.fixture(scope="module")
def marginal():
    return mlem.marginalize(survey(initval=START))


@pytest.fixture(scope="module")
def draws(marginal):
    """A few draws of PyMC's NUTS, evaluated by plain Python."""
    options = {"tune": 20, "draws": 20, "chains": 2, "cores": 1, "random_seed": 1, "progressbar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = pm.sample(model=marginal, nuts_sampler="pymc", compile_kwargs={"mode": PLAIN}, **options)
        return pm.compute_log_likelihood(tree, model=marginal, compile_kwargs={"mode": PLAIN}, progressbar=False)


def test_parameters_keep_names_dims_transforms_and_initial_values(marginal):
    model = survey(initval=START)
    assert [rv.name for rv in marginal.free_RVs] == ["w", "p", "tau", "b"]
    assert [rv.name for rv in marginal.observed_RVs] == ["score", "answer"]
    assert [v.name for v in marginal.deterministics] == ["odds"]
    assert [v.name for v in marginal.potentials] == ["ridge"]
    assert marginal.coords == model.coords
    for name in ("w", "p", "b", "tau", "odds", "score", "x"):
        assert marginal.named_vars_to_dims.get(name) == model.named_vars_to_dims.get(name)
        assert marginal[name] is not model[name]
    for name in ("w", "p", "b", "tau"):
        mine, old = marginal.rvs_to_transforms[marginal[name]], model.rvs_to_transforms[model[name]]
        assert type(mine) is type(old)
        assert type(marginal[name].owner.op).__name__ == type(model[name].owner.op).__name__
        assert isinstance(marginal[name].owner.op, type(model[name].owner.op))
    expected = model.initial_point()
    for name, value in marginal.initial_point().items():
        np.testing.assert_allclose(value, expected[name], atol=1e-12)


def test_the_original_model_is_not_modified():
    model = survey(initval=START)
    before = {name: id(v) for name, v in model.named_vars.items()}
    mlem.marginalize(model)
    assert {name: id(v) for name, v in model.named_vars.items()} == before
    np.testing.assert_array_equal(model.rvs_to_initial_values[model["p"]], START)


def test_data_are_constants_of_the_new_model(marginal):
    with pytest.raises(TypeError, match="SharedVariable"):
        pm.set_data({"x": np.zeros(12)}, model=marginal)
    with pytest.raises(Exception, match="observed data only"):
        pm.logp(marginal["answer"], 1 - ANSWERS).eval({marginal["p"]: START, marginal["w"]: [0.5, 0.5]}, mode=PLAIN)


def test_a_model_without_latents_is_copied(coin):
    copy = mlem.marginalize(coin)
    assert copy is not coin
    assert float(copy.compile_logp(mode=PLAIN)({"p_logodds__": np.array(0.3)})) == pytest.approx(
        float(coin.compile_logp(mode=PLAIN)({"p_logodds__": np.array(0.3)}))
    )


def test_strategies_and_symbolic_initial_values_are_kept():
    with pm.Model() as model:
        low = pm.Normal("low", initval="prior")
        high = pm.Normal("high", initval=pt.as_tensor([1.0, 2.0]).sum())
        z = pm.Bernoulli("z", 0.3, shape=3)
        pm.Normal("y", pt.switch(z, high, low), observed=np.zeros(3))
    point = mlem.marginalize(model).initial_point(random_seed=3)
    assert point["high"] == 3.0
    assert point["low"] != 0.0


def test_several_observed_variables_are_one():
    model, _ = build("two_dependents")
    marginal = mlem.marginalize(model)
    [both] = marginal.observed_RVs
    assert both.name == "y+k"
    value = marginal.rvs_to_values[both].data
    np.testing.assert_array_equal(value, np.stack([model.rvs_to_values[model[n]].data for n in "yk"], axis=-1))


@pytest.mark.compiled
def test_mixture_distributions_stay_and_missing_counts_go():
    with pm.Model() as model:
        mu = pm.Normal("mu", shape=2, initval=[-1.0, 1.0])
        pm.NormalMixture("x", [0.3, 0.7], mu, 1.0, observed=SCORES)
        z = pm.Bernoulli("z", 0.4, shape=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyMC announces imputation
            pm.Poisson("y", pm.math.exp(mu[z]), observed=np.ma.masked_array([1, 2, 3], [0, 1, 0]))
    marginal = mlem.marginalize(model)
    assert [rv.name for rv in marginal.free_RVs] == ["mu"]
    fit = mlem.fit(model, "map", starts=1, random_seed=0, progressbar=False)
    by_unit = evaluate(marginal, marginal.logp(marginal.observed_RVs, sum=False), {"mu": fit.estimates["mu"].values})
    assert [rv.name for rv in marginal.observed_RVs] == ["x", "y_observed"]
    for rv, values in zip(marginal.observed_RVs, by_unit, strict=True):
        np.testing.assert_allclose(values, fit.pointwise_log_likelihood[rv.name], atol=1e-10)


@pytest.mark.compiled
def test_rows_that_share_a_latent_have_no_dims():
    group = np.array([0, 1, 1, 0, 2, 2])
    with pm.Model(coords={"row": range(6), "group": list("abc")}) as model:
        mu = pm.Normal("mu", shape=2)
        z = pm.Bernoulli("z", 0.3, dims="group")
        pm.Normal("y", mu[z[group]], observed=RNG.normal(size=6), dims="row")
    marginal = mlem.marginalize(model)
    assert "y" not in marginal.named_vars_to_dims
    point = marginal.initial_point()
    assert evaluate(marginal, marginal.logp([marginal["y"]], sum=False), point)[0].shape == (3,)
    fit = mlem.fit(model, "map", progressbar=False, starts=1)
    assert fit.pointwise_log_likelihood["y"].dims == ("group",)


def test_wrong_arguments_are_refused_as_in_fit():
    with pytest.raises(ValueError, match="No model"):
        mlem.marginalize()
    with pytest.raises(TypeError, match=r"must be a pm\.Model"):
        mlem.marginalize("model")
    with pm.Model() as model:
        z = pm.Bernoulli("z", 0.5)
        pm.Normal("y", pm.Normal("b", z) + z, 1, observed=0.0)
    with pytest.raises(mlem.UnsupportedModelError, match="'z' chooses the prior of 'b' and enters 'y' directly"):
        mlem.marginalize(model)
    with pytest.raises(ValueError, match="'q' in latents="):
        mlem.marginalize(model, latents=["q"])


def test_model_from_the_context():
    with survey():
        assert "z" not in mlem.marginalize().named_vars


# --- what is made of it -----------------------------------------------------------------------------------


def test_pymc_samples_it(draws):
    assert set(draws["posterior"].data_vars) == {"w", "p", "tau", "b", "odds"}
    assert draws["posterior"]["p"].dims == ("chain", "draw", "kind", "item")
    np.testing.assert_array_equal(draws["observed_data"]["answer"], ANSWERS)
    np.testing.assert_allclose(draws["constant_data"]["x"], np.linspace(-1, 1, 12))


@pytest.mark.slow
def test_nutpie_samples_it():
    pytest.importorskip("nutpie")
    model, _ = build("hidden_markov")
    options = {"tune": 20, "draws": 20, "chains": 1, "random_seed": 1, "progressbar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = pm.sample(model=mlem.marginalize(model), nuts_sampler="nutpie", **options)
    assert set(tree["posterior"].data_vars) == {"pi", "P", "mu"}
    assert np.all(np.isfinite(tree["posterior"]["mu"]))


@pytest.mark.compiled
def test_log_likelihoods_are_those_of_the_units(draws):
    model = survey(initval=START)
    last = {n: draws["posterior"][n].values[-1, -1] for n in ("w", "p", "tau", "b")}
    fit = mlem.fit(model, "map", fixed={n: last[n] for n in ("w", "p", "tau")}, starts=[{"b": 0.0}], progressbar=False)
    held = mlem.fit(model, "map", fixed={n: last[n] for n in ("w", "p", "b")}, starts=1, progressbar=False)
    found = draws["log_likelihood"]
    assert found["answer"].dims == ("chain", "draw", "answer_dim_0")
    np.testing.assert_allclose(found["answer"].values[-1, -1], fit.pointwise_log_likelihood["answer"], atol=1e-10)
    np.testing.assert_allclose(found["score"].values[-1, -1], held.pointwise_log_likelihood["score"], atol=1e-10)


def test_cross_validation(draws):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = az.loo(draws, var_name="answer")
    assert result.n_data_points == len(ANSWERS)
    assert np.isfinite(result.elpd)


def prior_draws(model, draws, names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC says that Potentials play no part in this
        return pm.sample_prior_predictive(
            draws, var_names=names, model=model, random_seed=2, compile_kwargs={"mode": PLAIN}
        )


def test_draws_of_the_data_include_the_latents(marginal):
    known = pm.do(marginal, {"w": np.array([0.25, 0.75]), "p": np.array([[0.0] * 3, [1.0] * 3])})
    answers = prior_draws(known, 400, ["answer"])["prior_predictive"]["answer"]
    assert np.all(answers.std("answer_dim_1") == 0)  # all answers of a person are of one kind
    assert float(answers.mean()) == pytest.approx(0.75, abs=0.03)


def test_draws_from_the_prior(marginal):
    prior = prior_draws(marginal, 5, ["p", "w"])["prior"]
    assert prior["p"].sizes == {"chain": 1, "draw": 5, "kind": 2, "item": 3}


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:`find_MAP` will:FutureWarning")  # PyMC 6.4 announces changes
def test_find_map_finds_the_same_mode(marginal):
    with config.change_flags(mode="FAST_COMPILE"):
        found = pm.find_MAP(model=marginal, progressbar=False)
    expected = mlem.fit(survey(initval=START), "map", starts=1, random_seed=0, progressbar=False).estimates
    for name in ("w", "p", "b"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-3)
