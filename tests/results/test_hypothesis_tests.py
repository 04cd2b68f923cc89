"""Tests of hypotheses against closed forms; selection of models."""

import numpy as np
import pymc as pm
import pytest
from scipy.stats import chi2, norm

import pm_mlem as mlem
from pm_mlem.inference.hypotheses import chi_square_tail

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(8)
N = 80
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 2))])
CLICKS = (RNG.random(N) < 1 / (1 + np.exp(-X @ [0.3, 0.8, -0.5]))).astype(int)


def fit(model, **kw):
    return mlem.fit(model, progressbar=False, random_seed=0, **kw)


@pytest.fixture(scope="module")
def logit_model():
    with pm.Model(coords={"term": ["one", "x", "z"], "row": np.arange(N)}) as model:
        beta = pm.Normal("beta", 0, 3, dims="term")
        pm.Deterministic("odds", pm.math.exp(beta[1]))
        pm.Bernoulli("y", logit_p=X @ beta, observed=CLICKS, dims="row")
    return model


@pytest.fixture(scope="module")
def logit(logit_model):
    return fit(logit_model)


def binomial(n, k, **kw):
    with pm.Model() as model:
        pm.Binomial("k", n, pm.Beta("p", 1, 1), observed=k)
    return fit(model, **kw)


# --- likelihood ratio -------------------------------------------------------------------------------------


def test_likelihood_ratio_of_a_proportion():
    with pm.Model() as model:
        pm.Binomial("k", 100, pm.Beta("p", 1, 1), observed=60)
    found = mlem.likelihood_ratio_test(fit(model, fixed={"p": 0.5}), fit(model))
    statistic = 2 * (60 * np.log(0.6 / 0.5) + 40 * np.log(0.4 / 0.5))
    assert found.statistic == pytest.approx(statistic, rel=1e-6)
    assert (found.df, found.note) == (1, "")
    assert found.p_value == pytest.approx(chi2.sf(statistic, 1), rel=1e-6)
    assert repr(found) == "Likelihood-ratio test: statistic 4.027, df 1, p-value 0.04477"


def test_models_that_are_not_known_to_be_nested(logit):
    with pm.Model() as model:
        pm.Bernoulli("y", logit_p=pm.Normal("a"), observed=CLICKS)
    found = mlem.likelihood_ratio_test(fit(model), logit)
    assert found.df == 2
    assert found.p_value == pytest.approx(chi2.sf(found.statistic, 2))
    assert "taken for granted" in found.note


def grouped(y, group):
    same = (group[:, None] == group).astype(float)
    with pm.Model() as model:
        mu, s, tau = pm.Normal("mu"), pm.HalfNormal("s", 1), pm.HalfNormal("tau", 1)
        pm.MvNormal("y", mu * np.ones(len(y)), cov=s**2 * np.eye(len(y)) + tau**2 * same, observed=y)
    return model


def test_a_variance_on_the_boundary_has_half_the_p_value():
    group = np.repeat(np.arange(8), 5)
    model = grouped(RNG.normal(size=40) + 0.6 * RNG.normal(size=8)[group], group)
    null, alternative = fit(model, fixed={"tau": 0.0}), fit(model)
    found = mlem.likelihood_ratio_test(null, alternative)
    assert found.statistic > 0
    assert found.p_value == pytest.approx(0.5 * chi2.sf(found.statistic, 1))
    assert "Mixture of chi-squares: 1 of the parameters" in found.note
    plain = mlem.likelihood_ratio_test(null, alternative, boundary=0)
    assert plain.p_value == pytest.approx(chi2.sf(found.statistic, 1))


def test_mixtures_of_chi_squares():
    assert chi_square_tail(0.0, 1, 1) == 1.0
    assert chi_square_tail(2.706, 1, 1) == pytest.approx(0.05, abs=1e-4)
    assert chi_square_tail(3.0, 2, 1) == pytest.approx(0.5 * chi2.sf(3.0, 1) + 0.5 * chi2.sf(3.0, 2))
    assert chi_square_tail(3.0, 2, 2) == pytest.approx(0.5 * chi2.sf(3.0, 1) + 0.25 * chi2.sf(3.0, 2))


