"""RFC 9113 sections 4.1 and 4.2: what a frame is, and how large."""

from __future__ import annotations

import pytest

from tests.conformance.http2.frames import (
    FRAME_BYTES,
    PADDED,
    PRIORITISED,
    Code,
    Kind,
    continuation,
    data,
    frame,
    headers,
    priority_fields,
)
from tests.conformance.http2.raw_peer import RawPeer

_RESERVED = 1 << 31
_UNDEFINED = 0xC2  # No frame type of RFC 9113 gives these bits a meaning.


# --- 4.1 type, flags, reserved bit ---


@pytest.mark.parametrize("kind", [0x0B, 0x10, 0x16, 0xFF])
@pytest.mark.parametrize("size", [0, 8, FRAME_BYTES])
async def test_a_frame_of_unknown_type_is_ignored(peer: RawPeer, kind: int, size: int) -> None:
    await peer.send(frame(kind, 0xFF, 0, bytes(size)))
    await peer.barrier()


async def test_a_frame_of_unknown_type_is_ignored_within_a_request(peer: RawPeer) -> None:
    await peer.send(peer.post(1), frame(0x16, 0xFF, 1, b"noise"), data(1, b"{}", end=True))
    assert (await peer.response(1)).reset is None
    await peer.barrier()


@pytest.mark.parametrize("flags", [0x02, 0x16 & ~1, 0xFE])
async def test_undefined_flags_of_a_ping_are_ignored(peer: RawPeer, flags: int) -> None:
    await peer.send(frame(Kind.PING, flags, 0, b"12345678"))
    await peer.until(lambda each: each.kind == Kind.PING and each.payload == b"12345678" and each.is_ack)


async def test_undefined_flags_of_settings_are_ignored(peer: RawPeer) -> None:
    await peer.send(frame(Kind.SETTINGS, 0xFE, 0))
    await peer.until(lambda each: each.kind == Kind.SETTINGS and each.is_ack)


async def test_undefined_flags_of_headers_and_data_are_ignored(peer: RawPeer) -> None:
    await peer.send(
        frame(Kind.HEADERS, 0x4 | _UNDEFINED, 1, peer.block(peer.fields(b"POST"))),
        frame(Kind.DATA, 0x1 | _UNDEFINED, 1, b"{}"),
    )
    assert (await peer.response(1)).reset is None


async def test_undefined_flags_of_continuation_are_ignored(peer: RawPeer) -> None:
    block = peer.block(peer.fields())
    await peer.send(headers(1, block[:5], end=True, whole=False), frame(Kind.CONTINUATION, 0x4 | 0xFB, 1, block[5:]))
    assert (await peer.response(1)).status == peer.status


async def test_undefined_flags_of_window_updates_and_resets_are_ignored(peer: RawPeer) -> None:
    await peer.send(
        frame(Kind.WINDOW_UPDATE, 0xFF, 0, b"\0\0\0\1"),
        peer.post(1),
        frame(Kind.WINDOW_UPDATE, 0xFF, 1, b"\0\0\0\1"),
        frame(Kind.RST_STREAM, 0xFF, 1, b"\0\0\0\x08"),
    )
    await peer.barrier()


async def test_the_reserved_bit_of_a_ping_is_ignored(peer: RawPeer) -> None:
    await peer.send(frame(Kind.PING, 0, _RESERVED, b"12345678"))
    await peer.until(lambda each: each.kind == Kind.PING and each.payload == b"12345678")


async def test_the_reserved_bit_of_a_stream_identifier_is_ignored(peer: RawPeer) -> None:
    await peer.send(frame(Kind.HEADERS, 0x5, _RESERVED | 1, peer.block(peer.fields())))
    assert (await peer.response(1)).status == peer.status


async def test_the_reserved_bit_of_settings_is_ignored(peer: RawPeer) -> None:
    await peer.send(frame(Kind.SETTINGS, 0, _RESERVED))
    await peer.until(lambda each: each.kind == Kind.SETTINGS and each.is_ack)


# --- 4.2 size ---


async def test_data_of_the_largest_size_is_taken(peer: RawPeer) -> None:
    await peer.send(peer.post(1), data(1, bytes(FRAME_BYTES), end=True))
    assert (await peer.response(1)).reset is None


