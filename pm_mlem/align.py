"""Posterior draws with the states of latents in the order of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pm_mlem.precision import double

if TYPE_CHECKING:
    import xarray as xr

    from pm_mlem.estimate.alignment import Alignment
    from pm_mlem.estimate.estimate import Estimate
    from pm_mlem.objective.space import ParameterSpace
    from pm_mlem.results.fit import Fit

BY = ("responsibilities", "parameters")
SAMPLE = ("chain", "draw")


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
    from pm_mlem.estimate.alignment import align as match
    from pm_mlem.results.fit import Fit

    if not isinstance(datatree, xr.DataTree):
        raise TypeError(f"datatree must be an xarray.DataTree, not {type(datatree).__name__}.")
    if not isinstance(to, Fit):
        raise TypeError(f"to must be an mlem.Fit, which knows its model, not {type(to).__name__}.")
    check_choice(by, BY, "by")
    if "posterior" not in datatree.children or not set(SAMPLE) <= set(datatree["posterior"].dims):
        raise ValueError("The DataTree has no group 'posterior' with the dims 'chain' and 'draw'.")
    posterior = datatree["posterior"].to_dataset()
    estimate = to._estimate
    draws = flat_draws(estimate.target.space, posterior)
    found = match(estimate, draws, by)
    check_order(found, len(next(iter(draws.values()), ())))
    report = summary(found, posterior, by)
    attributes = report.attrs
    groups = {k: v for k, v in datatree.to_dict().items() if not k.startswith("/unconstrained_posterior")}
    groups["/posterior"] = reordered(estimate, found, draws, posterior).assign_attrs({**posterior.attrs, **attributes})
    groups["/alignment"] = report
    tree = xr.DataTree.from_dict(groups, name=datatree.name)
    tree.attrs.update(datatree.attrs)
    return tree


def flat_draws(space: ParameterSpace, posterior: xr.Dataset) -> dict[str, np.ndarray]:
    """Constrained values of the free parameters, ``(chains * draws, *shape)``."""
    draws = {}
    for name in space.names:
        if name not in posterior:
            raise ValueError(
                f"The posterior has no '{name}', a parameter of the fit; draws can be aligned with fits of the same "
                "model only."
            )
        array = posterior[name].transpose(*SAMPLE, ...).values
        if array.shape[2:] != space.shapes[name]:
            raise ValueError(
                f"'{name}' has shape {array.shape[2:]} in the posterior and {space.shapes[name]} in the fit; draws can "
                "be aligned with fits of the same model only."
            )
        draws[name] = array.reshape(-1, *array.shape[2:])
    return draws


def check_order(found: Alignment, n: int) -> None:
    """Refuse draws whose states cannot be told apart."""
    from pm_mlem.errors import NotIdentifiedError
    from pm_mlem.results.bootstrap import AMBIGUOUS, MOST_AMBIGUOUS

    for symmetry, margins in zip(found.symmetries, found.margins, strict=True):
        doubtful = int(np.sum(~(margins >= AMBIGUOUS)))
        if doubtful > MOST_AMBIGUOUS * n:
            raise NotIdentifiedError(
                f"The states of '{symmetry.latents[0]}' cannot be told apart in {doubtful} of {n} draws, so the "
                "parameters of single states have no posterior of their own. Use fewer states, priors or a transform "
                "that order them, or align by other means (by='parameters', by='responsibilities'); quantities that "
                "do not depend on the names of states need no alignment."
            )


def summary(found: Alignment, posterior: xr.Dataset, by: str) -> xr.Dataset:
    """The group ``alignment``."""
    import xarray as xr

    from pm_mlem.results.bootstrap import AMBIGUOUS

    sizes = tuple(posterior.sizes[d] for d in SAMPLE)
    n, arrays = int(np.prod(sizes)), {}
    doubtful, smallest = np.zeros(n, dtype=bool), 1.0
    for symmetry, order, margins in zip(found.symmetries, found.permutations, found.margins, strict=True):
        for name in symmetry.latents:
            arrays[f"{name}_margin"] = (SAMPLE, margins.reshape(sizes))
            arrays[f"{name}_order"] = ((*SAMPLE, f"{name}_state"), order.reshape(*sizes, -1))
        doubtful |= ~(margins >= AMBIGUOUS)
        smallest = min(smallest, float(np.min(margins, initial=1.0)))
    attributes: dict[str, Any] = {"aligned_by": by, "draws": n, "relabelled": int(found.renamed(n).sum())}
    attributes |= {"ambiguous": int(doubtful.sum()), "smallest_margin": smallest}
    return xr.Dataset(arrays, coords={d: posterior.coords[d] for d in SAMPLE}, attrs=attributes)


def reordered(estimate: Estimate, found: Alignment, draws: dict[str, np.ndarray], posterior: xr.Dataset) -> xr.Dataset:
    """The posterior with all that depends on the order of the states in the order of the fit."""
    shape = tuple(posterior.sizes[d] for d in SAMPLE)
    renamed = found.renamed(int(np.prod(shape)))
    if not renamed.any():
        return posterior
    parameters = found.apply(draws)
    computed = deterministics(estimate, {n: v[renamed] for n, v in parameters.items()}, posterior)
    known = {*estimate.target.readout.names, *estimate.target.structure.fixed}
    result = posterior.copy()
    for name in map(str, posterior.data_vars):
        array = posterior[name]
        if not set(SAMPLE) <= set(array.dims):
            continue
        ordered = array.transpose(*SAMPLE, ...)
        values = ordered.values.reshape(-1, *ordered.shape[2:]).copy()
        if name in parameters:
            values = parameters[name]
        elif name in computed:
            values[renamed] = computed[name].reshape(-1, *values.shape[1:])
        elif (states := states_drawn(estimate, found, name, values)) is not None:
            values = states
        elif name not in known or name in estimate.target.readout.of_latents:
            values = along_dims(estimate, found, ordered.dims[2:], values)
        result[name] = ordered.copy(data=values.reshape(ordered.shape)).transpose(*array.dims)
    return result


def deterministics(
    estimate: Estimate, parameters: dict[str, np.ndarray], posterior: xr.Dataset
) -> dict[str, np.ndarray]:
    """Deterministics of the parameters alone, as far as the posterior has them."""
    readout, space = estimate.target.readout, estimate.target.space
    wanted = [d.name for d in readout.derived if d.name in posterior and d.name not in readout.of_latents]
    if not wanted:
        return {}
    count = len(next(iter(parameters.values())))
    points = [space.unconstrain({n: v[i] for n, v in parameters.items()}) for i in range(count)]
    return estimate.target.estimands(np.array(points), wanted)


def states_drawn(estimate: Estimate, found: Alignment, name: str, values: np.ndarray) -> np.ndarray | None:
    """Draws of a latent with its states renamed; None for other variables."""
    structure = estimate.target.structure
    for symmetry, order in zip(found.symmetries, found.permutations, strict=True):
        if name in symmetry.latents:
            lower = structure.vector_of(name)[1].lower
            new = np.argsort(order, axis=1).reshape(len(order), *[1] * (values.ndim - 2), -1)
            index = (values - lower).astype(int)
            if values.ndim == 1:
                return np.take_along_axis(new, index[:, None], axis=1)[:, 0] + lower
            return np.take_along_axis(np.broadcast_to(new, (*values.shape[:-1], order.shape[1])), index, -1) + lower
    return None


def along_dims(estimate: Estimate, found: Alignment, dims: tuple, values: np.ndarray) -> np.ndarray:
    """Values permuted along the dims that belong to the states."""
    from pm_mlem.estimate.alignment import permuted

    for symmetry, order in zip(found.symmetries, found.permutations, strict=True):
        own = {f"{latent}_state" for latent in symmetry.latents}
        for name, axis in symmetry.axes:
            if isinstance(name, str):
                own.add(estimate.labels.dims_of(name, estimate.values[name].ndim)[axis])
        axes = tuple(("values", d) for d, dim in enumerate(dims) if dim in own)
        values = permuted({"values": values}, axes, order)["values"]
    return values
