from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.planes.signal.adapters.gpu.port import GpuCondition
from infermesh.planes.signal.adapters.runtime.port import Capability, ListedModel, RuntimeAdapterError
from infermesh.planes.signal.sampler import Cadence, run_gpu_sampler, run_sampler
from infermesh.testing.recorded_log import RecordedLog

STEADY = Cadence(jitter=0.0)


def _state(running: int = 0, queue_len: int = 0) -> ModelState:
    return ModelState(
        node=NodeId("gpu-a"),
        model=ModelName("m"),
        runtime="fake",
        incarnation=1,
        sequence=1,
        source_time=0.0,
        lifecycle=Lifecycle.READY,
        running=running,
        queue_len=queue_len,
    )


class _Adapter:
    """A runtime in virtual time: how long a sample takes, and when it is busy."""

    kind = "fake"
    capabilities = frozenset({Capability.SAMPLE})

    def __init__(self, *, takes_s: float = 0.0, busy: tuple[float, float] = (0.0, 0.0)) -> None:
        self.takes_s = takes_s
        self.busy = busy
        self.sampled_at: list[float] = []
        self.inside = 0
        self.closed = 0
        self.start_error: RuntimeAdapterError | None = None
        self.crash = False

    async def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error

    async def sample(self) -> tuple[ModelState, ...]:
        assert self.inside == 0, "samples must not overlap"
        self.inside += 1
        self.sampled_at.append(round(trio.current_time(), 6))
        await trio.sleep(self.takes_s)
        self.inside -= 1
        if self.crash:
            raise ZeroDivisionError("division by zero")
        return (_state(running=int(self.busy[0] <= trio.current_time() < self.busy[1])),)

    async def list(self) -> tuple[ListedModel, ...]:
        return ()

    async def load(self, name: ModelName) -> None: ...

    async def unload(self, name: ModelName) -> None: ...

    async def health(self) -> bool:
        return True

    async def aclose(self) -> None:
        self.closed += 1


async def _run_for(
    adapter: _Adapter, seconds: float, cadence: Cadence = STEADY
) -> tuple[list[ModelState], RecordedLog]:
    reported: list[ModelState] = []
    log = RecordedLog()
    with trio.move_on_after(seconds):
        await run_sampler(adapter, reported.append, log, rng=random.Random(1), cadence=cadence)
    return reported, log


async def test_an_idle_engine_is_sampled_slowly(autojump_clock: MockClock) -> None:
    adapter = _Adapter()
    reported, _ = await _run_for(adapter, 5.5)
    assert adapter.sampled_at == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert len(reported) == 6


async def test_a_busy_engine_is_sampled_fast_and_a_while_after(autojump_clock: MockClock) -> None:
    adapter = _Adapter(busy=(1.0, 1.9))
    await _run_for(adapter, 6.5, Cadence(fast_s=0.2, jitter=0.0, linger_s=1.9))
    # Seen busy from 1.0 to 1.8; fast until 3.7.
    assert adapter.sampled_at[:3] == [0.0, 1.0, 1.2]
    assert adapter.sampled_at[-4:] == [3.6, 3.8, 4.8, 5.8]
    assert len(adapter.sampled_at) == 18


async def test_a_runtime_that_answers_slowly_is_asked_less_often_but_never_below_the_slow_pace(
    autojump_clock: MockClock,
) -> None:
    adapter = _Adapter(takes_s=0.3, busy=(0.0, 100.0))
    await _run_for(adapter, 3.0)
    assert adapter.sampled_at == [0.0, 0.9, 1.8, 2.7]
    stuck = _Adapter(takes_s=10.0, busy=(0.0, 100.0))
    began = trio.current_time()
    await _run_for(stuck, 23.0)
    assert [at - began for at in stuck.sampled_at] == pytest.approx([0.0, 11.0, 22.0])


async def test_intervals_are_jittered_around_their_length(autojump_clock: MockClock) -> None:
    adapter = _Adapter()
    await _run_for(adapter, 200.0, Cadence(jitter=0.2))
    gaps = [later - earlier for earlier, later in zip(adapter.sampled_at, adapter.sampled_at[1:], strict=False)]
    assert 0.9 <= min(gaps) < 0.95
    assert 1.05 < max(gaps) <= 1.1
    assert sum(gaps) / len(gaps) == pytest.approx(1.0, abs=0.02)


async def test_a_runtime_that_is_not_there_yet_is_sampled_all_the_same(autojump_clock: MockClock) -> None:
    adapter = _Adapter()
    adapter.start_error = RuntimeAdapterError("refused")
    reported, log = await _run_for(adapter, 1.5)
    assert len(reported) == 2
    assert log.events == [("runtime_not_there_yet", {"reason": "refused"})]


async def test_an_adapter_that_crashes_is_logged_and_sampled_again(autojump_clock: MockClock) -> None:
    adapter = _Adapter()
    adapter.crash = True
    reported, log = await _run_for(adapter, 1.5)
    assert reported == []
    assert (
        log.fields_of("runtime_sample_crashed")
        == [{"kind": "fake", "error": "ZeroDivisionError: division by zero"}] * 2
    )


async def test_cancelled_anywhere_the_sampler_closes_its_adapter(autojump_clock: MockClock) -> None:
    for seconds in (0.0, 0.1, 0.5, 1.4):
        adapter = _Adapter(takes_s=0.3)
        await _run_for(adapter, seconds)
        assert adapter.closed == 1


@pytest.mark.parametrize(
    ("cadence", "why"),
    [
        (Cadence(fast_s=0.0), "fast_s is 0.0"),
        (Cadence(fast_s=2.0), "fast_s is 2.0, slow_s is 1.0"),
        (Cadence(jitter=1.0), "jitter is 1.0"),
        (Cadence(jitter=float("nan")), "jitter is nan"),
    ],
)
def test_a_pace_that_cannot_work_names_the_setting(cadence: Cadence, why: str) -> None:
    with pytest.raises(ValueError, match=f"sampling: .*{why}"):
        cadence.validate()


class _Gpus:
    condition = GpuCondition.READING
    reason = ""

    def __init__(self) -> None:
        self.closed = 0

    async def sample(self) -> tuple[GpuState, ...]:
        await trio.lowlevel.checkpoint()
        return (
            GpuState(
                node=NodeId("gpu-a"),
                gpu_uuid="GPU-1",
                sequence=1,
                source_time=0.0,
                name="Fake",
                health=GpuHealth.HEALTHY,
                sm_utilization=0.0,
                memory_used_bytes=0,
                memory_total_bytes=0,
                temperature_c=0.0,
                power_w=0.0,
            ),
        )

    async def aclose(self) -> None:
        self.closed += 1


async def test_gpus_are_sampled_at_one_pace_and_closed_at_the_end(autojump_clock: MockClock) -> None:
    gpus = _Gpus()
    reported: list[GpuState] = []
    with trio.move_on_after(10.0):
        await run_gpu_sampler(gpus, reported.append, rng=random.Random(1))
    assert 10 <= len(reported) <= 11
    assert gpus.closed == 1
