"""Models with discrete latents in every spelling that users write, small enough to enumerate.

Each builder runs inside a model context and returns ``{latent: (shape, states)}``.
"""

import warnings
from functools import lru_cache, wraps

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode

N = 4
RNG = np.random.default_rng(3)
Y = RNG.normal(size=N)
POSITIVE = RNG.gamma(2.0, 1.0, N)
COUNTS = RNG.poisson(2.0, N)
BINARY = np.array([0, 1, 1, 0])
DESIGN = RNG.normal(size=(N, 2))
POINTS = RNG.normal(size=(N, 2))
GROUP = np.array([0, 1, 1, 0, 2, 2])
LONG = RNG.normal(size=6)

STRUCTURES = {}
BEGINNING = RNG.bit_generator.state


def structure(function):
    @wraps(function)
    def same_data_whatever_was_built_before():
        RNG.bit_generator.state = BEGINNING
        return function()

    STRUCTURES[function.__name__] = same_data_whatever_was_built_before
    return function


def states(k):
    return list(range(k))


def labels(k=2, shape=N, name="z"):
    w = pm.Dirichlet(f"w_{name}", np.arange(2.0, 2.0 + k))
    z = pm.Categorical(name, w, shape=shape)
    return z, {name: ((shape,) if isinstance(shape, int) else shape, states(k))}


def means(k=2, *rest, name="mu"):
    size = int(np.prod((k, *rest)))
    return pm.Normal(name, 0, 2, shape=(k, *rest), initval=np.linspace(-1, 1, size).reshape(k, *rest))


def positive(k=2, name="sd"):
    return pm.Gamma(name, 2, 2, shape=k, initval=np.linspace(0.6, 1.4, k))


# --- 1. independent plates --------------------------------------------------------------------------------


@structure
def normal():
    z, domains = labels()
    pm.Normal("y", means()[z], positive()[z], observed=Y)
    return domains


@structure
def mvnormal_own_chol():
    z, domains = labels()
    packed = [
        pm.LKJCholeskyCov(f"chol_{k}", n=2, eta=2, sd_dist=pm.HalfNormal.dist(1.0), compute_corr=False)
        for k in range(2)
    ]
    chol = pt.stack([pm.expand_packed_triangular(2, p) for p in packed])
    pm.MvNormal("y", means(2, 2)[z], chol=chol[z], observed=POINTS)
    return domains


@structure
def mvnormal_shared_cov():
    z, domains = labels()
    chol, _, _ = pm.LKJCholeskyCov("chol", n=2, eta=2, sd_dist=pm.HalfNormal.dist(1.0))
    pm.MvNormal("y", means(2, 2)[z], cov=chol @ chol.T, observed=POINTS)
    return domains


@structure
def student_t():
    z, domains = labels()
    pm.StudentT("y", nu=positive(name="nu")[z] + 2, mu=means()[z], sigma=1.0, observed=Y)
    return domains


@structure
def gamma():
    z, domains = labels()
    pm.Gamma("y", positive(name="shape")[z], positive(name="rate")[z], observed=POSITIVE)
    return domains


@structure
def poisson():
    z, domains = labels(3)
    pm.Poisson("y", positive(3, name="rate")[z], observed=COUNTS)
    return domains


@structure
def negative_binomial():
    z, domains = labels()
    pm.NegativeBinomial("y", mu=positive(name="m")[z], alpha=positive(name="alpha")[z], observed=COUNTS)
    return domains


@structure
def binomial():
    z, domains = labels()
    pm.Binomial("y", n=8, p=pm.Beta("p", 2, 2, shape=2, initval=[0.2, 0.7])[z], observed=COUNTS)
    return domains


@structure
def bernoulli():
    z, domains = labels()
    pm.Bernoulli("y", logit_p=means()[z], observed=BINARY)
    return domains


@structure
def categorical():
    z, domains = labels()
    p = pm.Dirichlet("p", np.ones((2, 3)), initval=np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]))
    pm.Categorical("y", p[z], observed=np.array([0, 2, 1, 1]))
    return domains


@structure
def multinomial():
    z, domains = labels()
    p = pm.Dirichlet("p", np.ones((2, 3)), initval=np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]))
    pm.Multinomial("y", n=5, p=p[z], observed=np.array([[1, 2, 2], [0, 4, 1], [5, 0, 0], [2, 2, 1]]))
    return domains


@structure
def dirichlet():
    z, domains = labels()
    a = pm.Gamma("a", 2, 1, shape=(2, 3), initval=np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 1.0]]))
    pm.Dirichlet("y", a[z], observed=np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8]]))
    return domains


@structure
def von_mises():
    z, domains = labels()
    pm.VonMises("y", mu=means()[z], kappa=positive(name="kappa")[z], observed=Y)
    return domains


