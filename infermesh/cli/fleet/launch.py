"""Start a local fleet and hold it until the caller is done: trust domain, configs, processes, readiness.

`open_fleet` is the whole of it. Whatever happens inside or while starting, no process of the fleet outlives it; an
abrupt death of this process ends them too (see `leashed`).
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import trio

from infermesh.cli.admin_shapes import ModelsPage
from infermesh.cli.exits import CommandFailed
from infermesh.cli.fleet.plan import (
    HOST,
    TRUST_DOMAIN,
    FleetPlan,
    NodePlan,
    daemon_environment,
    node_toml,
    plan_fleet,
    ports_needed,
)
from infermesh.cli.fleet.ports import PortsTaken, find_ports, find_row
from infermesh.cli.fleet.process import MeshProcess, stop_all
from infermesh.core.model.names import NodeId
from infermesh.net.fetch import FetchError, fetch
from infermesh.node.authority import DAY_S, Authority, AuthorityError

READY_DEADLINE_S = 40.0  # Several interpreters start at once, on machines with two cores.
STOP_GRACE_S = 5.0
_LIFE_S = 30 * DAY_S
_STARTS_MAX = 4
_POLL_S = 0.05
_ANSWER_BYTES_MAX = 2**20
_TAIL_LINES = 12
_PREFERRED = (8080, 9090)

Tell = Callable[[str], None]


class FleetOptions(msgspec.Struct, frozen=True, kw_only=True):
    gpus: int = 3
    speed: float = 1.0
    folder: Path  # Empty or missing; holds configs, keys and logs.
    port_base: int = 0  # 0: any free ports, 8080 and 9090 for the edge where they are free.


class Fleet:
    """A running fleet. Made by `open_fleet`."""

    def __init__(self, plan: FleetPlan, processes: dict[NodeId, MeshProcess]) -> None:
        self.plan = plan
        self.processes = processes

    def kill(self, node: NodeId) -> None:
        self.processes[node].kill()

    async def restart(self, node: NodeId) -> None:
        """Start a node again that was killed; returns once it says that it is ready."""
        process = self.processes[node]
        await process.wait()
        process.start()
        await _wait_ready(self.plan.node(node), process)


class _PortTaken(Exception):
    """Somebody took a port between our look and the daemon's bind."""


@contextlib.asynccontextmanager
async def open_fleet(options: FleetOptions, tell: Tell) -> AsyncIterator[Fleet]:
    """Raises CommandFailed when a node does not get ready, with the end of its log."""
    fleet: Fleet | None = None
    try:
        for attempt in range(1, _STARTS_MAX + 1):
            fleet = _prepare(options, attempt)
            try:
                await _start(fleet, tell)
                break
            except _PortTaken as error:
                await _stop(fleet, tell)
                if attempt == _STARTS_MAX:
                    raise CommandFailed(
                        f"{error}, {attempt} times in a row: stop what takes it, or try again"
                    ) from error
                tell(f"{error}; starting over with others")
        assert fleet is not None
        yield fleet
    finally:
        if fleet is not None:
            with trio.CancelScope(shield=True):
                await _stop(fleet, tell)


async def _stop(fleet: Fleet, tell: Tell) -> None:
    for node in await stop_all(list(fleet.processes.values()), grace_s=STOP_GRACE_S):
        tell(f"{node} did not stop within {STOP_GRACE_S:g} s and was killed")


def _prepare(options: FleetOptions, attempt: int) -> Fleet:
    """Everything that the processes need, on disk."""
    count = ports_needed(options.gpus)
    try:
        if options.port_base:
            ports = find_row(count, host=HOST, base=options.port_base)
        else:
            ports = find_ports(count, host=HOST, rng=random.Random(), preferred=_PREFERRED if attempt == 1 else ())
    except PortsTaken as error:
        raise CommandFailed(f"{error}: give --port another first port") from error
    plan = plan_fleet(options.gpus, ports=ports, speed=options.speed)
    trust = options.folder / "trust"
    environ = daemon_environment(dict(os.environ))
    processes = {}
    try:
        now = time.time()
        authority = (
            Authority.open(trust, now_unix=now)
            if Authority.exists(trust)
            else Authority.create(trust, TRUST_DOMAIN, now_unix=now)
        )
        for node in plan.nodes:
            data_dir = authority.issue(node.node, now_unix=now, life_s=_LIFE_S).folder
            config_file = data_dir / "node.toml"
            config_file.write_text(node_toml(plan, node, data_dir), "utf-8")
            processes[node.node] = MeshProcess(node.node, config_file, options.folder / f"{node.node}.log", environ)
    except (AuthorityError, OSError) as error:
        raise CommandFailed(f"cannot prepare the fleet in {options.folder}: {error}") from error
    return Fleet(plan, processes)


async def _start(fleet: Fleet, tell: Tell) -> None:
    for process in fleet.processes.values():
        process.start()
    tell(f"starting {', '.join(fleet.processes)} (logs in {next(iter(fleet.processes.values())).log_file.parent})")
    # GPU nodes first: the edge is ready as soon as it hears one of them.
    for plan in (*fleet.plan.gpus, fleet.plan.edge):
        await _wait_ready(plan, fleet.processes[plan.node])
    await _wait_all_chosen(fleet)


async def _wait_ready(plan: NodePlan, process: MeshProcess) -> None:
    said = "nothing yet"
    with trio.move_on_after(READY_DEADLINE_S):
        while True:
            if not process.running:
                raise _explain_end(process)
            try:
                answer = await fetch(f"{plan.admin_url}/readyz", deadline_s=2.0, body_bytes_max=_ANSWER_BYTES_MAX)
            except FetchError as error:
                said = str(error)
            else:
                if answer.status == 200:
                    return
                said = answer.body.decode("utf-8", "replace")
            await trio.sleep(_POLL_S)
    raise CommandFailed(
        f"node {plan.node} is not ready after {READY_DEADLINE_S:g} s (its /readyz: {said}).{_tail_of(process)}"
    )


async def _wait_all_chosen(fleet: Fleet) -> None:
    """Until the edge may send requests to every GPU node."""
    url, ready = f"{fleet.plan.edge.admin_url}/v1/models", 0
    with trio.move_on_after(READY_DEADLINE_S):
        while True:
            with contextlib.suppress(FetchError, msgspec.DecodeError):
                answer = await fetch(url, deadline_s=2.0, body_bytes_max=_ANSWER_BYTES_MAX)
                ready = max((row.ready for row in msgspec.json.decode(answer.body, type=ModelsPage).models), default=0)
            if ready == len(fleet.plan.gpus):
                return
            await trio.sleep(_POLL_S)
    edge = fleet.processes[fleet.plan.edge.node]
    raise CommandFailed(
        f"the edge can use {ready} of {len(fleet.plan.gpus)} GPU nodes after {READY_DEADLINE_S:g} s.{_tail_of(edge)}"
    )


def _explain_end(process: MeshProcess) -> Exception:
    tail = process.log_tail(_TAIL_LINES)
    if any("in use" in line or "EADDRINUSE" in line for line in tail):
        return _PortTaken(f"a port of {process.node} was taken by somebody else")
    return CommandFailed(f"node {process.node} ended with status {process.exit_status}.{_tail_of(process)}")


def _tail_of(process: MeshProcess) -> str:
    lines = process.log_tail(_TAIL_LINES)
    if not lines:
        return f" Its log {process.log_file} is empty."
    return f" The end of its log {process.log_file}:\n  " + "\n  ".join(lines)
