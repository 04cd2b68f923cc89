"""Single entries of parameters that are held."""

import warnings

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy.stats import norm

import pm_mlem as mlem
from pm_mlem.graph.roles.choices import Choices
from pm_mlem.objective.engine import engine_for

pytestmark = pytest.mark.compiled

NAN = np.nan
RNG = np.random.default_rng(0)
KIND = RNG.choice(3, 200, p=[0.2, 0.3, 0.5])
Y = RNG.normal(np.array([-3.0, 0.0, 4.0])[KIND], 1.0)
METHODS = ["em", "newton", "lbfgs", "auto"]


def fit(model, *args, starts=1, **kwargs):
    return mlem.fit(model, *args, starts=starts, random_seed=0, progressbar=False, **kwargs)


@pytest.fixture(scope="module")
def mixture():
    with pm.Model(coords={"kind": list("abc")}) as model:
        w = pm.Dirichlet("w", np.ones(3), dims="kind")
        mu = pm.Normal("mu", 0, 5, initval=[-2.0, 0.1, 3.0], dims="kind")
        sigma = pm.HalfNormal("sigma", 2, dims="kind")
        z = pm.Categorical("z", w, shape=len(Y))
        pm.Normal("y", mu[z], sigma[z], observed=Y)
    return model


def by_hand(estimates):
    w, mu, sigma = (estimates[n].values for n in ("w", "mu", "sigma"))
    return np.log(norm.pdf(Y[:, None], mu, sigma) @ w).sum()


@pytest.mark.parametrize("method", METHODS)
def test_methods_agree_with_held_entries(mixture, method):
    """The reference is the same model with what is held written as constants."""
    found = fit(mixture, method=method, fixed={"mu": [NAN, 0.0, NAN], "sigma[a]": 1.0, "w[a]": 0.2})
    with pm.Model() as model:
        v = pm.Beta("v", 1, 1)
        mu = pm.Normal("mu", 0, 5, initval=[-2.0, 3.0], shape=2)
        sigma = pm.HalfNormal("sigma", 2, shape=2)
        mean, scale = pt.stack([mu[0], 0.0, mu[1]]), pt.stack([1.0, sigma[0], sigma[1]])
        z = pm.Categorical("z", pt.stack([0.2, 0.8 * v, 0.8 * (1 - v)]), shape=len(Y))
        pm.Normal("y", mean[z], scale[z], observed=Y)
    expected = fit(model, method="newton")
    assert found.converged
    assert found.n_params == expected.n_params == 5
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-6)
    assert found.log_likelihood == pytest.approx(by_hand(found.estimates), abs=1e-9)
    np.testing.assert_allclose(found.estimates["mu"], np.insert(expected.estimates["mu"], 1, 0.0), atol=1e-3)
    assert found.estimates["mu"].values[1] == 0.0
    assert found.estimates["w"].values[0] == 0.2
    assert found.estimates["sigma"].values[0] == 1.0
    if method != "em":
        errors, reference = found.standard_errors(), expected.standard_errors()
        np.testing.assert_allclose(errors["mu"], np.insert(reference["mu"], 1, NAN), rtol=1e-5)
        np.testing.assert_allclose(errors["w"], [NAN, *2 * [0.8 * reference["v"].item()]], rtol=1e-5)