def components(y, k):
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5, shape=k, initval=np.linspace(-1, 1, k) * (k > 1))
        sigma = pm.HalfNormal("sigma", 2)
        if k == 1:
            pm.Normal("y", mu[0], sigma, observed=y)
        else:
            z = pm.Categorical("z", pm.Dirichlet("w", np.ones(k)), shape=len(y))
            pm.Normal("y", mu[z], sigma, observed=y)
    return model


@pytest.mark.slow
def test_numbers_of_components_by_the_parametric_bootstrap():
    y = np.concatenate([RNG.normal(-2, 1, 30), RNG.normal(2, 1, 30)])
    one, two = fit(components(y, 1)), fit(components(y, 2))
    plain = mlem.likelihood_ratio_test(one, two)
    assert np.isnan(plain.p_value)
    assert "numbers of hidden states differ" in plain.note
    found = mlem.likelihood_ratio_test(one, two, bootstrap=19, random_seed=1, progressbar=False)
    assert found.statistic == plain.statistic
    assert found.p_value == pytest.approx(
        (1 + np.sum(found.replicates >= found.statistic)) / (1 + len(found.replicates))
    )
    assert found.p_value <= 0.1
    assert len(found.replicates) >= 15
    assert np.all(found.replicates >= 0)
    again = mlem.likelihood_ratio_test(one, two, bootstrap=19, random_seed=1, progressbar=False)
    np.testing.assert_array_equal(found.replicates, again.replicates)


def test_the_bootstrap_of_a_regular_hypothesis_is_chi_square():
    y = RNG.normal(0.2, 1, 50)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), pm.HalfNormal("sigma", 1), observed=y)
    found = mlem.likelihood_ratio_test(
        fit(model, fixed={"mu": 0.0}), fit(model), bootstrap=400, starts=1, random_seed=2, progressbar=False
    )
    assert np.mean(found.replicates) == pytest.approx(1.0, abs=4 * np.sqrt(2 / 400) + 0.05)
    assert found.p_value == pytest.approx(chi2.sf(found.statistic, 1), abs=0.1)


def test_fits_that_cannot_be_compared(logit, logit_model):
    null = fit(logit_model, fixed={"beta[x]": 0.0})
    with pytest.raises(ValueError, match="must have more parameters than the null; they have 2 and 3"):
        mlem.likelihood_ratio_test(logit, null)
    with pytest.raises(ValueError, match="Different variables are observed in the fits"):
        mlem.likelihood_ratio_test(binomial(5, 2), logit)
    with pytest.raises(ValueError, match="The data of 'k' differ"):
        mlem.likelihood_ratio_test(binomial(5, 2, fixed={"p": 0.5}), binomial(5, 3))
    with pytest.raises(ValueError, match="different observation weights"):
        mlem.likelihood_ratio_test(null, fit(logit_model, weights=np.arange(N)))
    with pytest.raises(ValueError, match="compares maximum-likelihood fits"):
        mlem.likelihood_ratio_test(null, fit(logit_model, estimator="map"))
    with pytest.raises(ValueError, match="boundary=3 must lie between 0 and 1"):
        mlem.likelihood_ratio_test(null, logit, boundary=3)
    y = RNG.normal(size=200)
    with pm.Model() as heavy_tails:
        pm.Cauchy("y", pm.Normal("a") + pm.Normal("b") * np.linspace(-1, 1, 200), pm.HalfNormal("s", 1), observed=y)
    with pytest.raises(ValueError, match="The alternative has the lower log-likelihood"):
        mlem.likelihood_ratio_test(normal_fit(y), fit(heavy_tails))


# --- Wald -------------------------------------------------------------------------------------------------


