"""What the router says to a call by itself: refusals in gRPC's words, and what is asked of a server, not of a model."""

from __future__ import annotations

import threading
from typing import Any, Final

import grpc
import pytest
import trio

from infermesh import __version__
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.h2_peer import H2Client
from infermesh.testing.kserve_runtime import MODEL
from infermesh.testing.waiting import wait_until
from tests.interop.grpc.calling import OF_MODEL, TIMEOUT_S, Client, GrpcMesh, grpc_mesh
from tests.interop.grpc.runtime import INFER, named

pytestmark = [pytest.mark.slow, pytest.mark.interop]
KSERVE: Final = "/inference.GRPCInferenceService/"
Code = grpc.StatusCode


def failed(client: Client, path: str, message: bytes = b"", **more: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        client.unary(path)(message, timeout=TIMEOUT_S, **more)
    return caught.value


@pytest.mark.parametrize(
    ("path", "message", "metadata", "code", "words"),
    [
        (INFER, named("nobody"), (), Code.NOT_FOUND, f"'nobody' does not exist in this fleet; it serves: {MODEL}"),
        (INFER, b"\x12\x011", (), Code.INVALID_ARGUMENT, "names no model"),
        (INFER, b"", (), Code.INVALID_ARGUMENT, "names no model"),
        (INFER, b"\x0a\x00", (), Code.INVALID_ARGUMENT, "names no model"),
        (INFER, b"\x0b", (), Code.INVALID_ARGUMENT, "no protobuf"),
        ("/any.Service/Method", b"", (), Code.UNIMPLEMENTED, "x-infermesh-model"),
        ("/infermesh.scoring.v1.ScoringService/ScoreTargets", b"", (), Code.UNIMPLEMENTED, "no service"),
        ("Say", b"", (("x-infermesh-model", "nobody"),), Code.NOT_FOUND, "'nobody' does not exist"),
        ("Say", b"", (*OF_MODEL, ("x-infermesh-priority", "highest")), Code.INVALID_ARGUMENT, "x-infermesh-priority"),
        ("Say", b"", (*OF_MODEL, ("via", "1.1 edge")), Code.FAILED_PRECONDITION, "has passed node edge before"),
        (KSERVE + "RepositoryModelLoad", b"", (), Code.PERMISSION_DENIED, "placement"),
        (KSERVE + "RepositoryModelUnload", named(MODEL), OF_MODEL, Code.PERMISSION_DENIED, "placement"),
        (
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
            b"",
            OF_MODEL,
            Code.PERMISSION_DENIED,
            "placement",
        ),
        (KSERVE + "SystemSharedMemoryRegister", named("region"), (), Code.UNIMPLEMENTED, "one server"),
        (KSERVE + "CudaSharedMemoryStatus", b"", OF_MODEL, Code.UNIMPLEMENTED, "one server"),
        (KSERVE + "LogSettings", b"", (), Code.UNIMPLEMENTED, "one server"),
    ],
)
async def test_what_cannot_be_served_is_refused_with_its_reason(
    trust: TrustDomain, path: str, message: bytes, metadata: Any, code: grpc.StatusCode, words: str
) -> None:
    async with grpc_mesh(trust) as mesh:
        error = await mesh.call(lambda client: failed(client, path, message, metadata=metadata))
        assert error.code() is code
        assert words in error.details()
        assert mesh.runtime.methods.seen["begun"] == 0


async def test_a_name_of_any_length_and_bytes_is_refused_in_few_words(trust: TrustDomain) -> None:
    names = ["x" * 4000, "\x00\x01", "modèle 100 %", "a\nb"]

    def ask(client: Client) -> list[grpc.RpcError]:
        answers = []
        for name in names:
            text = name.encode()
            length = bytes([len(text) & 0x7F | 0x80, len(text) >> 7])
            answers.append(failed(client, INFER, b"\x0a" + length + text))
        return answers

    async with grpc_mesh(trust) as mesh:
        for name, error in zip(names, await mesh.call(ask), strict=True):
            assert error.code() is Code.NOT_FOUND
            assert repr(name[:100])[1:-1].encode().decode("unicode_escape") in error.details() or name[:100] in (
                error.details()
            )
            assert len(error.details()) < 500


async def test_what_is_asked_of_a_server_is_answered_for_the_fleet(trust: TrustDomain) -> None:
    def ask(client: Client) -> dict[str, bytes]:
        names = ("ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex")
        return {name: client.unary(KSERVE + name)(b"", timeout=TIMEOUT_S) for name in names}

    async with grpc_mesh(trust) as mesh:
        answers = await mesh.call(ask)
        assert answers["ServerLive"] == answers["ServerReady"] == b"\x08\x01"
        version = __version__.encode()
        assert answers["ServerMetadata"] == b"\x0a\x09infermesh\x12" + bytes([len(version)]) + version
        assert answers["RepositoryIndex"] == b"\x0a\x0d" + named(MODEL) + b"\x1a\x05READY"
        assert mesh.runtime.methods.seen["begun"] == 0


async def test_a_full_fleet_says_when_to_come_back(trust: TrustDomain) -> None:
    """One slot, one place in the queue: the third call is turned away, and says so to a client that retries."""
    router = {"admission.queue_len_max": "1"}
    looked = threading.Event()

    def fill(client: Client) -> None:
        calls = [client.unary("Wait").future(b"", metadata=OF_MODEL) for _ in range(2)]
        looked.wait(TIMEOUT_S)
        for call in calls:
            call.cancel()

    async with grpc_mesh(trust, slots=1, router=router) as mesh, trio.open_nursery() as nursery:
        nursery.start_soon(mesh.call, fill)
        try:
            await wait_until(lambda: mesh.mesh.router.node.holdings().waiting == 1, "one waits")
            error = await mesh.call(lambda client: failed(client, "Say", metadata=OF_MODEL))
        finally:
            looked.set()
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "the fleet is busy" in error.details()
        head = dict([*error.initial_metadata(), *error.trailing_metadata()])
        assert int(head["retry-after"]) >= 1
        assert int(head["grpc-retry-pushback-ms"]) == int(head["retry-after"]) * 1000
        assert head["x-infermesh-code"] == "queue_full"
        assert len(head["x-infermesh-request-id"]) == 32


async def test_a_bad_deadline_is_refused(trust: TrustDomain) -> None:
    """grpcio cannot send one, so this is asked by hand."""
    async with grpc_mesh(trust) as mesh:
        for value in ("1", "123456789S", "-1S", "1s"):
            answer = await raw_call(mesh, [("grpc-timeout", value)])
            assert answer["grpc-status"] == "3"
            assert "grpc-timeout" in answer["grpc-message"]


async def raw_call(mesh: GrpcMesh, headers: list[tuple[str, str]]) -> dict[str, str]:
    """The head and trailers of a call made by h2."""
    own = [("content-type", "application/grpc"), ("te", "trailers"), ("x-infermesh-model", MODEL), *headers]
    async with await H2Client.dial(mesh.mesh.router.client_address) as client:
        answer = await client.fetch("POST", "/test.Anything/Say", bytes(5), headers=own)
    return {**answer.headers, **answer.trailers}
