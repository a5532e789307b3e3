"""``tilegrad bench compare`` and its files: what fails, what passes, and how often by chance."""

import json
import math

import numpy as np
import pytest
from bench_samples import MACHINE, results, row, times, train_row, tta_row, without

from tilegrad.bench import record
from tilegrad.bench.compare import CannotCompareError, compare, main, thresholds

OTHER = {"machine": MACHINE | {"fingerprint": "another-cpu"}}


def pair(factor, *, speed=1.0, noise=0.01, library="tilegrad", **more):
    """A row, and the same when it is slower by `factor` on a machine `speed` times as fast."""
    seconds = 1e-3
    later = {"flops": 1e11 * speed, "bytes": 1e10 * speed}
    slower = {"warm": times(seconds * factor / speed, noise), "calibration": later}
    first = row("dense:m3k5n7", seconds, library, **more)
    return first, first | slower


def change(factor, fail="10%", **more):
    before, after = pair(factor, **more)
    [found] = compare(results([before]), results([after]), fail).changes
    return found


# --- one row --------------------------------------------------------------------------------------


def test_a_slower_row_fails():
    assert change(1.2).regressed
    assert not change(1.2).improved
    assert change(1.2).slowdown == pytest.approx(1.2)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.05, 1.1])
def test_a_row_within_the_threshold_passes(factor):
    assert not change(factor).regressed


def test_a_faster_row_is_an_improvement():
    assert change(0.8).improved
    assert not change(0.8).regressed


@pytest.mark.parametrize("speed", [0.6, 1.7])
def test_a_slower_or_faster_machine_changes_nothing(speed):
    assert change(1.0, speed=speed).slowdown == pytest.approx(1)
    assert not change(1.0, speed=speed).regressed
    assert change(1.2, speed=speed).regressed


def test_the_roof_that_binds_says_how_fast_the_machine_was():
    before, after = pair(1.0)
    after["warm"] = times(1.5e-3)
    after["calibration"] = {"flops": 1e11, "bytes": 1e10 / 1.5}  # only its memory became slower
    for bound, slowdown in (("flops", 1.5), ("L2", 1.0), ("memory", 1.0)):
        for one in (before, after):
            one["roof"] = one["roof"] | {"bound": bound}
        [found] = compare(results([before]), results([after])).changes
        assert found.slowdown == pytest.approx(slowdown)


def test_a_training_row_is_normalised_by_flops():
    before = train_row("train:cnn:b32", 2.0)
    after = before | {"warm": times(4.0), "calibration": {"flops": 5e10, "bytes": 1e10}}
    [found] = compare(results([before]), results([after])).changes
    assert found.slowdown == pytest.approx(1)


def test_rows_without_calibration_are_compared_as_they_are():
    before, after = pair(1.2, calibration=None)
    [found] = compare(results([before]), results([after | {"calibration": None}])).changes
    assert found.slowdown == pytest.approx(1.2)


def test_stated_noise_widens_the_threshold():
    assert change(1.2, noise=0.01).regressed
    assert not change(1.2, noise=0.15).regressed
    assert change(1.2, noise=0.03).allowed == pytest.approx(1.1 + math.hypot(0.01, 0.03))


@pytest.mark.parametrize("other", ["min", "median"])
def test_one_bad_figure_is_not_enough(other):
    before, after = pair(1.6)
    after["warm"][other] = before["warm"][other]
    [found] = compare(results([before]), results([after])).changes
    assert found.slowdown > 1.2
    assert not found.regressed


def test_what_slows_the_peers_too_is_the_machine():
    ours, peer = pair(1.3), pair(1.3, library="torch")
    result = compare(*(results(rows) for rows in zip(ours, peer, strict=True)))
    assert result.changes[0].relative == pytest.approx(1)
    assert not result.failed


def test_a_peer_of_another_version_says_nothing():
    ours, peer = pair(1.3), pair(1.3, library="torch")
    peer[1]["version"] = "1.3"
    result = compare(*(results(rows) for rows in zip(ours, peer, strict=True)))
    assert result.changes[0].relative is None
    assert result.failed


def test_a_slower_peer_fails_only_if_asked():
    rows = zip(pair(1.0), pair(1.5, library="torch"), strict=True)
    before, after = (results(each) for each in rows)
    assert not compare(before, after).failed
    assert compare(before, after, peers_too=True).failed


# --- thresholds -----------------------------------------------------------------------------------


def test_the_last_pattern_that_fits_counts():
    assert change(1.07, ["10%", "dense*=3%"]).regressed
    assert not change(1.07, ["10%", "conv2d*=3%"]).regressed
    assert not change(1.2, ["dense*=3%", "30%"]).regressed


def test_without_a_default_ten_percent_count():
    assert thresholds(["conv2d*=5%"])("relu:n7") == 0.1


@pytest.mark.parametrize("text", ["10", "-5%", "0%", "dense*", "dense*=", "x%", "nan%", "inf%", ""])
def test_other_thresholds_are_refused(text):
    with pytest.raises(ValueError, match="expected a share like 10%"):
        thresholds([text])


