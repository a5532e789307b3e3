"""The command ``tilegrad``: what it prints, its exit codes, its manners when interrupted."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tilegrad
from tilegrad import backend, cli


@pytest.fixture(autouse=True)
def undo():
    """The command sets the default device and the threads of its process; tests share one."""
    device, variable = backend.default_device(), os.environ.get("TILEGRAD_THREADS")
    threads = tilegrad.get_num_threads()
    yield
    backend.set_default_device(device)
    tilegrad.set_num_threads(threads)
    if variable is None:
        del os.environ["TILEGRAD_THREADS"]


def run(*arguments, **environment):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tilegrad", *arguments],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.mark.parametrize("device", ["cpu", "cuda", "reference"])  # "sim" would take minutes
def test_train(device, capsys):
    reason = backend.supported().get(device)
    if reason:
        pytest.skip(reason)
    assert cli.main(["train", "--epochs", "2", "--batch-size", "64", "--device", device]) == 0
    out = capsys.readouterr().out
    assert "digits: 1,442 images to learn from, 355 to test on" in out
    assert "Total params: 38,602" in out
    assert "Epoch 2/2" in out
    # the last epoch's 23 steps, not the test's
    assert re.search(r"conv2d_max_pool2d_forward.* 23 ", out)
    assert "GFLOP/s" in out and "GB/s" in out and "share" in out
    assert re.search(r"time per epoch  \d+\.\d{3} s \(median of 1\)", out)
    assert float(re.search(r"test accuracy   (0\.\d{4})", out)[1]) > 0.3
    assert "█" in out and ", but is " in out


def test_train_reaches_097(capsys):
    start = time.perf_counter()
    assert cli.main(["train"]) == 0
    assert float(re.search(r"test accuracy   (\d\.\d{4})", capsys.readouterr().out)[1]) >= 0.97
    assert time.perf_counter() - start < 60


def test_the_same_seed_and_other_threads_give_the_same_numbers(capsys):
    lines = []
    for threads, seed in (("1", "3"), ("3", "3"), ("2", "4")):
        cli.main(["train", "--epochs", "1", "--threads", threads, "--seed", seed])
        out = capsys.readouterr().out
        assert f"threads {threads}, seed {seed}" in out
        numbers = re.search(r"accuracy: [\d.]+ - loss: [\d.]+", out)[0]
        lines.append((numbers, re.search(r"test accuracy .*", out)[0]))
    assert lines[0] == lines[1] != lines[2]


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_train_on_larger_images(dataset, monkeypatch, capsys):
    rng = np.random.default_rng(0)

    def load_data():
        x = rng.integers(0, 256, (96, 28, 28), np.uint8)
        y = rng.integers(0, 10, 96, np.uint8)
        return (x[:64], y[:64]), (x[64:], y[64:])

    monkeypatch.setattr(getattr(tilegrad.keras.datasets, dataset), "load_data", load_data)
    arguments = ["--dataset", dataset, "--epochs", "1", "--device", "reference"]
    assert cli.main(["train", *arguments]) == 0
    out = capsys.readouterr().out
    assert "Total params: 693,962" in out and "2/2" in out


def test_train_offline_says_what_it_tried(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TILEGRAD_DATA", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(tilegrad.keras.datasets._sources, "download", refuse)
    assert cli.main(["train", "--dataset", "mnist", "--device", "reference"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("tilegrad: mnist: expected its files") and "no network" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "--dataset", "cifar"], "invalid choice: 'cifar'"),
        (["train", "--epochs", "0"], "--epochs: expected an integer at least 1, got '0'"),
        (["train", "--epochs", "many"], "--epochs: expected an integer at least 1, got 'many'"),
        (["train", "--batch-size", "-3"], "--batch-size: expected an integer at least 1, got '-3'"),
        (["train", "--seed", "-1"], "--seed: expected an integer in 0..4294967295, got '-1'"),
        (["train", "--threads", "0"], "--threads: expected an integer in 1..1024, got '0'"),
        (["train", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["train", "--fast"], "unrecognized arguments: --fast"),
        (["info", "--verbose"], "unrecognized arguments: --verbose"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_threads_belong_to_the_cpu(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["train", "--device", "reference", "--threads", "2"])
    assert error.value.code == 2
    assert "--threads: expected device cpu, got reference" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TILEGRAD_DEVICE", "tpu", "expected one of cpu, cuda, sim, reference, got 'tpu'"),
        ("TILEGRAD_ISA", "sse9", "expected one of avx512, avx2, base, got 'sse9'"),
        ("TILEGRAD_THREADS", "none", "expected 1 to 1024, got 'none'"),
        ("TILEGRAD_DEBUG", "9", "expected 0 to 4, got '9'"),
    ],
)
@pytest.mark.parametrize("command", ["info", "train"])
def test_bad_settings_are_one_line(command, variable, value, message):
    result = run(command, **{"TILEGRAD_DEVICE": "cpu", variable: value})
    assert result.returncode == 1
    assert result.stderr == f"tilegrad: {variable}: {message}\n"


@pytest.mark.filterwarnings("ignore:Limiting")
def test_keras_limits_are_obeyed(monkeypatch, capsys):
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "2")
    monkeypatch.setenv("KERAS_MAX_STEPS_PER_EPOCH", "3")
    assert cli.main(["train", "--epochs", "4"]) == 0
    out = capsys.readouterr().out
    assert "Epoch 2/2" in out and re.search(r"conv2d_max_pool2d_forward.* 3 ", out)


def test_no_escape_codes_and_80_columns_in_a_pipe():
    for arguments in (["train", "--epochs", "1"], ["info"]):
        result = run(*arguments)
        assert "\x1b" not in result.stdout and "\b" not in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "tilegrad", "info"], stdout=full, stderr=subprocess.PIPE
        )
    assert result.returncode == 1
    assert re.fullmatch(rb"tilegrad: .*No space left.*\n", result.stderr)


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"tilegrad  {tilegrad.__version__}" in out
    assert "device    " in out and "isa       " in out
    for name, present, _ in backend.describe():
        assert re.search(rf"{name} +│ {'yes' if present else 'no'}", out)


def test_info_obeys_the_environment():
    result = run("info", TILEGRAD_ISA="base", TILEGRAD_THREADS="3", TILEGRAD_DEVICE="reference")
    assert result.returncode == 0, result.stderr
    assert re.search(r"isa       base \(TILEGRAD_ISA=base\)", result.stdout)
    assert "threads   3 (TILEGRAD_THREADS)" in result.stdout
    assert "device    reference" in result.stdout


def test_version_and_help():
    assert run("--version").stdout == f"tilegrad {tilegrad.__version__}\n"
    result = run("train", "--help")
    assert result.returncode == 0 and "--batch-size" in result.stdout


def test_without_unicode():
    arguments = ["train", "--epochs", "1", "--device", "reference"]
    result = run(*arguments, PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "##" in result.stdout and result.stdout.isascii()


def test_a_reader_that_leaves_early():
    process = subprocess.Popen(
        [sys.executable, "-m", "tilegrad", "train", "--device", "reference", "--epochs", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert b"Traceback" not in err and process.returncode == 1


def test_control_c():
    # A shell lets its background jobs ignore SIGINT, and children inherit that.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from tilegrad.cli import main; sys.exit(main(['train', '--device', 'reference']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    while "Epoch 1/" not in (line := process.stdout.readline()):
        assert line or process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "\ntilegrad: interrupted\n"


def test_gallery():
    images = np.zeros((5, 28, 28), np.uint8)
    images[:, :14] = 255
    images[4] = 0
    labels = np.array([1, 2, 3, 4, 5])
    predicted = np.array([1, 2, 7, 4, 5])
    text = cli._gallery(images, labels, predicted, 60)
    rows = text.split("\n")
    assert max(map(len, rows)) <= 60
    assert "1" in rows[14] and "2" in rows[14] and "7, but is 3" in text
    assert rows[0] == "█" * 28 + "  " + "█" * 28 and rows[8] == ""
    assert cli._gallery(images[4:], labels[4:], predicted[4:], 1).strip() == "5"
