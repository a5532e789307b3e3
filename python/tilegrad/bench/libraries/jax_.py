"""JAX: a jitted function on arrays that were put on the device beforehand, waited for."""

from __future__ import annotations

import contextlib
import functools
import glob
import importlib.metadata
import importlib.util
from collections.abc import Iterator

import numpy as np

from ..workload import Way, Workload
from .base import Library
from .fresh import Fresh, as_tuple, check_cores


class Jax(Library):
    """JAX on the CPU. XLA takes a thread for each core that the process may use."""

    name, label, setting = "jax", "JAX", "jit, waited for"

    def absent(self) -> str | None:
        return None if importlib.util.find_spec("jax") else "JAX is not installed: pip install jax"

    def version(self) -> str:
        return importlib.metadata.version("jax")

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """Raises RuntimeError where XLA has another number of threads; it cannot be changed."""
        check_cores("jax", count)
        found = _pool()
        if found not in (0, count):
            raise RuntimeError(
                f"jax: expected XLA to have {count} threads, got {found}; "
                "it counts the cores once, when it computes for the first time"
            )
        yield

    def bind(self, workload: Workload, way: Way) -> Fresh:
        kind = InPlace if workload.in_place else Waited
        return kind(workload, way)


class Waited(Fresh):
    """A jitted function. `call` returns when its results are there."""

    donated = ()

    def __init__(self, workload: Workload, way: Way):
        import jax

        compiled = jax.jit(lambda *a: as_tuple(way.function(*a)), donate_argnums=self.donated)

        def function(*arguments):
            results = compiled(*arguments)
            for a in results:
                if a is not None:
                    a.block_until_ready()
            return results

        super().__init__(workload, way, _put, function)


class InPlace(Waited):
    """One whose outputs take the memory of the inputs of the same name, and then their place."""

    def __init__(self, workload: Workload, way: Way):
        names = list(workload.kinds)
        self.donated = tuple(names.index(name) for name in workload.shapes)
        super().__init__(workload, way)

    def call(self) -> object:
        results = self.function(*self.arguments)
        for i, a in zip(self.donated, results, strict=True):
            self.arguments[i] = a
        return results


def _put(name: str, array: np.ndarray):
    """A JAX array that owns its memory: device_put may share NumPy's, which cannot be donated."""
    import jax.numpy as jnp

    return jnp.array(array, device=_cpu())


def _cpu():
    import jax

    return jax.devices("cpu")[0]


@functools.cache
def _pool() -> int:
    """The number of threads that XLA started for JAX; 0 if it had done so before, or elsewhere."""
    import jax

    before = _threads_of_xla()
    jax.jit(lambda a: a + a)(_put("a", np.zeros(3))).block_until_ready()
    return _threads_of_xla() - before


def _threads_of_xla() -> int:
    """How many threads of this process have the name of those of XLA, on Linux."""
    names = []
    for path in glob.glob("/proc/self/task/*/comm"):
        with contextlib.suppress(OSError), open(path) as file:  # threads come and go
            names.append(file.read().strip())
    return names.count("tf_XLAEigen")