# --- what is not there ----------------------------------------------------------------------------


def test_rows_that_only_one_file_has_are_named():
    both = row("relu:n7", 1e-3)
    a = results([both, row("gelu:n7", 1e-3)])
    b = results([both, row("add:n7", 1e-3)])
    result = compare(a, b)
    assert not result.failed
    assert "gelu:n7, 1 thread, tilegrad avx512: only in the first file" in result.lines()
    assert "add:n7, 1 thread, tilegrad avx512: only in the second file" in result.lines()


@pytest.mark.parametrize("status", ["refused", "failed", "absent"])
def test_a_row_that_is_no_longer_right_fails(status):
    before = row("relu:n7", 1e-3)
    after = before | {"status": status, "reason": "output 0 is off", "warm": None}
    result = compare(results([before]), results([after]))
    assert result.failed
    assert f"relu:n7, 1 thread, tilegrad avx512: was ok, is {status}: output 0 is off" in (
        result.lines()
    )


def test_a_row_that_was_wrong_before_does_not_fail():
    ours = row("relu:n7", 1e-3)
    broken = ours | {"workload": "gelu:n7", "status": "failed", "reason": "", "warm": None}
    assert not compare(results([ours, broken]), results([ours, broken])).failed


def test_a_workload_that_ends_the_process_fails():
    ours, other = row("relu:n7", 1e-3), row("gelu:n7", 1e-3)
    ended = without("failed", "the process ended: exit status -11", "relu:n7", "")
    result = compare(results([ours, other]), results([ended, other]))
    assert result.failed
    assert [why for _, why in result.broken] == ["the process ended: exit status -11"]


def test_a_peer_that_is_no_longer_right_is_named_only():
    ours, peer = row("relu:n7", 1e-3), row("relu:n7", 1e-3, "torch")
    b = results([ours, without("refused", "slept")])
    result = compare(results([ours, peer]), b)
    assert not result.failed
    assert len(result.broken) == 1


def test_of_equal_rows_the_fastest_counts():
    slow, fast = row("relu:n7", 2e-3), row("relu:n7", 1e-3)
    [found] = compare(results([slow, fast]), results([fast, slow])).changes
    assert found.slowdown == 1


def test_other_machines_are_refused_unless_asked_for():
    before, after = (results([one]) for one in pair(1.0))
    with pytest.raises(CannotCompareError, match="some-cpu-2-0123abcd and another-cpu"):
        compare(before, after | OTHER)
    assert len(compare(before, after | OTHER, other_machine=True).changes) == 1


def test_nothing_in_common_cannot_be_compared():
    with pytest.raises(CannotCompareError, match="rows of tilegrad that both files have"):
        compare(results([row("relu:n7", 1e-3)]), results([row("gelu:n7", 1e-3)]))


# --- a noisy machine ------------------------------------------------------------------------------


def noisy_run(rng, scatter, slow=1.0, wild=0.01, count=30):
    """`count` rows of tilegrad and two peers, the first of tilegrad slower by `slow`.

    The machine's speed wanders by 10% from row to row, medians and minima scatter by `scatter` of
    each row, and a share of medians, `wild`, are off by 50%.
    """
    rows = []
    for i in range(count):
        speed = rng.lognormal(0, 0.1)
        looks = {"flops": 1e11 * speed * rng.lognormal(0, 0.01), "bytes": 1e10 * speed}
        for library in ("tilegrad", "torch", "jax"):
            factor = slow if (i, library) == (0, "tilegrad") else 1.0
            seconds = (i + 1) * 1e-4 * factor / speed
            warm = times(seconds, rng.uniform(0.004, 0.012))
            warm["median"] *= rng.lognormal(0, scatter[i]) * (1.5 if rng.random() < wild else 1)
            warm["min"] *= rng.lognormal(0, scatter[i])
            rows.append(row(f"relu:n{i + 1}", seconds, library, warm=warm, calibration=looks))
    return results(rows)


def verdicts(slow, runs, seed=0):
    """Of many pairs of runs: how often the slow row is found, and any other."""
    rng = np.random.default_rng(seed)
    found = others = 0
    for _ in range(runs):
        scatter = rng.uniform(0.02, 0.04, 30)
        before, after = noisy_run(rng, scatter), noisy_run(rng, scatter, slow)
        names = [change.workload for change in compare(before, after).regressions]
        found += "relu:n1" in names
        others += any(name != "relu:n1" for name in names)
    return found / runs, others / runs


def test_clean_pairs_pass_and_a_slow_row_is_found():
    """19 of 20 clean pairs pass; 95% of rows that are 20% slower are found, give or take chance."""
    found, others = verdicts(1.2, runs=400)
    assert found >= 0.93
    assert others <= 0.05


def test_fifteen_percent_are_mostly_found():
    found, _ = verdicts(1.15, runs=200)
    assert found >= 0.68


