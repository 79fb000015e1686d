"""A whole mesh in one process and one nursery: real nodes, real certificates, real sockets, emulated engines.

    async with running_mesh(MeshPlan(gpus=[GpuPlan(), GpuPlan()])) as mesh:
        async with await mesh.client() as client:
            answer = await client.fetch("POST", PATH, completion_body("hello"))

Every node is what `meshd` runs (`infermesh.node.assemble.Node`), with a config file that was read and checked, on
ports that the kernel chose. Engines are runtimes of their own, so that a node may die and its engine live, or the
reverse; their `faults` are within reach. Each part may be killed and started again on its port.

Leaving the block asserts that nothing is left: no request, slot, connection or task (`leftovers`), and that no node
logged an error. Not for several processes: that is `infermesh.cli.fleet`.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from infermesh.core.model.names import NodeId
from infermesh.emulator import EmulatorConfig, EmulatorServer, Faults, serve_emulator
from infermesh.node.assemble import Node, NodeAddresses
from infermesh.node.client_tls import load_client_tls
from infermesh.node.identity import load_identity
from infermesh.observe.logs import configure_logs
from infermesh.testing.certificates import NodeFiles, TrustDomain
from infermesh.testing.h11_client import H11Client
from infermesh.testing.leftovers import Leftovers, descriptors
from infermesh.testing.mesh_plan import (
    ROUTER,
    GpuPlan,
    MeshPlan,
    NodeLines,
    RuntimeAt,
    Settings,
    gpu_name,
    write_config,
)
from infermesh.testing.tcp_relay import TcpRelay, serve_tcp_relay
from infermesh.testing.waiting import wait_until

BYSTANDER = "bystander-1b"
_BYSTANDER_ENGINE = EmulatorConfig(models=(BYSTANDER,), profile="tiny")


class _Part(Protocol):
    name: str

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None: ...


class Restartable:
    """Something of the mesh that runs in a task of it, can be ended at any time and started again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = False
        self.task: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope()
        self._wanted = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        raise NotImplementedError

    async def keep(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run it, and again whenever `start` is called. The harness's task."""
        self.task = trio.lowlevel.current_task()
        while True:
            self._wanted = trio.Event()
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.run)
                    self.running = True
                    task_status.started()
            self.running = False
            await self._wanted.wait()
            task_status = trio.TASK_STATUS_IGNORED

    def end(self) -> None:
        """End it here and now, as SIGKILL would: the kernel closes what it had open."""
        self._scope.cancel()

    async def kill(self) -> None:
        """`end`, and wait until it is down."""
        self.end()
        await wait_until(lambda: not self.running, f"{self.name} is down")

    async def start(self) -> None:
        """Start it again, on the same port."""
        assert not self.running, f"{self.name} runs already"
        self._wanted.set()
        await wait_until(lambda: self.running, f"{self.name} is up")


class MeshEngine(Restartable):
    """An emulated engine server: one runtime of one GPU node."""

    def __init__(self, name: str, config: EmulatorConfig) -> None:
        super().__init__(name)
        self._config = config
        self.server: EmulatorServer

    @property
    def faults(self) -> Faults:
        return self.server.faults

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            self.server = await nursery.start(partial(serve_emulator, self._config))
            self._config = replace(self._config, port=self.server.address[1])
            task_status.started()


class MeshNode(Restartable):
    """One node. `node` and `addresses` are of its present or last run."""

    def __init__(self, files: NodeFiles, lines: NodeLines, seed: int) -> None:
        super().__init__(str(files.node))
        self._files = files
        self._lines = lines
        self._rng = random.Random(seed)
        self.node: Node
        self.addresses: NodeAddresses

    @property
    def client_address(self) -> tuple[str, int]:
        assert self.addresses.client is not None
        return self.addresses.client

    @property
    def mesh_address(self) -> tuple[str, int]:
        assert self.addresses.mesh is not None
        return self.addresses.mesh

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        config = write_config(self._files, self._lines)
        identity = load_identity(config.trust, config.node.id, time.time())
        client_tls = load_client_tls(config.client) if config.routes else None
        self.node = Node(config, identity, self._rng, client_tls=client_tls)
        async with trio.open_nursery() as nursery:
            self.addresses = await nursery.start(self.node.run)
            self._keep_ports(self.addresses)
            task_status.started()

    async def stop(self) -> None:
        """As SIGTERM does: in good order."""
        self.node.stop()
        await wait_until(lambda: not self.running, f"{self.name} has stopped")

    def _keep_ports(self, addresses: NodeAddresses) -> None:
        named = {"client": addresses.client, "mesh": addresses.mesh, "admin": addresses.admin}
        ports = {f"{name}.listen": f"{at[0]}:{at[1]}" for name, at in named.items() if at is not None}
        self._lines = replace(self._lines, settings={**self._lines.settings, **ports})