@structure
def censored():
    z, domains = labels()
    pm.Censored("y", pm.Normal.dist(means()[z], 1.0), lower=None, upper=0.5, observed=np.minimum(Y, 0.5))
    return domains


@structure
def truncated():
    z, domains = labels()
    pm.Truncated("y", pm.Normal.dist(means()[z], 1.0), lower=0.0, upper=None, observed=POSITIVE)
    return domains


@structure
def custom_dist():
    z, domains = labels()

    def logp(value, mu):
        return -pt.abs(value - mu) - np.log(2.0)

    pm.CustomDist("y", means()[z], logp=logp, observed=Y)
    return domains


@structure
def ordered():
    z, domains = labels()
    cuts = pm.Normal("cuts", 0, 2, shape=2, transform=pm.distributions.transforms.ordered, initval=[-0.5, 0.8])
    pm.OrderedLogistic("y", eta=means()[z], cutpoints=cuts, observed=np.array([0, 2, 1, 1]), compute_p=False)
    return domains


@structure
def softmax_emission():
    z, domains = labels()
    logits = means(2, 3)
    pm.Categorical("y", pm.math.softmax(logits[z], axis=-1), observed=np.array([0, 2, 1, 1]))
    return domains


@structure
def regression_by_sum():
    z, domains = labels()
    pm.Normal("y", (DESIGN * means(2, 2)[z]).sum(-1), 0.7, observed=Y)
    return domains


@structure
def regression_by_rows():
    z, domains = labels()
    pm.Normal("y", (DESIGN @ means(2, 2).T)[np.arange(N), z], 0.7, observed=Y)
    return domains


@structure
def regression_by_intercept():
    z, domains = labels()
    pm.Normal("y", means()[z] + DESIGN @ pm.Normal("b", shape=2, initval=[0.3, -0.4]), 0.7, observed=Y)
    return domains


@structure
def regression_by_einsum():
    z, domains = labels()
    pm.Normal("y", pt.einsum("ij,ij->i", DESIGN, means(2, 2)[z]), 0.7, observed=Y)
    return domains


@structure
def one_hot():
    z, domains = labels()
    pm.Normal("y", pt.eye(2)[z] @ means(), 0.7, observed=Y)
    return domains


@structure
def one_hot_by_comparison():
    z, domains = labels()
    pm.Normal("y", (pt.eq(z[:, None], np.arange(2)) * means()).sum(-1), 0.7, observed=Y)
    return domains


@structure
def covariate_weights():
    gamma = pm.Normal("gamma", shape=(2, 3), initval=np.array([[0.1, 0.2, 0.3], [-0.5, 0.5, 0.0]]))
    z = pm.Categorical("z", logit_p=DESIGN @ gamma, shape=N)
    pm.Normal("y", means(3)[z], 0.7, observed=Y)
    return {"z": ((N,), states(3))}


@structure
def ordered_logistic_latent():
    cuts = pm.Normal("cuts", 0, 2, shape=2, transform=pm.distributions.transforms.ordered, initval=[-0.5, 0.8])
    z = pm.OrderedLogistic("z", eta=DESIGN[:, 0], cutpoints=cuts, compute_p=False)
    pm.Normal("y", means(3)[z], 0.7, observed=Y)
    return {"z": ((N,), states(3))}


@structure
def latent_class():
    z, domains = labels()
    p = pm.Beta("p", 1, 1, shape=(2, 3), initval=np.array([[0.2, 0.3, 0.4], [0.9, 0.6, 0.7]]))
    pm.Bernoulli("y", p[z], observed=RNG.integers(0, 2, (N, 3)))
    return domains


@structure
def latent_class_by_columns():
    z, domains = labels()
    p = pm.Beta("p", 1, 1, shape=(2, 3), initval=np.array([[0.2, 0.3, 0.4], [0.9, 0.6, 0.7]]))
    for j in range(3):
        pm.Bernoulli(f"y{j}", p[z, j], observed=RNG.integers(0, 2, N))
    return domains


@structure
def latent_matrix():
    z, domains = labels(shape=(3, 2))
    pm.Normal("y", means()[z], 0.7, observed=RNG.normal(size=(3, 2)))
    return domains


@structure
def column_parameters():
    z, domains = labels(shape=(3, 2))
    pm.Normal("y", means(2, 2)[z, np.arange(2)], 0.7, observed=RNG.normal(size=(3, 2)))
    return domains


@structure
def column_weights():
    w = pm.Dirichlet("w", np.ones((2, 2)), initval=np.array([[0.3, 0.7], [0.6, 0.4]]))
    z = pm.Categorical("z", w, shape=(3, 2))
    pm.Normal("y", means()[z], 0.7, observed=RNG.normal(size=(3, 2)))
    return {"z": ((3, 2), states(2))}