async def test_headers_of_the_largest_size_are_taken(peer: RawPeer) -> None:
    block = peer.block(peer.fields())
    padding = 255
    fill = peer.block([(b"x-fill", b"x" * 100)])
    payload = bytes([padding]) + block + fill + bytes(padding)
    await peer.send(frame(Kind.HEADERS, 0x5 | PADDED, 1, payload))
    assert (await peer.response(1)).status == peer.status


async def test_data_over_the_largest_size_is_a_frame_size_error(peer: RawPeer) -> None:
    await peer.send(peer.post(1), data(1, bytes(FRAME_BYTES + 1), end=True))
    await peer.any_error(1, Code.FRAME_SIZE_ERROR)


_TOO_LARGE = {
    "HEADERS": (Kind.HEADERS, 1),
    "SETTINGS": (Kind.SETTINGS, 0),
    "PING": (Kind.PING, 0),
    "GOAWAY": (Kind.GOAWAY, 0),
    "WINDOW_UPDATE": (Kind.WINDOW_UPDATE, 0),
    "PUSH_PROMISE": (Kind.PUSH_PROMISE, 1),
    "unknown on stream 0": (0x16, 0),
}


@pytest.mark.parametrize(("kind", "stream_id"), _TOO_LARGE.values(), ids=_TOO_LARGE)
async def test_what_could_alter_the_connection_and_is_too_large_ends_it(
    peer: RawPeer, kind: int, stream_id: int
) -> None:
    size = FRAME_BYTES + 6 - FRAME_BYTES % 6  # The first multiple of six above: no other fault of SETTINGS.
    await peer.send(frame(kind, 0, stream_id, bytes(size)))
    await peer.connection_error(Code.FRAME_SIZE_ERROR)


async def test_a_continuation_over_the_largest_size_ends_the_connection(peer: RawPeer) -> None:
    await peer.send(
        headers(1, peer.block(peer.fields()), end=True, whole=False), continuation(1, bytes(FRAME_BYTES + 1))
    )
    await peer.connection_error(Code.FRAME_SIZE_ERROR)


async def test_a_head_that_announces_too_much_is_answered_before_its_payload_comes(peer: RawPeer) -> None:
    await peer.send(frame(Kind.SETTINGS, 0, 0, bytes(2**20))[:9])
    await peer.connection_error(Code.FRAME_SIZE_ERROR)


_TOO_SMALL = {
    "SETTINGS of 3": (Kind.SETTINGS, 0, 0, 3),
    "SETTINGS of 7": (Kind.SETTINGS, 0, 0, 7),
    "PING of 6": (Kind.PING, 0, 0, 6),
    "PING of 9": (Kind.PING, 0, 0, 9),
    "PING of none": (Kind.PING, 0, 0, 0),
    "GOAWAY of 7": (Kind.GOAWAY, 0, 0, 7),
    "WINDOW_UPDATE of 3": (Kind.WINDOW_UPDATE, 0, 0, 3),
    "WINDOW_UPDATE of 5": (Kind.WINDOW_UPDATE, 0, 0, 5),
    "RST_STREAM of 3": (Kind.RST_STREAM, 0, 1, 3),
    "RST_STREAM of 5": (Kind.RST_STREAM, 0, 1, 5),
    "HEADERS padded without a length": (Kind.HEADERS, PADDED, 3, 0),
    "HEADERS prioritised in 4": (Kind.HEADERS, PRIORITISED, 3, 4),
}


@pytest.mark.parametrize(("kind", "flags", "stream_id", "size"), _TOO_SMALL.values(), ids=_TOO_SMALL)
async def test_a_frame_of_a_wrong_size_ends_the_connection(
    peer: RawPeer, kind: int, flags: int, stream_id: int, size: int
) -> None:
    await peer.send(peer.post(1), frame(kind, flags | 0x4 * (kind == Kind.HEADERS), stream_id, bytes(size)))
    await peer.connection_error(Code.FRAME_SIZE_ERROR)


async def test_padded_data_without_a_pad_length_is_a_frame_size_error(peer: RawPeer) -> None:
    await peer.send(peer.post(1), frame(Kind.DATA, PADDED, 1))
    await peer.any_error(1, Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("size", [0, 4, 6])
async def test_a_priority_frame_of_a_wrong_size_is_an_error_of_its_stream(peer: RawPeer, size: int) -> None:
    await peer.send(peer.post(1), frame(Kind.PRIORITY, 0, 1, priority_fields().ljust(6, b"\0")[:size]))
    await peer.any_error(1, Code.FRAME_SIZE_ERROR)
