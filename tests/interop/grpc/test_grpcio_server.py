"""Our client against grpcio's server: every kind of call, every way to end one, many at once, and while it leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
import trio
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from infermesh.net.grpc.client import Channel, ChannelConfig
from infermesh.net.http2 import EndpointTimes
from infermesh.net.pool import PoolLimits
from infermesh.testing.grpc_echo import CHAT, COUNT, CRASH, FAIL, HUSH, JOIN, POUR, SAY, SQUEEZE, WAIT
from infermesh.testing.reactors import running_reactor
from tests.interop.grpc.grpcio_peer import GrpcioServer, grpcio_server, value
from wire.grpc import Code, Encoding, Metadata, RpcError
from wire.grpc.details import decode_details
from wire.grpc.service import CallOptions, Method

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[GrpcioServer]:
    with grpcio_server() as started:
        yield started


@asynccontextmanager
async def calling(
    server: GrpcioServer, *, limits: PoolLimits | None = None, times: EndpointTimes | None = None
) -> AsyncIterator[Channel]:
    async with running_reactor() as running:
        channel = Channel.to(
            server.address,
            running.reactor,
            running.timers,
            limits=limits or PoolLimits(connections_max=4),
            config=ChannelConfig(message_bytes_max=(16 << 20) + 64),
            times=times,
        )
        try:
            with trio.fail_after(60):
                yield channel
        finally:
            channel.close()


async def test_all_four_kinds_of_call(server: GrpcioServer) -> None:
    async with calling(server) as channel:
        assert (await channel.unary(SAY, value(b"hi"))).value == b"hi"
        async with channel.ask(COUNT, value(b"1000")) as counting:
            assert [each.value async for each in counting] == [b"%d" % number for number in range(1000)]
        async with channel.stream(JOIN) as joining:
            for number in range(100):
                await joining.send(value(b"%d" % number))
            assert (await joining.reply()).value == b"".join(b"%d" % number for number in range(100))
        async with channel.stream(CHAT) as chatting:
            for number in range(50):
                await chatting.send(value(b"%d" % number))
                answer = await chatting.receive()
                assert answer is not None
                assert answer.value == b"%d" % number
            await chatting.finish_sending()
            assert await chatting.receive() is None


async def test_metadata_goes_both_ways_binary_too(server: GrpcioServer) -> None:
    sent = Metadata([("x-a", "1"), ("x-raw-bin", b"\x00\xff\x10")])
    async with calling(server) as channel, channel.ask(SAY, value(b"hi"), CallOptions(metadata=sent)) as call:
        leading = await call.leading()
        assert (leading.text("x-a"), leading.binary("x-raw-bin")) == ("1", b"\x00\xff\x10")
        await call.reply()
        assert call.trailing.text("x-trailing") == "yes"
        assert call.trailing.binary("x-raw-bin") == b"\x00\xff\x10"
    assert server.metadata[-1] == {"x-a": "1", "x-raw-bin": b"\x00\xff\x10"}


@pytest.mark.parametrize("code", list(Code)[1:])
async def test_every_code_arrives_with_its_message_and_details(server: GrpcioServer, code: Code) -> None:
    async with calling(server) as channel:
        with pytest.raises(RpcError) as failed:
            await channel.unary(FAIL, value(bytes([code])))
    assert (failed.value.code, failed.value.message) == (code, "as told: 100 % früh")
    status = decode_details(failed.value.details)
    assert status is not None
    detail = StringValue()
    assert status.details[0].Unpack(detail)
    assert detail.value == "a detail"


async def test_a_defect_and_an_unknown_method(server: GrpcioServer) -> None:
    async with calling(server) as channel:
        with pytest.raises(RpcError) as crashed:
            await channel.unary(CRASH, value(b""))
        assert crashed.value.code is Code.UNKNOWN
        with pytest.raises(RpcError) as unknown:
            await channel.unary(Method("/infermesh.testing.Echo/Nope", BytesValue, BytesValue), value(b""))
        assert unknown.value.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize("encoding", [Encoding.GZIP, Encoding.DEFLATE])
async def test_compression_both_ways(server: GrpcioServer, encoding: Encoding) -> None:
    data = b"tokens " * 10_000
    async with calling(server) as channel:
        assert (await channel.unary(SQUEEZE, value(data), CallOptions(encoding=encoding))).value == data


async def test_messages_of_16_mib_both_ways(server: GrpcioServer) -> None:
    data = bytes(range(256)) * (16 << 12)
    async with calling(server) as channel:
        assert (await channel.unary(SAY, value(data))).value == data
        async with channel.stream(CHAT) as call:
            for _ in range(3):
                await call.send(value(data))
                answer = await call.receive()
                assert answer is not None
                assert answer.value == data


async def test_a_deadline_is_told_to_the_server_and_kept_here(server: GrpcioServer) -> None:
    server.cancelled.clear()
    async with calling(server) as channel:
        await channel.unary(SAY, value(b""), CallOptions(timeout_s=5))
        remaining_s = server.remaining_s[-1]
        assert remaining_s is not None
        assert 4 < remaining_s <= 5
        with pytest.raises(RpcError) as failed:
            await channel.unary(WAIT, value(b""), CallOptions(timeout_s=0.1))
        assert failed.value.code is Code.DEADLINE_EXCEEDED
        assert await trio.to_thread.run_sync(server.cancelled.wait, 1)


@pytest.mark.parametrize("method", [WAIT, POUR])
async def test_a_call_that_is_cancelled_here_is_cancelled_there_within_a_second(
    server: GrpcioServer, method: object
) -> None:
    server.cancelled.clear()
    async with calling(server) as channel:
        if method is WAIT:
            with trio.move_on_after(0.1):
                await channel.unary(WAIT, value(b""))
        else:
            async with channel.ask(POUR, value(b"")) as call:
                await call.receive()
        assert await trio.to_thread.run_sync(server.cancelled.wait, 1)


async def test_an_early_end_while_we_still_speak(server: GrpcioServer) -> None:
    async with calling(server) as channel, channel.stream(HUSH) as call:
        with pytest.raises(RpcError, match="takes no more"):
            while True:
                await call.send(value(bytes(1000)))
        assert await call.receive() is None


async def test_ten_thousand_calls_one_after_the_other(server: GrpcioServer) -> None:
    async with calling(server) as channel:
        for number in range(10_000):
            data = b"%d" % number
            assert (await channel.unary(SAY, value(data))).value == data


async def test_five_hundred_calls_at_once(server: GrpcioServer) -> None:
    done = 0

    async with calling(server) as channel:

        async def one(number: int) -> None:
            nonlocal done
            async with channel.ask(COUNT, value(b"20")) as call:
                assert len([each async for each in call]) == 20
            assert (await channel.unary(SAY, value(b"%d" % number))).value == b"%d" % number
            done += 1

        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(one, number)
    assert done == 500


async def test_no_call_is_lost_while_the_server_leaves_its_connections() -> None:
    """A maximum age makes grpcio send GOAWAY in both steps, again and again."""
    age = (("grpc.max_connection_age_ms", 200), ("grpc.max_connection_age_grace_ms", 5_000))
    with grpcio_server(*age) as server:
        done = 0
        async with calling(server) as channel:

            async def keep_calling(until: float) -> None:
                nonlocal done
                while trio.current_time() < until:
                    data = b"%d" % done
                    assert (await channel.unary(SAY, value(data))).value == data
                    done += 1

            async def keep_talking(until: float) -> None:
                nonlocal done
                while trio.current_time() < until:
                    async with channel.stream(CHAT) as call:
                        for number in range(20):
                            await call.send(value(b"%d" % number))
                        await call.finish_sending()
                        assert len([each async for each in call]) == 20
                    done += 1

            async with trio.open_nursery() as nursery:
                until = trio.current_time() + 3
                for _ in range(8):
                    nursery.start_soon(keep_calling, until)
                    nursery.start_soon(keep_talking, until)
        assert done > 100


async def test_a_quiet_stream_is_kept_alive_by_pings_that_the_server_allows() -> None:
    allow = (("grpc.http2.min_recv_ping_interval_without_data_ms", 100), ("grpc.http2.max_ping_strikes", 0))
    with grpcio_server(*allow) as server:
        times = EndpointTimes(ping_after_s=0.3, ping_timeout_s=1.0)
        async with calling(server, times=times) as channel, channel.stream(CHAT) as call:
            await call.send(value(b"before"))
            assert await call.receive() is not None
            await trio.sleep(1.5)
            await call.send(value(b"after"))
            assert await call.receive() is not None


async def test_a_server_that_stops_fails_what_it_had_as_unavailable_or_cancelled() -> None:
    with grpcio_server() as server:
        async with calling(server) as channel:
            failures: list[Code] = []

            async def wait() -> None:
                with pytest.raises(RpcError) as failed:
                    await channel.unary(WAIT, value(b""))
                failures.append(failed.value.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.sleep(0.2)
                stopping: grpc.Server = server.server
                await trio.to_thread.run_sync(stopping.stop, 0)
        assert failures[0] in (Code.UNAVAILABLE, Code.CANCELLED)
