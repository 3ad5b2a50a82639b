"""Requests to stop a run early: SIGTERM, Ctrl-C, or a file named STOP in the run folder."""

import contextlib
import signal
import threading
from pathlib import Path

STOP_FILE = "STOP"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """What asked the run to stop so far.

    Attributes:
        reason: `"SIGTERM"`, `"SIGINT"` or `"STOP"` (the file); `""` while nothing did.
    """

    def __init__(self, folder):
        self._file = Path(folder) / STOP_FILE
        self.reason = ""

    def asked(self):
        """Returns whether the run is to stop after the step that it is in."""
        if not self.reason and self._file.exists():
            self.reason = STOP_FILE
        return bool(self.reason)

    def receive(self, number, frame):
        """Notes a signal; a second Ctrl-C ends the process at once."""
        self.reason = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def stop_requests(folder):
    """Collects requests to stop while the block runs; yields a `StopRequests`.

    Args:
        folder: Run folder. A file `STOP` in it is taken away at the end.
    """
    requests, before = StopRequests(folder), {}
    if threading.current_thread() is threading.main_thread():  # others cannot have handlers
        before = {number: signal.signal(number, requests.receive) for number in _SIGNALS}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        (Path(folder) / STOP_FILE).unlink(missing_ok=True)