def test_wald_tests(logit):
    b, v = logit.estimates["beta"].values, logit.covariance().values
    found = logit.wald_test("beta[x] = 0")
    assert found.statistic == pytest.approx(b[1] ** 2 / v[1, 1])
    assert found.p_value == pytest.approx(2 * norm.sf(abs(b[1]) / np.sqrt(v[1, 1])))
    assert found.name == "Wald test of beta[x] = 0"
    contrast = logit.wald_test("2 * beta[x] = -beta[z] + 1")
    g = np.array([0.0, 2.0, 1.0])
    assert contrast.statistic == pytest.approx((g @ b - 1) ** 2 / (g @ v @ g))
    for joint in (["beta[x] = 0", "beta[z] = 0"], {"beta[x]": 0, "beta[z]": 0.0}):
        found = logit.wald_test(joint)
        assert found.df == 2
        assert found.statistic == pytest.approx(b[1:] @ np.linalg.solve(v[1:, 1:], b[1:]))
    everything = logit.wald_test("beta = [0, 1, 0]")
    d = b - [0, 1, 0]
    assert everything.statistic == pytest.approx(d @ np.linalg.solve(v, d))
    nonlinear = logit.wald_test("exp(beta[x]) = 1")
    assert nonlinear.statistic == pytest.approx((np.exp(b[1]) - 1) ** 2 / (np.exp(2 * b[1]) * v[1, 1]))
    assert logit.wald_test("odds = 1").statistic == pytest.approx(nonlinear.statistic)
    robust = logit.wald_test("beta[x] = 0", "sandwich")
    assert robust.statistic == pytest.approx((b[1] / logit.standard_errors("sandwich")["beta"].values[1]) ** 2)


def test_a_hypothesis_on_the_boundary_is_said_to_be_there():
    with pm.Model() as model:
        pm.Normal("y", 0, pm.HalfNormal("sigma", 2), observed=CLICKS - 0.5)
    found = fit(model)
    for hypothesis in ("sigma = 0", "0 = 2 * sigma", {"sigma": 0}, "sigma = -1"):
        note = found.wald_test(hypothesis).note
        assert "not inside the parameter space" in note and "mlem.likelihood_ratio_test" in note
    assert not found.wald_test("sigma = 1").note


@pytest.mark.parametrize(
    ("hypotheses", "message"),
    [
        ("beta[x]", "is not a hypothesis; write an equation"),
        ("beta[y] = 0", r"'beta\[y\]' is not an expression .* Did you mean 'beta\[[xz]\]'"),
        ("__import__('os') = 0", "is not an expression in the names of the estimates"),
        ("1 = 1", "contains no estimate"),
        (["beta[x] = 0", "2 * beta[x] = 0"], "The hypotheses depend on each other"),
        ("beta = [0, 1]", "have different shapes"),
    ],
)
def test_bad_hypotheses(logit, hypotheses, message):
    with pytest.raises(ValueError, match=message):
        logit.wald_test(hypotheses)


def test_estimates_without_standard_errors_are_not_tested():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("a") + pm.Normal("b"), 1.0, observed=[1.0, 2.0])
    found = fit(model)
    with pytest.raises(ValueError, match="a = 0 cannot be tested"):
        found.wald_test("a = 0")
    assert found.wald_test("a + b = 0").statistic == pytest.approx(1.5**2 * 2)


# --- score ------------------------------------------------------------------------------------------------


def test_score_test_of_a_proportion_is_pearsons():
    found = binomial(100, 60, fixed={"p": 0.5}).score_test()
    assert found.statistic == pytest.approx((60 - 50) ** 2 / 25)
    assert (found.df, found.name) == (1, "Score test of p = 0.5")


