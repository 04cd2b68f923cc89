"""Posterior draws with the states of latents in the order of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pm_mlem.precision import double

if TYPE_CHECKING:
    import xarray as xr

    from pm_mlem.results.fit import Fit

BY = ("responsibilities", "parameters")


@double()
def align(datatree: xr.DataTree, to: Fit, *, by: str = "responsibilities") -> xr.DataTree:
    """Bring the draws of a posterior into the order of a fit's states, each draw by itself.

    The states of a discrete latent have names but no order: a sampler may call "short" what the fit calls "long", and
    exchange the two on the way. Which axes of which parameters go with the states is found from the model, so nothing
    has to be named; parameters that are numbered (``chol_0``, ``chol_1``) count as one.

    Parameters
    ----------
    datatree : xarray.DataTree
        With a ``posterior`` group that has all free parameters of the fit along ``chain`` and ``draw``: from
        ``pm.sample`` (of the model, or of :func:`pm_mlem.marginalize`), ADVI, Pathfinder, ... It is not changed.
    to : Fit
        The reference, a fit of the same model to the same data.
    by : {"responsibilities", "parameters"}
        "responsibilities": states are matched by the observations that they are responsible for, at the parameters of
        each draw [1]_. "parameters": by the squared distance between the parameters of a draw and the estimates, in
        units of their standard errors, the pivotal method of [2]_; faster, and poor where states differ in what the
        standard errors do not measure.

    Returns
    -------
    xarray.DataTree
        In the group ``posterior`` are brought into order: the parameters, draws of the latents themselves,
        Deterministics of the parameters (computed anew), and other variables along a named dim of the states. The new
        group ``alignment`` has, for each latent ``z`` whose states can be exchanged, ``z_margin`` ``(chain, draw)``,
        by how much the order is the right one, between 0 (another would do as well) and 1, and ``z_order``
        ``(chain, draw, z_state)``: which state of the draw became each state. Attributes of both groups:
        ``aligned_by``, ``relabelled`` (how many draws had another order), ``ambiguous`` (how many have a margin below
        0.05), ``smallest_margin``, ``draws``. A group ``unconstrained_posterior`` is left out.

    Raises
    ------
    ValueError
        No ``posterior`` with ``chain`` and ``draw``, parameters that are missing in it or have another shape.
    TypeError
        Something that is no DataTree or no fit.
    NotIdentifiedError
        The order is ambiguous in more than 30 % of the draws.

    Notes
    -----
    Deterministics that depend on a latent are left as they are unless they have a named dim of the states: what they
    say about an observation (``mu[z]``) does not depend on the names of states.

    References
    ----------
    .. [1] Papastamoulis, P. *label.switching: an R package for dealing with the label switching problem in MCMC
       outputs*. J. Stat. Softw. 69 (2016). https://doi.org/10.18637/jss.v069.c01
    .. [2] Marin, J.-M., Mengersen, K. & Robert, C. P. *Bayesian modelling and inference on mixtures of distributions*.
       Handbook of Statistics 25 (2005). https://doi.org/10.1016/S0169-7161(05)25016-2
    .. [3] Stephens, M. *Dealing with label switching in mixture models*. J. R. Statist. Soc. B 62 (2000).
       https://doi.org/10.1111/1467-9868.00265

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_mlem as mlem
    >>> with pm.Model(coords={"kind": ["low", "high"]}) as model:
    ...     mu = pm.Normal("mu", 0, 5, dims="kind", initval=[-2.0, 2.0])
    ...     y = pm.NormalMixture("y", [0.5, 0.5], mu, 1.0, observed=[-2.1, -1.9, -2.0, 2.2, 1.8])
    >>> fit = mlem.fit(model, random_seed=1, progressbar=False)
    >>> tree = fit.to_datatree(draws=10, chains=1, random_seed=1)
    >>> tree["posterior"]["mu"] = -tree["posterior"]["mu"]  # "low" and "high" confused
    >>> aligned = mlem.align(tree, to=fit)
    >>> aligned["alignment"].attrs["relabelled"]
    10
    >>> bool((aligned["posterior"]["mu"].sel(kind="low") < aligned["posterior"]["mu"].sel(kind="high")).all())
    True
    """
    import xarray as xr

    from pm_mlem.arguments import check_choice
    from pm_mlem.results.fit import Fit
    from pm_mlem.results.state_order import SAMPLE, aligned_tree

    if not isinstance(datatree, xr.DataTree):
        raise TypeError(f"datatree must be an xarray.DataTree, not {type(datatree).__name__}.")
    if not isinstance(to, Fit):
        raise TypeError(f"to must be an mlem.Fit, which knows its model, not {type(to).__name__}.")
    check_choice(by, BY, "by")
    if "posterior" not in datatree.children or not set(SAMPLE) <= set(datatree["posterior"].dims):
        raise ValueError("The DataTree has no group 'posterior' with the dims 'chain' and 'draw'.")
    return aligned_tree(datatree, to._estimate, by)