def test_closed_forms_keep_what_is_held(mixture):
    fixed = {"mu[b]": 0.0, "w": [0.2, NAN, NAN], "sigma[a]": 1.0}
    engine = engine_for(mixture, "mle", Choices(fixed=fixed))
    assert {block.name for block in engine.m_step.closed} == {"w", "mu", "sigma"}
    objective = engine.objective
    u = objective.space.initial + 0.1
    step = engine.em_map(u, np.ones(objective.n_units), engine.data, objective.no_posterior, False)
    before = objective.value(u, np.ones(objective.n_units), engine.data)
    after = objective.value(step[0], np.ones(objective.n_units), engine.data)
    assert after > before


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["mle", pytest.param("map", marks=pytest.mark.slow)])
@pytest.mark.parametrize("shared", [False, True])
def test_held_entries_of_multivariate_means(estimator, shared):
    """The maximum in the free entries depends on the covariance: their closed form does not apply."""
    rng = np.random.default_rng(6)
    upper = rng.random(150) < 0.4
    covariance = [[1.0, 0.6], [0.6, 0.8]]
    data = np.where(upper[:, None], [2.0, 3.0], [0.0, -1.0]) + rng.multivariate_normal([0.2, 0.0], covariance, 150)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5, shape=(2, 2), initval=[[0.0, -1.0], [1.5, 2.5]])
        chol = [
            pm.LKJCholeskyCov(f"chol_{k}", n=2, eta=1, sd_dist=pm.HalfNormal.dist(3), compute_corr=False)
            for k in range(1 if shared else 2)
        ]
        factors = pt.stack([pm.math.expand_packed_triangular(2, c) for c in chol])
        z = pm.Categorical("z", pm.Dirichlet("w", np.ones(2)), shape=150)
        pm.MvNormal("y", mu[z], chol=factors[0] if shared else factors[z], observed=data)
    fixed = {"mu": [[0.0, NAN], [NAN, NAN]]}
    em, newton = (fit(model, estimator, method=method, fixed=fixed) for method in ("em", "newton"))
    free = fit(model, estimator, method="newton")
    assert em.converged
    assert newton.converged
    assert em.n_params == newton.n_params == free.n_params - 1
    best = [f.log_likelihood if estimator == "mle" else f.log_posterior for f in (em, newton, free)]
    assert best[0] == pytest.approx(best[1], abs=1e-6)
    assert best[0] < best[2] - 1e-3
    assert em.estimates["mu"].values[0, 0] == newton.estimates["mu"].values[0, 0] == 0.0
    for name in ("mu", "w", "chol_0"):
        np.testing.assert_allclose(em.estimates[name], newton.estimates[name], atol=2e-3)
    assert np.all(np.diff(em.history[f"log_{'likelihood' if estimator == 'mle' else 'posterior'}"]) >= -1e-9)
    assert np.isnan(newton.standard_errors()["mu"].values).tolist() == [[True, False], [False, False]]


def test_summary_and_covariance_of_held_entries(mixture):
    found = fit(mixture, fixed={"mu[b]": 0.0, "w[a]": 0.2})
    table = found.summary()
    assert table["note"].to_dict() == {
        **dict.fromkeys(table.index, ""), "mu[b]": "fixed", "w[a]": "fixed",
    }  # fmt: skip
    assert table["se"].isna().equals(table["note"] == "fixed")
    free = [name for name in table.index if table["note"][name] == ""]
    assert sorted(found.covariance().parameter.values) == sorted(free)
    assert np.all(np.isfinite(found.covariance()))
    assert found.covariance(space="unconstrained").parameter.values.tolist() == [
        "w__[1]", "mu__[0]", "mu__[2]", "sigma__[0]", "sigma__[1]", "sigma__[2]",
    ]  # fmt: skip
    inside = table.loc[["w[b]", "w[c]"]]
    assert np.all((inside["ci_lb"] > 0) & (inside["ci_lb"] < inside["estimate"]) & (inside["ci_ub"] < 0.8))
    draws = found.to_datatree(draws=10, chains=2)["posterior"]
    assert np.all(draws["mu"].sel(kind="b") == 0.0)
    np.testing.assert_allclose(draws["w"].sum("kind"), 1.0)
    assert mlem.compare({"held": found, "free": fit(mixture)}).loc["mu[b]", ("held", "estimate")] == 0.0
    mlem.plot_estimates({"held": found, "free": fit(mixture)})


def test_starts_keep_what_is_held(mixture):
    found = fit(mixture, fixed={"mu[b]": 0.0}, starts=[{"mu": [-3.0, NAN, 4.0]}, {"mu": [-1.0, 2.0, 1.0]}])
    assert found.estimates["mu"].values[1] == 0.0
    assert fit(mixture, fixed={"mu[b]": 0.0}, starts=5).log_likelihood == pytest.approx(found.log_likelihood, abs=1e-6)


def test_all_entries_by_name_are_the_whole_variable(mixture):
    names = {f"mu[{k}]": v for k, v in zip("abc", [-3.0, 0.0, 4.0], strict=True)}
    one, other = fit(mixture, fixed=names), fit(mixture, fixed={"mu": [-3.0, 0.0, 4.0]})
    assert one.n_params == other.n_params == 5
    assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-9)


def test_forms_of_fixed_agree(mixture):
    forms = [
        {"mu": [NAN, 0.0, NAN]},
        {"mu[b]": 0},
        {"mu": np.ma.masked_array([5.0, 0.0, 5.0], [True, False, True])},
        {"mu": np.array([NAN, 0.0, NAN]), "mu[b]": 0.0},
    ]
    values = [fit(mixture, fixed=fixed).log_likelihood for fixed in forms]
    np.testing.assert_allclose(values, values[0], atol=1e-9)
    other = {"mu": np.ma.masked_array([5.0, 0.0, 5.0], [False, True, True])}  # the same numbers, another mask
    assert fit(mixture, fixed=other).estimates["mu"].values[0] == 5.0


