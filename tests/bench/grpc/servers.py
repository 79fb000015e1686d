"""What answering costs: CPU of a server per call, per message of a stream, and per HTTP/2 request.

gRPC servers in Python: ours, grpclib's and grpcio's (threads, and asyncio); and HTTP/2 in plain text: ours and
hypercorn's trio worker. Each row is started afresh in every round on one core, h2load asks from the other, a fixed
number of times: the server's CPU clock before and after, over what was asked.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from tests.bench.dataplane import processes
from tests.bench.dataplane.contestant import Unavailable
from tests.bench.grpc import echo, h2load
from tests.bench.grpc.figures import Sample, Samples
from tests.bench.grpc.passthrough import LOG_TAIL_CHARS, POLL_EVERY_S, READY_TIMEOUT_S, ROOT, free_ports
from tests.bench.grpc.proxies import Running, install_into

GRPCLIB_VERSION = "0.4.9"
# What grpclib needs beside what is here already.
GRPCLIB_NEEDS = ("multidict",)
WARM_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    module: str  # In this package; started as `python -m MODULE PORT ARGUMENTS`.
    arguments: tuple[str, ...] = ()
    install: Callable[[Path], Mapping[str, str]] = field(default=lambda cache: {})  # Returns its environment.


@dataclass(frozen=True, slots=True)
class Work:
    """`calls` are asked in each round; each is so many `units`."""

    name: str
    unit: str
    load: h2load.Load
    body: bytes
    calls: int
    units: int = 1


def _install_grpclib(cache: Path) -> Mapping[str, str]:
    folder = cache / f"grpclib-{GRPCLIB_VERSION}"
    if not (folder / "grpclib").exists():
        install_into(folder, f"grpclib=={GRPCLIB_VERSION}", *GRPCLIB_NEEDS)
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}


GRPC_SERVERS = (
    Server("infermesh", "serve_ours"),
    Server("grpclib", "serve_grpclib", install=_install_grpclib),
    Server("grpcio-threads", "serve_grpcio", ("sync",)),
    Server("grpcio-aio", "serve_grpcio", ("aio",)),
)
GRPC_WORK = (
    Work("unary_64", "call", h2load.Load(echo.SAY, None, 8, 8), echo.wrapped(echo.SAY_BYTES), 4000),
    Work("unary_1", "call", h2load.Load(echo.SAY, None, 1, 1), echo.wrapped(echo.SAY_BYTES), 1500),
    Work(
        "stream_16",
        "message",
        h2load.Load(echo.COUNT, None, 4, 4),
        echo.wrapped(echo.COUNT_BYTES),
        120,
        echo.STREAM_MESSAGES,
    ),
)
H2C_SERVERS = (
    Server("infermesh", "serve_h2c", ("ours",)),
    Server("hypercorn-trio", "serve_h2c", ("hypercorn",)),
)
H2C_WORK = (
    Work("get_64", "request", h2load.Load("/", None, 8, 8), b"", 4000),
    Work("get_1", "request", h2load.Load("/", None, 1, 1), b"", 1500),
)


@dataclass(frozen=True, slots=True)
class Plan:
    part: str
    servers: Sequence[Server]
    works: Sequence[Work]
    ready: Callable[[int], None]  # Given the port; raises what `_TRANSIENT` lists until there is a right answer.
    rounds: int
    calls_share: float = 1.0  # Of each work's calls; less in a quick run.


def run(plan: Plan, cache: Path, say: Callable[[str], None]) -> Samples:
    """Install, then measure every server that can run here in interleaved rounds."""
    samples = Samples(plan.part, {work.name: work.unit for work in plan.works})
    environments: dict[str, Mapping[str, str]] = {}
    for server in plan.servers:
        try:
            environments[server.name] = {"PYTHONPATH": str(ROOT), **server.install(cache)}
        except Unavailable as reason:
            samples.skipped[server.name] = str(reason)
    with tempfile.TemporaryDirectory(prefix="infermesh-bench-") as scratch:
        for number in range(plan.rounds):
            for server in plan.servers:
                if server.name not in samples.skipped:
                    say(f"{plan.part}, round {number + 1} of {plan.rounds}: {server.name}")
                    try:
                        _run_server(plan, server, environments[server.name], Path(scratch), samples)
                    except Unavailable as reason:
                        samples.skipped[server.name] = str(reason)
    return samples


def _run_server(plan: Plan, server: Server, environment: Mapping[str, str], folder: Path, samples: Samples) -> None:
    port = free_ports(1)[0]
    log = folder / f"{server.name}.log"
    command = [sys.executable, "-m", f"tests.bench.grpc.{server.module}", str(port), *server.arguments]
    core = processes.cores()[0]
    running = Running(processes.start(command, core=core, log=log, environment=environment), port)
    try:
        _wait_ready(plan, server, running, log)
        for work in plan.works:
            body = folder / "body"
            body.write_bytes(work.body)
            samples.add(server.name, work.name, _measure(running, work, body if work.body else None, plan.calls_share))
    finally:
        running.stop()


def _measure(running: Running, work: Work, body: Path | None, calls_share: float) -> Sample:
    assert running.process is not None
    server_core, load_core = processes.cores()
    load = h2load.Load(work.load.path, body, work.load.connections, work.load.streams)
    calls = max(load.connections * load.streams, round(work.calls * calls_share))
    h2load.for_calls(load, running.port, max(load.connections, round(calls * WARM_SHARE)), core=load_core)
    pids = processes.tree(running.process.pid)

    def read() -> tuple[float, float, float]:
        return time.monotonic(), processes.cpu_seconds(pids), processes.core_busy_seconds(server_core)

    before = read()
    result = h2load.for_calls(load, running.port, calls, core=load_core)
    took_s, cpu_s, busy_s = (end - begin for end, begin in zip(read(), before, strict=True))
    missing = calls - result.succeeded
    return Sample(
        cpu_us=1e6 * cpu_s / (calls * work.units),
        rate_per_s=calls * work.units / took_s,
        utilisation=cpu_s / took_s,
        rss_mib=processes.resident_bytes(pids) / 2**20,
        mean_ms=result.mean_ms,
        foreign=max(0.0, (busy_s - cpu_s) / took_s),
        errors=missing,
        first_error=f"h2load: {missing} of {calls} calls failed" if missing else "",
    )


def _wait_ready(plan: Plan, server: Server, running: Running, log: Path) -> None:
    assert running.process is not None
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            plan.ready(running.port)
            return
        except _TRANSIENT as error:
            if running.process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text("utf-8", "replace")[-LOG_TAIL_CHARS:]
                raise Unavailable(
                    f"{server.name} gave no right answer ({error}); the end of its log:\n{tail}"
                ) from error
        time.sleep(POLL_EVERY_S)


_TRANSIENT = (grpc.RpcError, ValueError)


def ask_echo(port: int) -> None:
    """Both methods, read by grpcio to the last byte."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        said = channel.unary_unary(echo.SAY)(echo.wrapped(echo.SAY_BYTES)[5:], timeout=5)
        if said != echo.wrapped(echo.SAY_BYTES)[5:]:
            raise ValueError(f"Say answered {said[:80]!r}")
        counted = list(channel.unary_stream(echo.COUNT)(echo.wrapped(echo.COUNT_BYTES)[5:], timeout=5))
        if len(counted) != echo.STREAM_MESSAGES or any(echo.TOKEN not in message for message in counted):
            raise ValueError(f"Count answered {len(counted)} messages")


def ask_page(port: int) -> None:
    result = h2load.for_calls(h2load.Load("/", None, 1, 1), port, 1, core=processes.cores()[1])
    if result.succeeded != 1:
        raise ValueError("no page yet")
