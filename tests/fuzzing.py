"""A process that runs fuzzed calls: should one crash or hang, the test lives on to tell which.

`Worker` starts ``python fuzzing.py MODULE`` and sends it cases. The child answers with what
``MODULE.run(case)`` returns, a text: "ok", "<Error>: <message>" or "wrong: <why>". Cases must be
picklable; the child makes arrays of them.
"""

from __future__ import annotations

import importlib
import os
import pickle
import select
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path

import hypothesis

HERE = Path(__file__).parent
MEMORY = 8 << 30  # what a worker may ask for; the sanitizers reserve terabytes and limit otherwise


def budget(default):
    """Settings with `default` cases, or as many as TILEGRAD_TEST_FUZZ says, then not always the
    same ones."""
    cases = os.environ.get("TILEGRAD_TEST_FUZZ")
    return hypothesis.settings(
        max_examples=int(cases) if cases else default,
        derandomize=not cases,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


class Worker:
    """Runs the cases of the module called `module`, prepared with `arguments`.

    Calling it raises AssertionError where the process dies, gives no answer within `seconds`, or
    answers "wrong: ...".
    """

    def __init__(self, module, *arguments, seconds=60):
        self._seconds = seconds
        self._command = [sys.executable, str(HERE / "fuzzing.py"), module, *arguments]
        self._process = None
        self.outcomes = {}  # how often each answer came

    def __call__(self, case):
        """What the case led to: a text that begins with "ok" or with an error's name."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        content = pickle.dumps(case)
        try:
            self._process.stdin.write(struct.pack("<q", len(content)) + content)
            self._process.stdin.flush()
            answer = self._answer()
        except (BrokenPipeError, EOFError):
            code = self._end()
            raise AssertionError(f"the interpreter died (exit status {code}) in {case}") from None
        except TimeoutError:
            self._end()
            raise AssertionError(f"no answer after {self._seconds} s from {case}") from None
        assert not answer.startswith("wrong"), f"{case}: {answer}"
        kind = answer.split(":")[0]
        self.outcomes[kind] = self.outcomes.get(kind, 0) + 1
        return answer

    def _answer(self):
        size = struct.unpack("<q", self._read(8))[0]
        return self._read(size).decode()

    def _read(self, size):
        found = b""
        while len(found) < size:
            if not select.select([self._process.stdout], [], [], self._seconds)[0]:
                raise TimeoutError
            part = os.read(self._process.stdout.fileno(), size - len(found))
            if not part:
                raise EOFError
            found += part
        return found

    def _end(self):
        process, self._process = self._process, None
        process.kill()
        with process:
            return process.wait()

    def close(self):
        if self._process is not None:
            self._end()


def serve(run):
    """Answer cases on stdin with what `run` makes of them, until stdin ends."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the tested code prints must not become an answer
    while header := source.read(8):
        case = pickle.loads(source.read(struct.unpack("<q", header)[0]))
        try:
            answer = run(case)
        except Exception:
            answer = f"wrong: {traceback.format_exc()}"
        content = answer.encode()
        target.write(struct.pack("<q", len(content)) + content)
        target.flush()


def prepare():
    """This module is a `MODULE` too, for the tests of `Worker`."""


def run(case):
    if case == "crash":
        os.abort()
    if case == "hang":
        time.sleep(100)
    return case


def main():
    name, *arguments = sys.argv[1:]
    module = importlib.import_module(name)
    module.prepare(*arguments)
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    serve(module.run)


if __name__ == "__main__":
    main()
