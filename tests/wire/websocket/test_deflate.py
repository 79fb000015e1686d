from __future__ import annotations

import contextlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.limits import WEBSOCKET_DEFLATE_STREAMS_MAX
from wire.websocket.deflate import (
    DeflateConfig,
    Deflater,
    DeflateTerms,
    InflatedTooLong,
    InflateFailed,
    Inflater,
    agree,
)
from wire.websocket.extensions import parse_offers

KEEP = DeflateConfig(keep_our_window=True, keep_their_window=True, message_bytes_min=0)
FORGET = DeflateConfig(message_bytes_min=0)


def terms(offer: bytes, config: DeflateConfig = FORGET) -> DeflateTerms | None:
    return agree(parse_offers(offer, offers_max=8), config)


def agreed(offer: bytes = b"permessage-deflate", config: DeflateConfig = FORGET) -> DeflateTerms:
    found = terms(offer, config)
    assert found is not None
    return found


def packed(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


# --- terms (RFC 7692 section 7.1) ---


@pytest.mark.parametrize(
    ("offer", "config", "answer"),
    [
        (b"permessage-deflate", KEEP, b"permessage-deflate"),
        (
            b"permessage-deflate",
            FORGET,
            b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        (
            b"permessage-deflate; server_no_context_takeover",
            KEEP,
            b"permessage-deflate; server_no_context_takeover",
        ),
        (
            b"permessage-deflate; client_no_context_takeover",
            KEEP,
            b"permessage-deflate; client_no_context_takeover",
        ),
        (b"permessage-deflate; client_max_window_bits", KEEP, b"permessage-deflate"),
        (b"permessage-deflate; client_max_window_bits=9", KEEP, b"permessage-deflate"),
        (
            b'permessage-deflate; server_max_window_bits="10"',
            KEEP,
            b"permessage-deflate; server_max_window_bits=10",
        ),
        (b"x-other, permessage-deflate; server_max_window_bits=8, permessage-deflate", KEEP, b"permessage-deflate"),
    ],
)
def test_the_first_offer_that_can_be_kept_is_agreed_to(offer: bytes, config: DeflateConfig, answer: bytes) -> None:
    assert agreed(offer, config).encode() == answer


@pytest.mark.parametrize(
    "offer",
    [
        b"",
        b"x-webkit-deflate-frame",
        b"permessage-deflate; unknown",
        b"permessage-deflate; server_no_context_takeover=1",
        b"permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; server_max_window_bits=7",
        b"permessage-deflate; server_max_window_bits=8",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; server_max_window_bits=09",
        b"permessage-deflate; client_max_window_bits=0",
        b"permessage-deflate; client_max_window_bits=abc",
    ],
)
def test_an_offer_that_is_wrong_or_cannot_be_kept_is_declined(offer: bytes) -> None:
    assert terms(offer) is None


# --- deflating ---


def test_messages_of_either_kind_of_terms_can_be_inflated() -> None:
    for config in (KEEP, FORGET):
        deflater, inflater = Deflater(agreed(config=config)), Inflater(agreed(config=config))
        for message in (b"token " * 100, b"token " * 100, b"y" * 100_000):
            payload = deflater.deflate(message)
            assert payload is not None
            assert inflater.inflate(payload, len(message)) + inflater.finish(len(message)) == message


def test_a_kept_window_makes_the_second_of_two_equal_messages_short() -> None:
    message = bytes(range(256)) * 4
    deflater = Deflater(agreed(config=KEEP))
    first, second = deflater.deflate(message), deflater.deflate(message)
    assert first is not None and second is not None
    assert len(second) < len(first) / 8


def test_what_does_not_get_shorter_goes_out_as_it_is_unless_the_window_is_kept() -> None:
    assert Deflater(agreed(config=FORGET)).deflate(bytes(range(256))) is None
    assert Deflater(agreed(config=KEEP)).deflate(bytes(range(256))) is not None


def test_short_messages_go_out_as_they_are() -> None:
    deflater = Deflater(agreed(config=DeflateConfig(message_bytes_min=100)))
    assert deflater.deflate(b"a" * 99) is None
    assert deflater.deflate(b"a" * 100) is not None


def test_empty_messages_are_one_zero_byte_each_time() -> None:
    deflater = Deflater(agreed(config=KEEP))
    assert [deflater.deflate(b"") for _ in range(3)] == [b"\x00"] * 3


def test_the_window_is_no_larger_than_the_client_can_hold() -> None:
    deflater = Deflater(agreed(b"permessage-deflate; server_max_window_bits=9", KEEP))
    message = b"".join(b"%08d" % number for number in range(1000)) * 2
    payload = deflater.deflate(message)
    assert payload is not None
    assert zlib.decompressobj(-9).decompress(payload + b"\x00\x00\xff\xff") == message


# --- inflating ---


def test_examples_of_the_standard_are_inflated() -> None:
    # RFC 7692 section 7.2.3: one block, in two pieces, none at all, a final block, two blocks.
    inflater = Inflater(agreed(config=KEEP))
    assert inflater.inflate(bytes.fromhex("f248cdc9c90700"), 100) + inflater.finish(100) == b"Hello"
    assert inflater.inflate(bytes.fromhex("f200110000"), 100) + inflater.finish(100) == b"Hello"
    fresh = Inflater(agreed())
    assert fresh.inflate(bytes.fromhex("f248cd"), 9) + fresh.inflate(bytes.fromhex("c9c90700"), 9) == b"Hello"
    assert fresh.finish(9) == b""
    assert fresh.inflate(bytes.fromhex("000500faff48656c6c6f00"), 9) + fresh.finish(9) == b"Hello"
    assert fresh.inflate(bytes.fromhex("f348cdc9c9070000"), 9) + fresh.finish(9) == b"Hello"
    assert fresh.inflate(bytes.fromhex("f24805000000ffffcac9c90700"), 9) + fresh.finish(9) == b"Hello"


def test_exactly_the_limit_comes_out_and_one_byte_more_is_refused() -> None:
    payload = packed(b"x" * 1000)
    inflater = Inflater(agreed())
    assert len(inflater.inflate(payload, 1000) + inflater.finish(0)) == 1000
    with pytest.raises(InflatedTooLong):
        Inflater(agreed()).inflate(payload, 999)


def test_a_bomb_costs_its_limit_and_no_more() -> None:
    bomb = packed(b"\x00" * (64 << 20))
    assert len(bomb) < 70_000
    with pytest.raises(InflatedTooLong):
        Inflater(agreed()).inflate(bomb, 1000)


def test_what_is_not_deflated_fails() -> None:
    with pytest.raises(InflateFailed):
        Inflater(agreed()).inflate(b"\xff\xff\xff\xff", 1000)


def test_a_message_that_refers_to_a_window_that_is_not_kept_fails() -> None:
    deflater = Deflater(agreed(config=KEEP))
    first, second = deflater.deflate(b"abcdefgh" * 10), deflater.deflate(b"abcdefgh" * 10)
    assert first is not None and second is not None
    inflater = Inflater(agreed(config=FORGET))
    inflater.inflate(first, 1000)
    inflater.finish(1000)
    with pytest.raises(InflateFailed):
        inflater.inflate(second, 1000)


def test_a_message_may_hold_several_streams_and_no_more_than_the_limit() -> None:
    empty = b"\x03\x00"  # A final block without content.
    inflater = Inflater(agreed())
    for _ in range(2):  # Counted anew for each message.
        assert inflater.inflate(empty * WEBSOCKET_DEFLATE_STREAMS_MAX + packed(b"end"), 10) == b"end"
        assert inflater.finish(10) == b""
    with pytest.raises(InflateFailed, match="streams"):
        inflater.inflate(empty * (WEBSOCKET_DEFLATE_STREAMS_MAX + 1), 10)


def test_a_stream_that_ends_with_its_message_needs_no_tail() -> None:
    stream = zlib.compressobj(wbits=-15)
    final = stream.compress(b"whole") + stream.flush(zlib.Z_FINISH)
    inflater = Inflater(agreed(config=KEEP))
    assert inflater.inflate(final, 10) + inflater.finish(10) == b"whole"
    assert inflater.inflate(packed(b"next"), 10) + inflater.finish(10) == b"next"


@given(st.binary(max_size=300), st.integers(0, 50))
def test_any_bytes_inflate_within_the_limit_or_are_refused(data: bytes, limit: int) -> None:
    inflater = Inflater(agreed())
    with contextlib.suppress(InflateFailed, InflatedTooLong):
        assert len(inflater.inflate(data, limit)) <= limit


@given(st.lists(st.binary(max_size=200), max_size=5), st.booleans())
def test_what_was_deflated_comes_out_again(messages: list[bytes], keep: bool) -> None:
    config = KEEP if keep else FORGET
    deflater, inflater = Deflater(agreed(config=config)), Inflater(agreed(config=config))
    for message in messages:
        payload = deflater.deflate(message)
        if payload is not None:
            assert inflater.inflate(payload, 200) + inflater.finish(200) == message
