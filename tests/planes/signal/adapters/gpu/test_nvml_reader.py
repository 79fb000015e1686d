from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from infermesh.core.model.state import GpuHealth
from infermesh.planes.signal.adapters.gpu.nvml_reader import GpuReading, NoDriverError, NvmlReader

# The library is loaded once per process and its faults are set from outside: each case is a process of its own.
PROGRAM = """
import sys
import msgspec
from infermesh.planes.signal.adapters.gpu.nvml_reader import GpuReadError, NvmlReader
reader = NvmlReader()
try:
    reader.open()
    readings = [reader.read() for _ in range(2)][-1]
    reader.close()
except GpuReadError as error:
    sys.exit(f"{type(error).__name__}: {error}")
sys.stdout.buffer.write(msgspec.json.encode(readings))
"""

# The whole adapter over a driver that never returns from its first call.
HANGING_PROGRAM = """
import trio
from infermesh.planes.signal.adapters.gpu.nvml import NvmlAdapter, NvmlConfig
from infermesh.testing.recorded_log import RecordedLog
async def main():
    adapter = NvmlAdapter("gpu-a", RecordedLog(), config=NvmlConfig(call_deadline_s=0.05))
    print(await adapter.sample(), adapter.condition)
    await adapter.aclose()
trio.run(main)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the fake driver with")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def _run(library: Path, fault: str, program: str = PROGRAM) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library), "FAKE_NVML": fault}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=30)


def _readings(library: Path, fault: str) -> list[GpuReading]:
    done = _run(library, fault)
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=list[GpuReading])


@pytest.mark.slow
def test_two_healthy_gpus_are_read_through_the_real_bindings(library: Path) -> None:
    first, second = _readings(library, "nothing")
    assert first == GpuReading(
        gpu_uuid="GPU-1",
        name="Fake H100",
        health=GpuHealth.HEALTHY,
        sm_utilization=0.75,
        memory_used_bytes=20 * 2**30,
        memory_total_bytes=80 * 2**30,
        temperature_c=54.0,
        power_w=612.3,
    )
    assert second == msgspec.structs.replace(first, gpu_uuid="GPU-2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "health", "trouble"),
    [
        ("ecc", GpuHealth.FAILED, "2 uncorrected memory errors"),
        ("remap_failed", GpuHealth.FAILED, "could not be remapped"),
        ("remap_pending", GpuHealth.DEGRADED, "waits for a reset"),
        ("hot", GpuHealth.DEGRADED, "slowed down for heat or power (reasons 0x40)"),
        ("lost", GpuHealth.FAILED, "GPU is lost"),
        ("ecc_unreadable", GpuHealth.UNKNOWN, "health cannot be read"),
        ("no_health", GpuHealth.UNKNOWN, "supports no health reading"),
        ("no_ecc", GpuHealth.HEALTHY, ""),
        ("no_power", GpuHealth.HEALTHY, ""),
    ],
)
def test_what_is_wrong_with_one_gpu_is_said_of_that_gpu_only(
    library: Path, fault: str, health: GpuHealth, trouble: str
) -> None:
    first, second = _readings(library, fault)
    assert (first.gpu_uuid, first.health) == ("GPU-1", health)
    assert trouble in first.trouble
    assert (second.gpu_uuid, second.health) == ("GPU-2", GpuHealth.HEALTHY)
    if fault == "no_power":
        assert (first.power_w, second.power_w) == (0.0, 612.3)


@pytest.mark.slow
def test_a_gpu_that_never_said_its_name_is_not_invented(library: Path) -> None:
    assert [reading.gpu_uuid for reading in _readings(library, "nameless")] == ["GPU-2"]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "error"), [("no_driver", "NoDriverError"), ("broken", "GpuReadError")])
def test_a_driver_that_refuses_is_one_plain_error(library: Path, fault: str, error: str) -> None:
    done = _run(library, fault)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"{error}: ")


@pytest.mark.slow
def test_a_driver_without_gpus_reports_none(library: Path) -> None:
    assert _readings(library, "no_gpu") == []


@pytest.mark.slow
def test_a_process_whose_driver_hangs_reports_no_gpu_and_can_still_end(library: Path) -> None:
    done = _run(library, "hang", HANGING_PROGRAM)
    assert (done.returncode, done.stdout.decode()) == (0, "() hung\n"), done.stderr.decode()


def test_this_machine_without_a_driver_says_so() -> None:
    try:
        NvmlReader().open()
    except NoDriverError as error:
        assert str(error)
    else:
        pytest.skip("this machine has an NVIDIA driver")
