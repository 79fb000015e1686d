"""A gRPC client of another language, @grpc/grpc-js from npm, against our server and through the router.

Skipped with the reason where node or npm is missing, or npm has no registry to ask. The checks are client.js.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import trio

from infermesh.net.grpc.health import HealthService
from infermesh.net.grpc.reflection import with_reflection
from infermesh.testing.grpc_echo import EchoService
from infermesh.testing.grpc_node import grpc_node
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer
from tests.interop.mesh_pair import MeshPair, runtime_entry, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.slow]

VERSION = "1.14.7"
INSTALL_TIMEOUT_S = 120
CLIENT_TIMEOUT_S = 60
READY_TIMEOUT_S = 20
CLIENT = Path(__file__).with_name("client.js")
MODEL = "echo"
SLOTS = 1024
# What the checks leave with the service: two calls that wait and one that pours, each cancelled by its client.
LEFT_BEHIND = Counter({"begun": 4, "cancelled": 3})


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client in its node_modules."""
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed on this machine")
    folder = tmp_path_factory.mktemp("grpc-js")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), f"@grpc/grpc-js@{VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install @grpc/grpc-js {VERSION}: {done.stderr[-300:]}")
    return folder


async def _run_checks(modules: Path, target: str, *more: str) -> dict[str, str]:
    """The checks that failed, each with what was wrong."""
    with trio.fail_after(CLIENT_TIMEOUT_S):
        command = ["node", str(CLIENT), str(modules), target, *more]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) >= 13, done.stderr.decode()
    return {line["check"]: line["error"] for line in lines if not line["ok"]}


def _left_behind(echo: EchoService) -> Counter[str]:
    return Counter({name: echo.seen[name] for name in LEFT_BEHIND})


async def test_grpc_js_and_our_server_understand_each_other(modules: Path) -> None:
    echo, health = EchoService(), HealthService()
    async with grpc_node(with_reflection([echo, health])) as node:
        assert await _run_checks(modules, node.target) == {}
        assert node.log.events == []
        assert _left_behind(echo) == LEFT_BEHIND


async def _answer_ready(request: PeerRequest, response: PeerResponse) -> None:
    await response.send(b"")


async def test_grpc_js_reaches_a_runtime_through_router_and_gpu_node(modules: Path, tmp_path: Path) -> None:
    echo = EchoService()
    async with grpc_node([echo]) as node, trio.open_nursery() as nursery:
        ready: HttpPeer = await nursery.start(serve_http_peer, _answer_ready)
        entry = runtime_entry("kserve", ready.base_url, SLOTS, grpc_url=node.target, models=[MODEL])
        mesh = MeshPair(tmp_path, entry)
        try:
            await trio.to_thread.run_sync(mesh.start)
            await trio.to_thread.run_sync(partial(_wait_ready, mesh))
            failed = await _run_checks(modules, f"127.0.0.1:{mesh.client_port}", MODEL)
            assert failed == {}, mesh.logs()
            with trio.fail_after(5):
                while _left_behind(echo) != LEFT_BEHIND:
                    await trio.sleep(0.02)
        finally:
            codes = await trio.to_thread.run_sync(mesh.stop)
        assert codes == [0, 0]
        nursery.cancel_scope.cancel()


def _wait_ready(mesh: MeshPair) -> None:
    def is_ready() -> bool:
        row = mesh.model_row(MODEL)
        return row is not None and row["lifecycle"] == "ready" and not row["unavailable"]

    wait_until("the model is ready in mesh nodes", is_ready, READY_TIMEOUT_S)