def test_score_test_of_a_regression(logit_model):
    null = fit(logit_model, fixed={"beta[x]": 0.0, "beta[z]": 0.0})
    p = CLICKS.mean()
    score = X.T @ (CLICKS - p)
    expected = score @ np.linalg.solve(X.T @ X * p * (1 - p), score)
    assert null.score_test().statistic == pytest.approx(expected, rel=1e-6)
    assert null.score_test().df == 2
    opg = (X * (CLICKS - p)[:, None]).T @ (X * (CLICKS - p)[:, None])
    assert null.score_test(kind="opg").statistic == pytest.approx(score @ np.linalg.solve(opg, score), rel=1e-6)
    one = null.score_test("beta[x]")
    assert one.df == 1
    part = X[:, :2]
    expected = score[:2] @ np.linalg.solve(part.T @ part * p * (1 - p), score[:2])
    assert one.statistic == pytest.approx(expected, rel=1e-6)


def test_score_tests_that_cannot_be_made(logit, logit_model):
    with pytest.raises(ValueError, match="Nothing is held"):
        logit.score_test()
    null = fit(logit_model, fixed={"beta[x]": 0.0})
    with pytest.raises(ValueError, match=r"'beta\[z\]' is not held in this fit; held are 'beta\[x\]'"):
        null.score_test("beta[z]")
    with pytest.raises(ValueError, match="kind='sandwich' is unknown"):
        null.score_test(kind="sandwich")
    group = np.repeat(np.arange(4), 3)
    with pytest.raises(ValueError, match="on the boundary of the parameter space"):
        fit(grouped(RNG.normal(size=12), group), fixed={"tau": 0.0}).score_test()


# --- information matrix -----------------------------------------------------------------------------------


def normal_fit(y):
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), pm.HalfNormal("sigma", 1), observed=y)
    return fit(model)


def test_information_matrix_test_of_a_normal_sample_is_about_skewness_and_kurtosis():
    y = RNG.gamma(2.0, 1.0, 200)
    found = normal_fit(y).information_matrix_test()
    r = (y - y.mean()) / y.std()
    scores = np.column_stack([r, r**2 - 1])
    gaps = np.column_stack([r * (r**2 - 1) - 2 * r, (r**2 - 1) ** 2 - 2 * r**2])  # mu and log sigma, standardized
    z = np.column_stack([scores, gaps])
    total = z.sum(axis=0)
    assert found.df == 2
    assert found.statistic == pytest.approx(total @ np.linalg.solve(z.T @ z, total), rel=1e-4)
    assert found.p_value < 0.01
    opg = np.linalg.inv(scores.T @ scores)
    assert found.table.loc["mu", "opg_ratio"] == pytest.approx(np.sqrt(200 * opg[0, 0]), rel=1e-5)
    assert found.table.loc["sigma", "sandwich_ratio"] == pytest.approx(np.sqrt(np.mean((r**2 - 1) ** 2) / 2), rel=1e-5)


def test_information_matrix_test_of_a_correct_model():
    assert normal_fit(RNG.normal(size=400)).information_matrix_test("diagonal").p_value > 0.01


def test_information_matrix_tests_that_cannot_be_made(logit_model):
    with pytest.raises(ValueError, match="needs more independent units than both together; there are 4; compare fewer"):
        normal_fit(np.array([1.0, 2.0, 4.0, 5.0])).information_matrix_test()
    with pytest.raises(ValueError, match="maximum-likelihood"):
        fit(logit_model, estimator="map").information_matrix_test()
    with pytest.raises(ValueError, match="elements='some' must be"):
        fit(logit_model).information_matrix_test("some")


# --- selection --------------------------------------------------------------------------------------------


def test_selection_of_a_number_of_components():
    y = np.concatenate([RNG.normal(-4, 1, 40), RNG.normal(4, 1, 40)])
    found = mlem.select(lambda k: components(y, k), [1, 2], random_seed=0, progressbar=False)
    assert found.best_value == 2
    assert found.best is found.fits[2]
    assert list(found.table.columns) == [
        "n_params", "log_likelihood", "aic", "aicc", "bic", "icl", "entropy", "converged", "status",
    ]  # fmt: skip
    assert found.table.loc[2, "bic"] == found.fits[2].bic
    assert found.table.loc[1, "entropy"] == 0.0
    assert found.table.loc[1, "n_params"] == 2
    assert repr(found).startswith("BIC prefers 2")
    assert "<table" in found._repr_html_()


