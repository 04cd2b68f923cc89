"""Rows of the data: the same number whichever way a model is written, and what is no row."""

import warnings
from itertools import product

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from pm_mlem.graph.read import read
from pm_mlem.graph.tables.known_labels import independent_units
from pm_mlem.graph.tables.observations import observations

RNG = np.random.default_rng(4)
pytestmark = pytest.mark.filterwarnings("ignore:Data in .* contains missing values")


def counts(model, weights=1.0):
    """Observations and independent units that hold data."""
    tables = read(model)
    found, joined = observations(tables), independent_units(tables)
    return found.count(weights * np.ones(found.units)), len(np.unique(joined[found.holding]))


def chain_distribution():
    pytest.importorskip("pymc_extras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other package's imports
        from pymc_extras.distributions import DiscreteMarkovChain
    return DiscreteMarkovChain


def parameters(columns=()):
    p = pm.Dirichlet("p", np.ones((2, 2)))
    return p, pm.Normal("mu", 0, 5, shape=(2, *columns))


# --- one model, many writings -------------------------------------------------------------------------------


def emissions(written, z, mu, y, suffix=""):
    """Emissions (rows, columns) of states (rows,) in one of several writings."""
    if written == "array":
        pm.Normal(f"y{suffix}", mu[z], 1.0, observed=y)
    elif written == "vectors":
        pm.MvNormal(f"y{suffix}", mu[z], np.eye(y.shape[1]), observed=y)
    elif written == "variables":
        for j in range(y.shape[1]):
            pm.Normal(f"y{j}{suffix}", mu[z, j], 1.0 + j, observed=y[:, j])
    elif written == "masked":
        mask = np.zeros(y.shape, dtype=bool)
        mask[:, 1:] = RNG.random((len(y), y.shape[1] - 1)) < 0.4
        pm.Normal(f"y{suffix}", mu[z], 1.0, observed=np.ma.masked_array(y, mask))
    else:
        pm.Potential(f"y{suffix}", pm.logp(pm.Normal.dist(mu[z], 1.0), y))


WRITTEN = ["array", "vectors", "variables", "masked", "potential"]


@pytest.mark.parametrize(("written", "columns", "known"), [*product(WRITTEN, [1, 3], [0.0, 0.4, 1.0])][::2])
def test_mixtures(written, columns, known):
    """A row for each latent label, or each known one, however many columns are seen of it."""
    n = int(RNG.integers(5, 12))
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, shape=(2, columns))
        labels = np.ma.masked_array(RNG.integers(0, 2, n), np.arange(n) >= known * n)
        given = {"shape": n} if known == 0 else {"observed": labels if known < 1 else labels.data}
        emissions(written, pm.Categorical("z", w, **given), mu, RNG.normal(size=(n, columns)))
    assert counts(model) == (n, n)
    assert counts(model, 2.0) == (2 * n, n)


@pytest.mark.parametrize("components", ["batch", "list"])
def test_built_in_mixtures(components):
    n = int(RNG.integers(5, 12))
    with pm.Model() as model:
        w, mu = pm.Dirichlet("w", np.ones(2)), pm.Normal("mu", 0, 5, shape=2)
        of = pm.Normal.dist(mu, 1.0) if components == "batch" else [pm.Normal.dist(mu[0]), pm.Laplace.dist(mu[1], 1.0)]
        pm.Mixture("y", w, of, observed=RNG.normal(size=n))
    assert counts(model) == (n, n)


SERIES = [*product(WRITTEN, [1, 2], [[9], [5, 8], [6, 6, 6]], ["chain", "loop"])]


@pytest.mark.parametrize(("written", "columns", "lengths", "states"), SERIES[::5])
def test_hidden_markov_models(written, columns, lengths, states):
    """A row for each time of each series, a unit for each series."""
    chain = chain_distribution() if states == "chain" else None
    with pm.Model() as model:
        p, mu = parameters((columns,))
        for s, length in enumerate(lengths):
            if chain is not None:
                z = chain(f"z{s}", P=p, init_dist=pm.Categorical.dist(np.ones(2) / 2), shape=length)
            else:
                z = [pm.Categorical(f"z{s}_0", np.ones(2) / 2)]
                z = pt.stack([*z, *later_states(s, length, p, z)])
            emissions(written, z, mu, RNG.normal(size=(length, columns)), f"_{s}")
    assert counts(model) == (sum(lengths), len(lengths))


def later_states(s, length, p, states):
    for t in range(1, length):
        states.append(pm.Categorical(f"z{s}_{t}", p[states[-1]]))
    return states[1:]


def test_loops_with_two_emissions_a_step():
    with pm.Model() as model:
        p, mu = parameters()
        z = None
        for t in range(8):
            z = pm.Categorical(f"z{t}", np.ones(2) / 2 if z is None else p[z])
            pm.Normal(f"x{t}", mu[z], 1.0, observed=RNG.normal())
            pm.Normal(f"y{t}", mu[z], 2.0, observed=RNG.normal())
    assert counts(model) == (8, 1)


@pytest.mark.parametrize("hidden", [True, False])
def test_several_series_as_one_array(hidden):
    """Also where the states are observed."""
    chain = chain_distribution()
    shape = (3, 6)
    with pm.Model() as model:
        p, mu = parameters()
        given = {"shape": shape} if hidden else {"observed": RNG.integers(0, 2, shape)}
        z = chain("z", P=p, init_dist=pm.Categorical.dist(np.ones(2) / 2), **given)
        pm.Normal("y", mu[z], 1.0, observed=RNG.normal(size=shape))
    assert counts(model) == (18, 3)


