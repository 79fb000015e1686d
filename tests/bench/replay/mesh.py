"""One fleet of GPU nodes with several routers in front of it that differ in their routing policy alone.

Made of what `mesh demo` is made of: real meshd processes, mTLS, emulated engines. Each router has the whole fleet to
itself while the others rest, so a caller plays through one at a time and waits for `calm` in between.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from infermesh.cli.admin_shapes import ModelsPage, SummaryPage
from infermesh.cli.exits import CommandFailed
from infermesh.cli.fleet.plan import HOST, TRUST_DOMAIN, FleetPlan, NodePlan, daemon_environment, node_toml
from infermesh.cli.fleet.ports import find_ports
from infermesh.cli.fleet.process import MeshProcess, stop_all
from infermesh.core.model.names import NodeId
from infermesh.net.fetch import FetchError, fetch
from infermesh.node.authority import Authority
from infermesh.sim.node import NodeSpec
from tests.bench.replay.books import EngineTotals

_PORTS_PER_NODE = 3
_STARTS_MAX = 3
_READY_DEADLINE_S = 60.0
_STOP_GRACE_S = 5.0
_POLL_S = 0.05
_REST_DEADLINE_S = 300.0
# Once all is over, so that the last states and the nodes' slower samples of an idle engine have reached the routers.
_QUIET_S = 1.5
_ANSWER_BYTES_MAX = 2**20
_TAIL_LINES = 12

Tell = Callable[[str], None]


class _Stats(msgspec.Struct):
    """GET /emulator/stats of an engine."""

    models: dict[str, EngineTotals]


class BenchMesh:
    """A running fleet. Made by `open_mesh`."""

    def __init__(self, plans: Mapping[str, FleetPlan], specs: Mapping[NodeId, NodeSpec]) -> None:
        self.plans = dict(plans)  # By policy: the same GPU nodes, each time another edge.
        self.specs = dict(specs)
        self.processes: dict[NodeId, MeshProcess] = {}

    @property
    def gpus(self) -> tuple[NodePlan, ...]:
        return next(iter(self.plans.values())).gpus

    @property
    def nodes(self) -> tuple[NodePlan, ...]:
        return (*self.gpus, *(plan.edge for plan in self.plans.values()))

    def pids(self, nodes: Sequence[NodePlan]) -> list[int]:
        return [self.processes[node.node].pid for node in nodes]

    async def summary(self, policy: str) -> SummaryPage:
        return await _read(f"{self.plans[policy].edge.admin_url}/v1/summary", SummaryPage)

    async def engines(self) -> dict[str, EngineTotals]:
        """By node."""
        found: dict[str, EngineTotals] = {}
        for gpu in self.gpus:
            stats = await _read(f"{gpu.engine_url}/emulator/stats", _Stats)
            (found[gpu.node],) = stats.models.values()
        return found

    async def rest(self) -> None:
        """Until nothing is under way anywhere. Raises CommandFailed where that never comes."""
        with trio.move_on_after(_REST_DEADLINE_S):
            while not await self._is_idle():
                await trio.sleep(_POLL_S)
            return
        raise CommandFailed(f"the fleet is not idle {_REST_DEADLINE_S:g} s after the last answer: a slot has leaked")

    async def calm(self) -> None:
        """At rest, every prefix cache empty, and the routers know it."""
        await self.rest()
        for gpu in self.gpus:
            await _fetch(f"{gpu.engine_url}/reset_prefix_cache", method="POST")
        await trio.sleep(_QUIET_S)

    async def _is_idle(self) -> bool:
        if any(engine.running or engine.waiting for engine in (await self.engines()).values()):
            return False
        return not any([(await self.summary(policy)).in_flight for policy in self.plans])


class _DidNotStart(Exception):
    """A process ended at once: somebody took its port, or its config is refused."""


@contextlib.asynccontextmanager
async def open_mesh(
    specs: Sequence[NodeSpec], policies: Sequence[str], folder: Path, tell: Tell
) -> AsyncIterator[BenchMesh]:
    """Ready, every GPU node in every router's choice; ended, whatever happens inside. Logs stay in `folder`."""
    mesh: BenchMesh | None = None
    try:
        for attempt in range(1, _STARTS_MAX + 1):
            mesh = _prepare(specs, policies, folder / str(attempt))
            try:
                await _start(mesh, tell)
                break
            except _DidNotStart as error:
                if attempt == _STARTS_MAX:
                    raise CommandFailed(str(error)) from error
                await _stop(mesh)
                tell(f"{error}; starting over with other ports")
        assert mesh is not None
        yield mesh
    finally:
        if mesh is not None:
            with trio.CancelScope(shield=True):
                await _stop(mesh)


