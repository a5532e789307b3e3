"""The documents against the project: paths, links, commands, settings and examples are alive."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import tilegrad
from tilegrad import cli

ROOT = Path(__file__).resolve().parents[1]
STEMS = [
    "activation",
    "conv",
    "conv_pool",
    "dense",
    "elementwise",
    "optim",
    "pool",
    "conv_pool",
    "softmax",
]

pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").is_file(), reason="needs the source tree, not only the package"
)


def documents():
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.fixture(params=documents(), ids=names(documents()))
def document(request):
    return request.param


def without_fences(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def code_spans(text):
    return re.findall(r"`([^`\n]+)`", without_fences(text))


def commands(text, program):
    """Command lines that start with `program`, in indented blocks, fences and code spans."""
    lines = [line.strip() for line in re.findall(r"^(?: {4}|\$ )(.*)$", text, re.MULTILINE)]
    for block in re.findall(
        r"^```(?:sh|bash|console)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    ):
        lines += block.splitlines()
    for line in lines + code_spans(text):
        line = re.sub(r"\s+#.*", "", line.strip().removeprefix("$ "))
        line = re.sub(r"^(?:[A-Z_]+=\S+ +)+", "", line)  # VARIABLE=value in front
        if re.match(rf"{program}\s", line):
            yield shlex.split(line)


# --- paths ----------------------------------------------------------------------------------------

SUFFIXES = "c|cpp|h|md|npz|py|toml|txt|yaml|yml"
TOP = {path.name for path in ROOT.iterdir()} | {"csrc", "docs", "python", "tests", "benchmarks"}


def paths_in(text):
    """Code spans that name a file or folder of the project."""
    for span in code_spans(text):
        if not re.fullmatch(r"[\w./<>*-]+", span):
            continue
        top = span.partition("/")[0]
        if not ("/" in span and top in TOP) and not re.fullmatch(rf"[\w.-]+\.({SUFFIXES})", span):
            continue
        yield span


def test_paths_exist(document):
    missing = []
    for path in set(paths_in(document.read_text())):
        if path == "mnist.npz":  # a data file of the user's
            continue
        candidates = [path.replace("<stem>", stem) for stem in STEMS]
        if not any(exists(candidate) for candidate in candidates):
            missing.append(path)
    assert not missing, f"{document.name} names what does not exist: {sorted(missing)}"


def exists(path):
    if "/" in path:
        return any(ROOT.glob(path.rstrip("/")))
    folders = ["csrc", "python", "tests", "docs", "benchmarks"]
    return (ROOT / path).exists() or any(any((ROOT / f).rglob(path)) for f in folders)


def test_stems_are_the_same_everywhere():
    """What `<stem>` stands for: the same in the contracts, in the build and here."""
    contracts = {path.stem for path in (ROOT / "csrc" / "ops").glob("*.h")} - {"glossary"}
    assert contracts == set(STEMS)
    build = re.search(r"set\(STEMS ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())[1]
    assert set(build.split()) == set(STEMS)


# --- links ----------------------------------------------------------------------------------------


def anchors(path):
    headings = re.findall(r"^#+ (.*)$", without_fences(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name}: {target} does not exist"
        assert file.is_relative_to(ROOT), f"{document.name}: {target} leaves the project"
        if anchor:
            assert anchor in anchors(file), f"{document.name}: {target} has no such heading"


def test_every_document_is_linked():
    linked = set()
    for document in documents():
        for target in re.findall(r"\]\(([^)\s#]+)", document.read_text()):
            linked.add((document.parent / target).resolve())
    lost = [d for d in documents() if d not in linked and d.name != "README.md"]
    assert not lost, f"no document links to {names(lost)}"


# --- commands -------------------------------------------------------------------------------------


def test_commands_of_tilegrad_parse(document):
    for _, *arguments in commands(document.read_text(), "tilegrad"):
        try:
            cli.parse(arguments)
        except SystemExit as error:
            pytest.fail(f"{document.name}: tilegrad {' '.join(arguments)}: exit code {error.code}")


def test_targets_of_make_exist(document):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for _, *words in commands(document.read_text(), "make"):
        for target in words:
            assert "=" in target or target in targets, f"{document.name}: make {target}"


def test_readme_has_the_two_commands_first():
    text = (ROOT / "README.md").read_text()
    found = [" ".join(command) for command in commands(text, "make")]
    assert found[:2] == ["make demo", "make test"]
    assert list(commands(text, "tilegrad")), "README shows no use of the command line"


def test_make_help_lists_every_public_target():
    text = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    described = set(re.findall(r"^([\w-]+):.*## ", text, re.MULTILINE))
    assert phony == described


# --- settings -------------------------------------------------------------------------------------


def test_every_environment_variable_is_documented():
    used = set()
    for path in (ROOT / "tests").glob("*.py"):
        used |= set(re.findall(r'"(TILEGRAD_TEST_\w+)"', path.read_text()))
    for path in (ROOT / "python").rglob("*.py"):
        used |= set(re.findall(r'"((?:TILEGRAD|KERAS)_[A-Z_]+)"', path.read_text()))
    for path in (ROOT / "csrc").rglob("*.cpp"):
        used |= set(re.findall(r'getenv\("([A-Z_]+)"\)', path.read_text()))
    text = (ROOT / "docs" / "env_vars.md").read_text()
    documented = set(re.findall(r"`((?:TILEGRAD|KERAS)_[A-Z_]+)`", text))
    assert used == documented


# --- examples -------------------------------------------------------------------------------------


def examples():
    for document in documents():
        blocks = re.findall(
            r"^```python\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE
        )
        for i, block in enumerate(blocks):
            yield pytest.param(block, id=f"{document.relative_to(ROOT)}-{i}")


@pytest.mark.parametrize("example", list(examples()))
def test_examples_run(example, monkeypatch, tmp_path, recwarn):
    def few_images():
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 256, (96, 28, 28), np.uint8), rng.integers(0, 10, 96, np.uint8)
        return (x[:64], y[:64]), (x[64:], y[64:])

    monkeypatch.setattr(tilegrad.keras.datasets.mnist, "load_data", few_images)
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(example, "example", "exec"), {"__name__": "__main__"})
    if "loss.backward" in example:
        assert "[ 1.  -2.   0.5]" in out.getvalue()
    elif "tilegrad.profile" in example:
        assert "dispatch" in out.getvalue() and (tmp_path / "run.json").exists()
    elif "sim.trace" in example:
        assert "multiply_tiles" in out.getvalue()
        assert "multiply_tiles" in (tmp_path / "dense.html").read_text()
    else:
        assert "Test accuracy: 0." in out.getvalue()
