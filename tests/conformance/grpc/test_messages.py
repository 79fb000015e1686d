"""Messages in DATA: every way to cut them, every way to break them, compression and limits."""

from __future__ import annotations

import gzip
import zlib

import pytest

from infermesh.net.grpc.server_call import GrpcLimits
from infermesh.testing.grpc_node import NodeShape
from tests.conformance.grpc.calling import framed, packed, raw_grpc
from tests.conformance.http2.frames import Code as H2Code
from tests.conformance.http2.frames import Kind, data, headers, window_update
from wire.grpc import Code
from wire.limits import GRPC_MESSAGE_BYTES_MAX

GZIP = (b"grpc-encoding", b"gzip")
ACCEPT_GZIP = (b"grpc-accept-encoding", b"gzip")


async def test_a_message_may_come_byte_by_byte() -> None:
    async with raw_grpc() as raw:
        wire = framed(packed(b"slowly"))
        pieces = [data(1, bytes([byte]), end=number == len(wire) - 1) for number, byte in enumerate(wire)]
        await raw.send(raw.head(1), *pieces)
        assert (await raw.answer(1)).messages == [b"slowly"]


async def test_several_messages_may_come_in_one_frame_and_one_message_in_several() -> None:
    async with raw_grpc() as raw:
        wire = b"".join(framed(packed(value)) for value in (b"a", b"", b"bc", b"d" * 300))
        await raw.send(raw.head(1, "Join"), data(1, wire[:-7]), data(1, wire[-7:], end=True))
        assert (await raw.answer(1)).messages == [b"abc" + b"d" * 300]


async def test_padding_is_no_part_of_a_message() -> None:
    async with raw_grpc() as raw:
        wire = framed(packed(b"padded"))
        await raw.send(raw.head(1), data(1, wire[:3], padding=200), data(1, wire[3:], padding=0, end=True))
        assert (await raw.answer(1)).messages == [b"padded"]


async def test_empty_data_in_between_means_nothing() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1), data(1), raw.message(1, b"hi"), data(1), data(1, end=True))
        assert (await raw.answer(1)).messages == [b"hi"]


async def test_the_end_may_come_with_trailers() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1), raw.message(1, b"hi"), headers(1, raw.block([(b"x-late", b"1")]), end=True))
        assert (await raw.answer(1)).messages == [b"hi"]


async def test_a_message_of_no_bytes_is_a_message() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1), data(1, framed(b""), end=True))
        assert (await raw.answer(1)).messages == [b""]


@pytest.mark.slow
async def test_ten_thousand_empty_messages_are_counted_and_cost_little() -> None:
    async with raw_grpc() as raw:
        wire = framed(b"") * 3_276
        await raw.send(
            raw.head(1, "Chat"), data(1, wire), data(1, wire), data(1, wire), data(1, framed(b"") * 172, end=True)
        )
        answer = await raw.answer(1)
    assert len(answer.messages) == 10_000


@pytest.mark.parametrize("method", ["Say", "Count"])
async def test_no_message_where_one_is_due_is_internal(method: str) -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, method, end=True), raw.head(3, method), data(3, end=True))
        for stream_id in (1, 3):
            answer = await raw.answer(stream_id)
            assert answer.code == Code.INTERNAL
            assert "sent none" in answer.text


@pytest.mark.parametrize("method", ["Say", "Count"])
async def test_a_second_message_where_one_is_due_is_internal(method: str) -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, method), raw.message(1, b"1"), raw.message(1, b"2", end=True))
        answer = await raw.answer(1)
        assert answer.code == Code.INTERNAL
        assert "a second one came" in answer.text
        assert raw.echo.seen["say"] == 0


@pytest.mark.parametrize("method", ["Say", "Join", "Chat"])
@pytest.mark.parametrize("kept", [1, 4, 5, 7])
async def test_an_end_inside_a_message_is_internal(method: str, kept: int) -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, method), data(1, framed(packed(b"cut"))[:kept], end=True))
        answer = await raw.answer(1)
    assert answer.code == Code.INTERNAL
    assert "ended inside" in answer.text


