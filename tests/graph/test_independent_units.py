"""Units of the data: labels and what they explain belong together, so that labels do not change their number."""

import warnings

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import pm_mlem as mlem
from pm_mlem.graph.read import read
from pm_mlem.graph.tables.known_labels import independent_units, known_labels
from structures import STRUCTURES, build

N = 40
RNG = np.random.default_rng(2)
STATES = RNG.choice(2, N)
Y = RNG.normal(3.0 * STATES, 1.0)
SHARES = [0.0, 0.05, 0.5, 0.975, 1.0]


def fit(model, **options):
    return mlem.fit(model, starts=1, random_seed=0, progressbar=False, **options)


def hidden(unknown):
    """The states with the first ones unknown."""
    if np.all(unknown):
        return None
    return np.ma.masked_array(STATES, unknown) if np.any(unknown) else STATES


def mixture(share):
    with pm.Model(coords={"row": range(N)}) as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC announces imputation
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[0.0, 3.0])
        z = pm.Categorical("z", w, observed=hidden(np.arange(N) >= share * N), dims="row")
        pm.Normal("y", mu[z], 1.0, observed=Y, dims="row")
    return model


@pytest.mark.compiled
@pytest.mark.parametrize("share", SHARES)
def test_a_unit_for_each_row_whatever_is_known(share):
    found = fit(mixture(share))
    assert found.n_obs == found.n_units == N
    assert found.bic == pytest.approx(3 * np.log(N) - 2 * found.log_likelihood)
    [(name, units)] = found.pointwise_log_likelihood.items()
    assert name == {0.0: "y", 1.0: "z+y"}.get(share, "z_observed+y")
    assert units.dims == ("row",)
    w, mu = found.estimates["w"].values, found.estimates["mu"].values
    joint = np.log(w) - 0.5 * (Y[:, None] - mu) ** 2 - 0.5 * np.log(2 * np.pi)
    known = np.arange(N) < share * N
    expected = np.where(known, joint[np.arange(N), STATES], np.logaddexp(joint[:, 0], joint[:, 1]))
    np.testing.assert_allclose(units, expected, atol=1e-9)


@pytest.mark.compiled
@pytest.mark.parametrize("share", SHARES)
def test_weights_count_rows(share):
    weights = RNG.integers(0, 3, N)
    found = fit(mixture(share), weights=weights)
    assert found.n_obs == found.n_units == weights.sum()
    assert float(found.pointwise_log_likelihood.to_array().sum()) == pytest.approx(found.log_likelihood)


@pytest.mark.compiled
def test_labels_and_rows_are_resampled_together():
    """Scores of a label and of what it explains belong to one unit; so the rows as clusters say nothing new."""
    found = fit(mixture(0.5))
    rows = np.arange(N)
    for name, errors in found.standard_errors("sandwich").data_vars.items():
        np.testing.assert_allclose(errors, found.standard_errors("sandwich", cluster=rows)[name], rtol=1e-10)
    each, by_row = (found.bootstrap(4, random_seed=1, unit=u, progressbar=False) for u in (None, rows))
    np.testing.assert_allclose(each.estimates["mu"], by_row.estimates["mu"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("known", [[], [3], [0, 5, 11], list(range(12))])
def test_sequences_stay_units(known):
    """A loop over time for three sequences at once: known states split their log-likelihood, not the sequences."""
    steps = 12
    path = RNG.choice(2, (steps, 3))
    y = RNG.normal(3.0 * path, 1.0)
    with pm.Model() as model:
        p = pm.Dirichlet("p", np.ones((2, 2)))
        mu = pm.Normal("mu", 0, 5, shape=2, initval=[0.0, 3.0])
        z = []
        for t in range(steps):
            options = {"observed": path[t]} if t in known else {"shape": 3}
            z.append(pm.Categorical(f"z{t}", p[z[-1]] if z else [0.5, 0.5], **options))
        pm.Normal("y", mu[pt.stack(z)], 1.0, observed=y)
    found = fit(model)
    assert (found.n_units, found.n_obs) == (3, 3 * steps)
    [units] = found.pointwise_log_likelihood.values()
    assert units.shape == (3,)
    assert float(units.sum()) == pytest.approx(found.log_likelihood)


@pytest.mark.compiled
def test_rows_that_share_a_label_are_one():
    group = np.arange(N) // 4
    kind = RNG.choice(2, N // 4)
    with pm.Model() as model:
        z = pm.Bernoulli("z", pm.Beta("p", 1, 1), observed=kind)
        pm.Normal("y", pm.Normal("mu", 0, 5, shape=2)[z[group]], 1.0, observed=Y)
    found = fit(model)
    assert (found.n_units, found.n_obs) == (N // 4, N)
    assert found.pointwise_log_likelihood["z+y"].sizes == {"z_dim_0": N // 4}


@pytest.mark.compiled
def test_classes_and_items_of_one_distribution():
    """Latent classes that are known: items are Bernoulli as the classes are, and explained by them."""
    answers = RNG.integers(0, 2, (N, 3))
    with pm.Model() as model:
        z = pm.Bernoulli("z", pm.Beta("p", 1, 1), observed=STATES)
        pm.Bernoulli("answer", pm.Beta("q", 1, 1, shape=(2, 3))[z], observed=answers)
    assert fit(model).n_obs == N


@pytest.mark.compiled
def test_models_without_labels_stay_as_they_are():
    with pm.Model() as two:
        a = pm.Normal("a", 0, 5)
        x = pm.Normal("x", a, 1.0, observed=Y)
        pm.Normal("y", a + 0.5 * x, 1.0, observed=Y[::-1].copy())
        pm.Bernoulli("b", pm.Beta("p", 1, 1), observed=STATES)
    assert fit(two).n_units == 3 * N
    with pm.Model() as chain:
        p = pm.Dirichlet("p", np.ones((2, 2)))
        z = [pm.Categorical("z0", [0.5, 0.5], observed=STATES[0])]
        for t in range(1, 10):
            z.append(pm.Categorical(f"z{t}", p[z[-1]], observed=STATES[t]))
    assert fit(chain).n_units == 10


APART = {
    "labels_selected_by_labels", "expressions_selected_by_a_label",  # which element is read is known then
    "spike_and_slab", "sum_of_labels", "spike_and_slab_with_exchangeable_data", "attribute_profiles",  # mixed
    "potential_with_logp", "potential_sum_of_parts", "potential_of_neighbours",  # one number
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in STRUCTURES if n not in APART])
def test_known_latents_leave_the_number_of_units(name):
    """Every structure with its latents observed at some state has as many units as with the latents summed out."""
    model, _ = build(name)
    tables = read(model)
    latents = [i for i in tables.structure.latents if i.mixture is None]
    if {type(i.rv.owner.op).__name__ for i in latents} - {"CategoricalRV", "BernoulliRV"}:
        pytest.skip("its latents are no labels")
    for rv in model.free_RVs:
        model.rvs_to_initial_values[rv] = None  # pm.observe refuses others
    values = {model[i.name]: RNG.integers(i.lower, i.lower + i.states, size=i.shape) for i in latents}
    known = read(pm.observe(model, values))
    assert known_labels(known.structure)
    expected, found = (np.unique(independent_units(t)).size for t in (tables, known))
    assert found == expected
