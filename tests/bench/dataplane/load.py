"""The load process: fake backends and load clients on one core, told what to do by JSON lines on stdin.

`python -m tests.bench.dataplane.load METRICS_FILE [NODE_FOLDER...]`: one mesh port for each folder of a node's
identity. First prints the ports, then answers each order with one line.
Backends answer between orders too, so that a router's health checks stay content. Measured windows open and
close here, beside the clients, so that the router's CPU time and the counts belong to the same instants.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from tests.bench.dataplane import processes, tick
from tests.bench.dataplane.backend import Fleet, Listener, Pages
from tests.bench.dataplane.client import StreamReader, Tally, Unary
from tests.bench.dataplane.loop import Loop, Ticker

BACKENDS = 2
OPEN_AT_ONCE = 16  # Connections opened before the loop gets a turn, so that no accept queue overflows.
STREAMS_OPEN_TIMEOUT_S = 20.0
CHECKED_STREAMS = 4

T = TypeVar("T")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One cell to run against one port. `rate` is requests a second over all, or events a second per stream;
    0 means as fast as the answers come."""

    kind: str  # "unary" or "stream"
    port: int
    pid: int  # The router's root process; 0 when there is none.
    admin_port: int  # Where its tick histogram is read; 0: it has none.
    connections: int
    rate: float
    warm_s: float
    measure_s: float
    end_timeout_s: float = 5.0  # How long all streams together may take to end.


class Result(msgspec.Struct, kw_only=True):
    seconds: float
    requests: int
    events: int
    router_cpu_s: float
    router_rss_bytes: int
    load_cpu_s: float
    foreign: float  # Share of the router's or the load's core that something else used, whichever is more.
    errors: int
    first_error: str
    latency_p50_ms: float
    latency_p99_ms: float
    opening_ticks: dict[float, float]  # Of the time before the window.
    window_ticks: dict[float, float]


