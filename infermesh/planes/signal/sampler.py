"""Ask an adapter again and again, as often as the answers are worth, and report what it says.

Fast while the engine is busy, because a router's predictions are as good as the newest state; slow while it is
idle. A state that is on its way is worth little, so samples never overlap: a runtime that takes long to answer
is asked less often by itself. Intervals are jittered, so that the nodes of a fleet do not all sample at once.

Not here: any retry. An adapter that cannot sample says so in what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import trio

from infermesh.core.model.ports import Rng
from infermesh.core.model.state import GpuState, ModelState
from infermesh.planes.signal.adapters.gpu.port import GpuAdapter
from infermesh.planes.signal.adapters.runtime.port import RuntimeAdapter, RuntimeAdapterError
from infermesh.planes.signal.event_log import EventLog


class Cadence(msgspec.Struct, frozen=True, kw_only=True):
    """How often to sample. `slow_s` must stay below the router's `routing.stale_after_s`, less a deadline."""

    fast_s: float = 0.5  # Each answer carries the load as well; one sample costs about 1 ms of CPU.
    slow_s: float = 1.0
    linger_s: float = 2.0  # Stay fast this long after the last sign of work.
    jitter: float = 0.1  # Share of each interval that is random.
    rest_share: float = 2.0  # After a sample that took t, rest at least this many t (never beyond slow_s).

    def validate(self) -> None:
        if not 0.0 < self.fast_s <= self.slow_s:
            raise ValueError(f"sampling: fast_s is {self.fast_s}, slow_s is {self.slow_s}; 0 < fast_s <= slow_s")
        if not 0.0 <= self.jitter < 1.0:
            raise ValueError(f"sampling: jitter is {self.jitter}; 0 to below 1 is allowed")

    def rest_s(self, *, busy: bool, took_s: float, random: float) -> float:
        """How long to wait after a sample; `random` is from [0, 1)."""
        interval_s = self.fast_s if busy else self.slow_s
        rest_s = max(interval_s, min(self.slow_s, self.rest_share * took_s))
        return rest_s * (1.0 + self.jitter * (random - 0.5))


async def run_sampler(
    adapter: RuntimeAdapter,
    report: Callable[[ModelState], None],
    log: EventLog,
    *,
    rng: Rng,
    cadence: Cadence | None = None,
) -> None:
    """Sample until cancelled; closes the adapter at the end. `report` is called once per model and sample."""
    cadence = cadence if cadence is not None else Cadence()
    cadence.validate()
    try:
        try:
            await adapter.start()
        except RuntimeAdapterError as error:
            # It may come up after this daemon, a real one takes a minute to load.
            log.warning("runtime_not_there_yet", reason=str(error))
        busy_until = trio.current_time()
        while True:
            began = trio.current_time()
            states = await _sample(adapter, log)
            for state in states:
                report(state)
            now = trio.current_time()
            if any(state.running or state.queue_len for state in states):
                busy_until = now + cadence.linger_s
            await trio.sleep(cadence.rest_s(busy=now < busy_until, took_s=now - began, random=rng.random()))
    finally:
        await adapter.aclose()


async def run_gpu_sampler(
    adapter: GpuAdapter, report: Callable[[GpuState], None], *, rng: Rng, every_s: float = 1.0
) -> None:
    """Sample until cancelled; closes the adapter at the end. GPUs change slowly: one pace is enough."""
    try:
        while True:
            for state in await adapter.sample():
                report(state)
            await trio.sleep(every_s * (0.95 + 0.1 * rng.random()))
    finally:
        await adapter.aclose()


async def _sample(adapter: RuntimeAdapter, log: EventLog) -> Iterable[ModelState]:
    try:
        return await adapter.sample()
    except Exception as error:  # noqa: BLE001 - a task boundary: see below.
        # A page that no adapter foresaw must cost this runtime's signal, not the node. The states that were
        # reported before grow old, and routers stop choosing them.
        log.warning("runtime_sample_crashed", kind=adapter.kind, error=f"{type(error).__name__}: {error}")
        return ()
