"""What is measured: a computation of stated sizes, its inputs, what is right, and what it costs.

A descriptor names a workload: ``conv2d:n32h28w28c64f128k3s1same`` is the workload ``conv2d`` with
its sizes, letters before numbers, and perhaps a word. `parse` reads one; ``str(workload)`` gives
it back with all sizes, in one order, so that equal workloads have equal names.
"""

from __future__ import annotations

import fnmatch
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

EPS = 2.0**-23  # float32
UNITS = 8  # an error may be up to UNITS eps sqrt(length of the sum) times the element's magnitude

WORKLOADS: dict[str, type[Workload]] = {}


@dataclass(frozen=True)
class Way:
    """One way that a library has to compute a workload.

    Args:
        setting: what the table says of it: the call and the layout.
        function: takes the library's arrays: the outputs first if `out`, then the inputs in the
            workload's order, then what `derive` gave; returns the outputs in the workload's order
            (also one alone), None for one that this way does not have.
        out: the outputs are made beforehand and written; what `function` returns is ignored.
        memory: name -> the order in which an array's axes lie in memory; () is the workload's own.
        seen: name -> the order in which `function` sees an array's axes. ``(0, 3, 1, 2)`` shows
            (n, h, w, c) as (n, c, h, w).
        derive: called with the arrays that `function` takes after they were loaded, outside of all
            timing; a tuple of further arguments: indices of maxima, scratch.
        lacks: with `out` or in place, the outputs that this way does not have: those made
            beforehand are fewer, and those updated are not compared.
    """

    setting: str
    function: Callable
    out: bool = False
    memory: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seen: Mapping[str, Sequence[int]] = field(default_factory=dict)
    derive: Callable | None = None
    lacks: Sequence[str] = ()