class Window:
    """Between `__init__` and `close`: time, counts and CPU. The tick histogram is read just outside: that blocks."""

    def __init__(self, order: Order, tally: Tally) -> None:
        self._tally = tally
        self._pids = processes.tree(order.pid) if order.pid else []
        self._cores = processes.cores()
        if order.kind == "unary":  # Of streams it is the time to the first event, which lies before the window.
            tally.latency_s.clear()
        self._admin_port = order.admin_port
        self._ticks = self._read_ticks()
        self._start = self._read()

    def _read_ticks(self) -> tick.Counts:
        return tick.read_counts(self._admin_port) if self._admin_port else {}

    def _read(self) -> tuple[float, ...]:
        router, load = self._cores
        return (
            time.monotonic(),
            processes.cpu_seconds(self._pids),
            time.process_time(),
            processes.core_busy_seconds(router),
            processes.core_busy_seconds(load),
            self._tally.requests,
            self._tally.events,
        )

    def close(self) -> Result:
        seconds, router, load, router_core, load_core, requests, events = (
            after - before for before, after in zip(self._start, self._read(), strict=True)
        )
        ticks = self._read_ticks()
        latency = sorted(self._tally.latency_s) or [0.0]
        return Result(
            seconds=seconds,
            requests=int(requests),
            events=int(events),
            router_cpu_s=router,
            router_rss_bytes=processes.resident_bytes(self._pids),
            load_cpu_s=load,
            foreign=max(0.0, (router_core - router) / seconds, (load_core - load) / seconds),
            errors=0,
            first_error="",
            latency_p50_ms=latency[len(latency) // 2] * 1e3,
            latency_p99_ms=latency[len(latency) * 99 // 100] * 1e3,
            opening_ticks=dict(self._ticks),
            window_ticks=dict(tick.difference(self._ticks, ticks)),
        )


def run_unary(loop: Loop, order: Order) -> Result:
    tally = Tally()
    free: list[Unary] = []
    on_free: Callable[[Unary], None] = free.append if order.rate else Unary.ask
    clients = _open(loop, order.connections, lambda number: Unary(loop, order.port, f"u{number}", tally, on_free))
    ticker: Ticker | None = None
    if order.rate:
        free.extend(clients)
        per_tick = order.rate / 1000
        owed = 0.0

        def tick() -> None:
            nonlocal owed
            owed += per_tick
            while owed >= 1 and free:
                owed -= 1
                free.pop(0).ask()

        ticker = Ticker(loop, 0.001, tick)
    else:
        for client in clients:
            client.ask()
    loop.run(order.warm_s)
    window = Window(order, tally)
    loop.run(order.measure_s)
    result = window.close()
    if ticker is not None:
        ticker.close()
    for client in clients:
        client.close()
    return _judged(result, tally, order)


def run_stream(loop: Loop, fleet: Fleet, order: Order) -> Result:
    tally = Tally()
    fleet.pace(order.rate)

    def open_stream(number: int) -> StreamReader:
        reader = StreamReader(loop, order.port, f"s{number}", tally, fleet, credit=order.rate == 0)
        if number < CHECKED_STREAMS:
            reader.keep_bytes()
        return reader

    readers = _open(loop, order.connections, open_stream)
    if not loop.run_until(lambda: all(r.seen or r.closed for r in readers), STREAMS_OPEN_TIMEOUT_S):
        silent = sum(1 for reader in readers if not reader.seen)
        tally.fail(f"{silent} of {len(readers)} streams had no event after {STREAMS_OPEN_TIMEOUT_S} s")

    loop.run(order.warm_s)
    window = Window(order, tally)
    loop.run(order.measure_s)
    result = window.close()
    tally.ending = True
    sent = fleet.finish_all()
    if not loop.run_until(lambda: all(r.ended or r.closed for r in readers), order.end_timeout_s):
        tally.fail(f"{sum(1 for r in readers if not r.ended)} streams had no end")
    for reader in readers:
        if reader.ended and reader.seen not in sent.get(reader.name, ()):
            tally.fail(f"stream {reader.name}: {reader.seen} events came, sent were {sent.get(reader.name)}")
        reader.close()
    for reader in readers[:CHECKED_STREAMS]:
        reader.check_bytes()
    return _judged(result, tally, order)


def _open(loop: Loop, count: int, make: Callable[[int], T]) -> list[T]:
    made: list[T] = []
    for number in range(count):
        made.append(make(number))
        if number % OPEN_AT_ONCE == OPEN_AT_ONCE - 1:
            loop.run(0.005)
    return made


def _judged(result: Result, tally: Tally, order: Order) -> Result:
    expected = result.requests if order.kind == "unary" else result.events
    if not expected:
        tally.fail(f"nothing came back in {result.seconds:.1f} s")
    result.errors = tally.errors
    result.first_error = tally.first_error
    return result


def main() -> None:
    os.sched_setaffinity(0, {processes.cores()[1]})
    loop = Loop()
    fleet = Fleet(loop)
    metrics_file, *node_folders = sys.argv[1:]
    pages = Pages(Path(metrics_file).read_bytes())
    listeners = [Listener(loop, fleet, pages) for _ in range(BACKENDS)]
    mesh_ports: list[int] = []
    if node_folders:
        # Imported here: the peers' rows run without infermesh.
        from tests.bench.dataplane.mesh_port import MeshPort

        mesh_ports = [MeshPort(loop, fleet, Path(folder)).port for folder in node_folders]
    _say({"ports": [listener.port for listener in listeners], "mesh_ports": mesh_ports})
    gc.collect()
    gc.freeze()
    gc.disable()
    lines: list[bytes] = []

    def on_input(mask: int) -> None:
        data = os.read(0, 65536)
        lines.extend(data.splitlines() if data else [b""])

    loop.add(0, on_input, lambda: loop.remove(0))
    decoder = msgspec.json.Decoder(Order)
    while True:
        loop.run_until(lambda: bool(lines), 3600)
        line = lines.pop(0) if lines else b""
        if not line:
            return  # The other end is gone: so are we.
        order = decoder.decode(line)
        result = run_unary(loop, order) if order.kind == "unary" else run_stream(loop, fleet, order)
        _say(msgspec.to_builtins(result))


def _say(document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
