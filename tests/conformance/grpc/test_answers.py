"""What our client makes of a server's answers, good and bad, and what its requests look like."""

from __future__ import annotations

import base64
import gzip

import pytest
import trio
from google.protobuf.wrappers_pb2 import BytesValue

from infermesh.net.grpc.client import ChannelConfig
from infermesh.testing.grpc_echo import CHAT, COUNT, SAY
from infermesh.testing.waiting import wait_until
from tests.conformance.grpc.answering import HEAD, OK, Asked, calling
from tests.conformance.grpc.calling import framed, packed
from tests.conformance.http2.frames import goaway
from wire.grpc import Code, Metadata, RpcError
from wire.grpc.details import encode_details
from wire.grpc.encoding import Encoding
from wire.grpc.service import CallOptions
from wire.grpc.timeout import parse_timeout


async def test_a_request_has_what_the_protocol_asks_for() -> None:
    async def script(asked: Asked) -> None:
        await asked.answer()

    async with calling(script) as call:
        options = CallOptions(
            timeout_s=5.0, metadata=Metadata([("x-a", "1"), ("x-b-bin", b"\x00\x01")]), encoding=Encoding.GZIP
        )
        assert (await call.channel.unary(SAY, BytesValue(value=b"z" * 500), options)).value == b"fine"
        (stream,) = call.asked
    headers = stream.headers
    assert headers[":method"] == "POST"
    assert headers[":path"] == "/infermesh.testing.Echo/Say"
    assert headers[":scheme"] == "http"
    assert headers["te"] == "trailers"
    assert headers["content-type"] == "application/grpc"
    assert headers["grpc-encoding"] == "gzip"
    assert headers["x-b-bin"] == "AAE"
    assert 4.0 < parse_timeout(headers["grpc-timeout"].encode()) <= 5.0
    assert stream.body[0] == 1
    assert gzip.decompress(bytes(stream.body[5:])) == packed(b"z" * 500)


async def test_no_deadline_sends_no_timeout_and_a_channel_may_have_its_own() -> None:
    async def script(asked: Asked) -> None:
        await asked.answer()

    async with calling(script) as call:
        await call.say()
        assert "grpc-timeout" not in call.asked[0].headers
    async with calling(script, config=ChannelConfig(timeout_s=3.0)) as call:
        await call.say()
        assert parse_timeout(call.asked[0].headers["grpc-timeout"].encode()) <= 3.0


@pytest.mark.parametrize("code", list(Code)[1:])
async def test_a_response_of_one_block_gives_its_code_message_details_and_metadata(code: Code) -> None:
    details = encode_details(code, "früh 100 %", [])

    async def script(asked: Asked) -> None:
        encoded = base64.b64encode(details).decode()
        ending = [("grpc-status", str(int(code))), ("grpc-message", "fr%C3%BCh 100 %25"), ("x-a", "1")]
        await asked.end([*HEAD, *ending, ("grpc-status-details-bin", encoded)])

    async with calling(script) as call:
        error = await call.failure()
    assert (error.code, error.message, error.details) == (code, "früh 100 %", details)
    assert error.metadata == Metadata([("x-a", "1")])
    assert not error.unprocessed


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (500, 2), (502, 14), (503, 14), (504, 14), (302, 2)],
)
@pytest.mark.parametrize("with_body", [False, True])
async def test_an_answer_in_http_has_the_code_of_its_status(status: int, code: int, with_body: bool) -> None:
    async def script(asked: Asked) -> None:
        headers = [(":status", str(status)), ("content-type", "text/html")]
        await asked.peer.send_headers(asked.stream.stream_id, headers, end=not with_body)
        if with_body:
            await asked.body(b"<html>", end=True)

    async with calling(script) as call:
        error = await call.failure()
    assert error.code == code
    assert f"HTTP status {status}" in error.message