def test_selections_that_cannot_be_made():
    with pytest.raises(ValueError, match="criterion='loo' is unknown"):
        mlem.select(lambda k: None, [1], "loo")
    with pytest.raises(ValueError, match="at least one value, and none twice"):
        mlem.select(lambda k: None, [1, 1])
    with pytest.raises(TypeError, match=r"build\(1\) returned NoneType"):
        mlem.select(lambda k: None, [1])


# --- what must not pass in silence ------------------------------------------------------------------------


def test_data_that_were_replaced_between_the_fits():
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.Normal("y", mu, 1.0, observed=pm.Data("data", RNG.normal(size=20)))
    null, found = fit(model, fixed={"mu": 0.0}), fit(model)
    before, score = mlem.likelihood_ratio_test(null, found), null.score_test().statistic
    with model:
        pm.set_data({"data": RNG.normal(size=20)})
    assert mlem.likelihood_ratio_test(null, found).statistic == before.statistic
    with pytest.raises(ValueError, match="replaced \\(pm.set_data, set_value\\) between the fits"):
        mlem.likelihood_ratio_test(null, fit(model))
    assert null.score_test().statistic == pytest.approx(score)
    with pytest.raises(ValueError, match="data of 'y' differ between the fits"):
        mlem.likelihood_ratio_test(null, normal_fit(np.zeros(20) + RNG.normal(size=20)))


def test_degrees_of_freedom_count_what_the_data_determine():
    x, z, y = RNG.normal(size=(3, 50))
    with pm.Model() as model:
        b = pm.Normal("b", shape=4)
        pm.Normal("y", np.column_stack([np.ones(50), x, 2 * x, z]) @ b, 1.0, observed=y)
    full = fit(model)
    design = np.column_stack([np.ones(50), x, z])
    cost = np.sum((y - design @ np.linalg.lstsq(design, y)[0]) ** 2)
    found = mlem.likelihood_ratio_test(fit(model, fixed={"b[1]": 0.0, "b[2]": 0.0, "b[3]": 0.0}), full)
    assert found.df == 2 and "1 of the alternative's parameters are not determined" in found.note
    assert found.statistic == pytest.approx(np.sum((y - y.mean()) ** 2) - cost)
    found = mlem.likelihood_ratio_test(fit(model, fixed={"b[3]": 0.0}), full)  # both are collinear
    assert found.df == 1 and np.isfinite(found.p_value)
    with pytest.raises(ValueError, match="There is nothing to test"):
        mlem.likelihood_ratio_test(fit(model, fixed={"b[1]": 0.0}), full)


def test_fits_that_are_no_maximum_are_not_tested(logit, logit_model):
    short = mlem.LBFGS(max_iterations=1)
    null = fit(logit_model, fixed={"beta[x]": 0.0}, method=short)
    with pytest.raises(ValueError, match="A score test needs a maximum of the likelihood: the fit has not converged"):
        null.score_test()
    assert "Null: the fit has not converged (iteration limit)" in mlem.likelihood_ratio_test(null, logit).note
    with pytest.raises(ValueError, match="information-matrix test needs a maximum of the likelihood"):
        fit(logit_model, method=short).information_matrix_test()


def test_a_perfect_fit_has_no_likelihood_ratio():
    x = np.linspace(-1, 1, 20)
    with pm.Model() as model:
        b = pm.Normal("b")
        pm.Normal("y", b * x, pm.HalfNormal("s"), observed=2 * x)
    found = mlem.likelihood_ratio_test(fit(model, fixed={"b": 0.0}), fit(model))
    assert np.isnan(found.p_value) and "the objective of the alternative has no maximum" in found.note


