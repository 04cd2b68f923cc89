"""Models with known answers: the table that every method is run on.

Answers come from closed forms or from a few lines of NumPy and SciPy that share nothing with the package.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from scipy.special import expit, gammaln, logsumexp


@dataclass(frozen=True)
class ZooModel:
    """A model, its maximum-likelihood estimates (components in the model's own order) and its log-likelihood."""

    name: str
    build: Callable[[], pm.Model]
    answers: Mapping[str, object]
    log_likelihood: float | None = None
    latent: bool = False
    fit: Mapping[str, object] = field(default_factory=dict)


ZOO: dict[str, ZooModel] = {}
RNG = np.random.default_rng(20261122)


def animal(name, answers, **options):
    def register(build):
        ZOO[name] = ZooModel(name, build, answers, **options)
        return build

    return register


def normal_logpdf(y, mu, sd):
    return -0.5 * ((y - mu) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)


# --- no latents -------------------------------------------------------------------------------------------


@animal("coin", {"p": 0.6}, log_likelihood=60 * np.log(0.6) + 40 * np.log(0.4))
def coin():
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Bernoulli("flips", p, observed=np.repeat([1, 0], [60, 40]))
    return model


Y = RNG.normal(3, 2, 50)


@animal(
    "normal",
    {"mu": Y.mean(), "sigma": Y.std(), "cv": Y.std() / Y.mean()},
    log_likelihood=normal_logpdf(Y, Y.mean(), Y.std()).sum(),
)
def normal():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10)
        sigma = pm.HalfNormal("sigma", 10)
        pm.Deterministic("cv", sigma / mu)
        pm.Normal("y", mu, sigma, observed=Y)
    return model


X = np.column_stack([np.ones(60), RNG.normal(size=(60, 2))])
TARGET = X @ [1.0, 2.0, -0.5] + RNG.normal(0, 0.7, 60)
BETA = np.linalg.lstsq(X, TARGET, rcond=None)[0]
RESIDUAL_SD = np.sqrt(np.mean((TARGET - X @ BETA) ** 2))


@animal("linear_regression", {"beta": BETA, "sigma": RESIDUAL_SD})
def linear_regression():
    with pm.Model(coords={"term": ["one", "x1", "x2"]}) as model:
        beta = pm.Normal("beta", 0, 10, dims="term")
        sigma = pm.Exponential("sigma", 1)
        pm.Normal("y", X @ beta, sigma, observed=TARGET)
    return model


CLICKS = (RNG.random(200) < expit(0.4 + 1.2 * (Z := RNG.normal(size=200)))).astype(int)


def logistic_estimates():
    design, beta = np.column_stack([np.ones(200), Z]), np.zeros(2)
    for _ in range(30):
        p = expit(design @ beta)
        beta = beta + np.linalg.solve((design * (p * (1 - p))[:, None]).T @ design, design.T @ (CLICKS - p))
    return beta


@animal("logistic_regression", {"a": logistic_estimates()[0], "b": logistic_estimates()[1]})
def logistic_regression():
    with pm.Model() as model:
        a, b = pm.Normal("a", 0, 5), pm.Normal("b", 0, 5)
        z = pm.Data("z", Z)
        pm.Bernoulli("clicks", logit_p=a + b * z, observed=CLICKS)
    return model


COUNTS = RNG.poisson([3.0, 8.0], size=(40, 2))


@animal("poisson_groups", {"rate": COUNTS.mean(axis=0)})
def poisson_groups():
    with pm.Model(coords={"group": ["a", "b"], "day": range(40)}) as model:
        rate = pm.Gamma("rate", 2, 0.5, dims="group")
        pm.Poisson("counts", rate, observed=COUNTS, dims=("day", "group"))
    return model


DICE = RNG.integers(0, 4, 90)


@animal("categorical", {"p": np.bincount(DICE, minlength=4) / 90})
def categorical():
    with pm.Model() as model:
        p = pm.Dirichlet("p", np.ones(4))
        pm.Categorical("die", p, observed=DICE)
    return model


