"""Nearly right calls of every kernel: none may crash, hang, or write anywhere but to its outputs.

TILEGRAD_TEST_FUZZ sets the number of cases per instruction set.
"""

import pytest
from fuzz_kernels import CHANGES, SAMPLES, SIZES, flat
from fuzzing import Worker, budget
from hypothesis import given
from hypothesis import strategies as st
from samples import calls

from tilegrad.backend import KERNELS

NUMBER = st.integers(0, 2**16)
LENGTHS = sorted(
    {size for c in calls() for a in flat(list(c.arguments.values())) for size in a.shape}
)
CASE = st.tuples(
    st.sampled_from(sorted(KERNELS)),
    NUMBER,
    st.lists(st.tuples(st.sampled_from(LENGTHS), st.sampled_from(SIZES)), max_size=2),
    st.lists(st.tuples(NUMBER, NUMBER, st.sampled_from(CHANGES), NUMBER), max_size=3),
)


@pytest.fixture(scope="module")
def worker(compiled):
    worker = Worker("fuzz_kernels", compiled.name)
    yield worker
    worker.close()
    print(f"{compiled.name}: {sum(worker.outcomes.values())} calls, {worker.outcomes}")


def test_every_kernel_has_a_sample():
    assert all(SAMPLES.values())


@budget(600)
@given(case=CASE)
def test_raw_calls(worker, case):
    worker(case)


@pytest.mark.parametrize(
    ("case", "told"),
    [("crash", "died .exit status -6. in crash"), ("hang", "no answer"), ("wrong: x", "wrong: x")],
)
def test_what_a_worker_notices(case, told):
    """Also, the next case gets a new process."""
    worker = Worker("fuzzing", seconds=1)
    with pytest.raises(AssertionError, match=told):
        worker(case)
    worker._seconds = 60
    assert worker("ok") == "ok"
    worker.close()
