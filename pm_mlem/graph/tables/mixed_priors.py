"""Priors that a discrete latent chooses: spike and slab, the index of a model, ``b ~ Normal(0, sd[z])``.

Such a prior is a mixture: the log-density of the parameters is the sum over the latents, which need no data for that.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytensor.graph.replace import graph_replace

from pm_mlem.errors import UnsupportedModelError
from pm_mlem.graph.elimination import eliminate
from pm_mlem.graph.elimination.factors import Factor
from pm_mlem.graph.lift import Context
from pm_mlem.graph.roles.structure import ModelStructure
from pm_mlem.graph.tables.model_tables import DensityTerm, MixedPriors


def sum_out(
    own: Sequence[DensityTerm],
    own_factors: Sequence[Factor],
    densities: Sequence[DensityTerm],
    factors: Sequence[Factor],
    structure: ModelStructure,
    context: Context,
) -> MixedPriors:
    """Sum the latents out of priors.

    Parameters
    ----------
    own, own_factors : densities of the priors and their tables
    densities, factors : those of the likelihood, distributions of latents among them

    Raises
    ------
    UnsupportedModelError
        The data inform such a latent directly as well: the likelihood and the prior then have no separate sums.
    """
    vectors = {v.vector for f in own_factors for v in f.views}
    while True:
        reading = [f for f in factors if vectors & {v.vector for v in f.views}]
        reached = vectors | {v.vector for f in reading for v in f.views}
        if reached == vectors:
            break
        vectors = reached
    for factor in reading:
        if densities[factor.term_index].term.kind != "latent":
            names = ", ".join(repr(structure.vectors[v].name) for v in sorted(vectors))
            chosen = ", ".join(repr(d.term.name) for d in own)
            raise UnsupportedModelError(
                f"The discrete latent {names} chooses the prior of {chosen} and enters '{factor.term}' directly as "
                "well, so that likelihood and prior have no separate sums over it. Use estimator='mle', which drops "
                "the priors, or sample the model."
            )
    elimination = eliminate([*reading, *own_factors], structure.vectors, context)
    arrays = {d.input: d.array for d in [*densities, *own]}
    total = sum((u.sum() for u in elimination.units[1:]), elimination.units[0].sum())
    [total] = graph_replace([total], arrays, strict=False)
    terms = {f.term_index for f in [*reading, *own_factors]}
    return MixedPriors(tuple(own), tuple(own_factors), frozenset(vectors), frozenset(terms), total)
