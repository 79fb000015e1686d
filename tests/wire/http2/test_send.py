"""What leaves, in which order and how much of it: section 5.2 and 6.9 of RFC 9113 from the sender's side."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from tests.wire.http2.raw_peer import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    OK,
    PING,
    POST,
    RST_STREAM,
    SETTINGS,
    Frame,
    content,
    frame,
    frames_of,
    head,
    rst,
    serving,
    settings,
    take_all,
    taken,
    window_update,
)
from wire.http1 import Field
from wire.http2 import DataReceived, Drained, ErrorCode, Http2Connection
from wire.http2.send import OUTPUT_BYTES_MAX

TRAILERS: list[Field] = [(b"grpc-status", b"0")]


def answering(*stream_ids: int, window: int = 65_535, connection_window: int = 0) -> Http2Connection:
    """A server whose answers have begun on these streams. `connection_window`: beyond the default."""
    connection = serving(peer=settings(window=window))
    if connection_window:
        connection.receive(window_update(0, connection_window), 0.0)
    for stream_id in stream_ids:
        connection.receive(head(stream_id, POST, end=False), 0.0)
        connection.send_headers(stream_id, OK)
    take_all(connection)
    return connection


def sizes(found: list[Frame]) -> list[tuple[int, int]]:
    return [(one.stream_id, len(one.payload)) for one in found if one.kind == DATA]


# --- Order ---


def test_heads_never_wait_for_windows() -> None:
    connection = answering(1, window=0)
    connection.send_data(1, bytes(100_000))
    assert take_all(connection) == b""
    connection.receive(head(3), 0.0)
    connection.send_headers(3, OK, end_stream=True)
    assert [found.stream_id for found in taken(connection, HEADERS)] == [3]


def test_trailers_leave_behind_the_content_of_their_stream() -> None:
    connection = answering(1, window=5)
    connection.send_data(1, b"0123456789")
    connection.send_headers(1, TRAILERS, end_stream=True)
    assert sizes(frames_of(take_all(connection))) == [(1, 5)]
    connection.receive(window_update(1, 4), 0.0)
    assert sizes(frames_of(take_all(connection))) == [(1, 4)]
    connection.receive(window_update(1, 1), 0.0)
    last, trailers = frames_of(take_all(connection))
    assert (last.kind, last.flags, last.payload) == (DATA, 0, b"9")
    assert (trailers.kind, trailers.flags) == (HEADERS, END_HEADERS | END_STREAM)


def test_trailers_leave_at_once_when_nothing_waits() -> None:
    connection = answering(1)
    connection.send_data(1, b"x")
    connection.send_headers(1, TRAILERS, end_stream=True)
    assert [found.kind for found in frames_of(take_all(connection))] == [DATA, HEADERS]


def test_the_end_stands_on_the_last_frame_of_what_waited() -> None:
    connection = answering(1, window=3)
    connection.send_data(1, b"abcdef", end_stream=True)
    assert [found.flags for found in frames_of(take_all(connection))] == [0]
    connection.receive(window_update(1, 3), 0.0)
    assert frames_of(take_all(connection)) == [(DATA, END_STREAM, 1, b"def")]
    assert connection.streams_open == 1  # The peer has not ended its side.


def test_an_end_given_later_stands_behind_what_waits() -> None:
    connection = answering(1, window=3)
    connection.send_data(1, b"abcd")
    connection.send_data(1, b"", end_stream=True)
    take_all(connection)
    connection.receive(window_update(1, 1), 0.0)
    assert frames_of(take_all(connection)) == [(DATA, END_STREAM, 1, b"d")]


def test_an_empty_end_needs_no_window() -> None:
    connection = answering(1, window=0)
    connection.send_data(1, b"", end_stream=True)
    assert frames_of(take_all(connection)) == [(DATA, END_STREAM, 1, b"")]


def test_nothing_is_sent_for_nothing() -> None:
    connection = answering(1)
    connection.send_data(1, b"")
    assert not connection.has_output


def test_a_reset_keeps_its_place_behind_what_was_sent_and_drops_what_waits() -> None:
    connection = answering(1, window=2)
    connection.send_data(1, b"abcd")
    connection.reset(1, ErrorCode.CANCEL)
    assert [found.kind for found in frames_of(take_all(connection))] == [RST_STREAM]
    connection = answering(1, window=4)
    connection.send_data(1, b"abcd")
    connection.reset(1, ErrorCode.CANCEL)
    assert [found.kind for found in frames_of(take_all(connection))] == [DATA, RST_STREAM]


def test_an_ack_of_settings_keeps_its_place_and_a_ping_overtakes() -> None:
    connection = answering(1)
    connection.send_data(1, b"x")
    connection.receive(settings(table=0) + frame(PING, 0, 0, bytes(8)), 0.0)
    assert [found.kind for found in frames_of(take_all(connection))] == [PING, DATA, SETTINGS]


# --- Windows ---


def test_nothing_leaves_beyond_the_windows_of_stream_and_connection() -> None:
    connection = answering(1, 3, window=40_000)
    connection.send_data(1, bytes(50_000))
    connection.send_data(3, bytes(50_000))
    sent = sizes(frames_of(take_all(connection)))
    assert sum(size for _, size in sent) == 65_535
    assert not connection.has_output
    connection.receive(window_update(0, 100_000), 0.0)
    rest = Counter[int]()
    for stream_id, size in sent + sizes(frames_of(take_all(connection))):
        rest[stream_id] += size
    assert rest == {1: 40_000, 3: 40_000}
    assert (connection.queued_bytes(1), connection.queued_bytes(3)) == (10_000, 10_000)


def test_a_window_of_one_byte_lets_out_one_byte() -> None:
    connection = answering(1, window=1)
    connection.send_data(1, b"abc", end_stream=True)
    found = frames_of(take_all(connection))
    for _ in range(2):
        connection.receive(window_update(1, 1), 0.0)
        found += frames_of(take_all(connection))
    assert [(one.payload, one.flags) for one in found] == [(b"a", 0), (b"b", 0), (b"c", END_STREAM)]


def test_a_window_shrunk_below_zero_must_first_be_made_good() -> None:
    connection = answering(1, window=10)
    connection.send_data(1, bytes(8))
    take_all(connection)
    connection.receive(settings(window=3), 0.0)  # 10 - 8 - 7 is -5.
    connection.send_data(1, b"ab")
    assert taken(connection, DATA) == []
    connection.receive(window_update(1, 5), 0.0)
    assert taken(connection, DATA) == []
    connection.receive(window_update(1, 1), 0.0)
    assert [found.payload for found in taken(connection, DATA)] == [b"a"]
    connection.receive(settings(window=4), 0.0)
    assert [found.payload for found in taken(connection, DATA)] == [b"b"]


def test_a_stream_that_was_ready_waits_when_settings_take_its_window() -> None:
    connection = answering(1, 3, window=70_000)
    connection.send_data(1, bytes(70_000))  # The connection's window is empty then.
    take_all(connection)
    connection.send_data(3, b"abc")
    connection.receive(settings(window=0) + window_update(0, 100), 0.0)
    assert taken(connection, DATA) == []
    connection.receive(settings(window=2), 0.0)
    assert sizes(frames_of(take_all(connection))) == [(3, 2)]


# --- Turns ---


def test_streams_take_turns_of_one_frame() -> None:
    connection = answering(1, 3, 5, window=1 << 20, connection_window=1 << 20)
    connection.receive(settings(frame=1 << 20), 0.0)
    take_all(connection)
    for stream_id in (1, 3, 5):
        connection.send_data(stream_id, bytes(40_000))
    assert sizes(frames_of(take_all(connection))) == [
        (1, 16_384),
        (3, 16_384),
        (5, 16_384),
        (1, 16_384),
        (3, 16_384),
        (5, 16_384),
        (1, 7_232),
        (3, 7_232),
        (5, 7_232),
    ]


def test_a_stream_without_window_holds_up_no_other() -> None:
    connection = answering(1, 3, window=10)
    connection.send_data(1, bytes(100))
    connection.send_data(3, b"quick", end_stream=True)
    assert sizes(frames_of(take_all(connection))) == [(1, 10), (3, 5)]


def test_small_pieces_that_wait_leave_in_one_frame() -> None:
    connection = answering(1, window=0)
    for number in range(100):
        connection.send_data(1, b"%02d" % number)
    connection.receive(window_update(1, 150), 0.0)
    (first,) = frames_of(take_all(connection))
    assert first.payload == b"".join([b"%02d" % number for number in range(75)])
    connection.receive(window_update(1, 51), 0.0)
    assert len(frames_of(take_all(connection))[0].payload) == 50


def test_output_that_is_not_taken_stays_bounded_and_its_streams_equal() -> None:
    connection = answering(1, 3, window=1 << 20, connection_window=1 << 20)
    for _ in range(60):
        connection.send_data(1, bytes(10_000))
    connection.send_data(3, bytes(1_000))
    assert connection.queued_bytes(1) >= 60 * 10_000 - OUTPUT_BYTES_MAX - 10_000
    once = connection.take_output()
    assert len(once) <= OUTPUT_BYTES_MAX + 16_384 + 1_000
    second = sizes(frames_of(connection.take_output()))
    assert (3, 1_000) in second


def test_a_stream_that_was_reset_takes_no_turn() -> None:
    connection = answering(1, 3, window=1 << 20)
    connection.send_data(1, bytes(65_535))
    connection.send_data(3, bytes(10))
    connection.receive(rst(1) + window_update(0, 10), 0.0)
    sent = sizes(frames_of(take_all(connection)))
    assert sent[-1] == (3, 10)
    assert (1, 65_535 % 16_384) not in sent[3:]


# --- Marks ---


def test_a_drained_queue_is_told_once_when_it_had_been_high() -> None:
    connection = answering(1, window=0, connection_window=1 << 20)
    connection.send_data(1, bytes(65_536))
    connection.receive(window_update(1, 65_536), 0.0)
    take_all(connection)
    assert connection.take_drained() == []
    connection.send_data(1, bytes(65_537))
    assert connection.receive(window_update(1, 49_153), 0.0) == []
    take_all(connection)
    assert (connection.queued_bytes(1), connection.take_drained()) == (16_384, [])
    connection.receive(window_update(1, 1), 0.0)
    take_all(connection)
    assert connection.wake_at == 0.0
    assert connection.on_wake(0.0) == [Drained(1)]
    assert connection.on_wake(0.0) == []
    assert connection.take_drained() == []


def test_a_drained_queue_is_told_with_what_is_received_next() -> None:
    connection = answering(1, window=0, connection_window=1 << 20)
    connection.send_data(1, bytes(70_000))
    connection.receive(window_update(1, 70_000), 0.0)
    take_all(connection)
    assert connection.receive(frame(PING, 0, 0, bytes(8)), 0.0) == [Drained(1)]


def test_a_stream_that_is_gone_is_not_drained() -> None:
    connection = answering(1, window=0, connection_window=1 << 20)
    connection.send_data(1, bytes(70_000))
    connection.receive(window_update(1, 70_000), 0.0)
    take_all(connection)
    connection.reset(1, ErrorCode.CANCEL)
    assert connection.take_drained() == []


# --- Properties ---

SENDS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from([1, 3, 5]), st.integers(0, 50_000)),
        st.tuples(st.just("stream"), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2, 1_000, 40_000])),
        st.tuples(st.just("connection"), st.just(0), st.sampled_from([1, 30_000, 200_000])),
        st.tuples(st.just("initial"), st.just(0), st.sampled_from([0, 1, 1_000, 65_535, 100_000])),
        st.tuples(st.just("take"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@pytest.mark.slow
@effort(max_examples=150, deadline=None)
@given(SENDS)
def test_what_leaves_is_what_was_given_in_order_and_within_every_window(steps: list[tuple[str, int, int]]) -> None:
    connection = answering(1, 3, 5)
    given_bytes = {1: b"", 3: b"", 5: b""}
    left = {1: b"", 3: b"", 5: b""}
    windows = {0: 65_535, 1: 65_535, 3: 65_535, 5: 65_535}
    initial = 65_535

    def take() -> None:
        for found in frames_of(connection.take_output()):
            if found.kind == DATA:
                left[found.stream_id] += found.payload
                windows[found.stream_id] -= len(found.payload)
                windows[0] -= len(found.payload)
                assert 0 < len(found.payload) <= 16_384
                assert windows[0] >= 0
                assert windows[found.stream_id] >= 0

    for step, stream_id, size in steps:
        if step == "send":
            piece = bytes(((stream_id + len(given_bytes[stream_id])) & 0xFF,)) * size
            given_bytes[stream_id] += piece
            connection.send_data(stream_id, piece)
        elif step in ("stream", "connection"):
            windows[stream_id] += size
            connection.receive(window_update(stream_id, size), 0.0)
        elif step == "initial":
            take()  # What is placed already was within the windows as they were.
            for one in (1, 3, 5):
                windows[one] += size - initial
            initial = size
            connection.receive(settings(window=size), 0.0)
        else:
            take()
    while connection.has_output:
        take()
    for stream_id in (1, 3, 5):
        assert given_bytes[stream_id].startswith(left[stream_id])
        waits = len(given_bytes[stream_id]) - len(left[stream_id])
        assert connection.queued_bytes(stream_id) == waits
        assert not waits or windows[0] == 0 or windows[stream_id] <= 0


@effort(max_examples=100, deadline=None)
@given(st.lists(st.integers(20_000, 200_000), min_size=2, max_size=6), st.integers(60_000, 400_000))
def test_no_stream_that_can_send_falls_a_frame_behind_another(queued: list[int], window: int) -> None:
    stream_ids = [2 * number + 1 for number in range(len(queued))]
    connection = answering(*stream_ids, window=1 << 20)
    connection.send_data(1, bytes(65_535))
    take_all(connection)  # The connection's window is used up: all that follows is queued.
    for stream_id, size in zip(stream_ids, queued, strict=True):
        connection.send_data(stream_id, bytes(size))
    connection.receive(window_update(0, window), 0.0)
    sent = Counter[int]()
    while connection.has_output:
        for stream_id, size in sizes(frames_of(connection.take_output())):
            sent[stream_id] += size
            waiting = [one for one, all_of_it in zip(stream_ids, queued, strict=True) if sent[one] < all_of_it]
            assert all(sent[stream_id] - sent[one] <= 16_384 for one in waiting)


@effort(max_examples=100, deadline=None)
@given(
    st.integers(1, 100_000),
    st.lists(st.tuples(st.sampled_from([1, 3]), st.integers(1, 16_384)), max_size=60),
)
def test_credit_given_is_credit_announced_up_to_half_a_window(window: int, pieces: list[tuple[int, int]]) -> None:
    connection = serving(window_bytes=window, connection_window_bytes=max(window, 65_535))
    connection.receive(head(1, POST, end=False) + head(3, POST, end=False), 0.0)
    take_all(connection)
    may_send = {0: max(window, 65_535), 1: window, 3: window}
    full = dict(may_send)
    for stream_id, size in pieces:
        size = min(size, may_send[0], may_send[stream_id])
        assert size > 0, "the peer stands still although everything was consumed"
        (event,) = connection.receive(content(stream_id, bytes(size)), 0.0)
        assert isinstance(event, DataReceived)
        may_send[0] -= size
        may_send[stream_id] -= size
        connection.credit(stream_id, event.flow_bytes)
        for found in taken(connection, 8):
            may_send[found.stream_id] += int.from_bytes(found.payload, "big")
        for one, held in may_send.items():
            assert full[one] - held < max(full[one] // 2, 1)


def test_the_connection_is_credited_for_streams_that_are_gone() -> None:
    connection = serving(window_bytes=65_535, connection_window_bytes=65_535)
    connection.receive(head(1, POST, end=False) + content(1, bytes(16_384)) * 2 + rst(1), 0.0)
    connection.credit(1, 16_384)
    connection.credit(1, 16_384)
    (update,) = taken(connection, 8)
    assert (update.stream_id, update.payload) == (0, (32_768).to_bytes(4, "big"))


@pytest.mark.parametrize("window", [1, 2, 3])
def test_the_smallest_windows_are_given_back_at_once(window: int) -> None:
    connection = serving(window_bytes=window)
    connection.receive(head(1, POST, end=False), 0.0)
    for _ in range(10):
        connection.receive(content(1, bytes(window)), 0.0)
        connection.credit(1, window)
        assert sum(int.from_bytes(found.payload, "big") for found in taken(connection, 8)) == window


def test_content_that_is_a_fault_of_its_stream_is_credited_to_the_connection() -> None:
    connection = serving(window_bytes=65_535, connection_window_bytes=65_535)
    connection.receive(head(1, [*POST, (b"content-length", b"1")], end=False) + head(3), 0.0)
    take_all(connection)
    connection.receive(content(1, bytes(16_384)) + content(3, bytes(16_384)), 0.0)
    (update,) = taken(connection, 8)
    assert (update.stream_id, update.payload) == (0, (32_768).to_bytes(4, "big"))


def test_a_stream_whose_peer_has_ended_is_not_widened() -> None:
    connection = serving(window_bytes=20_000)
    connection.receive(head(1, POST, end=False) + content(1, bytes(16_384), end=True), 0.0)
    take_all(connection)
    connection.credit(1, 16_384)
    assert taken(connection, 8) == []
