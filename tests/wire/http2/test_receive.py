"""Frames as they arrive: sections 3.4, 4.1, 4.2, 5.1 and 6.1 of RFC 9113, with raw frames."""

from __future__ import annotations

import pytest

from tests.wire.http2.raw_peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    OK,
    PADDED,
    PING,
    POST,
    PREFACE,
    PRIORITY,
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
    DataReceived,
    ErrorCode,
    HeadersReceived,
    Http2Connection,
    Role,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
)

PROTOCOL: Verdict = ("connection", ErrorCode.PROTOCOL_ERROR)
SIZE: Verdict = ("connection", ErrorCode.FRAME_SIZE_ERROR)
FLOW: Verdict = ("connection", ErrorCode.FLOW_CONTROL_ERROR)
CLOSED: Verdict = ("connection", ErrorCode.STREAM_CLOSED)
FINE: Verdict = ()


def on_stream(code: ErrorCode, stream_id: int = 1) -> Verdict:
    return ("stream", stream_id, code)


# --- 3.4 The preface ---


def fresh(role: Role = Role.SERVER) -> Http2Connection:
    connection = Http2Connection(config(role), 0.0)
    connection.start()
    take_all(connection)
    return connection


@pytest.mark.parametrize(
    "begins",
    [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"x", PREFACE[:-1] + b"x", bytes(24), settings()],
)
def test_a_server_refuses_what_does_not_begin_with_the_preface(begins: bytes) -> None:
    assert judge(fresh(), begins)[0] == PROTOCOL


@pytest.mark.parametrize("first", [head(1), frame(PING, 0, 0, bytes(8)), SETTINGS_ACK, window_update(0, 1), frame(0xB)])
def test_the_first_frame_is_settings_or_it_is_refused(first: bytes) -> None:
    assert judge(fresh(), PREFACE + first)[0] == PROTOCOL
    assert judge(fresh(Role.CLIENT), first)[0] == PROTOCOL


def test_preface_and_frames_may_come_byte_by_byte() -> None:
    connection = fresh()
    data = PREFACE + settings(window=9) + head(1, POST, end=False) + content(1, b"abc", end=True)
    events = [event for byte in data for event in connection.receive(bytes((byte,)), 0.0)]
    whole = fresh().receive(data, 0.0)
    assert events == whole
    assert events[0] == SettingsReceived({4: 9})
    assert events[2] == DataReceived(1, b"abc", 3, True)


def test_our_preface_is_settings_and_the_window_of_the_connection() -> None:
    connection = Http2Connection(config(Role.CLIENT), 0.0)
    connection.start()
    output = take_all(connection)
    assert output.startswith(PREFACE)
    first, second = frames_of(output.removeprefix(PREFACE))
    assert (first.kind, first.flags) == (SETTINGS, 0)
    assert (second.kind, second.stream_id) == (WINDOW_UPDATE, 0)
    assert int.from_bytes(second.payload, "big") == (16 << 20) - 65_535


# --- 4.1 and 4.2 Frames and their sizes ---


def test_frames_of_unknown_types_are_ignored() -> None:
    assert judge(serving(), frame(0x16, 0xFF, 0, bytes(8)) + frame(0xBE, 0, 77, b"") + head(1))[0] == FINE


def test_unknown_flags_and_the_reserved_bit_are_ignored() -> None:
    connection = serving()
    verdict, events = judge(connection, frame(PING, 0x16, 0, bytes(8)))
    assert verdict == FINE
    ask = head(1, POST, end=False)
    reserved = ask[:5] + bytes((ask[5] | 0x80,)) + ask[6:]
    data = frame(DATA, 0x40 | END_STREAM, 0x8000_0001, b"x")
    verdict, events = judge(connection, reserved + data)
    assert verdict == FINE
    assert events[-1] == DataReceived(1, b"x", 1, True)


def test_the_largest_frame_is_taken_and_a_larger_one_is_not() -> None:
    connection = serving()
    verdict, events = judge(connection, head(1, POST, end=False) + content(1, bytes(16_384)))
    assert verdict == FINE
    assert isinstance(events[-1], DataReceived)
    assert judge(connection, content(1, bytes(16_385)))[0] == SIZE