# --- rows of probabilities --------------------------------------------------------------------------------


TRANSITIONS = np.array([[0.8, 0.2, 0.0], [0.0, 0.85, 0.15], [0.0, 0.0, 1.0]])
LEFT_RIGHT = [[NAN, NAN, 0.0], [0.0, NAN, NAN], [0.0, 0.0, NAN]]
SEQUENCES = 8


def sequences(rng, steps=12):
    z = np.zeros((SEQUENCES, steps), int)
    for s in range(SEQUENCES):
        for t in range(1, steps):
            z[s, t] = rng.choice(3, p=TRANSITIONS[z[s, t - 1]])
    return rng.normal(np.array([-2.0, 0.0, 2.0])[z], 1.0)


CHAINS = sequences(np.random.default_rng(2))


def markov_chain(transitions, first, shape):
    pytest.importorskip("pymc_extras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other package's imports
        from pymc_extras.distributions import DiscreteMarkovChain

    return DiscreteMarkovChain("z", P=transitions, init_dist=pm.Categorical.dist(p=first), shape=shape)


def hidden_markov(weight=1.0, observed=CHAINS):
    with pm.Model() as model:
        p = pm.Dirichlet("P", np.full((3, 3), weight))
        first = pm.Dirichlet("first", np.ones(3))
        mu = pm.Normal("mu", 0, 5, initval=[-1.5, 0.0, 1.5], shape=3)
        sigma = pm.HalfNormal("sigma", 2)
        z = markov_chain(p, first, observed.shape)
        pm.Normal("y", mu[z], sigma, observed=observed)
    return model


@pytest.fixture(scope="module")
def left_right():
    return hidden_markov()


@pytest.fixture(scope="module")
def without_zeros():
    """A model that has parameters for the other transitions only."""
    with pm.Model() as model:
        a, b = pm.Beta("a", 1, 1), pm.Beta("b", 1, 1)
        mu = pm.Normal("mu", 0, 5, initval=[-1.5, 0.0, 1.5], shape=3)
        sigma = pm.HalfNormal("sigma", 2)
        p = pt.stacklists([[a, 1 - a, 0.0], [0.0, b, 1 - b], [0.0, 0.0, 1.0]])
        z = markov_chain(p, [1.0, 0.0, 0.0], CHAINS.shape)
        pm.Normal("y", mu[z], sigma, observed=CHAINS)
    return {estimator: fit(model, estimator) for estimator in ("mle", "map")}


@pytest.mark.parametrize("estimator", ["mle", "map"])
@pytest.mark.parametrize("method", METHODS)
def test_left_right_chain(left_right, without_zeros, estimator, method):
    """Structural zeros."""
    expected = without_zeros[estimator]
    found = fit(left_right, estimator, method=method, fixed={"P": LEFT_RIGHT, "first": [1.0, 0.0, 0.0]})
    assert found.converged
    assert found.n_params == expected.n_params == 6
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-5)
    p = found.estimates["P"].values
    assert np.array_equal(p == 0, TRANSITIONS == 0)
    assert p[2, 2] == 1.0
    np.testing.assert_allclose(p[[0, 1], [0, 1]], [expected.estimates["a"], expected.estimates["b"]], atol=2e-4)
    np.testing.assert_allclose(p.sum(axis=-1), 1.0, atol=1e-12)
    if method == "auto":
        errors = found.standard_errors()["P"].values
        np.testing.assert_allclose(errors[0, :2], expected.standard_errors()["a"], rtol=1e-5)
        assert np.all(np.isnan(errors[2]))
        assert np.all(np.isfinite(found.latent_probabilities["z"]))
        assert found.summary().loc["P[2, 2]", "note"] == "fixed"


def test_structural_zeros_give_no_nan(left_right):
    engine = engine_for(left_right, "map", Choices(fixed={"P": LEFT_RIGHT, "first": [1.0, 0.0, 0.0]}))
    objective = engine.objective
    rng = np.random.default_rng(1)
    for scale in (0.0, 1.0, 30.0):  # the last one: probabilities that round to 0
        u = objective.space.initial + scale * rng.normal(size=objective.space.size)
        value, gradient, hessian = objective.derivatives(u, np.ones(objective.n_units), engine.data)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
        assert np.all(np.isfinite(hessian))


