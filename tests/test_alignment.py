"""Arrays may begin at any element: results do not depend on where, to the last bit."""

import numpy as np
import pytest
from checks import GUARD, map_arrays
from samples import calls


def placed(offset):
    """Makes guarded copies that begin `offset` elements behind a 64-byte boundary."""

    def place(array):
        size = array.size + 2 * GUARD + 16
        memory = np.full(size, np.nan if array.dtype.kind == "f" else 90, array.dtype)
        skip = -memory.__array_interface__["data"][0] % 64 // array.itemsize
        view = memory[skip + GUARD + offset :][: array.size].reshape(array.shape)
        view[...] = array
        return view

    return place


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_any_alignment(backend, large):
    if large and backend.name in ("reference", "simtrace"):
        pytest.skip("slow; the small calls and the other backends do")
    for call in calls(large):
        results = []
        for offset in (0, 1) if large else range(4):
            fresh = call.copy(placed(offset))
            arrays = []
            map_arrays(arrays.append, list(fresh.run(backend).values()))
            results.append([a.tobytes() for a in arrays])
        assert all(r == results[0] for r in results), call.label