def test_a_frame_too_large_is_refused_by_its_head_alone() -> None:
    connection = serving()
    assert judge(connection, head(1, POST, end=False) + content(1, bytes(16_385))[:9])[0] == SIZE


def test_a_larger_frame_size_holds_when_it_was_announced() -> None:
    connection = serving(frame_bytes_max=32_768)
    assert judge(connection, head(1, POST, end=False) + content(1, bytes(32_768)))[0] == FINE


# --- 5.1 What may come in which state ---

STREAM_FRAMES = {
    "DATA": content(1),
    "HEADERS": head(1),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(4) + b"\x10"),
    "RST_STREAM": rst(1),
    "WINDOW_UPDATE": window_update(1, 9),
    "CONTINUATION": frame(CONTINUATION, END_HEADERS, 1, block(GET)),
}
# How a server's stream 1 gets there, and what each frame then is. Missing: no fault.
STATES: list[tuple[str, bytes, dict[str, Verdict]]] = [
    (
        "idle",
        b"",
        {"DATA": PROTOCOL, "RST_STREAM": PROTOCOL, "WINDOW_UPDATE": PROTOCOL, "CONTINUATION": PROTOCOL},
    ),
    (
        "open",
        head(1, POST, end=False),
        {"HEADERS": on_stream(ErrorCode.PROTOCOL_ERROR), "CONTINUATION": PROTOCOL},  # Pseudo fields in trailers.
    ),
    (
        "half-closed (remote)",
        head(1),
        {
            "DATA": on_stream(ErrorCode.STREAM_CLOSED),
            "HEADERS": on_stream(ErrorCode.STREAM_CLOSED),
            "CONTINUATION": PROTOCOL,
        },
    ),
    (
        "closed by the peer's RST_STREAM",
        head(1, POST, end=False) + rst(1),
        {
            "DATA": on_stream(ErrorCode.STREAM_CLOSED),
            "HEADERS": on_stream(ErrorCode.STREAM_CLOSED),
            "CONTINUATION": PROTOCOL,
        },
    ),
]


@pytest.mark.parametrize("kind", STREAM_FRAMES)
@pytest.mark.parametrize(("state", "way", "faults"), STATES, ids=[row[0] for row in STATES])
def test_a_frame_is_judged_by_the_state_of_its_stream(
    kind: str, state: str, way: bytes, faults: dict[str, Verdict]
) -> None:
    connection = serving()
    assert judge(connection, way)[0] == FINE
    assert judge(connection, STREAM_FRAMES[kind])[0] == faults.get(kind, FINE)


@pytest.mark.parametrize("kind", STREAM_FRAMES)
def test_after_both_ends_only_what_may_have_crossed_is_let_pass(kind: str) -> None:
    connection = serving()
    connection.receive(head(1), 0.0)
    connection.send_headers(1, OK, end_stream=True)
    take_all(connection)
    faults = {"DATA": CLOSED, "HEADERS": CLOSED, "CONTINUATION": PROTOCOL}
    assert judge(connection, STREAM_FRAMES[kind])[0] == faults.get(kind, FINE)


@pytest.mark.parametrize("kind", STREAM_FRAMES)
def test_after_our_reset_what_was_on_its_way_is_let_pass(kind: str) -> None:
    connection = serving()
    connection.receive(head(1, POST, end=False), 0.0)
    connection.reset(1, ErrorCode.CANCEL)
    assert [found.payload for found in taken(connection, RST_STREAM)] == [b"\0\0\0\x08"]
    verdict, events = judge(connection, STREAM_FRAMES[kind])
    assert verdict == (PROTOCOL if kind == "CONTINUATION" else FINE)
    if verdict == FINE:
        assert events == []


def test_data_after_our_reset_is_credited_to_the_connection() -> None:
    connection = serving(window_bytes=65_536, connection_window_bytes=65_536)
    connection.receive(head(1, POST, end=False), 0.0)
    connection.reset(1, ErrorCode.CANCEL)
    take_all(connection)
    connection.receive(content(1, bytes(16_384)), 0.0)
    connection.receive(content(1, bytes(16_384)), 0.0)
    (update,) = taken(connection, WINDOW_UPDATE)
    assert (update.stream_id, int.from_bytes(update.payload, "big")) == (0, 32_768)


