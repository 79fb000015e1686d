"""A mesh of real meshd processes with real mTLS, each on free ports of loopback: started, looked at, hurt, stopped.

Each daemon is on a leash (`infermesh.cli.fleet.leashed`): it ends with this process, however that ends. One that is
suspended cannot notice, so a guard beside it does. The GPU nodes serve emulated engines of their own unless runtimes
are given; an engine's port is known, so that faults can be switched while it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from infermesh.cli.fleet.plan import daemon_environment
from infermesh.cli.fleet.ports import find_ports
from infermesh.core.model.names import NodeId
from infermesh.node.authority import Authority
from tests.interop.exchange import HOST, POLL_S, Answer, ask, wait_until

DOMAIN: Final = "interop.mesh"
MODEL: Final = "emulated-8b"
ROUTER: Final = "edge"
READY_TIMEOUT_S: Final = 40.0
STOP_TIMEOUT_S: Final = 10.0
STARTS_MAX: Final = 3

Settings = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """One node. `settings` are sections of its config, over what the fleet itself sets."""

    node: str
    role: str = "gpu"
    settings: Settings = field(default_factory=dict)
    runtimes: Sequence[Mapping[str, object]] = ()


def gpu(node: str, *, profile: str = "h100", speed: float = 1.0, settings: Settings | None = None) -> NodeSpec:
    """A GPU node with an emulated engine."""
    emulator = {"models": [MODEL], "profile": profile, "speed": speed}
    return NodeSpec(node=node, settings={"emulator": emulator, **(settings or {})})


def router(settings: Settings | None = None) -> NodeSpec:
    return NodeSpec(node=ROUTER, role="router", settings=settings or {})


class Daemon:
    """One meshd process; may be killed and started again."""

    def __init__(self, spec: NodeSpec, config: Path, ports: Sequence[int]) -> None:
        self.node = spec.node
        self.spec = spec
        self.config = config
        self.log_file = config.with_suffix(".log")
        self.client_port, self.mesh_port, self.admin_port, self.engine_port = ports
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    # --- its life ---

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        assert not self.running
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "infermesh.cli.fleet.leashed", "--config", str(self.config)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=daemon_environment(dict(os.environ)),
                process_group=0,
            )

    def kill(self) -> float:
        """SIGKILL, as a machine that loses power; the Unix time of it."""
        return self._signal(signal.SIGKILL)

    def terminate(self) -> float:
        """SIGTERM: it stops in good order."""
        return self._signal(signal.SIGTERM)

    def suspend(self) -> float:
        """SIGSTOP: it is there and does nothing. A guard ends it, should we end before `go_on`."""
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", f"read _ || kill -KILL {self.pid}"], stdin=subprocess.PIPE, process_group=0
        )
        return self._signal(signal.SIGSTOP)

    def go_on(self) -> float:
        """SIGCONT."""
        at = self._signal(signal.SIGCONT)
        if self._guard is not None:
            self._guard.communicate(b"\n", STOP_TIMEOUT_S)
            self._guard = None
        return at

    def wait_end(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        status = self._process.wait(timeout_s)
        assert self._process.stdin is not None
        self._process.stdin.close()
        return status

    def stop(self) -> int | None:
        """End it in whatever state it is; its exit status, None if it was never started."""
        if self._process is None:
            return None
        self.begin_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait_end()
        self.kill()
        return self.wait_end()

    def begin_stop(self) -> None:
        if self.running:
            self.terminate()
            self.go_on()

    def _signal(self, number: signal.Signals) -> float:
        os.kill(self.pid, number)
        return time.time()

    # --- what it shows ---

    def admin(self, path: str) -> Any:
        """A page of the admin port, read as JSON."""
        return self.page(path).json

    def page(self, path: str) -> Answer:
        answer = ask(self.admin_port, path)
        assert answer.status == 200, f"{self.node} {path}: {answer.status} {answer.text[:300]}"
        return answer

    def counter(self, name: str, **labels: str) -> float:
        """The sum of a metric over the series that carry these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        total = 0.0
        for line in self.page("/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(each in series for each in wanted):
                total += float(value)
        return total

    def is_ready(self) -> bool:
        try:
            return ask(self.admin_port, "/readyz").status == 200
        except (OSError, HTTPException):
            return False

    def switch_faults(self, **faults: object) -> None:
        """Of its emulated engine; without any, all are switched off."""
        if faults:
            answer = ask(self.engine_port, "/emulator/faults", method="POST", value=faults)
        else:
            answer = ask(self.engine_port, "/emulator/faults", method="DELETE")
        assert answer.status == 200, answer.text

    def engine(self) -> Any:
        """The statistics of its emulated engine."""
        return ask(self.engine_port, "/emulator/stats").json

    # --- what it wrote ---

    def log_lines(self) -> list[str]:
        return self.log_file.read_text("utf-8").splitlines()

    def events(self, name: str, **fields: object) -> list[dict[str, Any]]:
        """The log lines of one event that carry these fields."""
        found = []
        for line in self.log_lines():
            if f'"event":"{name}"' in line:
                event = json.loads(line)
                if all(event.get(key) == value for key, value in fields.items()):
                    found.append(event)
        return found

    def wait_event(self, name: str, timeout_s: float, *, after: int = 0, **fields: object) -> dict[str, Any]:
        """The first such event past `after` earlier ones."""
        wait_until(f"{self.node} logs {name} {fields}", lambda: len(self.events(name, **fields)) > after, timeout_s)
        return self.events(name, **fields)[after]


class Fleet:
    """A router and GPU nodes. Made by `running_fleet`."""

    def __init__(self, daemons: Mapping[str, Daemon]) -> None:
        self.daemons = dict(daemons)

    def __getitem__(self, node: str) -> Daemon:
        return self.daemons[node]

    @property
    def router(self) -> Daemon:
        return self.daemons[ROUTER]

    @property
    def gpus(self) -> list[Daemon]:
        return [daemon for daemon in self.daemons.values() if daemon.spec.role == "gpu"]

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self.router.client_port

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.router.admin("/v1/targets")["targets"]
        return found

    def wait_usable(self) -> None:
        """Until the router may send requests to every GPU node."""
        count = len(self.gpus)

        def usable() -> bool:
            targets = self.targets()
            return len(targets) >= count and not any(target["unavailable"] for target in targets)

        wait_until(f"{count} GPU nodes are in choice", usable, READY_TIMEOUT_S)

    def stop(self) -> dict[str, int | None]:
        """End everything; the exit status of each that ran."""
        for daemon in self.daemons.values():
            daemon.begin_stop()
        return {node: daemon.stop() for node, daemon in self.daemons.items()}


class _DidNotStart(Exception):
    pass


@contextlib.contextmanager
def running_fleet(folder: Path, specs: Sequence[NodeSpec]) -> Iterator[Fleet]:
    """Ready and in choice; ended, whatever happens inside. Its logs stay in `folder`."""
    for attempt in range(STARTS_MAX):
        fleet = _prepared(folder / str(attempt), specs)
        try:
            _start(fleet)
            break
        except _DidNotStart:
            # Somebody took a port between our look and the daemon's bind.
            fleet.stop()
            if attempt + 1 == STARTS_MAX:
                raise
        except BaseException:
            fleet.stop()
            raise
    try:
        yield fleet
    finally:
        fleet.stop()


def _prepared(folder: Path, specs: Sequence[NodeSpec]) -> Fleet:
    now = time.time()
    authority = Authority.create(folder / "trust", DOMAIN, now_unix=now)
    ports = find_ports(4 * len(specs), host=HOST, rng=random.Random())
    daemons: dict[str, Daemon] = {}
    for number, spec in enumerate(specs):
        config = folder / f"{spec.node}.toml"
        daemons[spec.node] = Daemon(spec, config, ports[4 * number : 4 * number + 4])
    gpus = [daemon for daemon in daemons.values() if daemon.spec.role == "gpu"]
    for daemon in daemons.values():
        issued = authority.issue(NodeId(daemon.node), now_unix=now)
        peers = gpus if daemon.spec.role == "router" else []
        daemon.config.write_text(_toml(daemon, issued.folder, peers), "utf-8")
    return Fleet(daemons)


def _start(fleet: Fleet) -> None:
    # The router last: what it says of nodes that are not there yet would be in its log as their death.
    for daemons in (fleet.gpus, [fleet.router]):
        for daemon in daemons:
            daemon.start()
        for daemon in daemons:
            _wait_ready(daemon)
    fleet.wait_usable()


def _wait_ready(daemon: Daemon) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not daemon.is_ready():
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = daemon.wait_end(POLL_S)
            raise _DidNotStart(f"{daemon.node} ended with {status}: {daemon.log_lines()[-5:]}")
        assert time.monotonic() < deadline, f"{daemon.node} is not ready: {daemon.log_lines()[-5:]}"


def _toml(daemon: Daemon, data_dir: Path, peers: Sequence[Daemon]) -> str:
    spec = daemon.spec
    sections: dict[str, dict[str, object]] = {
        "node": {"id": spec.node, "roles": [spec.role], "data_dir": str(data_dir)},
        "client": {"listen": f"{HOST}:{daemon.client_port}"},
        "mesh": {"listen": f"{HOST}:{daemon.mesh_port}"},
        "admin": {"listen": f"{HOST}:{daemon.admin_port}"},
        "trust": {"domain": DOMAIN},
        "emulator": {"listen": f"{HOST}:{daemon.engine_port}"},
    }
    for section, keys in spec.settings.items():
        sections.setdefault(section, {}).update(keys)
    lines: list[str] = []
    for section, keys in sections.items():
        lines += [f"[{section}]", *_keys(keys)]
    for peer in peers:
        address = f"{HOST}:{peer.mesh_port}"
        lines += ["[[peers]]", *_keys({"id": peer.node, "address": address, "roles": [peer.spec.role]})]
    for runtime in spec.runtimes:
        lines += ["[[runtimes]]", *_keys(runtime)]
    return "\n".join(lines) + "\n"


def _keys(keys: Mapping[str, object]) -> list[str]:
    # A JSON text, number, boolean or list of these is a TOML one.
    return [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