async def test_a_grpc_status_counts_more_than_the_http_status_beside_it() -> None:
    async def script(asked: Asked) -> None:
        await asked.end([(":status", "503"), ("content-type", "application/grpc"), ("grpc-status", "3")])

    async with calling(script) as call:
        assert (await call.failure()).code is Code.INVALID_ARGUMENT


async def test_an_answer_of_another_type_is_unknown() -> None:
    async def script(asked: Asked) -> None:
        await asked.peer.send_headers(
            asked.stream.stream_id, [(":status", "200"), ("content-type", "application/json")]
        )
        await asked.body(b"{}", end=True)

    async with calling(script) as call:
        error = await call.failure()
    assert error.code is Code.UNKNOWN
    assert "application/json" in error.message


@pytest.mark.parametrize("value", ["17", "-1", "00", "x", "4294967296"])
async def test_a_status_out_of_range_is_unknown(value: str) -> None:
    async def script(asked: Asked) -> None:
        await asked.head()
        await asked.end([("grpc-status", value)])

    async with calling(script) as call:
        error = await call.failure()
    assert error.code is Code.UNKNOWN
    assert repr(value) in error.message


@pytest.mark.parametrize("ending", ["trailers", "data"])
async def test_an_end_without_a_status_is_unknown_however_well_it_began(ending: str) -> None:
    async def script(asked: Asked) -> None:
        await asked.head()
        if ending == "data":
            await asked.body(framed(packed(b"fine")), end=True)
        else:
            await asked.message(b"fine")
            await asked.end([("x-a", "1")])

    async with calling(script) as call:
        error = await call.failure()
    assert error.code is Code.UNKNOWN
    assert "without grpc-status" in error.message


async def test_details_that_disagree_with_the_status_are_dropped() -> None:
    async def script(asked: Asked) -> None:
        encoded = base64.b64encode(encode_details(Code.OK, "", [])).decode()
        await asked.end([*HEAD, ("grpc-status", "5"), ("grpc-status-details-bin", encoded)])

    async with calling(script) as call:
        error = await call.failure()
    assert (error.code, error.details) == (Code.NOT_FOUND, None)


async def test_interim_answers_are_passed_over() -> None:
    async def script(asked: Asked) -> None:
        await asked.peer.send_headers(asked.stream.stream_id, [(":status", "103"), ("link", "x")])
        await asked.answer()

    async with calling(script) as call:
        assert await call.say() == b"fine"


# --- messages ---


async def test_a_message_may_come_byte_by_byte() -> None:
    async def script(asked: Asked) -> None:
        await asked.head()
        for byte in framed(packed(b"slowly")):
            await asked.body(bytes([byte]))
        await asked.end(OK)

    async with calling(script) as call:
        assert await call.say() == b"slowly"


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"", Code.INTERNAL, "without its message"),
        (framed(packed(b"1")) + framed(packed(b"2")), Code.INTERNAL, "second message"),
        (framed(packed(b"cut"))[:-1], Code.INTERNAL, "ended inside"),
        (b"\x00\x00", Code.INTERNAL, "ended inside"),
        (framed(packed(b"x"), 2), Code.INTERNAL, "flag 0x02"),
        (framed(gzip.compress(b""), 1), Code.INTERNAL, "names no compression"),
        (b"\x00\xff\xff\xff\xff", Code.RESOURCE_EXHAUSTED, "4294967295 bytes announced"),
        (framed(b"\xff\xff"), Code.INTERNAL, "no google.protobuf.BytesValue"),
    ],
)
async def test_a_broken_message_is_told_though_the_status_says_ok(body: bytes, code: Code, says: str) -> None:
    async def script(asked: Asked) -> None:
        await asked.head()
        if body:
            await asked.body(body)
        if asked.peer.of(asked.stream.stream_id).reset is None:
            await asked.end(OK)

    async with calling(script) as call:
        error = await call.failure()
        assert (error.code, says in error.message) == (code, True), error.message


