"""Two meshd processes, a router and a GPU node in front of one runtime, made with the commands that people use.

`mesh init` makes the trust domain, `meshd --config` runs each node, `mesh nodes --json` is what an operator sees.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOMAIN = "interop.mesh"
ROUTER = "edge"
GPU_NODE = "gpu-a"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 30.0
LOG_TAIL_LINES = 12
LOG_ERRORS_MAX = 5  # One defect may be told a thousand times.

CONFIG = """
[node]
id = "{node}"
roles = ["{role}"]
data_dir = {data_dir}
[client]
listen = "127.0.0.1:{client}"
[mesh]
listen = "127.0.0.1:{mesh}"
[admin]
listen = "127.0.0.1:{admin}"
[trust]
domain = "{domain}"
"""
PEER = """
[[peers]]
id = "{node}"
address = "127.0.0.1:{mesh}"
roles = ["{role}"]
"""
# Admission lets through three times what the engine runs at once, so that the engine's own queue is seen to move.
# Liveness is patient: here the engine computes on the same few cores that meshd must answer from.
PATIENT = """
[membership]
suspect_after_s = 5.0
dead_after_s = 10.0
[admission]
overcommit = 3.0
"""


def runtime_entry(kind: str, url: str, slots: int, **keys: object) -> str:
    """One `[[runtimes]]` entry, with further keys as they are written in JSON."""
    lines = [f'[[runtimes]]\nkind = "{kind}"\nurl = "{url}"\nslots = {slots}']
    lines += [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
    return "\n" + "\n".join(lines) + "\n"


class MeshPair:
    """`runtime` is what the GPU node's config says of its runtime, as `runtime_entry` writes it."""

    def __init__(self, folder: Path, runtime: str) -> None:
        self._folder = folder
        ports = free_ports(6)
        self.client_port, router_mesh, self.admin_port = ports[:3]
        gpu_client, self._gpu_mesh, gpu_admin = ports[3:]
        self._processes: list[subprocess.Popen[bytes]] = []
        self.mesh("init", "--dir", str(folder), "--domain", DOMAIN, "--node", ROUTER, "--node", GPU_NODE)
        peer = PEER.format(node=GPU_NODE, mesh=self._gpu_mesh, role="gpu")
        self._configs = (
            self._write(GPU_NODE, "gpu", (gpu_client, self._gpu_mesh, gpu_admin), runtime),
            self._write(ROUTER, "router", (self.client_port, router_mesh, self.admin_port), peer + PATIENT),
        )

    def start(self) -> None:
        program = Path(sys.executable).with_name("meshd")
        for config in self._configs:
            with config.with_suffix(".log").open("ab") as log:
                self._processes.append(
                    subprocess.Popen([program, "--config", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                )

        wait_until("the router's admin port answers", self._answers, START_TIMEOUT_S)

    def _answers(self) -> bool:
        if any(process.poll() is not None for process in self._processes):
            raise RuntimeError(f"a meshd ended at once:\n{self.logs()}")
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> list[int]:
        """Stop both in good order; returns their exit codes."""
        for process in self._processes:
            process.terminate()
        codes = []
        for process in self._processes:
            try:
                codes.append(process.wait(STOP_TIMEOUT_S))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        return codes

    def logs(self) -> str:
        """What a person needs of both logs after a failure: the first errors, and how it ended."""
        parts: list[str] = []
        for config in self._configs:
            lines = config.with_suffix(".log").read_text("utf-8", "replace").splitlines()
            errors = [line for line in lines[:-LOG_TAIL_LINES] if '"level":"error"' in line][:LOG_ERRORS_MAX]
            parts += [f"--- {config.stem}", *errors, *lines[-LOG_TAIL_LINES:]]
        return "\n".join(parts)

    def mesh(self, *arguments: str) -> str:
        """Run the `mesh` command; returns its stdout."""
        program = str(Path(sys.executable).with_name("mesh"))
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"mesh {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:]}")
        return done.stdout

    def model_row(self, model: str) -> dict[str, Any] | None:
        """The model's row under the GPU node in `mesh nodes --json`; None while it is not there."""
        return self.model_rows().get(model)

    def model_rows(self) -> dict[str, dict[str, Any]]:
        """All rows under the GPU node, by model."""
        shown = json.loads(self.mesh("nodes", "--admin", f"http://127.0.0.1:{self.admin_port}", "--json"))
        return {
            row["model"]: {"node_state": node["state"], "emulated": node["emulated"], **row}
            for node in shown["nodes"]
            if node["node"] == GPU_NODE
            for row in node.get("models", ())
        }

    def _write(self, node: str, role: str, ports: tuple[int, int, int], rest: str) -> Path:
        config = self._folder / f"{node}.toml"
        client, mesh, admin = ports
        head = CONFIG.format(
            node=node,
            role=role,
            data_dir=json.dumps(str(self._folder / node)),
            client=client,
            mesh=mesh,
            admin=admin,
            domain=DOMAIN,
        )
        config.write_text(head + rest, "utf-8")
        return config


def wait_until(what: str, is_so: Callable[[], bool], timeout_s: float) -> float:
    """Ask again and again; returns the seconds it took, raises TimeoutError naming `what`.

    Without a pause: each look is a command or an HTTP exchange, which takes its time.
    """
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"{what}: not so after {timeout_s:g} s")
    return time.monotonic() - began


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that were free a moment ago; held together so that no two are the same."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = tuple(int(sock.getsockname()[1]) for sock in socks)
    for sock in socks:
        sock.close()
    return ports