@structure
def occupancy():
    z, domains = labels(shape=3)
    p = pm.Beta("p", 2, 2)
    pm.Bernoulli("y", p * z[:, None], observed=np.array([[0, 1], [0, 0], [1, 1]]))
    return domains


@structure
def structural_zeros():
    psi, rate = pm.Beta("psi", 2, 2), pm.Gamma("rate", 2, 1)
    z = pm.Bernoulli("z", psi, shape=N)
    pm.Poisson("y", rate * (1 - z), observed=np.array([0, 0, 3, 1]))
    return {"z": ((N,), states(2))}


@structure
def structural_zeros_by_switch():
    psi, rate = pm.Beta("psi", 2, 2), pm.Gamma("rate", 2, 1)
    z = pm.Bernoulli("z", psi, shape=N)
    pm.Poisson("y", pt.switch(z, 0.0, rate), observed=np.array([0, 0, 3, 1]))
    return {"z": ((N,), states(2))}


# --- 2. several latents -----------------------------------------------------------------------------------


@structure
def nested():
    c, first = labels(shape=3, name="c")
    P = pm.Dirichlet("P", np.ones((2, 2)), initval=np.array([[0.3, 0.7], [0.8, 0.2]]))
    z = pm.Categorical("z", P[c], shape=3)
    pm.Normal("y", means()[z], 0.7, observed=Y[:3])
    return first | {"z": ((3,), states(2))}


@structure
def nested_plates():
    c, first = labels(shape=2, name="c")
    P = pm.Dirichlet("P", np.ones((2, 2)), initval=np.array([[0.3, 0.7], [0.8, 0.2]]))
    z = pm.Categorical("z", P[c][:, None, :], shape=(2, 3))
    pm.Normal("y", means()[z], 0.7, observed=RNG.normal(size=(2, 3)))
    return first | {"z": ((2, 3), states(2))}


@structure
def two_latents_indexed_together():
    a, first = labels(2, 3, "a")
    b, second = labels(3, 3, "b")
    pm.Normal("y", means(2, 3)[a, b], 0.7, observed=Y[:3])
    return first | second


@structure
def two_latents_added():
    a, first = labels(2, 3, "a")
    b, second = labels(2, 3, "b")
    pm.Normal("y", means(name="ma")[a] + means(name="mb")[b], 0.7, observed=Y[:3])
    return first | second


@structure
def latents_on_different_plates():
    a, first = labels(2, 2, "a")
    b, second = labels(2, (2, 2), "b")
    pm.Normal("y", means(2, 2)[a[:, None], b], 0.7, observed=RNG.normal(size=(2, 2)))
    return first | second


@structure
def rows_and_columns():
    a, first = labels(2, 3, "a")
    b, second = labels(2, 2, "b")
    pm.Normal("y", means(2, 2)[a[:, None], b[None, :]], 0.7, observed=RNG.normal(size=(3, 2)))
    return first | second


@structure
def change_point():
    tau = pm.DiscreteUniform("tau", 0, N)
    mu = means()
    pm.Normal("y", pt.switch(np.arange(N) < tau, mu[0], mu[1]), 0.7, observed=Y)
    return {"tau": ((), list(range(N + 1)))}


@structure
def class_of_the_whole_data_set():
    c = pm.Categorical("c", pm.Dirichlet("w", np.ones(3)))
    pm.Normal("y", means(3)[c], 0.7, observed=Y)
    return {"c": ((), states(3))}


@structure
def class_with_matrix_product():
    c = pm.Categorical("c", pm.Dirichlet("w", np.ones(2)))
    pm.Normal("y", DESIGN @ means(2, 2)[c], 0.7, observed=Y)
    return {"c": ((), states(2))}


@structure
def spike_and_slab():
    z, domains = labels(shape=2)
    pm.Normal("y", DESIGN @ (z * pm.Normal("b", shape=2, initval=[0.5, -1.0])), 0.7, observed=Y)
    return domains


@structure
def sum_of_labels():
    z, domains = labels(shape=5)
    pm.Normal("y", z.sum() * pm.Normal("b", initval=0.4), 0.7, observed=1.5)
    return domains


@structure
def spike_and_slab_with_exchangeable_data():
    """The lengths of pm.Data are not part of the graph."""
    z, domains = labels(shape=2)
    effect = pm.Data("x", DESIGN) @ (z * pm.Normal("b", shape=2, initval=[0.5, -1.0]))
    pm.Normal("y", effect, 0.7, observed=pm.Data("observed", Y))
    return domains


