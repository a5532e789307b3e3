"""The progress bar: Keras's format on a terminal, one plain line elsewhere."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import types

import numpy as np
import pytest

from tilegrad import keras
from tilegrad.keras import callbacks
from tilegrad.keras.utils import Progbar, progbar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def plain(text):
    return re.sub(r"\x1b\[\d+m", "", text)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only by hand."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(progbar, "time", made)
    return made


@pytest.fixture
def terminal(monkeypatch):
    """A terminal 120 columns wide in place of stdout, for the bar and for the callbacks."""
    stream = Terminal()
    monkeypatch.setattr(progbar, "sys", types.SimpleNamespace(stdout=stream, modules={}))
    monkeypatch.setattr(callbacks, "print", functools.partial(print, file=stream), raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return stream


def test_log_file_gets_one_plain_line(capsys, clock):
    bar = Progbar(313, stateless_metrics=())
    for step in range(1, 314):
        clock.now += 0.003
        bar.update(step, [("accuracy", 0.5), ("loss", 2.0)], finalize=False)
    assert capsys.readouterr().out == ""
    bar.update(313, [("accuracy", 0.97656), ("loss", 0.00012345)], finalize=True)
    out = capsys.readouterr().out
    assert out == "313/313 - 1s - 3ms/step - accuracy: 0.9766 - loss: 1.2345e-04\n"


def test_verbose_2_is_the_same_everywhere(terminal, clock):
    bar = Progbar(10, verbose=2, stateless_metrics=())
    for step in range(1, 11):
        clock.now += 2.0
        bar.update(step, [("loss", 1.5)])
    assert terminal.getvalue() == "10/10 - 20s - 2s/step - loss: 1.5000\n"


def test_terminal_redraws_in_colour(terminal, clock):
    bar = Progbar(100, stateless_metrics=())
    for step in range(1, 51):
        clock.now += 0.125
        bar.update(step, [("loss", 0.25)])
    frames = terminal.getvalue().split("\r")[1:]
    assert len(frames) == 50
    assert "\b" not in terminal.getvalue()
    assert plain(frames[-1]) == " 50/100 " + "━" * 20 + " 6s 125ms/step - loss: 0.2500"
    assert frames[-1].startswith("\x1b[1m 50/100\x1b[0m \x1b[32m" + "━" * 10 + "\x1b[0m\x1b[37m")
    bar.update(100, [("loss", 0.2)], finalize=True)
    assert plain(terminal.getvalue().split("\r")[-1]).rstrip().endswith(" - loss: 0.2000")


def test_redraw_at_most_every_interval(terminal, clock):
    bar = Progbar(1000)
    for step in range(1, 1000):
        clock.now += 0.001
        bar.update(step)
    assert 15 <= terminal.getvalue().count("\r") <= 21


def test_shorter_line_covers_the_longer_one(terminal, clock):
    bar = Progbar(10)
    clock.now += 1
    bar.update(1, [("a_long_metric_name", 1.0)])
    longest = len(plain(terminal.getvalue().split("\r")[-1]))
    bar._values.clear()
    clock.now += 1
    bar.update(2)
    assert len(plain(terminal.getvalue().split("\r")[-1])) >= longest


def test_narrow_terminal_never_wraps(terminal, monkeypatch, clock):
    monkeypatch.setenv("COLUMNS", "50")
    bar = Progbar(10)
    clock.now += 1
    bar.update(1, [(f"metric_{i}", 1.0) for i in range(9)])
    assert len(plain(terminal.getvalue().split("\r")[-1])) < 50


def test_averages_by_default_and_stateful_as_is(capsys, clock):
    bar = Progbar(4, stateful_metrics=["last"])
    for step, value in enumerate([1.0, 2.0, 3.0], start=1):
        bar.update(step, [("mean", value), ("last", value)])
    assert bar._values == {"mean": [6.0, 3], "last": [3.0, 1]}
    bar.add(1)
    assert capsys.readouterr().out.endswith("- mean: 2.0000 - last: 3.0000\n")


def test_unknown_target(terminal, clock):
    bar = Progbar(None)
    clock.now += 1
    bar.update(7)
    assert plain(terminal.getvalue()) == "\r      7/Unknown 1s 143ms/step"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (61, "1:01"),
        (3599, "59:59"),
        (3601, "1:00:01"),
        (90000, "25:00:00"),
    ],
)
def test_clock(seconds, text):
    assert progbar._clock(seconds) == text


def test_both_lists_are_refused():
    with pytest.raises(ValueError, match="stateful_metrics or stateless_metrics"):
        Progbar(1, stateful_metrics=["a"], stateless_metrics=["b"])


def fit(verbose, epochs=2, **kwargs):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 3)), np.ones(8), epochs=epochs, verbose=verbose, **kwargs)
    return model


def test_fit_writes_one_line_per_epoch_to_a_log(capsys):
    fit(1, validation_split=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines, start=1):
        assert re.fullmatch(
            rf"Epoch {epoch}/2 - 1/1 - \d+s - \d+[mu]?s/step - loss: \S+ - val_loss: \S+", line
        )


def test_fit_verbose_2(capsys):
    fit(2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Epoch 1/2"
    assert re.fullmatch(r"1/1 - \d+s - \d+[mu]?s/step - loss: \S+", lines[1])
    assert len(lines) == 4


def test_fit_on_a_terminal(terminal):
    fit("auto")
    text = plain(terminal.getvalue())
    assert text.startswith("Epoch 1/2\n\r")
    assert text.count("\n") == 4
    assert "1/1 ━━━━━━━━━━━━━━━━━━━━" in text


def test_silence(capsys):
    model = fit(0)
    model.evaluate(np.ones((8, 3)), np.ones(8), verbose=0)
    model.predict(np.ones((8, 3)), verbose=0)
    assert capsys.readouterr().out == ""


def test_evaluate_and_predict_lines(capsys):
    model = fit(0)
    model.evaluate(np.ones((70, 3)), np.ones(70))
    model.predict(np.ones((70, 3)))
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"3/3 - \d+s - \d+[mu]?s/step - loss: \S+", first)
    assert re.fullmatch(r"3/3 - \d+s - \d+[mu]?s/step", second)


def test_exception_leaves_the_cursor_on_a_fresh_line(terminal, clock):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            clock.now += 1
            if batch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(1, epochs=1, batch_size=2, callbacks=[Interrupt()])
    assert terminal.getvalue().endswith("\n")


def test_no_escape_codes_through_a_pipe():
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream, contextlib.redirect_stdout(stream):
        fit(1)
    with os.fdopen(read) as stream:
        text = stream.read()
    assert "\x1b" not in text and "\b" not in text and "\r" not in text
