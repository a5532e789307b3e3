"""A training contender in a process of its own: what runs there, and the parent's end of the line.

Requests and answers are JSON, a line each; arrays go through files. The process is bound to as many
cores as it may use threads, and is stopped (SIGSTOP) while others have their turn: it can neither
disturb them, by threads that go on spinning, nor get work done while no clock runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .networks import Network

# What each library's pool of threads obeys when it starts.
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PATIENCE = 600  # seconds for one answer
LAST_WORDS = 10  # lines of what a lost child had printed

# --- the parent's end -----------------------------------------------------------------------------


class LostError(RuntimeError):
    """A child ended, or did not answer; with its last line, then those before it."""


class Child:
    """A contender's process; closed, it is gone.

    Args:
        module: its baseline, importable there.
        options: of the baseline's `prepare`.
        environment: variables beside the parent's.
        patience: seconds for one answer; then it counts as hanging.

    Attributes:
        patience: as above.
        absent: why it cannot take part, or None.
        version: of its library.

    Raises:
        LostError: it ended or hung before it was ready.
    """

    def __init__(
        self,
        module: str,
        network: Network,
        batch: int,
        threads: int,
        options: Mapping,
        environment: Mapping[str, str],
        patience: float = PATIENCE,
    ):
        order = {"module": module, "network": asdict(network), "batch": batch, "threads": threads}
        self.patience, self._received = patience, b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(order | {"options": dict(options)})],
            env={**os.environ, **{name: str(threads) for name in POOLS}, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            # It has not begun to load anything yet; threads get the cores of who starts them.
            os.sched_setaffinity(self.pid, sorted(os.sched_getaffinity(0))[:threads])
            ready = self._answer()
        except BaseException:
            self.close()
            raise
        self.absent, self.version = ready.get("absent"), ready.get("version", "")

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: str, **details) -> dict:
        """The answer to a request.

        Raises:
            LostError: there is none.
        """
        line = json.dumps({"request": request, **details}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError:
            raise self._lost("ended") from None
        return self._answer()

    def busy_seconds(self) -> float:
        """CPU seconds of all its threads so far, counted by the system."""
        # Linux: the number of a process's CPU clock, as clock_getcpuclockid(3) computes it
        return time.clock_gettime((~self.pid << 3) | 2)

    def starved_seconds(self) -> float:
        """Seconds that its threads, taken together, were ready to run and had no core."""
        total = 0
        for path in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                total += int(path.read_text().split()[1])
        return total / 1e9

    def stop(self) -> None:
        """Let nothing run there until `go`."""
        self._signal(signal.SIGSTOP)

    def go(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):  # what it never read
                file.close()

    def _signal(self, number: int) -> None:
        """To the child, and to the processes that it may have started."""
        with contextlib.suppress(ProcessLookupError):
            group = os.getpgid(self.pid)
            if group == self.pid:
                os.killpg(group, number)
            else:  # it has not come as far as to make a group of its own
                self._process.send_signal(number)

    def _answer(self) -> dict:
        deadline = time.monotonic() + self.patience
        while b"\n" not in self._received:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise self._lost(f"did not answer for {self.patience:g} seconds")
            received = os.read(self._process.stdout.fileno(), 2**16)
            if not received:
                raise self._lost("ended")
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def _lost(self, what: str) -> LostError:
        self._signal(signal.SIGKILL)
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()[-LAST_WORDS:]
        *before, last = lines or ["nothing was printed"]
        return LostError("\n".join([f"{what} (exit status {code}): {last}", *before]))


# --- the child ------------------------------------------------------------------------------------


def main() -> None:
    """Prepare the baseline of the order in the arguments, then answer requests until none come."""
    os.setpgrp()  # so that the parent can stop, and end, whatever else is started here
    order = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**fields) -> None:
        print(json.dumps(fields), file=answers)

    try:
        baseline = importlib.import_module(order["module"])
    except ImportError as error:
        return answer(absent=f"not installed: {error.name or error}")
    network = Network.from_json(order["network"])
    trainer = baseline.prepare(network, order["batch"], order["threads"], **order["options"])
    pupil = Pupil(trainer, order["batch"])
    answer(version=baseline.VERSION)
    for line in sys.stdin:
        request = json.loads(line)
        answer(**getattr(pupil, request.pop("request"))(**request))


class Pupil:
    """What a parent can ask for; each method is a request, and returns the answer's fields."""

    def __init__(self, trainer, batch: int):
        self._trainer, self._batch = trainer, batch
        self._images, self._count = None, 0

    def restart(self, weights: str, seed: int) -> dict:
        """Begin anew from the weights in a file."""
        with np.load(weights) as arrays:
            self._trainer.restart([arrays[name] for name in arrays.files], seed)
        return {}

    def images(self, x: str) -> dict:
        """Take images to train on."""
        self._images = None  # make room first
        x = np.load(x)
        self._images, self._count = self._trainer.images(x), len(x)
        return {}

    def epoch(self, labels: str) -> dict:
        """Train on the images once."""
        labels = np.load(labels)
        faults, start = _faults(), time.perf_counter()
        loss = self._trainer.epoch(self._images, labels)
        seconds, faults = time.perf_counter() - start, _faults() - faults
        return {
            "seconds": seconds,
            "loss": float(loss),
            "faults_per_step": faults * self._batch / self._count,
            "peak_mb": peak_memory() / 2**20,
        }

    def weights(self, to: str) -> dict:
        """Write the weights to a file."""
        np.savez(to, *self._trainer.weights())
        return {}

    def predict(self, x: str, to: str) -> dict:
        """Write the likeliest class of each image to a file."""
        np.save(to, self._trainer.predict(self._trainer.images(np.load(x))))
        return {}


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main()