@structure
def three_latents_and_exchangeable_data():
    a, first = labels(2, 2, "a")
    b, second = labels(2, 2, "b")
    c, third = labels(2, 2, "c")
    x = pm.Data("x", DESIGN[:2])
    mean = (x * means(2, 2)[a]).sum(-1) + means(name="mb")[b] * x[:, 0] + means(name="mc")[c]
    pm.Normal("y", mean, 0.7, observed=pm.Data("observed", Y[:2]))
    return first | second | third


@structure
def attribute_profiles():
    """Each person has two attributes; an item needs both: the axis of attributes is enumerated jointly."""
    a = pm.Bernoulli("a", pm.Beta("p", 2, 2, shape=2, initval=[0.4, 0.7]), shape=(3, 2))
    slip = pm.Beta("slip", 2, 8)
    pm.Bernoulli("y", pt.switch(a.sum(axis=1) >= 2, 1 - slip, slip), observed=np.array([0, 1, 1]))
    return {"a": ((3, 2), states(2))}


@structure
def two_dependents():
    z, domains = labels()
    pm.Normal("y", means()[z], 0.7, observed=Y)
    pm.Poisson("k", positive(name="rate")[z], observed=COUNTS)
    return domains


@structure
def identical_data_twice():
    z, domains = labels()
    mu = means()
    pm.Normal("y1", mu[z], 0.7, observed=Y)
    pm.Normal("y2", mu[z] + 1, 0.9, observed=Y)
    return domains


# --- 3. indexing ------------------------------------------------------------------------------------------


@structure
def long_format():
    z, domains = labels(shape=3)
    pm.Normal("y", means()[z[GROUP]], 0.7, observed=LONG)
    return domains


@structure
def long_format_after():
    z, domains = labels(shape=3)
    pm.Normal("y", means()[z][GROUP], 0.7, observed=LONG)
    return domains


@structure
def nested_long_format():
    c, first = labels(shape=2, name="c")
    P = pm.Dirichlet("P", np.ones((2, 2)), initval=np.array([[0.3, 0.7], [0.8, 0.2]]))
    z = pm.Categorical("z", P[c[np.array([0, 1, 1])]], shape=3)
    pm.Normal("y", means()[z], 0.7, observed=Y[:3])
    return first | {"z": ((3,), states(2))}


@structure
def slices():
    z, domains = labels()
    pm.Normal("y", means()[z[1:]] - means(name="m2")[z[1:]], 0.7, observed=Y[1:])
    pm.Normal("first", means(name="m3")[z[0]], 0.7, observed=0.3)
    return domains


@structure
def neighbours():
    z, domains = labels()
    pm.Normal("y", means(2, 2)[z[:-1], z[1:]], 0.7, observed=Y[1:])
    return domains


@structure
def reversed_and_permuted():
    z, domains = labels()
    mu = means()
    pm.Normal("y", mu[z[::-1]] + 0.5 * mu[z[np.array([3, 2, 1, 0])]], 0.7, observed=Y)
    return domains


@structure
def masked_rows():
    z, domains = labels()
    mask = np.array([True, False, True, True])
    pm.Normal("y", means()[z[mask]], 0.7, observed=Y[mask])
    return domains


@structure
def stacked():
    a, first = labels(2, 2, "a")
    b, second = labels(2, 2, "b")
    pm.Normal("y", means()[pt.concatenate([a, b])], 0.7, observed=Y)
    return first | second


@structure
def stacked_scalars():
    p = pm.Beta("p", 2, 3)
    z = [pm.Bernoulli(f"z{i}", p) for i in range(3)]
    pm.Normal("y", means()[pt.stack(z)], 0.7, observed=Y[:3])
    return {f"z{i}": ((), states(2)) for i in range(3)}


@structure
def reshaped():
    z, domains = labels()
    pm.Normal("y", means()[z.reshape((2, 2))], 0.7, observed=Y.reshape(2, 2))
    return domains


@structure
def labels_selected_by_labels():
    """The class of an observation is the class of its cluster."""
    cluster, first = labels(3, 2, "cluster")
    kind, second = labels(2, 3, "kind")
    pm.Normal("y", means()[kind[cluster]], 0.7, observed=Y[:2])
    return first | second


@structure
def expressions_selected_by_a_label():
    z, domains = labels(shape=3)
    c, others = labels(shape=3, name="c")
    mu = means()
    which = pt.stack([mu[z], 0.3 * mu[z[::-1]]])
    pm.Normal("y", which[c, np.arange(3)], 0.7, observed=Y[:3])
    return domains | others


@structure
def weights_by_observed_labels():
    """PyMC lists observed variables after all free ones."""
    k = pm.Categorical("k", pm.Dirichlet("w", np.ones(2)), observed=np.array([0, 1, 1, 0]))
    P = pm.Dirichlet("P", np.ones((2, 2)), initval=np.array([[0.3, 0.7], [0.8, 0.2]]))
    z = pm.Categorical("z", P[k], shape=4)
    pm.Normal("y", means()[z], 0.7, observed=Y)
    return {"z": ((4,), states(2))}