POINTS = RNG.multivariate_normal([1, -1], [[2.0, 0.8], [0.8, 1.0]], size=80)


@animal("mvnormal_lkj", {"mean": POINTS.mean(axis=0), "cov": np.cov(POINTS.T, bias=True)})
def mvnormal_lkj():
    with pm.Model() as model:
        mean = pm.Normal("mean", 0, 5, shape=2)
        chol, _, _ = pm.LKJCholeskyCov("chol", n=2, eta=2, sd_dist=pm.HalfNormal.dist(2.0))
        pm.Deterministic("cov", chol @ chol.T)
        pm.MvNormal("x", mean, chol=chol, observed=POINTS)
    return model


WAITS = RNG.exponential(4.0, 70)


@animal("exponential_interval", {"rate": 1 / WAITS.mean()})
def exponential_interval():
    """A parameter with two bounds (interval transform)."""
    with pm.Model() as model:
        rate = pm.Uniform("rate", 0.01, 5)
        pm.Exponential("waits", rate, observed=WAITS)
    return model


SCORES = np.repeat(np.arange(4), [20, 35, 30, 15])


@animal("ordered_cutpoints", {"cuts": np.log((c := np.cumsum([20, 35, 30])) / (100 - c))})
def ordered_cutpoints():
    """An ordered transform; the cutpoints are the logits of the cumulative frequencies."""
    with pm.Model() as model:
        cuts = pm.Normal("cuts", 0, 5, transform=pm.distributions.transforms.ordered, initval=[-1.0, 0.0, 1.0], shape=3)
        pm.OrderedLogistic("score", eta=0.0, cutpoints=cuts, observed=SCORES, compute_p=False)
    return model


