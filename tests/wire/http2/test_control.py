"""PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE: sections 6.3 to 6.9 of RFC 9113."""

from __future__ import annotations

import struct

import pytest

from tests.wire.http2.raw_peer import (
    ACK,
    END_HEADERS,
    GET,
    GOAWAY,
    OK,
    PING,
    POST,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    Verdict,
    asking,
    block,
    config,
    content,
    frame,
    frames_of,
    goaway,
    head,
    judge,
    rst,
    serving,
    settings,
    take_all,
    taken,
    window_update,
)
from wire.http2 import (
    ErrorCode,
    GoawayReceived,
    Http2Connection,
    PingAcked,
    Role,
    SettingsReceived,
    StreamReset,
)

PROTOCOL: Verdict = ("connection", ErrorCode.PROTOCOL_ERROR)
SIZE: Verdict = ("connection", ErrorCode.FRAME_SIZE_ERROR)
FLOW: Verdict = ("connection", ErrorCode.FLOW_CONTROL_ERROR)
FINE: Verdict = ()
LARGEST = 2**31 - 1


def priority(stream_id: int, depends_on: int) -> bytes:
    return frame(PRIORITY, 0, stream_id, struct.pack(">IB", depends_on, 15))


# --- 6.3 PRIORITY ---


@pytest.mark.parametrize("size", [0, 4, 6])
def test_priority_is_five_bytes(size: int) -> None:
    connection = serving()
    connection.receive(head(1, POST, end=False), 0.0)
    bad = frame(PRIORITY, 0, 1, bytes(size))
    assert judge(connection, bad)[0] == ("stream", 1, ErrorCode.FRAME_SIZE_ERROR)
    assert judge(serving(), bad)[0] == SIZE  # Nothing can be reset on an idle stream.


def test_a_stream_cannot_depend_on_itself() -> None:
    connection = serving()
    connection.receive(head(1, POST, end=False), 0.0)
    assert judge(connection, priority(1, 1))[0] == ("stream", 1, ErrorCode.PROTOCOL_ERROR)
    assert judge(serving(), priority(1, 0x8000_0001))[0] == PROTOCOL


def test_priority_may_come_on_any_stream() -> None:
    connection = serving()
    connection.receive(head(5) + head(7, POST, end=False) + rst(7), 0.0)
    assert judge(connection, b"".join([priority(stream_id, 0) for stream_id in (1, 2, 3, 5, 7, 9)])) == (FINE, [])


# --- 6.4 RST_STREAM ---


@pytest.mark.parametrize("size", [0, 3, 5])
def test_rst_stream_is_four_bytes(size: int) -> None:
    assert judge(serving(), head(1) + frame(RST_STREAM, 0, 1, bytes(size)))[0] == SIZE


def test_a_reset_ends_the_stream_and_is_told() -> None:
    connection = serving()
    verdict, events = judge(connection, head(1) + rst(1, 0xDEAD))
    assert verdict == FINE
    assert events[1] == StreamReset(1, 0xDEAD, True, "RST_STREAM received")
    assert connection.streams_open == 0
    connection.send_headers(1, OK)
    connection.send_data(1, b"x", end_stream=True)
    assert take_all(connection) == b""
    assert connection.queued_bytes(1) == 0


def test_a_second_reset_of_a_stream_is_ignored() -> None:
    assert judge(serving(), head(1) + rst(1) + rst(1))[0] == FINE


# --- 6.5 SETTINGS ---


