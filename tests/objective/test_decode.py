"""The jointly most probable latents, and draws from their posterior, against enumeration."""

import itertools
import warnings

import jax
import numpy as np
import pymc as pm
import pytest
from scipy.special import logsumexp, xlogy
from scipy.stats import chi2, norm

import pm_mlem as mlem
from brute_force import enumerate_latents
from pm_mlem.objective.engine import engine_for
from pm_mlem.objective.m_step.step import e_step
from structures import build, markov

pytestmark = pytest.mark.compiled


def problem(model):
    """The engine of a model and a point."""
    engine = engine_for(model, "mle")
    space = engine.objective.space
    return engine, space.initial + 0.1 * np.random.default_rng(1).normal(size=space.size)


@pytest.mark.parametrize(
    "name", ["mvnormal_shared_cov", "sum_of_labels", "hidden_markov_two_lags", "four_cycle", "tree"]
)
def test_the_e_step_at_the_mode_reads_one_configuration(name):
    """``test_structures.py`` compares the configuration itself with enumeration."""
    model, _ = build(name)
    engine, u = problem(model)
    objective = engine.objective
    theta, weights = objective.space.constrain(u), np.ones(objective.n_units)
    best = float(engine.readout.decode(u, engine.data)[1].sum())

    decoded = objective.jit_once(lambda w: objective.decoded(theta, w, engine.data))
    value, posterior = decoded(weights)
    assert float(value) == pytest.approx(best, abs=1e-9)
    expected = objective.jit_once(lambda p: objective.expected(theta, p, engine.data))
    assert float(expected(posterior)) == pytest.approx(best, abs=1e-9)
    assert all(np.array_equal(p, np.round(p)) for p in posterior)

    twice, doubled = decoded(2 * weights)
    assert float(twice) == pytest.approx(2 * best)
    for p, q in zip(posterior, doubled, strict=True):
        np.testing.assert_array_equal(2 * np.asarray(p), q)


# --- Fit.decode and Fit.entropy ---------------------------------------------------------------------------


def viterbi(initial, transition, emission):
    """The textbook recursion: log-densities of the first state, the steps, and the observations (times, states)."""
    score, back = initial + emission[0], []
    for row in emission[1:]:
        both = score[:, None] + transition
        back.append(both.argmax(axis=0))
        score = both.max(axis=0) + row
    path = [int(score.argmax())]
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    return np.array(path[::-1]), score.max()


def forward_entropy(initial, transition, emission):
    """Entropy of whole sequences by enumeration."""
    values = []
    for path in itertools.product(range(len(initial)), repeat=len(emission)):
        steps = sum(transition[a, b] for a, b in itertools.pairwise(path))
        values.append(initial[path[0]] + steps + sum(emission[t, s] for t, s in enumerate(path)))
    p = np.exp(values - logsumexp(values))
    return -np.sum(xlogy(p, p))


@pytest.fixture(scope="module")
def sequences():
    """A hidden Markov model of three sequences, fitted with weights."""
    rng = np.random.default_rng(4)
    hidden = (np.cumsum(rng.random((3, 9)) < 0.3, axis=1)) % 2
    y = rng.normal(np.array([-1.0, 1.0])[hidden], 0.8)
    with pm.Model(coords={"animal": ["ada", "bob", "eve"], "hour": range(9)}) as model:
        P = pm.Dirichlet("P", np.ones((2, 2)), initval=np.array([[0.7, 0.3], [0.3, 0.7]]))
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[-1.0, 1.0])
        start = pm.Categorical.dist(p=[0.5, 0.5])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymc_extras announces its changes
            z = markov("z", P, (3, 9), start, dims=("animal", "hour"))
        pm.Normal("y", mu[z], 0.8, observed=y, dims=("animal", "hour"))
    fit = mlem.fit(model, "map", weights=np.array([1.0, 0.5, 2.0]), starts=1, random_seed=1, progressbar=False)
    return fit, y


