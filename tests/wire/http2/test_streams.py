"""The table of states, what is remembered of ended streams, and the queue of one stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.http2.streams import (
    AFTER_HEAD,
    AFTER_RECEIVED_END,
    AFTER_SENT_END,
    FINISHED,
    FORGOTTEN,
    RESET_BY_PEER,
    UNUSED,
    SendQueue,
    State,
    Stream,
    StreamTable,
)
from wire.limits import HTTP2_CLOSED_STREAMS_KEPT_MAX

# RFC 9113 figure 2, without the reserved states: (from, a head, our END_STREAM, the peer's END_STREAM).
FIGURE_2: list[tuple[State, State | None, State | None, State | None]] = [
    (State.IDLE, State.OPEN, None, None),
    (State.OPEN, State.OPEN, State.HALF_CLOSED_LOCAL, State.HALF_CLOSED_REMOTE),
    (State.HALF_CLOSED_LOCAL, State.HALF_CLOSED_LOCAL, None, State.CLOSED),
    (State.HALF_CLOSED_REMOTE, State.HALF_CLOSED_REMOTE, State.CLOSED, None),
    (State.CLOSED, None, None, None),
]


@pytest.mark.parametrize(("state", "head", "sent", "received"), FIGURE_2, ids=[row[0].name for row in FIGURE_2])
def test_the_tables_are_figure_2(state: State, head: State | None, sent: State | None, received: State | None) -> None:
    assert AFTER_HEAD[state] is head
    assert AFTER_SENT_END[state] is sent
    assert AFTER_RECEIVED_END[state] is received


def opened(table: StreamTable, stream_id: int, state: State = State.OPEN) -> Stream:
    stream = Stream(stream_id, state, send_window=10, receive_window=7)
    table.live[stream_id] = stream
    table.highest = max(table.highest, stream_id)
    return stream


def test_how_a_stream_ended_is_remembered() -> None:
    table = StreamTable()
    table.finish(opened(table, 1))
    table.reset_by_peer(opened(table, 3))
    table.reset_by_us(opened(table, 5))
    table.reset_by_us(opened(table, 7, State.HALF_CLOSED_REMOTE))
    opened(table, 11)
    assert [table.how_it_ended(stream_id) for stream_id in (1, 3, 5, 7, 9)] == [
        FINISHED,
        RESET_BY_PEER,
        7,
        FINISHED,
        UNUSED,
    ]
    assert list(table.live) == [11]
    assert [table.is_idle(stream_id) for stream_id in (2, 9, 11, 12, 13)] == [True, False, False, True, True]


def test_what_may_still_come_after_a_reset_is_the_window_that_was_left() -> None:
    table = StreamTable()
    table.reset_by_us(opened(table, 1))
    assert table.spend_after_reset(1, 7)
    assert not table.spend_after_reset(1, 1)
    overdrawn = opened(table, 3)
    overdrawn.receive_window = -5
    table.reset_by_us(overdrawn)
    assert table.how_it_ended(3) == 0


def test_the_oldest_ends_are_forgotten() -> None:
    table = StreamTable()
    for number in range(HTTP2_CLOSED_STREAMS_KEPT_MAX):
        table.finish(opened(table, 2 * number + 1))
    assert table.how_it_ended(1) == FINISHED
    table.finish(opened(table, 1_000_001))
    assert table.how_it_ended(1) == FORGOTTEN
    assert table.how_it_ended(3) == FINISHED
    assert table.how_it_ended(999_999) == UNUSED
    assert len(table._ended) == HTTP2_CLOSED_STREAMS_KEPT_MAX


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1), st.lists(st.integers(1, 50)))
def test_a_queue_gives_out_what_was_put_in(chunks: list[bytes], sizes: list[int]) -> None:
    queue = SendQueue()
    whole = b"".join(chunks)
    queue.chunks.extend(chunks)
    queue.queued_bytes = len(whole)
    taken = b""
    for size in sizes:
        if queue.queued_bytes:
            taken += queue.take(min(size, queue.queued_bytes))
        assert len(taken) == queue.sent_bytes == len(whole) - queue.queued_bytes
    assert whole.startswith(taken)
    rest = queue.queued_bytes
    assert taken + (queue.take(rest) if rest else b"") == whole
    assert not queue.chunks


def test_a_large_chunk_is_kept_whole_while_it_is_cut_from() -> None:
    queue = SendQueue()
    whole = bytes(range(256)) * 1_000
    queue.chunks.append(whole)
    queue.queued_bytes = len(whole)
    assert queue.take(1_000) == whole[:1_000]
    assert queue.chunks[0] is whole
