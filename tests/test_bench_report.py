"""``tilegrad bench report``: the tables in the documents and the page say what the files say."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from bench_samples import (
    profile,
    results,
    row,
    suite,
    times,
    train_row,
    training,
    tta_row,
    without,
)

from tilegrad.bench import record, report

DENSE = "dense:m{}k4n4"
KERNELS = [
    row(DENSE.format(2), 1e-3, cold=times(3e-3)),
    row(DENSE.format(2), 2.5e-3, "torch", label="PyTorch", ratio=2.25),
    row(DENSE.format(2), 2e-3, "jax", label="JAX", setting="jit", ratio=1.75),
    row(DENSE.format(4), 4e-3),
    row(DENSE.format(4), 2e-3, "torch", label="PyTorch", ratio=0.5),
    row(DENSE.format(8), 2e-6, threads=2),
    row("relu:n7", 1e-3, flops=0, roof={"bound": "L2", "share": 1.2, "above": True}),
    without("refused", "slept: 3 ms of 20 ms\nand more", "relu:n7", label="PyTorch"),
]


def lines(text):
    return text.splitlines()


# --- tables ---------------------------------------------------------------------------------------


def test_kernels():
    assert lines(report.kernels(results(KERNELS))) == [
        "| workload | threads | warm | cold | speed | of the roof | fastest peer | "
        "peer / tilegrad |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
        "| `dense:m2k4n4` | 1 | 1.00 ms | 3.00 ms | 2 GFLOP/s | 50% flops | 2.00 ms JAX: jit | "
        "1.75 |",
        "| `dense:m4k4n4` | 1 | 4.00 ms |  | 0.5 GFLOP/s | 50% flops | "
        "2.00 ms PyTorch: its way | 0.50 |",
        "| `dense:m8k4n4` | 2 | 2.00 µs |  | 1000 GFLOP/s | 50% flops | no peer |  |",
        "| `relu:n7` | 1 | 1.00 ms |  | 0.1 GB/s | 120% L2, above | no peer |  |",
    ]


def test_instruction_sets_are_named_where_there_are_several():
    rows = [row("relu:n7", 1e-3), row("relu:n7", 2e-3, isa="avx2", ratio=2.0)]
    rows.append(row("relu:n7", 3e-3, "torch", ratio=2.9))
    text = lines(report.kernels(results(rows)))[2:]
    assert [line.split(" | ")[0] for line in text] == ["| `relu:n7` avx512", "| `relu:n7` avx2"]
    assert [line.split(" | ")[-1] for line in text] == [
        "2.90 |",
        "1.50 |",
    ]  # the latter not in turns


def test_summary():
    assert lines(report.summary(results(KERNELS))) == [
        "| op | rows | of the roof, median | fastest peer / tilegrad, worst | median | best |",
        "| :-- | --: | --: | --: | --: | --: |",
        "| `dense` | 3 | 50% | 0.50 | 1.12 | 1.75 |",
        "| `relu` | 1 | 120% |  |  |  |",
    ]


def test_roofs():
    assert lines(report.roofs(results([]))) == [
        "|  | threads | GFLOP/s | L1, GB/s | L2, GB/s | L3, GB/s | memory, GB/s |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
        "| avx512 | 1 | 280 | 500 | 260 | 140 | 38 |",
        "| avx512 | 2 | 540 | 990 | 510 | 240 | 52 |",
    ]


def test_peers():
    given = results(KERNELS, absent={"CuPy": "not installed: cupy"})
    assert lines(report.peers(given)) == [
        "|  | version | fastest with | rows |",
        "| :-- | :-- | :-- | --: |",
        "| tilegrad avx512 | 0.1.0 |  | 4 |",
        "| PyTorch | 1.2 | its way | 2 |",
        "| JAX | 1.2 | jit | 1 |",
        "| CuPy |  | not installed: cupy | 0 |",
    ]


def test_scaling():
    rows = [row(DENSE.format(m), 1e-3 / m) for m in (8, 2, 5)]
    rows.append(row(DENSE.format(5), 1e-3, "torch", ratio=5.25))
    rows.append(row(DENSE.format(5), 1e-3, threads=2))
    assert lines(report.scaling(results(rows)))[2:] == [
        "| `dense:m#k4n4` | m | GFLOP/s | 1 | 2: 4, 5: 10 (5.25), 8: 16 |"
    ]


def test_sizes_that_grow_together_are_one_sweep():
    rows = [row(f"matmul:b1m{n}k{n}n{n}", 1e-3) for n in (3, 5, 9)]
    rows += [row(f"conv2d:n2h8w8c{c}f{c}k3s1same", 1e-3) for c in (4, 16, 64)]
    found = report.sweeps(report.cases(rows))
    assert [(sweep.name, sweep.letters) for sweep in found] == [
        ("matmul:b1m#k#n#", "mkn"),
        ("conv2d:n2h8w8c#f#k3s1same", "cf"),
    ]
    assert [size for size, _ in found[1].points] == [4, 16, 64]


def test_two_sizes_are_no_sweep():
    assert report.sweeps(report.cases([row(DENSE.format(m), 1e-3) for m in (2, 5)])) == []


def test_failures():
    assert lines(report.failures(results(KERNELS)))[2:] == [
        "| `relu:n7` | PyTorch | refused | slept: 3 ms of 20 ms |"
    ]
    assert report.failures(results(KERNELS[:3])) == "None."


def test_cells_do_not_break_the_table():
    rows = [without("failed", "expected a|b", "relu:n7")]
    assert lines(report.failures(results(rows)))[2].endswith("| expected a\\|b |")


def test_train_and_memory():
    rows = [
        train_row("train:cnn:b32", 1.0, label="tilegrad"),
        train_row("train:cnn:b32", 6.0, "torch", "channels last", label="PyTorch", ratio=6.25),
        train_row("train:wide:b64", 80.0, label="tilegrad"),
        train_row("train:wide:b64", 90.0, "keras", "fit", name="Keras fit", ratio=1.0625),
        without("absent", "no jax", "train:wide:b64", "jax", label="JAX", kind="train")
        | {"threads": 2, "setting": ""},
    ]
    assert lines(report.train(results(rows))) == [
        "|  | cnn, batch 32 | wide, batch 64 |",
        "| :-- | --: | --: |",
        "| tilegrad | 1.00 s (1.00) | 80.00 s (1.00) |",
        "| PyTorch: channels last | 6.00 s (6.25) |  |",
        "| Keras fit |  | 90.00 s (1.06) |",
        "| JAX |  | not installed |",
    ]
    assert lines(report.memory(results(rows)))[2] == ("| tilegrad | 0.2 / 128 MB | 0.2 / 128 MB |")


def test_tta():
    rows = [
        tta_row(0.98, [1.0, 3.0], name="ours"),
        tta_row(0.98, [9.0, None], "torch", name="PyTorch", ratio=6.125),
        tta_row(0.99, [None, None], network="deep", name="ours", ratio=None),
        tta_row(0.99, [None, None], "torch", "deep", name="PyTorch") | {"status": "refused"},
    ]
    assert lines(report.tta(results(rows))) == [
        "| network | accuracy |  | seeds that arrived | mean | all | images | times tilegrad's |",
        "| :-- | :-- | :-- | --: | --: | --: | --: | --: |",
        "| cnn, batch 32 | 98.00% | ours | 2 of 2 | 2.00 s | 1.00 to 3.00 s | 60,000 | 1.00 |",
        "| cnn, batch 32 | 98.00% | PyTorch | 1 of 2 | 9.00 s | 9.00 to 9.00 s | 60,000 | 6.12 |",
        "| deep, batch 32 | 99.00% | ours | 0 of 2 |  |  |  |  |",
        "| deep, batch 32 | 99.00% | PyTorch | refused |  |  |  |  |",
    ]


def test_profile_and_layers():
    given = results([record.profile_row("profile:cnn:b32", 2, profile())])
    assert lines(report.profile(given)) == [
        "|  | cnn, batch 32 |",
        "| :-- | --: |",
        "| kernel | 1.50 s (75.0%) |",
        "| dispatch | 250 ms (12.5%) |",
        "| Python | 250 ms (12.5%) |",
        "| outside | 0.00 µs (0.0%) |",
    ]
    assert lines(report.layers(given))[2:] == [
        "| cnn, batch 32 | dense backward | 1,234 | 900.0 | 60.0% | 75% |",
        "| cnn, batch 32 | no layer update | 617 | 600.0 | 40.0% |  |",
    ]


def test_machine():
    assert report.machine(results([])) == (
        "2026-01-02 03:04 UTC, tilegrad 0.1.0, commit 0123456789: Some CPU, 2 cores, avx512; "
        "Python 3.11.7, numpy 2.4.6, torch 2.13.0, jax absent."
    )


def test_files_of_figures():
    steady = {"rows": [{"figure": "op", "value": 2e-6, "peer": None, "goal": 5e-6}]}
    assert lines(report.steady(steady))[2] == "| the same op in all, microseconds | 2.0 |  | 5 |"
    step = {"figure": "step eager", "microseconds": 131.41, "share": 0.219}
    assert lines(report.overhead({"rows": [step]}))[2] == "| step eager | 131.4 | 21.9% |"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (9.44e-7, "0.94 µs"),
        (9.994e-6, "9.99 µs"),
        (1.5e-3, "1.50 ms"),
        (0.12, "120 ms"),
        (75, "75.0 s"),
    ],
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text


# --- documents ------------------------------------------------------------------------------------

MARKED = "before\n<!-- benchmarks: {} -->\nold\n<!-- /benchmarks -->\nafter\n"


@pytest.fixture
def root(tmp_path):
    """A source tree with two documents and a results file."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(MARKED.format("summary"))
    (tmp_path / "docs" / "benchmarks.md").write_text(MARKED.format("kernels") + "text\n")
    record.write(tmp_path / "kernels.json", results(KERNELS))
    return tmp_path