def _prepare(specs: Sequence[NodeSpec], policies: Sequence[str], folder: Path) -> BenchMesh:
    nodes = len(specs) + len(policies)
    ports = find_ports(_PORTS_PER_NODE * nodes, host=HOST, rng=random.Random())
    groups = [ports[_PORTS_PER_NODE * number :][:_PORTS_PER_NODE] for number in range(nodes)]
    gpus = tuple(
        NodePlan(
            node=NodeId(f"gpu-{chr(ord('a') + number)}"),
            mesh_port=group[0],
            admin_port=group[1],
            engine_port=group[2],
            profile=spec.profile.name,
            speed=spec.speed,
        )
        for number, (spec, group) in enumerate(zip(specs, groups, strict=False))
    )
    plans = {
        policy: FleetPlan(
            edge=NodePlan(
                node=NodeId(f"edge-{policy.replace('_', '-')}"),
                client_port=group[0],
                admin_port=group[1],
                mesh_port=group[2],
            ),
            gpus=gpus,
        )
        for policy, group in zip(policies, groups[len(specs) :], strict=True)
    }
    mesh = BenchMesh(plans, {gpu.node: spec for gpu, spec in zip(gpus, specs, strict=True)})
    now = time.time()
    authority = Authority.create(folder / "trust", TRUST_DOMAIN, now_unix=now)
    # A policy in the environment would be that of every router.
    environ = {
        name: value
        for name, value in daemon_environment(dict(os.environ)).items()
        if name != "INFERMESH_ROUTING__POLICY"
    }
    for node in mesh.nodes:
        data_dir = authority.issue(node.node, now_unix=now).folder
        config_file = data_dir / "node.toml"
        config_file.write_text(_toml(mesh, node, data_dir), "utf-8")
        mesh.processes[node.node] = MeshProcess(node.node, config_file, folder / f"{node.node}.log", environ)
    return mesh


def _toml(mesh: BenchMesh, node: NodePlan, data_dir: Path) -> str:
    for policy, plan in mesh.plans.items():
        if node is plan.edge:
            return f'{node_toml(plan, node, data_dir)}\n[routing]\npolicy = "{policy}"\n'
    return node_toml(next(iter(mesh.plans.values())), node, data_dir)


async def _start(mesh: BenchMesh, tell: Tell) -> None:
    tell(f"starting {', '.join(mesh.processes)}")
    for process in mesh.processes.values():
        process.start()
    for node in mesh.nodes:
        await _wait_ready(mesh.processes[node.node], f"{node.admin_url}/readyz")
    for plan in mesh.plans.values():
        await _wait_chosen(plan, mesh.processes[plan.edge.node])


async def _stop(mesh: BenchMesh) -> None:
    await stop_all([process for process in mesh.processes.values() if process.running], grace_s=_STOP_GRACE_S)


async def _wait_ready(process: MeshProcess, url: str) -> None:
    with trio.move_on_after(_READY_DEADLINE_S):
        while True:
            if not process.running:
                raise _DidNotStart(f"{process.node} ended with status {process.exit_status}: {_tail(process)}")
            with contextlib.suppress(FetchError):
                answer = await fetch(url, deadline_s=2.0, body_bytes_max=_ANSWER_BYTES_MAX)
                if answer.status == 200:
                    return
            await trio.sleep(_POLL_S)
    raise CommandFailed(f"{process.node} is not ready after {_READY_DEADLINE_S:g} s: {_tail(process)}")


async def _wait_chosen(plan: FleetPlan, process: MeshProcess) -> None:
    """Until this router may send requests to every GPU node."""
    ready = 0
    with trio.move_on_after(_READY_DEADLINE_S):
        while True:
            page = await _read(f"{plan.edge.admin_url}/v1/models", ModelsPage)
            ready = max((row.ready for row in page.models), default=0)
            if ready == len(plan.gpus):
                return
            await trio.sleep(_POLL_S)
    raise CommandFailed(f"{process.node} can use {ready} of {len(plan.gpus)} GPU nodes: {_tail(process)}")


def _tail(process: MeshProcess) -> str:
    return "\n  ".join(["", *process.log_tail(_TAIL_LINES)])


_T = TypeVar("_T")


async def _read(url: str, kind: type[_T]) -> _T:
    return msgspec.json.decode(await _fetch(url), type=kind)


async def _fetch(url: str, *, method: str = "GET") -> bytes:
    try:
        answer = await fetch(url, method=method, deadline_s=10.0, body_bytes_max=_ANSWER_BYTES_MAX)
    except FetchError as error:
        raise CommandFailed(f"the fleet does not answer: {error}") from error
    if answer.status != 200:
        raise CommandFailed(f"{url} answered {answer.status}")
    return answer.body