def test_loop_with_structural_zeros():
    """A chain that is written as a python loop."""
    with pm.Model() as model:
        p = pm.Dirichlet("P", np.ones((3, 3)))
        mu = pm.Normal("mu", 0, 5, initval=[-1.5, 0.0, 1.5], shape=3)
        z = 0
        for t, y in enumerate(CHAINS[:2].T):
            z = pm.Categorical(f"z_{t}", p[z] if t else [1.0, 0.0, 0.0], shape=2)
            pm.Normal(f"y_{t}", mu[z], 1.0, observed=y)
    held = {"P": LEFT_RIGHT}
    found = fit(model, fixed=held)
    expected = fit(hidden_markov(observed=CHAINS[:2]), fixed={**held, "first": [1.0, 0.0, 0.0], "sigma": 1.0})
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-6)


def test_free_probabilities_share_what_is_left():
    """Complete data: what the fixed entries leave is divided as the counts are."""
    counts = np.array([7, 11, 2, 30])
    with pm.Model() as model:
        p = pm.Dirichlet("p", np.ones(4))
        pm.Categorical("y", p, observed=np.repeat(np.arange(4), counts))
    for method in METHODS:
        found = fit(model, method=method, fixed={"p": [NAN, 0.3, NAN, NAN]})
        np.testing.assert_allclose(found.estimates["p"], [0.7 * 7 / 39, 0.3, 0.7 * 2 / 39, 0.7 * 30 / 39], atol=1e-6)
        assert found.n_params == 2
    found = fit(model, fixed={"p[0]": 0.1, "p[1]": 0.2, "p[2]": 0.3})
    np.testing.assert_allclose(found.estimates["p"], [0.1, 0.2, 0.3, 0.4])
    assert found.n_params == 0
    expected = float(counts @ np.log([0.1, 0.2, 0.3, 0.4]))
    assert found.log_likelihood == pytest.approx(expected)


def test_only_free_probabilities_are_said_to_be_on_the_border():
    with pm.Model() as model:
        p = pm.Dirichlet("p", np.ones(4))
        chance = pm.Beta("chance", 1, 1, shape=3)
        pm.Categorical("y", p, observed=[0, 0, 1, 0])
        pm.Bernoulli("hit", chance, observed=np.array([[1, 0, 1], [0, 0, 1]]))
    found = fit(model, fixed={"p[3]": 0.0, "chance[2]": 1.0})
    border = found.message.split("On the boundary of the support: ")[1]
    assert "p[2] = " in border
    assert "chance[1] = " in border
    assert "p[3]" not in border
    assert "chance[2]" not in border


def test_map_with_held_probabilities():
    """The posterior mode given the held entry; its share of the prior is constant."""
    alpha, counts = np.array([2.0, 3.0, 4.0]), np.array([5, 10, 15])
    with pm.Model() as model:
        p = pm.Dirichlet("p", alpha)
        pm.Categorical("y", p, observed=np.repeat(np.arange(3), counts))
    for method in METHODS:
        found = fit(model, "map", method=method, fixed={"p[0]": 0.3})
        free = (counts + alpha - 1)[1:]
        np.testing.assert_allclose(found.estimates["p"], [0.3, *0.7 * free / free.sum()], atol=1e-6)
        prior = pm.logp(pm.Dirichlet.dist(alpha), found.estimates["p"].values).eval()
        assert found.log_prior == pytest.approx(float(prior))


# --- other transforms -------------------------------------------------------------------------------------


def test_entry_by_entry_transforms_and_bounds_that_are_estimated():
    with pm.Model() as model:
        top = pm.Exponential("top", 0.1, initval=[3.0, 4.0], shape=2)
        rate = pm.Uniform("rate", 0, top, shape=2)  # reads the other parameter, held entry and all
        chance = pm.Beta("chance", 1, 1, shape=2)
        pm.Poisson("count", rate, observed=np.array([[1, 2], [2, 1], [0, 3]]))
        pm.Normal("size", top, 1.0, observed=np.array([[5.0, 7.0]]))
        pm.Bernoulli("hit", chance, observed=np.array([[0, 1], [1, 1], [0, 0]]))
    fixed = {"top": [NAN, 7.5], "rate[0]": 0.5, "chance[1]": 1.0 - 1e-3}
    for method in METHODS:
        found = fit(model, method=method, fixed=fixed)
        np.testing.assert_allclose(found.estimates["top"], [5.0, 7.5], atol=1e-5)
        np.testing.assert_allclose(found.estimates["rate"], [0.5, 2.0], atol=1e-5)
        np.testing.assert_allclose(found.estimates["chance"], [1 / 3, 0.999], atol=1e-5)
        assert found.n_params == 3