@structure
def neighbours_of_a_plate_that_coincide():
    """Each element of a reads two elements of b, some of them the same one twice."""
    b, first = labels(shape=2, name="b")
    P = pm.Dirichlet("P", np.ones((2, 2)), initval=np.array([[0.3, 0.7], [0.8, 0.2]]))
    a = pm.Categorical("a", P[b], shape=2)
    pm.Normal("y", means(2, 2)[a, b[1]], 0.7, observed=Y[:2])
    pm.Normal("x", means(2, 2, name="m2")[b, b[::-1]], 0.7, observed=Y[2:4])
    return first | {"a": ((2,), states(2))}


@structure
def impossible_states_at_some_places():
    """A table without rows of its own, -inf in a state, that only some elements read."""
    z, domains = labels(shape=4)
    mu = means()
    pm.Normal("y", mu[z[:-1]] + mu[z[1:]], 0.7, observed=Y[1:])
    pm.Poisson("k", pm.Gamma("rate", 2, 1) * z[:2] * z[1:3], observed=np.array([1, 2]))
    pm.Bernoulli("b", 1.0 * z[2], observed=1)
    return domains


@structure
def set_subtensor():
    z, domains = labels()
    pm.Normal("y", means()[pt.set_subtensor(z[0], 1)], 0.7, observed=Y)
    return domains


@structure
def known_and_unknown_joined():
    z, domains = labels(shape=2)
    full = pt.concatenate([z, np.array([1, 0])])
    pm.Normal("y", means()[full], 0.7, observed=Y)
    return domains


@structure
def deterministics_between():
    z, domains = labels()
    m = pm.Deterministic("m", means()[z])
    s = pm.Deterministic("s", pt.exp(0.3 * m))
    pm.Normal("y", pm.Deterministic("twice", 2 * m), s, observed=Y)
    return domains


@structure
def potential_on_latents():
    z, domains = labels()
    pm.Normal("y", means()[z], 0.7, observed=Y)
    pm.Potential("field", 0.5 * z)
    return domains


@structure
def potential_only():
    z, domains = labels()
    mu = means()
    pm.Potential("likelihood", -0.5 * (Y - mu[z]) ** 2)
    return domains


@structure
def potential_with_logp():
    z, domains = labels()
    pm.Potential("likelihood", pm.logp(pm.Normal.dist(means()[z], 0.7), Y).sum())
    return domains


@structure
def potential_of_neighbours():
    z, domains = labels()
    J = pm.Normal("J", initval=0.4)
    pm.Potential("coupling", J * (z[:-1] * z[1:]).sum())
    pm.Normal("y", means()[z], 0.7, observed=Y)
    return domains


@structure
def potential_sum_of_parts():
    a, first = labels(2, 3, "a")
    b, second = labels(2, 3, "b")
    mu = means()
    pm.Potential("all", (mu[a] * Y[:3]).sum() - 0.5 * (mu[b] ** 2).sum() + 3.0)
    return first | second


# --- 4. incomplete data -----------------------------------------------------------------------------------


def masked(values, mask):
    return np.ma.masked_array(values, mask=mask)


@structure
def partly_observed_labels():
    w = pm.Dirichlet("w", [2.0, 3.0])
    z = pm.Categorical("z", w, observed=masked([0, 1, 0, 1], [False, True, True, False]))
    pm.Normal("y", means()[z], 0.7, observed=Y)
    return {"z_unobserved": ((2,), states(2))}


@structure
def missing_emissions():
    z, domains = labels()
    pm.Normal("y", means()[z], 0.7, observed=masked(Y, [False, True, False, False]))
    return domains


@structure
def missing_discrete_leaves():
    z, domains = labels(shape=3)
    p = pm.Beta("p", 1, 1, shape=2, initval=[0.2, 0.7])
    pm.Bernoulli("y", p[z], observed=masked([1, 0, 1], [False, True, False]))
    return domains | {"y_unobserved": ((1,), states(2))}


@structure
def labels_and_emissions_missing():
    w = pm.Dirichlet("w", [2.0, 3.0])
    z = pm.Categorical("z", w, observed=masked([0, 1, 0, 1], [False, True, True, False]))
    pm.Normal("y", means()[z], 0.7, observed=masked(Y, [True, True, False, False]))
    return {"z_unobserved": ((2,), states(2))}


@structure
def missing_discrete_covariate():
    p = pm.Beta("p", 2, 2)
    x = pm.Bernoulli("x", p, observed=masked([0, 1, 0, 1], [False, True, True, False]))
    pm.Normal("y", pm.Normal("a", initval=0.1) + pm.Normal("b", initval=0.5) * x, 0.7, observed=Y)
    return {"x_unobserved": ((2,), states(2))}


