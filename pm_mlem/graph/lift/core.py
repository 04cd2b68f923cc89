"""Lifted values: a symbolic tensor together with the latent elements that each of its entries reads.

A :class:`Lifted` value stands for a tensor of the user's model as a function of the discrete latents. Its
array carries one leading axis for every :class:`Slot`; entry ``i`` of the tensor, when the latent elements
take the states ``zeta``, is ``array[zeta[slot_1.address[i]], ..., zeta[slot_s.address[i]], i]``.

Data axes along which the array does not vary by itself keep length 1 while ``shape`` holds their true
length (*virtual* axes), so the parameters of a mixture stay K-sized however many rows the data have.

Rules for the operations of the graph are registered on :func:`lift_node` with ``functools.singledispatch``
(one module a family of operations); an operation without a rule is refused by name where a latent is
involved, and rebuilt as it is otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.op import Op
from pytensor.scalar import ScalarType
from pytensor.tensor.type import TensorType

# Constants with more entries than this become inputs of the compiled functions; smaller ones are inlined.
INLINE_LIMIT = 64


LARGEST_TABLE = 2**26
"""Entries of the largest table that may be created (half a gigabyte)."""
MANY_STATES = 10_000
"""States from which on the size of a table is checked before it is made; with fewer, it is the data that are large."""


class Refusal(Exception):
    """An operation cannot be lifted; carries what the final message needs.

    ``mixed`` are the slots whose elements the operation would mix: enumerating them jointly may help.
    """

    def __init__(self, reason: str, *, node: Apply | None = None, hint: str = "", mixed: Sequence[Slot] = ()):
        super().__init__(reason)
        self.reason, self.node, self.hint, self.mixed = reason, node, hint, tuple(mixed)


class Violation(Refusal):
    """A constant breaks a condition of a distribution: the model, not this package, is to blame."""


@dataclass(frozen=True, eq=False)
class Slot:
    """One enumerated view of latent elements.

    Attributes
    ----------
    lower, size : int
        The states are ``lower, ..., lower + size - 1``.
    address : ndarray of int
        For each entry of the tensor (broadcastable to its shape) the latent element that is read there,
        -1 where none is. Where it is -1 the array is constant along the slot's axis.
    """

    lower: int
    size: int
    address: np.ndarray

    def with_address(self, address: np.ndarray) -> Slot:
        return Slot(self.lower, self.size, address)

    def varies_along(self, axis: int) -> bool:
        return self.address.shape[axis] != 1


@dataclass(frozen=True, eq=False)
class Lifted:
    """A tensor as a function of the latents (see the module's docstring).

    Exactly one of ``symbol`` (a PyTensor variable) and ``data`` (a NumPy array) is given; both have the
    axes ``(*slots, *data axes)``. ``opaque`` values (slices, ``None``, random generators) only carry ``symbol``.
    """

    shape: tuple[int, ...]
    slots: tuple[Slot, ...] = ()
    symbol: Variable | None = None
    data: np.ndarray | None = None
    opaque: bool = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Static shape of the array without the slot axes: 1 where an axis is virtual."""
        if self.data is not None:
            return self.data.shape[len(self.slots) :]
        static = self.symbol.type.shape[len(self.slots) :]
        return tuple(1 if s == 1 else n for s, n in zip(static, self.shape, strict=True))

    def is_virtual(self, axis: int) -> bool:
        return self.shape[axis] != 1 and self.array_shape[axis] == 1

    @property
    def is_constant(self) -> bool:
        return self.data is not None


@dataclass
class Context:
    """What a lifting needs to know and what it collects.

    Attributes
    ----------
    leaves : dict
        Variables whose lifted value is given: random variables, their value placeholders, shared data.
    placeholders : dict
        Large constants that became inputs: ``id(array) -> (input variable, array)``.
    guards : list
        Parameter conditions of the distributions that do not depend on a latent (scalar booleans).
    missing : list
        Constant arrays that contain NaN.
    memo : dict
        Values that were lifted already.
    families : dict
        Contexts of the families of terms with the same graph (see :mod:`pm_mlem.graph.roles.families`).
    sample : callable
        Gives values of the parameters, for Ops that say nothing about the shape of their results.
    """

    leaves: dict[Variable, Lifted]
    placeholders: dict[int, tuple[Variable, np.ndarray]] = field(default_factory=dict)
    guards: list[Variable] = field(default_factory=list)
    missing: list[np.ndarray] = field(default_factory=list)
    memo: dict[Variable, Lifted] = field(default_factory=dict)
    families: dict[Any, Context] = field(default_factory=dict)
    sample: Callable[[], Mapping[Variable, np.ndarray]] = dict

    def symbol(self, value: Lifted) -> Variable:
        """The symbolic array of a value; large constants become data inputs."""
        if value.symbol is not None:
            return value.symbol
        data = value.data
        if data.size <= INLINE_LIMIT:
            return self.inline(data)
        if id(data) not in self.placeholders:
            self.note_missing(data)
            name = f"data_{len(self.placeholders)}"
            variable = as_data(pt.tensor(name, dtype=str(data.dtype), shape=data.shape))
            self.placeholders[id(data)] = (variable, data)
        return self.placeholders[id(data)][0]

    def inline(self, data: np.ndarray) -> Variable:
        """A small array as a symbolic constant."""
        self.note_missing(data)
        return pt.constant(data, dtype=str(data.dtype))

    def note_missing(self, data: np.ndarray) -> None:
        if data.ndim and data.dtype.kind == "f" and np.isnan(data).any():
            self.missing.append(data)

    def lift(self, variable: Variable) -> Lifted:
        """The lifted value of a variable of the user's graph (iterative, so that deep graphs work)."""
        stack = [variable]
        while stack:
            current = stack[-1]
            if current in self.memo:
                stack.pop()
                continue
            value = self._leaf(current)
            if value is not None:
                self.memo[current] = value
                stack.pop()
                continue
            node = current.owner
            needed = [v for v in operands(node.op, node) if v not in self.memo]
            if needed:
                stack.extend(reversed(needed))
                continue
            for output, lifted in zip(node.outputs, self._apply(node), strict=True):
                self.memo[output] = lifted
            stack.pop()
        return self.memo[variable]

    def _leaf(self, variable: Variable) -> Lifted | None:
        if variable in self.leaves:
            return self.leaves[variable]
        if isinstance(variable, Constant):
            return constant(variable.data, variable)
        if isinstance(variable, SharedVariable):
            return constant(variable.get_value(borrow=True), variable)
        if variable.owner is None:
            raise Refusal(f"the variable {variable} has no value")
        return None

    def _apply(self, node: Apply) -> Sequence[Lifted]:
        inputs = [self.memo.get(v) for v in node.inputs]
        try:
            return lift_node(node.op, node, inputs, self)
        except Refusal as refusal:
            if refusal.node is None:
                refusal.node = node
            raise


def constant(data: Any, variable: Variable | None = None) -> Lifted:
    """Lifted value of a constant in 64 bits; what is no number or array stays opaque.

    PyTensor keeps small constants in few bits (3 is an int8, 2.0 a float32), and functions of them would only be
    single precision.
    """
    if variable is not None and not isinstance(variable.type, TensorType | ScalarType):
        return Lifted(shape=(), symbol=variable, opaque=True)
    array = np.asarray(data)
    array = array.astype(wide(array.dtype), copy=False)
    return Lifted(shape=array.shape, data=array)


def as_data(variable: Variable) -> Variable:
    """Marks an input that holds data: nothing is derived by it."""
    variable.tag.holds_data = True
    return variable


def is_data(variable: Variable) -> bool:
    return getattr(variable.tag, "holds_data", False)


def wide(dtype: Any) -> np.dtype:
    """The 64-bit version of a dtype."""
    dtype = np.dtype(dtype)
    return np.dtype({"i": np.int64, "u": np.int64, "f": np.float64}.get(dtype.kind, dtype))


def parameter(variable: Variable) -> Lifted:
    """Lifted value of a continuous input with a static shape."""
    return Lifted(shape=tuple(variable.type.shape), symbol=variable)


def latent(lower: int, size: int, shape: tuple[int, ...], base: int, joined: Sequence[int] = ()) -> Lifted:
    """Lifted value of a latent: its domain along a slot axis, its elements' numbers as addresses.

    The entries along the ``joined`` axes are one element together, whose states are all their combinations.
    """
    groups = tuple(1 if d in joined else n for d, n in enumerate(shape))
    inner = tuple(n if d in joined else 1 for d, n in enumerate(shape))
    address = base + np.arange(int(np.prod(groups)), dtype=np.int64).reshape(groups)
    count = int(np.prod(inner))
    domain = np.indices((size,) * count, dtype=np.int64).reshape(count, -1).T + lower
    return Lifted(shape=shape, slots=(Slot(lower, len(domain), address),), data=domain.reshape(-1, *inner))


# --- registry ---------------------------------------------------------------------------------------------


@singledispatch
def lift_node(op: Op, node: Apply, inputs: list[Lifted], context: Context) -> Sequence[Lifted]:
    """Lifted outputs of one node, given its lifted inputs.

    Register a rule for an Op with ``@lift_node.register(OpType)``; that for ``Op`` itself serves all operations
    without one. Raise :class:`Refusal` where the operation would mix elements of a latent in a way that a table
    cannot hold.
    """
    raise NotImplementedError(f"no rule is registered for {type(op).__name__}")


@singledispatch
def operands(op: Op, node: Apply) -> Sequence[Variable]:
    """The inputs that a rule wants lifted (all by default)."""
    return node.inputs


# --- alignment --------------------------------------------------------------------------------------------


def pad_left(array: np.ndarray, ndim: int) -> np.ndarray:
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def compatible(a: Slot, b: Slot) -> bool:
    """Whether two slots (addresses of equal ndim) read the same element wherever both read one."""
    if (a.lower, a.size) != (b.lower, b.size):
        return False
    if a.address is b.address:
        return True
    return bool(np.all((a.address == b.address) | (a.address < 0) | (b.address < 0)))


def merge_slots(groups: Iterable[Sequence[Slot]]) -> tuple[list[Slot], list[list[int]]]:
    """Union of the slots of several values whose addresses were brought to one ndim.

    Returns the merged slots and, for each value, the positions of its own slots among them.
    """
    merged: list[Slot] = []
    positions: list[list[int]] = []
    for slots in groups:
        taken: list[int] = []
        for slot in slots:
            for i, other in enumerate(merged):
                if i not in taken and compatible(slot, other):
                    if other.address is not slot.address:
                        merged[i] = other.with_address(np.maximum(slot.address, other.address))
                    taken.append(i)
                    break
            else:
                merged.append(slot)
                taken.append(len(merged) - 1)
        positions.append(taken)
    return merged, positions


def broadcast_slots(values: Sequence[Lifted], ndim: int) -> tuple[list[Slot], list[list[int]]]:
    """Merge the slots of values that broadcast against each other to ``ndim`` dimensions."""
    return merge_slots([s.with_address(pad_left(s.address, ndim)) for s in v.slots] for v in values)


def align(value: Lifted, positions: Sequence[int], n_slots: int, ndim: int) -> Any:
    """The value's array with axes ``(n_slots, ndim)``: NumPy for constants, symbolic otherwise."""
    own = len(value.slots)
    order: list[Any] = ["x"] * n_slots + ["x"] * (ndim - value.ndim) + [own + d for d in range(value.ndim)]
    for axis, position in enumerate(positions):
        order[position] = axis
    return arrange(value, order)


def align_symbol(value: Lifted, positions: Sequence[int], n_slots: int, ndim: int, context: Context) -> Variable:
    """As :func:`align`, always symbolic."""
    if value.data is not None and value.data.size > INLINE_LIMIT:
        value = Lifted(value.shape, value.slots, symbol=context.symbol(value))
    array = align(value, positions, n_slots, ndim)
    return array if isinstance(array, Variable) else context.inline(array)


def shuffle(array: np.ndarray, order: Sequence[Any]) -> np.ndarray:
    """Transpose to ``order``; 'x' is a new axis, axes that are not named (of length 1) are dropped."""
    kept = [axis for axis in order if axis != "x"]
    dropped = tuple(axis for axis in range(array.ndim) if axis not in kept)
    array = array.transpose([*kept, *dropped]).reshape([array.shape[axis] for axis in kept])
    return array[tuple(None if axis == "x" else slice(None) for axis in order)]


def arrange(value: Lifted, order: Sequence[Any]) -> Any:
    """The value's array (slot axes first) transposed as by :func:`shuffle`."""
    if value.data is not None:
        return shuffle(value.data, order)
    if list(order) == list(range(value.symbol.type.ndim)):
        return value.symbol
    return value.symbol.dimshuffle(*order)


def materialize(value: Lifted, axes: Iterable[int] | None = None) -> Lifted:
    """The same value without virtual axes (all, or those named)."""
    wanted = range(value.ndim) if axes is None else axes
    axes = [d for d in wanted if value.is_virtual(d)]
    if not axes:
        return value
    target = tuple(value.shape[d] if d in axes else n for d, n in enumerate(value.array_shape))
    slots = tuple(s.size for s in value.slots)
    if value.data is not None:
        full = np.ascontiguousarray(np.broadcast_to(value.data, value.data.shape[: len(slots)] + target))
        return Lifted(value.shape, value.slots, data=full)
    return Lifted(value.shape, value.slots, symbol=pt.broadcast_to(value.symbol, slots + target))


def as_lifted(array: Any, shape: tuple[int, ...], slots: Sequence[Slot] = ()) -> Lifted:
    """Wrap a NumPy array or a symbolic variable."""
    if isinstance(array, Variable):
        return Lifted(shape, tuple(slots), symbol=array)
    return Lifted(shape, tuple(slots), data=np.asarray(array))