async def test_a_message_that_inflates_past_the_limit_is_refused() -> None:
    async def script(asked: Asked) -> None:
        await asked.head(("grpc-encoding", "gzip"))
        await asked.body(framed(gzip.compress(bytes(1_000)), 1))
        await asked.end(OK)

    async with calling(script, config=ChannelConfig(message_bytes_max=999)) as call:
        error = await call.failure()
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert "inflates" in error.message


async def test_a_compressed_answer_is_read() -> None:
    async def script(asked: Asked) -> None:
        await asked.head(("grpc-encoding", "gzip"))
        await asked.body(framed(gzip.compress(packed(b"squeezed")), 1))
        await asked.end(OK)

    async with calling(script) as call:
        assert await call.say() == b"squeezed"


async def test_an_answer_in_an_unknown_encoding_is_internal() -> None:
    async def script(asked: Asked) -> None:
        await asked.head(("grpc-encoding", "br"))
        await asked.peer.read()

    async with calling(script) as call:
        error = await call.failure()
        assert error.code is Code.INTERNAL
        await wait_until(lambda: call.asked[0].reset == 8, "the stream was reset with CANCEL")


async def test_an_error_after_messages_is_told_after_them() -> None:
    async def script(asked: Asked) -> None:
        await asked.head(("x-lead", "1"))
        await asked.message(b"1")
        await asked.message(b"2")
        await asked.end([("grpc-status", "8"), ("x-trail", "2")])

    async with calling(script) as call, call.channel.ask(COUNT, BytesValue()) as stream:
        assert await stream.leading() == Metadata([("x-lead", "1")])
        got = [await stream.receive(), await stream.receive()]
        assert [message.value for message in got if message is not None] == [b"1", b"2"]
        with pytest.raises(RpcError) as failed:
            await stream.receive()
        assert failed.value.code is Code.RESOURCE_EXHAUSTED
        assert stream.trailing == Metadata([("x-trail", "2")])


# --- resets, deadlines, cancellation ---


@pytest.mark.parametrize(
    ("reset", "code"),
    [(0, 13), (1, 13), (2, 13), (3, 13), (4, 13), (6, 13), (8, 1), (9, 13), (10, 13), (11, 8), (12, 7), (99, 13)],
)
@pytest.mark.parametrize("after_head", [False, True])
async def test_a_reset_has_the_code_that_the_protocol_gives_it(reset: int, code: int, after_head: bool) -> None:
    async def script(asked: Asked) -> None:
        if after_head:
            await asked.head()
        await asked.reset(reset)

    async with calling(script) as call:
        error = await call.failure()
    assert error.code == code
    assert "reset by the peer" in error.message
    assert not error.unprocessed


async def test_a_deadline_ends_the_call_here_and_resets_it_there() -> None:
    async def script(asked: Asked) -> None:
        """Says nothing."""

    async with calling(script) as call:
        error = await call.failure(timeout_s=0.05)
        assert error.code is Code.DEADLINE_EXCEEDED
        assert "0.05 s" in error.message
        await wait_until(lambda: call.asked[0].reset == 8, "the stream was reset with CANCEL")


async def test_a_deadline_that_has_passed_sends_nothing() -> None:
    async def script(asked: Asked) -> None:
        await asked.answer()

    async with calling(script) as call:
        assert (await call.failure(timeout_s=0.0)).code is Code.DEADLINE_EXCEEDED
        assert await call.say() == b"fine"
        assert (await call.failure(timeout_s=-1.0)).code is Code.DEADLINE_EXCEEDED
        assert len(call.asked) == 1


async def test_a_call_whose_task_is_cancelled_is_reset() -> None:
    async def script(asked: Asked) -> None:
        """Says nothing."""

    async with calling(script) as call, trio.open_nursery() as nursery:
        nursery.start_soon(call.say)
        await wait_until(lambda: call.asked, "the call arrived")
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_until(lambda: call.asked[0].reset == 8, "the stream was reset with CANCEL")


