"""Whether two fits may be tested against each other, and how the statistic is distributed."""

from __future__ import annotations

import numpy as np

from pm_mlem.estimate.estimate import Estimate
from pm_mlem.graph.roles.held import by_variable
from pm_mlem.optimize.problem import Status
from pm_mlem.results.same_data import observed_arrays


def check_pair(null: Estimate, alternative: Estimate) -> None:
    """Refuse two estimates that cannot be compared by their likelihoods.

    Raises
    ------
    ValueError
    """
    for estimate in (null, alternative):
        if estimate.target.estimator != "mle":
            raise ValueError("A likelihood-ratio test compares maximum-likelihood fits; fit with estimator='mle'.")
    one, other = null.target, alternative.target
    if one.model is other.model and one.content.digests != other.content.digests:
        raise ValueError(
            "The data of the model were replaced (pm.set_data, set_value) between the fits; a likelihood-ratio test "
            "needs the same. Fit both again."
        )
    check_same_observations(null, alternative, "the fits")
    if not same_weights(null.target.weights, alternative.target.weights):
        raise ValueError("The fits have different observation weights; a likelihood-ratio test needs the same.")
    if alternative.n_params <= null.n_params:
        raise ValueError(
            f"The alternative must have more parameters than the null; they have {alternative.n_params} and "
            f"{null.n_params}. The order is likelihood_ratio_test(null, alternative)."
        )
    gap = null.log_likelihood - alternative.log_likelihood
    if not gap <= 1e-6 * (1.0 + abs(null.log_likelihood)):
        raise ValueError(
            f"The alternative has the lower log-likelihood, by {gap:.4g}: the null is no special case of it, or its "
            "fit ended at a poor local maximum (try more starts=)."
        )


def check_same_observations(first: Estimate, second: Estimate, where: str) -> None:
    """Refuse two estimates whose models observe different variables or values.

    Raises
    ------
    ValueError
    """
    one, two = observed_arrays(first), observed_arrays(second)
    if set(one) != set(two):
        raise ValueError(
            f"Different variables are observed in {where}, {', '.join(map(repr, one))} and "
            f"{', '.join(map(repr, two))}; a comparison needs the same data under the same names."
        )
    for name, values in one.items():
        if not np.array_equal(values, two[name]):
            raise ValueError(f"The data of '{name}' differ between {where}; a comparison needs the same.")


def same_weights(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether observation weights agree; units may be different where all weights are 1."""
    if first.shape == second.shape:
        return bool(np.allclose(first, second))
    return bool(np.all(first == 1.0) and np.all(second == 1.0))


def held(estimate: Estimate) -> dict[str, object]:
    """What the user holds."""
    return dict(estimate.target.engine.choices.fixed)


def is_restriction(null: Estimate, alternative: Estimate) -> bool:
    """Whether the null is the model of the alternative with more held, as far as that is known."""
    if null.target.model is not alternative.target.model:
        return False
    more, fewer = held(null), held(alternative)
    return all(k in more and np.array_equal(more[k], v, equal_nan=True) for k, v in fewer.items())


def on_boundary(null: Estimate, alternative: Estimate) -> int:
    """How many of the parameters that a restriction holds are on the boundary of the alternative's space."""
    structure, space = null.target.structure, alternative.target.space
    names = by_variable(held(null), space.names)
    scales = {p.name: p.scale for p in alternative.target.structure.free}
    count = 0
    for name in space.names:
        if name not in names:
            continue
        own = structure.fixed.get(name, structure.held.get(name))
        tested = space.is_free(name) & ~np.isnan(own)
        value = null.reported[name]
        if scales[name] in ("log", "simplex"):
            count += int(np.sum(tested & (value == 0)))
        elif scales[name] == "logodds":
            count += int(np.sum(tested & ((value == 0) | (value == 1))))
        elif scales[name] == "interval" and tested.any():
            count += int(not inside(alternative, name, value))
    return count


def inside(alternative: Estimate, name: str, value: np.ndarray) -> bool:
    """Whether a value is inside the support."""
    try:
        alternative.target.space.unconstrain({name: value})
    except ValueError:
        return False
    return True


def undetermined(estimate: Estimate) -> int:
    """In how many directions the data do not determine the parameters."""
    information = estimate.diagnosis.information
    return 0 if information is None else information.null.shape[1]


def states_by_latent(estimate: Estimate) -> list[tuple[int, int]]:
    """States and elements of all latents."""
    return sorted((item.states, item.n_elements) for item in estimate.target.structure.latents)


def why_no_reference(null: Estimate, alternative: Estimate) -> str:
    """Why the statistic has no chi-square distribution: parameters that mean nothing under the null."""
    if states_by_latent(null) != states_by_latent(alternative):
        return "the numbers of hidden states differ, so that parameters of the alternative mean nothing under the null"
    for estimate, which in ((null, "null"), (alternative, "alternative")):
        if estimate.status is Status.DEGENERATE:
            return f"the objective of the {which} has no maximum"
    if is_restriction(null, alternative) and undetermined(null) > undetermined(alternative):
        return "some parameters are not identified under the null"
    return ""
