"""Runs the rounds: each contestant in turn is started afresh, measured in every workload, and stopped.

Interleaved (A B C, A B C, ...) so that slow drifts of the machine meet every row alike.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import msgspec

from tests.bench.dataplane import processes, tick
from tests.bench.dataplane.contestant import Contestant, Place, Running, Unavailable, wait_ready
from tests.bench.dataplane.load import Order, Result
from tests.bench.dataplane.report import Sample

ROOT = Path(__file__).parents[3]
# A capture of a real server's page: adapters read what they would read in production.
METRICS_FILE = ROOT / "tests" / "fixtures" / "vllm" / "metrics_load.txt"
PORTS_PER_START = 4


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    unit: str  # What its CPU is divided by: "request" or "chunk".
    connections: int
    rate: float  # Requests a second over all, or chunks a second per stream; 0: as fast as the answers come.

    @property
    def kind(self) -> str:
        return "unary" if self.unit == "request" else "stream"


WORKLOADS = (
    Workload("unary_max", "request", 50, 0),
    Workload("unary_1000/s", "request", 50, 1000),
    Workload("s100x40", "chunk", 100, 40),
    Workload("s500x40", "chunk", 500, 40),
    Workload("s100_max", "chunk", 100, 0),
    Workload("s1000x2", "chunk", 1000, 2),  # For the memory at 1,000 open streams.
)


@dataclass(frozen=True, slots=True)
class Plan:
    contestants: Sequence[Contestant]
    workloads: Sequence[Workload]
    rounds: int
    warm_s: float
    measure_s: float
    cache: Path


@dataclass(slots=True)
class Measured:
    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # Contestant -> why.
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)


class LoadSide:
    """The load process, as seen from here."""

    def __init__(self, node_folders: Sequence[Path]) -> None:
        command: list[str | Path] = [sys.executable, "-m", "tests.bench.dataplane.load", METRICS_FILE, *node_folders]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        ports = json.loads(self._read())
        self.ports: tuple[int, ...] = tuple(ports["ports"])
        self.mesh_ports: tuple[int, ...] = tuple(ports["mesh_ports"])

    def run(self, order: Order) -> Result:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._read(), type=Result)

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load process ended with {self._process.wait()}; its error is above")
        return line

    def __enter__(self) -> LoadSide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def run(plan: Plan, say: Callable[[str], None]) -> Measured:
    measured = Measured()
    for contestant in plan.contestants:
        try:
            measured.versions[contestant.name] = contestant.install(plan.cache)
            measured.samples[contestant.name] = {workload.name: [] for workload in plan.workloads}
        except Unavailable as reason:
            measured.skipped[contestant.name] = str(reason)
    with tempfile.TemporaryDirectory(prefix="infermesh-bench-") as scratch:
        trust, folders = _make_identities(Path(scratch), measured.versions)
        with LoadSide(folders) as load:
            for number in range(plan.rounds):
                for contestant in plan.contestants:
                    if contestant.name in measured.skipped:
                        continue
                    folder = Path(scratch) / f"{contestant.name}-{number}"
                    folder.mkdir()
                    place = Place(
                        folder=folder,
                        cache=plan.cache,
                        trust=trust,
                        backends=load.ports,
                        mesh_backends=load.mesh_ports,
                        ports=_free_ports(PORTS_PER_START),
                        core=processes.cores()[0],
                    )
                    say(f"round {number + 1} of {plan.rounds}: {contestant.name}")
                    try:
                        _run_one(plan, load, contestant, place, measured.samples[contestant.name])
                    except Unavailable as reason:
                        measured.skipped[contestant.name] = str(reason)
    return measured


def _run_one(
    plan: Plan, load: LoadSide, contestant: Contestant, place: Place, samples: Mapping[str, list[Sample]]
) -> None:
    running = contestant.start(place)
    try:
        wait_ready(running, contestant.name, place.folder / "log")
        for workload in plan.workloads:
            samples[workload.name].append(_measure(plan, load, running, workload))
    finally:
        running.stop()


def _measure(plan: Plan, load: LoadSide, running: Running, workload: Workload) -> Sample:
    ticks_before = tick.read_counts(running.admin_port) if running.admin_port else {}
    result = load.run(
        Order(
            kind=workload.kind,
            port=running.port,
            pid=running.process.pid if running.process is not None else 0,
            admin_port=running.admin_port,
            connections=workload.connections,
            rate=workload.rate,
            warm_s=plan.warm_s,
            measure_s=plan.measure_s,
        )
    )
    units = result.requests if workload.unit == "request" else result.events
    return Sample(
        cpu_us=1e6 * result.router_cpu_s / max(1, units),
        rate_per_s=units / result.seconds,
        utilisation=result.router_cpu_s / result.seconds,
        rss_mib=result.router_rss_bytes / 2**20,
        latency_p50_ms=result.latency_p50_ms,
        latency_p99_ms=result.latency_p99_ms,
        foreign=result.foreign,
        opening_ticks=tick.difference(ticks_before, result.opening_ticks),
        window_ticks=result.window_ticks,
        errors=result.errors,
        first_error=result.first_error,
    )


def _make_identities(scratch: Path, versions: Mapping[str, str]) -> tuple[Path | None, list[Path]]:
    """A trust domain with the router and one GPU node per mesh port, when a row of ours or of mTLS will run."""
    if not any(name.startswith("infermesh") or name.endswith("mtls") for name in versions):
        return None, []
    # Imported here: the plain rows of peers run without infermesh.
    from infermesh.testing.certificates import TrustDomain

    domain = TrustDomain(scratch, "bench.mesh")
    domain.node("router")
    return domain.authority.folder, [domain.node(f"gpu-{number}").folder for number in range(2)]


def _free_ports(count: int) -> tuple[int, ...]:
    """Ports that were free a moment ago; held together so that no two are the same."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = tuple(int(sock.getsockname()[1]) for sock in socks)
    for sock in socks:
        sock.close()
    return ports
