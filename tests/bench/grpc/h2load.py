"""h2load (nghttp2): an HTTP/2 load client in C that posts one gRPC message again and again.

It judges by HTTP status and not by grpc-status; each row's first answers are therefore read by grpcio before anything
is measured. Latency is of whole calls, by its own clock.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.bench.dataplane.contestant import Unavailable

STOP_TIMEOUT_S = 30.0
_SCALES_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    succeeded: int
    failed: int  # Failed, errored or timed out, or answered with anything but 200.
    mean_ms: float


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask for, over how many connections and streams on each. `rate`: calls a second; 0: closed loop."""

    path: str
    body: Path | None
    connections: int
    streams: int
    rate: float = 0.0


def program() -> str:
    found = shutil.which("h2load")
    if found is None:
        raise Unavailable("no h2load on this machine: install Debian's nghttp2-client")
    return found


def for_seconds(load: Load, port: int, seconds: float, *, core: int) -> subprocess.Popen[str]:
    """Start it for a duration. Its windows are wide open, so that it never holds a server back."""
    return _start(load, port, ["-D", f"{round(1e3 * seconds)}ms"], core)


def for_calls(load: Load, port: int, calls: int, *, core: int) -> LoadResult:
    """Run it for a number of calls."""
    return finish(_start(load, port, ["-n", str(calls)], core))


def finish(process: subprocess.Popen[str]) -> LoadResult:
    output, _ = process.communicate(timeout=STOP_TIMEOUT_S)
    return parse(output)


def parse(output: str) -> LoadResult:
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    if counts is None:
        raise RuntimeError(f"h2load said nothing of its requests: {output[-1000:]!r}")
    succeeded, *bad = (int(count) for count in counts.groups())
    time = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)\s", output)
    return LoadResult(
        succeeded=succeeded, failed=sum(bad), mean_ms=float(time[1]) * _SCALES_MS[time[2]] if time else 0.0
    )


def _start(load: Load, port: int, amount: list[str], core: int) -> subprocess.Popen[str]:
    command = ["taskset", "-c", str(core), program(), *amount, "-t", "1"]
    command += ["-c", str(load.connections), "-m", str(load.streams)]
    if load.rate:
        command += [f"--rps={load.rate / load.connections:g}"]
    if load.body is not None:
        command += ["-d", str(load.body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += ["-H", "user-agent: grpc-c++/1.74.0 grpc-c/51.0.0 (linux; chttp2)"]
    command.append(f"http://127.0.0.1:{port}{load.path}")
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
