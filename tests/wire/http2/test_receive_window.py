"""What a stream takes while its window is below zero, which our SETTINGS can make it (RFC 9113 section 6.9.2)."""

from __future__ import annotations

from wire.http2.config import Http2Config, Role
from wire.http2.connection import Http2Connection
from wire.http2.events import DataReceived, HeadersReceived, StreamReset
from wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS_ACK,
    ErrorCode,
    encode_data,
    encode_frame,
    encode_settings,
)

_POST = b"\x83\x86\x84\x41\x01a"


def with_a_negative_window() -> Http2Connection:
    """A server that granted 300 bytes to a client which had sent 1,000 before it knew."""
    connection = Http2Connection(Http2Config(Role.SERVER, window_bytes=300), 0.0)
    connection.start()
    request = encode_frame(HEADERS, END_HEADERS, 1, _POST) + encode_data(1, bytes(1_000))
    events = connection.receive(PREFACE + encode_settings({}) + request + SETTINGS_ACK, 0.0)
    assert [type(event) for event in events[-2:]] == [HeadersReceived, DataReceived]
    return connection


def test_an_empty_frame_may_end_a_stream_whose_window_is_below_zero() -> None:
    # Found by fuzzing client and server against each other (section 6.9.1 allows it).
    events = with_a_negative_window().receive(encode_data(1, b"", END_STREAM), 0.0)
    assert events == [DataReceived(1, b"", 0, True)]


def test_one_byte_is_beyond_a_window_below_zero() -> None:
    (event,) = with_a_negative_window().receive(encode_data(1, b"x"), 0.0)
    assert isinstance(event, StreamReset)
    assert event.code == ErrorCode.FLOW_CONTROL_ERROR
