"""M-steps that a user adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytensor.tensor.random.op import RandomVariable

from pm_mlem.objective.m_step.closed_forms import CLOSED_FORMS, LINKS, ClosedForm
from pm_mlem.objective.m_step.reductions import REDUCTIONS, of_statistics


def register_m_step(
    distribution: type,
    statistics: Callable,
    *,
    parameter: int | None = None,
    maximise: Callable | None = None,
    priors: Mapping[type | tuple[str, type], Callable] | None = None,
    order: int = 0,
    expected: Callable | None = None,
) -> None:
    """Tell EM how to update parameters of a distribution.

    Without it every parameter of a model takes a safeguarded Newton step on the expected complete-data log-likelihood,
    which goes through the data several times. With its sufficient statistics a distribution needs one pass. Give either
    a closed form for one parameter (``parameter`` and ``maximise``), or the expected log-density as a function of the
    sums (``expected``), which is then maximised in all parameters of the model that it depends on. All functions are
    written with ``jax.numpy``. What was registered for the same parameter before is replaced; models that were fitted
    before keep it.

    Parameters
    ----------
    distribution : type
        A PyMC distribution, or the type of a variable's operation (``type(y.owner.op)``, for ``pm.CustomDist``).
    statistics : callable
        ``(weights, parameters, value) -> tuple of arrays``, proportional to the weights. ``parameters`` is the sequence
        of the distribution's parameters as PyTensor knows it, ``y.owner.op.dist_params(y.owner)``: the scale of an
        Exponential, not its rate. Arrays broadcast against the log-density: states of latents first, then the axes of
        the observations.
    parameter : int, optional
        Position of the parameter that ``maximise`` finds.
    maximise : callable, optional
        ``(*sums) -> new value`` of the parameter; the sums of the statistics over all observations that share an entry
        of it. NaN keeps the old value. A value outside the support is moved to the bound, so the expected
        log-likelihood must have a single peak.
    priors : dict, optional
        For ``estimator="map"``: ``{prior: function}`` with functions of ``(*sums, *parameters of the prior)`` that take
        the place of ``maximise``. The prior is a PyMC distribution, that of a parameter which the distribution uses as
        it is; ``(link, distribution)`` where it enters by its "reciprocal", "inverse square root", "square root",
        "exponential" or "logistic" function. Under other priors the parameter takes a Newton step.
    order : int
        Closed forms of one distribution are taken in this order, each with the new values of those before.
    expected : callable, optional
        ``(parameters, *sums) -> array``: the weighted log-density, without what does not depend on the parameters.

    Raises
    ------
    TypeError
        ``distribution`` is not a plain random variable.
    ValueError
        Not exactly one of ``maximise`` and ``expected`` is given, or ``maximise`` without ``parameter``.

    References
    ----------
    .. [1] Dempster, A. P., Laird, N. M. & Rubin, D. B. *Maximum likelihood from incomplete data via the EM
       algorithm*. J. R. Stat. Soc. B 39 (1977), section 4.
       https://doi.org/10.1111/j.2517-6161.1977.tb01600.x

    Examples
    --------
    The index of a Pareto distribution, the inverse of the mean logarithm:

    >>> import jax.numpy as jnp, numpy as np, pymc as pm, pm_mlem as mlem
    >>> mlem.register_m_step(
    ...     pm.Pareto,
    ...     lambda weights, parameters, value: (weights, weights * jnp.log(value / parameters[1])),
    ...     parameter=0,
    ...     maximise=lambda count, logarithms: count / logarithms,
    ... )
    >>> incomes = np.random.default_rng(1).pareto(3.0, size=500) + 1.0
    >>> with pm.Model() as model:
    ...     alpha = pm.Gamma("alpha", 2, 1)
    ...     y = pm.Pareto("y", alpha=alpha, m=1.0, observed=incomes)
    >>> fit = mlem.fit(model, method="em", progressbar=False)
    >>> bool(np.isclose(fit.estimates["alpha"], 1 / np.log(incomes).mean()))
    True
    """
    if (maximise is None) == (expected is None):
        raise ValueError("register_m_step: give either maximise= (with parameter=) or expected=.")
    op = random_variable(distribution)
    if expected is not None:
        if parameter is not None or priors:
            raise ValueError("register_m_step: parameter= and priors= belong to maximise=, not to expected=.")
        REDUCTIONS[op] = of_statistics(statistics, expected)
        return
    if parameter is None:
        raise ValueError("register_m_step: maximise= needs parameter=, the position of what it finds.")
    with_prior = {link_and_prior(key): function for key, function in (priors or {}).items()}
    CLOSED_FORMS[op, parameter] = ClosedForm(statistics, maximise, order, with_prior)


def random_variable(distribution: type) -> type[RandomVariable]:
    """The type of a distribution's operation."""
    for candidate in (distribution, getattr(distribution, "rv_type", None)):
        if isinstance(candidate, type) and issubclass(candidate, RandomVariable):
            return candidate
    op = getattr(distribution, "rv_op", None)
    if isinstance(op, RandomVariable):
        return type(op)
    name = getattr(distribution, "__name__", repr(distribution))
    raise TypeError(
        f"register_m_step: {name} is not a plain random variable (it is made of others, or no distribution); give a "
        "PyMC distribution such as pm.Pareto, or type(y.owner.op) of a variable y whose operation is a RandomVariable."
    )


def link_and_prior(key: type | tuple[str, type]) -> tuple[str, type[RandomVariable]]:
    link, prior = key if isinstance(key, tuple) else ("identity", key)
    names = [item.name for item in LINKS]
    if link not in names:
        raise ValueError(f"register_m_step: the link {link!r} is unknown; use one of {', '.join(map(repr, names))}.")
    return link, random_variable(prior)