@pytest.mark.parametrize(
    ("bad", "verdict"),
    [
        (settings(push=2), PROTOCOL),
        (settings(window=2**31), FLOW),
        (settings(window=2**32 - 1), FLOW),
        (settings(frame=16_383), PROTOCOL),
        (settings(frame=2**24), PROTOCOL),
        (settings(connect=2), PROTOCOL),
        (frame(SETTINGS, 0, 0, bytes(5)), SIZE),
        (frame(SETTINGS, 0, 0, bytes(7)), SIZE),
        (frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
        (settings(push=1), FINE),
        (settings(window=LARGEST), FINE),
        (settings(window=0), FINE),
        (settings(frame=16_384), FINE),
        (settings(frame=2**24 - 1), FINE),
        (settings(table=0, streams=0, list=0, connect=1, x9=7), FINE),
        (settings(), FINE),
    ],
)
def test_a_setting_outside_its_range_is_refused(bad: bytes, verdict: Verdict) -> None:
    assert judge(serving(), bad)[0] == verdict


def test_settings_are_obeyed_told_and_acknowledged() -> None:
    connection = serving()
    events = connection.receive(settings(streams=7, window=11, frame=20_000, table=0, x77=1), 0.0)
    assert events == [SettingsReceived({3: 7, 4: 11, 5: 20_000, 1: 0, 77: 1})]
    assert frames_of(take_all(connection)) == [(SETTINGS, ACK, 0, b"")]
    assert (connection.max_concurrent, connection.initial_window, connection.frame_max) == (7, 11, 20_000)


def test_the_last_of_a_repeated_setting_counts() -> None:
    connection = serving()
    twice = struct.pack(">HIHI", 4, 1, 4, 9)
    assert connection.receive(frame(SETTINGS, 0, 0, twice), 0.0) == [SettingsReceived({4: 9})]
    assert connection.initial_window == 9


def test_a_server_must_not_announce_push() -> None:
    assert judge(asking(), settings(push=1))[0] == PROTOCOL
    assert judge(asking(), settings(push=0))[0] == FINE


def test_extended_connect_cannot_be_taken_back() -> None:
    connection = asking(peer=settings(connect=1))
    assert connection.extended_connect
    assert judge(connection, settings(window=1))[0] == FINE
    assert judge(connection, settings(connect=0))[0] == PROTOCOL


def test_a_limit_of_streams_that_is_not_named_at_first_does_not_exist() -> None:
    assert asking(peer=settings()).max_concurrent == 2**32 - 1
    connection = asking(peer=settings(streams=3))
    connection.receive(settings(window=1), 0.0)
    assert connection.max_concurrent == 3


def test_a_smaller_header_table_is_told_to_the_peer_in_the_next_block() -> None:
    connection = serving(peer=settings(table=0))
    connection.receive(head(1), 0.0)
    connection.send_headers(1, OK, end_stream=True)
    (answer,) = frames_of(take_all(connection))
    assert answer.payload[0] == 0x20


def test_large_heads_are_cut_to_the_peers_frame_size() -> None:
    connection = serving()
    connection.receive(head(1), 0.0)
    connection.send_headers(1, [*OK, (b"x", b"v" * 40_000)], end_stream=True)
    found = frames_of(take_all(connection))
    assert [len(part.payload) <= 16_384 for part in found] == [True] * 3
    assert [(part.kind, part.flags) for part in found] == [(1, 1), (9, 0), (9, END_HEADERS)]


# --- 6.5.3 Synchronization ---


def test_a_window_below_the_default_holds_from_the_ack_of_our_settings() -> None:
    connection = serving(window_bytes=10)
    connection.receive(head(1, POST, end=False), 0.0)
    assert judge(connection, content(1, bytes(10)))[0] == FINE
    assert judge(connection, content(1, b"x"))[0] == ("stream", 1, ErrorCode.FLOW_CONTROL_ERROR)


# --- 6.6 PUSH_PROMISE ---


def test_push_promise_is_refused_by_both_ends() -> None:
    promise = frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + block(GET))
    assert judge(serving(), head(1) + promise)[0] == PROTOCOL
    assert judge(asking(GET), promise)[0] == PROTOCOL


# --- 6.7 PING ---


@pytest.mark.parametrize("size", [0, 7, 9])
def test_ping_is_eight_bytes(size: int) -> None:
    assert judge(serving(), frame(PING, 0, 0, bytes(size)))[0] == SIZE
    assert judge(serving(), frame(PING, ACK, 0, bytes(size)))[0] == SIZE


def test_a_ping_comes_back_before_what_waited_longer() -> None:
    connection = serving()
    connection.receive(head(1), 0.0)
    connection.send_headers(1, OK)
    connection.receive(frame(PING, 0, 0, b"whatever"), 0.0)
    assert [found[:3] for found in frames_of(take_all(connection))] == [(PING, ACK, 0), (1, END_HEADERS, 1)]


def test_an_ack_is_told_once_and_only_if_we_asked() -> None:
    connection = serving()
    connection.ping(b"12345678")
    assert taken(connection, PING) == [(PING, 0, 0, b"12345678")]
    assert connection.receive(frame(PING, ACK, 0, b"87654321"), 0.0) == []
    assert connection.receive(frame(PING, ACK, 0, b"12345678"), 0.0) == [PingAcked(b"12345678")]
    assert connection.receive(frame(PING, ACK, 0, b"12345678"), 0.0) == []


