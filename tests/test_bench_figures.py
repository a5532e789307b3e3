"""Rows from the samples of several processes: put together, and who is refused stays refused."""

import pytest
from bench_samples import part

from tilegrad.bench.figures import pooled, summary


def test_one_process_has_its_own_figures():
    (row,) = pooled([[part("relu:n7", [3.0, 1.0, 2.0], cold=[5.0, 6.0, 4.0])]])
    assert (row["status"], row["error"], row["ratio"], row["cold_ratio"]) == ("ok", 0.25, 1, 1)
    assert row["warm"] == {"n": 3, "min": 1, "median": 2, "p95": 3, "noise": 0.5}
    assert row["cold"]["median"] == 5
    assert row["calibration"] == {"flops": 1e11, "bytes": 1e10}
    assert row["processes"] == [{"warm": row["warm"], "calibration": row["calibration"]}]
    assert "measured" not in row


def test_samples_of_all_processes_count():
    first = part("relu:n7", [1.0, 1.1, 1.2], error=0.5, flops=1e11, nbytes=2e10)
    second = part("relu:n7", [2.0, 2.1, 2.2, 2.3], flops=2e11, nbytes=1e10)
    (row,) = pooled([[first], [second]])
    assert {k: row["warm"][k] for k in ("n", "min", "median", "p95")} == {
        "n": 7,
        "min": 1.0,
        "median": 2.0,
        "p95": 2.3,
    }
    assert row["cold"] is None and row["cold_ratio"] is None
    assert row["error"] == 0.5
    assert row["calibration"] == {"flops": 2e11, "bytes": 2e10}
    assert [p["warm"]["median"] for p in row["processes"]] == [1.1, pytest.approx(2.15)]
    assert [p["calibration"]["bytes"] for p in row["processes"]] == [2e10, 1e10]


def test_processes_that_differ_are_noise():
    near, far = [1.0] * 4, [1.2] * 40
    assert summary([near + far[:30]])["noise"] == 0
    assert summary([near, far[:30]])["noise"] == pytest.approx(0.1 / 1.2)
    assert summary([[1.0, 3.0], [2.0, 2.0]])["noise"] == 0.5  # the turns differ more


def test_ratios_are_those_of_one_round_in_one_process():
    ours = [part("relu:n7", [1.0, 2.0, 4.0]), part("relu:n7", [10.0, 20.0])]
    theirs = [
        part("relu:n7", [3.0, 6.0, 12.0], "torch", cold=[1.0] * 3),
        part("relu:n7", [50.0, 100.0], "torch", cold=[1.0] * 2),
    ]
    rows = pooled(zip(ours, theirs, strict=True))
    assert [row["ratio"] for row in rows] == [1, 3]  # of 3, 3, 3, 5, 5
    assert rows[1]["cold_ratio"] is None  # ours has no cold times


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("status", ["refused", "failed"])
def test_who_is_not_right_in_one_process_is_not_right(bad, status):
    processes = [[part("relu:n7", [1.0, 1.0])], [part("relu:n7", [1.0, 1.0])]]
    peers = [part("relu:n7", [2.0, 2.0], "torch") for _ in processes]
    processes[bad] = [part("relu:n7", None, status=status)]
    rows = pooled([[*p, peer] for p, peer in zip(processes, peers, strict=True)])
    assert [(row["status"], row.get("ratio")) for row in rows] == [(status, None), ("ok", None)]
    assert rows[0]["reason"] == "why"
    assert "warm" not in rows[0]


def test_a_process_that_ended_takes_nothing_from_the_other():
    ended = part("relu:n7", None, "", label="some contender", status="failed")
    rows = pooled([[part("relu:n7", [1.0, 1.0])], [ended]])
    assert [(row["label"], row["status"]) for row in rows] == [
        ("tilegrad avx512", "ok"),
        ("some contender", "failed"),
    ]


def test_the_share_of_the_roof_is_that_of_the_median():
    slow = part("relu:n7", [1.0, 1.0, 1.0], floor=[0.75, "L2"])
    slower = part("relu:n7", [2.0, 2.0], floor=[0.5, "L2"])  # its roof was looked at again
    (row,) = pooled([[slow], [slower]])
    assert row["roof"] == {"bound": "L2", "seconds": 0.5, "share": 0.5, "above": False}


def test_what_is_above_the_roof_in_one_process_is_refused():
    possible = part("relu:n7", [2.0, 2.0, 2.0], floor=[1.0, "flops"])
    impossible = part("relu:n7", [0.5, 0.5], floor=[1.0, "flops"])
    assert [row["status"] for row in pooled([[possible], [possible]])] == ["ok"]
    (row,) = pooled([[possible], [impossible]])
    assert row["status"] == "refused"
    assert row["reason"] == "200% of the roof: faster than can be"
    assert row["roof"]["above"]
