"""The tables of a model for some of its rows.

The log-likelihood is a sum over independent units, so large data can be evaluated part by part. Which axes of
the arrays run along the units is inferred from the graphs: an input with an axis of the right length is taken to
carry *rows* there, and every operation must treat them one by one, up to the vector of units. What follows from
rows of the inputs is then true of the whole graph, whatever suggested the axis; an operation that mixes rows, or
that is not known here, ends the attempt, and the model is evaluated in one piece.

Rules are registered on :func:`part_node` with ``functools.singledispatch``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.op import Op
from pytensor.graph.traversal import toposort
from pytensor.tensor.basic import Alloc, Join
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Reshape
from pytensor.tensor.special import LogSoftmax, Softmax
from pytensor.tensor.subtensor import AdvancedSubtensor, Subtensor, unflatten_index_variables

from pm_mlem.graph.ops.operations import LogSumExp, WindowLogZ
from pm_mlem.graph.roles.symbols import tensor
from pm_mlem.graph.tables.model_tables import ModelTables


@dataclass(frozen=True)
class Rows:
    """Axis ``axis`` of an array holds ``block`` entries of every row, one row after the other."""

    axis: int
    block: int = 1


Place = Rows | None
"""Where the rows are; None in an array that is the same for all of them."""


@dataclass(frozen=True, eq=False)
class RowTables:
    """The tables of a model for ``length`` of its ``count`` rows.

    Attributes
    ----------
    count, length : rows of the model and of a part
    data, data_places : inputs that stand for a part of the data (those without rows are the model's own)
    stand_ins : placeholders of the density arrays of a part
    densities, places : the density arrays as functions of parameters and data
    units, unit_places : for each vector of units its entries in a part, a function of stand-ins and data
    """

    count: int
    length: int
    data: tuple[Variable, ...]
    data_places: tuple[Place, ...]
    stand_ins: tuple[Variable, ...]
    densities: tuple[Variable, ...]
    places: tuple[Place, ...]
    units: tuple[Variable, ...]
    unit_places: tuple[Place, ...]
    part: Part
    known: Mapping[Variable, tuple[Variable, Place]]
    """The model's data, density arrays and probes, and what stands for them in a part."""

    def part_of(self, arrays: Sequence[Variable]) -> tuple[tuple[Variable, ...], tuple[Place, ...]] | None:
        """Other arrays of the model for a part of the rows, and their rows; None where they mix them."""
        try:
            return zipped(part_of_graph(arrays, self.known, self.part))
        except Mixed:
            return None


class Mixed(Exception):
    """An operation does not treat rows one by one."""


@dataclass(frozen=True)
class Part:
    """How many rows there are, and how many a part has."""

    count: int
    length: int
    numbers: frozenset[Variable] = frozenset()
    """Data that hold the number of each row."""

    def resize(self, variable: Variable, rows: Rows) -> tuple[int, ...]:
        """The shape of a variable in a part."""
        shape = list(variable.type.shape)
        shape[rows.axis] = self.length * rows.block
        return tuple(shape)

    def placeholder(self, variable: Variable, rows: Place) -> Variable:
        if rows is None:
            return variable
        return tensor(variable.name, dtype=variable.type.dtype, shape=self.resize(variable, rows))


# --- tables -----------------------------------------------------------------------------------------------


def row_tables(tables: ModelTables, length: int) -> RowTables | None:
    """The tables for ``length`` rows; None where the model cannot be taken apart."""
    for count in candidates(tables, length):
        try:
            return part_of_tables(tables, Part(count, length, row_numbers(tables, count)))
        except Mixed:
            continue
    return None


def candidates(tables: ModelTables, length: int) -> Iterator[int]:
    """Numbers of rows to try: that of the most units first, then lengths of the data that divide it."""
    most = max(tables.elimination.sizes)
    lengths = {n for variable, _ in tables.data for n in variable.type.shape}
    yield from sorted((n for n in lengths | {most} if n and most % n == 0 and n > length), reverse=True)


def part_of_tables(tables: ModelTables, part: Part) -> RowTables:
    known: dict[Variable, tuple[Variable, Place]] = {}
    for variable, _ in tables.data:
        place = first_axis(variable, part)
        known[variable] = part.placeholder(variable, place), place
    data = [known[v] for v, _ in tables.data]
    densities = part_of_graph([d.array for d in tables.densities], known, part)
    stand_ins = [part.placeholder(d.input, place) for d, (_, place) in zip(tables.densities, densities, strict=True)]
    for d, new, (_, place) in zip(tables.densities, stand_ins, densities, strict=True):
        known[d.input] = new, place
    for probe in tables.probes:
        place = first_axis(probe.input, part)
        known[probe.input] = part.placeholder(probe.input, place), place
    units = part_of_graph(tables.elimination.units, known, part)
    if all(place is None for _, place in units):
        raise Mixed("no vector of units runs along the rows")
    return RowTables(
        part.count, part.length, *zipped(data), tuple(stand_ins), *zipped(densities), *zipped(units), part, known
    )  # fmt: skip


def zipped(pairs: Sequence[tuple[Variable, Place]]) -> tuple[tuple[Variable, ...], tuple[Place, ...]]:
    return tuple(v for v, _ in pairs), tuple(p for _, p in pairs)


def row_numbers(tables: ModelTables, count: int) -> frozenset[Variable]:
    return frozenset(
        variable
        for variable, data in tables.data
        if data.shape == (count,) and data.dtype.kind == "i" and np.array_equal(data, np.arange(count))
    )


def first_axis(variable: Variable, part: Part) -> Place:
    """The first axis with an entry for each row, or with some."""
    shape = variable.type.shape
    axes = [d for d, n in enumerate(shape) if n == part.count] or [
        d for d, n in enumerate(shape) if n and n % part.count == 0
    ]
    return Rows(axes[0], shape[axes[0]] // part.count) if axes else None


# --- graphs -----------------------------------------------------------------------------------------------


def part_of_graph(
    outputs: Sequence[Variable], known: Mapping[Variable, tuple[Variable, Place]], part: Part
) -> list[tuple[Variable, Place]]:
    """The outputs for a part of the rows, given the inputs for it."""
    found = dict(known)
    for node in toposort(outputs, blockers=list(known)):
        inputs = [found.get(v, (v, None)) for v in node.inputs]
        if isinstance(node.op, Alloc) or any(place is not None for _, place in inputs):
            variables, places = zipped(inputs)
            results = part_node(node.op, node, variables, places, part)
        else:
            results = [(v, None) for v in node.outputs]
        for old, new in zip(node.outputs, results, strict=True):
            found[old] = new
    return [found.get(v, (v, None)) for v in outputs]


def single(node: Apply, op: Op, inputs: Sequence[Variable], place: Place) -> list[tuple[Variable, Place]]:
    """The node on new inputs."""
    if len(node.outputs) != 1:
        raise Mixed(f"{op} has several outputs")
    return [(op.make_node(*inputs).outputs[0], place)]


@singledispatch
def part_node(
    op: Op, node: Apply, inputs: Sequence[Variable], places: Sequence[Place], part: Part
) -> list[tuple[Variable, Place]]:
    """Outputs of one node for a part of the rows, and where the rows are in them.

    Register a rule for an Op with ``@part_node.register(OpType)``; raise :class:`Mixed` where rows are mixed.
    """
    raise Mixed(f"no rule for {type(op).__name__}")


def common_place(inputs: Sequence[Variable], places: Sequence[Place]) -> Rows:
    """The rows of arrays of equal ndim that broadcast against each other."""
    [rows, *others] = {place for place in places if place is not None}
    if others:
        raise Mixed("rows along different axes meet")
    for variable, place in zip(inputs, places, strict=True):
        if place is None and variable.type.shape[rows.axis] != 1:
            raise Mixed("an array with an entry for each row is not known to follow the rows")
    return rows


@part_node.register(Elemwise)
def _(op, node, inputs, places, part):
    return single(node, op, inputs, common_place(inputs, places))


@part_node.register(DimShuffle)
def _(op, node, inputs, places, part):
    [rows] = places
    return single(node, op, inputs, Rows(list(op.new_order).index(rows.axis), rows.block))


@part_node.register(CAReduce)
@part_node.register(LogSumExp)
def _(op, node, inputs, places, part):
    [rows] = places
    axes = range(node.inputs[0].type.ndim) if op.axis is None else np.atleast_1d(op.axis).tolist()
    if rows.axis in axes:
        raise Mixed("rows are added up")
    return single(node, op, inputs, Rows(rows.axis - sum(a < rows.axis for a in axes), rows.block))


@part_node.register(Softmax)
@part_node.register(LogSoftmax)
def _(op, node, inputs, places, part):
    [rows] = places
    if op.axis is None or rows.axis in np.mod(np.atleast_1d(op.axis), node.inputs[0].type.ndim):
        raise Mixed("rows are normalized together")
    return single(node, op, inputs, rows)


@part_node.register(Dot)
def _(op, node, inputs, places, part):
    rows = matrix_rows(places, 0)
    if rows is None:
        raise Mixed("a matrix product runs over rows")
    return single(node, op, inputs, rows)


def matrix_rows(places: Sequence[Place], batch: int) -> Place:
    """Rows of the result of a matrix product: rows of the left or columns of the right factor."""
    left, right = places
    if left is not None and right is None and left.axis == batch:
        return left
    return right if right is not None and left is None and right.axis == batch + 1 else None


@part_node.register(Blockwise)
def _(op, node, inputs, places, part):
    batch = op.batch_ndim(node)
    if isinstance(op.core_op, Dot):
        rows = matrix_rows(places, batch)
        if rows is not None:
            return single(node, op, inputs, rows)
    if any(place is not None and place.axis >= batch for place in places):
        raise Mixed(f"{op.core_op} acts along rows")
    return single(node, op, inputs, common_place(inputs, places))


@part_node.register(Join)
def _(op, node, inputs, places, part):
    [rows, *others] = set(places)
    if others or rows.axis == op.axis:
        raise Mixed("rows are joined")
    return single(node, op, inputs, rows)


@part_node.register(Subtensor)
def _(op, node, inputs, places, part):
    [rows, *_] = places
    entries = unflatten_index_variables(list(inputs[1:]), op.idx_list)
    if rows is None or (rows.axis < len(entries) and not is_full(entries[rows.axis])):
        raise Mixed("rows are selected")
    dropped = sum(not isinstance(entry, slice) for entry in entries[: rows.axis])
    return single(node, op, inputs, Rows(rows.axis - dropped, rows.block))


def is_full(entry) -> bool:
    return isinstance(entry, slice) and entry == slice(None)


@part_node.register(AdvancedSubtensor)
def _(op, node, inputs, places, part):
    """Rows of the indexed array pass through a full slice, or each picks its own entries; else rows index an array."""
    inputs, [rows, *index_places] = list(inputs), places
    entries = unflatten_index_variables(list(range(1, len(inputs))), op.idx_list)
    entries = [*entries, *[slice(None)] * (inputs[0].type.ndim - len(entries))]
    arrays = [d for d, entry in enumerate(entries) if not isinstance(entry, slice)]
    positions = [entries[d] for d in arrays]
    if any(place is not None and i not in positions for i, place in enumerate(index_places, start=1)):
        raise Mixed("rows are selected")
    width = max(inputs[i].type.ndim for i in positions)
    first = arrays[0] if arrays == list(range(arrays[0], arrays[-1] + 1)) else 0
    if rows is not None and is_full(entries[rows.axis]) and all(place is None for place in index_places):
        before = sum(isinstance(entry, slice) for entry in entries[: rows.axis])
        return single(node, op, inputs, Rows(before + width if before >= first else before, rows.block))
    if rows is not None:
        own = entries[rows.axis]
        if isinstance(own, slice) or node.inputs[own] not in part.numbers or rows.block != 1:
            raise Mixed("rows are selected")
        inputs[own] = pt.constant(np.arange(part.length))
    padded = [
        inputs[i].dimshuffle(*["x"] * (width - inputs[i].type.ndim), *range(inputs[i].type.ndim)) for i in positions
    ]
    moved = [places[i] and Rows(places[i].axis + width - inputs[i].type.ndim, places[i].block) for i in positions]
    rows = common_place(padded, moved)
    return single(node, op, inputs, Rows(first + rows.axis, rows.block))


@part_node.register(Reshape)
def _(op, node, inputs, places, part):
    rows, target = places
    if rows is None or target is not None:
        raise Mixed("a shape depends on rows")
    old, new = node.inputs[0].type.shape, node.outputs[0].type.shape
    if None in old or None in new:
        raise Mixed("a shape is not known")
    before, stride = math.prod(old[: rows.axis]), rows.block * math.prod(old[rows.axis + 1 :])
    for axis, length in enumerate(new):
        rest = math.prod(new[axis + 1 :])
        if math.prod(new[:axis]) == before and length % part.count == 0 and stride % rest == 0:
            moved = Rows(axis, length // part.count)
            return [(inputs[0].reshape(part.resize(node.outputs[0], moved)), moved)]
    raise Mixed("rows are taken apart")


@part_node.register(Alloc)
def _(op, node, inputs, places, part):
    """What is repeated for every row has rows, too."""
    value, *lengths = node.inputs
    if not all(isinstance(n, Constant) for n in lengths) or any(place is not None for place in places[1:]):
        raise Mixed("a shape depends on rows")
    lengths = [int(n.data) for n in lengths]
    extra, rows = len(lengths) - value.type.ndim, places[0]
    if rows is not None:
        moved = Rows(extra + rows.axis, rows.block)
    else:
        own = [1] * extra + list(value.type.shape)
        new = [d for d, (n, m) in enumerate(zip(own, lengths, strict=True)) if n == 1 and m == part.count]
        if not new:
            return [(node.outputs[0], None)]
        moved = Rows(new[0])
    lengths[moved.axis] = part.length * moved.block
    return [(pt.alloc(inputs[0], *lengths), moved)]


@part_node.register(WindowLogZ)
def _(op, node, inputs, places, part):
    """Chains are rows."""
    lead = op.window.leading
    if places[0] != Rows(0):
        raise Mixed("chains are mixed")
    for variable, place in zip(inputs[1:], places[1:], strict=True):
        axis = variable.type.ndim - 2
        if place != Rows(axis) and (place is not None or variable.type.shape[axis] != 1):
            raise Mixed("chains are mixed")
    return single(node, op, inputs, Rows(lead))
