"""What the harness asks of a library, and of one of its ways bound to memory of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np

from ..workload import Way, Workload


class Library:
    """A library that computes workloads: its name, version, how it is set, and its ways.

    Attributes:
        name: "torch"; also the name of the workload's method that gives its ways.
        device: "cpu", "cuda" or "sim".
        label: what the table calls it: "PyTorch", "tilegrad avx512".
        setting: how it is set in every row: "inference mode, denormals flushed".
        optional: it takes part only where it is named, since it costs much time.
    """

    name: str
    device: str = "cpu"
    label: str
    setting: str = ""
    optional: bool = False

    def wanted(self, names: Sequence[str]) -> bool:
        """Whether it takes part where `names` are asked for; () means all."""
        return self.name in names if names or self.optional else True

    def absent(self) -> str | None:
        """Why it cannot run here; None if it can. Imports nothing heavy."""
        raise NotImplementedError

    def version(self) -> str:
        raise NotImplementedError

    def threads(self, count: int) -> contextlib.AbstractContextManager:
        """Within the block it computes on `count` threads."""
        raise NotImplementedError

    def ways(self, workload: Workload) -> Sequence[Way]:
        return list(workload.ways(self.name))

    def bind(self, workload: Workload, way: Way) -> Instance:
        """`way` with input and output arrays of its own."""
        raise NotImplementedError


class Instance:
    """A way bound to memory of its own: what the harness loads, poisons, calls and reads.

    All arrays that it takes and gives are NumPy's, in the order of the workload's axes; what lies
    where in its own memory is its own affair. Only `call` is timed.
    """

    def load(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Write `inputs` into its own arrays, at the same addresses each time where it can."""
        raise NotImplementedError

    def poison(self) -> None:
        """Fill the outputs that were made beforehand with NaN; integers with 0x5a bytes."""
        raise NotImplementedError

    def call(self) -> object:
        """Compute once, to the end; what is timed."""
        raise NotImplementedError

    def results(self, returned: object) -> list[np.ndarray | None]:
        """The outputs after a call that returned `returned`; views of its memory where it can."""
        raise NotImplementedError

    def held(self) -> dict[str, np.ndarray]:
        """The inputs as they are now; views of its memory where it can."""
        raise NotImplementedError
