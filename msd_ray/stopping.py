"""SIGTERM and Ctrl-C: the process notices them at once, and ends when nothing is lost by it.

The signals are blocked in all threads, and one thread waits for them. So they interrupt neither an import nor a call
into C++, and the handlers that libraries install (Ray's abort the process) never run. This module must be imported
before all others, and imports next to nothing itself.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from msd_ray.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SECONDS = 17.0
"""Seconds that a block of `in_order` has to end; the process exits three seconds later at the latest."""
LAST_WORDS = 2.0
"""Seconds for the registered last actions of a process that ends at once."""


class Stop:
    """Whether this process was told to stop. It exits at once, unless it is in a block of `in_order`; at the second
    signal it exits in any case. resumable: whether the same command can resume the work."""

    def __init__(self, end: Callable[[int], None] = os._exit) -> None:
        self._end, self._lock, self._asked = end, threading.Lock(), threading.Event()
        self._signal, self._patience = 0, list[float | None]()
        self._last: list[Callable[[], None]] = []
        self.resumable = False

    def listen(self) -> None:
        """Starts to listen for signals. Must be called in the main thread, before there are other threads."""
        heard = [s for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN]  # as nohup and shell scripts have it
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        os.register_at_fork(after_in_child=unblock)
        threading.Thread(target=self._listen, args=(heard,), name="signals", daemon=True).start()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def wait(self) -> None:
        """Waits until this process is told to stop."""
        self._asked.wait()

    def check(self) -> None:
        """Raises Stopped if this process was told to stop."""
        if self.asked:
            raise self.stopped()

    def stopped(self, number: int = 0) -> Stopped:
        """The message, and the exit code, by which shells know that a signal ended the command."""
        goes_on = "; the same command goes on from the last checkpoint" if self.resumable else ""
        return Stopped(f"stopped{goes_on}", 128 + (number or self._signal))

    @contextmanager
    def in_order(self, seconds: float | None = SECONDS) -> Iterator[None]:
        """In this block the process checks `asked` itself, and ends so many seconds after a signal at the latest."""
        with self._lock:
            self._patience.append(seconds)
        try:
            yield
        finally:
            with self._lock:
                self._patience.pop()

    @contextmanager
    def before_the_end(self, action: Callable[[], None]) -> Iterator[None]:
        """If the process ends at once while in this block, it first runs `action`, in another thread."""
        self._last.append(action)
        try:
            yield
        finally:
            self._last.remove(action)

    def hear(self, number: int) -> None:
        """Handles the signal of that number."""
        with self._lock:
            again, self._signal = self.asked, self._signal or number
            self._asked.set()
            patience = self._patience[-1] if self._patience else 0.0
        if again:
            self._end(128 + number)
        elif patience is not None:
            timer = threading.Timer(patience, self._end_at_once)
            timer.daemon = True
            timer.start()

    def _listen(self, heard: list[signal.Signals]) -> None:
        while True:
            self.hear(signal.sigwait(heard))

    def _end_at_once(self) -> None:
        thread = threading.Thread(target=self._say_last_words, daemon=True)
        thread.start()
        thread.join(LAST_WORDS)
        stopped = self.stopped()
        with suppress(OSError):
            os.write(2, f"{stopped}\n".encode())
        self._end(stopped.exit_code)

    def _say_last_words(self) -> None:
        for action in reversed(self._last):
            with suppress(Exception):
                action()


def unblock() -> None:
    """Lets the signals reach this process again: one that was started by a process that listens."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


STOP = Stop()
"""This process's."""