# --- 6.8 GOAWAY ---


@pytest.mark.parametrize("size", [0, 7])
def test_goaway_is_eight_bytes_at_least(size: int) -> None:
    assert judge(serving(), frame(GOAWAY, 0, 0, bytes(size)))[0] == SIZE


def test_streams_above_a_goaway_were_not_processed_and_lower_ones_go_on() -> None:
    connection = asking(GET, GET, GET)
    events = connection.receive(goaway(1, 0, b"bye"), 0.0)
    assert events[0] == GoawayReceived(1, 0, b"bye")
    assert [(event.stream_id, event.code, event.remote) for event in events if isinstance(event, StreamReset)] == [
        (3, ErrorCode.REFUSED_STREAM, True),
        (5, ErrorCode.REFUSED_STREAM, True),
    ]
    assert not connection.can_open
    assert not connection.closed
    assert judge(connection, head(1, OK))[0] == FINE
    assert connection.closed


def test_a_second_goaway_names_the_last_stream() -> None:
    connection = asking(GET, GET)
    assert connection.receive(goaway(LARGEST), 0.0) == [GoawayReceived(LARGEST, 0, b"")]
    assert connection.streams_open == 2
    assert len(connection.receive(goaway(1), 0.0)) == 2
    assert connection.streams_open == 1


def test_a_client_that_goes_away_is_served_to_the_end() -> None:
    connection = serving()
    connection.receive(head(1) + goaway(0), 0.0)
    assert connection.streams_open == 1
    connection.send_headers(1, OK, end_stream=True)
    assert len(frames_of(take_all(connection))) == 1


# --- 6.9 WINDOW_UPDATE ---


@pytest.mark.parametrize("size", [0, 3, 5])
def test_window_update_is_four_bytes(size: int) -> None:
    assert judge(serving(), frame(WINDOW_UPDATE, 0, 0, bytes(size)))[0] == SIZE
    assert judge(serving(), head(1) + frame(WINDOW_UPDATE, 0, 1, bytes(size)))[0] == SIZE


def test_an_increment_of_zero_is_a_fault() -> None:
    assert judge(serving(), window_update(0, 0))[0] == PROTOCOL
    assert judge(serving(), window_update(0, 0x8000_0000))[0] == PROTOCOL
    assert judge(serving(), head(1) + window_update(1, 0))[0] == ("stream", 1, ErrorCode.PROTOCOL_ERROR)


def test_a_window_cannot_pass_its_maximum() -> None:
    connection = serving()
    assert judge(connection, window_update(0, LARGEST - 65_535))[0] == FINE
    assert judge(connection, window_update(0, 1))[0] == FLOW
    connection = serving()
    assert judge(connection, head(1) + window_update(1, LARGEST - 65_535))[0] == FINE
    assert judge(connection, window_update(1, 1))[0] == ("stream", 1, ErrorCode.FLOW_CONTROL_ERROR)


def test_a_larger_initial_window_cannot_lift_a_stream_over_the_maximum() -> None:
    connection = serving()
    connection.receive(head(1) + window_update(1, LARGEST - 65_535), 0.0)
    assert judge(connection, settings(window=65_536))[0] == FLOW


def test_an_ack_of_settings_that_were_not_sent_changes_nothing() -> None:
    assert judge(serving(), SETTINGS_ACK * 3) == (FINE, [])


def test_until_our_settings_are_acknowledged_a_stream_may_use_the_default_window() -> None:
    connection = Http2Connection(config(Role.SERVER, window_bytes=10), 0.0)
    connection.start()
    connection.receive(PREFACE + settings() + head(1, POST, end=False) + head(3, POST, end=False), 0.0)
    take_all(connection)
    assert judge(connection, content(1, bytes(16_000)))[0] == FINE
    # From the ACK on the window of an open stream is what it has used less: -15,990, and 10.
    connection.receive(SETTINGS_ACK, 0.0)
    assert judge(connection, content(3, bytes(10)))[0] == FINE
    assert judge(connection, content(3, b"x"))[0] == ("stream", 3, ErrorCode.FLOW_CONTROL_ERROR)
    connection.credit(1, 15_999)
    assert judge(connection, content(1, bytes(9)))[0] == FINE
    assert judge(connection, content(1, b"x"))[0] == ("stream", 1, ErrorCode.FLOW_CONTROL_ERROR)