# --- 5. chains --------------------------------------------------------------------------------------------


def transition(name="P", k=2, batch=()):
    values = np.array([[0.7, 0.3], [0.2, 0.8]]) if k == 2 else np.full((k, k), 1 / k) + 0.1 * np.eye(k) - 0.1 / k
    return pm.Dirichlet(name, np.ones((*batch, k, k)), initval=np.broadcast_to(values, (*batch, k, k)).copy())


def markov(name, P, shape, init=None, **options):
    pytest.importorskip("pymc_extras")
    from pymc_extras.distributions import DiscreteMarkovChain

    init = pm.Categorical.dist(p=np.array([0.4, 0.6])) if init is None else init
    return DiscreteMarkovChain(name, P=P, init_dist=init, shape=shape, **options)


@structure
def hidden_markov():
    pi = pm.Dirichlet("pi", [2.0, 3.0])
    z = markov("z", transition(), (5,), pm.Categorical.dist(p=pi))
    pm.Normal("y", means()[z], 0.7, observed=RNG.normal(size=5))
    return {"z": ((5,), states(2))}


@structure
def hidden_markov_batched():
    z = markov("z", transition(), (2, 4))
    pm.Normal("y", means()[z], 0.7, observed=RNG.normal(size=(2, 4)))
    return {"z": ((2, 4), states(2))}


@structure
def hidden_markov_own_matrices():
    P = pm.Dirichlet("P", np.ones((2, 2, 2)), initval=RNG.dirichlet([1, 1], size=(2, 2)))
    z = markov("z", P, (2, 4))
    pm.Normal("y", means()[z], 0.7, observed=RNG.normal(size=(2, 4)))
    return {"z": ((2, 4), states(2))}


@structure
def hidden_markov_two_lags():
    P = pm.Dirichlet("P", np.ones((2, 2, 2)), initval=RNG.dirichlet([1, 1], size=(2, 2)))
    z = markov("z", P, (6,), n_lags=2)
    pm.Normal("y", means()[z], 0.7, observed=RNG.normal(size=6))
    return {"z": ((6,), states(2))}


@structure
def hidden_markov_time_varying():
    P = pm.Dirichlet("P", np.ones((4, 2, 2)), initval=RNG.dirichlet([1, 1], size=(4, 2)))
    z = markov("z", P, (5,), time_varying_P=True)
    pm.Normal("y", means()[z], 0.7, observed=RNG.normal(size=5))
    return {"z": ((5,), states(2))}


@structure
def hidden_markov_missing_emissions():
    z = markov("z", transition(), (5,))
    pm.Normal("y", means()[z], 0.7, observed=masked(RNG.normal(size=5), [False, False, True, False, True]))
    return {"z": ((5,), states(2))}


@structure
def hidden_markov_observed_at_some_times():
    z = markov("z", transition(), (6,))
    pm.Normal("y", means()[z[np.array([0, 2, 2, 5])]], 0.7, observed=Y)
    return {"z": ((6,), states(2))}


@structure
def chain_of_scalars():
    P = transition()
    z = [pm.Categorical("z0", [0.4, 0.6])]
    for t in range(1, 5):
        z.append(pm.Categorical(f"z{t}", P[z[-1]]))
    mu = means()
    for t in range(5):
        pm.Normal(f"y{t}", mu[z[t]], 0.7, observed=0.3 * t - 0.5)
    return {f"z{t}": ((), states(2)) for t in range(5)}


@structure
def chain_of_scalars_joint_emission():
    P = transition()
    z = [pm.Categorical("z0", [0.4, 0.6])]
    for t in range(1, 5):
        z.append(pm.Categorical(f"z{t}", P[z[-1]]))
    pm.Normal("y", means()[pt.stack(z)], 0.7, observed=RNG.normal(size=5))
    return {f"z{t}": ((), states(2)) for t in range(5)}


@structure
def chain_of_vectors():
    P = transition()
    z = [pm.Categorical("z0", [0.4, 0.6], shape=2)]
    for t in range(1, 4):
        z.append(pm.Categorical(f"z{t}", P[z[-1]], shape=2))
    mu = means()
    for t in range(4):
        pm.Normal(f"y{t}", mu[z[t]], 0.7, observed=RNG.normal(size=2))
    return {f"z{t}": ((2,), states(2)) for t in range(4)}


@structure
def ragged_sequences():
    """Two sequences of lengths 3 and 2 in long format, coupled by a Potential."""
    z, domains = labels(shape=5)
    log_p = pt.log(transition())
    before, after = np.array([0, 1, 3]), np.array([1, 2, 4])
    pm.Potential("steps", log_p[z[before], z[after]])
    pm.Normal("y", means()[z], 0.7, observed=RNG.normal(size=5))
    return domains


