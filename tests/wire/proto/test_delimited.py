from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.errors import LocalProtocolError, RemoteProtocolError
from wire.limits import STATE_MESSAGE_BYTES_MAX
from wire.proto.delimited import DelimitedDecoder, encode_delimited


def _pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(edges):
        yield data[start:end]


def _outcome(data: bytes, pieces: Iterator[bytes]) -> tuple[list[bytes], str]:
    """What a decoder makes of a stream: its messages, and how it ended."""
    decoder = DelimitedDecoder(message_bytes_max=300)
    messages: list[bytes] = []
    try:
        for piece in pieces:
            messages += decoder.feed(piece)
        decoder.finish()
    except RemoteProtocolError as error:
        return messages, str(error)
    return messages, ""


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=10), st.lists(st.integers(min_value=0)))
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(encode_delimited(message) for message in messages)
    assert _outcome(data, _pieces(data, cuts)) == (messages, "")


@settings(deadline=None)
@given(st.binary(max_size=700), st.lists(st.integers(min_value=0)))
def test_any_bytes_at_all_mean_the_same_whole_split_and_byte_by_byte(data: bytes, cuts: list[int]) -> None:
    whole_messages, whole_end = _outcome(data, iter([data]))
    for pieces in (_pieces(data, cuts), (bytes([byte]) for byte in data)):
        messages, end = _outcome(data, pieces)
        assert end == whole_end
        # Fed whole, a fault hides the messages before it in the same piece.
        assert messages[: len(whole_messages)] == whole_messages


@settings(deadline=None)
@given(st.binary(max_size=2_000))
def test_what_is_kept_is_never_more_than_one_message_and_its_prefix(data: bytes) -> None:
    decoder = DelimitedDecoder(message_bytes_max=64)
    try:
        for byte in data:
            decoder.feed(bytes([byte]))
            assert decoder.pending_bytes <= 64 + 5
    except RemoteProtocolError:
        pass


def test_the_largest_message_passes_and_one_byte_more_is_refused_on_both_sides() -> None:
    largest = b"x" * STATE_MESSAGE_BYTES_MAX
    assert DelimitedDecoder().feed(encode_delimited(largest)) == [largest]
    with pytest.raises(LocalProtocolError, match="65537 bytes is over the limit of 65536"):
        encode_delimited(largest + b"x")
    announced = encode_delimited(largest + b"x", message_bytes_max=STATE_MESSAGE_BYTES_MAX + 1)
    with pytest.raises(RemoteProtocolError, match="at least 65537 bytes announced, the limit is 65536"):
        DelimitedDecoder().feed(announced[:3])


def test_a_length_that_never_ends_is_refused_at_its_fifth_byte() -> None:
    decoder = DelimitedDecoder()
    assert decoder.feed(b"\x80" * 4) == []
    with pytest.raises(RemoteProtocolError, match="not ended after 5 bytes"):
        decoder.feed(b"\x80")


def test_a_stream_that_ends_inside_a_message_says_so() -> None:
    decoder = DelimitedDecoder()
    assert decoder.feed(b"\x03ab") == []
    with pytest.raises(RemoteProtocolError, match="ended inside a message, after 3 bytes"):
        decoder.finish()


def test_an_empty_message_and_a_long_form_of_a_small_length_are_taken_as_protobuf_takes_them() -> None:
    assert DelimitedDecoder().feed(b"\x00\x81\x80\x00a") == [b"", b"a"]
