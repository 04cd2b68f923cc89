"""From a fit to the posterior: NUTS on the model without its latents, and the latents afterwards."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm

from pm_mlem.arguments import checked, flag, names, optional, seed, whole
from pm_mlem.errors import warn
from pm_mlem.precision import double

if TYPE_CHECKING:
    import xarray as xr

    from pm_mlem.estimate.estimate import Estimate
    from pm_mlem.estimate.posterior_mode import PosteriorMode
    from pm_mlem.estimate.target import Target
    from pm_mlem.inference.normal import Normal
    from pm_mlem.results.fit import Fit

log = logging.getLogger("pymc")
STARTS = 64
"""Draws from the normal approximation among which chains pick their starts."""
DENSE = 300
"""Parameters up to which PyMC's NUTS adapts a full metric."""
REFUSED = {
    "model": "the model is the fit's; fit another one",
    "step": "steps belong to the variables of another model; marginalize the model and call pm.sample yourself",
    "trace": "the latents are drawn after sampling; marginalize the model and call pm.sample yourself",
    "return_inferencedata": "the result is a DataTree; leave it out",
}


@checked(draws=whole(1), recover=flag, random_seed=seed)
@double()
def sample(fit: Fit, draws: int = 1000, *, recover: bool = True, random_seed=None, **kwargs) -> xr.DataTree:
    """Draws from the posterior of a fitted model, latents included.

    NUTS samples :func:`pm_mlem.marginalize` of the model from where the fit ended; then every discrete latent is drawn
    exactly from its joint posterior given the parameters, once for each draw of these. Whatever the estimator of the
    fit was, the posterior is that of the whole model with its priors.

    Parameters
    ----------
    fit : Fit
        Its estimates and curvature are where sampling starts; they do not change what is sampled.
    draws : int
        Number of draws in every chain, as in ``pm.sample``.
    recover : bool
        Whether to draw the latents, and the Deterministics that depend on them.
    random_seed : int, optional
        Makes the result reproducible, the latents included.
    **kwargs
        Other arguments of ``pm.sample``: ``tune``, ``chains``, ``cores``, ``target_accept``, ``nuts_sampler``,
        ``progressbar``, ``var_names``, ... ``idata_kwargs={"log_likelihood": True}`` adds the log-likelihood of the
        independent units, latents summed out, as ``az.loo`` needs it. ``initvals`` and PyMC's ``init`` take the place
        of the start from the fit.

    Returns
    -------
    xarray.DataTree
        The groups of ``pm.sample`` with the names, dims and coords of the user's model. ``posterior`` holds parameters,
        latents (integers; the component of an observed mixture ``y`` is called ``y_component``) and Deterministics, at
        the latents that were drawn. ``latent_posterior`` holds the probabilities of the states, ``p(z = k | y)``,
        averaged over the draws, so with less noise than the shares of the draws have; last dimension ``<z>_state``.
        Parameters that the fit holds with ``fixed=`` are in ``constant_data``. The attributes of ``posterior`` say
        where the chains started (``start``), what is ``fixed``, and which variables are ``left_out``.

    Raises
    ------
    TypeError
        Not a fit.
    ValueError
        A fit with ``weights=``, an argument of ``pm.sample`` that has no place here, a name in ``var_names`` that there
        is not.
    UnsupportedModelError
        As :func:`pm_mlem.marginalize`.

    Warns
    -----
    UserWarning
        No mode of the posterior is near the fit; counts without an upper bound reach the largest that is enumerated.

    Notes
    -----
    *Start.* From the fit a few Newton steps lead to the mode of the posterior density of the unconstrained parameters
    (with its Jacobian, as in :meth:`Fit.laplace`). Chains start at draws from the normal distribution with the
    curvature there, so about one standard deviation from the mode, each at its own. All chains start at the same mode:
    R-hat compares them with each other and says nothing about modes where none of them has been. Start from several
    fits, or with ``initvals=``, to look for these. Where there is no such mode, from a fit that did not converge for
    instance, chains start around the fit, with unit scale in directions in which the posterior does not bend; a warning
    says so.

    *Sampler.* As ``pm.sample`` decides: nutpie where it is installed, PyMC's NUTS otherwise. nutpie is given the
    starts; it takes no metric from outside, but makes its first one of the gradients there. PyMC's NUTS is given the
    starts and the inverse curvature as first metric, dense for up to 300 parameters, and adapts it; its chains run one
    after the other, because JAX's threads do not survive a fork (``cores=4, mp_ctx="spawn"`` runs them side by side, in
    a script that is guarded by ``if __name__ == "__main__"``). NumPyro and BlackJAX are given the starts.

    *What is held* with ``fixed=`` is conditioned on: the posterior is that given the held values, single entries
    included.

    *Missing data.* Missing entries of observed variables are drawn: labels that other data depend on like latents,
    others from their distribution given everything else.

    *Time and memory.* Drawing the latents takes about as long as one gradient for each draw. They are worked on draw by
    draw; the result has one integer for every latent and draw. ``recover=False`` leaves them out.

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_mlem as mlem
    >>> rng = np.random.default_rng(1)
    >>> with pm.Model() as model:
    ...     p = pm.Beta("p", 1, 1)
    ...     z = pm.Bernoulli("z", p, shape=30)
    ...     y = pm.Normal("y", 4 * z, 1, observed=rng.normal(4 * rng.integers(0, 2, 30), 1))
    >>> fit = mlem.fit(model, progressbar=False)
    >>> tree = mlem.sample(fit, 50, tune=50, chains=2, cores=1, random_seed=1, progressbar=False)
    >>> tree["posterior"]["z"].sizes["z_dim_0"]
    30
    """
    from pm_mlem.estimate.posterior_mode import check_posterior
    from pm_mlem.results.fit import Fit

    if not isinstance(fit, Fit):
        raise TypeError(f"fit must be what mlem.fit returns, not {type(fit).__name__}: mlem.sample(mlem.fit(model)).")
    estimate = fit._estimate
    check_posterior(estimate)
    check_arguments(kwargs)
    kwargs, pointwise = without_log_likelihood(kwargs)
    wanted = optional(names)(kwargs.pop("var_names", None), "var_names")
    rng = pm.util.get_random_generator(random_seed)
    model = conditioned(estimate.target)
    check_names(estimate, model, wanted, recover)
    where, sampler = "", kwargs.get("nuts_sampler") or chosen_sampler(kwargs)
    kwargs["nuts_sampler"] = sampler
    if sampler == "pymc":
        kwargs.setdefault("cores", 1)  # JAX's threads do not survive a fork
    if kwargs.get("initvals") is None and kwargs.get("init", "auto") == "auto":
        kwargs, where = started(estimate, model, kwargs, rng)
    tree = pm.sample(draws, model=model, random_seed=int(rng.integers(2**30)), **kwargs)
    return completed(estimate, tree, int(rng.integers(2**31)), recover, pointwise, wanted, where)


