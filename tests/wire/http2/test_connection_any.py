"""Whatever a peer sends, in whatever pieces: nothing is raised, nothing grows, and the pieces do not matter."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from tests.wire.http2.conversations import Step, spoilt
from tests.wire.http2.raw_peer import (
    GET,
    OK,
    PREFACE,
    SETTINGS_ACK,
    asking,
    block,
    config,
    content,
    frame,
    head,
    rst,
    serving,
    settings,
    take_all,
    window_update,
)
from wire.http1 import Field
from wire.http2 import (
    ConnectionEnded,
    DataReceived,
    Event,
    HeadersReceived,
    Http2Connection,
    Role,
    StreamReset,
    TrailersReceived,
)
from wire.limits import HTTP2_CLOSED_STREAMS_KEPT_MAX, HTTP2_UNSENT_CONTROL_BYTES_MAX

QUICK = [HealthCheck.too_slow, HealthCheck.data_too_large]
TRAILERS: list[Field] = [(b"grpc-status", b"0")]

ANY_FRAME = st.builds(
    frame,
    st.integers(0, 11),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x0D, 0x20, 0x25]),
    st.sampled_from([0, 1, 2, 3, 5, 7, 9, 0x7FFF_FFFF]),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [block(GET), block(OK), block(TRAILERS), bytes(4), bytes(5), bytes(8), b"\0\0\0\x01", bytes(300)]
        ),
    ),
)
LIKELY_FRAME = st.one_of(
    st.builds(head, st.sampled_from([1, 3, 5, 7, 9]), st.sampled_from([GET, OK, TRAILERS]), end=st.booleans()),
    st.builds(content, st.sampled_from([1, 3, 5, 7]), st.sampled_from([b"", b"x", bytes(9_000)]), end=st.booleans()),
    st.builds(rst, st.sampled_from([1, 3, 5, 7])),
    st.builds(window_update, st.sampled_from([0, 1, 3, 5]), st.sampled_from([0, 1, 50_000, 2**31 - 1])),
    st.sampled_from([settings(window=0), settings(window=1), settings(window=70_000), settings(table=0, frame=16_384)]),
)


def bytes_of(steps: list[Step]) -> bytes:
    return PREFACE + settings() + SETTINGS_ACK + b"".join([step for step in steps if isinstance(step, bytes)])


def fed(pieces: list[bytes]) -> tuple[list[Event], bytes]:
    connection = Http2Connection(config(Role.SERVER, streams_max=4), 0.0)
    connection.start()
    events = [event for piece in pieces for event in connection.receive(piece, 0.0)]
    return events, take_all(connection)


@pytest.mark.slow
@effort(max_examples=100, deadline=None, suppress_health_check=QUICK)
@given(spoilt(), st.lists(st.integers(1, 40), min_size=1, max_size=10))
def test_the_same_bytes_mean_the_same_in_any_pieces(steps: list[Step], sizes: list[int]) -> None:
    data = bytes_of(steps)
    whole = fed([data])
    pieces: list[bytes] = []
    left = data
    while left:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(left[:size])
        left = left[size:]
    assert fed(pieces) == whole
    assert fed([data[place : place + 1] for place in range(len(data))]) == whole


@pytest.mark.slow
@effort(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_taken_without_raising(data: bytes) -> None:
    for connection in (serving(), asking(GET)):
        connection.receive(data, 0.0)
        connection.receive(data, 1.0)
        take_all(connection)


class Application:
    """Answers what it hears, in an order of its own, and keeps the duties of a caller."""

    def __init__(self, connection: Http2Connection) -> None:
        self.connection = connection
        self.open: dict[int, int] = {}  # How far each stream's answer has got.
        self.heard: set[int] = set()

    def take(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case HeadersReceived():
                    assert event.stream_id not in self.heard
                    self.heard.add(event.stream_id)
                    self.open[event.stream_id] = 0
                case DataReceived():
                    assert event.stream_id in self.heard
                    assert len(event.data) <= event.flow_bytes
                    self.connection.credit(event.stream_id, event.flow_bytes)
                case TrailersReceived():
                    assert event.stream_id in self.heard
                case StreamReset():
                    assert event.stream_id in self.heard
                    self.open.pop(event.stream_id, None)
                case ConnectionEnded():
                    self.open.clear()
                case _:
                    pass

    def act(self, choice: int) -> None:
        if not self.open:
            return
        stream_id = sorted(self.open)[choice % len(self.open)]
        step = self.open[stream_id]
        self.open[stream_id] = step + 1
        if step == 0:
            self.connection.send_headers(stream_id, OK)
        elif choice % 5 == 4:
            self.connection.reset(stream_id, 8)
            del self.open[stream_id]
        elif step < 4:
            self.connection.send_data(stream_id, bytes(30_000))
        else:
            del self.open[stream_id]
            if choice % 2:
                self.connection.send_headers(stream_id, TRAILERS, end_stream=True)
            else:
                self.connection.send_data(stream_id, b"", end_stream=True)


@pytest.mark.slow
@effort(max_examples=250, deadline=None, suppress_health_check=QUICK)
@given(st.lists(st.tuples(st.one_of(LIKELY_FRAME, LIKELY_FRAME, ANY_FRAME), st.integers(0, 99)), max_size=60))
def test_no_peer_makes_it_raise_or_grow(steps: list[tuple[bytes, int]]) -> None:
    connection = serving(streams_max=3)
    application = Application(connection)
    now = 0.0
    for data, choice in steps:
        now += 0.1
        application.take(connection.receive(data, now))
        application.act(choice)
        if choice % 3:
            take_all(connection)
        if connection.wake_at <= now:
            application.take(connection.on_wake(now))
        streams = connection._session.streams
        assert connection.streams_open <= 3
        assert set(application.open) <= set(streams.live) or connection.closed
        assert len(streams._ended) <= HTTP2_CLOSED_STREAMS_KEPT_MAX
        assert connection._outbox._control_bytes <= HTTP2_UNSENT_CONTROL_BYTES_MAX + 300
        assert set(connection._outbox._ready) <= set(streams.live)
        assert all(stream.queue is not None for stream in connection._outbox._ready.values())
    application.take(connection.on_wake(now + 1e6))
