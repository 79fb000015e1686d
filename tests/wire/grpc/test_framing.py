"""Message framing: any cut gives the same messages, and limits hold before a byte is kept and after inflation."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.grpc import Code, Encoding, MessageReader, RpcError, encode_message, inflate
from wire.limits import GRPC_MESSAGE_BYTES_MAX


def prefix(length: int, flag: int = 0) -> bytes:
    return bytes([flag]) + length.to_bytes(4, "big")


@given(st.lists(st.binary(max_size=60), max_size=8), st.lists(st.integers(1, 50), max_size=30))
def test_messages_are_found_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(encode_message(message) for message in messages)
    for sizes in ([len(wire) or 1], [1], cuts or [7]):
        reader = MessageReader()
        found: list[bytes] = []
        position = number = 0
        while position < len(wire):
            size = sizes[number % len(sizes)]
            number += 1
            found += [message for _, message in reader.feed(wire[position : position + size])]
            position += size
        reader.finish()
        assert found == messages
        assert reader.pending_bytes == 0


def test_the_flag_comes_with_each_message() -> None:
    wire = prefix(1) + b"a" + prefix(2, 1) + b"bc"
    assert MessageReader().feed(wire) == [(0, b"a"), (1, b"bc")]


@pytest.mark.parametrize("flag", [2, 3, 0x80, 0xFF])
def test_another_flag_is_internal(flag: int) -> None:
    with pytest.raises(RpcError, match="only 0") as refused:
        MessageReader().feed(prefix(0, flag))
    assert refused.value.code is Code.INTERNAL


def test_the_largest_message_is_taken_and_one_byte_more_is_refused_by_its_prefix() -> None:
    assert MessageReader().feed(prefix(GRPC_MESSAGE_BYTES_MAX)) == []
    with pytest.raises(RpcError, match=f"{GRPC_MESSAGE_BYTES_MAX + 1} bytes announced; at most") as refused:
        MessageReader().feed(prefix(GRPC_MESSAGE_BYTES_MAX + 1))
    assert refused.value.code is Code.RESOURCE_EXHAUSTED


def test_a_limit_of_its_own_is_kept_to_the_byte() -> None:
    reader = MessageReader(message_bytes_max=3)
    assert reader.feed(prefix(3) + b"abc") == [(0, b"abc")]
    with pytest.raises(RpcError):
        reader.feed(prefix(0) + prefix(4))


def test_an_announced_message_takes_no_memory_before_it_comes() -> None:
    tracemalloc.start()
    try:
        reader = MessageReader()
        reader.feed(prefix(GRPC_MESSAGE_BYTES_MAX) + b"x")
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()
    assert reader.pending_bytes == 6


@pytest.mark.parametrize("wire", [b"\x00", b"\x00\x00\x00\x00", prefix(1), prefix(3) + b"ab"])
def test_an_end_inside_a_message_is_internal(wire: bytes) -> None:
    reader = MessageReader()
    assert reader.feed(wire) == []
    with pytest.raises(RpcError, match="ended inside") as refused:
        reader.finish()
    assert refused.value.code is Code.INTERNAL


@pytest.mark.parametrize("encoding", [Encoding.GZIP, Encoding.DEFLATE])
def test_a_compressed_message_comes_back(encoding: Encoding) -> None:
    message = b"tokens " * 500
    ((flag, packed),) = MessageReader().feed(encode_message(message, encoding))
    assert flag == 1
    assert len(packed) < len(message) // 4
    assert inflate(packed, encoding) == message


def test_what_compression_does_not_shorten_goes_out_plain() -> None:
    assert encode_message(b"a", Encoding.GZIP) == prefix(1) + b"a"


@given(st.binary(max_size=2_000))
def test_each_message_is_compressed_by_itself(message: bytes) -> None:
    once = encode_message(message, Encoding.GZIP)
    assert encode_message(message, Encoding.GZIP) == once


def test_other_peoples_gzip_is_read() -> None:
    assert inflate(gzip.compress(b"hello"), Encoding.GZIP) == b"hello"
    assert inflate(gzip.compress(b""), Encoding.GZIP) == b""


def test_a_bomb_is_stopped_one_byte_past_the_limit() -> None:
    bomb = zlib.compress(bytes(1000 << 20 >> 4), 9, 31)
    assert len(bomb) < 70_000
    tracemalloc.start()
    try:
        with pytest.raises(RpcError, match="inflates to more than 1000") as refused:
            inflate(bomb, Encoding.GZIP, message_bytes_max=1000)
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()
    assert refused.value.code is Code.RESOURCE_EXHAUSTED


def test_the_limit_after_inflation_is_exact() -> None:
    packed = gzip.compress(bytes(1000))
    assert inflate(packed, Encoding.GZIP, message_bytes_max=1000) == bytes(1000)
    with pytest.raises(RpcError):
        inflate(packed, Encoding.GZIP, message_bytes_max=999)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "cut short"),
        (b"not gzip", "is not gzip"),
        (gzip.compress(b"hello")[:-4], "cut short"),
        (gzip.compress(b"hello") + b"x", "behind its end"),
        (gzip.compress(b"a") + gzip.compress(b"b"), "behind its end"),
    ],
)
def test_broken_compression_is_internal(message: bytes, why: str) -> None:
    with pytest.raises(RpcError, match=why) as refused:
        inflate(message, Encoding.GZIP)
    assert refused.value.code is Code.INTERNAL


def test_a_compressed_message_without_an_encoding_is_internal() -> None:
    with pytest.raises(RpcError, match="names no compression") as refused:
        inflate(gzip.compress(b"a"), Encoding.IDENTITY)
    assert refused.value.code is Code.INTERNAL


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_otherwise(wire: bytes) -> None:
    reader = MessageReader(message_bytes_max=50)
    try:
        for flag, message in reader.feed(wire):
            if flag:
                inflate(message, Encoding.GZIP, message_bytes_max=50)
        reader.finish()
    except RpcError as error:
        assert error.code in (Code.INTERNAL, Code.RESOURCE_EXHAUSTED)
