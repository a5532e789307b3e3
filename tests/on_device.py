"""A GPU's kernels as the tests call all others: with NumPy arrays."""

from __future__ import annotations

import numpy as np
from checks import map_arrays

from tilegrad.backend import KERNELS

HOST = ("scale", "decay")  # arrays that stay in NumPy's memory on every device


class OnDevice:
    """A backend whose arrays are CuPy's: takes NumPy arrays, and copies them there and back.

    What is copied is the whole memory behind an array, guards included, so that a kernel which
    touches what lies before or after its arrays is found as it is on a CPU.
    """

    def __init__(self, backend):
        self._backend = backend
        self.name = backend.name
        self.module = backend.module

    def __getattr__(self, name):
        kernel = getattr(self._backend, name)
        if name not in KERNELS:
            return kernel

        def call(*arguments):
            there = {}  # the address of each memory -> (its bytes here, its bytes there)
            moved = [
                a if key in HOST else map_arrays(lambda each: self._move(each, there), a)
                for key, a in zip(KERNELS[name].split(", "), arguments, strict=True)
            ]
            kernel(*moved)
            for here, copy in there.values():
                if here.flags.writeable:
                    here[...] = copy.get()

        return call

    def _move(self, array, there):
        memory = array
        while isinstance(memory.base, np.ndarray) and memory.base.flags.c_contiguous:
            memory = memory.base
        here = memory.reshape(-1).view(np.uint8)
        offset = array.ctypes.data - memory.ctypes.data
        _, copy = there.setdefault(memory.ctypes.data, (here, self._backend.xp.asarray(here)))
        return copy[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