def test_data_after_our_reset_must_fit_the_window_that_the_stream_had() -> None:
    connection = serving(window_bytes=20_000)
    connection.receive(head(1, POST, end=False), 0.0)
    connection.reset(1, ErrorCode.CANCEL)
    take_all(connection)
    assert judge(connection, content(1, bytes(16_384)))[0] == FINE
    assert judge(connection, content(1, bytes(3_616)))[0] == FINE
    assert judge(connection, content(1, bytes(1)))[0] == FLOW


def test_after_our_reset_the_end_of_the_stream_is_its_end() -> None:
    for last in (content(1, end=True), head(1, [(b"x", b"y")])):
        connection = serving()
        connection.receive(head(1, POST, end=False), 0.0)
        connection.reset(1, ErrorCode.CANCEL)
        take_all(connection)
        assert judge(connection, last)[0] == FINE
        assert judge(connection, content(1))[0] == CLOSED


def test_the_header_table_stays_in_step_on_a_stream_that_we_reset() -> None:
    connection = serving()
    connection.receive(head(1, POST, end=False), 0.0)
    connection.reset(1, ErrorCode.CANCEL)
    take_all(connection)
    # Added to the table by trailers that nobody reads; then used by index 62.
    connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x40\x01a\x01b"), 0.0)
    events = connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 3, block(GET) + b"\xbe"), 0.0)
    assert events == [HeadersReceived(3, [*GET, (b"a", b"b")], True)]


def test_a_client_tolerates_what_was_on_its_way_when_it_cancelled() -> None:
    connection = asking(GET)
    connection.reset(1, ErrorCode.CANCEL)
    take_all(connection)
    late = head(1, OK, end=False) + content(1, bytes(100)) + content(1, b"", end=True)
    assert judge(connection, late) == (FINE, [])


# --- 5.1.1 Stream identifiers ---


@pytest.mark.parametrize("stream_id", [2, 4, 0x7FFF_FFFE])
def test_a_client_may_not_open_even_streams(stream_id: int) -> None:
    assert judge(serving(), head(stream_id))[0] == PROTOCOL


@pytest.mark.parametrize("stream_id", [2, 3, 5])
def test_a_server_may_not_open_streams_at_all(stream_id: int) -> None:
    assert judge(asking(GET), head(stream_id, OK))[0] == PROTOCOL


def test_stream_identifiers_must_rise() -> None:
    connection = serving()
    assert judge(connection, head(5))[0] == FINE
    assert judge(connection, head(3))[0] == PROTOCOL


@pytest.mark.parametrize("data", [content(3), window_update(3, 1), rst(3)], ids=["DATA", "WINDOW_UPDATE", "RST_STREAM"])
def test_a_stream_that_was_passed_over_counts_as_closed(data: bytes) -> None:
    connection = serving()
    connection.receive(head(5), 0.0)
    assert judge(connection, data)[0] == (CLOSED if data[3] == DATA else FINE)


@pytest.mark.parametrize("kind", [DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION])
def test_stream_zero_is_the_connections(kind: int) -> None:
    payload = {DATA: b"x", HEADERS: block(GET), PRIORITY: bytes(5), RST_STREAM: bytes(4), CONTINUATION: b""}[kind]
    assert judge(serving(), frame(kind, END_HEADERS, 0, payload))[0] == PROTOCOL


@pytest.mark.parametrize("kind", [SETTINGS, PING, 7])
def test_frames_of_the_connection_belong_on_stream_zero(kind: int) -> None:
    assert judge(serving(), head(1) + frame(kind, 0, 1, bytes(12 if kind == SETTINGS else 8)))[0] == PROTOCOL


