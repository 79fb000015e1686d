"""Deadlines and cancellation as frames have them, seen from the client's side of the connection."""

from __future__ import annotations

import pytest
import trio

from infermesh.net.grpc.server_call import GrpcLimits
from infermesh.testing.grpc_node import NodeShape
from infermesh.testing.waiting import wait_until
from tests.conformance.grpc.calling import raw_grpc
from tests.conformance.http2.frames import Code as H2Code
from tests.conformance.http2.frames import data, rst_stream
from wire.grpc import Code


@pytest.mark.parametrize("value", [b"1H", b"1M", b"99999999S", b"99999m", b"9999999u", b"99999999H"])
async def test_a_call_well_within_its_deadline_is_served(value: bytes) -> None:
    async with raw_grpc() as raw:
        assert (await raw.call(1, "Say", b"hi", (b"grpc-timeout", value))).code == Code.OK


@pytest.mark.parametrize(
    "value", [b"", b"1", b"S", b"123456789S", b"1s", b"-1S", b"+1S", b"1.5S", b"1 S", b"1SS", b"infinite"]
)
async def test_a_deadline_that_cannot_be_read_is_an_error_not_no_deadline(value: bytes) -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Say", b"hi", (b"grpc-timeout", value))
        assert answer.code == Code.INTERNAL
        assert "grpc-timeout" in answer.text
        assert raw.echo.seen["say"] == 0


@pytest.mark.parametrize("value", [b"0n", b"0S", b"1n", b"50m"])
async def test_a_deadline_that_passes_cancels_the_method_and_says_so_in_trailers(value: bytes) -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Wait", b"", (b"grpc-timeout", value))
        assert answer.code == Code.DEADLINE_EXCEEDED
        assert "deadline" in answer.text
        await wait_until(lambda: raw.echo.seen["cancelled"] == raw.echo.seen["begun"], "the method was cancelled")


async def test_a_deadline_counts_from_the_head_not_from_the_message() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Say", (b"grpc-timeout", b"50m")))
        assert (await raw.answer(1)).code == Code.DEADLINE_EXCEEDED
        await raw.stream_error(1, H2Code.NO_ERROR)


async def test_a_deadline_inside_a_stream_ends_it_after_what_was_said() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Chat", (b"grpc-timeout", b"200m")), raw.message(1, b"one"))
        answer = await raw.answer(1)
        assert (answer.code, answer.messages) == (Code.DEADLINE_EXCEEDED, [b"one"])
        await wait_until(lambda: raw.echo.seen["cancelled"], "the method was cancelled")


async def test_a_request_that_never_comes_whole_is_ended_even_without_a_deadline() -> None:
    async with raw_grpc(NodeShape(grpc=GrpcLimits(request_timeout_s=0.05))) as raw:
        await raw.send(raw.head(1), data(1, b"\x00\x00"))
        answer = await raw.answer(1)
    assert answer.code == Code.DEADLINE_EXCEEDED
    assert "no whole request within 0.05 s" in answer.text


@pytest.mark.parametrize("method", ["Wait", "Pour", "Chat"])
@pytest.mark.parametrize("code", [H2Code.CANCEL, H2Code.NO_ERROR, H2Code.INTERNAL_ERROR])
async def test_a_reset_by_the_client_cancels_the_method(method: str, code: H2Code) -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, method), raw.message(1, b"", end=method != "Chat"))
        await wait_until(lambda: raw.echo.seen["begun"], "the method began")
        began = trio.current_time()
        await raw.send(rst_stream(1, code))
        await wait_until(lambda: raw.echo.seen["cancelled"], "the method was cancelled")
        assert trio.current_time() - began < 1.0
        assert raw.node.ended == [(f"/infermesh.testing.Echo/{method}", Code.CANCELLED)]
        assert (await raw.call(3, "Say", b"hi")).code == Code.OK


@pytest.mark.parametrize("method", ["Wait", "Pour", "Chat"])
async def test_a_connection_that_ends_cancels_every_method_on_it(method: str) -> None:
    async with raw_grpc() as raw:
        for stream_id in (1, 3, 5):
            await raw.send(raw.head(stream_id, method), raw.message(stream_id, b"", end=method != "Chat"))
        await wait_until(lambda: raw.echo.seen["begun"] == 3, "all have begun")
        await raw.hang_up()
        await wait_until(lambda: raw.echo.seen["cancelled"] == 3, "all were cancelled")
