"""The generated code is what the committed .proto gives, and it speaks the service that was promised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wire.proto.infermesh.state.v1 import state_pb2

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_committed_code_is_what_the_compiler_gives() -> None:
    pytest.importorskip("grpc_tools", reason="the compiler comes with the development dependencies")
    done = subprocess.run([sys.executable, ROOT / "scripts" / "proto", "--check"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_service_has_its_streams() -> None:
    service = state_pb2.DESCRIPTOR.services_by_name["StateService"]
    assert service.full_name == "infermesh.state.v1.StateService"
    shape = {method.name: (method.client_streaming, method.server_streaming) for method in service.methods}
    assert shape == {
        "ReportModelState": (True, True),
        "ReportGpuState": (True, True),
        "Subscribe": (True, True),
        "Ping": (False, False),
    }
