"""NVIDIA GPUs through NVML, from a worker thread, so that a hung driver never hangs the daemon.

One call into the driver at a time. A call that does not come back within `call_deadline_s` is left behind: its
thread keeps the only token of the limiter, no further call is made until it returns, and meanwhile the GPUs are
reported with health unknown. Without a driver: one log event, no GPU, and a new attempt once a minute, because
drivers get installed and containers get their devices late.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

import msgspec
import trio

from infermesh.core.model.names import NodeId
from infermesh.core.model.state import GpuHealth, GpuState
from infermesh.planes.signal.adapters.gpu.nvml_reader import GpuReadError, GpuReading, NoDriverError, NvmlReader
from infermesh.planes.signal.adapters.gpu.port import GpuCondition
from infermesh.planes.signal.adapters.stamps import SequenceSource
from infermesh.planes.signal.event_log import EventLog


class GpuReader(Protocol):
    """The blocking half: NvmlReader, or a fake."""

    def open(self) -> None: ...
    def read(self) -> tuple[GpuReading, ...]: ...
    def close(self) -> None: ...


class NvmlConfig(msgspec.Struct, frozen=True, kw_only=True):
    call_deadline_s: float = 2.0  # A healthy driver answers in milliseconds, one that resets a GPU in seconds.
    retry_after_s: float = 60.0  # Between attempts to find a driver that was not there.


class NvmlAdapter:
    """Owned by one sampler task, which also closes it."""

    def __init__(
        self,
        node: NodeId,
        log: EventLog,
        *,
        config: NvmlConfig | None = None,
        reader: GpuReader | None = None,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._log = log
        self._config = config if config is not None else NvmlConfig()
        self._reader: GpuReader = reader if reader is not None else NvmlReader()
        self._unix_time = unix_time
        self._sequences = SequenceSource(unix_time)
        self._limiter = trio.CapacityLimiter(1)
        self._opened = False
        self._open_at = -math.inf
        self._last: tuple[GpuReading, ...] = ()
        self._troubles: dict[str, str] = {}
        self._condition = GpuCondition.NOT_ASKED
        self._reason = ""

    @property
    def condition(self) -> GpuCondition:
        return self._condition

    @property
    def reason(self) -> str:
        return self._reason

    async def sample(self) -> tuple[GpuState, ...]:
        if self._limiter.available_tokens == 0:
            # The call that hung is still inside the driver.
            await trio.lowlevel.checkpoint()
            return self._states(_unknown(self._last, self._reason))
        if not self._opened and trio.current_time() < self._open_at:
            await trio.lowlevel.checkpoint()
            return ()
        with trio.move_on_after(self._config.call_deadline_s):
            try:
                readings = await trio.to_thread.run_sync(self._call, abandon_on_cancel=True, limiter=self._limiter)
            except NoDriverError as error:
                self._open_at = trio.current_time() + self._config.retry_after_s
                self._enter(GpuCondition.NO_DRIVER, f"{error}; no GPU is reported")
                return ()
            except GpuReadError as error:
                self._enter(GpuCondition.FAILING, str(error))
                return self._states(_unknown(self._last, str(error)))
            self._enter(GpuCondition.READING, "")
            self._last = readings
            return self._states(readings)
        self._enter(
            GpuCondition.HUNG,
            f"the driver has not answered for {self._config.call_deadline_s:g} s; nvidia-smi will hang as well",
        )
        return self._states(_unknown(self._last, self._reason))

    async def aclose(self) -> None:
        if not self._opened or self._limiter.available_tokens == 0:
            return
        with trio.move_on_after(self._config.call_deadline_s, shield=True):
            try:
                await trio.to_thread.run_sync(self._reader.close, abandon_on_cancel=True, limiter=self._limiter)
            except GpuReadError as error:
                self._log.info("gpu_telemetry_not_closed", reason=str(error))

    def _call(self) -> tuple[GpuReading, ...]:
        """Runs in the worker thread."""
        if not self._opened:
            self._reader.open()
            self._opened = True
        return self._reader.read()

    def _enter(self, condition: GpuCondition, reason: str) -> None:
        if condition is not self._condition:
            write = self._log.info if condition in _PEACEFUL else self._log.warning
            write("gpu_telemetry", condition=condition.value, reason=reason)
        self._condition = condition
        self._reason = reason

    def _states(self, readings: tuple[GpuReading, ...]) -> tuple[GpuState, ...]:
        for reading in readings:
            if self._troubles.get(reading.gpu_uuid, "") != reading.trouble:
                self._troubles[reading.gpu_uuid] = reading.trouble
                self._log.warning(
                    "gpu_health", gpu_uuid=reading.gpu_uuid, health=reading.health.value, reason=reading.trouble
                )
        return tuple(self._state(reading) for reading in readings)

    def _state(self, reading: GpuReading) -> GpuState:
        return GpuState(
            node=self._node,
            gpu_uuid=reading.gpu_uuid,
            sequence=self._sequences.next(),
            source_time=self._unix_time(),
            name=reading.name,
            health=reading.health,
            sm_utilization=reading.sm_utilization,
            memory_used_bytes=reading.memory_used_bytes,
            memory_total_bytes=reading.memory_total_bytes,
            temperature_c=reading.temperature_c,
            power_w=reading.power_w,
        )


_PEACEFUL = frozenset({GpuCondition.READING, GpuCondition.NO_DRIVER})


def _unknown(readings: tuple[GpuReading, ...], reason: str) -> tuple[GpuReading, ...]:
    """The same GPUs, of whose health nothing is known now."""
    return tuple(msgspec.structs.replace(reading, health=GpuHealth.UNKNOWN, trouble=reason) for reading in readings)
