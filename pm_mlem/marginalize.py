"""A PyMC model with its discrete latents summed out."""

from __future__ import annotations

from collections.abc import Sequence

import pymc as pm

from pm_mlem.arguments import checked, current_model, optional, some_names


@checked(latents=optional(some_names))
def marginalize(model: pm.Model | None = None, *, latents: Sequence[str] | None = None) -> pm.Model:
    """The same model with every discrete latent summed out exactly, ready for ``pm.sample``.

    The new model has the parameters of the old one with their names, dims, coords, transforms and initial values, and
    the exact marginal log-likelihood. NUTS can sample it, and ``pm.compute_log_likelihood`` gives one value for every
    independent unit, as cross-validation needs. The old model is not modified.

    Parameters
    ----------
    model : pm.Model, optional
        Default: the model on the context stack.
    latents : sequence of str, optional
        Continuous free variables to integrate out, as in :func:`pm_mlem.fit`.

    Returns
    -------
    pm.Model
        A copy without changes (but see the notes on data) if there are no discrete latents.

    Raises
    ------
    ValueError
        No model, no data, NaN in the data, unknown names, as :func:`pm_mlem.fit`.
    UnsupportedModelError
        A latent that cannot be summed out, or that chooses the prior of a parameter and enters the likelihood as well;
        the message names it.

    Notes
    -----
    *Observed variables* that depend on no latent stay as they are. One that does keeps its name, data and dims; its
    log-likelihood has one entry for each independent unit: for the rows of the data if each has its own latent, for
    each person if all answers of a person share one, for each sequence of a hidden Markov model. The dims are left out
    where the units are not the leading rows. Several observed variables that share latents become one, named
    ``a+b``, with their values side by side along a last axis (end to end if their shapes differ): their joint density
    is no sum over variables. Draws from it, for ``pm.sample_posterior_predictive``, draw the latents too.

    *Potentials* that depend on a latent join its observed variables; where there are none, a Potential of the same name
    remains. *Deterministics* that depend on a latent are left out, and so are missing entries of observed variables
    that do. For latent probabilities at a point see ``Fit.latent_probabilities``.

    *Parameters whose prior a latent chooses* (``b ~ Normal(0, sd[z])``, spike and slab) have a mixture as their prior.
    Where several share a latent, their joint density is that of the last one; draws of
    ``pm.sample_prior_predictive`` are right for each of them, but not jointly.

    *Data and dims* are constants of the new model: call ``marginalize`` again after ``pm.set_data`` on the old one.

    *Counts* without an upper bound are enumerated up to a bound that is negligible at the model's initial point; give
    them a bound, with ``pm.DiscreteUniform`` or ``pm.Binomial``, where the sampler may leave that region.

    Models written with ``pymc.dims`` become models of ordinary tensors with the same names, dims and coords.

    Initial values that are numbers become the support points of the distributions, because PyMC refuses to transform
    (and to compute log-likelihoods of) models with ``initval=``.

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_mlem as mlem
    >>> with pm.Model(coords={"kind": ["short", "long"]}) as model:
    ...     w = pm.Dirichlet("w", [1.0, 1.0], dims="kind")
    ...     mu = pm.Normal("mu", 70, 20, dims="kind", initval=[55.0, 80.0])
    ...     z = pm.Categorical("z", w, shape=3)
    ...     y = pm.Normal("y", mu[z], 6.0, observed=[54.0, 79.0, 83.0])
    >>> marginal = mlem.marginalize(model)
    >>> [rv.name for rv in marginal.free_RVs]
    ['w', 'mu']
    >>> by_row = marginal.compile_fn(marginal.logp(vars=[marginal["y"]], sum=False))
    >>> np.round(by_row(marginal.initial_point())[0], 3)
    array([-3.418, -3.417, -3.529])
    """
    from pm_mlem.graph.marginal.model import marginal_model
    from pm_mlem.graph.read import read
    from pm_mlem.graph.roles.choices import Choices
    from pm_mlem.graph.roles.dims import plain

    model = plain(current_model(model))
    return marginal_model(model, read(model, Choices(tuple(latents or ()), with_prior=True)))
