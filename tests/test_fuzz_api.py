"""Any call of the public API ends: with a result or an error, and with its inputs as they were.

TILEGRAD_TEST_FUZZ sets the number of cases.
"""

import pytest
from fuzz_api import TARGETS
from fuzzing import Worker, budget
from hypothesis import given
from hypothesis import strategies as st

NUMBER = st.integers(0, 2**20)
CASE = st.tuples(
    st.integers(0, len(TARGETS) - 1),
    st.lists(st.tuples(NUMBER, NUMBER), min_size=3, max_size=18),
)


@pytest.fixture(scope="module")
def worker():
    worker = Worker("fuzz_api")
    yield worker
    worker.close()
    print(f"{sum(worker.outcomes.values())} calls, {worker.outcomes}")


@budget(1500)
@given(case=CASE)
def test_public_calls(worker, case):
    worker(case)
