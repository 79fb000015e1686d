"""What passing a gRPC call through costs: CPU of the proxy per unary call, and per DATA frame of a stream.

Every row is started afresh in each round, on one core; h2load and the fake backend share the other. The windows are
opened and closed here: the proxy's CPU clock, and the backend's own counts of calls and messages at the same instants.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.bench.dataplane import processes
from tests.bench.dataplane.contestant import Unavailable
from tests.bench.grpc import frames, h2load
from tests.bench.grpc.figures import Sample, Samples
from tests.bench.grpc.proxies import MODEL, Place, Row, Running

ROOT = Path(__file__).parents[3]
SERVICE = "/inference.GRPCInferenceService"
READY_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 5.0
POLL_EVERY_S = 0.1
LOG_TAIL_CHARS = 1500
SPARE_S = 0.3  # h2load runs so much longer than the window.


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    unit: str  # "call" or "frame".
    connections: int
    streams: int  # On each connection.
    rate: float = 0.0  # Calls a second over all; 0: closed loop.
    tokens: int = 0  # Messages of a stream; 0: a unary call.
    pace: float = 0.0  # Messages a second per stream; 0: as fast as windows allow.

    @property
    def path(self) -> str:
        return f"{SERVICE}/{'ModelStreamInfer' if self.tokens else 'ModelInfer'}"


WORKLOADS = (
    Workload("unary_max", "call", 8, 8),
    Workload("unary_64c", "call", 64, 1),
    Workload("unary_1000/s", "call", 8, 8, rate=1000.0),
    Workload("s64_max", "frame", 8, 8, tokens=200),
    Workload("s200x40", "frame", 10, 20, tokens=80, pace=40.0),
)


@dataclass(frozen=True, slots=True)
class Windows:
    rounds: int
    warm_s: float
    measure_s: float


class Backend:
    """The backend process, as seen from here."""

    def __init__(self, core: int) -> None:
        command = [sys.executable, "-m", "tests.bench.grpc.backend", str(core)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        ports = json.loads(self._read())
        self.grpc_port: int = ports["grpc"]
        self.http_port: int = ports["http"]

    def counts(self) -> dict[str, int]:
        return self._ask("counts")

    def pace(self, per_s: float) -> None:
        self._ask(f"{per_s:g}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()  # Which closes the pipes as well.

    def _ask(self, line: str) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        counts: dict[str, int] = json.loads(self._read())
        return counts

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the backend process ended with {self._process.wait()}; its error is above")
        return line


def run(
    rows: Sequence[Row], workloads: Sequence[Workload], windows: Windows, cache: Path, say: Callable[[str], None]
) -> Samples:
    samples = Samples("pass-through", {workload.name: workload.unit for workload in workloads})
    for row in rows:
        try:
            samples.versions[row.name] = row.install(cache)
        except Unavailable as reason:
            samples.skipped[row.name] = str(reason)
    proxy_core, load_core = processes.cores()
    backend = Backend(load_core)
    try:
        with tempfile.TemporaryDirectory(prefix="infermesh-bench-") as scratch:
            for number in range(windows.rounds):
                for row in rows:
                    if row.name in samples.skipped:
                        continue
                    say(f"round {number + 1} of {windows.rounds}: {row.name}")
                    folder = Path(scratch) / f"{row.name}-{number}"
                    folder.mkdir()
                    place = Place(folder, cache, backend.grpc_port, backend.http_port, free_ports(2), proxy_core)
                    try:
                        _run_row(row, place, backend, workloads, windows, samples)
                    except Unavailable as reason:
                        samples.skipped[row.name] = str(reason)
    finally:
        backend.close()
    return samples


def _run_row(
    row: Row, place: Place, backend: Backend, workloads: Sequence[Workload], windows: Windows, samples: Samples
) -> None:
    running = row.start(place)
    try:
        backend.pace(0)
        _wait_ready(running, row.name, place.folder / "log")
        for workload in workloads:
            body = place.folder / "body"
            body.write_bytes(frames.infer_request(MODEL.encode(), tokens=workload.tokens))
            backend.pace(workload.pace)
            load = h2load.Load(workload.path, body, workload.connections, workload.streams, workload.rate)
            samples.add(row.name, workload.name, _measure(running, backend, load, workload, windows))
    finally:
        running.stop()


def _measure(running: Running, backend: Backend, load: h2load.Load, workload: Workload, windows: Windows) -> Sample:
    proxy_core, load_core = processes.cores()
    pids = processes.tree(running.process.pid) if running.process is not None else []
    seconds = windows.warm_s + windows.measure_s + SPARE_S
    client = h2load.for_seconds(load, running.port, seconds, core=load_core)

    def read() -> tuple[float, float, float, int]:
        counts = backend.counts()
        units = counts["calls"] if workload.unit == "call" else counts["messages"]
        return time.monotonic(), processes.cpu_seconds(pids), processes.core_busy_seconds(proxy_core), units

    time.sleep(windows.warm_s)
    before = read()
    time.sleep(windows.measure_s)
    after = read()
    resident = processes.resident_bytes(pids)
    result = h2load.finish(client)
    took_s, cpu_s, busy_s, units = (end - begin for end, begin in zip(after, before, strict=True))
    return Sample(
        cpu_us=1e6 * cpu_s / max(1, units),
        rate_per_s=units / took_s,
        utilisation=cpu_s / took_s,
        rss_mib=resident / 2**20,
        mean_ms=result.mean_ms,
        foreign=max(0.0, (busy_s - cpu_s) / took_s),
        errors=result.failed + (0 if units else 1),
        first_error=f"h2load: {result.failed} of {result.succeeded + result.failed} calls failed"
        if result.failed
        else "",
    )


def _wait_ready(running: Running, name: str, log: Path) -> None:
    """A unary call and a stream, read by grpcio to the last byte. Raises Unavailable with the end of the log."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{running.port}") as channel:
                _check_answers(channel)
            return
        except (grpc.RpcError, ValueError) as error:
            ended = running.process is not None and running.process.poll() is not None
            if ended or time.monotonic() > deadline:
                tail = log.read_text("utf-8", "replace")[-LOG_TAIL_CHARS:] if log.exists() else ""
                raise Unavailable(f"{name} gave no right answer ({error}); the end of its log:\n{tail}") from error
        time.sleep(POLL_EVERY_S)


def _check_answers(channel: grpc.Channel) -> None:
    model = MODEL.encode()
    answer = channel.unary_unary(f"{SERVICE}/ModelInfer")(frames.infer_request(model)[5:], timeout=CALL_TIMEOUT_S)
    if answer != frames.UNARY_MESSAGE[5:]:
        raise ValueError(f"a unary answer of {len(answer)} bytes is not what the backend sends")
    request = frames.infer_request(model, tokens=50)[5:]
    call = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(iter([request]), timeout=CALL_TIMEOUT_S)
    tokens = list(call)
    if tokens != [frames.TOKEN_MESSAGE[5:]] * 50:
        raise ValueError(f"a stream of {len(tokens)} messages is not what the backend sends")


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that were free a moment ago; held together so that no two are the same."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = tuple(int(sock.getsockname()[1]) for sock in socks)
    for sock in socks:
        sock.close()
    return ports
