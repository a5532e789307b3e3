"""Small workloads and contenders for the tests of the benchmarks' proof and timing. NumPy only."""

from typing import ClassVar

import numpy as np

from tilegrad.bench.libraries.base import Instance
from tilegrad.bench.timing import Contender
from tilegrad.bench.workload import Truth, Workload
from tilegrad.bench.workloads.dense import Dense

DENSE = Dense(m=17, k=31, n=9)


class Unlisted(Workload):
    """A workload that no descriptor finds."""

    sizes: ClassVar = {}

    def __str__(self):
        return type(self).__name__


class Copy(Unlisted):
    """y = x."""

    def prepare(self):
        self.shapes = {"y": (7, 33)}

    def inputs(self, rng):
        return {"x": rng.standard_normal((7, 33), dtype=np.float32)}

    def exact(self, x):
        return [x]


class Step(Unlisted):
    """w -= 0.1 g, in place."""

    in_place = True

    def prepare(self):
        self.shapes = {"w": (129,)}

    def inputs(self, rng):
        return {name: rng.standard_normal(129, dtype=np.float32) for name in "wg"}

    def exact(self, w, g):
        return [w - 0.1 * g]

    def magnitude(self, exact, w, g):
        return [abs(w) + abs(g)]


class Largest(Unlisted):
    """y = the largest of each row; index = which one it is."""

    dtypes: ClassVar = {"index": np.uint8}

    def prepare(self):
        self.shapes = {"y": (31,), "index": (31,)}

    def inputs(self, rng):
        return {"x": rng.standard_normal((31, 17), dtype=np.float32)}

    def exact(self, x):
        return [x.max(1), x.argmax(1)]


def two_truths(workload, calls=1):
    return [Truth(workload, seed, calls) for seed in (0, 1)]


class Honest(Instance):
    """Computes a workload into outputs made beforehand; attacks override `call`."""

    def __init__(self, workload):
        self.workload = workload
        self.inputs = workload.inputs(np.random.default_rng(9))
        self.outputs = [
            self.inputs[name]
            if workload.in_place
            else np.zeros(shape, workload.dtypes.get(name, np.float32))
            for name, shape in workload.shapes.items()
        ]

    def load(self, inputs):
        for name, a in inputs.items():
            self.inputs[name][...] = a

    def poison(self):
        for a in self.outputs:
            a[...] = np.nan if a.dtype.kind == "f" else 0x5A

    def call(self):
        for a, value in zip(self.outputs, self.computed(), strict=True):
            a[...] = value

    def results(self, returned):
        return self.outputs

    def held(self):
        return self.inputs

    def computed(self):
        """The right outputs, in float32."""
        if self.workload is DENSE:  # whose reference computes in float64 only
            x, w, b = self.inputs.values()
            return [np.maximum(x @ w + b, 0)]
        return self.workload.exact(**self.inputs)


class Fresh(Honest):
    """Returns new outputs from each call."""

    def poison(self):
        """There is nothing to poison."""

    def call(self):
        return [np.array(a, np.float32) for a in self.computed()]

    def results(self, returned):
        return returned


class Immutable(Fresh):
    """Cannot write its arrays, only replace them."""

    def load(self, inputs):
        self.inputs = {name: _frozen(a.copy()) for name, a in inputs.items()}

    def call(self):
        return [_frozen(a) for a in super().call()]


def _frozen(a):
    a.flags.writeable = False
    return a


def bound(kind, workload=DENSE, name="suspect", **options):
    """A contender with two instances of `kind`."""
    return Contender(name, (kind(workload, **options), kind(workload, **options)))