@structure
def mixture_of_hidden_markov():
    c, first = labels(shape=2, name="c")
    P = pm.Dirichlet("P", np.ones((2, 2, 2)), initval=RNG.dirichlet([1, 1], size=(2, 2)))
    z = markov("z", P[c], (2, 4))
    pm.Normal("y", means(2, 2)[c[:, None], z], 0.7, observed=RNG.normal(size=(2, 4)))
    return first | {"z": ((2, 4), states(2))}


@structure
def hidden_markov_with_iid_latent():
    z = markov("z", transition(), (4,))
    u, second = labels(shape=4, name="u")
    pm.Normal("y", means(2, 2)[z, u], 0.7, observed=RNG.normal(size=4))
    return {"z": ((4,), states(2))} | second


@structure
def factorial_hidden_markov():
    a = markov("a", transition("P"), (4,))
    b = markov("b", transition("Q"), (4,))
    pm.Normal("y", means(name="ma")[a] + means(name="mb")[b], 0.7, observed=RNG.normal(size=4))
    return {"a": ((4,), states(2)), "b": ((4,), states(2))}


@structure
def chains_that_one_label_makes_impossible():
    """Given on = 0 no sequence of states can produce the counts."""
    on = pm.Bernoulli("on", pm.Beta("p", 2, 2))
    z, domains = labels(shape=4)
    pm.Potential("steps", pt.log(transition())[z[:-1], z[1:]])
    pm.Poisson("y", pm.Gamma("rate", 2, 1) * (1 + z) * on, observed=np.array([1, 2, 0, 1]))
    return domains | {"on": ((), states(2))}


@structure
def tree():
    P = transition()
    parent = np.array([0, 0, 1, 1, 2])
    root = pm.Categorical("root", [0.4, 0.6])
    nodes = [root]
    for i, p in enumerate(parent):
        nodes.append(pm.Categorical(f"n{i}", P[nodes[p]]))
    mu = means()
    for i, node in enumerate(nodes):
        pm.Normal(f"y{i}", mu[node], 0.7, observed=0.2 * i - 0.4)
    return {"root": ((), states(2))} | {f"n{i}": ((), states(2)) for i in range(5)}


@structure
def tree_by_parent_index():
    z, domains = labels(shape=6)
    J = pm.Normal("J", initval=0.5)
    pm.Potential("edges", J * pt.eq(z[np.array([0, 0, 1, 1, 2])], z[np.array([1, 2, 3, 4, 5])]))
    pm.Normal("y", means()[z], 0.7, observed=LONG)
    return domains


@structure
def four_cycle():
    z, domains = labels()
    J = pm.Normal("J", initval=0.5)
    pm.Potential("edges", J * z * z[np.array([1, 2, 3, 0])])
    pm.Normal("y", means()[z], 0.7, observed=Y)
    return domains


@structure
def block_model():
    z, domains = labels(shape=4)
    B = pm.Beta("B", 2, 2, shape=(2, 2), initval=np.array([[0.7, 0.2], [0.3, 0.6]]))
    edges = RNG.integers(0, 2, (4, 4))
    pm.Bernoulli("edge", B[z[:, None], z[None, :]], observed=edges)
    return domains


@structure
def loops_in_every_group():
    """Many small loopy graphs of one shape."""
    z, domains = labels(shape=(3, 3))
    J = pm.Normal("J", initval=0.5)
    pm.Potential("edges", J * z * z[:, np.array([1, 2, 0])])
    pm.Normal("y", means()[z], 0.7, observed=RNG.normal(size=(3, 3)))
    return domains


# --- python loops: terms with the same graph ---------------------------------------------------------------


def transitions(k=2, *rest):
    return pm.Dirichlet("P", np.ones((*rest, k, k)), initval=np.full((*rest, k, k), 0.4 / k) + 0.6 * np.eye(k))


@structure
def loop_of_scalars():
    P, mu = transitions(), means()
    z = pm.Categorical("z0", [0.3, 0.7])
    pm.Normal("y0", mu[z], 0.8, observed=0.3)
    for t in range(1, 7):
        z = pm.Categorical(f"z{t}", P[z])
        pm.Normal(f"y{t}", mu[z], 0.8, observed=LONG[t - 1])
    return {f"z{t}": ((), states(2)) for t in range(7)}


@structure
def loop_of_vectors():
    P, mu = transitions(), means()
    z = pm.Categorical("z0", [0.3, 0.7], shape=2)
    pm.Normal("y0", mu[z], 0.8, observed=Y[:2])
    for t in range(1, 5):
        z = pm.Categorical(f"z{t}", P[z], shape=2)
        pm.Normal(f"y{t}", mu[z], 0.8, observed=LONG[t - 1 : t + 1])
    return {f"z{t}": ((2,), states(2)) for t in range(5)}


