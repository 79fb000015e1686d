"""Each budget of the ledger: the last that is allowed, and the first that ends the connection, with raw frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tests.wire.http2.raw_peer import (
    ACK,
    GET,
    OK,
    PADDED,
    PING,
    POST,
    PRIORITY,
    asking,
    config,
    content,
    frame,
    goaway,
    head,
    rst,
    serving,
    settings,
    take_all,
    window_update,
)
from wire.http2 import AbuseLimits, ConnectionEnded, ErrorCode, Event, Http2Connection, Role
from wire.http2.abuse import ABUSE_REASONS, Abuse, AbuseLedger
from wire.http2.faults import ConnectionFault
from wire.limits import (
    HTTP2_CLOSED_FRAMES_MAX,
    HTTP2_CLOSED_STREAMS_KEPT_MAX,
    HTTP2_EMPTY_DATA_MAX,
    HTTP2_OWN_RESETS_MAX,
    HTTP2_PINGS_MAX,
    HTTP2_PRIORITIES_MAX,
    HTTP2_REFUSED_STREAMS_MAX,
    HTTP2_RESETS_RECEIVED_MAX,
    HTTP2_SETTINGS_MAX,
    HTTP2_UNKNOWN_FRAMES_MAX,
    HTTP2_UNSENT_CONTROL_BYTES_MAX,
    HTTP2_WINDOW_UPDATES_MAX,
)

PING_FRAME = frame(PING, 0, 0, bytes(8))
ROOMY = AbuseLimits(**{row.name: 1_000_000 for row in dataclasses.fields(AbuseLimits) if row.name != "window_s"})


def feed(connection: Http2Connection, flood: list[bytes], now: float = 0.0) -> ConnectionEnded | None:
    """One piece after the other, with our output taken, until the connection ends."""
    for piece in flood:
        events: list[Event] = connection.receive(piece, now)
        take_all(connection)
        if events and isinstance(events[-1], ConnectionEnded):
            assert piece is flood[-1], "it ended too early"
            return events[-1]
    return None


def opened(**changes: Any) -> Http2Connection:
    connection = serving(**changes)
    connection.receive(head(1, POST, end=False), 0.0)
    take_all(connection)
    return connection


def _gone() -> Http2Connection:
    connection = serving()
    connection.receive(goaway(0), 0.0)
    return connection


def _reset() -> Http2Connection:
    connection = opened()
    connection.reset(1, ErrorCode.CANCEL)
    take_all(connection)
    return connection


def _cancelled() -> Http2Connection:
    connection = asking(GET)
    connection.reset(1, ErrorCode.CANCEL)
    take_all(connection)
    return connection


# Reason, how many are allowed after the beginning of a connection, a connection, the nth piece.
FLOODS: list[tuple[str, int, Callable[[], Http2Connection], Callable[[int], bytes]]] = [
    (
        "resets_received",
        HTTP2_RESETS_RECEIVED_MAX,
        serving,
        lambda n: head(2 * n + 1) + rst(2 * n + 1),
    ),
    (
        "own_resets",
        HTTP2_OWN_RESETS_MAX,
        serving,
        lambda n: head(2 * n + 1, POST, end=False) + window_update(2 * n + 1, 0),
    ),
    ("own_resets", HTTP2_OWN_RESETS_MAX, serving, lambda n: head(2 * n + 1) + content(2 * n + 1)),
    ("own_resets", HTTP2_OWN_RESETS_MAX, serving, lambda n: head(2 * n + 1, [(b"x", b"y")])),
    ("refused_streams", HTTP2_REFUSED_STREAMS_MAX, lambda: opened(streams_max=1), lambda n: head(2 * n + 3)),
    ("pings", HTTP2_PINGS_MAX, serving, lambda n: PING_FRAME),
    ("pings", HTTP2_PINGS_MAX, serving, lambda n: frame(PING, ACK, 0, bytes(8))),
    ("settings", HTTP2_SETTINGS_MAX - 1, serving, lambda n: settings()),
    ("priorities", HTTP2_PRIORITIES_MAX, serving, lambda n: frame(PRIORITY, 0, 2 * n + 1, bytes(5))),
    ("empty_data", HTTP2_EMPTY_DATA_MAX, opened, lambda n: content(1, b"")),
    ("empty_data", HTTP2_EMPTY_DATA_MAX, opened, lambda n: frame(0, PADDED, 1, b"\xff" + bytes(255))),
    ("window_updates", HTTP2_WINDOW_UPDATES_MAX, serving, lambda n: window_update(0, 1)),
    ("window_updates", HTTP2_WINDOW_UPDATES_MAX + 8, opened, lambda n: window_update(1, 1)),  # One HEADERS came.
    ("unknown_frames", HTTP2_UNKNOWN_FRAMES_MAX, serving, lambda n: frame(0xEE)),
    ("unknown_frames", HTTP2_UNKNOWN_FRAMES_MAX, _gone, lambda n: goaway(0)),
    ("closed_frames", HTTP2_CLOSED_FRAMES_MAX, _reset, lambda n: head(1, POST, end=False)),
    ("closed_frames", HTTP2_CLOSED_FRAMES_MAX, _cancelled, lambda n: rst(1)),
]


@pytest.mark.parametrize(
    ("reason", "allowed", "begin", "piece"), FLOODS, ids=[f"{row[0]}-{number}" for number, row in enumerate(FLOODS)]
)
def test_so_many_are_allowed_and_one_more_ends_the_connection(
    reason: str, allowed: int, begin: Callable[[], Http2Connection], piece: Callable[[int], bytes]
) -> None:
    flood = [piece(number) for number in range(1, allowed + 2)]
    ended = feed(begin(), flood)
    assert ended is not None
    assert (ended.code, ended.reason) == (ErrorCode.ENHANCE_YOUR_CALM, reason)


def test_every_kind_has_a_flood_in_this_file() -> None:
    assert {row[0] for row in FLOODS} == set(ABUSE_REASONS)


def test_a_late_head_that_is_too_large_counts_as_our_reset() -> None:
    connection = serving(list_bytes_max=1_000)
    flood = [head(2 * n + 1, [*GET, (b"x", b"y" * 2_000)]) for n in range(HTTP2_OWN_RESETS_MAX + 1)]
    ended = feed(connection, flood)
    assert ended is not None
    assert ended.reason == "own_resets"


def test_answers_that_are_not_read_end_the_connection() -> None:
    connection = Http2Connection(config(Role.SERVER, abuse=ROOMY), 0.0)
    connection.start()
    connection.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings(), 0.0)
    take_all(connection)
    fits = HTTP2_UNSENT_CONTROL_BYTES_MAX // len(PING_FRAME)
    assert connection.receive(PING_FRAME * fits, 0.0) == []
    assert connection.unsent_bytes == fits * len(PING_FRAME)
    (ended,) = connection.receive(PING_FRAME, 0.0)
    assert isinstance(ended, ConnectionEnded)
    assert (ended.code, ended.reason) == (ErrorCode.ENHANCE_YOUR_CALM, "unsent_control")


# --- Honest work ---


def test_a_client_with_many_answers_may_cancel_many() -> None:
    connection = serving()
    stream_id = 1
    for _ in range(HTTP2_RESETS_RECEIVED_MAX):
        connection.receive(head(stream_id), 0.0)
        connection.send_headers(stream_id, OK, end_stream=True)
        stream_id += 2
    flood = [head(stream_id + 2 * n) + rst(stream_id + 2 * n) for n in range(2 * HTTP2_RESETS_RECEIVED_MAX + 1)]
    ended = feed(connection, flood)
    assert ended is not None
    assert ended.reason == "resets_received"


def test_a_peer_may_ping_and_widen_windows_for_each_frame_that_we_sent() -> None:
    connection = opened()
    connection.send_headers(1, OK)
    for _ in range(9):
        connection.send_data(1, b"x")
    take_all(connection)
    assert feed(connection, [PING_FRAME] * (HTTP2_PINGS_MAX + 10)) is None
    assert feed(connection, [window_update(0, 1)] * (HTTP2_WINDOW_UPDATES_MAX + 208)) is None
    assert feed(connection, [window_update(0, 1)]) is not None


def test_a_client_may_send_a_priority_with_each_request() -> None:
    connection = serving()
    stream_id = 1
    for _ in range(3 * HTTP2_PRIORITIES_MAX):
        assert feed(connection, [head(stream_id) + frame(PRIORITY, 0, stream_id, bytes(5)) + frame(0x10)]) is None
        connection.send_headers(stream_id, OK, end_stream=True)
        stream_id += 2


def test_a_server_may_refuse_what_a_client_asks_as_often_as_it_asks() -> None:
    connection = asking()
    for _ in range(3 * HTTP2_RESETS_RECEIVED_MAX):
        stream_id = connection.open_stream()
        connection.send_headers(stream_id, GET, end_stream=True)
        assert feed(connection, [rst(stream_id, ErrorCode.REFUSED_STREAM)]) is None


# --- The window ---


def test_the_window_slides() -> None:
    connection = serving()
    for now in (0.0, 34.0, 94.0):
        flood = [PING_FRAME] * (HTTP2_PINGS_MAX if now != 34.0 else 1)
        assert feed(connection, flood, now) is None


def test_what_was_counted_before_counts_in_proportion() -> None:
    ledger = AbuseLedger(AbuseLimits(window_s=10.0, pings_max=10), 0.0)
    ledger.turn(9.0)
    for _ in range(10):
        ledger.count(Abuse.PINGS, "x")
    ledger.turn(15.0)  # Half of the window before is still in sight: it counts 5.
    for _ in range(5):
        ledger.count(Abuse.PINGS, "x")
    with pytest.raises(ConnectionFault):
        ledger.count(Abuse.PINGS, "x")


def test_a_long_silence_forgets_everything() -> None:
    ledger = AbuseLedger(AbuseLimits(window_s=10.0, pings_max=1), 0.0)
    ledger.count(Abuse.PINGS, "x")
    ledger.turn(1_000.0)
    ledger.count(Abuse.PINGS, "x")
    with pytest.raises(ConnectionFault):
        ledger.count(Abuse.PINGS, "x")


def test_every_kind_has_a_budget() -> None:
    limits = AbuseLimits()
    assert [limits.of(kind) > 0 for kind in Abuse] == [True] * len(Abuse)


# --- What is remembered ---


def test_ended_streams_are_forgotten_in_their_order_and_late_frames_then_pass() -> None:
    connection = serving(streams_max=1, abuse=ROOMY)
    last = 2 * HTTP2_CLOSED_STREAMS_KEPT_MAX + 1
    for stream_id in range(1, last + 1, 2):
        connection.receive(head(stream_id), 0.0)
        connection.send_headers(stream_id, OK, end_stream=True)
    take_all(connection)
    assert feed(connection, [content(1), head(1)]) is None  # Forgotten: cannot be told from what was on its way.
    ended = feed(connection, [content(3)])
    assert ended is not None
    assert ended.code == ErrorCode.STREAM_CLOSED
