"""RFC 7541 at a listening port: every representation is read right, and what is wrong is a COMPRESSION_ERROR.

How a block was read shows in the answer: it says which path was asked for. The codec's own tests are in
tests/wire/http2; these hold it against the connection around it.
"""

from __future__ import annotations

import pytest

from tests.conformance.http2.frames import Code, Kind, Setting, headers, settings
from tests.conformance.http2.port import Port
from tests.conformance.http2.raw_peer import RawPeer
from tests.conformance.http2.representations import indexed, integer, kept, never_kept, not_kept, table_size

_GET = b"\x82"  # :method GET, from the static table.
_HTTP = b"\x86"  # :scheme http.
_HTTPS = b"\x87"
_PATH = 4
_AUTHORITY = 1
_FIRST = 62  # The youngest entry of the dynamic table.


def _start(peer: RawPeer) -> bytes:
    """Method, scheme and authority of a GET; the path is the test's."""
    scheme = _HTTPS if peer.scheme == b"https" else _HTTP
    return _GET + scheme + not_kept(_AUTHORITY, peer.authority)


_PATHS = {
    "kept, name by index": kept(_PATH, b"/by-hpack"),
    "kept, new name": kept(b":path", b"/by-hpack"),
    "not kept, name by index": not_kept(_PATH, b"/by-hpack"),
    "not kept, new name": not_kept(b":path", b"/by-hpack"),
    "never kept, name by index": never_kept(_PATH, b"/by-hpack"),
    "never kept, new name": never_kept(b":path", b"/by-hpack"),
    "name by the other index of it": not_kept(5, b"/by-hpack"),
}
# Of the name ":path" or its index 4, with the value still to come.
_HUFFMAN_NAMES = {
    "kept, name by index": b"\x44",
    "not kept, name by index": b"\x04",
    "never kept, name by index": b"\x14",
    "kept, new name": b"\x40\x84\xb9\x58\xd3\x3f",
    "not kept, new name": b"\x00\x84\xb9\x58\xd3\x3f",
    "never kept, new name": b"\x10\x84\xb9\x58\xd3\x3f",
}


@pytest.mark.parametrize("representation", _PATHS.values(), ids=_PATHS)
async def test_each_representation_of_a_field_is_read(peer: RawPeer, port: Port, representation: bytes) -> None:
    await peer.send(headers(1, _start(peer) + representation, end=True))
    assert port.understood(await peer.response(1), b"/by-hpack")


@pytest.mark.parametrize("name", _HUFFMAN_NAMES.values(), ids=_HUFFMAN_NAMES)
async def test_each_representation_may_be_huffman_coded(peer: RawPeer, port: Port, name: bytes) -> None:
    value = b"\x60\xd5\x48\x5f\x2b\xce\x9a\x68"  # RFC 7541 C.4.1 has a part of it; the path is "/index.html".
    block = _start(peer) + name + integer(len(value), 7, 0x80) + value
    await peer.send(headers(1, block, end=True))
    assert port.understood(await peer.response(1), b"/index.html")


async def test_a_field_of_the_static_table_is_read(peer: RawPeer, port: Port) -> None:
    await peer.send(headers(1, _start(peer) + indexed(_PATH), end=True))
    response = await peer.response(1)
    assert response.reset is None
    assert response.fields


async def test_a_kept_field_is_read_by_its_index_in_later_requests(peer: RawPeer, port: Port) -> None:
    await peer.send(headers(1, _start(peer) + kept(_PATH, b"/first") + kept(b"x-other", b"1"), end=True))
    await peer.send(headers(3, _start(peer) + indexed(_FIRST + 1), end=True))
    await peer.send(headers(5, _start(peer) + not_kept(_FIRST + 1, b"/by-its-name"), end=True))
    assert port.understood(await peer.response(1), b"/first")
    assert port.understood(await peer.response(3), b"/first")
    assert port.understood(await peer.response(5), b"/by-its-name")


async def test_a_field_kept_earlier_in_a_block_moves_the_indices_of_those_before(peer: RawPeer, port: Port) -> None:
    await peer.send(headers(1, _start(peer) + kept(_PATH, b"/moved"), end=True))
    scheme = _HTTPS if peer.scheme == b"https" else _HTTP
    await peer.send(headers(3, _GET + scheme + kept(_AUTHORITY, peer.authority) + indexed(_FIRST + 1), end=True))
    assert port.understood(await peer.response(3), b"/moved")


async def test_the_oldest_entry_makes_room(peer: RawPeer, port: Port) -> None:
    """Entries of 1,032 octets: the table of 4,096 holds three."""
    fill = [kept(b"x-fill-%d" % number, b"f" * 992) for number in range(3)]
    await peer.send(headers(1, _start(peer) + kept(_PATH, b"/oldest") + b"".join(fill), end=True))
    assert port.understood(await peer.response(1), b"/oldest")
    await peer.send(headers(3, _start(peer) + kept(_PATH, b"/younger") + kept(b"x-fill-3", b"f" * 992), end=True))
    await peer.send(headers(5, _start(peer) + indexed(_FIRST + 1), end=True))
    assert port.understood(await peer.response(3), b"/younger")
    assert port.understood(await peer.response(5), b"/younger")