def test_emissions_of_two_times():
    """What a row reads may overlap with what others read; a latent that all read says nothing."""
    y = RNG.normal(size=9)
    with pm.Model() as model:
        w, mu = pm.Dirichlet("w", np.ones(2)), pm.Normal("mu", shape=2)
        z, c = pm.Categorical("z", w, shape=9), pm.Bernoulli("c", 0.5)
        pm.Normal("x", mu[z] + mu[c], 1.0, observed=y)
        pm.Normal("y", mu[z[1:]] + mu[z[:-1]], 1.0, observed=y[1:])
    assert counts(model) == (9, 1)


def test_rows_of_the_long_format():
    """Each counts, as in lme4 and flexmix, where a latent belongs to many rows."""
    group = np.repeat(np.arange(5), [2, 3, 1, 4, 2])
    with pm.Model() as model:
        w, mu = pm.Dirichlet("w", np.ones(2)), pm.Normal("mu", shape=2)
        z = pm.Categorical("z", w, shape=5)
        pm.Normal("y", mu[z][group], 1.0, observed=RNG.normal(size=12))
        pm.Poisson("of_group", pm.math.exp(mu[z]), observed=RNG.integers(0, 4, 5))
    assert counts(model) == (12, 5)


@pytest.mark.parametrize("split", [False, True])
def test_rows_without_latents(split):
    """In one variable or two."""
    y = RNG.normal(size=12)
    with pm.Model() as model:
        mu = pm.Normal("mu")
        for i, part in enumerate([y[:6], y[6:]] if split else [y]):
            pm.Normal(f"y{i}", mu, 1.0, observed=part)
    assert counts(model) == (12, 12)


# --- distributions whose draws are arrays -------------------------------------------------------------------


def draws():
    """name -> (what is observed of a Normal mu, observations, units)."""
    y = RNG.normal(size=(4, 6))
    counted = RNG.multinomial(9, [0.2, 0.3, 0.5], size=4)
    random_walk = {"init_dist": pm.Normal.dist(0, 1)}
    return {
        "autoregression": (lambda m: pm.AR("y", [m], 1.0, **random_walk, observed=y[0]), 6, 1),
        "autoregressions": (lambda m: pm.AR("y", [m], 1.0, **random_walk, observed=y), 24, 4),
        "vector": (lambda m: pm.MvNormal("y", m * np.ones(6), np.eye(6), observed=y[0]), 6, 1),
        "vectors": (lambda m: pm.MvNormal("y", m * np.ones(6), np.eye(6), observed=y), 4, 4),
        "loop of vectors": (
            lambda m: [pm.MvNormal(f"y{i}", m * np.ones(6), np.eye(6), observed=y[i]) for i in range(4)], 4, 4
        ),
        "matrix": (lambda m: pm.Normal("y", m, 1.0, observed=y), 24, 24),
        "counts": (lambda m: pm.Multinomial("y", 9, pm.math.softmax(pt.stack([m, 0.0, 0.0])), observed=counted), 4, 4),
        "overdispersed counts": (
            lambda m: pm.DirichletMultinomial("y", 9, pm.math.exp(pt.stack([m, 0.0, 0.0])), observed=counted), 4, 4
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(draws()))
def test_draws_that_are_arrays(name):
    """The times of a sequence are rows, the entries of a vector are one, unless it is all there is."""
    build, n_obs, n_units = draws()[name]
    with pm.Model() as model:
        build(pm.Normal("mu"))
    assert counts(model) == (n_obs, n_units)


# --- what is no row -----------------------------------------------------------------------------------------


PENALTIES = {
    "number": lambda b: -(b**2).sum(),
    "by parameter": lambda b: -(b**2),
    "prior": lambda b: pm.logp(pm.Normal.dist(0.0, 2.0), b),
    "loop": lambda b: [-(b[j] ** 2) for j in range(5)],
}


@pytest.mark.parametrize("penalty", list(PENALTIES))
@pytest.mark.parametrize("likelihood", ["observed", "Potential"])
def test_penalties(penalty, likelihood):
    x, y = RNG.normal(size=(20, 5)), RNG.normal(size=20)
    with pm.Model() as model:
        b = pm.Normal("b", shape=5)
        terms = PENALTIES[penalty](b)
        for j, term in enumerate(terms if isinstance(terms, list) else [terms]):
            pm.Potential(f"penalty{j}", term)
        if likelihood == "observed":
            pm.Normal("y", x @ b, 1.0, observed=y)
        else:
            pm.Potential("y", pm.logp(pm.Normal.dist(x @ b, 1.0), y))
    assert counts(model) == (20, 20)


def test_a_likelihood_of_one_number_has_no_rows():
    with pm.Model() as model:
        pm.Potential("y", pm.logp(pm.Normal.dist(pm.Normal("mu"), 1.0), RNG.normal(size=9)).sum())
    n_obs, n_units = counts(model)
    assert np.isnan(n_obs)
    assert n_units == 0


@pytest.mark.parametrize("whole", [True, False])
def test_missing_entries(whole):
    """A row counts where any of it is known."""
    mask = np.zeros((8, 2), dtype=bool)
    mask[[1, 4, 5], :] = True if whole else [True, False]
    with pm.Model() as model:
        w, mu = pm.Dirichlet("w", np.ones(2)), pm.Normal("mu", shape=(2, 2))
        z = pm.Categorical("z", w, shape=8)
        pm.Normal("y", mu[z], 1.0, observed=np.ma.masked_array(RNG.normal(size=(8, 2)), mask))
    n = 5 if whole else 8
    assert counts(model) == (n, n)
