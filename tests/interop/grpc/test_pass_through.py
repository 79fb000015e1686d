"""Calls of every kind by grpcio's client, through the router and its mTLS mesh port, to grpcio's server."""

from __future__ import annotations

import queue
import random
import threading
from typing import Final

import grpc
import pytest
from google.protobuf import wrappers_pb2
from grpc_status import rpc_status

from infermesh.testing.certificates import TrustDomain
from infermesh.testing.kserve_runtime import MODEL
from tests.interop.grpc.calling import OF_MODEL, TIMEOUT_S, Client, grpc_mesh
from tests.interop.grpc.runtime import INFER, STREAM_INFER, named

pytestmark = [pytest.mark.slow, pytest.mark.interop]
MIB: Final = 1 << 20


async def test_all_four_kinds_of_call_pass(trust: TrustDomain) -> None:
    def ask(client: Client) -> None:
        assert client.say(b"hello") == b"hello"
        counted = client.counting("Count")(b"\x03", metadata=OF_MODEL, timeout=TIMEOUT_S)
        assert list(counted) == [b"0", b"1", b"2"]
        assert client.joining("Join")(iter([b"a", b"b", b"c"]), metadata=OF_MODEL, timeout=TIMEOUT_S) == b"a|b|c"
        assert list(client.chatting("Chat")(iter([b"x", b"y"]), metadata=OF_MODEL, timeout=TIMEOUT_S)) == [b"x", b"y"]

    async with grpc_mesh(trust) as mesh:
        await mesh.call(ask)
        assert mesh.runtime.methods.seen["begun"] == 4


async def test_calls_without_messages_either_way_pass(trust: TrustDomain) -> None:
    def ask(client: Client) -> None:
        assert client.say(b"") == b""
        assert list(client.counting("Count")(b"\x00", metadata=OF_MODEL, timeout=TIMEOUT_S)) == []
        assert client.joining("Join")(iter([]), metadata=OF_MODEL, timeout=TIMEOUT_S) == b""
        assert list(client.chatting("Chat")(iter([]), metadata=OF_MODEL, timeout=TIMEOUT_S)) == []

    async with grpc_mesh(trust) as mesh:
        await mesh.call(ask)


async def test_a_conversation_in_which_each_waits_for_the_other_flows(trust: TrustDomain) -> None:
    """The head comes before any message, and each answer before the next question."""
    said: queue.Queue[bytes | None] = queue.Queue()

    def ask(client: Client) -> None:
        answers = client.chatting("Chat")(iter(said.get, None), metadata=OF_MODEL, timeout=TIMEOUT_S)
        assert dict(answers.initial_metadata())["x-hello"] == "there"
        for number in range(50):
            said.put(b"%d" % number)
            assert next(answers) == b"%d" % number
        said.put(None)
        assert list(answers) == []
        assert answers.code() is grpc.StatusCode.OK

    async with grpc_mesh(trust) as mesh:
        await mesh.call(ask)


async def test_metadata_passes_both_ways_and_binary_stays_binary(trust: TrustDomain) -> None:
    own = (("x-test-text", "a value, with commas"), ("x-test-more", "1"), ("x-test-more", "2"))
    binary = ("x-test-bytes-bin", bytes(range(256)))

    def ask(client: Client) -> None:
        answer, call = client.unary("Say").with_call(b"", metadata=(*OF_MODEL, *own, binary), timeout=TIMEOUT_S)
        assert answer == b""
        for pairs in (call.initial_metadata(), call.trailing_metadata()):
            got = [(key, value) for key, value in pairs if key.startswith("x-test-")]
            assert sorted(got, key=str) == sorted([*own, binary], key=str)
        assert dict(call.trailing_metadata())["x-trailing"] == "yes"

    async with grpc_mesh(trust) as mesh:
        await mesh.call(ask)


