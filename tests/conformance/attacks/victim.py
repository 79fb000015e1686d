"""The process under attack, seen from outside: its memory, its processor time, what it has counted, whether others
are served meanwhile.

Reads /proc, so Linux only. Memory is what is resident; the kernel keeps its peak, which is reset before an attack.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.conformance.http2.port import Port
from tests.interop.fleet import Daemon

_KIB: Final = 1024
_PEAK_RESET: Final = "5"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Victim:
    daemon: Daemon
    port: Port

    @property
    def label(self) -> str:
        """Of the port, in metrics."""
        return self.port.name.partition("-")[0]

    def counted(self, reason: str) -> float:
        """How often a connection or request on this port was ended for that reason."""
        return self.daemon.counter("infermesh_bad_requests_total", port=self.label, reason=reason)

    def rss_bytes(self) -> int:
        return self._status("VmRSS")

    def peak_bytes(self) -> int:
        """The most that was resident since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        Path(f"/proc/{self.daemon.pid}/clear_refs").write_text(_PEAK_RESET)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * _KIB
        raise LookupError(name)


@dataclass
class Bystander:
    """A client with manners on a connection of its own, and how long each of its answers took."""

    waits_s: list[float] = field(default_factory=list)


@asynccontextmanager
async def bystanders(*ports: Port, pause_s: float = 0.005) -> AsyncIterator[list[Bystander]]:
    """One on each port asks again and again while the block runs, and once more after it; an answer that is not
    right, or late, fails the block."""
    found = [Bystander() for _ in ports]
    async with trio.open_nursery() as nursery:
        for port, each in zip(ports, found, strict=True):
            await nursery.start(_ask_on, port, each, pause_s)
        yield found
        asked = [len(each.waits_s) for each in found]
        with trio.fail_after(5):
            while any(len(each.waits_s) == before for each, before in zip(found, asked, strict=True)):
                await trio.sleep(pause_s)
        nursery.cancel_scope.cancel()


async def _ask_on(
    port: Port, found: Bystander, pause_s: float, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with port.peer() as peer:
        await peer.greet()
        stream_id = 1
        while True:
            began = time.perf_counter()
            await peer.send(peer.get(stream_id))
            assert (await peer.response(stream_id, feed=True)).status == peer.status
            found.waits_s.append(time.perf_counter() - began)
            peer.forget()
            if stream_id == 1:
                task_status.started()
            stream_id += 2
            await trio.sleep(pause_s)
