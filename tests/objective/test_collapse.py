"""Degenerate, empty, equal and boundary components are found and named; sound optima are left alone."""

import re
from contextlib import contextmanager

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import pm_mlem as mlem
from pm_mlem.objective.collapse import Guard, room_for
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.watches import distinct, share

pytestmark = pytest.mark.compiled

RNG = np.random.default_rng(11)
TWO = np.concatenate([RNG.normal(-3.0, 1.0, 40), RNG.normal(3.0, 1.0, 40)])
X = RNG.normal(size=80)
POINTS = np.concatenate([RNG.normal(-3.0, 1.0, (40, 2)), RNG.normal(3.0, 1.0, (40, 2))])


def fit(model, *args, **kw):
    return mlem.fit(model, *args, **{"random_seed": 0, "progressbar": False, **kw})


def collapse(model, **values):
    engine = engine_for(model, "mle")
    guard = Guard(engine.inspector, np.ones(engine.objective.n_units))
    return guard.collapse(engine.objective.space.unconstrain(values))


@contextmanager
def mixture(k=2, n=80):
    with pm.Model(coords={"kind": ["a", "b", "c"][:k]}) as model:
        w = pm.Dirichlet("w", np.ones(k), dims="kind")
        model.z = pm.Categorical("z", w, shape=n)
        yield model


def normal_mixture(y=TWO, k=2, **kw):
    with mixture(k, len(y)) as model:
        mu = pm.Normal("mu", 0, 5, dims="kind", initval=np.linspace(-3, 3, k))
        sigma = pm.HalfNormal("sigma", 2, dims="kind")
        pm.Normal("y", mu[model.z], sigma[model.z], observed=y)
    return model


# --- collapsed states -------------------------------------------------------------------------------------


def test_a_state_on_one_observation():
    said = collapse(normal_mixture(), w=[0.02, 0.98], mu=[TWO[5], 0.0], sigma=[1e-6, 3.0])
    assert said == "state 'a' of 'z' has collapsed onto about 1 distinct observations of 'y'"


def test_a_state_on_two_observations_that_lie_close_together():
    y = TWO.copy()
    y[1] = y[0] + 0.002
    said = collapse(normal_mixture(y), w=[0.975, 0.025], mu=[0.0, y[0] + 0.001], sigma=[3.0, 0.001])
    assert re.match(r"state 'b' of 'z' .* about [23] distinct observations of 'y'", said)


def test_sound_states_are_left_alone():
    assert collapse(normal_mixture(), w=[0.5, 0.5], mu=[-3.0, 3.0], sigma=[1.0, 1.0]) == ""


def test_a_small_cluster_is_sound():
    """Three observations far from all others, as wide as these (the fast galaxies, say)."""
    y = np.concatenate([TWO, [20.0, 21.0, 22.5]])
    assert collapse(normal_mixture(y), w=[83 / 86, 3 / 86], mu=[0.0, 21.2], sigma=[3.0, 1.0]) == ""


def test_a_narrow_state_on_many_observations_is_sound():
    y = np.concatenate([TWO, RNG.normal(0.0, 1e-5, 30)])
    assert collapse(normal_mixture(y), w=[0.7, 0.3], mu=[0.0, 0.0], sigma=[3.0, 1e-5]) == ""


def test_a_state_on_many_equal_observations():
    y = np.round(np.concatenate([TWO, np.full(30, 0.5)]), 1)
    said = collapse(normal_mixture(y), w=[0.7, 0.3], mu=[0.0, 0.5], sigma=[3.0, 1e-9])
    assert "'b'" in said
    assert "collapsed" in said


def test_integer_weights_are_repetition():
    """One observation of weight 50 is still one."""
    model = normal_mixture()
    engine = engine_for(model, "mle")
    unit = np.ones(80)
    unit[5] = 50.0
    point = engine.objective.space.unconstrain({"w": [0.4, 0.6], "mu": [TWO[5], 0.0], "sigma": [1e-6, 3.0]})
    assert "about 1 distinct" in Guard(engine.inspector, unit).collapse(point)


def lognormal(y, k):
    pm.LogNormal("y", pm.Normal("m", 0, 1, shape=2)[k], pm.HalfNormal("s", 1, shape=2)[k], observed=y)


def student(y, k):
    pm.StudentT("y", nu=4, mu=pm.Normal("m", 0, 1, shape=2)[k], sigma=pm.HalfNormal("s", 1, shape=2)[k], observed=y)


