"""What must be back to the start when a mesh does nothing: requests, slots, connections, engine slots, tasks.

One list of sentences, empty when all is as it was. Idle connections between nodes are no leftovers, as long as each
is known on both of its sides.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import trio

from infermesh.emulator import EmulatorServer
from infermesh.node.assemble import Node

# What a GPU node runs for each connection of another node: counted as connections, not as tasks.
_CONNECTION_TASK = "infermesh.net.listener.Listener._serve_one"
# The connections by which a node asks a runtime for its state.
_ADAPTERS_MAX = 1
_DESCRIPTORS = Path("/proc/self/fd")


class KeptNode(Protocol):
    """A node that may be down at the moment."""

    name: str
    running: bool
    task: trio.lowlevel.Task | None
    node: Node


class KeptEngine(Protocol):
    name: str
    running: bool
    server: EmulatorServer


class Leftovers:
    """Made when all is up and nothing has been asked; `found` compares with that moment."""

    def __init__(self, router: KeptNode, gpus: Sequence[KeptNode], engines: Sequence[Sequence[KeptEngine]]) -> None:
        self._router = router
        self._gpus = gpus
        self._engines = engines
        self._tasks = {node.name: _tasks_of(node) for node in (router, *gpus)}

    def found(self, *, clients: int = 0) -> list[str]:
        """`clients`: idle connections of clients that are still open."""
        return [*self._of_router(clients), *self._of_gpus(), *self._of_engines()]

    def _of_router(self, clients: int) -> list[str]:
        if not self._router.running:
            return []
        found = self._in_use(self._router)
        accepted = self._router.node.holdings().accepted
        if accepted != {"client": clients, "mesh": 0}:
            found.append(f"connections accepted by the router: {accepted}")
        return found + self._of_tasks(self._router, connections=clients)

    def _of_gpus(self) -> list[str]:
        found: list[str] = []
        router = self._router
        idle = router.node.holdings().upstream if router.running else {}
        for gpu in self._gpus:
            if not gpu.running:
                continue
            held = gpu.node.holdings()
            found += self._in_use(gpu)
            known = held.subscribers + sum(idle.get(gpu.name, (0, 0)))
            if held.accepted["mesh"] > known:
                found.append(f"{gpu.name}: {held.accepted['mesh']} mesh connections, {known} are known to the router")
            found += self._of_tasks(gpu, connections=held.accepted["mesh"])
        return found

    def _of_engines(self) -> list[str]:
        found: list[str] = []
        for gpu, engines in zip(self._gpus, self._engines, strict=True):
            idle = gpu.node.holdings().upstream if gpu.running else {}
            for engine in engines:
                if not engine.running:
                    continue
                server = engine.server
                for model, driver in server.drivers.items():
                    if driver.in_flight or driver.engine.running or driver.engine.queue_len:
                        found.append(f"{engine.name}: {driver.in_flight} requests of {model}")
                known = sum(sum(counts) for counts in idle.values()) + _ADAPTERS_MAX
                if server.connections > known:
                    found.append(f"{engine.name}: {server.connections} connections, {known} are known to the node")
        return found

    def _in_use(self, node: KeptNode) -> list[str]:
        return [f"{node.name}: {count} {name}" for name, count in node.node.holdings().in_use().items()]

    def _of_tasks(self, node: KeptNode, *, connections: int) -> list[str]:
        now = _tasks_of(node)
        serving = now.pop(_CONNECTION_TASK, 0)
        before = Counter(self._tasks[node.name])
        del before[_CONNECTION_TASK]
        found = [f"{node.name}: {count} more tasks {name}" for name, count in sorted((now - before).items())]
        if serving > connections:
            found.append(f"{node.name}: {serving} connection tasks for {connections} connections")
        return found


def descriptors() -> int:
    """How many this process has open; 0 where that cannot be told."""
    return len(os.listdir(_DESCRIPTORS)) if _DESCRIPTORS.is_dir() else 0  # noqa: PTH208 - counted, not walked.


def _tasks_of(node: KeptNode) -> Counter[str]:
    """The names of all tasks below the one that the node runs in."""
    names: Counter[str] = Counter()
    pending = [node.task] if node.task is not None else []
    while pending:
        task = pending.pop()
        names[task.name] += 1
        pending += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return names