class Mesh:
    """What a test holds in its hands. Lists are in the order of the plan."""

    def __init__(self, plan: MeshPlan, trust: TrustDomain, log: io.StringIO) -> None:
        self.plan = plan
        self.trust = trust
        self._log = log
        self.gpus: list[MeshNode] = []
        self.engines: list[list[MeshEngine]] = []
        self.relays: dict[int, TcpRelay] = {}
        self.router: MeshNode
        self.leftovers: Leftovers

    @property
    def engine(self) -> MeshEngine:
        """The first engine of the first GPU node."""
        return self.engines[0][0]

    @property
    def nodes(self) -> list[MeshNode]:
        return [self.router, *self.gpus]

    async def client(self) -> H11Client:
        """A client connected to the router; use it in `async with`."""
        return await H11Client.dial(self.router.client_address)

    def log(self, event: str) -> list[dict[str, object]]:
        """The lines of that event so far, of whichever node."""
        return [line for line in map(json.loads, self._log.getvalue().splitlines()) if line["event"] == event]

    async def wait_ready(self, gpus: Sequence[int] | None = None, *, within_s: float = 10.0) -> None:
        """Until the router may choose every model on these GPU nodes (all by default), and its own."""
        wanted = {
            (gpu_name(index), model)
            for index in (range(len(self.gpus)) if gpus is None else gpus)
            for model in self._models(index)
        }
        wanted |= {(ROUTER, runtime.model) for runtime in self.plan.own}

        def missing() -> set[tuple[str, str]]:
            eligible = self.router.node.sources.view().eligible
            return wanted - {(target.node, target.model) for found in eligible.values() for target in found}

        await wait_until(lambda: not missing(), lambda: f"ready at the router: {missing()}", within_s=within_s)

    def _models(self, gpu: int) -> list[str]:
        served = [model for engine in self.engines[gpu] for model in engine.server.config.models]
        return served + [runtime.model for runtime in self.plan.gpus[gpu].runtimes]

    async def wait_out(self, gpu: int, *, within_s: float = 10.0) -> None:
        """Until the router chooses nothing on this GPU node."""
        name = gpu_name(gpu)

        def left() -> list[str]:
            eligible = self.router.node.sources.view().eligible
            return [target.key for found in eligible.values() for target in found if target.node == name]

        await wait_until(lambda: not left(), lambda: f"out of choice: {left()}", within_s=within_s)

    async def wait_quiet(self, *, clients: int = 0, within_s: float = 5.0) -> None:
        """Until everything is as it was at the start, but for `clients` connections of clients that do nothing."""
        found = partial(self.leftovers.found, clients=clients)
        await wait_until(lambda: not found(), lambda: f"nothing is left: {found()}", within_s=within_s)


@asynccontextmanager
async def running_mesh(plan: MeshPlan | None = None, *, trust: TrustDomain | None = None) -> AsyncIterator[Mesh]:
    """Everything up, and every target ready at the router. `trust`: a trust domain to use again, which saves 50 ms.

    A failure inside the block comes out as it is, not in a group, and then nothing is asserted about what is left.
    """
    failure: Exception | None = None
    log = io.StringIO()
    configure_logs("mesh", "info", log, human=False)
    try:
        with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
            before = descriptors()
            mesh = Mesh(plan or MeshPlan(), trust or TrustDomain(Path(folder)), log)
            async with trio.open_nursery() as nursery:
                await _start_gpus(mesh, nursery)
                await _start_router(mesh, nursery)
                await mesh.wait_ready()
                mesh.leftovers = Leftovers(mesh.router, mesh.gpus, mesh.engines)
                try:
                    yield mesh
                    await mesh.wait_quiet()
                    await _stop(mesh)
                except Exception as error:  # noqa: BLE001 - carried out of the nursery, and raised again there.
                    failure = error
                nursery.cancel_scope.cancel()
            if failure is None:
                await wait_until(lambda: descriptors() <= before, f"{before} open descriptors as before")
    finally:
        configure_logs("", "info", sys.__stderr__, human=False)
        if failure is not None and "INFERMESH_TEST_LOGS" in os.environ:
            sys.stderr.write(log.getvalue())
    if failure is not None:
        raise failure
    errors = [line for line in log.getvalue().splitlines() if json.loads(line)["level"] in ("error", "critical")]
    assert not errors, "a node logged an error:\n" + "\n".join(errors)


async def _start_gpus(mesh: Mesh, nursery: trio.Nursery) -> None:
    plan = mesh.plan
    for index, gpu in enumerate(plan.gpus):
        name = gpu_name(index)
        configs = [*gpu.engines, *([_BYSTANDER_ENGINE] if index == plan.bystander else [])]
        engines = [MeshEngine(f"engine {number} of {name}", config) for number, config in enumerate(configs)]
        for engine in engines:
            await nursery.start(engine.keep)
        mesh.engines.append(engines)
        node = MeshNode(mesh.trust.node(name), _gpu_lines(plan.settings, gpu, engines), plan.seed + 1 + index)
        await nursery.start(node.keep)
        mesh.gpus.append(node)
        if gpu.relayed:
            mesh.relays[index] = await nursery.start(serve_tcp_relay, node.mesh_address)


def _gpu_lines(settings: Settings, gpu: GpuPlan, engines: Sequence[MeshEngine]) -> NodeLines:
    runtimes = [RuntimeAt(engine.server.url, slots=engine.server.profile.slots) for engine in engines]
    runtimes += gpu.runtimes
    return NodeLines(roles=["gpu"], settings={**settings, **gpu.settings}, runtimes=runtimes)


async def _start_router(mesh: Mesh, nursery: trio.Nursery) -> None:
    plan = mesh.plan
    peers = {
        node.name: mesh.relays[index].address if index in mesh.relays else node.mesh_address
        for index, node in enumerate(mesh.gpus)
    }
    lines = NodeLines(
        roles=["edge", "gpu"] if plan.own else ["router"],
        settings={**plan.settings, **plan.router},
        runtimes=plan.own,
        peers=peers,
    )
    mesh.router = MeshNode(mesh.trust.node(NodeId(ROUTER)), lines, plan.seed)
    await nursery.start(mesh.router.keep)


async def _stop(mesh: Mesh) -> None:
    """Everything in good order, from the clients' side; each part must be left by those before it."""
    for node in mesh.nodes:
        if node.running:
            await node.stop()
            held = node.node.holdings()
            assert held.sockets == 0, f"{node.name} has stopped and holds {held}"
    for engine in (engine for engines in mesh.engines for engine in engines):
        if engine.running:
            server = engine.server
            await wait_until(lambda: not server.connections, lambda: f"{server.connections} connections gone")  # noqa: B023
