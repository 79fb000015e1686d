"""The clock of a process: trio's, but for reading it, which is one call of C.

trio's own adds a random offset to the same counter in Python, so that nobody takes its zero for something; the request
path reads it a dozen times. What is read here and by `trio.current_time` is the same.
"""

from __future__ import annotations

import time

import trio


class SteadyClock(trio.abc.Clock):
    current_time = staticmethod(time.perf_counter)

    def start_clock(self) -> None:
        pass

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()
