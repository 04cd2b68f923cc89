"""Whether several results are about the same data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pm_mlem.results.reported import Reported

if TYPE_CHECKING:
    from pm_mlem.estimate.estimate import Estimate


def observations(item: Any) -> dict[str, np.ndarray]:
    """The observed data by variable; masked data are whole, with NaN where they are not known."""
    estimate = item._estimate if isinstance(item, Reported) else None
    if estimate is None:
        item = item.to_datatree() if isinstance(item, Reported) else item
        group = item["observed_data"].to_dataset() if "observed_data" in item.children else {}
        return {str(name): np.asarray(group[name].values) for name in group}
    structure, found = estimate.target.structure, {}
    for name, values in observed_arrays(estimate).items():
        part = structure.parts.get(name)
        found[name] = values
        if part is not None:
            whole = np.full(int(np.prod(part.shape)), np.nan)
            whole[part.positions] = np.ravel(values)
            found[part.name] = whole.reshape(part.shape)
    return found


def observed_arrays(estimate: Estimate) -> dict[str, np.ndarray]:
    """The observed data that the estimate was made of, by variable."""
    from pymc.backends.arviz import find_observations

    return {str(name): np.asarray(values) for name, values in find_observations(estimate.target.source).items()}


def check_same_data(results: Mapping[str, Any]) -> list[str]:
    """Refuse results for different data; notes on data that are known in part.

    Raises
    ------
    ValueError
        Values of an observed variable differ; the message names it.
    """
    seen: dict[str, tuple[str, np.ndarray]] = {}
    notes = []
    for method, item in results.items():
        own = observations(item)
        for variable, values in own.items():
            if variable.removesuffix("_observed") != variable and variable.removesuffix("_observed") in own:
                continue  # a part of masked data, which are compared as a whole
            if variable not in seen:
                seen[variable] = method, values
                continue
            first, others = seen[variable]
            if values.shape != others.shape:
                raise ValueError(different(variable, first, method, f"shapes {others.shape} and {values.shape}"))
            if values.dtype.kind not in "fiub" or others.dtype.kind not in "fiub":
                continue
            here, there = np.isfinite(values.astype(float)), np.isfinite(others.astype(float))
            where = np.argwhere(here & there & (values != others))
            if len(where):
                raise ValueError(different(variable, first, method, f"{len(where)} of {values.size} values differ"))
            if np.any(here != there):
                notes.append(
                    f"'{first}' and '{method}' know different entries of '{variable}': their log-likelihoods are not "
                    "comparable."
                )
    return notes


def different(variable: str, first: str, second: str, how: str) -> str:
    return (
        f"'{first}' and '{second}' were given different data: the observed variable '{variable}' differs ({how}). "
        "Compare results for the same data."
    )
