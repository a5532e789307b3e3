"""Keep Ctrl-C from tearing apart what belongs together."""

from __future__ import annotations

import _signal as signal  # `signal` itself makes enums of all it returns: seven times slower
import threading


class uninterrupted:  # noqa: N801 - used like a function
    """Within the block an interrupt (SIGINT) waits; it is handled when the block ends.

    Only Python handlers in the main thread can interrupt Python code; elsewhere, and where SIGINT
    is ignored or ends the process, there is nothing to wait for.

    >>> with uninterrupted():
    ...     a = 1  # either both of these happen
    ...     b = 2  # or none
    """

    def __enter__(self):
        self._caught = None
        self._handler = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                signal.signal(signal.SIGINT, self._note)
                self._handler = handler
        return self

    def __exit__(self, *exception):
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            if self._caught is not None:
                self._handler(*self._caught)

    def _note(self, *arguments):
        self._caught = arguments