def gamma(y, k):
    pm.Gamma("y", mu=pm.HalfNormal("m", 3, shape=2)[k], sigma=pm.HalfNormal("s", 3, shape=2)[k], observed=y)


def weibull(y, k):
    pm.Weibull("y", alpha=pm.HalfNormal("s", 9, shape=2)[k], beta=pm.HalfNormal("m", 3, shape=2)[k], observed=y)


SKEWED = np.random.default_rng(3).gamma(3.0, 1.0, 80)


@pytest.mark.parametrize(
    ("family", "values", "sound"),
    [
        (lognormal, {"m": [np.log(SKEWED[3]), 1.0], "s": [1e-6, 0.6]}, {"m": [0.5, 1.3], "s": [0.6, 0.4]}),
        (student, {"m": [SKEWED[3], 3.0], "s": [1e-6, 1.5]}, {"m": [2.0, 4.0], "s": [1.0, 1.0]}),
        (gamma, {"m": [SKEWED[3], 3.0], "s": [1e-6, 1.7]}, {"m": [2.0, 4.0], "s": [1.0, 1.5]}),
        (weibull, {"m": [SKEWED[3], 3.0], "s": [1e6, 1.7]}, {"m": [2.0, 4.0], "s": [2.0, 2.0]}),
    ],
)
def test_every_family_that_can_collapse(family, values, sound):
    with mixture() as model:
        family(SKEWED, model.z)
    assert "collapsed onto about 1 distinct" in collapse(model, w=[0.02, 0.98], **values)
    assert collapse(model, w=[0.5, 0.5], **sound) == ""


def test_covariances_that_are_nearly_singular():
    with mixture() as model:
        mu = pm.Normal("mu", 0, 5, shape=(2, 2))
        chol = pt.stack(
            [
                pm.LKJCholeskyCov(f"c{k}", n=2, eta=2, sd_dist=pm.HalfNormal.dist(2.0), store_in_trace=False)[0]
                for k in range(2)
            ]
        )
        pm.MvNormal("y", mu[model.z], chol=chol[model.z], observed=POINTS)
    wide = [3.0, 2.5, 2.0]
    a, b = POINTS[0], POINTS[1]  # a state along the line between two observations
    half = (b - a) / 2
    line = [abs(half[0]), half[1] * np.sign(half[0]), 1e-6]
    said = collapse(model, w=[0.025, 0.975], mu=[(a + b) / 2, [0.0, 0.0]], c0=line, c1=wide)
    assert "state 'a' of 'z' has collapsed onto about 2 distinct observations of 'y'" in said
    assert collapse(model, w=[0.5, 0.5], mu=[[-3, -3], [3, 3]], c0=[1.0, 0.0, 1.0], c1=[1.0, 0.0, 1.0]) == ""


def test_a_column_that_does_not_vary_within_a_state():
    """The second feature of the first group is 0.2 throughout: its scale may shrink to nothing."""
    data = np.round(POINTS, 1)
    data[:40, 1] = 0.2
    with mixture() as model:
        mu, sigma = pm.Normal("mu", 0, 5, shape=(2, 2)), pm.HalfNormal("sigma", 2, shape=(2, 2))
        pm.Normal("y", mu[model.z], sigma[model.z], observed=data)
    values = {"w": [0.5, 0.5], "mu": [[-3, 0.2], [3, 3]]}
    assert "equal observations of 'y'" in collapse(model, **values, sigma=[[1.0, 1e-9], [1.0, 1.0]])
    assert collapse(model, **values, sigma=[[1.0, 0.1], [1.0, 1.0]]) == ""


def test_a_regression_through_two_points():
    y = 1.0 + X + RNG.normal(size=80)
    with mixture() as model:
        a, b = pm.Normal("a", 0, 5, shape=2), pm.Normal("b", 0, 5, shape=2)
        sigma = pm.HalfNormal("sigma", 2, shape=2)
        pm.Normal("y", a[model.z] + b[model.z] * X, sigma[model.z], observed=y)
    slope = (y[1] - y[0]) / (X[1] - X[0])
    said = collapse(model, w=[0.03, 0.97], a=[y[0] - slope * X[0], 1.0], b=[slope, 1.0], sigma=[1e-6, 1.0])
    assert "about 2 distinct" in said
    assert collapse(model, w=[0.5, 0.5], a=[1.0, 1.2], b=[1.0, 0.5], sigma=[1.0, 1.0]) == ""


