"""The same bits for any number of threads, from run to run, from other threads and after a fork."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from checks import unchanged
from samples import calls

LARGE = calls(large=True)


@pytest.fixture
def threads(compiled):
    """Sets the number of threads; the one before comes back at the end."""
    before = compiled.module.get_num_threads()
    yield compiled.module.set_num_threads
    compiled.module.set_num_threads(before)


def bits(call, k):
    """Every bit that a fresh run of `call` writes."""
    fresh = call.copy()
    kept = [v for key, v in fresh.arguments.items() if key not in fresh.written()]
    with unchanged(*kept):
        written = fresh.run(k)
    return [array.tobytes() for value in written.values() for array in _arrays(value)]


def _arrays(value):
    if isinstance(value, np.ndarray):
        yield value
    else:
        for each in value:
            yield from _arrays(each)


@pytest.mark.parametrize("call", LARGE, ids=lambda c: c.label)
def test_any_number_of_threads(compiled, threads, call):
    threads(1)
    first = bits(call, compiled)
    for count in (1, 2, 3, 7):
        threads(count)
        for _ in range(2):
            assert bits(call, compiled) == first, f"{count} threads give other bits than 1"


@pytest.mark.parametrize("call", calls(), ids=lambda c: c.label)
def test_twice_on_every_backend(backend, call):
    assert bits(call, backend) == bits(call, backend)


def test_several_python_threads_at_once(compiled, threads):
    """Concurrent calls share neither a workspace nor a half-finished job."""
    threads(2)
    chosen = [c for c in LARGE if "backward_dw" in c.name or "sum" in c.name or "dense" in c.name]
    right = [bits(c, compiled) for c in chosen]
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: [bits(c, compiled) for c in chosen], range(4)):
            assert got == right


FORK = """
import os, sys
import numpy as np
from tilegrad import backend

k = backend.load(sys.argv[1])
k.module.set_num_threads(2)
x, w = np.ones((257, 129), "float32"), np.ones((129, 255), "float32")

def product():
    y = np.empty((257, 255), "float32")
    k.dense_forward(y, x, w, None, 0, 0.0)
    return y.tobytes()

right = product()
child = os.fork()
if child == 0:
    os._exit(0 if product() == right else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert product() == right
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_the_same(compiled):
    """The child of a process whose worker threads run has none of them and starts its own.

    In a process of its own, where no other library's threads can make the fork unsafe.
    """
    command = [sys.executable, "-c", FORK, compiled.name]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_the_number_of_threads_is_checked(compiled, threads):
    for wrong in (0, -1, 1025, 2**40):
        with pytest.raises(ValueError):
            threads(wrong)
    for wrong in (1.5, None, "2", 2**70):
        with pytest.raises(TypeError):
            threads(wrong)
    threads(3)
    assert compiled.module.get_num_threads() == 3