def run(root, *more):
    return report.main(["--root", str(root), "--results", str(root), *more])


def test_only_what_stands_between_markers_is_replaced():
    text = MARKED.format("a") + MARKED.format("b")
    filled = report.fill(text, "b", "new \\1")
    assert filled == MARKED.format("a") + MARKED.format("b").replace("old", "new \\1")
    assert report.fill(filled, "b", "old") == text


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        "<!-- benchmarks: a -->\nold\n",
        "<!-- benchmarks: a -->\n<!-- benchmarks: b -->\n<!-- /benchmarks -->",
        MARKED.format("a") * 2,
    ],
)
def test_wrong_markers_are_refused(text):
    with pytest.raises(ValueError, match="expected one <!-- benchmarks: a -->"):
        report.fill(text, "a", "new")


def test_the_documents_are_written_and_then_up_to_date(root):
    assert run(root, "--check") == 1
    assert "old" in (root / "README.md").read_text()
    assert run(root) == 0
    assert report.summary(results(KERNELS)) in (root / "README.md").read_text()
    assert report.kernels(results(KERNELS)) in (root / "docs" / "benchmarks.md").read_text()
    assert run(root, "--check") == 0


def test_a_table_without_results_says_so(root):
    (root / "README.md").write_text(MARKED.format("train"))
    assert run(root) == 0
    assert "(not measured yet)" in (root / "README.md").read_text()


