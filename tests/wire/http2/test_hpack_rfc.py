"""RFC 7541 appendix C, all of it: integers, single representations, and the four sequences with their tables."""

from __future__ import annotations

import pytest

from wire.http1 import Field
from wire.http2.hpack import Decoder, HpackError, NeverIndexed

# --- C.1: integers, seen through the representations that hold them ---


def test_10_in_a_prefix_of_5_bits_is_one_octet() -> None:
    assert Decoder(table_bytes_max=10).decode(bytes([0x20 | 0b01010])) == []
    with pytest.raises(HpackError, match="update to 10 octets"):
        Decoder(table_bytes_max=9).decode(bytes([0x20 | 0b01010]))


def test_1337_in_a_prefix_of_5_bits_is_three_octets() -> None:
    decoder = Decoder(table_bytes_max=1336)
    with pytest.raises(HpackError, match="update to 1337 octets"):
        decoder.decode(bytes([0x20 | 0b11111, 0b10011010, 0b00001010]))


def test_42_in_a_prefix_of_8_bits_is_the_octet_itself() -> None:
    # HPACK has no prefix of eight bits; the widest, of seven, holds 42 the same way.
    assert Decoder().decode(bytes([0x80 | 42])) == [(b"if-range", b"")]


# --- C.2: one field each ---


@pytest.mark.parametrize(
    ("block", "field", "table_bytes"),
    [
        (
            "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
            (b"custom-key", b"custom-header"),
            55,
        ),
        ("040c2f73616d706c652f70617468", (b":path", b"/sample/path"), 0),
        ("100870617373776f726406736563726574", (b"password", b"secret"), 0),
        ("82", (b":method", b"GET"), 0),
    ],
    ids=["C.2.1 added", "C.2.2 not added", "C.2.3 never indexed", "C.2.4 indexed"],
)
def test_single_representations(block: str, field: Field, table_bytes: int) -> None:
    decoder = Decoder()
    fields = decoder.decode(bytes.fromhex(block))
    assert fields == [field]
    assert decoder.table_bytes == table_bytes
    assert isinstance(fields[0], NeverIndexed) == (field[0] == b"password")


# --- C.3 to C.6: sequences on one connection ---

_REQUESTS: list[list[Field]] = [
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")],
    [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"www.example.com"),
        (b"cache-control", b"no-cache"),
    ],
    [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ],
]
_DATE_21 = (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT")
_DATE_22 = (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT")
_PRIVATE = (b"cache-control", b"private")
_LOCATION = (b"location", b"https://www.example.com")
_GZIP = (b"content-encoding", b"gzip")
_COOKIE = (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")
_RESPONSES: list[list[Field]] = [
    [(b":status", b"302"), _PRIVATE, _DATE_21, _LOCATION],
    [(b":status", b"307"), _PRIVATE, _DATE_21, _LOCATION],
    [(b":status", b"200"), _PRIVATE, _DATE_22, _LOCATION, _GZIP, _COOKIE],
]
_REQUEST_BYTES = [57, 110, 164]
_RESPONSE_BYTES = [222, 222, 215]
# Newest first, as the RFC lists them.
_REQUEST_TABLE: list[Field] = [
    (b"custom-key", b"custom-value"),
    (b"cache-control", b"no-cache"),
    (b":authority", b"www.example.com"),
]
_RESPONSE_TABLE: list[Field] = [_COOKIE, _GZIP, _DATE_22]

_C3 = [
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
]
_C4 = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
]
_C5 = [
    (
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f"
        "7777772e6578616d706c652e636f6d"
    ),
    "4803333037c1c0bf",
    (
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b42"
        "5a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31"
    ),
]
_C6 = [
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    (
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f"
        "3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
    ),
]


@pytest.mark.parametrize(
    ("blocks", "lists", "sizes", "table", "table_bytes_max"),
    [
        (_C3, _REQUESTS, _REQUEST_BYTES, _REQUEST_TABLE, 4096),
        (_C4, _REQUESTS, _REQUEST_BYTES, _REQUEST_TABLE, 4096),
        (_C5, _RESPONSES, _RESPONSE_BYTES, _RESPONSE_TABLE, 256),
        (_C6, _RESPONSES, _RESPONSE_BYTES, _RESPONSE_TABLE, 256),
    ],
    ids=["C.3 requests", "C.4 requests, Huffman", "C.5 responses", "C.6 responses, Huffman"],
)
def test_sequences_of_blocks_with_their_tables(
    blocks: list[str], lists: list[list[Field]], sizes: list[int], table: list[Field], table_bytes_max: int
) -> None:
    decoder = Decoder(table_bytes_max=table_bytes_max)
    if table_bytes_max < 4096:
        decoder.decode(b"\x3f\xe1\x01")  # The RFC assumes a table of 256 from the start; on the wire it is told.
    for block, fields, size in zip(blocks, lists, sizes, strict=True):
        assert decoder.decode(bytes.fromhex(block)) == fields
        assert decoder.table_bytes == size
    assert decoder.decode(bytes(0x80 | 62 + place for place in range(len(table)))) == table
    with pytest.raises(HpackError, match=f"index {62 + len(table)} "):
        decoder.decode(bytes([0x80 | 62 + len(table)]))
