"""The progress bar of `fit`, `evaluate` and `predict`."""

from __future__ import annotations

import shutil
import sys
import time

_BOLD, _GREEN, _GREY, _RESET = "\x1b[1m", "\x1b[32m", "\x1b[37m", "\x1b[0m"


def is_live(stream=None) -> bool:
    """Whether `stream` (default: stdout) can redraw a line: a terminal or a notebook."""
    stream = sys.stdout if stream is None else stream
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) or "ipykernel" in sys.modules


class Progbar:
    """A progress bar, in the format of Keras.

    On a terminal or in a notebook, ``verbose=1`` redraws one coloured line at most every `interval`
    seconds. Elsewhere (a log file, a pipe) it writes one plain line when the bar is finished, so
    that logs hold neither backspaces nor escape codes.

    Args:
        target: number of steps expected; None if unknown.
        width: cells of the bar.
        verbose: 0 silent, 1 bar, 2 one line at the end.
        interval: least time between two redraws, in seconds.
        stateful_metrics: names of values that are shown as they are; all others are averaged over
            the steps they were given for.
        stateless_metrics: the opposite list: names of the values that are averaged. At most one of
            the two lists may be given.
        unit_name: what one step is called.
        prefix: text before the plain line of ``verbose=1`` (such as ``"Epoch 1/5 - "``).

    Raises:
        ValueError: both lists were given.

    >>> bar = Progbar(3, verbose=2)
    >>> bar.update(3, [("loss", 0.25)])  # doctest: +ELLIPSIS
    3/3 - 0s - .../step - loss: 0.2500
    """

    def __init__(
        self,
        target,
        width=20,
        verbose=1,
        interval=0.05,
        stateful_metrics=None,
        stateless_metrics=None,
        unit_name="step",
        prefix="",
    ):
        if stateful_metrics is not None and stateless_metrics is not None:
            raise ValueError(
                "Progbar: expected stateful_metrics or stateless_metrics, got both "
                f"({stateful_metrics} and {stateless_metrics})"
            )
        self.target = target
        self.width = width
        self.verbose = verbose
        self.interval = interval
        self.unit_name = unit_name
        self.prefix = prefix
        self._stateful = set(stateful_metrics or ())
        self._stateless = None if stateless_metrics is None else set(stateless_metrics)
        self._live = is_live()
        self._values = {}  # name -> [sum of value * steps, steps]
        self._seen = 0
        self._start = time.perf_counter()
        self._after_first_step = None
        self._last_draw = float("-inf")
        self._drawn_width = 0

    def update(self, current, values=None, finalize=None):
        """Show that `current` steps are done.

        Args:
            current: number of steps done.
            values: pairs ``(name, value)``.
            finalize: whether this is the last update; default: `current` has reached `target`.
        """
        if finalize is None:
            finalize = self.target is not None and current >= self.target
        for name, value in values or ():
            self._record(name, value, current, finalize)
        now = time.perf_counter()
        step_time = self._step_time(current, now)
        self._seen = current
        if self.verbose == 1 and self._live:
            if finalize or now - self._last_draw >= self.interval:
                self._draw(current, step_time, now, finalize)
                self._last_draw = now
        elif self.verbose in (1, 2) and finalize:
            prefix = self.prefix if self.verbose == 1 else ""
            self._write(f"{prefix}{self._plain(current, step_time, now)}\n")

    def is_due(self) -> bool:
        """Whether an update now, before the last one, would draw."""
        waited = time.perf_counter() - self._last_draw >= self.interval
        return self.verbose == 1 and self._live and waited

    def add(self, n, values=None):
        """Show that `n` more steps are done."""
        self.update(self._seen + n, values)

    def close(self):
        """End a line that was drawn but not finished, so that the next output starts afresh."""
        if self._drawn_width:
            self._write("\n")
            self._drawn_width = 0

    def _record(self, name, value, current, finalize):
        if self._stateless is None:
            averaged = name not in self._stateful
        else:
            averaged = name in self._stateless
        value = float(value)
        if not averaged or finalize:
            self._values[name] = [value, 1]
            return
        steps = max(current - self._seen, 1)
        total = self._values.setdefault(name, [0.0, 0])
        total[0] += value * steps
        total[1] += steps

    def _step_time(self, current, now):
        """Seconds per step, the first one left out where later ones exist: it warms caches up."""
        if not current:
            return 0.0
        if self._after_first_step is not None and current > 1:
            return (now - self._after_first_step) / (current - 1)
        if current == 1:
            self._after_first_step = now
        return (now - self._start) / current

    def _metrics(self):
        shown = []
        for name, (total, steps) in self._values.items():
            value = total / max(1, steps)
            shown.append(
                f" - {name}: {value:.4f}" if abs(value) > 1e-3 else f" - {name}: {value:.4e}"
            )
        return shown

    def _count(self, current):
        if not self.target:
            return f"{current:7d}/Unknown"
        return f"{current:{len(str(self.target))}d}/{self.target}"

    def _plain(self, current, step_time, now):
        text = f"{self._count(current)} - {now - self._start:.0f}s -{self._per_step(step_time)}"
        return text + "".join(self._metrics())

    def _draw(self, current, step_time, now, finalize):
        if self.target:
            done = int(self.width * min(current / self.target, 1.0))
            green = f"{_GREEN}{'━' * done}{_RESET}" if done else ""
            grey = f"{_GREY}{'━' * (self.width - done)}{_RESET}"
            line = f"{_BOLD}{self._count(current)}{_RESET} {green}{grey}"
            width = len(self._count(current)) + 1 + self.width
        else:
            line = self._count(current)
            width = len(line)
        if self.target and not finalize:
            clock = _clock(step_time * (self.target - current))
        else:
            clock = f"{now - self._start:.0f}s"
        per_step = self._per_step(step_time)
        line += f" {_BOLD}{clock}{_RESET}{per_step}"
        width += 1 + len(clock) + len(per_step)
        # A line longer than the terminal would wrap, and "\r" could not take it back.
        room = shutil.get_terminal_size().columns - 1
        for text in self._metrics():
            if not finalize and width + len(text) > room:
                break
            line += text
            width += len(text)
        padding = " " * max(self._drawn_width - width, 0)
        self._write(f"\r{line}{padding}" + ("\n" if finalize else ""))
        self._drawn_width = 0 if finalize else width

    def _per_step(self, seconds):
        if seconds >= 1 or seconds == 0:
            return f" {seconds:.0f}s/{self.unit_name}"
        if seconds >= 1e-3:
            return f" {seconds * 1e3:.0f}ms/{self.unit_name}"
        return f" {seconds * 1e6:.0f}us/{self.unit_name}"

    @staticmethod
    def _write(text):
        sys.stdout.write(text)
        sys.stdout.flush()


def _clock(seconds) -> str:
    seconds = int(seconds)
    if seconds > 3600:
        return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
    if seconds > 60:
        return f"{seconds // 60}:{seconds % 60:02d}"
    return f"{seconds}s"