def terms_of(fit, y):
    P, mu = fit.estimates["P"].values, fit.estimates["mu"].values
    return np.log([0.5, 0.5]), np.log(P), norm.logpdf(y[..., None], mu, 0.8)


def test_chains_are_decoded_as_by_viterbi(sequences):
    fit, y = sequences
    decoded = fit.decode()
    initial, transition, emission = terms_of(fit, y)
    assert decoded["z"].dims == ("animal", "hour")
    assert decoded["z"].dtype.kind == "i"
    assert decoded["y_log_probability"].dims == ("animal",)
    assert list(decoded.coords["animal"].values) == ["ada", "bob", "eve"]
    plain = fit.pointwise_log_likelihood["y"].values / [1.0, 0.5, 2.0]
    for i in range(3):
        path, best = viterbi(initial, transition, emission[i])
        np.testing.assert_array_equal(decoded["z"].values[i], path)
        assert decoded["y_log_probability"].values[i] == pytest.approx(best - plain[i])
    assert decoded.attrs["log_probability"] == pytest.approx(decoded["y_log_probability"].values.sum())


def test_the_entropy_of_chains_is_that_of_whole_sequences_with_their_weights(sequences):
    fit, y = sequences
    initial, transition, emission = terms_of(fit, y)
    expected = [forward_entropy(initial, transition, emission[i]) for i in range(3)]
    assert fit.entropy == pytest.approx(np.dot([1.0, 0.5, 2.0], expected))
    assert fit.icl == pytest.approx(fit.bic + 2 * fit.entropy)


def test_decoding_independent_labels_takes_the_most_probable_state_of_each(faithful_fit):
    decoded, probabilities = faithful_fit.decode(), faithful_fit.latent_probabilities["z"].values
    np.testing.assert_array_equal(decoded["z"].values, probabilities.argmax(axis=-1))
    np.testing.assert_allclose(np.exp(decoded["waiting_log_probability"].values), probabilities.max(axis=-1))


def test_components_of_a_built_in_mixture_and_joint_states_are_decoded():
    rng = np.random.default_rng(2)
    y, x = rng.normal(size=8), rng.normal(size=(6, 3))
    with pm.Model() as model:
        pm.NormalMixture("y", [0.4, 0.6], pm.Normal("mu", 0, 3, shape=2, initval=[-1.0, 1.0]), 0.7, observed=y)
        use = pm.Bernoulli("use", 0.3, shape=3)
        pm.Normal("v", (x * use).sum(-1), 0.5, observed=x[:, 0] - x[:, 2])
        pm.Normal("plain", pm.Normal("m"), 1.0, observed=y)
    fit = mlem.fit(model, starts=1, random_seed=1, progressbar=False)
    decoded = fit.decode()
    assert set(decoded) == {"y_component", "use", "y_log_probability", "v_log_probability"}
    np.testing.assert_array_equal(
        decoded["y_component"].values, fit.latent_probabilities["y_component"].values.argmax(axis=-1)
    )
    scores = {
        use: norm.logpdf(x[:, 0] - x[:, 2], x @ use, 0.5).sum() + np.log(np.where(use, 0.3, 0.7)).sum()
        for use in itertools.product([0, 1], repeat=3)
    }
    best = max(scores, key=scores.get)
    assert tuple(decoded["use"].values) == best
    assert decoded["v_log_probability"].item() == pytest.approx(scores[best] - logsumexp(list(scores.values())))


def test_ties_go_to_the_first_state_and_are_never_split():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5)
        z = pm.Categorical("z", np.full(3, 1 / 3), shape=4)
        pm.Normal("y", mu + 0 * z, 1.0, observed=np.arange(4.0))
    fit = mlem.fit(model, starts=1, random_seed=1, progressbar=False)
    decoded = fit.decode()
    np.testing.assert_array_equal(decoded["z"].values, 0)
    assert decoded.attrs["log_probability"] == pytest.approx(-4 * np.log(3))


def test_there_is_nothing_to_decode_without_latents(coin):
    with pytest.raises(ValueError, match="no discrete latent"):
        mlem.fit(coin, progressbar=False).decode()


