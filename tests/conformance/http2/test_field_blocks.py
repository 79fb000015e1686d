"""RFC 9113 sections 4.3, 6.2 and 6.10: field blocks, HEADERS and CONTINUATION."""

from __future__ import annotations

import pytest

from tests.conformance.http2.frames import (
    PADDED,
    PRIORITISED,
    Code,
    Kind,
    continuation,
    data,
    frame,
    goaway,
    headers,
    ping,
    priority,
    priority_fields,
    push_promise,
    rst_stream,
    settings,
    window_update,
)
from tests.conformance.http2.port import Port
from tests.conformance.http2.raw_peer import RawPeer

_END = 0x5  # END_STREAM and END_HEADERS.


# --- 4.3 ---


async def test_a_field_block_that_cannot_be_decoded_is_a_compression_error(peer: RawPeer) -> None:
    await peer.send(headers(1, b"\x40", end=True))
    await peer.connection_error(Code.COMPRESSION_ERROR)


@pytest.mark.parametrize("short", [1, 2, 3])
async def test_a_field_block_that_is_cut_short_is_a_compression_error(peer: RawPeer, short: int) -> None:
    await peer.send(headers(1, peer.block(peer.fields(b"GET", (b"x-last", b"a value")))[:-short], end=True))
    await peer.connection_error(Code.COMPRESSION_ERROR)


_BETWEEN = {
    "DATA": data(1, b"x"),
    "HEADERS of another stream": headers(3, b"\x82\x86\x84", end=True),
    "HEADERS of the same stream": headers(1, b"\x82\x86\x84", end=True),
    "PRIORITY": priority(1),
    "PRIORITY of another stream": priority(3),
    "RST_STREAM": rst_stream(1),
    "SETTINGS": settings(),
    "PUSH_PROMISE": push_promise(1, 2, b""),
    "PING": ping(b"12345678"),
    "GOAWAY": goaway(),
    "WINDOW_UPDATE": window_update(0, 1),
    "CONTINUATION of another stream": continuation(3, b""),
    "CONTINUATION of no stream": continuation(0, b""),
    "an unknown type": frame(0x16, 0, 0, b"12345678"),
    "an unknown type on the stream": frame(0x16, 0, 1, b"12345678"),
}


