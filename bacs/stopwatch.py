"""How long work takes: on the wall, and on the processor, which other work on the machine does not lengthen."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Stopwatch:
    """Sums over the times it ran."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of all threads of this process; reading processes and other ranks have clocks of their own."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        began, cpu_began = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu_began
