"""Read GPUs through NVML (`nvidia-ml-py`, module `pynvml`). Blocking: call it from a worker thread only.

pynvml always imports; it is `open` that finds out whether there is a driver. One value that a GPU does not
support leaves a gap, it does not spoil the rest. Not here: deadlines, logs, what to do with a bad GPU.

Health, from what a GPU lets us read:
- failed: it fell off the bus or needs a reset, has an uncorrected memory error since its last reset, or could
  not remap a bad row.
- degraded: it slows itself down for heat or power, or waits for a reset to remap a row.
- unknown: one of these could not be read, or none of them is supported.
- healthy: the rest. "Not supported" of some of them is an answer: GPUs without ECC exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import pynvml

from infermesh.core.model.state import GpuHealth

T = TypeVar("T")

GPUS_MAX: Final = 64
NAME_CHARS_MAX: Final = 128
# HwSlowdown, SwThermal, HwThermal, HwPowerBrake. A power cap set by the operator (4) is no fault.
_SLOWDOWN_BITS: Final = 0x8 | 0x20 | 0x40 | 0x80
_NO_DRIVER: Final = frozenset(
    {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
    }
)
_UNSUPPORTED: Final = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})
_LOST: Final = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED})


class GpuReadError(Exception):
    """The driver answered with an error; the message is the driver's."""


class NoDriverError(GpuReadError):
    """There is no NVIDIA driver, or no GPU, on this machine."""


class GpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU. 0 where it does not say."""

    gpu_uuid: str
    name: str
    health: GpuHealth = GpuHealth.UNKNOWN
    trouble: str = ""  # Why it is not healthy.
    sm_utilization: float = 0.0
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0
    temperature_c: float = 0.0
    power_w: float = 0.0


class NvmlReader:
    """One opened NVML. Used by one thread at a time."""

    def __init__(self) -> None:
        # A GPU that is lost no longer tells its name.
        self._known: dict[int, tuple[str, str]] = {}

    def open(self) -> None:
        """Raises NoDriverError or GpuReadError."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            kind = NoDriverError if error.value in _NO_DRIVER else GpuReadError
            raise kind(str(error)) from error

    def read(self) -> tuple[GpuReading, ...]:
        try:
            count = min(int(pynvml.nvmlDeviceGetCount()), GPUS_MAX)
        except pynvml.NVMLError as error:
            raise GpuReadError(str(error)) from error
        readings = (self._read_one(index) for index in range(count))
        return tuple(reading for reading in readings if reading is not None)

    def close(self) -> None:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            raise GpuReadError(str(error)) from error

    def _read_one(self, index: int) -> GpuReading | None:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if index not in self._known:
                names = (str(pynvml.nvmlDeviceGetUUID(handle)), str(pynvml.nvmlDeviceGetName(handle)))
                self._known[index] = (_label(names[0]), _label(names[1]))
            return _reading(handle, *self._known[index])
        except pynvml.NVMLError as error:
            if index not in self._known:
                # It never said which GPU it is: there is nobody to report.
                return None
            gpu_uuid, name = self._known[index]
            health = GpuHealth.FAILED if error.value in _LOST else GpuHealth.UNKNOWN
            return GpuReading(gpu_uuid=gpu_uuid, name=name, health=health, trouble=str(error))


def _reading(handle: object, gpu_uuid: str, name: str) -> GpuReading:
    health, trouble = _health(handle)
    utilization = _supported(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _supported(pynvml.nvmlDeviceGetMemoryInfo, handle)
    temperature_c = _supported(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    power_mw = _supported(pynvml.nvmlDeviceGetPowerUsage, handle)
    return GpuReading(
        gpu_uuid=gpu_uuid,
        name=name,
        health=health,
        trouble=trouble,
        sm_utilization=min(1.0, utilization.gpu / 100.0) if utilization is not None else 0.0,
        memory_used_bytes=int(memory.used) if memory is not None else 0,
        memory_total_bytes=int(memory.total) if memory is not None else 0,
        temperature_c=float(temperature_c or 0),
        power_w=float(power_mw or 0) / 1000.0,
    )


def _health(handle: object) -> tuple[GpuHealth, str]:
    try:
        ecc_errors = _supported(
            pynvml.nvmlDeviceGetTotalEccErrors,
            handle,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        )
        rows = _supported(pynvml.nvmlDeviceGetRemappedRows, handle)
        slowdown = _supported(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    except pynvml.NVMLError as error:
        if error.value in _LOST:
            raise
        return GpuHealth.UNKNOWN, f"health cannot be read: {error}"
    if ecc_errors:
        return GpuHealth.FAILED, f"{ecc_errors} uncorrected memory errors since the last reset"
    if rows is not None and rows[3]:
        return GpuHealth.FAILED, "a bad memory row could not be remapped"
    if rows is not None and rows[2]:
        return GpuHealth.DEGRADED, "a memory row waits for a reset to be remapped"
    if slowdown is not None and slowdown & _SLOWDOWN_BITS:
        return GpuHealth.DEGRADED, f"slowed down for heat or power (reasons {slowdown:#x})"
    if ecc_errors is None and rows is None and slowdown is None:
        return GpuHealth.UNKNOWN, "this GPU supports no health reading"
    return GpuHealth.HEALTHY, ""


def _supported(call: Callable[..., T], *arguments: object) -> T | None:
    """The answer, or None when this GPU or this driver does not offer it. Other errors are raised."""
    try:
        return call(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _UNSUPPORTED:
            return None
        raise


def _label(text: str) -> str:
    printable = "".join(character for character in text if character.isprintable())
    return printable[:NAME_CHARS_MAX] or "unnamed"