@pytest.mark.parametrize("flag", [2, 0x80, 0xFF])
@pytest.mark.parametrize("method", ["Say", "Join"])
async def test_another_flag_than_0_and_1_is_internal(method: str, flag: int) -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, method), raw.message(1, b"hi", flag=flag, end=True))
        assert (await raw.answer(1)).code == Code.INTERNAL


@pytest.mark.parametrize("length", [GRPC_MESSAGE_BYTES_MAX + 1, 2**32 - 1])
@pytest.mark.parametrize("method", ["Say", "Join", "Chat"])
async def test_a_message_over_the_limit_is_refused_by_its_length_alone(method: str, length: int) -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, method), data(1, b"\x00" + length.to_bytes(4, "big")))
        answer = await raw.answer(1)
        assert answer.code == Code.RESOURCE_EXHAUSTED
        assert f"{length} bytes" in answer.text
        await raw.stream_error(1, H2Code.NO_ERROR)


async def test_a_message_at_the_limit_is_taken() -> None:
    async with raw_grpc(NodeShape(grpc=GrpcLimits(message_bytes_max=10))) as raw:
        await raw.send(raw.head(1), data(1, framed(packed(b"12345678")), end=True))
        assert (await raw.answer(1)).messages == [b"12345678"]
        await raw.send(raw.head(3), data(3, framed(packed(b"123456789")), end=True))
        assert (await raw.answer(3)).code == Code.RESOURCE_EXHAUSTED


async def test_what_is_no_message_of_its_type_is_internal() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1), data(1, framed(b"\xff\xff"), end=True))
        answer = await raw.answer(1)
    assert answer.code == Code.INTERNAL
    assert "google.protobuf.BytesValue" in answer.text


# --- compression ---


@pytest.mark.parametrize(("name", "wbits"), [(b"gzip", 31), (b"deflate", 15)])
async def test_a_compressed_message_is_read(name: bytes, wbits: int) -> None:
    async with raw_grpc() as raw:
        squeezed = zlib.compress(packed(b"z" * 1_000), 9, wbits)
        await raw.send(raw.head(1, "Say", (b"grpc-encoding", name)), data(1, framed(squeezed, 1), end=True))
        assert (await raw.answer(1)).messages == [b"z" * 1_000]


async def test_a_stream_may_mix_compressed_and_plain_messages() -> None:
    async with raw_grpc() as raw:
        await raw.send(
            raw.head(1, "Join", GZIP),
            data(1, framed(gzip.compress(packed(b"a")), 1) + framed(packed(b"b"))),
            data(1, framed(gzip.compress(packed(b"c")), 1), end=True),
        )
        assert (await raw.answer(1)).messages == [b"abc"]


@pytest.mark.parametrize("fields", [[], [(b"grpc-encoding", b"identity")]])
async def test_a_compressed_message_without_an_encoding_is_internal(fields: list[tuple[bytes, bytes]]) -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Say", *fields), data(1, framed(gzip.compress(b""), 1), end=True))
        assert (await raw.answer(1)).code == Code.INTERNAL


@pytest.mark.parametrize("name", [b"snappy", b"br", b"GZIP", b""])
async def test_an_unknown_encoding_is_unimplemented_and_the_known_ones_are_told(name: bytes) -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Say", b"hi", (b"grpc-encoding", name))
    assert answer.code == Code.UNIMPLEMENTED
    assert answer.values(b"grpc-accept-encoding") == [b"deflate,gzip,identity"]


@pytest.mark.parametrize("broken", [b"no gzip", gzip.compress(b"hi")[:-3], gzip.compress(b"hi") + b"x", b""])
@pytest.mark.parametrize("method", ["Say", "Join"])
async def test_broken_compression_is_internal(method: str, broken: bytes) -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, method, GZIP), data(1, framed(broken, 1), end=True))
        assert (await raw.answer(1)).code == Code.INTERNAL