@pytest.mark.parametrize("between", _BETWEEN.values(), ids=_BETWEEN)
async def test_nothing_may_come_between_the_frames_of_a_field_block(peer: RawPeer, between: bytes) -> None:
    block = peer.block(peer.fields())
    await peer.send(headers(1, block[:4], end=True, whole=False), between, continuation(1, block[4:]))
    await peer.connection_error(Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("between", _BETWEEN.values(), ids=_BETWEEN)
async def test_nothing_may_come_between_two_continuations(peer: RawPeer, between: bytes) -> None:
    block = peer.block(peer.fields())
    await peer.send(
        headers(1, block[:2], end=True, whole=False),
        continuation(1, block[2:4], whole=False),
        between,
        continuation(1, block[4:]),
    )
    await peer.connection_error(Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("size", [2, 3, 7, 16])
async def test_a_field_block_may_be_cut_anywhere(peer: RawPeer, port: Port, size: int) -> None:
    fields = [
        (b":method", b"GET"),
        (b":scheme", peer.scheme),
        (b":path", b"/in-pieces"),
        (b":authority", peer.authority),
    ]
    await peer.send(*peer.pieces(1, fields, size))
    assert port.understood(await peer.response(1), b"/in-pieces")


async def test_a_reset_stream_leaves_its_fields_in_the_table(peer: RawPeer) -> None:
    extra = (b"x-kept", b"in the table of both ends")
    await peer.send(headers(1, peer.block(peer.fields(b"GET", extra)), end=True), rst_stream(1))
    await peer.send(headers(3, peer.block(peer.fields(b"GET", extra)), end=True))
    assert (await peer.response(3)).status == peer.status


async def test_a_malformed_request_leaves_its_fields_in_the_table(peer: RawPeer) -> None:
    extra = (b"x-kept", b"in the table of both ends")
    await peer.send(headers(1, peer.block([*peer.fields(b"GET", extra), (b":late", b"pseudo field")]), end=True))
    await peer.send(headers(3, peer.block(peer.fields(b"GET", extra)), end=True))
    assert (await peer.response(3)).status == peer.status


# --- 6.2 HEADERS ---


async def test_headers_without_a_stream_are_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(peer.get(0))
    await peer.connection_error(Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("padding", [0, 1, 8, 255])
async def test_headers_may_be_padded(peer: RawPeer, padding: int) -> None:
    block = peer.block(peer.fields())
    await peer.send(frame(Kind.HEADERS, _END | PADDED, 1, bytes([padding]) + block + bytes(padding)))
    assert (await peer.response(1)).status == peer.status


@pytest.mark.parametrize("excess", [1, 2, 50])
async def test_padding_that_leaves_no_room_for_the_block_is_a_protocol_error(peer: RawPeer, excess: int) -> None:
    block = peer.block(peer.fields())
    await peer.send(frame(Kind.HEADERS, _END | PADDED, 1, bytes([len(block) + excess]) + block))
    await peer.connection_error(Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("weight", [1, 16, 256])
@pytest.mark.parametrize("exclusive", [False, True])
async def test_headers_may_carry_a_priority(peer: RawPeer, weight: int, exclusive: bool) -> None:
    fields = priority_fields(3, exclusive=exclusive, weight=weight)
    await peer.send(frame(Kind.HEADERS, _END | PRIORITISED, 1, fields + peer.block(peer.fields())))
    assert (await peer.response(1)).status == peer.status


async def test_headers_may_carry_a_priority_and_padding(peer: RawPeer) -> None:
    payload = b"\x08" + priority_fields() + peer.block(peer.fields()) + bytes(8)
    await peer.send(frame(Kind.HEADERS, _END | PADDED | PRIORITISED, 1, payload))
    assert (await peer.response(1)).status == peer.status


async def test_headers_whose_padding_reaches_into_the_priority_are_a_protocol_error(peer: RawPeer) -> None:
    payload = b"\x06" + priority_fields() + bytes(4)
    await peer.send(frame(Kind.HEADERS, _END | PADDED | PRIORITISED, 1, payload))
    await peer.connection_error(Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR)


# --- 6.10 CONTINUATION ---


async def test_a_field_block_may_go_on_in_several_continuations(peer: RawPeer) -> None:
    block = peer.block(peer.fields())
    await peer.send(
        headers(1, block, end=True, whole=False),
        continuation(1, peer.block([(b"x-first", b"1" * 3000)]), whole=False),
        continuation(1, peer.block([(b"x-second", b"2" * 3000)])),
    )
    assert (await peer.response(1)).status == peer.status


async def test_a_continuation_may_be_empty(peer: RawPeer) -> None:
    block = peer.block(peer.fields())
    await peer.send(headers(1, b"", end=True, whole=False), continuation(1, block, whole=False), continuation(1, b""))
    assert (await peer.response(1)).status == peer.status


async def test_a_continuation_after_the_end_of_the_block_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(peer.get(1), continuation(1, peer.block([(b"x-late", b"1")])))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_a_continuation_after_the_last_continuation_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(
        headers(1, peer.block(peer.fields()), end=True, whole=False),
        continuation(1, peer.block([(b"x-last", b"1")])),
        continuation(1, peer.block([(b"x-late", b"1")])),
    )
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_a_continuation_after_data_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(peer.post(1), data(1, b"x"), continuation(1, peer.block([(b"x-late", b"1")])))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_a_continuation_out_of_nothing_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(continuation(1, peer.block(peer.fields())))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_a_continuation_of_no_stream_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(continuation(0, b""))
    await peer.connection_error(Code.PROTOCOL_ERROR)
