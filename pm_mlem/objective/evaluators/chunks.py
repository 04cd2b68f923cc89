"""Large data in chunks: the log-likelihood and its derivatives are sums over rows.

One compiled loop goes through the chunks and adds up, so memory no longer grows with the intermediate results of
all rows, and these stay in the processor's cache. Derivatives are added up in the same way: the derivative of the
sum is taken chunk by chunk, never through the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
from pytensor.graph.basic import Variable

from pm_mlem.graph.ops.semirings import Semiring
from pm_mlem.graph.tables.rows import Place, Rows, RowTables, row_tables
from pm_mlem.objective.evaluators.pieces import chosen, cut, full_shape, masked, merged, offsets, paste
from pm_mlem.objective.evaluators.protocol import Parts, Posterior, Summand, Sums, Tree
from pm_mlem.objective.evaluators.row_sums import RowSums, row_sums
from pm_mlem.objective.evaluators.whole import Whole, joined, largest_array, latent_probes, without_impossible
from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.pullbacks import forward_by_reverse
from pm_mlem.objective.weights import product

CHUNK = 2**14
"""Entries of the largest log-density array of a chunk."""
SMALLEST_CHUNK = 256
"""Rows; fewer are not worth the loop."""
LARGE = 2**18
"""Entries of the largest log-density array from which a model is evaluated in chunks."""


@dataclass(frozen=True, eq=False)
class Chunks:
    """An :class:`Evaluator <pm_mlem.objective.evaluators.protocol.Evaluator>` that takes a chunk of the rows at a time.

    What mixes rows is left to the evaluator ``whole``. ``fixed_densities`` and ``row_densities`` are functions of
    (parameters, data) and return the log-density arrays without rows and, for the data of one chunk, those with rows;
    ``fixed_units`` and ``row_units`` are functions of (density arrays, data) and return the vectors of units that do
    not run along the rows and those that do.
    """

    whole: Whole
    tables: RowTables
    offsets: tuple[tuple[int, int], ...]
    """Begin and end of each vector of units in the vector of all."""
    fixed_densities: Callable[..., list]
    row_densities: Callable[..., list]
    fixed_units: Callable[..., list]
    row_units: Callable[..., list]

    @property
    def count(self) -> int:
        """Rows."""
        return self.tables.count

    @property
    def length(self) -> int:
        """Rows of a chunk."""
        return self.tables.length

    @property
    def entries(self) -> int:
        return self.whole.entries * self.length // self.count

    @property
    def no_posterior(self) -> None:
        return None

    # --- the log-likelihood --------------------------------------------------------------------------------

    def units(self, theta: Sequence, data: Sequence):
        fixed = self.fixed_densities(*theta, *data)
        vectors = self.by_unit(
            lambda pieces: self.chunk_units(fixed, self.row_densities(*theta, *pieces), pieces),
            self.rest_units(fixed, data),
            data,
        )
        return joined(vectors)

    def log_likelihood(self, theta: Sequence, weights, data: Sequence):
        fixed = self.fixed_densities(*theta, *data)

        def part(inputs, weights, data):
            theta, fixed = inputs
            return self.weigh(self.chunk_units(fixed, self.row_densities(*theta, *data), data), weights)

        rows = self.total(part, (list(theta), fixed), self.row_weights(weights), data)
        return rows + self.rest(fixed, weights, data)

    def scores(self, constrain: Callable, u, data: Sequence, at_once: int):
        jacobian = partial(forward_by_reverse, at_once=at_once)

        def along(pieces: Sequence) -> Callable:
            def units(v):
                theta = constrain(v)
                rows = self.row_densities(*theta, *pieces)
                return self.chunk_units(self.fixed_densities(*theta, *data), rows, pieces)

            return units

        def alone(v):
            return self.rest_units(self.fixed_densities(*constrain(v), *data), data)

        def derivatives(units: Callable) -> list:
            lengths = [vector.shape[0] for vector in jax.eval_shape(units, u)]
            ends = [sum(lengths[:i]) for i in range(1, len(lengths))]
            return jnp.split(jacobian(lambda v: joined(units(v)), u), ends)

        return jnp.concatenate(self.by_unit(lambda pieces: derivatives(along(pieces)), derivatives(alone), data))

    # --- EM ------------------------------------------------------------------------------------------------

    def e_step(self, theta: Sequence, weights, data: Sequence, powers: Sequence | None = None):
        powers = [1.0] * len(self.tables.places) if powers is None else powers
        kinds = list(zip(powers, self.tables.places, strict=True))
        fixed = [d * p for d, (p, _) in zip(
            self.fixed_densities(*theta, *data), [k for k in kinds if k[1] is None], strict=True
        )]  # fmt: skip
        places = [place for _, place in kinds if place is not None]
        along = [p for p, place in kinds if place is not None]

        def part(weights, data):
            def value(fixed, rows):
                return self.weigh(self.chunk_units(fixed, rows, data), weights)

            rows = [d * p for d, p in zip(self.row_densities(*theta, *data), along, strict=True)]
            total, slopes = jax.value_and_grad(value, argnums=(0, 1))(fixed, rows)
            return (total, slopes[0]), slopes[1]

        (total, slopes), posterior = self.accumulate(part, self.row_weights(weights), data, places)
        rest, more = jax.value_and_grad(lambda f: self.rest(f, weights, data))(fixed)
        return total + rest, self.merge([a + b for a, b in zip(slopes, more, strict=True)], posterior)

    def expected(self, theta: Sequence, posterior: Posterior, data: Sequence):
        fixed = self.fixed_densities(*theta, *data)
        alone, along = self.taken_apart(posterior)

        def part(theta, weights, data):
            return self.weigh(self.row_densities(*theta, *data), weights)

        return self.total(part, list(theta), along, data) + self.weigh(fixed, alone)

    def possible(self, posterior: Posterior, theta: Sequence, data: Sequence):
        alone, along = self.taken_apart(posterior)

        def part(weights, data):
            return [], without_impossible(weights, self.row_densities(*theta, *data))

        rows = self.accumulate(part, along, data, [place for _, place in along])[1]
        return self.merge(without_impossible(alone, self.fixed_densities(*theta, *data)), rows)

    def sums(self, summands: Sequence[Summand]) -> Sums:
        """Those whose arrays have rows in one loop; those of the posterior alone, which is at hand, without one."""
        found = [self.tables.part_of(s.arrays) if self.has_rows(s) else None for s in summands]
        moving = [i for i, part in enumerate(found) if part is not None]
        others = [i for i, part in enumerate(found) if part is None]
        at_once = self.whole.sums([summands[i] for i in others])
        loop = self.sums_by_chunk([(summands[i], *found[i]) for i in moving]) if moving else None

        def evaluate(posterior, theta, data):
            trees = dict(zip(others, at_once(posterior, theta, data), strict=True))
            if loop is not None:
                trees |= dict(zip(moving, loop(posterior, theta, data), strict=True))
            return [trees[i] for i in range(len(summands))]

        return evaluate

    def has_rows(self, summand: Summand) -> bool:
        return bool(summand.arrays) and self.tables.places[summand.term] is not None

    def sums_by_chunk(self, items: Sequence[tuple[Summand, tuple[Variable, ...], tuple[Place, ...]]]) -> Sums:
        """The sums of summands, given with their arrays for the rows of a chunk and where the rows are in these."""
        inputs = [*self.whole.tables.free_inputs, *self.tables.data]
        runs = [lower(inputs, list(variables)) for _, variables, _ in items]
        indices = [
            [(jnp.asarray(i), places[role]) for i, role in s.indices if places[role] is not None]
            for s, _, places in items
        ]

        def add(item, run, theta, data, weights, rows):
            summand, _, places = item
            along = iter(rows)
            own = [i if places[role] is None else next(along) for i, role in summand.indices]
            return summand.function(weights, run(*theta, *data), *own)

        def evaluate(posterior, theta, data):
            def chunk(given, data):
                taken, trees = iter(given), []
                for item, run, own in zip(items, runs, indices, strict=True):
                    weights, *rows = [next(taken) for _ in range(1 + len(own))]
                    trees.append(add(item, run, theta, data, weights, rows))
                return trees, []

            pairs = [
                [(posterior[s.term], self.tables.places[s.term]), *own]
                for (s, _, _), own in zip(items, indices, strict=True)
            ]
            return self.accumulate(chunk, [pair for own in pairs for pair in own], data, [])[0]

        return evaluate

    def parts(self, terms: Sequence[int], function: Callable[[Sequence[int], Sequence], Tree]) -> Parts:
        places = self.tables.places
        still = [k for k, i in enumerate(terms) if places[i] is None]
        moving = [k for k, i in enumerate(terms) if places[i] is not None]

        def evaluate(posterior, theta, data):
            nothing = [None] * sum(place is not None for place in places)
            fixed = self.merge(self.fixed_densities(*theta, *data), nothing)
            alone = function(still, [product(posterior[terms[k]], fixed[terms[k]]) for k in still])

            def chunk(weights, data):
                nothing = [None] * sum(place is None for place in places)
                rows = self.merge(nothing, self.row_densities(*theta, *data))
                arrays = [product(w, rows[terms[k]]) for w, k in zip(weights, moving, strict=True)]
                return function(moving, arrays), []

            weights = [(posterior[terms[k]], places[terms[k]]) for k in moving]
            return jax.tree.map(jnp.add, alone, self.accumulate(chunk, weights, data, [])[0])

        return evaluate

    # --- posterior and configurations of the latents ----------------------------------------------------------

    def posterior(self, theta: Sequence, data: Sequence) -> tuple[dict[str, jax.Array], jax.Array]:
        if self.probed is None:
            return self.whole.posterior(theta, data)
        names = [p.name for p in self.probed.probes]
        weights = jnp.ones(self.offsets[-1][1])
        slopes = self.derive(self.probed, theta, weights, data, probes=True)[1] if names else []
        return dict(zip(names, slopes, strict=True)), self.units(theta, data)

    @cached_property
    def probed(self) -> RowSums | None:
        """The sums over the latents with all probes; None where they mix rows."""
        tables = self.whole.tables
        return row_sums(tables, self.tables, tables.probed, tables.probes, None)

    def choose(self, semiring: Semiring, theta: Sequence, weights, data: Sequence, *, probes: bool, key=None):
        sums = self.rows_most_probable if semiring == "max" else self.rows_drawn
        if sums is None:
            return self.whole.choose(semiring, theta, weights, data, probes=probes, key=key)
        return self.derive(sums, theta, weights, data, probes=probes, key=key)

    @cached_property
    def rows_most_probable(self) -> RowSums | None:
        return self.choices("max")

    @cached_property
    def rows_drawn(self) -> RowSums | None:
        return self.choices("sample")

    def choices(self, semiring: Semiring) -> RowSums | None:
        """The sums over the latents that choose; None where they mix rows."""
        tables = self.whole.tables
        return row_sums(tables, self.tables, tables.by_element, latent_probes(tables), semiring)

    def derive(self, sums: RowSums, theta: Sequence, weights, data: Sequence, *, probes: bool, key=None):
        """Any sums over the latents, their weighted total, and its derivatives.

        Parameters
        ----------
        sums : of the model's latents
        weights : one for each sum
        probes : whether to derive by the probes (at zero) instead of the log-density arrays
        key : random key, where the sums take one

        Returns
        -------
        total, slopes, values
            The derivatives have one array for each probe or log-density array.
        """
        fixed = self.fixed_densities(*theta, *data)
        fixed_zeros, row_zeros = sums.zeros(self.length, self.count)
        merge = sums.merge_probes if probes else self.merge
        places = [place for place in (sums.probe_places if probes else self.tables.places) if place is not None]
        unit_places = [place for place in sums.unit_places if place is not None]
        pairs = list(zip(sums.offsets, sums.unit_places, strict=True))
        chosen = [(weights[a:b], place) for (a, b), place in pairs if place is not None]
        marks = [(jnp.ones(w.shape), place) for w, place in chosen]
        numbers = [] if key is None else [(jnp.arange(self.count), Rows(0))]

        def value(run, arrays, start, slopes, data, weights, keys):
            """Weighted total and values, with some of the arrays replaced by those to derive by."""
            densities, tables = (arrays, slopes) if probes else (slopes, start)
            units = run(*self.merge(*densities), *sums.merge_probes(*tables), *data, *keys)
            return self.weigh(units, weights), units

        def part(given, data):
            weights, fresh, last = given[: len(chosen)], given[len(chosen) : 2 * len(chosen)], given[2 * len(chosen) :]
            keys = [jax.random.key_data(jax.random.fold_in(key, number[-1])) for number in last]
            rows = self.row_densities(*theta, *data)
            zeros = fixed_zeros, row_zeros

            def of(fixed_part, row_part):
                return value(sums.rows, (fixed, rows), zeros, (fixed_part, row_part), data, weights, keys)

            at = zeros if probes else (fixed, rows)
            (total, units), slopes = jax.value_and_grad(of, argnums=(0, 1), has_aux=True)(*at)
            units = [jnp.where(f == 0, 0.0, u) for f, u in zip(fresh, units, strict=True)]
            return (total, slopes[0]), [*slopes[1], *units]

        (total, slopes), arrays = self.accumulate(part, [*chosen, *marks, *numbers], data, [*places, *unit_places])
        nothing = [None] * sum(place is not None for place in self.tables.places)
        no_rows = [None] * len(row_zeros)
        rest_weights = [weights[a:b] for (a, b), place in pairs if place is None]
        keys = [] if key is None else [jax.random.key_data(jax.random.fold_in(key, self.count))]

        def rest(fixed_part):
            slopes = fixed_part, no_rows if probes else nothing
            return value(sums.fixed, (fixed, nothing), (fixed_zeros, no_rows), slopes, data, rest_weights, keys)

        (more, units), own = jax.value_and_grad(rest, has_aux=True)(fixed_zeros if probes else fixed)
        slopes = merge([a + b for a, b in zip(slopes, own, strict=True)], arrays[: len(places)])
        along, alone = iter(arrays[len(places) :]), iter(units)
        return total + more, slopes, [next(alone) if place is None else next(along) for place in sums.unit_places]

    # --- pieces of them ------------------------------------------------------------------------------------

    def merge(self, fixed: Sequence, rows: Sequence) -> list:
        """All density arrays in their order."""
        return merged(self.tables.places, fixed, rows)

    def taken_apart(self, posterior: Posterior) -> tuple[list, list[tuple]]:
        """The weights of the arrays without rows, and those with rows, with their places."""
        pairs = list(zip(posterior, self.tables.places, strict=True))
        return [p for p, place in pairs if place is None], [(p, place) for p, place in pairs if place is not None]

    def chunk_units(self, fixed: Sequence, rows: Sequence, data: Sequence) -> list:
        return self.row_units(*self.merge(fixed, rows), *data)

    def rest_units(self, fixed: Sequence, data: Sequence) -> list:
        """The units that do not run along the rows."""
        nothing = [None] * sum(place is not None for place in self.tables.places)
        return self.fixed_units(*self.merge(fixed, nothing), *data)

    def rest(self, fixed: Sequence, weights, data: Sequence):
        """Weighted sum over the units that do not run along the rows."""
        return self.weigh(self.rest_units(fixed, data), [weights[a:b] for (a, b), _ in self.unit_parts(rows=False)])

    def by_unit(self, part: Callable, rest: Sequence, data: Sequence) -> list:
        """Something of every unit, one array a vector: ``part(data)`` for a chunk, ``rest`` where there are no rows."""

        def chunk(fresh, pieces):
            found = part(pieces)
            return [], [
                jnp.where(f.reshape(-1, *[1] * (a.ndim - 1)) == 0, 0.0, a) for f, a in zip(fresh, found, strict=True)
            ]

        fresh = [(jnp.ones(b - a), place) for (a, b), place in self.unit_parts(rows=True)]
        along, alone = iter(self.accumulate(chunk, fresh, data, [place for _, place in fresh])[1]), iter(rest)
        return [next(alone) if place is None else next(along) for place in self.tables.unit_places]

    def row_weights(self, weights) -> list[tuple]:
        return [(weights[a:b], place) for (a, b), place in self.unit_parts(rows=True)]

    def unit_parts(self, rows: bool) -> list[tuple[tuple[int, int], Place]]:
        """Begin and end of the vectors of units that run along the rows, or of those that do not."""
        pairs = zip(self.offsets, self.tables.unit_places, strict=True)
        return [(ends, place) for ends, place in pairs if (place is not None) == rows]

    @staticmethod
    def weigh(arrays: Sequence, weights: Sequence):
        return sum((jnp.sum(product(w, v)) for w, v in zip(weights, arrays, strict=True)), jnp.zeros(()))

    # --- the loop ------------------------------------------------------------------------------------------

    def total(self, part: Callable, inputs, weights: Sequence[tuple], data: Sequence):
        """Sum of the scalars ``part(inputs, weights, data)`` over the chunks, to be differentiated by ``inputs``."""

        @jax.custom_jvp
        def value(inputs):
            return self.accumulate(lambda w, d: (part(inputs, w, d), []), weights, data, [])[0]

        @value.defjvp
        def _(primals, tangents):
            [inputs], [change] = primals, tangents
            both = jax.value_and_grad(part)
            result, slopes = self.accumulate(lambda w, d: (both(inputs, w, d), []), weights, data, [])[0]
            moved = [jnp.vdot(s, c) for s, c in zip(jax.tree.leaves(slopes), jax.tree.leaves(change), strict=True)]
            return result, sum(moved, jnp.zeros(()))

        return value(inputs)

    def accumulate(self, part: Callable, weights: Sequence[tuple], data: Sequence, places: Sequence[Place]):
        """Run ``part(weights, data) -> (sums, rows)`` on every chunk.

        Parameters
        ----------
        weights : (array, place) pairs; the rows that an earlier chunk has had already get weight 0
        data : the model's data
        places : where the rows are in the arrays ``rows``

        Returns
        -------
        sums, rows
            The former added up, the latter put side by side.
        """
        count, length = self.count, self.length

        def evaluate(i):
            start = jnp.minimum(i * length, count - length)  # the last chunk overlaps the one before
            fresh = start + jnp.arange(length) >= i * length
            chosen = [masked(cut(w, place, start, length), place, fresh) for w, place in weights]
            pieces = [cut(d, place, start, length) for d, place in zip(data, self.tables.data_places, strict=True)]
            return start, part(chosen, pieces)

        def step(before, i):
            sums, arrays = before
            start, (more, rows) = evaluate(i)
            arrays = [paste(a, r, p, start, length) for a, r, p in zip(arrays, rows, places, strict=True)]
            return (jax.tree.map(jnp.add, sums, more), arrays), None

        shapes, rows = jax.eval_shape(lambda: evaluate(0)[1])
        sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        arrays = [jnp.zeros(full_shape(r.shape, p, count, length), r.dtype) for r, p in zip(rows, places, strict=True)]
        (sums, arrays), _ = jax.lax.scan(step, (sums, arrays), jnp.arange(-(-count // length)))
        return sums, arrays


def build_chunks(whole: Whole, infinite: bool = False, chunk: int | None = None) -> Chunks | None:
    """The evaluation in chunks of a large model; None for a small one, or where rows cannot be told apart.

    ``chunk`` is the number of rows of a chunk; ``infinite`` whether there are infinite data.
    """
    tables = whole.tables
    if chunk is None:
        work = largest_array(tables)
        if work < LARGE:
            return None
        units = max(tables.elimination.sizes)
        chunk = max(CHUNK * units // work, SMALLEST_CHUNK)
    found = row_tables(tables, chunk)
    if found is None:
        return None
    theta = list(tables.free_inputs)
    own = [v for v, _ in tables.data]
    fixed = [d.array for d, place in zip(tables.densities, found.places, strict=True) if place is None]
    return Chunks(
        whole,
        found,
        offsets(tables.elimination.sizes),
        lower([*theta, *own], fixed, protect=theta, infinite=infinite),
        lower([*theta, *found.data], chosen(found.densities, found.places, True), protect=theta, infinite=infinite),
        lower([*found.stand_ins, *own], chosen(found.units, found.unit_places, False)),
        lower([*found.stand_ins, *found.data], chosen(found.units, found.unit_places, True)),
    )
