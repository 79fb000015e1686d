"""Every wait of a connection has an end: just before it, and at it."""

from __future__ import annotations

import math

import pytest

from tests.wire.http2.raw_peer import (
    CONTINUATION,
    END_HEADERS,
    GET,
    HEADERS,
    OK,
    POST,
    PREFACE,
    RST_STREAM,
    SETTINGS_ACK,
    block,
    config,
    content,
    frame,
    head,
    serving,
    settings,
    take_all,
    taken,
    window_update,
)
from wire.http2 import ConnectionEnded, ErrorCode, Http2Connection, Role, StreamReset
from wire.limits import HTTP2_STALLED_BYTES_MAX


def begun(role: Role = Role.SERVER) -> Http2Connection:
    connection = Http2Connection(config(role), 100.0)
    connection.start()
    take_all(connection)
    return connection


def ends_at(connection: Http2Connection, at: float, code: ErrorCode, reason: str) -> None:
    assert connection.wake_at == at
    assert connection.on_wake(at - 0.01) == []
    (event,) = connection.on_wake(at)
    assert isinstance(event, ConnectionEnded)
    assert (event.code, event.reason) == (code, reason)
    assert connection.wake_at == math.inf
    assert connection.closed


@pytest.mark.parametrize("some", [b"", PREFACE[:5], PREFACE, PREFACE + settings()[:8]])
def test_the_preface_and_settings_come_in_time(some: bytes) -> None:
    connection = begun()
    connection.receive(some, 102.9)
    ends_at(connection, 103.0, ErrorCode.PROTOCOL_ERROR, "preface_timeout")


@pytest.mark.parametrize("role", Role)
def test_our_settings_are_acknowledged_in_time(role: Role) -> None:
    connection = begun(role)
    connection.receive((PREFACE if role is Role.SERVER else b"") + settings(), 101.0)
    ends_at(connection, 110.0, ErrorCode.SETTINGS_TIMEOUT, "settings_timeout")


def test_nothing_is_waited_for_once_both_have_begun() -> None:
    connection = begun()
    connection.receive(PREFACE + settings() + SETTINGS_ACK, 101.0)
    assert connection.wake_at == math.inf
    assert connection.on_wake(1e9) == []


def test_a_header_block_comes_whole_in_time_however_many_parts_come() -> None:
    connection = serving()
    whole = block(GET)
    connection.receive(frame(HEADERS, 1, 1, whole[:5]), 10.0)
    connection.receive(frame(CONTINUATION, 0, 1, whole[5:9]), 13.0)
    connection.receive(frame(CONTINUATION, 0, 1, whole[9:12])[:11], 14.0)
    ends_at(connection, 15.0, ErrorCode.ENHANCE_YOUR_CALM, "header_block_timeout")


def test_a_header_block_that_came_whole_is_not_waited_for() -> None:
    connection = serving()
    whole = block(GET)
    connection.receive(frame(HEADERS, 1, 1, whole[:5]), 10.0)
    connection.receive(frame(CONTINUATION, END_HEADERS, 1, whole[5:]), 14.9)
    assert connection.wake_at == math.inf


@pytest.mark.parametrize("part", [head(1)[:1], head(1)[:9], head(1)[:-1], settings(window=1)[:12]])
def test_a_frame_comes_whole_in_time_however_slowly_it_drips(part: bytes) -> None:
    connection = serving()
    connection.receive(part[:-1], 10.0)
    connection.receive(part[-1:], 14.0)
    ends_at(connection, 15.0 if len(part) > 1 else 19.0, ErrorCode.ENHANCE_YOUR_CALM, "header_block_timeout")


def test_each_frame_has_its_own_time() -> None:
    connection = serving()
    two = head(1) + head(3)
    connection.receive(two[:5], 10.0)
    connection.receive(two[5 : len(two) - 1], 14.0)
    assert connection.wake_at == 19.0
    connection.receive(two[-1:], 15.0)
    assert connection.wake_at == math.inf


def test_content_may_come_slowly_for_the_owner_of_its_stream_times_it() -> None:
    connection = serving()
    connection.receive(head(1, POST, end=False), 0.0)
    connection.receive(content(1, bytes(1_000))[:3], 1.0)
    assert connection.wake_at == 6.0
    connection.receive(content(1, bytes(1_000))[3:500], 2.0)
    assert connection.wake_at == math.inf


