"""The channel: connecting, deadlines, readiness, and that nothing of a call is left behind."""

from __future__ import annotations

import math

import pytest
import trio

from infermesh.net.grpc.client import Channel
from infermesh.net.listener import listen
from infermesh.net.pool import PoolLimits
from infermesh.testing.grpc_echo import CHAT, COUNT, SAY, WAIT, EchoService
from infermesh.testing.grpc_node import grpc_node
from infermesh.testing.reactors import running_reactor
from infermesh.testing.waiting import wait_until
from tests.net.grpc.asking import pair, value
from wire.errors import LocalProtocolError
from wire.grpc import Code, Metadata, RpcError
from wire.grpc.service import CallOptions


def free_port() -> tuple[str, int]:
    """An address where nobody listens."""
    with listen("127.0.0.1", 0) as sock:
        host, port = sock.getsockname()[:2]
        return str(host), int(port)


async def test_nobody_listening_is_unavailable_at_once_and_was_not_processed() -> None:
    async with running_reactor() as running:
        channel = Channel.to(free_port(), running.reactor, running.timers)
        with pytest.raises(RpcError, match=r"cannot connect to 127\.0\.0\.1") as failed:
            await channel.unary(SAY, value(b"hi"))
        assert (failed.value.code, failed.value.unprocessed) == (Code.UNAVAILABLE, True)
        channel.close()


async def test_who_waits_for_ready_is_served_once_somebody_listens() -> None:
    async with running_reactor() as running, trio.open_nursery() as nursery:
        address = free_port()
        channel = Channel.to(address, running.reactor, running.timers)
        answers: list[bytes] = []

        async def ask() -> None:
            options = CallOptions(timeout_s=10, wait_for_ready=True)
            answers.append((await channel.unary(SAY, value(b"at last"), options)).value)
            channel.close()
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask)
        await trio.sleep(0.05)
        async with grpc_node([EchoService()], at=address):
            await wait_until(lambda: answers, "the call was answered")
    assert answers == [b"at last"]


async def test_who_waits_for_ready_waits_until_the_deadline_and_no_longer() -> None:
    async with running_reactor() as running:
        channel = Channel.to(free_port(), running.reactor, running.timers)
        began = trio.current_time()
        with pytest.raises(RpcError) as failed:
            await channel.unary(SAY, value(b"hi"), CallOptions(timeout_s=0.2, wait_for_ready=True))
        assert failed.value.code is Code.DEADLINE_EXCEEDED
        assert 0.15 < trio.current_time() - began < 2
        channel.close()


async def test_a_closed_channel_fails_what_is_under_way_and_what_follows() -> None:
    async with pair() as both, trio.open_nursery() as nursery:
        failures: list[Code] = []

        async def wait() -> None:
            with pytest.raises(RpcError) as failed:
                await both.channel.unary(WAIT, value(b""))
            failures.append(failed.value.code)

        nursery.start_soon(wait)
        await wait_until(lambda: both.echo.seen["begun"], "the call began")
        both.channel.close()
        await wait_until(lambda: failures, "the call failed")
        with pytest.raises(RpcError, match="closed"):
            await both.channel.unary(SAY, value(b"hi"))
        assert failures == [Code.UNAVAILABLE]
        await wait_until(lambda: both.echo.seen["cancelled"], "the method was cancelled")


async def test_a_deadline_reaches_the_method_and_cancels_it_on_both_sides() -> None:
    async with pair() as both:
        with pytest.raises(RpcError) as failed:
            await both.channel.unary(WAIT, value(b""), CallOptions(timeout_s=0.05))
        assert failed.value.code is Code.DEADLINE_EXCEEDED
        await wait_until(lambda: both.echo.seen["cancelled"], "the method was cancelled")


async def test_a_deadline_ends_whoever_waits_to_send_or_for_metadata() -> None:
    async with pair() as both, both.channel.stream(CHAT, CallOptions(timeout_s=0.1)) as call:
        # No answer is read: sooner or later sending waits for the peer.
        with pytest.raises(RpcError) as failed:
            while True:
                await call.send(value(bytes(16_384)))
        assert failed.value.code is Code.DEADLINE_EXCEEDED
        with pytest.raises(RpcError):
            await call.receive()


async def test_cancelling_a_stream_on_one_side_cancels_its_method_on_the_other_within_a_second() -> None:
    async with pair() as both:
        async with both.channel.stream(CHAT) as call:
            await call.send(value(b"hi"))
            await call.receive()
        began = trio.current_time()
        await wait_until(lambda: both.echo.seen["cancelled"], "the method was cancelled")
        assert trio.current_time() - began < 1


async def test_metadata_that_cannot_be_sent_is_the_callers_mistake_and_leaves_the_channel_usable() -> None:
    async with pair() as both:
        with pytest.raises(LocalProtocolError, match="reserved"):
            await both.channel.unary(SAY, value(b""), CallOptions(metadata=Metadata([("grpc-status", "0")])))
        assert (await both.channel.unary(SAY, value(b"hi"))).value == b"hi"


async def test_leading_and_trailing_metadata_are_told() -> None:
    async with (
        pair() as both,
        both.channel.ask(SAY, value(b"hi"), CallOptions(metadata=Metadata([("x-a", "1")]))) as call,
    ):
        assert (await call.leading()).text("x-a") == "1"
        assert (await call.reply()).value == b"hi"
        assert call.trailing.text("x-trailing") == "yes"
        assert call.status is not None
        assert call.status.code is Code.OK


@pytest.mark.slow
async def test_streams_beyond_what_a_connection_allows_open_others_and_then_wait() -> None:
    async with pair() as both, trio.open_nursery() as nursery:
        limits = PoolLimits(connections_max=2)
        channel = Channel.to(both.node.address, both.node.running.reactor, both.node.running.timers, limits=limits)
        done = 0

        async def one() -> None:
            nonlocal done
            async with channel.ask(COUNT, value(b"50")) as call:
                assert len([message async for message in call]) == 50
            done += 1

        for _ in range(400):
            nursery.start_soon(one)
        await wait_until(lambda: done == 400, lambda: f"{done} of 400 done", within_s=15)
        assert len(both.node.connections) <= 2
        channel.close()


async def test_a_call_without_a_deadline_leaves_no_timer_and_a_call_with_one_neither() -> None:
    async with pair() as both:
        await both.channel.unary(SAY, value(b"hi"))
        await both.channel.unary(SAY, value(b"hi"), CallOptions(timeout_s=100))
        async with both.channel.stream(CHAT, CallOptions(timeout_s=100)) as call:
            assert call.deadline < math.inf
        assert call.deadline == math.inf
        assert call.timer is None


@pytest.mark.slow
async def test_a_server_that_winds_down_loses_no_call() -> None:
    async with pair() as both, trio.open_nursery() as nursery:
        done = 0

        async def caller() -> None:
            nonlocal done
            for number in range(100):
                data = b"%d" % number
                assert (await both.channel.unary(SAY, value(data))).value == data
                done += 1

        for _ in range(20):
            nursery.start_soon(caller)
        for goal in (200, 600, 1_000, 1_400):
            await wait_until(lambda goal=goal: done >= goal, "calls are under way")  # type: ignore[misc]
            for connection in list(both.node.connections):
                connection.wind_down()
        await wait_until(lambda: done == 2_000, lambda: f"{done} of 2000 done", within_s=15)
    assert {code for _, code in both.node.ended} == {Code.OK}