@structure
def loop_with_covariates():
    """Transition matrices and covariates of their own at each step, a missing emission, the observation before."""
    P, mu, b = transitions(2, 7), means(), pm.Normal("b", shape=2, initval=[0.3, -0.2])
    design = np.random.default_rng(5).normal(size=(7, 2))
    z = pm.Categorical("z0", [0.3, 0.7])
    y = pm.Normal("y0", mu[z] + design[0] @ b, 0.8, observed=0.3)
    for t in range(1, 7):
        z = pm.Categorical(f"z{t}", P[t, z])
        y = pm.Normal(f"y{t}", mu[z] + 0.3 * y + design[t] @ b, 0.5 + 0.1 * t, observed=LONG[t - 1])
    return {f"z{t}": ((), states(2)) for t in range(7)}


@structure
def loop_under_a_class():
    """A mixture of chains written as loops over persons and times."""
    P, mu = transitions(2, 2), means(2)
    domains = {}
    for i in range(2):
        c = pm.Categorical(f"c{i}", [0.4, 0.6])
        z = pm.Categorical(f"z{i}_0", [0.5, 0.5])
        domains |= {f"c{i}": ((), states(2)), f"z{i}_0": ((), states(2))}
        for t in range(1, 3):
            z = pm.Categorical(f"z{i}_{t}", P[c, z])
            domains[f"z{i}_{t}"] = ((), states(2))
            pm.Normal(f"y{i}_{t}", mu[z] + 0.5 * c, 0.8, observed=LONG[i + t])
    return domains


@structure
def loop_of_chains_of_different_lengths():
    """Chains that a loop declares one by one, with a second latent beside each."""
    P, mu, domains = transition(), means(2, 2), {}
    for j, n in enumerate([4, 3]):
        z = markov(f"z{j}", P, (n,))
        c = pm.Bernoulli(f"c{j}", 0.3)
        pm.Normal(f"y{j}", mu[z, c], 0.7, observed=RNG.normal(size=n))
        domains |= {f"z{j}": ((n,), states(2)), f"c{j}": ((), states(2))}
    return domains


@structure
def loop_of_potentials():
    mu, w = means(3), pm.Normal("w", initval=0.4)
    z = [pm.DiscreteUniform(f"z{t}", 0, 2) for t in range(5)]
    for t in range(5):
        pm.Normal(f"y{t}", mu[z[t]], 0.8, observed=LONG[t])
    for t in range(4):
        pm.Potential(f"tie{t}", w * pt.eq(z[t], z[t + 1]) * (1 + 0.1 * t))
    return {f"z{t}": ((), states(3)) for t in range(5)}


# --- what tests take ---------------------------------------------------------------------------------------

DIVERSE = [
    "normal", "mvnormal_shared_cov", "truncated", "latent_class", "structural_zeros", "nested_plates",
    "two_dependents", "identical_data_twice", "spike_and_slab", "long_format", "known_and_unknown_joined",
    "potential_on_latents", "potential_only", "partly_observed_labels", "labels_and_emissions_missing", "hidden_markov",
    "mixture_of_hidden_markov", "chain_of_scalars", "four_cycle",
]  # fmt: skip
"""A few with every kind of kernel and every strategy of elimination among them: these are compiled in every run."""

SINGLE = {"truncated", "multinomial", "change_point", "loop_of_potentials"}
"""PyMC evaluates the constants of these in single precision."""


def build(name):
    """A model and the states of its latents."""
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC announces imputation
        domains = STRUCTURES[name]()
    return model, domains


@lru_cache(maxsize=4)
def built(name):
    """As :func:`build`, the same model for all tests of a structure: its engine is compiled once (see ``COMPILED``)."""
    return build(name)


COMPILED = [pytest.param(name, marks=[pytest.mark.slow] * (name not in DIVERSE)) for name in STRUCTURES]
"""All structures for tests that compile: the diverse ones in every run, the others in the studies."""


def near_start(model):
    """Values of the free parameters (constrained space) at a point near the initial one."""
    rng = np.random.default_rng(1)
    point = {k: v + 0.1 * rng.normal(size=np.shape(v)) for k, v in model.initial_point().items()}
    free = [rv for rv in model.free_RVs if rv.dtype.startswith("float")]
    values = []
    for rv in free:
        transform, value = model.rvs_to_transforms[rv], model.rvs_to_values[rv]
        values.append(value if transform is None else transform.backward(value, *rv.owner.inputs))
    mode = Mode("py", None)
    found = model.compile_fn(values, inputs=model.value_vars, mode=mode, on_unused_input="ignore")(point)
    return dict(zip([rv.name for rv in free], found, strict=True))