# --- Streams that wait for windows ---


def waiting(*, stalled_s: float = 30.0, queued: int = 10_000, **windows: int) -> Http2Connection:
    connection = serving(peer=settings(**windows), stalled_s=stalled_s)
    connection.receive(head(1, POST, end=False), 100.0)
    connection.send_headers(1, OK)
    connection.send_data(1, bytes(queued))
    take_all(connection)
    return connection


def look(connection: Http2Connection) -> float:
    """Wake it as it asks; the time of the look."""
    connection.take_drained()
    at = connection.wake_at
    assert connection.on_wake(at) == []
    return at


@pytest.mark.parametrize(("window", "queued"), [(0, 10), (1_000_000, 70_000)], ids=["the stream's", "the connection's"])
def test_a_stream_whose_windows_stay_closed_is_reset(window: int, queued: int) -> None:
    connection = waiting(window=window, queued=queued)
    assert look(connection) == 100.0  # At once: it has to learn when the wait began.
    assert [look(connection) for _ in range(3)] == [107.5, 115.0, 122.5]
    assert connection.wake_at == 130.0
    assert connection.on_wake(130.0) == [
        StreamReset(1, ErrorCode.ENHANCE_YOUR_CALM, False, "its windows let nothing out for 30 s (stalled_s)")
    ]
    assert len(taken(connection, RST_STREAM)) == 1
    assert connection.wake_at == math.inf or connection.on_wake(connection.wake_at) == []
    assert connection.wake_at == math.inf


def test_a_stream_that_waits_for_its_turn_or_for_our_socket_is_not_stalled() -> None:
    connection = serving(peer=settings(window=1_000_000))
    connection.receive(window_update(0, 1_000_000) + head(1), 100.0)
    connection.send_headers(1, OK)
    connection.send_data(1, bytes(200_000))
    assert connection.queued_bytes(1)
    assert connection.wake_at == math.inf


@pytest.mark.parametrize(
    ("step", "alive"), [(HTTP2_STALLED_BYTES_MAX // 4 + 1, True), (HTTP2_STALLED_BYTES_MAX // 4 - 1, False)]
)
def test_a_window_opened_drop_by_drop_keeps_nothing_alive(step: int, alive: bool) -> None:
    connection = waiting(window=0)
    look(connection)
    now = 100.0
    resets = 0
    for _ in range(20):
        now += 7.5
        connection.receive(window_update(1, step), now - 0.1)
        take_all(connection)
        resets += sum(isinstance(event, StreamReset) for event in connection.on_wake(now))
    assert resets == (0 if alive else 1)


def test_nobody_looks_once_everything_has_left() -> None:
    connection = waiting(window=0)
    look(connection)
    connection.receive(window_update(1, 10_000), 101.0)
    take_all(connection)
    assert look(connection) == 107.5
    assert connection.wake_at == math.inf


def test_stalled_streams_count_as_resets_for_the_peers_fault() -> None:
    connection = waiting(window=0)
    ids = range(3, 2 * 101 + 3, 2)
    for stream_id in ids:
        connection.receive(head(stream_id), 100.0)
        connection.send_headers(stream_id, OK)
        connection.send_data(stream_id, b"x")
    take_all(connection)
    look(connection)
    (*resets, last) = connection.on_wake(130.0)
    assert isinstance(last, ConnectionEnded)
    assert last.reason == "own_resets"
    assert len(resets) == 101


def test_stalls_long_ago_count_no_longer() -> None:
    connection = waiting(window=0)
    now = 100.0
    for number in range(1, 5):
        for stream_id in range(200 * number + 1, 200 * number + 121, 2):
            connection.receive(head(stream_id), now)
            connection.send_headers(stream_id, OK)
            connection.send_data(stream_id, b"x")
        take_all(connection)
        connection.on_wake(now)
        assert not any(isinstance(event, ConnectionEnded) for event in connection.on_wake(now + 30.0))
        take_all(connection)
        now += 90.0
    assert connection.streams_open == 0
