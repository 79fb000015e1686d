"""How calls end: trailers, errors before the client has finished, defects, the end of the connection."""

from __future__ import annotations

import base64
import struct

import pytest
from google.rpc.status_pb2 import Status

from infermesh.testing.waiting import wait_until
from tests.conformance.grpc.calling import raw_grpc
from tests.conformance.http2.frames import Code as H2Code
from tests.conformance.http2.frames import Kind, ping
from wire.grpc import Code
from wire.limits import HTTP2_PINGS_MAX


@pytest.mark.parametrize("code", list(Code)[1:])
async def test_every_code_goes_out_as_its_number_with_message_and_details(code: Code) -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Fail", bytes([code]))
    assert answer.code == code
    assert answer.trailers_only
    assert answer.ending[b"grpc-message"] == b"as told: 100 %25 fr%C3%BCh"
    assert answer.ending[b"x-why"] == b"told to"
    encoded = answer.ending[b"grpc-status-details-bin"]
    assert not encoded.endswith(b"=")
    details = Status.FromString(base64.b64decode(encoded + b"=" * (-len(encoded) % 4)))
    assert (details.code, details.message) == (code, "as told: 100 % früh")
    assert details.details[0].type_url == "type.googleapis.com/google.protobuf.StringValue"


async def test_a_stream_ends_in_trailers_after_its_last_message() -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Count", b"5")
    assert answer.messages == [b"0", b"1", b"2", b"3", b"4"]
    assert answer.code == Code.OK


async def test_a_stream_of_no_messages_is_one_block() -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Count", b"0")
    assert answer.code == Code.OK
    assert answer.trailers_only


async def test_an_answer_before_the_client_has_finished_is_followed_by_a_reset_without_error() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Hush"), raw.message(1, b"still talking"))
        assert (await raw.answer(1)).code == Code.OK
        await raw.stream_error(1, H2Code.NO_ERROR)
        await raw.send(raw.message(1, b"on its way"))
        assert (await raw.call(3, "Say", b"hi")).code == Code.OK


async def test_a_defect_is_unknown_and_tells_the_client_nothing_of_it() -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Crash", b"")
        assert answer.code == Code.UNKNOWN
        assert "ZeroDivisionError" not in answer.text
        assert "grpc_method_crashed" in answer.text
        assert raw.node.log.fields_of("grpc_method_crashed")[0]["path"] == "/infermesh.testing.Echo/Crash"
        assert (await raw.call(3, "Say", b"hi")).code == Code.OK


async def test_a_server_that_winds_down_finishes_what_it_has_and_says_where_it_stopped() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Chat"), raw.message(1, b"before"))
        await raw.until(lambda each: each.kind == Kind.DATA)
        raw.node.connections[0].wind_down()
        (*_, first) = await raw.until(lambda each: each.kind == Kind.GOAWAY)
        assert (first.last_stream_id, first.code) == (2**31 - 1, H2Code.NO_ERROR)
        # A call that was on its way when we said so is served: that is what the first of the two is for.
        assert (await raw.call(3, "Say", b"crossed it")).messages == [b"crossed it"]
        await raw.send(raw.message(1, b"after", end=True))
        assert (await raw.answer(1)).messages == [b"before", b"after"]


async def test_a_call_that_ends_is_told_to_metrics_once_with_its_code() -> None:
    async with raw_grpc() as raw:
        await raw.call(1, "Say", b"hi")
        await raw.call(3, "Fail", b"\x05")
        await wait_until(lambda: len(raw.node.ended) == 2, "both ended")
        assert [code for _, code in raw.node.ended] == [Code.OK, Code.NOT_FOUND]


async def test_a_client_that_pings_too_often_is_told_in_the_words_that_grpc_clients_heed() -> None:
    async with raw_grpc() as raw:
        await raw.send(*(ping(struct.pack(">Q", number)) for number in range(HTTP2_PINGS_MAX + 1)))
        (*_, last) = await raw.until(lambda each: each.kind == Kind.GOAWAY)
    assert last.code == H2Code.ENHANCE_YOUR_CALM
    assert last.payload[8:] == b"too_many_pings"
