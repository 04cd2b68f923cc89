"""Large data in chunks: the log-likelihood and its derivatives are sums over rows.

One compiled loop goes through the chunks and adds up, so memory no longer grows with the intermediate results of
all rows, and these stay in the processor's cache. Derivatives are added up in the same way: the derivative of the
sum is taken chunk by chunk, never through the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from pytensor.graph.basic import Variable

from pm_mlem.graph.elimination import Elimination
from pm_mlem.graph.ops.semirings import Semiring, choosing
from pm_mlem.graph.tables.model_tables import ModelTables, Probe
from pm_mlem.graph.tables.rows import Place, Rows, RowTables, row_tables
from pm_mlem.objective.lowering.lower import lower
from pm_mlem.objective.weights import product

CHUNK = 2**14
"""Entries of the largest log-density array of a chunk."""
SMALLEST_CHUNK = 256
"""Rows; fewer are not worth the loop."""
LARGE = 2**18
"""Entries of the largest log-density array from which a model is evaluated in chunks."""


@dataclass(frozen=True, eq=False)
class RowSums:
    """Sums over the latents, for what does not run along the rows and for the rows of a chunk.

    ``fixed`` and ``rows`` are functions of (density arrays, probes, data[, data of a key]).
    """

    probes: tuple[Probe, ...]
    probe_places: tuple[Place, ...]
    offsets: tuple[tuple[int, int], ...]
    unit_places: tuple[Place, ...]
    fixed: Callable[..., list]
    rows: Callable[..., list]

    def merge_probes(self, fixed: Sequence, rows: Sequence) -> list:
        return merged(self.probe_places, fixed, rows)

    def zeros(self, length: int, count: int) -> tuple[list, list]:
        """The probes without rows, and those of a chunk."""
        pairs = list(zip(self.probes, self.probe_places, strict=True))
        fixed = [jnp.zeros(p.shape) for p, place in pairs if place is None]
        return fixed, [jnp.zeros(whole(p.shape, place, length, count)) for p, place in pairs if place is not None]


@dataclass(frozen=True, eq=False)
class Chunks:
    """The parts of an objective that are sums over rows.

    ``fixed_densities`` and ``row_densities`` are functions of (parameters, data) and return the log-density arrays
    without rows and, for the data of one chunk, those with rows; ``fixed_units`` and ``row_units`` are functions
    of (density arrays, data) and return the vectors of units that do not run along the rows and those that do.
    """

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

    # --- the sums ------------------------------------------------------------------------------------------

    def log_likelihood(self, theta: Sequence, weights, data: Sequence):
        """Weighted sum over the units."""
        fixed = self.fixed_densities(*theta, *data)

        def part(inputs, weights, data):
            theta, fixed = inputs
            return self.weigh(self.chunk_units(fixed, self.row_densities(*theta, *data), data), weights)

        rows = self.total(part, (list(theta), fixed), self.row_weights(weights), data)
        return rows + self.rest(fixed, weights, data)

    def e_step(self, theta: Sequence, weights, data: Sequence, powers: Sequence | None = None):
        """Log-likelihood and its derivative with respect to every log-density array.

        With ``powers``, one for each array, those of the densities to these powers.
        """
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

    def expected(self, theta: Sequence, posterior: Sequence, data: Sequence):
        """Sum of the log-density arrays weighted by the posterior."""
        fixed = self.fixed_densities(*theta, *data)
        fixed_weights = [p for p, place in zip(posterior, self.tables.places, strict=True) if place is None]
        row_weights = [(p, place) for p, place in zip(posterior, self.tables.places, strict=True) if place is not None]

        def part(theta, weights, data):
            return self.weigh(self.row_densities(*theta, *data), weights)

        return self.total(part, list(theta), row_weights, data) + self.weigh(fixed, fixed_weights)

    def posterior(self, sums: RowSums, theta: Sequence, weights, data: Sequence, *, probes: bool, key=None):
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

    def scores(self, jacobian: Callable, constrain: Callable, u, data: Sequence):
        """Derivative of every unit's log-likelihood by the unconstrained vector, ``(units, p)``.

        ``jacobian(function, u)`` is that of a vector.
        """

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

        def part(fresh, pieces):
            found = derivatives(along(pieces))
            return [], [jnp.where(f[:, None] == 0, 0.0, s) for f, s in zip(fresh, found, strict=True)]

        fresh = [(jnp.ones(b - a), place) for (a, b), place in self.unit_parts(rows=True)]
        rows = iter(self.accumulate(part, fresh, data, [place for _, place in fresh])[1])
        rest = iter(derivatives(alone))
        return jnp.concatenate([next(rest) if place is None else next(rows) for place in self.tables.unit_places])

    # --- pieces of them ------------------------------------------------------------------------------------

    def merge(self, fixed: Sequence, rows: Sequence) -> list:
        """All density arrays in their order."""
        return merged(self.tables.places, fixed, rows)

    def chunk_units(self, fixed: Sequence, rows: Sequence, data: Sequence) -> list:
        return self.row_units(*self.merge(fixed, rows), *data)

    def rest_units(self, fixed: Sequence, data: Sequence) -> list:
        """The units that do not run along the rows."""
        nothing = [None] * sum(place is not None for place in self.tables.places)
        return self.fixed_units(*self.merge(fixed, nothing), *data)

    def rest(self, fixed: Sequence, weights, data: Sequence):
        """Weighted sum over the units that do not run along the rows."""
        return self.weigh(self.rest_units(fixed, data), [weights[a:b] for (a, b), _ in self.unit_parts(rows=False)])

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
        arrays = [jnp.zeros(whole(r.shape, p, count, length), r.dtype) for r, p in zip(rows, places, strict=True)]
        (sums, arrays), _ = jax.lax.scan(step, (sums, arrays), jnp.arange(-(-count // length)))
        return sums, arrays


def joined(vectors: Sequence):
    """The entries of all vectors."""
    return jnp.concatenate([jnp.zeros(0), *[jnp.ravel(v) for v in vectors]])


def merged(places: Sequence[Place], fixed: Sequence, rows: Sequence) -> list:
    """Arrays without rows and arrays with rows in their order."""
    rest, along = iter(fixed), iter(rows)
    return [next(rest) if place is None else next(along) for place in places]


def cut(array, place: Place, start, length: int):
    """The rows of a chunk."""
    if place is None:
        return array
    return jax.lax.dynamic_slice_in_dim(array, start * place.block, length * place.block, place.axis)


def masked(array, place: Place, fresh):
    """Zero for the rows that are not fresh."""
    mask = jnp.repeat(fresh, place.block)
    return jnp.where(
        mask.reshape([-1 if d == place.axis else 1 for d in range(array.ndim)]), array, jnp.zeros((), array.dtype)
    )


def paste(array, rows, place: Place, start, length: int):
    """Add the rows of a chunk to the array of all rows."""
    before = cut(array, place, start, length)
    return jax.lax.dynamic_update_slice_in_dim(array, before + rows, start * place.block, place.axis)


def whole(shape: tuple[int, ...], place: Place, count: int, length: int) -> tuple[int, ...]:
    """The shape for all rows of an array that has this shape for a chunk."""
    return tuple(n // length * count if d == place.axis else n for d, n in enumerate(shape))


def build_chunks(tables: ModelTables, work: int, infinite: bool, chunk: int | None = None) -> Chunks | None:
    """The evaluation in chunks of a large model; None for a small one, or where rows cannot be told apart.

    ``work`` is the number of entries of the largest log-density array, ``chunk`` the number of rows of a chunk.
    """
    if chunk is None:
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
        found,
        offsets(tables.elimination.sizes),
        lower([*theta, *own], fixed, protect=theta, infinite=infinite),
        lower([*theta, *found.data], chosen(found.densities, found.places, True), protect=theta, infinite=infinite),
        lower([*found.stand_ins, *own], chosen(found.units, found.unit_places, False)),
        lower([*found.stand_ins, *found.data], chosen(found.units, found.unit_places, True)),
    )


def row_sums(
    tables: ModelTables, found: RowTables, elimination: Elimination, probes: Sequence[Probe], semiring: Semiring | None
) -> RowSums | None:
    """Sums over the latents with probes among their inputs; None where they mix rows.

    With a ``semiring`` each chooses one configuration.
    """
    part = found.part_of([*[p.input for p in probes], *elimination.units])
    if part is None:
        return None
    variables, places = part
    own, units = variables[: len(probes)], variables[len(probes) :]
    probe_places, unit_places = places[: len(probes)], places[len(probes) :]

    def function(data: Sequence[Variable], rows: bool) -> Callable[..., list]:
        inputs, outputs = [*found.stand_ins, *own, *data], chosen(units, unit_places, rows)
        return lower(*((inputs, outputs) if semiring is None else choosing(inputs, outputs, semiring)))

    with jax.ensure_compile_time_eval():  # constants stay constants where this is first needed within a trace
        alone, along = function([v for v, _ in tables.data], False), function(found.data, True)
    return RowSums(tuple(probes), probe_places, offsets(elimination.sizes), unit_places, alone, along)


def offsets(sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Begin and end of each vector in the vector of all."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(zip([0, *ends[:-1]], ends, strict=True))


def chosen(variables: Sequence[Variable], places: Sequence[Place], rows: bool) -> list[Variable]:
    """The variables with rows, or those without."""
    return [v for v, place in zip(variables, places, strict=True) if (place is not None) == rows]
