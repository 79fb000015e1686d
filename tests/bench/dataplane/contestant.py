"""What the benchmark asks of a router under measurement: install, start on one core, be ready, stop.

A contestant that cannot run here says why in `Unavailable`; the benchmark prints the reason and goes on.
"""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.dataplane import processes
from tests.bench.dataplane.messages import request_body

READY_TIMEOUT_S = 30.0
POLL_EVERY_S = 0.05
LOG_TAIL_CHARS = 1500


class Unavailable(Exception):
    """This contestant cannot run on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one start of a contestant happens. `ports` are free and this start's own."""

    folder: Path
    cache: Path
    trust: Path | None  # Folders `router`, `gpu-0`, `gpu-1` with node identities; None when infermesh is not measured.
    backends: tuple[int, ...]
    mesh_backends: tuple[int, ...]
    ports: tuple[int, ...]
    core: int


@dataclass(frozen=True, slots=True)
class Running:
    process: subprocess.Popen[bytes] | None  # None: nothing stands between client and backend.
    port: int
    admin_port: int = 0  # infermesh only: where the tick slip is read.

    def stop(self) -> None:
        if self.process is not None:
            processes.stop(self.process)


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    install: Callable[[Path], str]  # Given the cache folder; returns the version; raises Unavailable.
    start: Callable[[Place], Running]


def wait_ready(running: Running, name: str, log: Path) -> None:
    """Wait for a first whole answer through the contestant. Raises Unavailable, with the end of its log."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    seen = "no answer"
    while time.monotonic() < deadline:
        if running.process is not None and running.process.poll() is not None:
            seen = f"it exited with {running.process.returncode}"
            break
        seen = _ask(running.port)
        if not seen:
            return
        time.sleep(POLL_EVERY_S)
    tail = log.read_text("utf-8", "replace")[-LOG_TAIL_CHARS:] if log.exists() else ""
    raise Unavailable(f"{name} was not ready within {READY_TIMEOUT_S:g} s ({seen}); the end of its log:\n{tail}")


def _ask(port: int) -> str:
    """Empty when a whole answer came, else what came instead."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        body = request_body("ready", stream=False)
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read(LOG_TAIL_CHARS)
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    finally:
        connection.close()
    return "" if response.status == 200 else f"status {response.status}: {answer[:200]!r}"
