from __future__ import annotations

import time

import trio

from infermesh.net.steady_clock import SteadyClock
from infermesh.net.timers import Timers


def test_trio_goes_by_the_counter_that_the_request_path_reads() -> None:
    async def read() -> tuple[float, float, float, float]:
        timers = Timers()
        before = time.perf_counter()
        told = trio.current_time()
        read = timers.now()
        return before, told, read, time.perf_counter()

    times = trio.run(read, clock=SteadyClock())
    assert list(times) == sorted(times)


def test_a_wait_ends_by_it() -> None:
    async def wait() -> float:
        began = trio.current_time()
        await trio.sleep(0.001)
        return trio.current_time() - began

    assert trio.run(wait, clock=SteadyClock()) >= 0.001