async def test_a_field_larger_than_the_table_is_read_and_empties_it(peer: RawPeer, port: Port) -> None:
    block = _start(peer) + kept(_PATH, b"/kept") + kept(b"x-large", b"l" * 4_096)
    await peer.send(headers(1, block, end=True))
    assert port.understood(await peer.response(1), b"/kept")
    await peer.send(headers(3, _start(peer) + indexed(_FIRST), end=True))
    await peer.connection_error(Code.COMPRESSION_ERROR)


@pytest.mark.parametrize("sizes", [[0], [4_096], [128], [0, 4_096], [128, 1_024]])
async def test_a_block_may_begin_with_one_or_two_sizes_of_the_table(
    peer: RawPeer, port: Port, sizes: list[int]
) -> None:
    block = b"".join(map(table_size, sizes)) + _start(peer) + kept(_PATH, b"/sized")
    await peer.send(headers(1, block, end=True))
    assert port.understood(await peer.response(1), b"/sized")


async def test_a_table_of_no_size_keeps_nothing(peer: RawPeer) -> None:
    await peer.send(headers(1, table_size(0) + _start(peer) + kept(_PATH, b"/gone"), end=True))
    await peer.response(1)
    await peer.send(headers(3, _start(peer) + indexed(_FIRST), end=True))
    await peer.connection_error(Code.COMPRESSION_ERROR)


async def test_a_smaller_table_forgets_its_oldest_entries(peer: RawPeer, port: Port) -> None:
    await peer.send(headers(1, _start(peer) + kept(_PATH, b"/old") + kept(_PATH, b"/young"), end=True))
    await peer.stream_error(1, Code.PROTOCOL_ERROR)  # Two paths; what counts here is the table.
    await peer.send(headers(3, table_size(50) + _start(peer) + indexed(_FIRST), end=True))
    assert port.understood(await peer.response(3), b"/young")
    await peer.send(headers(5, _start(peer) + indexed(_FIRST + 1), end=True))
    await peer.connection_error(Code.COMPRESSION_ERROR)


# --- what is wrong ---

_HUGE = b"\xff" * 9 + b"\x7f"  # A continued integer of 70 bits.
_BAD_ENDS = {
    "index 0": b"\x80",
    "index 62 of an empty table": indexed(62),
    "index 70 of an empty table": indexed(70),
    "index of 2^31": indexed(2**31),
    "index without an end": b"\xff" + _HUGE,
    "index that is cut": b"\xff\x80",
    "kept, name of index 70": b"\x7f\x07\x00",
    "not kept, name of index 70": b"\x0f\x37\x00",
    "never kept, name of index 70": b"\x1f\x37\x00",
    "kept, without its value": b"\x40\x01x",
    "kept, without anything": b"\x40",
    "name longer than the block": b"\x00\x7f\xff\x7fx",
    "value longer than the block": b"\x00\x01x\x05test",
    "length without an end": b"\x00\x01x\x7f" + _HUGE,
    "huffman, padding of 8 bits and more": b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",
    "huffman, padding of zeros": b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90",
    "huffman, end of string inside": b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f",
    "huffman, end of string alone": b"\x00\x01x\x84\xff\xff\xff\xff",
    "table size at the end": table_size(1),
    "table size between fields": table_size(100) + b"\x00\x01x\x01y",
}


@pytest.mark.parametrize("end", _BAD_ENDS.values(), ids=_BAD_ENDS)
async def test_what_cannot_be_decoded_ends_the_connection(peer: RawPeer, end: bytes) -> None:
    await peer.send(headers(1, _start(peer) + indexed(_PATH) + end, end=True))
    await peer.connection_error(Code.COMPRESSION_ERROR)


@pytest.mark.parametrize("excess", [1, 2**20, 2**31])
async def test_a_table_larger_than_allowed_is_a_compression_error(peer: RawPeer, excess: int) -> None:
    limit = peer.server_settings.get(Setting.HEADER_TABLE_SIZE, 4_096)
    await peer.send(headers(1, table_size(limit + excess) + _start(peer) + indexed(_PATH), end=True))
    await peer.connection_error(Code.COMPRESSION_ERROR)


async def test_a_bad_block_in_trailers_is_a_compression_error(peer: RawPeer) -> None:
    await peer.send(peer.post(1), headers(1, b"\x80", end=True))
    await peer.connection_error(Code.COMPRESSION_ERROR)


async def test_a_bad_block_of_a_closed_stream_is_a_compression_error(peer: RawPeer) -> None:
    await peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 0)), peer.get(1))
    await peer.until(lambda each: each.kind == Kind.HEADERS)
    await peer.send(headers(1, b"\x80", end=True))
    await peer.connection_error(Code.COMPRESSION_ERROR, Code.STREAM_CLOSED)