def test_an_unknown_table_is_refused(root, capsys):
    (root / "README.md").write_text(MARKED.format("sumary"))
    assert run(root) == 2
    assert "README.md: expected a table of" in capsys.readouterr().err


def test_other_files_are_refused(root, capsys):
    (root / "kernels.json").write_text(json.dumps({"rows": []}))
    assert run(root) == 2
    assert "expected a results file" in capsys.readouterr().err


def test_every_table_can_be_made():
    profiled = record.profile_row("profile:cnn:b32", 2, profile())
    more = [train_row("train:cnn:b32", 1.0), tta_row(0.98, [1.0]), profiled]
    everything = results([*KERNELS, *more])
    plain = {"rows": []}
    for name, (file, how) in report.TABLES.items():
        assert how(plain if file in report.PLAIN else everything), name


# --- the page -------------------------------------------------------------------------------------

DESCRIPTORS = (
    "dense:m1k7n5 dense:m8k7n5 dense:m512k7n5 dense_dx:m512k5408n128 relu:n1048576 "
    "conv2d:n32h28w28c1f32k3s1valid add:n3"
)


@pytest.fixture(scope="module")
def html():
    pytest.importorskip("matplotlib")
    from tilegrad.bench import page

    kernels = suite(DESCRIPTORS.split())
    kernels["rows"].append(without("failed", '1 < 2 & "so on"', "add:n3", "jax", label="JAX"))
    profiled = results([record.profile_row("profile:cnn:b32", 2, profile())])
    race = results(
        [
            tta_row(0.98, [1.0, 2.0]),
            tta_row(0.98, [9.0, None], "torch", ratio=6.1),
            tta_row(0.99, [7.0], network="deep"),
        ]
    )
    files = {"kernels": kernels, "profile": profiled, "train": training(), "tta": race}
    return page.page(files)


class Balance(HTMLParser):
    """Counts what is open; remembers the text."""

    VOID = ("meta", "input", "link", "br")

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def parsed(html):
    parser = Balance()
    parser.feed(html)
    parser.close()
    return parser


def test_the_page_is_well_formed(html, parsed):
    assert parsed.open == []
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)


def test_the_page_needs_nothing_else(html):
    assert not re.search(r"https?://", html)
    assert not re.search(r"@import|url\((?!#)|<(link|iframe|img|object|embed)\b", html)
    assert not re.search(r'(?:src|href)="(?!#)', html)
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\b", html[html.index("<script>") :])


