"""How a driver ends early: told to by a signal, or because its Ray is gone. Never later than promised."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from sweeps.exits import FAILED

EXIT_SECONDS = 30.0
"""From the first signal to the exit of the driver."""
_RESERVE_SECONDS = 5.0
"""Of these, what the last words may take where draining hangs."""
_AGAIN_SECONDS = 0.5
"""A second Ctrl-C is one that comes later than this: wrappers pass on what the terminal has sent already."""
_TICK_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Guard:
    """Inside ``with``, signals ask for an orderly end instead of killing the process.

    The first SIGINT (Ctrl-C), SIGTERM (SLURM, Kubernetes) or SIGHUP (the terminal was closed) sets ``draining``. The
    process is ended at once, with exit code 1, where there is nothing to drain yet, when a second Ctrl-C comes, when
    draining does not come to its end, or when ``is_lost`` gives a reason. All this happens in a thread of its own and
    never waits for the main thread, which may stand still in a call to a Ray that is gone.
    """

    def __init__(
        self,
        last_words: Callable[[str, float], None],
        hurry: Callable[[], None] = lambda: None,
        before_exit: Callable[[], None] = lambda: None,
    ) -> None:
        """A guard that does nothing yet.

        Args:
            last_words: called before the process is ended, with the reason and the seconds it may take.
            hurry: called once an end is near: nothing that the main thread waits for may be waited for any longer.
            before_exit: called right before the process is ended; must not wait for anything.
        """
        self.draining = threading.Event()
        self.has_work = False
        """Whether there is anything to drain; Ray alone takes longer to start than to be killed."""
        self.is_lost: Callable[[], str | None] = lambda: None
        """Asked about once a second, in the guard's thread: why work cannot go on."""
        self._last_words = last_words
        self._hurry = hurry
        self._before_exit = before_exit
        self._asked_at: float | None = None
        self._closed = threading.Event()
        self._previous: dict[int, Any] = {}
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)

    def __enter__(self) -> Self:
        self.listen()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        os.write(self._writer, b"\0")
        self._thread.join()
        if self._previous:
            signal.set_wakeup_fd(-1)
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def listen(self) -> None:
        """Takes the signals, also back from Ray, which sets a handler of its own. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            handler = signal.signal(number, _leave_it_to_the_guard)
            self._previous.setdefault(number, handler)

    def seconds_left(self, otherwise: float) -> float:
        """What the end of a sweep may still take: ``otherwise`` where no signal hurries it."""
        if self._asked_at is None:
            return otherwise
        return min(otherwise, max(1.0, self._asked_at + EXIT_SECONDS - 2 * _RESERVE_SECONDS - time.monotonic()))

    def _watch(self) -> None:
        while not self._closed.is_set():
            ready, _, _ = select.select([self._reader], [], [], _TICK_SECONDS)
            for number in os.read(self._reader, 64) if ready else b"":
                self._signalled(number)
            self._look()

    def _signalled(self, number: int) -> None:
        if number not in _SIGNALS:
            return
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self.draining.set()
            self._hurry()
            if not self.has_work:
                self._end("interrupted", EXIT_SECONDS / 2)
        elif number == signal.SIGINT and time.monotonic() > self._asked_at + _AGAIN_SECONDS:
            self._end("interrupted again", 1.0)

    def _look(self) -> None:
        if self._closed.is_set():
            return
        if self._asked_at is not None and time.monotonic() > self._asked_at + EXIT_SECONDS - _RESERVE_SECONDS:
            self._end("the orderly end took too long", _RESERVE_SECONDS - _TICK_SECONDS)
        reason = None if self.draining.is_set() else self.is_lost()
        if reason is not None and not self._closed.is_set():
            self._end(reason, EXIT_SECONDS / 2)

    def _end(self, reason: str, seconds: float) -> None:
        """The last words are spoken in one more thread: they may need a lock whose holder stands still."""
        self._hurry()
        words = threading.Thread(target=self._last_words, args=(reason, seconds), daemon=True)
        words.start()
        words.join(seconds)
        self._before_exit()
        os._exit(FAILED)


def _leave_it_to_the_guard(number: int, frame: object) -> None:
    """The kernel's signal reaches the guard's thread through the pipe, even while the main thread stands still."""