def test_curvature_and_scores_of_a_proportion_cannot_disagree():
    with pm.Model() as model:
        pm.Bernoulli("y", pm.Beta("p", 1, 1), observed=CLICKS)
    with pytest.raises(ValueError, match="There is nothing to compare"):
        fit(model).information_matrix_test()


def test_the_information_matrix_test_takes_entries_on_the_boundary_as_known():
    counts = np.array([1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 2, 3, 1, 4])
    with pm.Model() as inflated:
        pm.ZeroInflatedPoisson("y", pm.Beta("psi", 1, 1), pm.Exponential("rate", 1), observed=counts)
    with pm.Model() as plain:
        pm.Poisson("y", pm.Exponential("rate", 1), observed=counts)
    found, expected = (fit(m).information_matrix_test() for m in (inflated, plain))
    assert found.df == expected.df == 1
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-4)


def test_empty_hypotheses_and_few_clusters(logit, logit_model):
    with pytest.raises(ValueError, match="There is no hypothesis"):
        logit.wald_test([])
    with pytest.raises(ValueError, match="release is empty"):
        fit(logit_model, fixed={"beta[x]": 0.0}).score_test([])
    with pytest.raises(ValueError, match="3 equations need more clusters than that; there are 2"):
        logit.wald_test("beta = 0", kind="sandwich", cluster=np.arange(N) % 2)


@pytest.mark.slow
def test_selection_from_one_component_on():
    y = np.concatenate([RNG.normal(-2, 1, 30), RNG.normal(3, 1, 30)])

    def build(k):
        with pm.Model() as model:
            mu = pm.Normal("mu", 0, 5, shape=k, initval=np.arange(float(k)))
            z = pm.Categorical("z", pm.Dirichlet("w", np.ones(k)), shape=60)
            pm.Normal("y", mu[z], pm.HalfNormal("sigma", 2), observed=y)
        return model

    chosen = mlem.select(build, [1, 2], random_seed=1, progressbar=False)
    assert chosen.best_value == 2
    one = chosen.fits[1]
    assert one.n_params == 2 and "boundary" not in one.message
    assert one.log_likelihood == pytest.approx(norm(y.mean(), y.std()).logpdf(y).sum())
    np.testing.assert_array_equal(one.confidence_intervals()["w"].values, [[1.0, 1.0]])


def test_selections_say_where_they_fail():
    y = RNG.normal(size=20)

    def build(k):
        return components(y[: 10 * k], 1)

    with pytest.raises(ValueError, match="The data of 'y' differ between the values 1 and 2 of the grid"):
        mlem.select(build, [1, 2], progressbar=False)
    with pytest.raises(ZeroDivisionError) as caught:
        mlem.select(lambda k: 1 / k, [0], progressbar=False)
    assert "at the value 0 of the grid" in caught.value.__notes__[0]
    for wrong in ((build, 3), (build(1), [1, 2])):
        with pytest.raises(TypeError, match="select takes a function that returns a pm.Model"):
            mlem.select(*wrong)
    with pytest.raises(TypeError, match="keys of a dictionary"):
        mlem.select(build, [{"k": 1}])


def test_things_that_are_no_hypotheses_or_fits(logit, logit_model):
    with pytest.raises(TypeError, match="A hypothesis is an equation like 'b = 0'"):
        logit.wald_test(3)
    with pytest.raises(TypeError, match="takes two fits, not Model"):
        mlem.likelihood_ratio_test(logit_model, logit)


def test_a_hypothesis_far_from_the_data():
    x = np.linspace(-1, 1, 30)
    y = 5 * x + 0.1 * RNG.normal(size=30)
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("b") * x, pm.HalfNormal("s"), observed=y)
    null = fit(model, fixed={"b": 0.0})
    with pytest.raises(ValueError, match="far from the data \\(then kind='opg'"):
        null.score_test()
    assert null.score_test(kind="opg").p_value < 1e-3