class Workload:
    """A computation: subclasses say what; an instance has its sizes as attributes.

    Attributes:
        name: in front of the colon.
        sizes: letter -> default; None where a descriptor must give it.
        words: the words that may end a descriptor, the default first; kept as `word`.
        in_place: outputs are inputs of the same name, updated; functions get the inputs only.
        aside: inputs and outputs that some library has and the formula does without, such as the
            image behind a pooling's indices: `nbytes` leaves them out.
        shapes: (float) outputs name -> shape; dtypes other than float32 stand in `dtypes`.
        length: of the longest sum, which rounding errors grow with.
        flops: of the formula at its least, a multiply-add counted as two.
    """

    name: ClassVar[str]
    sizes: ClassVar[dict[str, int | None]]
    words: ClassVar[tuple[str, ...]] = ()
    in_place: ClassVar[bool] = False
    aside: ClassVar[tuple[str, ...]] = ()

    shapes: dict[str, tuple[int, ...]]
    dtypes: Mapping[str, type] = {}
    length: int = 1
    flops: int = 0

    def __init_subclass__(cls):
        if "name" in cls.__dict__:
            WORKLOADS[cls.name] = cls

    def __init__(self, word: str = "", **sizes: int):
        self.word = word or (self.words[0] if self.words else "")
        for letter, default in self.sizes.items():
            setattr(self, letter, sizes.get(letter, default))
        self.prepare()

    def __str__(self):
        sizes = "".join(f"{letter}{getattr(self, letter)}" for letter in self.sizes)
        return f"{self.name}:{sizes}{self.word}"

    def prepare(self) -> None:
        """Set `shapes`, `length`, `flops`; raise ValueError for sizes that do not go together."""
        raise NotImplementedError

    def inputs(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """New float32 (or integer) inputs by name, in the order of the functions' arguments."""
        raise NotImplementedError

    def exact(self, **inputs: np.ndarray) -> Sequence[np.ndarray]:
        """The outputs, from inputs in float64."""
        raise NotImplementedError

    def magnitude(self, exact: Sequence[np.ndarray], **inputs: np.ndarray) -> Sequence[np.ndarray]:
        """What each output element's rounding error scales with; the default is its size.

        For a sum it is the root of the sum of squares, however small the result: that is how large
        partial sums are, where signs are random.
        """
        return [np.abs(a) for a in exact]

    def tilegrad(self, k) -> Callable:
        """A function that calls kernels of the backend `k`, with arrays in the order of a `Way`."""
        raise NotImplementedError

    def ways(self, library: str) -> Iterator[Way]:
        """How `library` ("numpy", "torch", "jax", ...) computes it; nothing where it does not."""
        method = getattr(self, library, None)
        return method() if method else iter(())

    @functools.cached_property
    def kinds(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each input."""
        inputs = self.inputs(np.random.default_rng(0))
        return {name: (a.shape, a.dtype) for name, a in inputs.items()}

    @functools.cached_property
    def nbytes(self) -> int:
        """The least bytes to move: every input read once, every output written once."""
        arrays = [(name, *kind) for name, kind in self.kinds.items()]
        for name, shape in self.shapes.items():
            arrays.append((name, shape, np.dtype(self.dtypes.get(name, np.float32))))
        return sum(
            math.prod(shape) * dtype.itemsize
            for name, shape, dtype in arrays
            if name not in self.aside
        )


class Truth:
    """A workload's inputs from one seed, the float64 outputs, and the error that each may have.

    Attributes:
        inputs: name -> array.
        outputs: float64, or integers, after `calls` calls.
        before: in place, what the outputs were before the last call.
        bounds: the same shapes: an output passes if |output - right| <= bound everywhere; NaN
            never does. Integers must be equal.
    """

    def __init__(self, workload: Workload, seed: int, calls: int = 1):
        self.workload, self.seed, self.calls = workload, seed, calls
        self.inputs = workload.inputs(np.random.default_rng(seed))
        wide = {name: _widen(a) for name, a in self.inputs.items()}
        sizes = [np.zeros(1)] * len(workload.shapes)  # the largest magnitudes of all calls
        for _ in range(calls):
            if workload.in_place:
                self.before = [wide[name] for name in workload.shapes]
            self.outputs = [np.asarray(a) for a in workload.exact(**wide)]
            if workload.in_place:
                wide |= dict(zip(workload.shapes, self.outputs, strict=True))
            sizes = list(map(np.maximum, sizes, workload.magnitude(self.outputs, **wide)))
        scale = UNITS * EPS * math.sqrt(workload.length * calls)
        self.bounds = [
            scale * np.broadcast_to(size, a.shape) if a.dtype.kind == "f" else np.zeros(a.shape)
            for a, size in zip(self.outputs, sizes, strict=True)
        ]


def letters(required: str, **defaults: int) -> dict[str, int | None]:
    """`Workload.sizes`: letters that a descriptor must give, then what others are if it does not.

    >>> letters("nc", s=1)
    {'n': None, 'c': None, 's': 1}
    """
    return dict.fromkeys(required) | defaults


def _widen(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) if a.dtype.kind == "f" else a


_TOKENS = re.compile(r"([a-z])(\d+)")


def parse(descriptor: str) -> Workload:
    """The workload that `descriptor` names.

    >>> str(parse("dense:k5408n128m128"))
    'dense:m128k5408n128'

    Raises:
        ValueError: it names none, or its sizes are not those that the workload has.
    """
    name, colon, rest = descriptor.strip().partition(":")
    kind = WORKLOADS.get(name)
    if kind is None or not colon:
        raise ValueError(
            f"workload: expected one of {', '.join(sorted(WORKLOADS))} and sizes after a colon, "
            f"got {descriptor!r}"
        )
    word = next((w for w in kind.words if rest.endswith(w)), "")
    rest = rest.removesuffix(word)
    tokens = _TOKENS.findall(rest)
    sizes = {letter: int(number) for letter, number in tokens}
    expected = "".join(f"{s}#" for s in kind.sizes) + "|".join(("", *kind.words)[:1] + kind.words)
    missing = [s for s, default in kind.sizes.items() if default is None and s not in sizes]
    wrong = "".join(a + b for a, b in tokens) != rest or len(sizes) != len(tokens)
    if wrong or missing or not sizes.keys() <= kind.sizes.keys() or 0 in sizes.values():
        raise ValueError(f"workload: expected {name}:{expected}, got {descriptor!r}")
    try:
        return kind(word, **sizes)
    except ValueError as error:
        raise ValueError(f"workload {descriptor}: {error}") from None


def select(workloads: Iterable[Workload], patterns: Sequence[str]) -> list[Workload]:
    """Those whose name matches one of `patterns` (``conv2d*``, ``*c64*``); all without patterns."""
    return [
        w
        for w in workloads
        if not patterns or any(fnmatch.fnmatchcase(str(w), p) for p in patterns)
    ]


def read_file(path) -> list[Workload]:
    """The workloads of a file: a descriptor a line; # begins a comment.

    Raises:
        ValueError: a line is none; it names the file and the line.
    """
    found = []
    with open(path) as lines:
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if text:
                try:
                    found.append(parse(text))
                except ValueError as error:
                    raise ValueError(f"{path}:{number}: {error}") from None
    return found
