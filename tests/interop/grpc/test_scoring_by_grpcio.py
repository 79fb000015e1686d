"""The mesh's own services from outside: grpcio over mutual TLS, with stubs made by protoc's own plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from infermesh.emulator import EmulatorConfig
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.mesh import running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PROTOS = Path(__file__).resolve().parents[3] / "wire" / "proto"
PEER = Path(__file__).with_name("scoring_peer.py")
ONE_SLOT = MeshPlan(gpus=[GpuPlan(engines=[EmulatorConfig(models=(MODEL,), profile="tiny", slots=1)])], bystander=None)


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody in another project makes of our .proto files."""
    folder: Path = tmp_path_factory.mktemp("stubs")
    roots = [f"-I{PROTOS / 'infermesh' / name / 'v1'}" for name in ("scoring", "state")]
    command = [sys.executable, "-m", "grpc_tools.protoc", *roots, f"--python_out={folder}"]
    files = ["scoring.proto", "state.proto"]  # Flat: the folders would be a second package `infermesh`.
    subprocess.run([*command, f"--grpc_python_out={folder}", *files], check=True, timeout=60)
    return folder


async def test_grpcio_scores_admits_reports_and_subscribes(trust: TrustDomain, stubs: Path) -> None:
    async with running_mesh(ONE_SLOT, trust=trust) as mesh:
        [gpu] = mesh.gpus
        places = [f"{node.mesh_address[0]}:{node.mesh_address[1]}/{node.name}" for node in (mesh.router, gpu)]
        with trio.fail_after(60):
            done = await trio.run_process(
                [sys.executable, str(PEER), *places, str(trust.node("laptop").folder), MODEL],
                env={**os.environ, "PYTHONPATH": str(stubs)},
                cwd=stubs,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr.decode()
        found = json.loads(done.stdout)
    scoring, state = found["scoring"], found["state"]
    assert scoring["nodes"] == ["gpu-a"]
    assert scoring["ttft_ms"][0] > 0
    assert scoring["unknown"] == ["NOT_FOUND", "no node of this fleet serves 'unheard-of'"]
    assert (scoring["first"], scoring["second"], scoring["third"]) == ("admitted", "DEADLINE_EXCEEDED", "admitted")
    assert scoring["report"] == [1, 0]
    assert (state["first"], state["node"], state["beat_covers_first"]) == ("model_state", "gpu-a", True)
    assert state["report"] == "PERMISSION_DENIED"