async def test_fields_of_ours_reach_neither_the_runtime_nor_the_client(trust: TrustDomain) -> None:
    sent = (
        ("x-infermesh-priority", "interactive"),
        ("x-infermesh-tenant", "acme"),
        ("x-infermesh-hedge", "never"),
        ("x-infermesh-load", "i=1;q=0;r=0;k=0.5"),
        ("x-infermesh-made-up", "1"),
        ("x-forwarded-for", "10.0.0.1"),
    )

    def ask(client: Client) -> None:
        _, call = client.unary("Say").with_call(b"", metadata=(*OF_MODEL, *sent), timeout=TIMEOUT_S)
        head = {pair.key: pair.value for pair in call.initial_metadata()}
        ours = {key: value for key, value in head.items() if key.startswith("x-infermesh-")}
        assert ours.keys() == {"x-infermesh-request-id", "x-infermesh-node", "x-infermesh-attempts"}
        assert ours["x-infermesh-node"] == "gpu-a"
        assert ours["x-infermesh-attempts"] == "1"
        assert not [pair.key for pair in call.trailing_metadata() if pair.key.startswith("x-infermesh-")]

    async with grpc_mesh(trust) as mesh:
        await mesh.call(ask)
        [got] = mesh.runtime.methods.metadata
        assert {key for key in got if key.startswith("x-infermesh-")} == {"x-infermesh-request-id"}
        assert got.keys() >= {"traceparent", "via", "user-agent"}
        assert "x-forwarded-for" not in got


async def test_a_status_passes_with_its_message_details_and_trailers(trust: TrustDomain) -> None:
    def ask(client: Client) -> None:
        with pytest.raises(grpc.RpcError) as failed:
            client.unary("Fail")(b"", metadata=OF_MODEL, timeout=TIMEOUT_S)
        error = failed.value
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == "as told: 100 % früh"
        [detail] = rpc_status.from_call(error).details
        said = wrappers_pb2.StringValue()
        assert detail.Unpack(said)
        assert said.value == "a detail"

    async with grpc_mesh(trust) as mesh:
        await mesh.call(ask)


async def test_compressed_messages_pass_as_they_are_and_their_model_is_read(trust: TrustDomain) -> None:
    message = named(MODEL, b"\x22\x80\x40" + bytes(8192))

    def ask(client: Client) -> None:
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            answer = client.unary(INFER)(message, compression=compression, timeout=TIMEOUT_S)
            assert answer == message
        answer = client.unary("Squeeze")(message, metadata=OF_MODEL, timeout=TIMEOUT_S)
        assert answer == message

    async with grpc_mesh(trust) as mesh:
        await mesh.call(ask)
        assert mesh.runtime.methods.requests == [message] * 3


async def test_a_message_of_16_mib_passes_both_ways(trust: TrustDomain) -> None:
    message = named(MODEL, random.Random(1).randbytes(16 * MIB))

    def ask(client: Client) -> None:
        assert client.unary(INFER)(message, timeout=TIMEOUT_S) == message
        assert list(client.chatting(STREAM_INFER)(iter([message, b"more"]), timeout=TIMEOUT_S)) == [message, b"more"]

    async with grpc_mesh(trust) as mesh:
        await mesh.call(ask)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (INFER, named(MODEL, b"\x12\x011")),
        ("/tensorflow.serving.PredictionService/Predict", b"\x0a\x06" + named(MODEL) + b"\x12\x00"),
    ],
)
async def test_the_model_is_read_from_the_first_message(trust: TrustDomain, path: str, message: bytes) -> None:
    async with grpc_mesh(trust) as mesh:
        assert await mesh.call(lambda client: client.unary(path)(message, timeout=TIMEOUT_S)) == message


async def test_500_calls_at_once_all_pass(trust: TrustDomain) -> None:
    """All of them are with the runtime before one is answered, on more connections than one has streams for."""
    calls, connections = 500, 5
    together = threading.Barrier(calls, timeout=TIMEOUT_S)

    def ask(first: Client) -> list[bytes]:
        clients = [first, *(first.another() for _ in range(connections - 1))]
        pending = [
            clients[number % connections].unary("Say").future(b"%d" % number, metadata=OF_MODEL, timeout=TIMEOUT_S)
            for number in range(calls)
        ]
        return [call.result() for call in pending]

    async with grpc_mesh(trust, slots=calls) as mesh:
        mesh.runtime.methods.before_answer = together.wait
        answers = await mesh.call(ask)
        assert answers == [b"%d" % number for number in range(calls)]


async def test_calls_one_after_the_other_all_pass(trust: TrustDomain) -> None:
    def ask(client: Client) -> None:
        for number in range(300):
            assert client.say(b"%d" % number) == b"%d" % number

    async with grpc_mesh(trust) as mesh:
        await mesh.call(ask)
        assert mesh.runtime.methods.seen["begun"] == 300
