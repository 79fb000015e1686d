"""Frames byte by byte, as sections 4.1 and 6 of RFC 9113 draw them."""

from __future__ import annotations

import pytest

from wire.http2.frames import (
    ACK,
    END_STREAM,
    PREFACE,
    SETTINGS_ACK,
    ErrorCode,
    Setting,
    encode_block,
    encode_data,
    encode_frame,
    encode_goaway,
    encode_ping,
    encode_rst_stream,
    encode_settings,
    encode_window_update,
)


@pytest.mark.parametrize(
    ("frame", "drawn"),
    [
        (encode_data(1, b"ab"), "000002 00 00 00000001 6162"),
        (encode_data(3, b"", END_STREAM), "000000 00 01 00000003"),
        (encode_rst_stream(5, ErrorCode.CANCEL), "000004 03 00 00000005 00000008"),
        (encode_settings({}), "000000 04 00 00000000"),
        (encode_settings({Setting.ENABLE_PUSH: 0, 0x99: 1}), "00000c 04 00 00000000 0002 00000000 0099 00000001"),
        (SETTINGS_ACK, "000000 04 01 00000000"),
        (encode_ping(b"12345678"), "000008 06 00 00000000 3132333435363738"),
        (encode_ping(b"12345678", ACK), "000008 06 01 00000000 3132333435363738"),
        (encode_goaway(7, ErrorCode.ENHANCE_YOUR_CALM, b"x"), "000009 07 00 00000000 00000007 0000000b 78"),
        (encode_window_update(1, 2**31 - 1), "000004 08 00 00000001 7fffffff"),
        (encode_block(1, b"ab", 0, 2), "000002 01 04 00000001 6162"),
        (encode_block(1, b"abc", END_STREAM, 2), "000002 01 01 00000001 6162 000001 09 04 00000001 63"),
        (encode_block(1, b"abcd", 0, 2), "000002 01 00 00000001 6162 000002 09 04 00000001 6364"),
        (encode_block(1, b"", 0, 2), "000000 01 04 00000001"),
        (encode_frame(0xEE, 0xFF, 2**31 - 1, b"a"), "000001 ee ff 7fffffff 61"),
    ],
)
def test_frames_are_written_as_they_are_drawn(frame: bytes, drawn: str) -> None:
    assert frame == bytes.fromhex(drawn)


def test_the_preface_is_that_of_section_3_4() -> None:
    assert PREFACE.hex() == "505249202a20485454502f322e300d0a0d0a534d0d0a0d0a"
