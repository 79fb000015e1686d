"""Header blocks: sections 4.3, 6.2, 6.10 and 8.1 of RFC 9113, with raw frames."""

from __future__ import annotations

import struct

import pytest

from tests.wire.http2.raw_peer import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    OK,
    PADDED,
    PING,
    POST,
    PRIORITIZED,
    Verdict,
    asking,
    block,
    content,
    frame,
    frames_of,
    head,
    judge,
    serving,
    settings,
    take_all,
)
from wire.http1 import Field
from wire.http2 import (
    ConnectionEnded,
    ErrorCode,
    HeadersReceived,
    Http2Connection,
    InterimReceived,
    StreamReset,
    TrailersReceived,
)
from wire.limits import HTTP1_INTERIM_RESPONSES_MAX, HTTP2_CONTINUATIONS_MAX, HTTP2_HEADER_BLOCK_BYTES_MAX

PROTOCOL: Verdict = ("connection", ErrorCode.PROTOCOL_ERROR)
CALM: Verdict = ("connection", ErrorCode.ENHANCE_YOUR_CALM)
MALFORMED: Verdict = ("stream", 1, ErrorCode.PROTOCOL_ERROR)
FINE: Verdict = ()


def parts(stream_id: int, fragments: list[bytes], *, end: bool = True) -> bytes:
    """A block in HEADERS and CONTINUATION frames."""
    first = frame(HEADERS, END_STREAM if end else 0, stream_id, fragments[0])
    rest = [
        frame(CONTINUATION, END_HEADERS if number == len(fragments) - 1 else 0, stream_id, fragment)
        for number, fragment in enumerate(fragments[1:], start=1)
    ]
    return first + b"".join(rest)


def priority(depends_on: int, weight: int = 15) -> bytes:
    return struct.pack(">IB", depends_on, weight)


def ended(connection: Http2Connection, data: bytes) -> ConnectionEnded:
    last = connection.receive(data, 0.0)[-1]
    assert isinstance(last, ConnectionEnded)
    return last


# --- 6.2 HEADERS ---


@pytest.mark.parametrize(
    ("flags", "payload", "verdict"),
    [
        (PADDED, b"\x02" + block(GET) + bytes(2), FINE),
        (PADDED, b"\0" + block(GET), FINE),
        (PADDED, bytes((len(block(GET)) + 1,)) + block(GET), PROTOCOL),
        (PADDED, b"", ("connection", ErrorCode.FRAME_SIZE_ERROR)),
        (PRIORITIZED, priority(0) + block(GET), FINE),
        (PRIORITIZED, priority(0x8000_0003, 255) + block(GET), FINE),
        (PRIORITIZED, priority(0)[:4], ("connection", ErrorCode.FRAME_SIZE_ERROR)),
        (PRIORITIZED, priority(1) + block(GET), MALFORMED),
        (PADDED | PRIORITIZED, b"\x01" + priority(3) + block(GET) + bytes(1), FINE),
        (PADDED | PRIORITIZED, b"\0" + priority(1) + block(GET), MALFORMED),
        (PADDED | PRIORITIZED, bytes((len(block(GET)) + 1,)) + priority(3) + block(GET), PROTOCOL),
    ],
)
def test_padding_and_priority_are_taken_off_a_head(flags: int, payload: bytes, verdict: Verdict) -> None:
    found, events = judge(serving(), frame(HEADERS, END_HEADERS | END_STREAM | flags, 1, payload))
    assert found == verdict
    if verdict == FINE:
        assert events == [HeadersReceived(1, GET, True)]


def test_padding_may_leave_nothing_of_a_block() -> None:
    payload = b"\x03" + bytes(3)
    assert judge(serving(), frame(HEADERS, END_HEADERS | PADDED, 1, payload))[0] == MALFORMED  # No :method.


# --- 6.10 CONTINUATION ---