# --- draws ------------------------------------------------------------------------------------------------

DRAWS = 4000
DRAWN = [
    "normal", "nested_plates", "rows_and_columns", "sum_of_labels", "neighbours", "partly_observed_labels",
    "hidden_markov_batched", "hidden_markov_two_lags", "mixture_of_hidden_markov", "factorial_hidden_markov",
    "hidden_markov_observed_at_some_times", "ragged_sequences", "loop_of_scalars", "tree", "four_cycle",
    "chains_that_one_label_makes_impossible",
]  # fmt: skip


def draws_of(engine, u):
    """Independent draws of all latents: {name: (draws, *shape)}."""
    readout, data = engine.readout, engine.data
    keys = jax.random.split(jax.random.key(5), DRAWS)
    states = jax.jit(jax.vmap(lambda key: readout.configuration("sample", u, data, key)[0]))(keys)
    return dict(zip(readout.latent_names, map(np.asarray, states), strict=True))


def check_frequencies(found, configurations, probabilities):
    """A chi-square test of whole configurations, the rare ones together (fixed seed, so it never fails by chance)."""
    names = list(configurations[0])
    index = {tuple(np.concatenate([np.ravel(c[n]) for n in names])): i for i, c in enumerate(configurations)}
    drawn = np.concatenate([found[n].reshape(DRAWS, -1) for n in names], axis=1)
    counts = np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(index))
    expected = DRAWS * np.asarray(probabilities)
    assert np.all(counts[expected == 0] == 0), "an impossible configuration was drawn"
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    statistic = np.sum((counts - expected) ** 2 / np.maximum(expected, 1e-300) * (expected > 0))
    assert chi2.sf(statistic, max(np.sum(expected > 0) - 1, 1)) > 1e-3


@pytest.mark.parametrize("name", DRAWN)
def test_draws_have_the_joint_posterior(name):
    model, domains = build(name)
    engine, u = problem(model)
    exact = enumerate_latents(model, domains, engine.objective.space.values(u))
    check_frequencies(draws_of(engine, u), exact.configurations, exact.weights)


def test_elements_that_no_data_tell_apart_are_drawn_independently():
    with pm.Model() as model:
        w = pm.Dirichlet("w", [2.0, 3.0])
        pm.Categorical("z", w, shape=3)
        b = pm.Bernoulli("b", 0.3, shape=2)
        pm.Potential("couple", 0.5 * b)
    engine, u = problem(model)
    [w] = engine.objective.space.values(u).values()
    p = 0.3 * np.exp(0.5) / (0.3 * np.exp(0.5) + 0.7)
    configurations, probabilities = [], []
    for states in itertools.product([0, 1], repeat=5):
        configurations.append({"z": np.array(states[:3]), "b": np.array(states[3:])})
        probabilities.append(np.prod(w[list(states[:3])]) * np.prod(np.where(states[3:], p, 1 - p)))
    check_frequencies(draws_of(engine, u), configurations, probabilities)


@pytest.mark.parametrize("name", ["mvnormal_shared_cov", "hidden_markov_batched", "nested_long_format"])
def test_the_mean_of_sampled_weights_is_the_posterior(name):
    model, _ = build(name)
    engine, u = problem(model)
    objective = engine.objective
    theta, weights = objective.space.constrain(u), np.linspace(0.0, 2.0, objective.n_units)
    value, posterior = objective.jit_once(lambda t: e_step(objective, t, weights, engine.data))(theta)
    keys = jax.random.split(jax.random.key(3), DRAWS)
    sample = jax.jit(jax.vmap(lambda key: objective.sampled(theta, weights, engine.data, key)))
    values, drawn = sample(keys)
    np.testing.assert_allclose(values, float(value), rtol=1e-10)
    for array, expected in zip(drawn, posterior, strict=True):
        spread = 5 * np.asarray(array).std(axis=0) / np.sqrt(DRAWS)
        assert np.all(np.abs(np.asarray(array).mean(axis=0) - expected) <= spread + 0.005)