@animal("potential", {"mu": Y.mean()})
def potential():
    """The likelihood written as a Potential."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10)
        pm.Potential("loglike", -0.5 * (Y - mu) ** 2)
    return model


HIDDEN = np.ma.masked_array(Y, mask=np.arange(50) < 5)


@animal("missing_leaf", {"mu": HIDDEN.mean(), "sigma": HIDDEN.std()})
def missing_leaf():
    """Missing observations that nothing else depends on integrate to one."""
    import warnings

    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC announces the imputation
        mu, sigma = pm.Normal("mu", 0, 10), pm.HalfNormal("sigma", 10)
        pm.Normal("y", mu, sigma, observed=HIDDEN)
    return model


LABELS = (RNG.random(60) < 0.35).astype(int)
LABELLED = RNG.normal(np.array([0.0, 4.0])[LABELS], 1.0)


@animal(
    "labelled_classes",
    {
        "w": [1 - LABELS.mean(), LABELS.mean()],
        "mu": [LABELLED[LABELS == k].mean() for k in (0, 1)],
        "sigma": [LABELLED[LABELS == k].std() for k in (0, 1)],
    },
)
def labelled_classes():
    """The complete-data problem: the labels of a mixture are observed."""
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        mu = pm.Normal("mu", 0, 5, shape=2)
        sigma = pm.HalfNormal("sigma", 5, shape=2)
        z = pm.Categorical("z", w, observed=LABELS)
        pm.Normal("y", mu[z], sigma[z], observed=LABELLED)
    return model


# --- latents ----------------------------------------------------------------------------------------------


def em(log_density, maximise, parameters, iterations=4000):
    """A plain EM in NumPy: ``log_density(parameters)`` is (N, K), ``maximise(r)`` returns parameters."""
    for _ in range(iterations):
        joint = log_density(parameters)
        r = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        parameters = maximise(r)
    return parameters, float(logsumexp(log_density(parameters), axis=1).sum())


MIXED = np.concatenate([RNG.normal(-2, 0.8, 70), RNG.normal(2, 1.2, 110)])


def normal_mixture_answer():
    def density(p):
        return np.log(p[0]) + normal_logpdf(MIXED[:, None], p[1], p[2])

    def maximise(r):
        n = r.sum(axis=0)
        mu = (r * MIXED[:, None]).sum(axis=0) / n
        return n / n.sum(), mu, np.sqrt((r * (MIXED[:, None] - mu) ** 2).sum(axis=0) / n)

    (w, mu, sigma), value = em(density, maximise, (np.array([0.5, 0.5]), np.array([-1.0, 1.0]), np.ones(2)))
    return {"w": w, "mu": mu, "sigma": sigma}, value


NORMAL_MIXTURE, NORMAL_MIXTURE_VALUE = normal_mixture_answer()


@animal("normal_mixture", NORMAL_MIXTURE, log_likelihood=NORMAL_MIXTURE_VALUE, latent=True)
def normal_mixture():
    with pm.Model(coords={"k": ["low", "high"]}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="k")
        mu = pm.Normal("mu", 0, 5, initval=[-1.0, 1.0], dims="k")
        sigma = pm.HalfNormal("sigma", 5, dims="k")
        z = pm.Categorical("z", w, shape=len(MIXED))
        pm.Deterministic("centre", mu[z])
        pm.Normal("y", mu[z], sigma[z], observed=MIXED)
    return model


@animal("normal_mixture_precision", NORMAL_MIXTURE, log_likelihood=NORMAL_MIXTURE_VALUE, latent=True)
def normal_mixture_precision():
    """No closed form for the precision: a Newton step."""
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Deterministic("w", pt.stack([1 - p, p]))
        mu = pm.Normal("mu", 0, 5, initval=[-1.0, 1.0], shape=2)
        tau = pm.Gamma("tau", 2, 2, shape=2)
        pm.Deterministic("sigma", tau**-0.5)
        z = pm.Bernoulli("z", p, shape=len(MIXED))
        pm.Normal("y", mu[z], tau=tau[z], observed=MIXED)
    return model


ITEMS = (RNG.random((150, 4)) < np.where(RNG.random(150) < 0.4, 0.85, 0.2)[:, None]).astype(int)


def latent_class_answer():
    def density(p):
        w, q = p
        return np.log(w) + ITEMS @ np.log(q.T) + (1 - ITEMS) @ np.log1p(-q.T)

    def maximise(r):
        n = r.sum(axis=0)
        return n / n.sum(), (r.T @ ITEMS) / n[:, None]

    (w, q), value = em(density, maximise, (np.array([0.5, 0.5]), np.array([[0.3] * 4, [0.7] * 4])))
    return {"w": w, "q": q}, value


LATENT_CLASS, LATENT_CLASS_VALUE = latent_class_answer()


@animal("latent_class", LATENT_CLASS, log_likelihood=LATENT_CLASS_VALUE, latent=True)
def latent_class():
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(2))
        q = pm.Beta("q", 1, 1, initval=np.array([[0.3] * 4, [0.7] * 4]), shape=(2, 4))
        z = pm.Categorical("z", w, shape=len(ITEMS))
        pm.Bernoulli("answer", q[z], observed=ITEMS)
    return model


ZEROS = np.where(RNG.random(200) < 0.3, 0, RNG.poisson(3.0, 200))


def zero_inflated_answer():
    def density(p):
        psi, rate = p
        return np.column_stack(
            [
                np.where(ZEROS == 0, np.log(psi), -np.inf),
                np.log1p(-psi) + ZEROS * np.log(rate) - rate - gammaln(ZEROS + 1),
            ]
        )

    def maximise(r):
        return r[:, 0].mean(), (r[:, 1] * ZEROS).sum() / r[:, 1].sum()

    (psi, rate), value = em(density, maximise, (0.5, 2.0))
    return {"psi": psi, "rate": rate}, value


ZERO_INFLATED, ZERO_INFLATED_VALUE = zero_inflated_answer()


@animal("zero_inflated", ZERO_INFLATED, log_likelihood=ZERO_INFLATED_VALUE, latent=True)
def zero_inflated():
    """Structural zeros written out with a Bernoulli; log(0) enters the tables."""
    with pm.Model() as model:
        psi = pm.Beta("psi", 1, 1)
        rate = pm.Gamma("rate", 2, 1)
        structural = pm.Bernoulli("structural", psi, shape=len(ZEROS))
        pm.Poisson("count", rate * (1 - structural), observed=ZEROS)
    return model