def test_hidden_markov_models_and_lists_of_components():
    with pm.Model() as hmm:
        P, mu = pm.Dirichlet("P", np.ones((2, 2))), pm.Normal("mu", 0, 5, shape=2)
        sigma, z = pm.HalfNormal("sigma", 2, shape=2), pm.Categorical("z_0", [0.5, 0.5])
        states = [z]
        for t in range(1, 12):
            states.append(pm.Categorical(f"z_{t}", P[states[-1]]))
        for t, s in enumerate(states):
            pm.Normal(f"y_{t}", mu[s], sigma[s], observed=TWO[3 * t])
    values = {"P": [[0.9, 0.1], [0.1, 0.9]], "sigma": [1e-7, 2.5]}
    assert "collapsed onto about 1" in collapse(hmm, mu=[TWO[9], 0.0], **values)
    with pm.Model() as listed:
        w, mu = pm.Dirichlet("w", np.ones(2)), pm.Normal("mu", 0, 5)
        sigma = pm.HalfNormal("sigma", 2)
        pm.Mixture("y", w, [pm.Normal.dist(mu, sigma), pm.StudentT.dist(nu=4, mu=0, sigma=3)], observed=TWO)
    assert "state 0 of 'y_component'" in collapse(listed, w=[0.02, 0.98], mu=TWO[0], sigma=1e-7)
    assert collapse(listed, w=[0.5, 0.5], mu=-3.0, sigma=1.0) == ""


def test_discrete_observations_are_never_suspected():
    with mixture(n=40) as model:
        pm.Binomial("y", 5, pm.Beta("p", 1, 1, shape=2)[model.z], observed=np.r_[np.zeros(39, int), 5])
    assert collapse(model, w=[0.97, 0.03], p=[1e-12, 1 - 1e-12]) == ""


def test_the_parts_of_the_criterion():
    groups, resolution = distinct(np.array([[[0.1]], [[0.3]], [[0.1]], [[0.4]]]))
    assert groups.tolist() == [0, 1, 0, 2]
    assert resolution[0] == pytest.approx(0.1)
    assert share(np.array([[1, 0, 1], [0, 1, 1]], dtype=bool)).tolist() == [1.5, 1.5]
    assert room_for(2.0, 1) == 2.0
    assert room_for(14.0, 4) == 4.0


# --- fits -------------------------------------------------------------------------------------------------


def test_the_best_interior_optimum_is_returned():
    model = normal_mixture()
    trap = {"w": [0.0125, 0.9875], "mu": [TWO[5], 0.0], "sigma": [1e-3, 3.0]}
    found = fit(model, starts=[trap, {"mu": [-3.0, 3.0]}, {"mu": [-2.0, 2.0]}])
    assert found.converged
    np.testing.assert_allclose(found.estimates["mu"], [TWO[:40].mean(), TWO[40:].mean()], atol=0.1)
    starts = found.starts
    assert list(starts.columns) == [
        "start", "origin", "log_likelihood", "iterations", "status", "optimum", "reached", "reason",
    ]  # fmt: skip
    assert starts.loc[0, "reason"].startswith("state 'a' of 'z' has collapsed")
    assert starts.loc[0, "log_likelihood"] > found.log_likelihood
    assert starts["optimum"].isna().tolist() == [True, False, False]
    assert starts.loc[1, "reached"] == 2


@pytest.mark.parametrize("method", ["em", "lbfgs", "newton"])
def test_every_method_is_inspected(method):
    trap = {"w": [0.0125, 0.9875], "mu": [TWO[5], 0.0], "sigma": [1e-2, 3.0]}
    found = fit(normal_mixture(), method=method, starts=[trap, {"mu": [-3.0, 3.0]}, {"mu": [-2.0, 2.0]}])
    assert found.estimates["sigma"].min() > 0.5
    assert found.starts["reason"].ne("").tolist() == [True, False, False]


@pytest.mark.parametrize("y", [[1.0], [1.0, 2.0], np.ones(20), np.full(20, 1.1)], ids=["one", "two", "equal", "1.1"])
def test_data_that_a_mixture_fits_without_error(y):
    """The scales sink to the smallest numbers there are, where EM comes to a halt."""
    found = fit(normal_mixture(np.asarray(y)), starts=2)
    assert found.status is mlem.Status.DEGENERATE
    assert set(found.starts["reason"].str.slice(0, 11)) <= {"the objecti", "state 'a' o", "state 'b' o"}


