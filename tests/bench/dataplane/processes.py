"""What the kernel says of a router's processes: CPU time, resident memory, who else used the core; and pinning.

Reads only. CPU time comes from the process CPU clock: the sum that /proc/PID/stat shows as utime + stime, in
nanoseconds where that file has 10 ms ticks. Loopback charges the receiver's protocol work to the sender, so the
figures compare rows of one run; they are not what a network card would cost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PROC = Path("/proc")
CLOCK_SCHED = 2  # CPUCLOCK_SCHED of the kernel's clock ids: user and system time together.
STOP_TIMEOUT_S = 5.0


def tree(root: int) -> list[int]:
    """The process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It ended while we were looking.
            parents[int(entry.name)] = int(after_name[1])
    found = [root]
    for pid in found:
        found += sorted(child for child, parent in parents.items() if parent == pid)
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime((~pid << 3) | CLOCK_SCHED)
        except OSError:
            continue  # It ended: its time is lost to the sum, as with /proc.
    return total


def resident_bytes(pids: Sequence[int]) -> int:
    pages = 0
    for pid in pids:
        try:
            pages += int((PROC / str(pid) / "statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def core_busy_seconds(core: int) -> float:
    """User, nice, system, irq, softirq and steal time of one core."""
    for line in (PROC / "stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(tick) for tick in ticks[:8])
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    raise RuntimeError(f"/proc/stat has no line for core {core}; this machine has {os.cpu_count()} cores")


def cores() -> tuple[int, int]:
    """The core of the router and the core of the load. On a one-core machine they are the same one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def start(
    command: Sequence[str | Path], *, core: int, log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program on one core, its output into a file, at the head of its own process group."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            env={**os.environ, **(environment or {})},
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL to what is left of its group."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
