"""A request that is gone before the engine's task wakes for it: what a router does that hedges or is left early."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from infermesh.core.model.profiles import PROFILES
from infermesh.emulator.driver import EngineDriver, Flight
from infermesh.emulator.faults import Faults
from infermesh.emulator.metrics import EngineMetrics


class Diary:
    def __init__(self) -> None:
        self.finished = trio.Event()

    def on_token(self, index: int) -> None: ...

    def on_finished(self) -> None:
        self.finished.set()


def _submit(driver: EngineDriver) -> tuple[Flight, Diary]:
    diary = Diary()
    flight = Flight("id", prompt_tokens=10, output_tokens=2, finish_reason="length", answer=diary)
    driver.submit(flight, ())
    return flight, diary


@pytest.mark.parametrize("requests", [1, 3])
async def test_an_idle_engine_survives_requests_that_are_aborted_before_it_wakes(
    requests: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    faults = Faults()
    metrics = EngineMetrics("m", context_tokens_max=1_024)
    driver = EngineDriver("m", PROFILES["tiny"], faults, metrics, in_flight_max=100)
    nursery.start_soon(driver.run)
    await wait_all_tasks_blocked()
    for _ in range(requests):
        flight, _ = _submit(driver)
        assert driver.abort(flight)
    await wait_all_tasks_blocked()
    _, diary = _submit(driver)
    with trio.fail_after(5):
        await diary.finished.wait()
    assert driver.metrics.finished["abort"] == requests
    assert driver.engine.counters.finished == 1