@pytest.mark.parametrize("method", ["Say", "Join"])
async def test_a_message_that_inflates_past_the_limit_is_refused(method: str) -> None:
    async with raw_grpc() as raw:
        bomb = gzip.compress(bytes(GRPC_MESSAGE_BYTES_MAX + 1))
        assert len(bomb) < 16_000
        await raw.send(raw.head(1, method, GZIP), data(1, framed(bomb, 1), end=True))
        answer = await raw.answer(1)
    assert answer.code == Code.RESOURCE_EXHAUSTED
    assert "inflates to more than" in answer.text


async def test_an_answer_is_compressed_only_for_who_reads_it() -> None:
    async with raw_grpc() as raw:
        squeezed = await raw.call(1, "Squeeze", b"z" * 1_000, ACCEPT_GZIP)
        plain = await raw.call(3, "Squeeze", b"z" * 1_000)
        small = await raw.call(5, "Squeeze", b"z", ACCEPT_GZIP)
    assert squeezed.values(b"grpc-encoding") == [b"gzip"]
    assert squeezed.messages[0][0] == 1
    assert gzip.decompress(squeezed.messages[0][5:]) == packed(b"z" * 1_000)
    assert plain.values(b"grpc-encoding") == []
    assert plain.messages == [b"z" * 1_000]
    assert small.messages == [b"z"], "not worth compressing, and flagged so"


# --- flow control ---


@pytest.mark.slow
async def test_a_message_larger_than_its_window_gets_credit_before_it_is_whole() -> None:
    async with raw_grpc() as raw:
        value = bytes(3 << 20)
        wire = framed(packed(value))
        window = raw.server_settings.get(4, 65_535)
        assert len(wire) > window
        await raw.send(raw.head(1))
        position = credit = 0
        room = {0: 65_535, 1: window}
        for early in raw.seen:
            if early.kind == Kind.WINDOW_UPDATE:
                room[early.stream_id] += int.from_bytes(early.payload, "big")
        while position < len(wire):
            size = min(16_384, len(wire) - position, *room.values())
            if size <= 0:
                (*_, update) = await raw.until(lambda each: each.kind == Kind.WINDOW_UPDATE)
                room[update.stream_id] += int.from_bytes(update.payload, "big")
                credit += 1
                continue
            await raw.send(data(1, wire[position : position + size], end=position + size == len(wire)))
            position += size
            room = {key: left - size for key, left in room.items()}
        assert credit
        assert (await raw.answer(1, feed=True)).messages == [value]


async def test_an_answer_keeps_to_a_window_of_one_byte_at_a_time() -> None:
    async with raw_grpc(None, (4, 0)) as raw:
        await raw.send(raw.head(1), raw.message(1, b"slow", end=True))
        await raw.until(lambda each: each.kind == Kind.HEADERS and each.stream_id == 1)
        assert {each.kind for each in await raw.barrier()} == {Kind.PING}, "the trailers wait behind the message"
        for _ in framed(packed(b"slow")):
            await raw.send(window_update(1, 1))
            (*_, piece) = await raw.until(lambda each: each.kind == Kind.DATA)
            assert len(piece.payload) == 1
        assert (await raw.answer(1)).messages == [b"slow"]


async def test_pings_are_answered_while_a_stream_pours() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Pour"), raw.message(1, b"", end=True))
        await raw.until(lambda each: each.kind == Kind.DATA)
        await raw.barrier()
        await raw.send(window_update(0, 1 << 20), window_update(1, 1 << 20))
        await raw.barrier()


async def test_calls_on_one_connection_do_not_wait_for_each_other() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Wait"), raw.message(1, b"", end=True), raw.head(3, "Chat"), raw.head(5))
        assert (await raw.call(7, "Say", b"first")).messages == [b"first"]
        await raw.send(raw.message(5, b"second", end=True), raw.message(3, b"third", end=True))
        assert (await raw.answer(5)).messages == [b"second"]
        assert (await raw.answer(3)).messages == [b"third"]