# --- 6.1 DATA ---


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"\0abc", FINE),
        (b"\x03abc", FINE),
        (b"\x04abc", PROTOCOL),
        (b"\xffabc", PROTOCOL),
        (b"\0", FINE),
        (b"\x01", PROTOCOL),
        (b"", SIZE),
    ],
)
def test_padding_must_be_shorter_than_its_frame(payload: bytes, fault: Verdict) -> None:
    connection = serving()
    connection.receive(head(1, POST, end=False), 0.0)
    verdict, events = judge(connection, frame(DATA, PADDED | END_STREAM, 1, payload))
    assert verdict == fault
    if fault == FINE:
        pad = payload[0]
        assert events == [DataReceived(1, payload[1 : len(payload) - pad], len(payload), True)]


def test_padding_counts_against_the_windows() -> None:
    connection = serving(window_bytes=100_000, connection_window_bytes=100_000)
    connection.receive(head(1, POST, end=False), 0.0)
    padded = frame(DATA, PADDED, 1, b"\xff" + bytes(255) + b"x")
    for _ in range(389):
        connection.receive(padded, 0.0)
    assert judge(connection, padded)[0] == FLOW  # 390 frames of 257 bytes are 100,230.


@pytest.mark.parametrize("stated", [b"3", b"0", None])
@pytest.mark.parametrize("pieces", [[b""], [b"abc"], [b"ab", b"c"], [b"ab", b"c", b""], [b"ab"], [b"ab", b"cd"]])
def test_content_is_as_long_as_content_length_says(stated: bytes | None, pieces: list[bytes]) -> None:
    connection = serving()
    connection.receive(head(1, POST + ([(b"content-length", stated)] if stated else []), end=False), 0.0)
    verdict: Verdict = ()
    for number, piece in enumerate(pieces, start=1):
        verdict = judge(connection, content(1, piece, end=number == len(pieces)))[0]
        if verdict:
            break
    agrees = stated is None or int(stated) == len(b"".join(pieces))
    assert verdict == (FINE if agrees else on_stream(ErrorCode.PROTOCOL_ERROR))


def test_more_than_the_streams_window_is_the_streams_fault_and_more_than_the_connections_the_connections() -> None:
    connection = serving(window_bytes=20_000, connection_window_bytes=70_000)
    ask = head(1, POST, end=False) + head(3, POST, end=False) + head(5, POST, end=False) + head(7, POST, end=False)
    connection.receive(ask, 0.0)
    assert judge(connection, content(1, bytes(16_384)) + content(1, bytes(3_616)))[0] == FINE
    verdict, events = judge(connection, content(1, b"x"))
    assert verdict == on_stream(ErrorCode.FLOW_CONTROL_ERROR)
    assert isinstance(events[0], StreamReset)
    rest = content(3, bytes(16_384)) + content(5, bytes(16_384)) + content(7, bytes(16_384))
    assert judge(connection, rest)[0] == FINE
    assert judge(connection, content(3, bytes(847)))[0] == FINE  # 20,000, one too many, 49,152 and these: 70,000.
    assert judge(connection, content(3, b"x"))[0] == FLOW


def test_data_before_the_head_of_a_response_is_a_fault() -> None:
    assert judge(asking(GET), content(1))[0] == on_stream(ErrorCode.PROTOCOL_ERROR)


def test_trailers_end_a_stream_as_data_does() -> None:
    connection = serving()
    ask = head(1, POST, end=False) + content(1, b"x") + head(1, [(b"grpc-status", b"0")])
    assert connection.receive(ask, 0.0)[-1] == TrailersReceived(1, [(b"grpc-status", b"0")])
    assert judge(connection, content(1))[0] == on_stream(ErrorCode.STREAM_CLOSED)


def test_nothing_is_read_after_a_fault_of_the_connection() -> None:
    connection = serving()
    assert judge(connection, head(2))[0] == PROTOCOL
    assert connection.closed
    assert connection.receive(head(1), 1.0) == []
    assert take_all(connection) == b""


def test_what_came_before_a_fault_is_still_told() -> None:
    verdict, events = judge(serving(), head(1) + head(2) + head(3))
    assert verdict == PROTOCOL
    assert len(events) == 2


def test_a_settings_ack_is_not_answered() -> None:
    connection = serving()
    connection.receive(settings(), 0.0)
    assert [found.flags for found in taken(connection, SETTINGS)] == [ACK]
