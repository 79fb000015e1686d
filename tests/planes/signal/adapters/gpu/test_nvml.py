from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import MockClock

from infermesh.core.model.names import NodeId
from infermesh.core.model.state import GpuHealth
from infermesh.planes.signal.adapters.gpu.nvml import NvmlAdapter, NvmlConfig
from infermesh.planes.signal.adapters.gpu.nvml_reader import GpuReadError, GpuReading, NoDriverError
from infermesh.planes.signal.adapters.gpu.port import GpuCondition
from infermesh.testing.recorded_log import RecordedLog

NODE = NodeId("gpu-a")
READING = GpuReading(gpu_uuid="GPU-1", name="Fake H100", health=GpuHealth.HEALTHY, temperature_c=54.0)


class _Driver:
    """A blocking driver whose faults are set from the test."""

    def __init__(self) -> None:
        self.open_error: GpuReadError | None = None
        self.read_error: GpuReadError | None = None
        self.readings: tuple[GpuReading, ...] = (READING,)
        self.answers = threading.Event()
        self.answers.set()
        self.opened = 0
        self.reads = 0
        self.inside = 0
        self.inside_max = 0
        self.closed = 0
        self.returned = threading.Event()

    def open(self) -> None:
        self.opened += 1
        if self.open_error is not None:
            raise self.open_error

    def read(self) -> tuple[GpuReading, ...]:
        self.reads += 1
        self.inside += 1
        self.inside_max = max(self.inside_max, self.inside)
        # Bounded, so that a failing test does not leave a thread behind for ever.
        self.answers.wait(timeout=30.0)
        self.inside -= 1
        self.returned.set()
        if self.read_error is not None:
            raise self.read_error
        return self.readings

    def close(self) -> None:
        self.closed += 1


def _adapter(driver: _Driver, log: RecordedLog, *, call_deadline_s: float = 2.0) -> NvmlAdapter:
    config = NvmlConfig(call_deadline_s=call_deadline_s)
    return NvmlAdapter(NODE, log, config=config, reader=driver, unix_time=lambda: 1000.0)


async def test_gpus_are_reported_with_growing_sequences() -> None:
    driver, log = _Driver(), RecordedLog()
    adapter = _adapter(driver, log)
    (first,) = await adapter.sample()
    (second,) = await adapter.sample()
    assert (first.node, first.gpu_uuid, first.health, first.temperature_c) == (NODE, "GPU-1", GpuHealth.HEALTHY, 54.0)
    assert (first.sequence, second.sequence) == (1_000_000, 1_000_001)
    assert (driver.opened, adapter.condition, adapter.reason) == (1, GpuCondition.READING, "")
    await adapter.aclose()
    assert driver.closed == 1


async def test_without_a_driver_it_says_so_once_and_looks_again_after_a_minute() -> None:
    clock_log = RecordedLog()
    driver = _Driver()
    driver.open_error = NoDriverError("NVML Shared Library Not Found")
    adapter = _adapter(driver, clock_log)
    for _ in range(3):
        assert await adapter.sample() == ()
    assert driver.opened == 1
    assert adapter.condition is GpuCondition.NO_DRIVER
    assert clock_log.events == [
        (
            "gpu_telemetry",
            {"condition": "no_driver", "reason": "NVML Shared Library Not Found; no GPU is reported"},
        )
    ]
    await adapter.aclose()
    assert driver.closed == 0


async def test_a_driver_that_comes_later_is_found(mock_clock: MockClock) -> None:
    driver, log = _Driver(), RecordedLog()
    driver.open_error = NoDriverError("Driver Not Loaded")
    adapter = _adapter(driver, log)
    await adapter.sample()
    driver.open_error = None
    mock_clock.jump(59.0)
    assert await adapter.sample() == ()
    mock_clock.jump(1.0)
    assert len(await adapter.sample()) == 1
    assert [fields["condition"] for fields in log.fields_of("gpu_telemetry")] == ["no_driver", "reading"]


async def test_a_hung_driver_is_a_state_and_never_hangs_the_daemon() -> None:
    driver, log = _Driver(), RecordedLog()
    adapter = _adapter(driver, log, call_deadline_s=0.05)
    await adapter.sample()
    driver.answers.clear()
    driver.returned.clear()
    with trio.fail_after(5):
        hung = [await adapter.sample() for _ in range(4)]
    assert adapter.condition is GpuCondition.HUNG
    assert [(state.gpu_uuid, state.health) for (state,) in hung] == [("GPU-1", GpuHealth.UNKNOWN)] * 4
    # One call went in and is still there; no second one was piled upon it.
    assert (driver.reads, driver.inside, driver.inside_max) == (2, 1, 1)
    assert [fields["condition"] for fields in log.fields_of("gpu_telemetry")] == ["reading", "hung"]
    with trio.fail_after(1):
        await adapter.aclose()
    assert driver.closed == 0
    driver.answers.set()
    assert await trio.to_thread.run_sync(driver.returned.wait, 5.0)
    with trio.fail_after(5):
        # The token comes back through trio's loop, a moment after the call has returned.
        while (await adapter.sample())[0].health is not GpuHealth.HEALTHY:
            await trio.lowlevel.checkpoint()
    assert adapter.reason == ""


async def test_a_driver_that_hangs_at_the_first_call_reports_no_gpu() -> None:
    driver, log = _Driver(), RecordedLog()
    driver.answers.clear()
    adapter = _adapter(driver, log, call_deadline_s=0.05)
    assert await adapter.sample() == ()
    assert await adapter.sample() == ()
    assert adapter.condition is GpuCondition.HUNG
    driver.answers.set()


async def test_a_driver_that_answers_with_errors_leaves_the_health_unknown() -> None:
    driver, log = _Driver(), RecordedLog()
    adapter = _adapter(driver, log)
    await adapter.sample()
    driver.read_error = GpuReadError("Unknown Error")
    (state,) = await adapter.sample()
    assert (state.health, adapter.condition, adapter.reason) == (
        GpuHealth.UNKNOWN,
        GpuCondition.FAILING,
        "Unknown Error",
    )
    assert log.fields_of("gpu_health") == [{"gpu_uuid": "GPU-1", "health": "unknown", "reason": "Unknown Error"}]


async def test_a_change_of_health_is_one_event() -> None:
    driver, log = _Driver(), RecordedLog()
    adapter = _adapter(driver, log)
    bad = GpuReading(gpu_uuid="GPU-1", name="Fake H100", health=GpuHealth.FAILED, trouble="GPU is lost")
    for readings in ((READING,), (bad,), (bad,), (READING,)):
        driver.readings = readings
        await adapter.sample()
    assert [fields["health"] for fields in log.fields_of("gpu_health")] == ["failed", "healthy"]


@pytest.mark.parametrize("checkpoints", range(4))
async def test_a_cancelled_sample_is_left_behind_and_the_next_one_works(checkpoints: int) -> None:
    driver, log = _Driver(), RecordedLog()
    adapter = _adapter(driver, log)
    driver.answers.clear()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_after, checkpoints, scope)
            await adapter.sample()
    assert scope.cancelled_caught
    driver.answers.set()
    with trio.fail_after(5):
        while not await adapter.sample():
            await trio.lowlevel.checkpoint()
    assert driver.inside_max == 1


async def _cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()