# --- arguments --------------------------------------------------------------------------------------------


def check_arguments(kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments of ``pm.sample`` that have no place here.

    Raises
    ------
    ValueError
    """
    for name, why in REFUSED.items():
        if name in kwargs and not (name == "return_inferencedata" and kwargs[name]):
            raise ValueError(f"{name}= does not belong to mlem.sample: {why}.")


def without_log_likelihood(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The arguments without the request for log-likelihoods, and whether there was one."""
    kwargs = dict(kwargs)
    options = dict(kwargs.pop("idata_kwargs", None) or {})
    pointwise = bool(options.pop("log_likelihood", False))
    return {**kwargs, "idata_kwargs": options} if options else kwargs, pointwise


def check_names(estimate: Estimate, model: pm.Model, wanted, recover: bool) -> None:
    """Refuse names of variables that there are not.

    Raises
    ------
    ValueError
    """
    from pm_mlem.estimate.labels import unknown

    latents = list(estimate.target.readout.latent_names) if recover else []
    derived = estimate.target.model.deterministics if recover else model.deterministics
    known = list(dict.fromkeys([*[v.name for v in model.free_RVs], *latents, *[v.name for v in derived]]))
    for name in wanted or ():
        if name not in known:
            raise ValueError(unknown(name, known, "var_names"))


# --- the model and where it is started --------------------------------------------------------------------


def conditioned(target: Target) -> pm.Model:
    """The model without its latents, given what is held."""
    from pm_mlem.graph.marginal.model import marginal_model

    target = target.sibling("map")  # read from what its data are in by now
    model = marginal_model(target.source, target.tables)
    held = {name: np.asarray(value) for name, value in target.structure.fixed.items()}
    return pm.observe(model, held) if held else model


def started(estimate: Estimate, model: pm.Model, kwargs: dict[str, Any], rng) -> tuple[dict[str, Any], str]:
    """The arguments of ``pm.sample`` with the start from the fit, and where that is, in words."""
    from pm_mlem.estimate.posterior_mode import posterior_mode

    found = estimate.kept(posterior_mode)
    if found.reason:
        where = f"around the fit: {found.reason}"
        warn(f"Chains start {where}. Check the warm-up, or start elsewhere with initvals=.")
    else:
        where = "at draws from the normal approximation of the posterior at its mode near the fit"
    kwargs = {**kwargs, "initvals": initial_values(estimate, found, rng)}
    sampler = kwargs["nuts_sampler"]
    if sampler == "nutpie":  # no jitter beside that of the starts
        kwargs["compile_kwargs"] = {"jitter_rvs": set(), **(kwargs.get("compile_kwargs") or {})}
    elif sampler == "pymc":
        kwargs = with_metric(estimate, model, found.normal, kwargs)
    else:
        kwargs["nuts"] = {"jitter": False, **(kwargs.get("nuts") or {})}
    return kwargs, where


def chosen_sampler(kwargs: Mapping[str, Any]) -> str:
    """Which sampler ``pm.sample`` takes where the user names none."""
    from pymc.pytensorf import resolve_backend_compile_kwargs
    from pymc.sampling import mcmc
    from pytensor.compile.mode import get_mode

    options = resolve_backend_compile_kwargs(kwargs.get("backend"), kwargs.get("compile_kwargs"))
    fast = isinstance(get_mode(options.get("mode")).linker, mcmc.NumbaLinker | mcmc.JAXLinker)
    usable = mcmc.NUTPIE_INSTALLED and mcmc._nutpie_meets_min_version()
    return "nutpie" if usable and fast and kwargs.get("callback") is None else "pymc"


def initial_values(estimate: Estimate, mode: PosteriorMode, rng: np.random.Generator) -> dict[str, Any]:
    """Initial values (constrained space) as random variables, so that every chain draws its own from its seed."""
    import pytensor.tensor as pt

    if not estimate.target.space.names:
        return {}
    points = mode.normal.draws(STARTS, rng)
    for _ in range(6):  # a normal distribution may reach where the density is 0
        bad = ~np.isfinite(mode.log_density(points))
        if not bad.any():
            break
        points[bad] = mode.normal.mean + 0.5 * (points[bad] - mode.normal.mean)
    index = pm.DiscreteUniform.dist(0, STARTS - 1)
    return {name: pt.constant(values)[index] for name, values in estimate.target.constrained(points).items()}


def with_metric(estimate: Estimate, model: pm.Model, normal: Normal, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments with a step of PyMC's NUTS that has the inverse curvature as its first metric."""
    from pymc.pytensorf import resolve_backend_compile_kwargs

    kwargs = dict(kwargs)
    options = dict(kwargs.pop("nuts", None) or {})
    if "target_accept" in kwargs:
        options.setdefault("target_accept", kwargs.pop("target_accept"))
    compiled = resolve_backend_compile_kwargs(kwargs.get("backend"), kwargs.get("compile_kwargs"))
    if not {"potential", "scaling"} & set(options):
        options["potential"] = potential(*in_order(estimate, model, normal))
    with model:
        kwargs["step"] = pm.NUTS(**options, compile_kwargs=compiled)
    return kwargs


def in_order(estimate: Estimate, model: pm.Model, normal: Normal) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance in the order of the model's own unconstrained variables.

    Variables that the fit does not know, missing data, have unit variance.
    """
    slices = estimate.target.space.slices
    point = model.initial_point()
    where, mean = [], []
    for variable in model.continuous_value_vars:
        name, value = model.values_to_rvs[variable].name, np.ravel(point[variable.name])
        own = np.arange(slices[name].start, slices[name].stop) if name in slices else np.full(value.size, -1)
        where.append(own)
        mean.append(normal.mean[own] if name in slices else value)
    index = np.concatenate(where)
    covariance = np.eye(len(index))
    known = np.flatnonzero(index >= 0)
    covariance[np.ix_(known, known)] = normal.covariance[np.ix_(index[known], index[known])]
    return np.concatenate(mean), covariance


def potential(mean: np.ndarray, covariance: np.ndarray):
    """A metric of PyMC's NUTS that starts at a covariance and adapts."""
    from pymc.step_methods.hmc.quadpotential import QuadPotentialDiagAdapt, QuadPotentialFullAdapt

    n = len(mean)
    if n > DENSE:
        return QuadPotentialDiagAdapt(n, mean, np.diag(covariance).copy(), 10)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="QuadPotentialFullAdapt is an experimental feature")
        return QuadPotentialFullAdapt(n, mean, covariance, 10)


# --- what is returned -------------------------------------------------------------------------------------


def completed(
    estimate: Estimate, tree: xr.DataTree, seed: int, recover: bool, pointwise: bool, wanted, where: str
) -> xr.DataTree:
    """The draws of the parameters with everything that follows from them, under the names of the user's model."""
    import xarray as xr

    from pm_mlem.results import recovery

    structure, model = estimate.target.structure, estimate.target.model
    posterior, groups, left_out = tree["posterior"].to_dataset(), {}, []
    if recover or pointwise:
        everything, groups, left_out = recovery.extended(estimate, posterior, seed, pointwise)
        posterior = everything if recover else posterior
    if not recover:
        groups.pop("latent_posterior", None)
        known = {*posterior.data_vars, *structure.fixed}
        left_out = [v.name for v in [*model.free_RVs, *model.deterministics] if v.name not in known]
    names = recovery.in_model_order(estimate, [str(n) for n in posterior.data_vars])
    posterior = posterior[[n for n in names if wanted is None or n in wanted]]
    notes = {"start": where, "fixed": ", ".join(structure.fixed), "left_out": ", ".join(left_out)}
    groups["posterior"] = posterior.assign_attrs({k: v for k, v in notes.items() if v})
    for name in ("observed_data", "constant_data"):  # those of the marginal model
        if name in tree.children:
            del tree[name]
    for name, dataset in {**groups, **recovery.data_of(estimate)}.items():
        tree[name] = xr.DataTree(dataset)
    return tree