@pytest.mark.parametrize("pieces", [2, 3, 9])
def test_a_block_may_come_in_parts(pieces: int) -> None:
    whole = block(GET)
    step = -(-len(whole) // pieces)
    fragments = [whole[start : start + step] for start in range(0, len(whole), step)]
    verdict, events = judge(serving(), parts(1, fragments))
    assert verdict == FINE
    assert events == [HeadersReceived(1, GET, True)]


@pytest.mark.parametrize(
    "between",
    [
        frame(PING, 0, 0, bytes(8)),
        content(1),
        head(3),
        frame(CONTINUATION, END_HEADERS, 3, b""),
        frame(0x77),
        settings(),
    ],
    ids=["PING", "DATA", "HEADERS", "another stream", "unknown", "SETTINGS"],
)
def test_nothing_may_come_between_the_parts_of_a_block(between: bytes) -> None:
    connection = serving()
    connection.receive(head(3, POST, end=False), 0.0) if between[3] == 0 else None
    assert judge(connection, frame(HEADERS, 0, 5, block(GET)) + between)[0] == PROTOCOL


def test_continuation_comes_only_after_an_open_block() -> None:
    assert judge(serving(), head(1) + frame(CONTINUATION, END_HEADERS, 1, b""))[0] == PROTOCOL
    assert judge(serving(), frame(CONTINUATION, END_HEADERS, 1, block(GET)))[0] == PROTOCOL


@pytest.mark.parametrize(("more", "verdict"), [(HTTP2_CONTINUATIONS_MAX, FINE), (HTTP2_CONTINUATIONS_MAX + 1, CALM)])
def test_a_block_has_so_many_parts_and_no_more(more: int, verdict: Verdict) -> None:
    assert judge(serving(), parts(1, [block(GET)] + [b""] * more))[0] == verdict


def test_a_block_is_so_many_bytes_and_no_more() -> None:
    # A value that the list's limit refuses; the block is legal.
    value = bytes(HTTP2_HEADER_BLOCK_BYTES_MAX - len(block([*GET, (b"x", bytes(60_000))])) + 60_000)
    whole = block([*GET, (b"x", value)])
    assert len(whole) == HTTP2_HEADER_BLOCK_BYTES_MAX
    fragments = [whole[start : start + 16_384] for start in range(0, len(whole), 16_384)]
    assert judge(serving(), parts(1, fragments))[0] == FINE
    connection = serving()
    over = ended(connection, parts(1, [*fragments[:-1], fragments[-1][:-1], b"xx"]))
    assert (over.code, over.reason) == (ErrorCode.ENHANCE_YOUR_CALM, "continuations")


def test_an_endless_block_costs_no_more_than_its_limit() -> None:
    connection = serving()
    opened = frame(HEADERS, 0, 1, block(GET))
    flood = opened + frame(CONTINUATION, 0, 1, bytes(16_384)) * 100
    assert ended(connection, flood).reason == "continuations"


# --- 4.3 Compression ---


@pytest.mark.parametrize("bad", [b"\x80", b"\xff\xff\xff\xff\xff\xff", b"\xbe", b"\x00\x85", b"\x3f\xe1\xff\x03"])
def test_a_block_that_cannot_be_decoded_ends_the_connection(bad: bytes) -> None:
    over = ended(serving(), frame(HEADERS, END_HEADERS | END_STREAM, 1, bad))
    assert (over.code, over.reason) == (ErrorCode.COMPRESSION_ERROR, "compression")


def large(size: int) -> list[Field]:
    """A request whose list counts `size` bytes."""
    used = sum(len(name) + len(value) + 32 for name, value in GET)
    return [*GET, (b"x", b"v" * (size - used - 33))]


def test_a_list_as_large_as_announced_is_taken() -> None:
    whole = block(large(20_000))
    verdict, events = judge(serving(list_bytes_max=20_000), parts(1, [whole[:16_000], whole[16_000:]]))
    assert verdict == FINE
    assert events == [HeadersReceived(1, large(20_000), True)]


def test_a_larger_list_is_answered_with_431_and_costs_only_its_stream() -> None:
    connection = serving(list_bytes_max=2_000)
    assert connection.receive(head(1, large(2_001)), 0.0) == []
    (answer,) = frames_of(take_all(connection))
    assert (answer.kind, answer.flags, answer.stream_id) == (HEADERS, END_HEADERS | END_STREAM, 1)
    assert connection.streams_open == 0
    assert connection.receive(head(3, large(2_001), end=False), 0.0) == []
    answer, reset = frames_of(take_all(connection))
    assert (answer.kind, reset.stream_id, reset.payload) == (HEADERS, 3, bytes(4))
    assert connection.streams_open == 0
    # The rest of that request was on its way.
    assert judge(connection, content(3, bytes(10_000), end=True) + head(5)) == (FINE, [HeadersReceived(5, GET, True)])


def test_trailers_and_responses_that_are_too_large_reset_their_stream() -> None:
    calm = ("stream", 1, ErrorCode.ENHANCE_YOUR_CALM)
    connection = serving(list_bytes_max=2_000)
    connection.receive(head(1, POST, end=False), 0.0)
    assert judge(connection, head(1, [(b"x", b"v" * 2_000)]))[0] == calm
    verdict, events = judge(asking(GET, list_bytes_max=2_000), head(1, [*OK, (b"x", b"v" * 2_000)]))
    assert verdict == calm
    assert isinstance(events[0], StreamReset)


# --- 5.1.2 Concurrency ---


def test_streams_beyond_the_limit_are_refused_and_their_blocks_decoded() -> None:
    connection = serving(streams_max=2)
    added = b"\x40\x01a\x01b"
    assert judge(connection, head(1, POST, end=False) + head(3))[0] == FINE
    verdict, events = judge(
        connection, frame(HEADERS, END_HEADERS, 5, block(POST) + added) + content(5, b"x", end=True)
    )
    assert verdict == ("stream", 5, ErrorCode.REFUSED_STREAM)
    assert events == []
    connection.send_headers(3, OK, end_stream=True)
    take_all(connection)
    verdict, events = judge(connection, frame(HEADERS, END_HEADERS | END_STREAM, 7, block(GET) + b"\xbe"))
    assert verdict == FINE
    assert events == [HeadersReceived(7, [*GET, (b"a", b"b")], True)]


def test_a_malformed_request_costs_its_stream_and_is_not_told() -> None:
    connection = serving()
    assert judge(connection, head(1, [*GET, (b"connection", b"close")])) == (MALFORMED, [])
    assert connection.streams_open == 0
    assert judge(connection, head(3))[0] == FINE


# --- 8.1 Messages ---


def test_a_request_that_ends_with_its_head_has_no_content_left_to_come() -> None:
    assert judge(serving(), head(1, [*POST, (b"content-length", b"1")]))[0] == MALFORMED
    assert judge(serving(), head(1, [*POST, (b"content-length", b"0")]))[0] == FINE


@pytest.mark.parametrize(
    ("trailers", "end", "verdict"),
    [
        ([(b"grpc-status", b"0")], True, FINE),
        ([], True, FINE),
        ([(b"grpc-status", b"0")], False, MALFORMED),
        ([(b":status", b"200")], True, MALFORMED),
        ([(b"connection", b"close")], True, MALFORMED),
        ([(b"X", b"y")], True, MALFORMED),
    ],
)
def test_trailers_end_the_stream_and_hold_regular_fields(trailers: list[Field], end: bool, verdict: Verdict) -> None:
    connection = serving()
    connection.receive(head(1, POST, end=False), 0.0)
    found, events = judge(connection, head(1, trailers, end=end))
    assert found == verdict
    assert events[0] == TrailersReceived(1, trailers) if verdict == FINE else isinstance(events[0], StreamReset)


def test_trailers_come_after_all_of_the_stated_content() -> None:
    connection = serving()
    connection.receive(head(1, [*POST, (b"content-length", b"2")], end=False) + content(1, b"x"), 0.0)
    assert judge(connection, head(1, [(b"a", b"b")]))[0] == MALFORMED


def test_interim_responses_come_before_the_final_one() -> None:
    early: list[Field] = [(b":status", b"103"), (b"link", b"</a>")]
    connection = asking(GET)
    verdict, events = judge(connection, head(1, early, end=False) + head(1, OK, end=False) + content(1, b"x", end=True))
    assert verdict == FINE
    assert events[:2] == [InterimReceived(1, early), HeadersReceived(1, OK, False)]
    assert connection.streams_open == 0


@pytest.mark.parametrize(
    "bad",
    [
        head(1, [(b":status", b"100")]),
        head(1, OK, end=False) + head(1, [(b":status", b"103")], end=False),
        head(1, [(b":status", b"101")], end=False),
    ],
    ids=["ends with it", "after the final one", "101"],
)
def test_interim_responses_out_of_place_are_refused(bad: bytes) -> None:
    assert judge(asking(GET), bad)[0] == MALFORMED


def test_so_many_interim_responses_and_no_more() -> None:
    connection = asking(GET)
    interim = head(1, [(b":status", b"102")], end=False)
    assert judge(connection, interim * HTTP1_INTERIM_RESPONSES_MAX)[0] == FINE
    assert judge(connection, interim)[0] == MALFORMED


@pytest.mark.parametrize(("status", "bodiless"), [(b"200", False), (b"204", True), (b"304", True), (b"206", False)])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_responses_that_have_no_content_may_state_a_length(method: bytes, status: bytes, bodiless: bool) -> None:
    request: list[Field] = [(b":method", method), *GET[1:]]
    response: list[Field] = [(b":status", status), (b"content-length", b"5")]
    none = bodiless or method == b"HEAD"
    assert judge(asking(request), head(1, response))[0] == (FINE if none else MALFORMED)
    assert judge(asking(request), head(1, response, end=False) + content(1, b"", end=True))[0] == (
        FINE if none else MALFORMED
    )
    assert judge(asking(request), head(1, response, end=False) + content(1, b"hello", end=True))[0] == (
        MALFORMED if none else FINE
    )


def test_a_response_on_a_stream_whose_request_was_not_sent_is_a_fault() -> None:
    connection = asking(GET)
    assert connection.open_stream() == 3
    assert judge(connection, head(3, OK))[0] == PROTOCOL
