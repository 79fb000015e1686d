"""`mesh score MODEL --via HOST:PORT --identity DIR`, against a whole mesh that runs in a thread."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from infermesh.testing.certificates import TrustDomain
from infermesh.testing.commands import RunCommand
from infermesh.testing.mesh import running_mesh
from infermesh.testing.mesh_plan import MODEL
from infermesh.testing.threaded import ThreadedServer


@dataclass
class _Fleet:
    """Where a router and a GPU node listen, and folders of identities."""

    router: str
    gpu: str
    admin: str
    trust: TrustDomain

    def folder(self, node: str = "laptop") -> Path:
        return self.trust.node(node).folder


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Fleet]:
    trust = TrustDomain(tmp_path_factory.mktemp("trust"))

    async def serve(task_status: trio.TaskStatus[_Fleet]) -> None:
        async with running_mesh(trust=trust) as mesh:
            gpu = mesh.gpus[0]
            admin = mesh.router.addresses.admin
            names = [f"{host}:{port}" for host, port in (mesh.router.mesh_address, gpu.mesh_address, admin)]
            task_status.started(_Fleet(names[0], names[1], f"http://{names[2]}", trust))
            await trio.sleep_forever()

    with ThreadedServer[_Fleet](serve) as started:
        yield started


def test_the_table_is_that_of_the_admin_port(mesh: RunCommand, fleet: _Fleet) -> None:
    result = mesh("score", MODEL, "--prompt-tokens", 4000, "--via", fleet.router, "--identity", fleet.folder())
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"{MODEL}, policy predicted_ms"
    assert lines[2].split()[:5] == ["NODE", "SCORE", "RANGE", "TTFT", "TOTAL"]
    assert lines[3].startswith("gpu-a")


def test_json_is_the_same_document_with_the_same_figures(mesh: RunCommand, fleet: _Fleet) -> None:
    via = mesh("score", MODEL, "--via", fleet.router, "--identity", fleet.folder(), "--json")
    admin = mesh("score", MODEL, "--admin", fleet.admin, "--json")
    here, there = json.loads(via.stdout), json.loads(admin.stdout)
    for document in (here, there):
        for candidate in document["candidates"]:
            for name in ("signal_age_s", "low_ms", "high_ms"):  # They grow with the age of the signal.
                assert isinstance(candidate.pop(name), float)
            candidate["breakdown"].pop("network_ms")
            for name in ("score_ms", "ttft_ms", "total_ms", "p95_ttft_ms"):
                candidate[name] = pytest.approx(candidate[name], abs=5.0) if document is there else candidate[name]
    assert here == there


def test_an_unknown_model_fails_with_the_routers_words(mesh: RunCommand, fleet: _Fleet) -> None:
    result = mesh("score", "unheard-of", "--via", fleet.router, "--identity", fleet.folder())
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{fleet.router} answered NOT_FOUND: no node of this fleet serves 'unheard-of'" in result.stderr


def test_a_node_that_is_no_router_says_so(mesh: RunCommand, fleet: _Fleet) -> None:
    result = mesh("score", MODEL, "--via", fleet.gpu, "--identity", fleet.folder())
    assert result.exit_code == 1
    assert "it is no router" in result.stderr


def test_where_nobody_listens_it_ends_with_unreachable(mesh: RunCommand, fleet: _Fleet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = mesh("score", MODEL, "--via", f"127.0.0.1:{port}", "--identity", fleet.folder())
    assert (result.exit_code, result.stdout) == (5, "")
    assert f"no answer from the mesh port at 127.0.0.1:{port}" in result.stderr
    assert "refused" in result.stderr


def test_an_identity_of_another_mesh_is_refused(mesh: RunCommand, fleet: _Fleet, tmp_path: Path) -> None:
    stranger = TrustDomain(tmp_path, "other.mesh").node("laptop").folder
    result = mesh("score", MODEL, "--via", fleet.router, "--identity", stranger)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "do not trust each other" in result.stderr
    assert "certificate" in result.stderr


def test_a_router_that_does_not_trust_us_is_told_apart_from_one_that_is_not_there(
    mesh: RunCommand, fleet: _Fleet, tmp_path: Path
) -> None:
    """An impostor's certificate under the right CA file: our side of the handshake is fine, theirs is not."""
    impostor = fleet.trust.other.node("laptop").folder
    for name in ("node.pem", "node.key"):
        (tmp_path / name).write_bytes((impostor / name).read_bytes())
    (tmp_path / "ca.pem").write_bytes(fleet.trust.ca_file.read_bytes() + fleet.trust.other.ca_file.read_bytes())
    (tmp_path / "node.key").chmod(0o600)
    result = mesh("score", MODEL, "--via", fleet.router, "--identity", tmp_path)
    assert result.exit_code == 3, result.stderr
    assert "do not trust each other" in result.stderr


def test_an_expired_identity_is_refused_before_anything_is_asked(
    mesh: RunCommand, fleet: _Fleet, tmp_path: Path
) -> None:
    old = TrustDomain(tmp_path, now_unix=time.time() - 3650 * 86_400).node("laptop").folder
    result = mesh("score", MODEL, "--via", fleet.router, "--identity", old)
    assert result.exit_code == 1
    assert "expired" in result.stderr


def test_a_folder_without_an_identity_is_said_with_what_it_must_hold(
    mesh: RunCommand, fleet: _Fleet, tmp_path: Path
) -> None:
    result = mesh("score", MODEL, "--via", fleet.router, "--identity", tmp_path)
    assert result.exit_code == 1
    assert "must hold node.pem, node.key and ca.pem" in result.stderr


WRONG = [
    (["--via", "10.0.0.5:7443"], "add --identity DIR"),
    (["--identity", "."], "add --via HOST:PORT"),
    (["--via", "10.0.0.5:7443", "--identity", ".", "--admin", "http://10.0.0.5:9090"], "give one"),
    (["--via", "10.0.0.5:0", "--identity", "."], "has no valid port"),
    (["--via", "300.0.0.5", "--identity", "."], "has no valid host"),
    (["--via", "10.0.0.5:7443", "--identity", "/no/such/folder"], "does not exist"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_wrong_usage_says_what_is_right(mesh: RunCommand, options: list[str], said: str) -> None:
    result = mesh("score", "m", *options)
    assert result.exit_code == 2
    assert said in result.stderr
