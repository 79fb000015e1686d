"""The emulated inference server: vLLM's HTTP API in front of engines that are a cost model.

`serve_emulator` runs it until it is cancelled, or until the `crash` fault ends it. Everything shows that it is
emulated: the owner in /v1/models, `infermesh_emulated` in /metrics, the `server` header, the version.
"""

from __future__ import annotations

import math
import os
import random
import socket
import time
from collections import Counter

import msgspec
import trio

from infermesh.emulator.client import ClientSocket
from infermesh.emulator.config import EmulatorConfig
from infermesh.emulator.connection import Connection
from infermesh.emulator.driver import Abort, EngineDriver
from infermesh.emulator.exposition import metrics_page
from infermesh.emulator.faults import Faults, RequestFaults
from infermesh.emulator.metrics import EngineMetrics, Snapshot

CRASH_EXIT_STATUS = 70
_BACKLOG = 1_024
_ACCEPT_RETRY_S = 0.1  # After EMFILE and its kind: the listener stays readable, so do not spin.
_ABORTS_SHOWN = 32


class ModelStats(msgspec.Struct, frozen=True, kw_only=True):
    running: int
    waiting: int
    kv_usage: float
    submitted: int
    completed: int
    aborted_total: int
    refused_total: int
    preemptions: int
    prompt_tokens: int
    generation_tokens: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    steps: int


class EmulatorStats(msgspec.Struct, frozen=True, kw_only=True):
    """What the engines are doing: sums over all models, and each by name."""

    emulated: bool
    profile: str
    running: int
    waiting: int
    completed: int
    aborted_total: int
    last_abort_unix_s: float  # 0.0: none yet.
    connections: int
    models: dict[str, ModelStats]
    aborts: list[Abort]  # The latest, oldest first.


class EmulatorServer:
    """A running server. `faults` may be switched at any time from the same thread."""

    def __init__(self, config: EmulatorConfig, listener: socket.socket) -> None:
        self.config = config
        host, port = listener.getsockname()[:2]
        self.address: tuple[str, int] = (str(host), int(port))
        self.faults = Faults()
        self.faults.become(config.faults)
        self.profile = config.engine_profile()
        blocks_tokens = self.profile.kv_blocks * self.profile.block_tokens
        self.context_tokens_max = min(config.context_tokens_max, blocks_tokens)
        self.drivers = {
            model: EngineDriver(
                model,
                self.profile,
                self.faults,
                EngineMetrics(model, self.context_tokens_max),
                in_flight_max=config.in_flight_max,
            )
            for model in config.models
        }
        self.started_unix_s = time.time()
        self.crashed = trio.Event()
        self.connections = 0
        self.http_requests: Counter[tuple[str, str, str]] = Counter()
        self.rng = random.Random(config.seed)
        self._page = b""
        self._page_until = -math.inf

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def stats(self) -> EmulatorStats:
        models = {model: _model_stats(driver) for model, driver in self.drivers.items()}
        aborts = [abort for driver in self.drivers.values() for abort in driver.aborts]
        aborts.sort(key=lambda abort: abort.unix_s)
        return EmulatorStats(
            emulated=True,
            profile=self.profile.name,
            running=sum(each.running for each in models.values()),
            waiting=sum(each.waiting for each in models.values()),
            completed=sum(each.completed for each in models.values()),
            aborted_total=sum(each.aborted_total for each in models.values()),
            last_abort_unix_s=aborts[-1].unix_s if aborts else 0.0,
            connections=self.connections,
            models=models,
            aborts=aborts[-_ABORTS_SHOWN:],
        )

    def draw_faults(self) -> RequestFaults:
        return self.faults.draw(self.rng.random())

    def metrics_text(self) -> bytes:
        now = trio.current_time()
        if now >= self._page_until:
            self._page_until = now + self.config.metrics_lag_s
            self._page = metrics_page(
                [Snapshot(driver.engine, driver.metrics, driver.stuck) for driver in self.drivers.values()],
                self.profile,
                speed=self.config.speed,
                started_unix_s=self.started_unix_s,
                http_requests=self.http_requests,
            )
        return self._page

    def crash(self) -> None:
        """Die as a killed process does: no answer, no farewell."""
        if self.config.crash_exits_process:
            os._exit(CRASH_EXIT_STATUS)
        self.crashed.set()


async def serve_emulator(
    config: EmulatorConfig, *, task_status: trio.TaskStatus[EmulatorServer] = trio.TASK_STATUS_IGNORED
) -> None:
    """Listen, report the server, and serve until cancelled. Returns when the `crash` fault struck.

    Raises `EmulatorConfigError` for a config that makes no sense, OSError when it cannot listen.
    """
    config.validate()
    listener = await _listen(config.host, config.port)
    with listener:
        server = EmulatorServer(config, listener)
        async with trio.open_nursery() as nursery:
            for driver in server.drivers.values():
                nursery.start_soon(driver.run)
            nursery.start_soon(_accept, server, listener)
            task_status.started(server)
            await server.crashed.wait()
            nursery.cancel_scope.cancel()


async def _listen(host: str, port: int) -> socket.socket:
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def _accept(server: EmulatorServer, listener: socket.socket) -> None:
    room = trio.Semaphore(server.config.connections_max)
    async with trio.open_nursery() as nursery:
        while True:
            await room.acquire()
            nursery.start_soon(_serve_client, server, await _accept_one(listener), room)


async def _accept_one(listener: socket.socket) -> socket.socket:
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            continue
        except OSError:
            await trio.sleep(_ACCEPT_RETRY_S)
            continue
        return sock


async def _serve_client(server: EmulatorServer, sock: socket.socket, room: trio.Semaphore) -> None:
    config = server.config
    client = ClientSocket(sock, unsent_bytes_max=config.unsent_bytes_max, send_timeout_s=config.send_timeout_s)
    server.connections += 1
    try:
        await Connection(server, client).serve()
    finally:
        server.connections -= 1
        room.release()
        if server.crashed.is_set():
            client.reset()
        else:
            client.close()


def _model_stats(driver: EngineDriver) -> ModelStats:
    engine, counters = driver.engine, driver.engine.counters
    finished = driver.metrics.finished
    return ModelStats(
        running=engine.running,
        waiting=driver.waiting,
        kv_usage=engine.kv_usage,
        submitted=counters.submitted,
        completed=finished["stop"] + finished["length"],
        aborted_total=finished["abort"],
        refused_total=driver.metrics.refused,
        preemptions=counters.preemptions,
        prompt_tokens=counters.prompt_tokens,
        generation_tokens=counters.generation_tokens,
        prefix_query_tokens=counters.prefix_query_tokens,
        prefix_hit_tokens=counters.prefix_hit_tokens,
        steps=counters.steps,
    )