def test_if_all_are_degenerate_the_fit_says_so():
    found = fit(normal_mixture(np.array([-1.0, 0.0, 2.0])), starts=2)
    assert found.status is mlem.Status.DEGENERATE
    assert not found.converged
    assert "All 6 starts lead to a degenerate point" in found.message
    assert "Use fewer components" in found.message
    assert len(found.starts) == 6


def test_a_hierarchy_whose_scale_shrinks_to_nothing():
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0, 5), pm.HalfNormal("tau", 5)
        theta = pm.Normal("theta", mu, tau, shape=4)
        pm.Normal("y", theta, 10.0, observed=[28.0, 8.0, -3.0, 7.0])
    found = fit(model, "map")
    assert found.status is mlem.Status.DEGENERATE
    assert "grows without bound with tau" in found.message


def test_only_one_start_at_the_best_optimum_is_a_warning():
    model = normal_mixture()
    with pytest.warns(mlem.LocalOptimaWarning, match=r"Only 1 of 2 starts .* starts=8"):
        found = fit(model, starts=[{"mu": [-3.0, 3.0]}, {"mu": [0.0, 0.0]}], method="em")
    assert "Only 1 of 2 starts" in found.message
    assert issubclass(mlem.LocalOptimaWarning, UserWarning)


# --- notes ------------------------------------------------------------------------------------------------


def test_equal_states():
    found = fit(normal_mixture(), method="em", starts=[{"mu": [0.0, 0.0], "sigma": [1.0, 1.0]}])
    assert "States 'a' and 'b' of 'z' have the same distribution" in found.message


def test_states_that_are_tied_are_not_called_equal():
    with mixture(3) as model:
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[-3.0, 3.0])
        pm.Normal("y", pt.stack([mu[0], mu[1], mu[1]])[model.z], 1.0, observed=TWO)
    assert "same distribution" not in fit(model, method="em", starts=1).message


def test_empty_states_and_boundaries():
    y = np.repeat([0, 1, 2, 3], [20, 30, 25, 5])
    with mixture(2, len(y)) as model:
        pm.Binomial("y", 20, pm.Beta("p", 1, 1, shape=2)[model.z], observed=y)
    found = fit(model, starts=[{"w": [1 - 1e-9, 1e-9], "p": [0.1, 0.9]}])
    assert "State 'b' of 'z' is empty" in found.message
    assert "On the boundary of the support: w[" in found.message


def test_probabilities_on_the_boundary():
    with pm.Model(coords={"arm": ["x", "y"]}) as model:
        p = pm.Beta("p", 1, 1, dims="arm")
        pm.Binomial("n", 10, p, observed=[10, 4])
    for method in ("newton", "lbfgs"):
        message = fit(model, method=method).message
        assert "On the boundary of the support: p[x] = 1" in message
        assert "p[y]" not in message


def test_separated_outcomes():
    with pm.Model() as model:
        b = pm.Normal("b", 0, 10, shape=2)
        x = np.array([-2.0, -1.0, 1.0, 2.0, 3.0])
        pm.Bernoulli("y", logit_p=b[0] + b[1] * x, observed=(x > 0).astype(int))
    assert re.search(r"as .*b\[1\] runs? away to infinity \(separated outcomes", fit(model).message)


def test_flat_directions():
    with pm.Model() as model:
        a, b = pm.Normal("a", 0, 1), pm.Normal("b", 0, 1)
        pm.Normal("y", a + b, 1.0, observed=TWO)
    assert "The data do not determine a, b: only a + b is identified." in fit(model).message


def test_an_ordinary_fit_has_nothing_to_note(faithful_fit):
    sentences = r"Converged: the Newton decrement vanishes\. Ran EM with SQUAREM for \d+ iterations?, then [^.]*\."
    assert re.fullmatch(sentences, faithful_fit.message)


# --- interrupts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 20, 40])
def test_an_interrupt_returns_the_best_point_so_far(after, faithful, monkeypatch):
    seen = []

    @contextmanager
    def interrupting(title, *, enabled):
        def observe(iteration, value):
            seen.append(value)
            if len(seen) == after:
                raise KeyboardInterrupt

        yield observe

    import sys

    monkeypatch.setattr(sys.modules["pm_mlem.fit"], "progress", interrupting)
    found = mlem.fit(faithful, random_seed=1, starts=8)
    assert found.status is mlem.Status.INTERRUPTED
    assert found.log_likelihood >= max(seen) - 1e-6
    assert "Interrupted" in found.message
    assert len(found.starts) >= 1