def test_deterministics_of_held_entries():
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 5, shape=3)
        pm.Deterministic("known", 2 * beta[0])
        pm.Deterministic("total", beta.sum())
        x = np.random.default_rng(3).normal(size=(30, 3))
        pm.Normal("y", x @ beta, 1.0, observed=x @ [1.0, 2.0, 3.0])
    found = fit(model, fixed={"beta[0]": 0.5})
    assert found.estimates["known"].item() == 1.0
    assert found.standard_errors()["known"].item() == 0.0
    assert found.estimates["total"].item() == pytest.approx(found.estimates["beta"].values.sum())
    coefficients = np.linalg.lstsq(x[:, 1:], x @ [0.5, 2.0, 3.0], rcond=None)[0]
    np.testing.assert_allclose(found.estimates["beta"].values[1:], coefficients, atol=1e-8)


@pytest.mark.slow
def test_callbacks_of_held_entries(mixture):
    called = fit(mixture, fixed={"mu[b]": 0.0, "w[a]": 0.2}, backend="numba")
    assert called.log_likelihood == pytest.approx(fit(mixture, fixed={"mu[b]": 0.0, "w[a]": 0.2}).log_likelihood)


def joint_models():
    with pm.Model() as ordered:
        cut = pm.Normal("cut", 0, 1, shape=3, transform=pm.distributions.transforms.ordered, initval=[-1.0, 0.0, 1.0])
        pm.Normal("y", cut, 1.0, observed=np.zeros(3))
    with pm.Model() as cholesky:
        packed = pm.LKJCholeskyCov("cut", n=2, eta=1, sd_dist=pm.HalfNormal.dist(1), compute_corr=False)
        pm.Normal("y", packed, 1.0, observed=np.zeros(3))
    with pm.Model() as zero_sum:
        pm.Normal("y", pm.ZeroSumNormal("cut", shape=3), 1.0, observed=np.zeros(3))
    return {"ordered": ordered, "cholesky-cov-packed": cholesky, "zerosum": zero_sum}


@pytest.mark.parametrize("kind", ["ordered", "cholesky-cov-packed", "zerosum"])
def test_joint_transforms_are_refused(kind):
    with pytest.raises(mlem.UnsupportedModelError, match=rf"entries of 'cut' cannot be held: its transform '{kind}'"):
        fit(joint_models()[kind], fixed={"cut[0]": 0.5})


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"mu[d]": 0.0}, r"'mu\[d\]' in fixed= is not an entry of 'mu'.*entries are mu\[a\], mu\[b\], mu\[c\]"),
        ({"mu[0]": 0.0}, r"'mu\[0\]' in fixed= is not an entry"),
        ({"nu[a]": 0.0}, r"'nu\[a\]' in fixed= is not a free variable"),
        ({"mu": [0.0, NAN]}, r"has shape \(2,\), the variable \(3,\)"),
        ({"mu[a]": [0.0, 1.0]}, "must be one finite number"),
        ({"mu[a]": NAN}, "must be one finite number"),
        ({"mu": [NAN, NAN, NAN]}, "at least one has to be held"),
        ({"mu": [np.inf, NAN, NAN]}, "not finite"),
        ({"mu": [0.0, NAN, NAN], "mu[a]": 1.0}, r"gives 'mu\[a\]' two values, 0 and 1"),
        ({"sigma[a]": -1.0}, "-1 is outside the support of 'sigma'"),
        ({"sigma": -1.0}, "-1 is outside the support of 'sigma'"),
        ({"w[a]": -0.1}, "outside the support of 'w': a probability is negative"),
        ({"w": [0.6, 0.6, NAN]}, "outside the support of 'w': the probabilities of a row add up to 1.2, more than 1"),
        ({"w": [0.1, 0.1, 0.1]}, "outside the support of 'w'.* add up to 0.3"),
        ({"z": np.append(NAN, np.zeros(199))}, r"discrete variable 'z' cannot be held with fixed=.*masked_array"),
        ({"z": np.full(200, 0.5)}, "must hold whole numbers"),
    ],
)
def test_errors(mixture, fixed, message):
    with pytest.raises(ValueError, match=message):
        fit(mixture, fixed=fixed)


def test_zero_probability_under_a_prior_without_density_there(left_right):
    model = hidden_markov(weight=2.0)
    with pytest.raises(ValueError, match="fixed= holds entries of 'P' where its prior density is 0.*'mle'"):
        fit(model, "map", fixed={"P": LEFT_RIGHT})
    zeros = {"P": LEFT_RIGHT, "first": [1.0, 0.0, 0.0]}
    assert fit(model, fixed=zeros).log_likelihood == pytest.approx(fit(left_right, fixed=zeros).log_likelihood)
