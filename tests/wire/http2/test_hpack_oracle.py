"""Ours beside the `hpack` package, connection by connection: both directions, with evictions and size updates, and
blocks that were spoiled on the way. The one difference that there is stands in `_STRICTER`, with the sentence.
"""

from __future__ import annotations

import hpack
from hpack.exceptions import HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.http1 import Field
from wire.http2.hpack import Decoder, Encoder, HpackError, NeverIndexed

# Refused by ours and not by the other. RFC 7541 section 4.2: "resulting in at most two dynamic table size updates".
_STRICTER = "more than 2 table size updates"

_NAMES = st.one_of(
    st.sampled_from(
        [
            b":method", b":path", b":status", b"te", b"x-request-id", b"grpc-timeout", b"authorization", b"cookie",
            b"content-type", b"x-a", b"x-b", b"x-c",
        ]
    ),
    st.binary(min_size=1, max_size=40),
)  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from([b"", b"GET", b"/", b"200", b"trailers", b"application/grpc", b"a" * 30, b"b" * 300, b"c" * 900]),
    st.binary(max_size=150),
)
_FIELDS = st.tuples(_NAMES, _VALUES)
_LISTS = st.lists(_FIELDS, max_size=12)
_SIZES = st.sampled_from([0, 1, 33, 100, 300, 1000, 4095, 4096, 4097, 65536])
_STEPS = st.lists(st.tuples(st.lists(_SIZES, max_size=3), _LISTS), min_size=1, max_size=12)


def _their_decoder(table_bytes_max: int = 4096) -> hpack.Decoder:
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    decoder.max_allowed_table_size = table_bytes_max
    return decoder


def _their_fields(decoder: hpack.Decoder, block: bytes) -> list[Field]:
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


@given(_STEPS, st.sampled_from([0, 200, 4096, 16384]))
@settings(max_examples=300)
def test_they_decode_what_we_encode(steps: list[tuple[list[int], list[Field]]], table_bytes_max: int) -> None:
    encoder = Encoder(table_bytes_max=table_bytes_max)
    theirs, ours = _their_decoder(), Decoder(table_bytes_max=65536, list_bytes_max=1 << 20)
    for sizes, fields in steps:
        for size in sizes:
            encoder.set_table_bytes_max(size)
            theirs.max_allowed_table_size = size
        block = encoder.encode(fields)
        assert _their_fields(theirs, block) == fields
        assert ours.decode(block) == fields
        assert encoder.table_bytes == theirs.header_table._current_size == ours.table_bytes
        assert encoder.table_bytes <= table_bytes_max


@given(
    st.lists(st.tuples(st.none() | _SIZES, _LISTS), min_size=1, max_size=12),
    st.booleans(),
    st.lists(st.booleans(), min_size=1, max_size=5),
)
@settings(max_examples=300)
def test_we_decode_what_they_encode(
    steps: list[tuple[int | None, list[Field]]], huffman: bool, secrets: list[bool]
) -> None:
    encoder = hpack.Encoder()
    decoder = Decoder(table_bytes_max=65536, list_bytes_max=1 << 20)
    for size, fields in steps:
        if size is not None:
            encoder.header_table_size = size  # Once a block: told the same size twice, they forget to pass it on.
        marked = [(*field, secrets[place % len(secrets)]) for place, field in enumerate(fields)]
        for _ in range(2):
            assert decoder.decode(encoder.encode(marked, huffman=huffman)) == fields
            assert decoder.table_bytes == encoder.header_table._current_size


@given(st.lists(_LISTS, min_size=1, max_size=6), st.data())
@settings(max_examples=500)
def test_spoiled_blocks_mean_the_same_to_both_or_nothing(lists: list[list[Field]], data: st.DataObject) -> None:
    encoder = hpack.Encoder()
    theirs, ours = _their_decoder(), Decoder(list_bytes_max=1 << 20)
    for fields in lists:
        block = bytearray(encoder.encode(fields, huffman=data.draw(st.booleans())))
        for _ in range(data.draw(st.integers(0, 2))):
            at = data.draw(st.integers(0, len(block)))
            block[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        if not _agree(theirs, ours, bytes(block)):
            return


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
@settings(max_examples=1000)
def test_any_octets_mean_the_same_to_both_or_nothing(blocks: list[bytes]) -> None:
    theirs, ours = _their_decoder(), Decoder(list_bytes_max=1 << 20)
    for block in blocks:
        if not _agree(theirs, ours, block):
            return


def _agree(theirs: hpack.Decoder, ours: Decoder, block: bytes) -> bool:
    """Whether both took the block, to the same fields and the same table; fails when only one of them did."""
    expected: list[Field] | str
    try:
        expected = _their_fields(theirs, block)
    except HPACKError as error:
        expected = str(error)
    try:
        decoded = ours.decode(block)
    except HpackError as error:
        assert isinstance(expected, str) or str(error).startswith(_STRICTER), (error, expected)
        return False
    assert decoded == expected
    assert ours.table_bytes == theirs.header_table._current_size
    return True


@given(_LISTS, _LISTS)
def test_what_came_never_indexed_goes_on_never_indexed(secret: list[Field], plain: list[Field]) -> None:
    encoder, next_decoder = Encoder(), Decoder()
    encoded = hpack.Encoder().encode([(*field, True) for field in secret], huffman=True)
    received = Decoder().decode(encoded)
    for fields in (plain, plain, [*plain, *received, *plain], [*received, *plain]):
        sent_on = next_decoder.decode(encoder.encode(fields))
        assert sent_on == fields
        for before, after in zip(fields, sent_on, strict=True):
            assert isinstance(after, NeverIndexed) or not isinstance(before, NeverIndexed)
