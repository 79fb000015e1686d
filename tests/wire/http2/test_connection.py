"""What a caller may do with a connection, and what it may not: opening, sending, draining, ending."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.wire.http2.raw_peer import (
    ACK,
    GET,
    GOAWAY,
    HEADERS,
    OK,
    PING,
    POST,
    RST_STREAM,
    Frame,
    asking,
    block,
    config,
    content,
    frame,
    frames_of,
    goaway,
    head,
    judge,
    serving,
    settings,
    take_all,
    taken,
)
from wire.errors import LocalProtocolError
from wire.http1 import Field
from wire.http2 import (
    ConnectionEnded,
    DataReceived,
    ErrorCode,
    Event,
    HeadersReceived,
    Http2Connection,
    InterimReceived,
    Role,
    SettingsReceived,
    TrailersReceived,
)

LAST = 2**31 - 1
TRAILERS: list[Field] = [(b"grpc-status", b"0")]


def pump(client: Http2Connection, server: Http2Connection) -> tuple[list[Event], list[Event]]:
    """Carry bytes until both are silent: what the client heard, and what the server heard."""
    to_client: list[Event] = []
    to_server: list[Event] = []
    while client.has_output or server.has_output:
        to_server += server.receive(client.take_output(), 0.0)
        to_client += client.receive(server.take_output(), 0.0)
    return to_client, to_server


def pair() -> tuple[Http2Connection, Http2Connection]:
    client = Http2Connection(config(Role.CLIENT), 0.0)
    server = Http2Connection(config(Role.SERVER, extended_connect=True), 0.0)
    client.start()
    server.start()
    for heard in pump(client, server):
        assert [type(event) for event in heard] == [SettingsReceived]
    return client, server


def test_a_call_with_interim_answer_content_and_trailers_both_ways() -> None:
    client, server = pair()
    stream_id = client.open_stream()
    client.send_headers(stream_id, POST)
    client.send_data(stream_id, b"question")
    client.send_headers(stream_id, [(b"checksum", b"1")], end_stream=True)
    assert pump(client, server)[1] == [
        HeadersReceived(1, POST, False),
        DataReceived(1, b"question", 8, False),
        TrailersReceived(1, [(b"checksum", b"1")]),
    ]
    server.credit(1, 8)
    server.send_headers(1, [(b":status", b"103")])
    server.send_headers(1, OK)
    server.send_data(1, b"answer")
    server.send_headers(1, TRAILERS, end_stream=True)
    assert pump(client, server)[0] == [
        InterimReceived(1, [(b":status", b"103")]),
        HeadersReceived(1, OK, False),
        DataReceived(1, b"answer", 6, False),
        TrailersReceived(1, TRAILERS),
    ]
    assert (client.streams_open, server.streams_open) == (0, 0)


def test_a_response_may_end_before_its_request() -> None:
    client, server = pair()
    client.send_headers(client.open_stream(), POST)
    pump(client, server)
    server.send_headers(1, OK, end_stream=True)
    server.reset(1, ErrorCode.NO_ERROR)  # RFC 9113 section 8.1: the rest of the request is not wanted.
    heard = pump(client, server)[0]
    assert heard[0] == HeadersReceived(1, OK, True)
    assert client.streams_open == 0
    client.send_data(1, b"too late", end_stream=True)
    assert take_all(client) == b""


def test_a_websocket_opens_by_extended_connect() -> None:
    client, server = pair()
    assert client.extended_connect
    fields: list[Field] = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]
    client.send_headers(client.open_stream(), fields)
    assert pump(client, server)[1] == [HeadersReceived(1, fields, False)]


# --- Opening ---


def test_streams_are_opened_up_to_the_peers_limit() -> None:
    connection = asking(peer=settings(streams=2))
    for stream_id in (1, 3):
        assert connection.open_stream() == stream_id
        connection.send_headers(stream_id, GET, end_stream=True)
    assert not connection.can_open
    with pytest.raises(LocalProtocolError):
        connection.open_stream()
    connection.receive(head(1, OK), 0.0)
    assert connection.open_stream() == 5


def test_streams_are_opened_up_to_our_own_limit() -> None:
    connection = asking(GET, GET, streams_max=2)
    assert not connection.can_open


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: connection.receive(goaway(LAST), 0.0),
        lambda connection: connection.goaway(0),
        lambda connection: connection.drain(),
        lambda connection: connection.receive(head(2, OK), 0.0),
    ],
    ids=["GOAWAY received", "GOAWAY sent", "drained", "broken"],
)
def test_no_stream_is_opened_on_a_connection_that_ends(end: Callable[[Http2Connection], object]) -> None:
    connection = asking()
    before = connection.can_open
    end(connection)
    assert (before, connection.can_open, connection.closed) == (True, False, True)


def test_a_server_opens_no_streams() -> None:
    assert not serving().can_open


def test_stream_identifiers_come_to_an_end() -> None:
    connection = asking()
    connection._next_id = LAST
    assert connection.open_stream() == LAST
    assert not connection.can_open


def test_streams_must_begin_in_the_order_of_their_ids() -> None:
    connection = asking()
    first, second = connection.open_stream(), connection.open_stream()
    connection.send_headers(second, GET)
    with pytest.raises(LocalProtocolError):
        connection.send_headers(first, GET)


def test_a_stream_given_up_before_its_head_was_never_there() -> None:
    connection = asking()
    connection.reset(connection.open_stream(), ErrorCode.CANCEL)
    assert take_all(connection) == b""
    assert connection.streams_open == 0


# --- Sending ---


def ended(connection: Http2Connection) -> None:
    connection.send_headers(1, OK, end_stream=True)


MISTAKES: list[tuple[str, Callable[[Http2Connection], object], Callable[[Http2Connection], object]]] = [
    ("content before the head", lambda c: None, lambda c: c.send_data(1, b"x")),
    ("content after the end", ended, lambda c: c.send_data(1, b"x")),
    ("a second end", ended, lambda c: c.send_data(1, b"", end_stream=True)),
    ("a head after the end", ended, lambda c: c.send_headers(1, OK)),
    ("trailers that do not end", lambda c: c.send_headers(1, OK), lambda c: c.send_headers(1, TRAILERS)),
    (
        "an interim response that ends",
        lambda c: None,
        lambda c: c.send_headers(1, [(b":status", b"100")], end_stream=True),
    ),
    ("a stream that never was", lambda c: None, lambda c: c.send_data(99, b"x")),
    ("a reset of one that never was", lambda c: None, lambda c: c.reset(99, 8)),
]


@pytest.mark.parametrize(("what", "before", "mistake"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_of_the_caller_is_loud(
    what: str, before: Callable[[Http2Connection], None], mistake: Callable[[Http2Connection], None]
) -> None:
    connection = serving()
    connection.receive(head(1, POST, end=False), 0.0)
    before(connection)
    take_all(connection)
    with pytest.raises(LocalProtocolError):
        mistake(connection)
    assert take_all(connection) == b""


def test_trailers_that_wait_are_an_end_too() -> None:
    connection = serving(peer=settings(window=0))
    connection.receive(head(1), 0.0)
    connection.send_headers(1, OK)
    connection.send_data(1, b"x")
    connection.send_headers(1, TRAILERS, end_stream=True)
    with pytest.raises(LocalProtocolError):
        connection.send_data(1, b"y")


def test_what_is_sent_on_a_stream_that_is_gone_is_ignored() -> None:
    connection = serving()
    connection.receive(head(1), 0.0)
    connection.reset(1, ErrorCode.INTERNAL_ERROR)
    assert len(taken(connection, RST_STREAM)) == 1
    connection.send_headers(1, OK)
    connection.send_data(1, b"x", end_stream=True)
    connection.reset(1, ErrorCode.CANCEL)
    connection.credit(1, 0)
    assert take_all(connection) == b""


def test_after_the_connections_end_everything_is_ignored() -> None:
    connection = serving()
    connection.receive(head(1) + head(2), 0.0)
    take_all(connection)
    connection.send_headers(1, OK)
    connection.send_data(1, b"x", end_stream=True)
    connection.reset(1, ErrorCode.CANCEL)
    connection.drain()
    connection.goaway(ErrorCode.NO_ERROR)
    assert take_all(connection) == b""
    assert connection.on_wake(1e9) == []


def test_pings_wait_for_their_acks_in_bounded_number() -> None:
    connection = serving()
    for number in range(16):
        connection.ping(b"%08d" % number)
    with pytest.raises(LocalProtocolError):
        connection.ping(b"no room!")


# --- Ending ---


def is_over(connection: Http2Connection) -> bool:
    return connection.closed


def last_ids(found: list[Frame]) -> list[tuple[int, int]]:
    return [
        (int.from_bytes(one.payload[:4], "big"), int.from_bytes(one.payload[4:8], "big"))
        for one in found
        if one.kind == GOAWAY
    ]


def test_a_fault_names_the_last_stream_and_the_reason() -> None:
    connection = serving()
    (*_, event) = connection.receive(head(1) + head(7) + content(9), 0.0)
    (found,) = taken(connection, GOAWAY)
    assert last_ids([found]) == [(7, ErrorCode.PROTOCOL_ERROR)]
    assert isinstance(event, ConnectionEnded)
    assert found.payload[8:].decode() == event.why == "DATA on idle stream 9"
    assert connection.streams_open == 0


def test_a_client_names_no_stream_in_its_goaway() -> None:
    connection = asking(GET)
    connection.goaway(ErrorCode.NO_ERROR, b"bye")
    assert taken(connection, GOAWAY) == [(GOAWAY, 0, 0, bytes(8) + b"bye")]


def test_streams_up_to_our_goaway_are_served_and_later_ones_ignored() -> None:
    connection = serving()
    connection.receive(head(1, POST, end=False), 0.0)
    connection.goaway(ErrorCode.NO_ERROR)
    assert last_ids(taken(connection, GOAWAY)) == [(1, 0)]
    assert connection.draining
    # The block of the ignored stream still changes the table.
    ignored = frame(HEADERS, 4, 3, block(POST) + b"\x40\x01a\x01b") + content(3, b"x", end=True)
    assert judge(connection, ignored) == ((), [])
    assert judge(connection, frame(HEADERS, 5, 1, b"\xbe"))[1] == [TrailersReceived(1, [(b"a", b"b")])]
    assert not is_over(connection)
    connection.send_headers(1, OK, end_stream=True)
    assert is_over(connection)


def test_a_drain_loses_no_request() -> None:
    connection = serving()
    connection.receive(head(1), 0.0)
    connection.drain()
    warning, ping = frames_of(take_all(connection))
    assert last_ids([warning]) == [(LAST, 0)]
    assert (ping.kind, ping.flags) == (PING, 0)
    assert connection.draining
    assert not is_over(connection)
    # What crossed the warning is served.
    assert judge(connection, head(3))[1] == [HeadersReceived(3, GET, True)]
    assert connection.receive(frame(PING, ACK, 0, ping.payload), 0.0) == []
    assert last_ids(frames_of(take_all(connection))) == [(3, 0)]
    assert judge(connection, head(5)) == ((), [])
    for stream_id in (1, 3):
        connection.send_headers(stream_id, OK, end_stream=True)
    assert is_over(connection)
    assert [found.kind for found in frames_of(take_all(connection))] == [HEADERS, HEADERS]


def test_a_drain_does_not_wait_for_ever_for_its_ping() -> None:
    connection = serving(drain_s=5.0)
    connection.drain()
    take_all(connection)
    assert connection.wake_at == 0.0  # The last it heard was long ago; it has to learn what time it is.
    assert connection.on_wake(100.0) == []
    assert connection.wake_at == 105.0
    assert connection.on_wake(104.9) == []
    assert not is_over(connection)
    assert connection.on_wake(105.0) == []
    assert last_ids(frames_of(take_all(connection))) == [(0, 0)]
    assert is_over(connection)


def test_a_second_drain_changes_nothing() -> None:
    connection = serving()
    connection.drain()
    take_all(connection)
    connection.drain()
    assert take_all(connection) == b""


def test_the_number_of_a_later_goaway_never_rises() -> None:
    connection = serving()
    connection.receive(head(1), 0.0)
    connection.goaway(ErrorCode.NO_ERROR)
    connection.receive(head(3), 0.0)
    connection.goaway(ErrorCode.NO_ERROR)
    assert last_ids(frames_of(take_all(connection))) == [(1, 0), (1, 0)]


def test_content_in_flight_for_an_ignored_stream_is_credited() -> None:
    connection = serving(window_bytes=65_535, connection_window_bytes=65_535)
    connection.goaway(ErrorCode.NO_ERROR)
    take_all(connection)
    connection.receive(head(1, POST, end=False) + content(1, bytes(16_384)) * 2, 0.0)
    assert [found.stream_id for found in taken(connection, 8)] == [0]