def test_the_page_has_a_chart_of_each_kind(html, parsed):
    titles = re.findall(r'aria-label="([^"]*)"', html)
    for start in ("Speed over FLOP", "Time of fastest peer", "Time of JAX", "Speed over the size"):
        assert any(title.startswith(start) for title in titles), start
    assert any(title.startswith("Speed-up from 1 to 2 threads") for title in titles)
    assert sum(title.startswith("An epoch of") for title in titles) == 4
    assert "Where the time of cnn, batch 32 went" in titles
    assert "Seconds to an accuracy of 98.00%, cnn, batch 32" in titles
    assert "Seconds to an accuracy of 99.00%, deep, batch 32" in titles


def test_the_numbers_are_numbers(html, parsed):
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(parsed.text))
    for numbers in re.findall(r'(?:\bd|\bx|\by|viewBox|transform|data-v)="([^"]*)"', html):
        assert not re.search(r"nan|inf", numbers)


def test_ids_are_unique_and_all_that_is_used_is_there(html):
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]*)"', html) + re.findall(r"url\(#([^)]*)\)", html)
    assert used
    assert set(used) <= set(ids)


def test_all_colours_come_from_the_style(html):
    used = set(re.findall(r"var\(--(\w+)\)", html))
    style = html[html.index("<style>") : html.index("</style>")]
    dark = style[style.index("prefers-color-scheme: dark") :]
    assert {"ours", "ink", "peer0"} <= used
    for name in used:
        assert f"--{name}:" in style and f"--{name}:" in dark, name
    assert "#0102" not in html  # a stand-in colour that was not replaced


def test_the_page_says_what_was_not_measured(parsed):
    text = " ".join(parsed.text)
    assert "slept: computed 3 ms of 20 ms" in text
    assert '1 < 2 & "so on"' in text
    assert "no module cupy" in text


def test_every_measured_row_stands_in_a_table(html):
    rows = suite(DESCRIPTORS.split())["rows"] + training()["rows"]
    measured = sum(each["status"] == "ok" for each in rows)
    headings = re.findall(r"All (?:kernel|training) rows <small>(\d+)</small>", html)
    assert sum(map(int, headings)) == measured


def test_a_page_of_one_row():
    pytest.importorskip("matplotlib")
    from tilegrad.bench import page

    text = page.page({"one": results([row("relu:n7", 1e-3, flops=0)], roofs={})})
    assert "relu:n7" in text
    assert "<svg" not in text


def test_cards_compare_the_best_instruction_set_and_tables_have_all():
    pytest.importorskip("matplotlib")
    from tilegrad.bench import page

    rows = [row("relu:n7", 1e-3), row("relu:n7", 2e-3, isa="avx2", ratio=2.0)]
    rows.append(row("relu:n7", 3e-3, "torch", label="PyTorch", ratio=2.875))
    text = page.page({"one": results(rows)})
    assert re.findall(r"<strong>([\d.]+)", text) == ["2.88"]
    assert "All kernel rows <small>3</small>" in text
    assert text.count('aria-label="Speed over FLOP per byte') == 1  # only avx512 has roofs here


def test_a_peer_alone_is_listed():
    pytest.importorskip("matplotlib")
    from tilegrad.bench import page

    ours = without("refused", "output 0 is off", "relu:n7", "tilegrad")
    text = page.page({"one": results([ours, row("relu:n7", 3e-3, "torch")])})
    assert "All kernel rows <small>1</small>" in text
    assert "output 0 is off" in text


def test_levels_with_equal_roofs_share_a_line():
    pytest.importorskip("matplotlib")
    from tilegrad.bench import charts

    [case] = report.cases([row("dense:m2k4n4", 1e-3)])
    levels = {"L1": 500e9, "L3": 100e9, "memory": 95e9}
    svg = charts.roofline([case], {"flops": 280e9, "bytes": levels})
    assert "L3, memory 100 GB/s" in svg
    assert "L1 500 GB/s" in svg


def test_the_page_is_written(root):
    pytest.importorskip("matplotlib")
    assert run(root, "--html", str(root / "page.html")) == 0
    text = (root / "page.html").read_text()
    assert "dense:m2k4n4" in text
    assert "old" in (root / "README.md").read_text()  # a page only
    file = str(root / "kernels.json")
    assert report.main(["--results", file, "--html", str(root / "one.html")]) == 0


def test_a_page_of_nothing_is_refused(tmp_path, capsys):
    assert report.main(["--results", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2
    assert "found none" in capsys.readouterr().err
