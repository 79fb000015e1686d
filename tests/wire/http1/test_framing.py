"""Bodies end exactly where they end, however their bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import RemoteProtocolError
from wire.http1 import CHUNKED, UNTIL_CLOSE, ChunkedBody, LengthBody, NoBody, UntilCloseBody, body_of
from wire.limits import (
    HTTP1_CHUNK_EXTENSION_BYTES_TOTAL_MAX,
    HTTP1_CHUNK_LINE_BYTES_MAX,
    HTTP1_HEADERS_MAX,
    HTTP1_TRAILER_BYTES_MAX,
)


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"


def feed_all(body: ChunkedBody, data: bytes, cut: int) -> int:
    """Feed in pieces of `cut` bytes; returns how many bytes belonged to the body."""
    taken = 0
    for start in range(0, len(data), cut):
        if body.done:
            break
        piece = data[start : start + cut]
        used = body.feed(piece)
        taken += used
        assert used == len(piece) or body.done
    return taken


def test_each_framing_has_its_body() -> None:
    assert isinstance(body_of(0), NoBody)
    assert isinstance(body_of(3), LengthBody)
    assert isinstance(body_of(CHUNKED), ChunkedBody)
    assert isinstance(body_of(UNTIL_CLOSE), UntilCloseBody)


def test_a_length_ends_inside_a_read() -> None:
    body = LengthBody(5)
    assert (body.feed(b"abc"), body.done, body.missing_bytes) == (3, False, 2)
    assert (body.feed(b"deNEXT"), body.done) == (2, True)


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    st.integers(1, 40),
    st.sampled_from([b"", b"x: y\r\n", b"a: b\r\nc: d\r\n"]),
)
def test_a_chunked_body_ends_at_the_same_byte_however_it_is_cut(pieces: list[bytes], cut: int, trailer: bytes) -> None:
    data = chunked(*pieces, trailer=trailer)
    body = ChunkedBody(keep_payload=True)
    assert feed_all(body, data + b"NEXT", cut) == len(data)
    assert body.done
    assert body.payload is not None
    assert b"".join(body.payload) == b"".join(pieces)


def test_sizes_in_either_case_with_leading_zeros_and_extensions_are_read() -> None:
    body = ChunkedBody(keep_payload=True)
    data = b'00A;name="v"\r\n0123456789\r\na ; x\r\n0123456789\r\n0;last\r\n\r\n'
    assert body.feed(data) == len(data)
    assert body.done


@pytest.mark.parametrize(
    "data",
    [
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n",
        b"5_0\r\n",
        b" 5\r\nhello\r\n",
        b"\r\n",
        b"g\r\n",
        b"5\nhello\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0",
        b"5;a\x00\r\nhello\r\n",
        b"fffffffffffffffff\r\n",
        b"0\r\nbroken trailer\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\nx : y\r\n\r\n",
        b"0\r\na b: y\r\n\r\n",  # From here on found by fuzzing: h11 refuses them, and we relay them.
        b"0\r\n\x9f: y\r\n\r\n",
        b"0\r\nx: \x01\r\n\r\n",
        b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\ncontent-length: 5\r\n\r\n",
        b"0\r\n\n",
    ],
)
@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_malformed_chunks_are_refused_however_they_are_cut(data: bytes, cut: int) -> None:
    with pytest.raises(RemoteProtocolError):
        feed_all(ChunkedBody(), data, cut)


@pytest.mark.parametrize("cut", [7, 100_000])
def test_size_lines_trailers_and_extensions_are_bounded(cut: int) -> None:
    too_long = b"5;" + b"x" * HTTP1_CHUNK_LINE_BYTES_MAX
    trailer = b"0\r\n" + b"x: %b\r\n" % (b"y" * HTTP1_TRAILER_BYTES_MAX)
    extension = b"1;%b\r\nx\r\n" % (b"e" * 4000)
    many = extension * (HTTP1_CHUNK_EXTENSION_BYTES_TOTAL_MAX // 4000 + 1)
    for data in (too_long, trailer, many):
        with pytest.raises(RemoteProtocolError):
            feed_all(ChunkedBody(), data, cut)


@pytest.mark.parametrize(("lines", "fails"), [(HTTP1_HEADERS_MAX, False), (HTTP1_HEADERS_MAX + 1, True)])
def test_a_trailer_has_as_many_lines_as_a_head(lines: int, *, fails: bool) -> None:
    body = ChunkedBody()
    if fails:
        with pytest.raises(RemoteProtocolError):
            body.feed(b"0\r\n" + b"x: y\r\n" * lines + b"\r\n")
    else:
        body.feed(b"0\r\n" + b"x: y\r\n" * lines + b"\r\n")
        assert body.done


def test_a_chunk_under_way_says_how_many_bytes_it_misses() -> None:
    body = ChunkedBody()
    body.feed(b"a\r\n01234")
    assert body.missing_bytes == 5 + 2
    assert not body.in_line
    body.feed(b"56789\r\n3")
    assert body.missing_bytes == 0
    assert body.in_line