def test_on_a_quiet_machine_fifteen_percent_are_found():
    rng = np.random.default_rng(1)
    scatter = np.full(30, 0.01)
    for _ in range(20):
        before = noisy_run(rng, scatter, wild=0)
        after = noisy_run(rng, scatter, 1.15, wild=0)
        assert "relu:n1" in [change.workload for change in compare(before, after).regressions]


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    def write(name, rows, **header):
        path = tmp_path / name
        record.write(path, results(rows, **header))
        return str(path)

    return write


def test_the_exit_code_of_a_clean_pair(file, capsys):
    before, after = pair(1.02)
    assert main([file("a.json", [before]), file("b.json", [after])]) == 0
    assert "0 of 1 rows are slower than allowed" in capsys.readouterr().out


def test_the_exit_code_of_a_regression(file, capsys):
    before, after = pair(1.2)
    files = [file("a.json", [before]), file("b.json", [after])]
    assert main(files) == 1
    shown = capsys.readouterr().out
    assert "dense:m3k5n7, 1 thread, tilegrad avx512: slower: median 1.20, minimum 1.20" in shown
    assert "1 of 1 rows are slower than allowed" in shown
    assert main([*files, "--fail", "30%"]) == 0
    assert main([*files, "--fail", "30%", "--fail", "dense*=5%"]) == 1


def test_the_exit_code_where_nothing_can_be_compared(file, tmp_path, capsys):
    [before, after] = pair(1.0)
    a, b = file("a.json", [before]), file("b.json", [after], **OTHER)
    assert main([a, b]) == 2
    assert "--other-machine" in capsys.readouterr().err
    assert main([a, b, "--other-machine"]) == 0
    assert main([a, str(tmp_path / "nowhere.json")]) == 2
    assert main([a, a, "--fail", "much"]) == 2


def test_every_row_is_shown_if_asked(file, capsys):
    before, after = pair(1.0)
    files = [file("a.json", [before]), file("b.json", [after])]
    main(files)
    assert "verdict" not in capsys.readouterr().out
    main([*files, "--every"])
    shown = capsys.readouterr().out
    assert "verdict" in shown
    assert "same" in shown


# --- results files --------------------------------------------------------------------------------


def test_a_record_is_complete_after_each_row(tmp_path):
    path = tmp_path / "deep" / "er" / "a.json"
    kept = record.Record(path, {"machine": MACHINE, "suite": "quick"})
    assert record.read(path)["rows"] == []
    for count in (1, 2, 3):
        kept.add(row(f"relu:n{count}", 1e-3))
        assert len(record.read(path)["rows"]) == count
    assert record.read(path)["suite"] == "quick"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]  # nothing temporary is left


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_record_takes_no_nan_and_keeps_what_it_has(tmp_path, wrong):
    kept = record.Record(tmp_path / "a.json", {"machine": MACHINE})
    kept.add(row("relu:n1", 1e-3))
    with pytest.raises(ValueError, match="finite"):
        kept.add(row("relu:n2", 1e-3, error=wrong))
    kept.add(row("relu:n3", 1e-3))
    assert [r["workload"] for r in record.read(kept.path)["rows"]] == ["relu:n1", "relu:n3"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda r: r.pop("format"), "got other JSON"),
        (lambda r: r.update(version=0), "expected version 1 of the format, got 0"),
        (lambda r: r.pop("machine"), "a machine with its fingerprint"),
        (lambda r: r["rows"][0].pop("label"), "row 1: row: expected .* label not there"),
        (lambda r: r["rows"][0].update(status="fine"), "expected status .*, got 'fine'"),
        (lambda r: r["rows"][0].update(warm=None), "row relu:n7: expected warm times above 0"),
        (lambda r: r["rows"][0]["warm"].update(min=0), "expected warm times above 0"),
        (lambda r: r["rows"].append("row"), "row 2: row: expected an object, got 'row'"),
    ],
)
def test_wrong_files_are_refused(tmp_path, harm, message):
    content = json.loads(json.dumps(results([row("relu:n7", 1e-3)])))
    harm(content)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        record.read(path)


def test_what_is_no_json_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"format": "tilegrad bench", ')
    with pytest.raises(ValueError, match=r"a\.json: expected a results file, got no JSON"):
        record.read(path)


def test_merging_replaces_equal_rows_and_keeps_the_others():
    old, other = row("relu:n7", 1e-3), row("relu:n17", 1e-3)
    new = row("relu:n7", 2e-3)
    merged = record.merge([results([old, other]), results([new], suite="quick")])
    assert merged["rows"] == [new, other]
    assert merged["suite"] == "quick"


def test_merging_keeps_settings_of_training_runs_apart():
    rows = [
        train_row("train:cnn:b32", 1.0, "torch", setting) for setting in ("first", "last", "last")
    ]
    assert record.merge([results(rows)])["rows"] == [rows[0], rows[2]]


def test_merging_keeps_targets_apart():
    rows = [tta_row(target, [1.0]) for target in (0.98, 0.99)]
    assert record.merge([results(rows), results(rows)])["rows"] == rows


def test_machines_are_not_merged():
    with pytest.raises(ValueError, match="expected results of one machine"):
        record.merge([results([]), results([]) | OTHER])
    with pytest.raises(ValueError, match="at least one"):
        record.merge([])
