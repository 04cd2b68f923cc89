"""Random models with discrete latents, written in the constructs that users write.

A model is the text of a small program, so that a failure reads like a model and can be copied into
``structures.py``. Every decision is ``choose(n)``, an integer from 0 to n - 1 with the simplest option first: drawn by
hypothesis (which then shrinks the program) or by any other source.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from hypothesis import strategies as st

MOST_CONFIGURATIONS = 100
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Labels:
    """An expression with values in ``lower, ..., lower + size - 1``."""

    text: str
    shape: Shape
    size: int
    lower: int = 0

    @property
    def index(self) -> str:
        """Counted from zero."""
        return self.text if self.lower == 0 else f"({self.text} - ({self.lower}))"


@dataclass(frozen=True)
class Real:
    text: str
    shape: Shape


class Writer:
    """Writes one program."""

    def __init__(self, choose: Callable[[int], int]):
        self.choose = choose
        self.lines: list[str] = []
        self.labels: list[Labels] = []
        self.room = MOST_CONFIGURATIONS
        self.used = 0

    # --- decisions ---------------------------------------------------------------------------------------------

    def pick(self, *options):
        return options[self.choose(len(options))]

    def flag(self, one_in: int = 2) -> bool:
        return self.choose(one_in) == one_in - 1

    def seed(self) -> int:
        return self.choose(10)

    def array(self, shape: Shape, high: int) -> np.ndarray:
        """Integers below ``high``."""
        return np.array([self.choose(high) for _ in range(int(np.prod(shape)))], dtype=int).reshape(shape)

    def permutation(self, n: int) -> list[int]:
        left, result = list(range(n)), []
        while left:
            result.append(left.pop(self.choose(len(left))))
        return result

    # --- text --------------------------------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        self.used += 1
        return f"{stem}{self.used}"

    def write(self, line: str) -> None:
        self.lines.append(line)

    def parameter(self, kind: str, *shape: int) -> str:
        """A new parameter, declared in the model: real, positive, unit or simplex."""
        name = self.name({"real": "a", "positive": "s", "unit": "p", "simplex": "P"}[kind])
        self.write(f"{name} = {kind}({', '.join([repr(name), *map(str, shape)])})")
        return name

    def noise(self, shape: Shape) -> str:
        return self.maybe_data(f"noise({self.seed()}, {shape})", shape)

    def indices(self, shape: Shape, high: int) -> str:
        """An index array."""
        if np.prod(shape) > 8:
            return self.maybe_data(f"counts({self.seed()}, {shape}, {high})", shape)
        return self.maybe_data(f"np.array({self.array(shape, high).tolist()})", shape)

    def maybe_data(self, array: str, shape: Shape) -> str:
        """A constant, or ``pm.Data``, whose length may change (PyMC does not broadcast it where it is 1)."""
        if 1 in shape or not self.flag(8):
            return array
        name = self.name("x")
        self.write(f"{name} = pm.Data({name!r}, {array})")
        return name

    # --- latents -----------------------------------------------------------------------------------------------

    def add_latent(self) -> None:
        kind = self.pick(*[self.categorical] * 4, *[self.bernoulli] * 3, self.counted, self.loop, self.partly_observed,
                         self.markov, self.observed_labels)  # fmt: skip
        kind()

    def plate(self, states: int, smallest: int = 0) -> Shape | None:
        """A shape for which there is room."""
        shapes = [(), (2,), (3,), (2, 2), (4,), (3, 2), (1,), (5,), (2, 1), (1, 2), (2, 3), (2, 2, 2)]
        fit = [s for s in shapes if states ** int(np.prod(s)) <= self.room and np.prod(s) >= smallest]
        return self.pick(*fit) if fit else None

    def states(self) -> int:
        return self.pick(2, 2, 3)

    def claim(self, states: int, n: int) -> None:
        self.room //= states**n

    def declare(self, name: str, declaration: str, shape: Shape, size: int, lower: int = 0) -> None:
        self.write(f"{name} = {declaration}")
        self.write(f"domains[{name!r}] = ({shape}, range({lower}, {lower + size}))")
        self.claim(size, int(np.prod(shape)))
        self.labels.append(Labels(name, shape, size, lower))

    def categorical(self) -> None:
        k = self.states()
        shape = self.plate(k)
        if shape is None:
            return
        name = self.name("z")
        self.declare(name, f"pm.Categorical({name!r}, {self.weights(k, shape)}, shape={shape})", shape, k)

    def weights(self, k: int, shape: Shape) -> str:
        """The argument of a Categorical."""
        options = [lambda: self.parameter("simplex", k)]
        if shape:
            options.append(lambda: self.parameter("simplex", *shape[-1:], k))
            options.append(lambda: f"logit_p={self.noise((*shape, 2))} @ {self.parameter('real', 2, k)}")
            options.append(lambda: f"pm.math.softmax({self.noise((*shape, 1))} * {self.parameter('real', k)}, axis=-1)")
        if self.labels:
            options += [lambda: self.given(k, shape)] * 4
            options.append(lambda: f"logit_p={self.logits(k, shape)}")
        return self.pick(*options)()

    def given(self, k: int, shape: Shape) -> str:
        """Weights that depend on other labels."""
        one = self.index(shape)
        if self.flag(4):
            other = self.index(shape)
            return f"{self.parameter('simplex', one.size, other.size, k)}[{one.index}, {other.index}]"
        P = self.parameter("simplex", one.size, k)
        return self.pick(f"{P}[{one.index}]", f"pt.take({P}, {one.index}, axis=0)")

    def logits(self, k: int, shape: Shape) -> str:
        one = self.index(shape)
        return f"{self.parameter('real', one.size, k)}[{one.index}] + {self.noise((k,))}"

    def bernoulli(self) -> None:
        shape = self.plate(2)
        if shape is None:
            return
        name = self.name("b")
        p = self.probability(shape) if self.flag() else self.parameter("unit", *self.pick((), shape[-1:]))
        self.declare(name, f"pm.Bernoulli({name!r}, {p}, shape={shape})", shape, 2)

    def probability(self, shape: Shape) -> str:
        """The argument of a Bernoulli or Binomial, from any expression."""
        if self.labels and self.flag():
            one = self.index(shape)
            return f"p={self.parameter('unit', one.size)}[{one.index}]"
        text = self.real(shape, 1).text
        return self.pick(f"p=pm.math.sigmoid({text})", f"logit_p={text}")

    def counted(self) -> None:
        """Discrete uniform or binomial."""
        lower, size = self.pick((0, 3), (1, 2), (-1, 3), (0, 4))
        shape = self.plate(size)
        if shape is None:
            return
        name = self.name("u")
        declaration = f"pm.DiscreteUniform({name!r}, {lower}, {lower + size - 1}, shape={shape})"
        if lower == 0 and self.flag():
            declaration = f"pm.Binomial({name!r}, n={size - 1}, p={self.parameter('unit')}, shape={shape})"
        self.declare(name, declaration, shape, size, lower)

    def loop(self) -> None:
        """A python loop: a chain or a tree of small latents."""
        k = self.states()
        shape = self.pick((), (), (2,))
        n = 2 + self.choose(3)
        if k ** (n * int(np.prod(shape))) > self.room:
            return
        stem, P, mine = self.name("z"), self.parameter("simplex", k, k), []
        for t in range(n):
            p = self.parameter("simplex", k) if t == 0 else f"{P}[{mine[t - 1 if self.choose(3) < 2 else 0]}]"
            mine.append(f"{stem}_{t}")
            self.declare(mine[t], f"pm.Categorical({mine[t]!r}, {p}, shape={shape})", shape, k)
        axis = self.pick(0, 0, -1)
        whole = (n, *shape) if axis == 0 else (*shape, n)
        self.write(f"{stem} = pt.stack([{', '.join(mine)}], axis={axis})")
        self.labels += [Labels(stem, whole, k)] * 2

    def partly_observed(self) -> None:
        """Labels of which some are known."""
        k = self.states()
        shape = self.pick((3,), (2,), (4,), (2, 2))
        mask = self.array(shape, 2).astype(bool)
        mask.flat[0], mask.flat[-1] = True, False
        if k ** int(mask.sum()) > self.room:
            return
        name = self.name("m")
        values = self.array(shape, k).tolist()
        self.write(f"{name} = pm.Categorical({name!r}, {self.weights(k, shape)}, "
                   f"observed=masked({values}, {mask.tolist()}))")  # fmt: skip
        self.write(f"domains['{name}_unobserved'] = ({(int(mask.sum()),)}, range({k}))")
        self.claim(k, int(mask.sum()))
        self.labels.append(Labels(name, shape, k))

    def observed_labels(self) -> None:
        """Known labels with a distribution of their own."""
        k = self.states()
        shape = self.pick((3,), (), (2, 2), (4,))
        name = self.name("k")
        values = self.array(shape, k).tolist()
        self.write(f"{name} = pm.Categorical({name!r}, {self.weights(k, shape)}, observed={values})")
        self.labels.append(Labels(name, shape, k))

    def markov(self) -> None:
        k, lags = self.pick((2, 1), (2, 1), (3, 1), (2, 2))
        batch = self.pick((), (), (2,))
        steps = lags + 1 + self.choose(3)
        shape = (*batch, steps)
        if k ** int(np.prod(shape)) > self.room:
            return
        square = (k,) * (lags + 1)
        options = [lambda: self.parameter("simplex", *square), lambda: self.parameter("simplex", *batch, *square)]
        if self.labels:
            one = self.index(batch)
            if one.shape == batch:
                options += [lambda: f"{self.parameter('simplex', one.size, *square)}[{one.index}]"] * 2
        P = self.pick(*options)()
        options = f", n_lags={lags}" if lags > 1 else ""
        if lags == 1 and self.flag(4):
            P, options = self.parameter("simplex", *batch, steps - lags, *square), ", time_varying_P=True"
        start = f"pm.Categorical.dist({self.parameter('simplex', k)})"
        name = self.name("h")
        self.declare(name, f"DiscreteMarkovChain({name!r}, P={P}, init_dist={start}, shape={shape}{options})", shape, k)

    # --- integer expressions -----------------------------------------------------------------------------------

    def index(self, shape: Shape, exact: bool = False) -> Labels:
        """Labels that broadcast to (or have exactly) a shape."""
        kind = self.choose(10)
        if kind <= 5 or (kind == 9 and not shape):
            return self.arrange(self.pick(*reversed(self.labels)), shape, exact)
        one = self.index(shape, exact)
        if kind == 6:
            return self.relabel(one)
        other = self.index(shape, exact)
        if kind == 7 and one.size + other.size <= 7:
            whole = np.broadcast_shapes(one.shape, other.shape)
            combined = f"({one.index} * {other.size} + {other.index})"
            return self.pick(
                Labels(f"({one.text} + {other.text})", whole, one.size + other.size - 1, one.lower + other.lower),
                Labels(combined, whole, one.size * other.size),
                Labels(f"pt.maximum({one.index}, {other.index})", whole, max(one.size, other.size)),
                Labels(f"pt.eq({one.index}, {other.index}).astype(int)", whole, 2),
                Labels(f"({one.index} * {other.index})", whole, (one.size - 1) * (other.size - 1) + 1),
            )
        if kind == 9 and shape[0] > 1:
            return self.joined(shape)
        return one

    def relabel(self, one: Labels) -> Labels:
        if self.flag(5):
            name = self.name("d")
            self.write(f"{name} = pm.Deterministic({name!r}, {one.text})")
            return Labels(name, one.shape, one.size, one.lower)
        return self.pick(
            Labels(f"({one.lower + one.size - 1} - {one.text})", one.shape, one.size),
            Labels(f"pt.as_tensor(np.array({self.permutation(one.size)}))[{one.index}]", one.shape, one.size),
            Labels(f"({one.index} > 0).astype(int)", one.shape, 2),
            Labels(f"pt.switch(pt.eq({one.index}, 0), 1, 0)", one.shape, 2),
        )

    def joined(self, shape: Shape) -> Labels:
        """Two parts along the first axis; the second may be known."""
        first = 1 + self.choose(shape[0] - 1)
        rest = (shape[0] - first, *shape[1:])
        one = self.index((first, *shape[1:]), exact=True)
        other = self.index(rest, exact=True)
        if self.flag(3):
            known = (self.array(rest, one.size)).tolist()
            return Labels(f"pt.concatenate([{one.index}, np.array({known})])", shape, one.size)
        return Labels(f"pt.concatenate([{one.index}, {other.index}])", shape, max(one.size, other.size))

    def arrange(self, source: Labels, shape: Shape, exact: bool = False) -> Labels:
        text, result = self.fit(source.text, source.shape, shape, exact)
        return Labels(text, result, source.size, source.lower)

    def fit(self, text: str, own: Shape, shape: Shape, exact: bool) -> tuple[str, Shape]:
        """Bring an array to a shape (or to one that broadcasts to it) by movement alone."""
        if own == shape:
            return self.move(text, shape), shape
        if not shape:
            return self.entry(text, own), ()
        options = []
        size = int(np.prod(shape))
        if np.prod(own) == size:
            options += [lambda: (f"{text}.reshape({shape})", shape)] * 2
            if len(shape) == 1:
                options.append(lambda: (f"{text}.flatten()", shape))
        if own == shape[::-1]:
            options += [lambda: (f"{text}.T", shape)] * 3
        if len(own) == 1 and len(shape) >= 1:
            options.append(lambda: (f"{text}[{self.indices(shape, own[0])}]", shape))
            if own[0] > shape[-1] and len(shape) == 1:
                start = self.choose(own[0] - shape[0] + 1)
                options.append(lambda: (f"{text}[{start}:{start + shape[0]}]", shape))
                mask = [i in sorted(self.permutation(own[0])[: shape[0]]) for i in range(own[0])]
                if sum(mask) == shape[0]:
                    options.append(lambda: (f"{text}[np.array({mask})]", shape))
        if len(own) == 1 and len(shape) == 2 and not exact:
            if own[0] == shape[0]:
                options += [lambda: (f"{text}[:, None]", (own[0], 1))] * 3
            if own[0] == shape[1]:
                options += [lambda: (f"{text}[None, :]", (1, own[0])), lambda: (text, own)]
        if len(own) == 2 and len(shape) == 1:
            if own[0] == shape[0]:
                options += [lambda: (f"{text}[:, {self.choose(own[1])}]", shape)] * 2
            if own[1] == shape[0]:
                options += [lambda: (f"{text}[{self.choose(own[0])}]", shape)] * 2
        if len(own) == 2:
            options.append(lambda: (f"{text}[{', '.join(self.indices(shape, n) for n in own)}]", shape))
        if not own:
            if not exact:
                return text, ()
            options.append(lambda: (f"pt.broadcast_to({text}, {shape})", shape))
            options.append(lambda: (f"pt.full({shape}, {text})", shape))
        if not options:
            return f"{text}.flatten()[{self.indices(shape, int(np.prod(own)))}]", shape
        return self.pick(*options)()

    def entry(self, text: str, own: Shape) -> str:
        if not own:
            return text
        return f"{text}[{', '.join(str(self.choose(n) - self.choose(2) * n) for n in own)}]"

    def move(self, text: str, shape: Shape) -> str:
        """The same shape, perhaps in another order."""
        if not shape or self.choose(3) < 2:
            return text
        return self.pick(
            f"{text}[::-1]",
            f"{text}[np.array({self.permutation(shape[0])})]",
            f"{text}[..., ::-1]",
            f"{text}[{self.array((shape[0],), shape[0]).tolist()}]",
            f"pt.set_subtensor({text}[{self.choose(shape[0])}], 0)",
            f"pt.set_subtensor({text}[{self.choose(shape[0])}], {text}[{self.choose(shape[0])}])",
            f"pt.roll({text}, 1, axis=0)",
            f"pt.flip({text}, axis=-1)",
        )

    # --- real expressions --------------------------------------------------------------------------------------

    def real(self, shape: Shape, depth: int, exact: bool = False) -> Real:
        """An expression of parameters, covariates and labels that broadcasts to (or has exactly) a shape."""
        leaves = [self.selected, self.selected, self.selected_by_two, self.columns, self.rows, self.regression,
                  self.arithmetic, self.one_hot, self.plain, self.mixed]  # fmt: skip
        branches = [self.sum_of_two, self.switched, self.function, self.deterministic, self.moved, self.concatenated,
                    self.assigned, self.chosen, self.product, self.stacked]  # fmt: skip
        if not self.labels:
            return self.plain(shape, 0, exact)
        options = leaves if depth == 0 or self.flag(3) else branches
        value = self.pick(*options)(shape, depth - 1, exact)
        if exact and value.shape != shape:
            return Real(f"pt.broadcast_to({value.text}, {shape})", shape)
        return value

    def selected(self, shape: Shape, depth: int, exact: bool) -> Real:
        one = self.index(shape, exact)
        a = self.parameter("real", one.size)
        return Real(self.pick(f"{a}[{one.index}]", f"pt.take({a}, {one.index})"), one.shape)

    def selected_by_two(self, shape: Shape, depth: int, exact: bool) -> Real:
        one, other = self.index(shape, exact), self.index(shape, exact)
        a = self.parameter("real", one.size, other.size)
        whole = np.broadcast_shapes(one.shape, other.shape)
        texts = [f"{a}[{one.index}, {other.index}]"]
        if one.shape == ():
            texts.append(f"{a}[{one.index}][{other.index}]")
        elif len(one.shape) == 1 and one.shape == other.shape:
            texts.append(f"{a}[{one.index}][np.arange({one.shape[0]}), {other.index}]")
        return Real(self.pick(*texts), whole)

    def columns(self, shape: Shape, depth: int, exact: bool) -> Real:
        """``A[z, arange]`` and ``A[:, z]``."""
        if not shape:
            return self.selected(shape, depth, exact)
        if self.flag():
            one = self.index(shape[1:], exact=True)
            return Real(f"{self.parameter('real', shape[0], one.size)}[:, {one.index}]", shape)
        one = self.index(shape, exact=True)
        if len(shape) == 1 and self.flag():
            rows = f"np.arange({shape[0]})"
            return Real(f"({self.noise((shape[0], 2))} @ {self.parameter('real', one.size, 2)}.T)[{rows}, {one.index}]",
                        shape)  # fmt: skip
        return Real(f"{self.parameter('real', one.size, shape[-1])}[{one.index}, np.arange({shape[-1]})]", shape)

    def rows(self, shape: Shape, depth: int, exact: bool) -> Real:
        """``A[z]``: a row of parameters for every label."""
        if not shape:
            return self.selected(shape, depth, exact)
        one = self.index(shape[:-1], exact=True)
        return Real(f"{self.parameter('real', one.size, shape[-1])}[{one.index}]", (*one.shape, shape[-1]))

    def regression(self, shape: Shape, depth: int, exact: bool) -> Real:
        one = self.index(shape, exact=True)
        b = self.parameter("real", one.size, 2)
        x = self.noise((*shape, 2))
        return Real(self.pick(f"({x} * {b}[{one.index}]).sum(-1)", f"({b}[{one.index}] * {x}).mean(axis=-1)"), shape)

    def arithmetic(self, shape: Shape, depth: int, exact: bool) -> Real:
        """The label itself takes part."""
        one = self.index(shape, exact)
        a = self.parameter("real")
        return Real(self.pick(f"({one.text} * 1.5 + {a})", f"({a} * {one.text})", f"({a} - 0.5 * {one.text} ** 2)"),
                    one.shape)  # fmt: skip

    def one_hot(self, shape: Shape, depth: int, exact: bool) -> Real:
        one = self.index(shape, exact=True)
        a = self.parameter("real", one.size)
        last = f"{one.index}[..., None]" if shape else one.index
        return Real(self.pick(f"(pt.eq({last}, np.arange({one.size})) * {a}).sum(-1)",
                              f"(pt.eye({one.size})[{one.index}] @ {a})"), shape)  # fmt: skip

    def mixed(self, shape: Shape, depth: int, exact: bool) -> Real:
        """Several elements of a latent in one entry."""
        if not self.flag(6):
            return self.selected(shape, depth, exact)
        long = [z for z in self.labels if len(z.shape) == 1]
        if long and self.flag():
            z = self.pick(*reversed(long))
            product = f"({self.parameter('real', *z.shape)} * {z.text})"
            if not shape:
                return Real(f"{product}.sum()", ())
            return Real(f"({self.noise((*shape, *z.shape))} @ {product})", shape)
        one = self.index((*shape, 2), exact=True)
        how = self.pick("{}.sum(-1)", "{}.max(-1)", "{}.prod(axis=-1)", "pt.cumsum({}, axis=-1)[..., 1]", "{}.mean(-1)",
                        "pt.any(pt.eq({}, 1), axis=-1)")  # fmt: skip
        return Real(f"({self.parameter('real')} * {how.format(one.text)})", shape)

    def plain(self, shape: Shape, depth: int, exact: bool) -> Real:
        if shape and self.flag():
            return Real(f"({self.parameter('real')} * {self.noise(shape)})", shape)
        own = self.pick((), shape, shape[-1:])
        return Real(self.parameter("real", *own), own)

    def sum_of_two(self, shape: Shape, depth: int, exact: bool) -> Real:
        a, b = self.real(shape, depth, exact), self.real(shape, depth, exact)
        return Real(f"({a.text} {self.pick('+', '-')} {b.text})", np.broadcast_shapes(a.shape, b.shape))

    def product(self, shape: Shape, depth: int, exact: bool) -> Real:
        a, b = self.real(shape, depth, exact), self.real(shape, depth, exact)
        return Real(f"({a.text} * {b.text})", np.broadcast_shapes(a.shape, b.shape))

    def switched(self, shape: Shape, depth: int, exact: bool) -> Real:
        one = self.index(shape, exact)
        a, b = self.real(shape, depth), self.real(shape, depth)
        state = one.lower + self.choose(one.size)
        if (one.lower, one.size) == (0, 2) and self.flag():
            return Real(f"pt.switch({one.text}, {a.text}, {b.text})", np.broadcast_shapes(one.shape, a.shape, b.shape))
        condition = self.pick(f"pt.eq({one.text}, {state})", f"{one.text} > {state}", f"{one.text} <= {state}")
        return Real(f"pt.switch({condition}, {a.text}, {b.text})", np.broadcast_shapes(one.shape, a.shape, b.shape))

    def function(self, shape: Shape, depth: int, exact: bool) -> Real:
        a = self.real(shape, depth, exact)
        return Real(self.pick(f"(0.5 * {a.text})", f"pt.tanh({a.text})", f"-({a.text})", f"pt.clip({a.text}, -1, 1)"),
                    a.shape)  # fmt: skip

    def deterministic(self, shape: Shape, depth: int, exact: bool) -> Real:
        a = self.real(shape, depth, exact)
        name = self.name("d")
        self.write(f"{name} = pm.Deterministic({name!r}, {a.text})")
        return Real(name, a.shape)

    def moved(self, shape: Shape, depth: int, exact: bool) -> Real:
        """Another shape, or another order, and back."""
        source = self.pick(shape, shape[::-1], (int(np.prod(shape)),), (2, *shape), (3,))
        a = self.real(source, depth, exact=True)
        if len(source) == 3:
            return Real(f"({a.text})[{self.choose(2)}]", shape)
        text, result = self.fit(a.text, a.shape, shape, exact)
        return Real(text, result)

    def concatenated(self, shape: Shape, depth: int, exact: bool) -> Real:
        long = [d for d, n in enumerate(shape) if n > 1]
        if not long:
            return self.real(shape, depth, exact)
        axis = self.pick(*long)
        first = 1 + self.choose(shape[axis] - 1)
        parts = [
            self.real(tuple(n if d == axis else m for d, m in enumerate(shape)), depth, exact=True)
            for n in (first, shape[axis] - first)
        ]
        return Real(f"pt.concatenate([{parts[0].text}, {parts[1].text}], axis={axis})", shape)

    def stacked(self, shape: Shape, depth: int, exact: bool) -> Real:
        axes = [d for d, n in enumerate(shape) if n <= 3]
        if not axes:
            return self.real(shape, depth, exact)
        axis = self.pick(*axes)
        rest = shape[:axis] + shape[axis + 1 :]
        parts = [self.real(rest, depth, exact=True).text for _ in range(shape[axis])]
        return Real(f"pt.stack([{', '.join(parts)}], axis={axis})", shape)

    def assigned(self, shape: Shape, depth: int, exact: bool) -> Real:
        if not shape:
            return self.real(shape, depth, exact)
        a = self.real(shape, depth, exact=True)
        how = self.pick("set", "inc")
        if self.flag():
            where = sorted(self.permutation(shape[0])[: 1 + self.choose(shape[0])])
            b = self.real((len(where), *shape[1:]), depth)
            return Real(f"pt.{how}_subtensor({a.text}[{where}], {b.text})", shape)
        b = self.real(shape[1:], depth)
        return Real(f"pt.{how}_subtensor({a.text}[{self.choose(shape[0])}], {b.text})", shape)

    def chosen(self, shape: Shape, depth: int, exact: bool) -> Real:
        """One of several expressions, selected by a label."""
        one = self.index(shape, exact=True)
        if len(shape) > 1 or one.size > 3:
            return self.selected(shape, depth, exact)
        parts = [self.real(shape, max(depth - 1, 0), exact=True).text for _ in range(one.size)]
        rest = f", np.arange({shape[0]})" if shape else ""
        return Real(f"pt.stack([{', '.join(parts)}])[{one.index}{rest}]", shape)

    # --- observed variables and Potentials ---------------------------------------------------------------------

    def data_shape(self) -> Shape:
        return self.pick(*[s.shape for s in reversed(self.labels)], (3,), (2, 2), (), (4,), (6,), (2, 3),
                         (1,), (40,))  # fmt: skip

    def depth(self) -> int:
        return self.pick(0, 1, 1, 2)

    def add_observed(self) -> None:
        kind = self.pick(self.normal, self.normal, self.normal, self.poisson, self.bernoulli_data,
                         self.categorical_data, self.student, self.gamma, self.binomial, self.multivariate,
                         self.other)  # fmt: skip
        kind(self.name("y"), self.data_shape())

    def positive(self, shape: Shape) -> str:
        """A positive argument."""
        kind = self.choose(3)
        if kind == 0:
            return self.parameter("positive")
        if kind == 1:
            one = self.index(shape)
            return f"{self.parameter('positive', one.size)}[{one.index}]"
        return f"pt.exp(0.3 * {self.real(shape, self.depth()).text})"

    def data(self, shape: Shape) -> str:
        """Observed values, sometimes with missing ones."""
        if len(shape) != 1 or not 2 <= shape[0] <= 8 or not self.flag(8):
            return self.noise(shape)
        mask = self.array(shape, 2).astype(bool)
        mask[0], mask[-1] = True, False
        return f"masked(noise({self.seed()}, {shape}), {mask.tolist()})"

    def normal(self, name: str, shape: Shape) -> None:
        mean = self.real(shape, self.depth()).text
        self.write(f"pm.Normal({name!r}, {mean}, {self.positive(shape)}, "
                   f"observed={self.data(shape)})")  # fmt: skip

    def poisson(self, name: str, shape: Shape) -> None:
        rate = self.positive(shape)
        if self.flag(4):
            one = self.index(shape)
            rate = f"{rate} * {one.index}"  # structural zeros
            rate = self.pick(rate, f"pt.switch(pt.eq({one.index}, 0), 0.0, {rate})")
        self.write(f"pm.Poisson({name!r}, {rate}, observed=counts({self.seed()}, {shape}, 3))")

    def bernoulli_data(self, name: str, shape: Shape) -> None:
        p = self.probability(shape)
        values = f"counts({self.seed()}, {shape}, 2)"
        if len(shape) == 1 and shape[0] > 1 and self.room > 4 and self.flag(4):  # missing ones are latents
            self.write(f"pm.Bernoulli({name!r}, {p}, observed=masked({values}, {[True] + [False] * (shape[0] - 1)}))")
            self.write(f"domains['{name}_unobserved'] = ((1,), range(2))")
            self.claim(2, 1)
        else:
            self.write(f"pm.Bernoulli({name!r}, {p}, observed={values})")

    def categorical_data(self, name: str, shape: Shape) -> None:
        one = self.index(shape)
        k = 3
        a = self.pick(self.parameter("simplex", one.size, k) + f"[{one.index}]", f"logit_p={self.logits(k, shape)}")
        self.write(f"pm.Categorical({name!r}, {a}, observed=counts({self.seed()}, {shape}, {k}))")

    def student(self, name: str, shape: Shape) -> None:
        self.write(f"pm.StudentT({name!r}, nu=2 + {self.positive(shape)}, mu={self.real(shape, self.depth()).text}, "
                   f"sigma={self.positive(shape)}, observed={self.noise(shape)})")  # fmt: skip

    def gamma(self, name: str, shape: Shape) -> None:
        self.write(f"pm.Gamma({name!r}, {self.positive(shape)}, {self.positive(shape)}, "
                   f"observed=np.exp(noise({self.seed()}, {shape})))")  # fmt: skip

    def binomial(self, name: str, shape: Shape) -> None:
        self.write(f"pm.Binomial({name!r}, n=4, {self.probability(shape)}, "
                   f"observed=counts({self.seed()}, {shape}, 5))")  # fmt: skip

    def other(self, name: str, shape: Shape) -> None:
        a, b = self.real(shape, self.depth()).text, self.positive(shape)
        self.write(self.pick(
            f"pm.Laplace({name!r}, {a}, {b}, observed={self.noise(shape)})",
            f"pm.Exponential({name!r}, {b}, observed=np.exp(noise({self.seed()}, {shape})))",
            f"pm.NegativeBinomial({name!r}, mu={b}, alpha={self.parameter('positive')}, "
            f"observed=counts({self.seed()}, {shape}, 4))",
            f"pm.Logistic({name!r}, {a}, {b}, observed={self.noise(shape)})",
            f"pm.LogNormal({name!r}, {a}, {b}, observed=np.exp(noise({self.seed()}, {shape})))",
            f"pm.Censored({name!r}, pm.Normal.dist({a}, {b}), lower=None, upper=0.5, "
            f"observed=np.minimum(noise({self.seed()}, {shape}), 0.5))",
        ))  # fmt: skip

    def multivariate(self, name: str, shape: Shape) -> None:
        """Pairs of values."""
        shape = shape[:1]
        one = self.index(shape)
        mean = self.pick(
            f"{self.parameter('real', one.size, 2)}[{one.index}]", f"{self.parameter('real')} * {self.noise((2,))}"
        )
        if self.flag():
            other = self.index(shape)
            chol = f"triangular({self.parameter('positive', other.size, 3)})[{other.index}]"
        else:
            chol = f"triangular({self.parameter('positive', 3)})"
        scale = self.pick(f"chol={chol}", f"cov={chol} @ {chol}.mT")
        self.write(f"pm.MvNormal({name!r}, {mean}, {scale}, observed={self.noise((*shape, 2))})")

    def add_potential(self) -> None:
        name = self.name("f")
        shape = self.data_shape()
        total = self.pick("", ".sum()")
        kind = self.choose(5)
        if kind == 0:
            text = f"(1.0 * {self.real(shape, self.depth()).text})"
        elif kind == 1:
            one, other = self.index(shape), self.index(shape)
            a = self.parameter("real")
            text = self.pick(f"({a} * {one.text} * {other.text})", f"({a} * pt.eq({one.text}, {other.text}))")
        elif kind == 2:
            text = f"(-0.5 * ({self.noise(shape)} - {self.real(shape, self.depth()).text}) ** 2)"
        elif kind == 3:
            mean = self.real(shape, self.depth()).text
            text = f"pm.logp(pm.Normal.dist({mean}, {self.positive(shape)}), {self.noise(shape)})"
        else:
            text = self.steps()
        self.write(f"pm.Potential({name!r}, {text}{total})")

    def steps(self) -> str:
        """Transitions along the first axis of one latent."""
        long = [z for z in self.labels if z.shape and z.shape[0] > 1]
        if not long:
            return f"({self.parameter('real')} * {self.index(()).text})"
        z = self.pick(*long)
        P = self.parameter("simplex", z.size, z.size)
        lag = 1 + self.choose(min(2, z.shape[0] - 1))
        before, after = f"{z.index}[:-{lag}]", f"{z.index}[{lag}:]"
        return self.pick(
            f"pt.log({P})[{before}, {after}]",
            f"pt.log({P}[{before}, {after}])",
            f"(pt.log({P}[{before}]) * pt.eq({after}[..., None], np.arange({z.size})))",
            f"pm.logp(pm.Categorical.dist({P}[{before}]), {after})",
        )

    def add_pair(self) -> None:
        """A Deterministic of two elements, whose posterior mean needs their joint posterior."""
        a, b = (self.arrange(self.pick(*reversed(self.labels)), ()) for _ in range(2))
        name = self.name("d")
        self.write(f"pm.Deterministic({name!r}, pt.exp(0.3 * {a.text} * {b.text}) + {a.text})")

    def program(self) -> str:
        self.add_latent()
        while not self.labels:
            self.categorical()
        for _ in range(self.choose(3)):
            self.add_latent()
        for _ in range(1 + self.choose(3)):
            self.add_observed()
        for _ in range(self.pick(0, 0, 1, 2)):
            self.add_potential()
        if self.flag():
            self.add_pair()
        return "\n".join(used_lines(self.lines)) + "\n"


def used_lines(lines: list[str]) -> list[str]:
    """Without the parameters of expressions that were not chosen."""
    kept: list[str] = []
    for line in reversed(lines):
        declared = re.match(r"(\w+) = (real|positive|unit|simplex|pm\.Data)\(", line)
        if declared is None or any(re.search(rf"\b{declared[1]}\b", other) for other in kept):
            kept.append(line)
    return kept[::-1]


def write_program(choose: Callable[[int], int]) -> str:
    return Writer(choose).program()


@st.composite
def programs(draw) -> str:
    """The text of a random model."""
    return write_program(lambda n: draw(st.integers(0, n - 1)) if n > 1 else 0)


# --- what programs call ----------------------------------------------------------------------------------------


@dataclass
class Built:
    """A model, the states of its latents, and values for its parameters (constrained space)."""

    model: pm.Model
    domains: dict
    parameters: dict


def build(source: str) -> Built:
    import warnings

    from pymc_extras.distributions import DiscreteMarkovChain

    point, domains, rng = {}, {}, np.random.default_rng(len(source))

    def real(name, *shape):
        point[name] = rng.normal(size=shape)
        return pm.Flat(name, shape=shape)

    def positive(name, *shape):
        point[name] = rng.gamma(4.0, 0.25, size=shape)
        return pm.HalfFlat(name, shape=shape)

    def unit(name, *shape):
        point[name] = rng.uniform(0.1, 0.9, size=shape)
        return pm.Uniform(name, shape=shape)

    def simplex(name, *shape):
        point[name] = rng.dirichlet(np.full(shape[-1], 2.0), size=shape[:-1])
        return pm.Dirichlet(name, np.ones(shape))

    def triangular(packed):
        zero = pt.zeros_like(packed[..., 0])
        first = pt.stack([packed[..., 0], zero], axis=-1)
        return pt.stack([first, pt.stack([packed[..., 1] - 1, packed[..., 2]], axis=-1)], axis=-2)

    names = {"np": np, "pm": pm, "pt": pt, "DiscreteMarkovChain": DiscreteMarkovChain, "domains": domains,
             "real": real, "positive": positive, "unit": unit, "simplex": simplex, "triangular": triangular,
             "noise": noise, "counts": counts, "masked": masked}  # fmt: skip
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMC announces imputation
        exec(source, names)
    return Built(model, domains, point)


def noise(seed: int, shape: Shape) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def counts(seed: int, shape: Shape, high: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, size=shape)


def masked(values, mask) -> np.ma.MaskedArray:
    return np.ma.masked_array(values, mask=mask)
