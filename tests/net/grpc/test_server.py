"""Services behind a port: what a method is given, and what its every end is to the client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio
import trio.testing
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import DESCRIPTOR, BytesValue, StringValue

from infermesh.core.model.names import NodeId
from infermesh.core.trust import PeerIdentity
from infermesh.net.grpc.client import ChannelConfig
from infermesh.net.grpc.server import GrpcPort, GrpcServices
from infermesh.net.grpc.server_call import GrpcLimits
from infermesh.testing.grpc_echo import CHAT, COUNT, FAIL, JOIN, SAY, EchoService
from infermesh.testing.grpc_node import NodeShape
from infermesh.testing.recorded_log import RecordedLog
from infermesh.testing.waiting import wait_until
from tests.net.grpc.asking import pair, value
from wire.grpc import Code, Encoding, Metadata, RpcError
from wire.grpc.details import decode_details
from wire.grpc.service import (
    AnyRoute,
    CallOptions,
    Method,
    Peer,
    Receiver,
    Sender,
    ServerContext,
    StreamStream,
    UnaryStream,
    UnaryUnary,
)

ONE: Final = Method("/test.One/Do", BytesValue, BytesValue)
MANY: Final = Method("/test.One/Pour", BytesValue, BytesValue, server_streaming=True)

TALK: Final = Method("/test.One/Talk", BytesValue, BytesValue, client_streaming=True, server_streaming=True)

Do = Callable[[BytesValue, ServerContext], Awaitable[BytesValue] | BytesValue]
Pour = Callable[[BytesValue, Sender[BytesValue], ServerContext], Awaitable[None]]
Talk = Callable[[Receiver[BytesValue], Sender[BytesValue], ServerContext], Awaitable[None]]


class One:
    """A service of one method, or some, made of functions."""

    name: Final = "test.One"
    file: Final[FileDescriptor] = DESCRIPTOR

    def __init__(self, do: Do | None = None, pour: Pour | None = None, talk: Talk | None = None) -> None:
        self._do = do
        self._pour = pour
        self._talk = talk

    def routes(self) -> tuple[AnyRoute, ...]:
        routes: list[AnyRoute] = []
        if self._do is not None:
            routes.append(UnaryUnary(ONE, self._do))
        if self._pour is not None:
            routes.append(UnaryStream(MANY, self._pour))
        if self._talk is not None:
            routes.append(StreamStream(TALK, self._talk))
        return tuple(routes)


async def failing(do: Do, options: CallOptions | None = None) -> RpcError:
    async with pair(only=[One(do)]) as both:
        with pytest.raises(RpcError) as failed:
            await both.channel.unary(ONE, value(b""), options or CallOptions())
    return failed.value


async def test_all_four_kinds_of_call_are_served() -> None:
    async with pair() as both:
        channel = both.channel
        assert (await channel.unary(SAY, value(b"hi"))).value == b"hi"
        async with channel.ask(COUNT, value(b"3")) as counting:
            assert [message.value async for message in counting] == [b"0", b"1", b"2"]
        async with channel.stream(JOIN) as joining:
            for part in (b"a", b"b", b"c"):
                await joining.send(value(part))
            assert (await joining.reply()).value == b"abc"
        async with channel.stream(CHAT) as chatting:
            for part in (b"x", b"y"):
                await chatting.send(value(part))
                answer = await chatting.receive()
                assert answer is not None
                assert answer.value == part
            await chatting.finish_sending()
            assert await chatting.receive() is None
    assert [code for _, code in both.node.ended] == [Code.OK] * 4


async def test_a_method_that_waits_for_nothing_may_be_plain_and_needs_no_task() -> None:
    seen: list[trio.lowlevel.Task] = []

    def do(request: BytesValue, context: ServerContext) -> BytesValue:
        seen.append(trio.lowlevel.current_task())
        context.set_trailing([("x-a", "1")])
        return value(request.value * 2)

    async with pair(only=[One(do)]) as both, both.channel.ask(ONE, value(b"hi")) as call:
        assert (await call.reply()).value == b"hihi"
        assert call.trailing.text("x-a") == "1"
    assert "Reactor.run" in seen[0].name


async def test_a_plain_method_ends_as_any_other() -> None:
    def refuse(request: BytesValue, context: ServerContext) -> BytesValue:
        context.abort(Code.ABORTED, "not now")

    def crash(request: BytesValue, context: ServerContext) -> BytesValue:
        raise ZeroDivisionError

    assert (await failing(refuse)).code is Code.ABORTED
    assert (await failing(crash)).code is Code.UNKNOWN


async def test_a_method_knows_its_path_its_deadline_and_its_metadata() -> None:
    seen: list[ServerContext] = []
    left: list[float] = []

    async def do(request: BytesValue, context: ServerContext) -> BytesValue:
        seen.append(context)
        left.append(context.deadline - trio.current_time())
        return request

    async with pair(only=[One(do)]) as both:
        options = CallOptions(timeout_s=5, metadata=Metadata([("x-a", "1"), ("x-b-bin", b"\xff")]))
        await both.channel.unary(ONE, value(b""), options)
        await both.channel.unary(ONE, value(b""))
    (context, _) = seen
    assert context.path == "/test.One/Do"
    assert context.peer is None
    assert context.metadata.text("x-a") == "1"
    assert context.metadata.binary("x-b-bin") == b"\xff"
    assert 4 < left[0] <= 5
    assert left[1] > 1e300


async def test_a_method_may_abort_with_details_also_from_a_nursery_of_its_own() -> None:
    async def do(request: BytesValue, context: ServerContext) -> BytesValue:
        async def inner() -> None:
            async with trio.open_nursery():
                context.abort(Code.NOT_FOUND, "no such model", [StringValue(value="llama")])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(inner)
        return request

    error = await failing(do)
    assert (error.code, error.message) == (Code.NOT_FOUND, "no such model")
    details = decode_details(error.details)
    assert details is not None
    assert len(details.details) == 1


@pytest.mark.parametrize("whole_connection", [False, True])
async def test_a_method_whose_nursery_receives_ends_quietly_when_its_client_goes(*, whole_connection: bool) -> None:
    """One of its tasks is cancelled and another, awake already, is told by `receive` that the call is over."""
    ended: list[BaseException] = []

    async def talk(requests: Receiver[BytesValue], responses: Sender[BytesValue], context: ServerContext) -> None:
        async def receive() -> None:
            async for _ in requests:
                pass

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await responses.send(value(b"begun"))
                await trio.sleep_forever()
        except BaseException as error:
            ended.append(error)
            raise

    async with pair(only=[One(talk=talk)]) as both:
        async with both.channel.stream(TALK) as call:
            await call.receive()
            [connection] = both.node.connections
            await call.send(value(b"last words"))  # They wake the receiver in the turn of the end, which follows them.
            if whole_connection:
                both.channel.close()
        await wait_until(lambda: ended, "the method has ended")
        await trio.testing.wait_all_tasks_blocked()
        assert [name for name, _ in both.node.log.events] == []
        assert (connection in both.node.connections) is not whole_connection


async def test_two_errors_at_once_are_a_defect_and_not_the_first_of_them() -> None:
    async def do(request: BytesValue, context: ServerContext) -> BytesValue:
        raise ExceptionGroup("two", [RpcError(Code.NOT_FOUND), ZeroDivisionError()])

    assert (await failing(do)).code is Code.UNKNOWN


async def test_an_error_may_carry_trailing_metadata() -> None:
    async def do(request: BytesValue, context: ServerContext) -> BytesValue:
        context.set_trailing([("x-a", "1")])
        raise RpcError(Code.ABORTED, "again", metadata=Metadata([("x-b", "2")]))

    assert (await failing(do)).metadata == Metadata([("x-a", "1"), ("x-b", "2")])


@pytest.mark.parametrize("answer", [StringValue(value="other"), None])
async def test_an_answer_of_the_wrong_type_is_a_defect_of_the_method(answer: Message | None) -> None:
    async def do(request: BytesValue, context: ServerContext) -> BytesValue:
        return answer  # type: ignore[return-value]

    async with pair(only=[One(do)]) as both:
        with pytest.raises(RpcError) as failed:
            await both.channel.unary(ONE, value(b""))
    assert failed.value.code is Code.UNKNOWN
    assert both.node.log.names() == ["grpc_method_crashed"]


async def test_metadata_that_cannot_be_sent_is_found_where_it_is_set() -> None:
    async def do(request: BytesValue, context: ServerContext) -> BytesValue:
        context.set_trailing([("Bad Name", "1")])
        raise AssertionError("unreachable")

    assert (await failing(do)).code is Code.UNKNOWN


async def test_a_stream_that_fails_after_messages_gives_them_first() -> None:
    async def pour(request: BytesValue, responses: Sender[BytesValue], context: ServerContext) -> None:
        await responses.send(value(b"1"))
        context.abort(Code.DATA_LOSS, "the rest is gone")

    async with pair(only=[One(pour=pour)]) as both, both.channel.ask(MANY, value(b"")) as call:
        first = await call.receive()
        assert first is not None
        with pytest.raises(RpcError, match="the rest is gone"):
            await call.receive()


async def test_a_method_that_sends_after_its_client_has_gone_is_stopped() -> None:
    stopped = trio.Event()

    async def pour(request: BytesValue, responses: Sender[BytesValue], context: ServerContext) -> None:
        try:
            while True:
                with trio.CancelScope(shield=True):  # The worst that a method can do.
                    await responses.send(value(bytes(1024)))
        except RpcError as error:
            assert error.code is Code.CANCELLED
            stopped.set()

    async with pair(only=[One(pour=pour)]) as both:
        async with both.channel.ask(MANY, value(b"")) as call:
            await call.receive()
        await stopped.wait()


async def test_a_slow_reader_holds_up_its_own_stream_and_nothing_else() -> None:
    sent = 0

    async def pour(request: BytesValue, responses: Sender[BytesValue], context: ServerContext) -> None:
        nonlocal sent
        while True:
            await responses.send(value(bytes(16_384)))
            sent += 16_384

    async with pair(One(pour=pour)) as both, both.channel.ask(MANY, value(b"")) as call:
        await call.receive()
        before = -1
        while sent != before:
            before = sent
            for _ in range(50):
                await both.channel.unary(SAY, value(b"hi"))
        assert sent < 2 << 20, "windows and queues bound what is sent ahead"
        for _ in range(100):
            await call.receive()
        assert sent > before


async def test_a_client_that_sends_ahead_is_slowed_by_a_method_that_does_not_read() -> None:
    go = trio.Event()
    got = 0

    async def chat(requests: object, responses: Sender[BytesValue], context: ServerContext) -> None:
        nonlocal got
        await go.wait()
        async for message in requests:  # type: ignore[attr-defined]
            got += len(message.value)

    class Slow(EchoService):
        def routes(self) -> tuple[AnyRoute, ...]:
            return (StreamStream(CHAT, chat),)

    sent = 0
    async with pair(only=[Slow()]) as both, both.channel.stream(CHAT) as call:
        with trio.move_on_after(0.3) as waiting:
            while True:
                await call.send(value(bytes(16_384)))
                sent += 16_384
        assert waiting.cancelled_caught
        assert sent < 4 << 20
        go.set()
        await call.finish_sending()
        assert await call.receive() is None
        # The message whose sending was cancelled had gone into the queue already.
        assert got - sent in (0, 16_384)


async def test_whom_the_connection_proved_to_be_there_is_told_to_the_method() -> None:
    identity = PeerIdentity(NodeId("gpu-a"), "example.mesh")
    seen: list[Peer | None] = []

    async def do(request: BytesValue, context: ServerContext) -> BytesValue:
        seen.append(context.peer)
        return request

    async with pair(only=[One(do)], shape=NodeShape(peer_of=lambda stream: identity)) as both:
        await both.channel.unary(ONE, value(b""))
    assert seen == [identity]


def test_a_path_that_two_services_claim_is_a_mistake_of_the_assembly() -> None:
    with pytest.raises(ValueError, match="served twice"):
        GrpcServices([EchoService(), EchoService()], RecordedLog())


def test_services_know_their_paths() -> None:
    services = GrpcServices([EchoService()], RecordedLog())
    assert b"/infermesh.testing.Echo/Say" in services.paths
    assert services.names == ("infermesh.testing.Echo",)
    assert GrpcPort(services) is not None


async def test_answers_are_compressed_where_the_method_says_so() -> None:
    async def do(request: BytesValue, context: ServerContext) -> BytesValue:
        context.set_encoding(Encoding.GZIP)
        return value(b"z" * 10_000)

    async with pair(only=[One(do)]) as both:
        assert (await both.channel.unary(ONE, value(b""))).value == b"z" * 10_000
        assert both.node.connections[0].bytes_out < 1_000


@pytest.mark.slow
async def test_messages_of_16_mib_go_both_ways() -> None:
    size = 16 << 20
    shape = NodeShape(grpc=GrpcLimits(message_bytes_max=size + 16))
    async with pair(shape=shape, config=ChannelConfig(message_bytes_max=size + 16)) as both:
        big = bytes(size)
        assert (await both.channel.unary(SAY, value(big))).value == big


async def test_every_code_comes_back_as_itself() -> None:
    async with pair() as both:
        for code in list(Code)[1:]:
            with pytest.raises(RpcError) as failed:
                await both.channel.unary(FAIL, value(bytes([code])))
            assert failed.value.code is code
            assert failed.value.metadata.text("x-why") == "told to"