async def test_leaving_a_stream_resets_it_and_a_cancelled_one_says_so() -> None:
    async def script(asked: Asked) -> None:
        await asked.head()

    async with calling(script, whole=False) as call:
        async with call.channel.stream(CHAT) as stream:
            await stream.leading()
        await wait_until(lambda: call.asked[0].reset == 8, "the stream was reset with CANCEL")
        async with call.channel.stream(CHAT) as stream:
            stream.cancel()
            with pytest.raises(RpcError) as failed:
                await stream.receive()
            assert failed.value.code is Code.CANCELLED
            with pytest.raises(RpcError):
                await stream.send(BytesValue())


async def test_a_broken_connection_is_unavailable_and_may_have_been_processed() -> None:
    async def script(asked: Asked) -> None:
        await trio.aclose_forcefully(asked.peer.stream)
        asked.peer.over = True

    async with calling(script) as call:
        error = await call.failure()
    assert error.code is Code.UNAVAILABLE
    assert not error.unprocessed


# --- what was not processed is sent again ---


async def test_a_refused_stream_is_sent_again_without_a_word() -> None:
    async def script(asked: Asked) -> None:
        if asked.number <= 2:
            await asked.reset(7)
        else:
            await asked.answer(bytes(asked.stream.body[-2:]))

    async with calling(script) as call:
        assert await call.say(b"hi") == b"hi"
        assert len(call.asked) == 3


async def test_a_server_that_refuses_every_time_is_not_asked_for_ever() -> None:
    async def script(asked: Asked) -> None:
        await asked.reset(7)

    async with calling(script) as call:
        error = await call.failure()
        assert (error.code, error.unprocessed) == (Code.UNAVAILABLE, True)
        assert len(call.asked) == 5


async def test_a_call_above_the_number_of_a_goaway_is_sent_again_and_those_below_finish() -> None:
    first: list[Asked] = []

    async def script(asked: Asked) -> None:
        if asked.number == 1:
            first.append(asked)
        elif asked.number == 2:
            # By hand: to h2 a GOAWAY of its own is the end of all, to the RFC it is not.
            await asked.peer.stream.send_all(goaway(first[0].stream.stream_id))
        else:
            await asked.answer(b"second")
            await first[0].answer(b"first")

    async with calling(script) as call, trio.open_nursery() as nursery:
        answers: set[bytes] = set()

        async def one() -> None:
            answers.add(await call.say())

        nursery.start_soon(one)
        await wait_until(lambda: len(call.asked) == 1, "the first is there")
        nursery.start_soon(one)
        await wait_until(lambda: len(answers) == 2, "both were answered")
        assert answers == {b"first", b"second"}
        assert call.server.connections == 2


async def test_a_stream_of_messages_that_was_refused_is_sent_again_with_all_of_them() -> None:
    async def script(asked: Asked) -> None:
        if asked.number == 1:
            await asked.peer.read_until(lambda: len(asked.stream.body) >= len(framed(packed(b"one"))))
            await asked.reset(7)
            return
        await asked.peer.read_until(lambda: asked.stream.ended)
        await asked.head()
        await asked.body(bytes(asked.stream.body))
        await asked.end(OK)

    async with calling(script, whole=False) as call, call.channel.stream(CHAT) as stream:
        await stream.send(BytesValue(value=b"one"))
        await wait_until(lambda: call.asked and call.asked[0].body, "the first message is there")
        await stream.send(BytesValue(value=b"two"))
        await stream.finish_sending()
        assert [message.value async for message in stream] == [b"one", b"two"]
        assert len(call.asked) == 2


async def test_what_was_processed_in_part_is_not_sent_again() -> None:
    async def script(asked: Asked) -> None:
        await asked.head()
        await asked.reset(7)

    async with calling(script) as call:
        error = await call.failure()
        assert error.code is Code.UNAVAILABLE
        assert len(call.asked) == 1
