from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.testing.websocket_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    client_frame,
    close_payload,
    read_frames,
)
from wire.limits import (
    WEBSOCKET_CONTROL_FRAMES_MAX,
    WEBSOCKET_SMALL_FRAME_BYTES,
    WEBSOCKET_SMALL_FRAMES_MAX,
)
from wire.websocket import (
    FRAMES_PER_CALL_MAX,
    CloseCode,
    CloseReceived,
    DeflateConfig,
    DeflateTerms,
    Event,
    MessageReceived,
    PeerFailed,
    PingReceived,
    PongReceived,
    WebSocketLimits,
    WebSocketMachine,
    may_be_sent,
)

DEFLATE = DeflateTerms(DeflateConfig(message_bytes_min=0), True, True, None)


def machine(message_bytes_max: int = 1 << 20, *, deflate: bool = False) -> WebSocketMachine:
    return WebSocketMachine(WebSocketLimits(message_bytes_max), DEFLATE if deflate else None)


def receive(ws: WebSocketMachine, *frames: bytes, now: float = 0.0) -> list[Event]:
    """All events of these frames, however many calls that takes."""
    events = ws.receive(b"".join(frames), now)
    while ws.unread:
        events += ws.receive(b"", now)
    return events


def failure(ws: WebSocketMachine, *frames: bytes) -> int:
    event = receive(ws, *frames)[-1]
    assert isinstance(event, PeerFailed)
    assert ws.receive(client_frame(TEXT, b"more"), 0.0) == []
    return event.code


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


# --- messages ---


def test_messages_are_given_whole_with_their_kind() -> None:
    ws = machine()
    assert receive(ws, client_frame(TEXT, "grün".encode()), client_frame(BINARY, b"\x00\xff"), client_frame(TEXT)) == [
        MessageReceived("grün".encode(), text=True),
        MessageReceived(b"\x00\xff", text=False),
        MessageReceived(b"", text=True),
    ]


def test_a_message_in_pieces_is_one_and_control_frames_may_stand_between_them() -> None:
    ws = machine()
    first = [client_frame(TEXT, b"a", fin=False), client_frame(PING, b"1"), client_frame(CONTINUATION, b"b", fin=False)]
    assert receive(ws, *first) == [PingReceived(b"1")]
    assert ws.in_message
    assert ws.message_len == 2
    assert receive(ws, client_frame(PONG), client_frame(CONTINUATION, b"c")) == [
        PongReceived(b""),
        MessageReceived(b"abc", text=True),
    ]
    assert not ws.in_message


@given(st.integers(1, 40), st.lists(st.sampled_from([0, 1, 5, 125, 126, 300]), min_size=1, max_size=6))
def test_how_bytes_are_split_makes_no_difference(size: int, lengths: list[int]) -> None:
    whole = b"".join(client_frame(BINARY, bytes(length)) + client_frame(PING, b"x") for length in lengths)
    together, split = machine(), machine()
    expected = receive(together, whole)
    found: list[Event] = []
    for piece in pieces(whole, size):
        found += receive(split, piece)
    assert found == expected


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_events_and_never_raise(data: bytes, deflate: bool) -> None:
    ws = machine(50, deflate=deflate)
    for event in receive(ws, data):
        if isinstance(event, MessageReceived):
            assert len(event.data) <= 50
    assert ws.message_len <= 50


def test_many_frames_are_read_a_share_at_a_time() -> None:
    ws = machine()
    frames = client_frame(BINARY, b"x") * (FRAMES_PER_CALL_MAX + 1)
    assert len(ws.receive(frames, 0.0)) == FRAMES_PER_CALL_MAX
    assert ws.unread
    assert len(ws.receive(b"", 0.0)) == 1
    assert not ws.unread


# --- UTF-8 ---


def test_invalid_text_is_found_at_its_first_wrong_byte() -> None:
    ws = machine()
    # The frame is not whole yet, and nothing that follows could mend it (RFC 6455 section 8.1).
    assert failure(ws, client_frame(TEXT, b"abc\xc0", declared=1000)) == CloseCode.BAD_PAYLOAD


def test_a_character_may_be_split_between_frames_and_must_be_finished() -> None:
    ws = machine()
    assert receive(ws, client_frame(TEXT, b"\xc3", fin=False), client_frame(CONTINUATION, b"\xbc")) == [
        MessageReceived(b"\xc3\xbc", text=True)
    ]
    assert failure(ws, client_frame(TEXT, b"\xc3")) == CloseCode.BAD_PAYLOAD


# --- what a peer may not do ---


@pytest.mark.parametrize(
    "frames",
    [
        [client_frame(TEXT, b"x", mask=None)],
        [client_frame(TEXT, b"x", rsv=4)],
        [client_frame(TEXT, b"x", rsv=1)],
        [client_frame(0x3, b"x")],
        [client_frame(0xB, b"x")],
        [client_frame(CONTINUATION, b"x")],
        [client_frame(TEXT, b"x", fin=False), client_frame(TEXT, b"x")],
        [client_frame(PING, b"x", fin=False)],
        [client_frame(PING, bytes(126))],
        [client_frame(CLOSE, b"x")],
        [client_frame(CLOSE, close_payload(1005))],
        [client_frame(CLOSE, close_payload(999))],
        [client_frame(CLOSE, close_payload(2999))],
        [client_frame(CLOSE, close_payload(5000))],
        [bytes.fromhex("81fe0001") + b"mask" + b"x"],  # A longer form of a length than is needed.
        [bytes.fromhex("82ff8000000000000000")],
    ],
)
def test_broken_framing_is_a_protocol_error(frames: list[bytes]) -> None:
    assert failure(machine(), *frames) == CloseCode.PROTOCOL_ERROR


def test_a_close_reason_must_be_utf8() -> None:
    assert failure(machine(), client_frame(CLOSE, close_payload(1000, b"\xff"))) == CloseCode.BAD_PAYLOAD


def test_a_frame_of_16_gib_is_refused_at_its_header() -> None:
    ws = machine(16 << 20)
    (event,) = ws.receive(client_frame(BINARY, declared=16 << 30)[:10], 0.0)
    assert event == PeerFailed(
        CloseCode.TOO_BIG, "a frame of 17179869184 bytes makes the message longer than 16777216 bytes"
    )


def test_a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    ws = machine(1000)
    assert receive(ws, client_frame(BINARY, bytes(1000))) == [MessageReceived(bytes(1000), text=False)]
    halves = [client_frame(BINARY, bytes(500), fin=False), client_frame(CONTINUATION, bytes(500))]
    assert receive(ws, *halves) == [MessageReceived(bytes(1000), text=False)]
    assert failure(ws, halves[0], client_frame(CONTINUATION, bytes(501))) == CloseCode.TOO_BIG


def test_small_pieces_are_counted_in_each_message() -> None:
    ws = machine()
    small = client_frame(CONTINUATION, bytes(WEBSOCKET_SMALL_FRAME_BYTES - 1), fin=False)
    most = [client_frame(BINARY, fin=False), *[small] * (WEBSOCKET_SMALL_FRAMES_MAX - 1)]
    larger = client_frame(CONTINUATION, bytes(WEBSOCKET_SMALL_FRAME_BYTES), fin=False)
    for _ in range(2):
        (event,) = receive(ws, *most, larger, client_frame(CONTINUATION))
        assert isinstance(event, MessageReceived)
    assert failure(ws, *most, small) == CloseCode.POLICY


def test_pings_are_counted_in_a_window_of_time() -> None:
    ws = machine()
    for start in (0.0, 31.0):
        assert len(receive(ws, client_frame(PING) * WEBSOCKET_CONTROL_FRAMES_MAX, now=start)) == (
            WEBSOCKET_CONTROL_FRAMES_MAX
        )
    (event,) = receive(ws, client_frame(PONG), now=60.0)
    assert isinstance(event, PeerFailed)
    assert event.code == CloseCode.POLICY


# --- compression ---


def test_a_compressed_message_is_inflated_also_in_pieces_and_around_a_ping() -> None:
    ws = machine(deflate=True)
    payload = deflated(b"token " * 100)
    whole = MessageReceived(b"token " * 100, text=True)
    assert receive(ws, client_frame(TEXT, payload, rsv=4)) == [whole]
    parts = [
        client_frame(TEXT, payload[:5], rsv=4, fin=False),
        client_frame(PING),
        client_frame(CONTINUATION, payload[5:]),
    ]
    assert receive(ws, *parts) == [PingReceived(b""), whole]


def test_an_uncompressed_message_may_follow_a_compressed_one() -> None:
    ws = machine(deflate=True)
    frames = [client_frame(TEXT, deflated(b"a" * 50), rsv=4), client_frame(TEXT, b"plain")]
    assert [event.data for event in receive(ws, *frames) if isinstance(event, MessageReceived)] == [b"a" * 50, b"plain"]


@pytest.mark.parametrize(
    "frames",
    [
        [client_frame(PING, rsv=4)],
        [client_frame(TEXT, b"x", fin=False), client_frame(CONTINUATION, b"\x00", rsv=4)],
        [client_frame(CONTINUATION, b"\x00", rsv=4)],
        [client_frame(TEXT, b"\x00", rsv=6)],
    ],
)
def test_only_the_first_frame_of_a_message_says_that_it_is_compressed(frames: list[bytes]) -> None:
    assert failure(machine(deflate=True), *frames) == CloseCode.PROTOCOL_ERROR


def test_a_bomb_is_cut_while_it_inflates() -> None:
    bomb = deflated(bytes(64 << 20))
    assert failure(machine(1 << 20, deflate=True), client_frame(BINARY, bomb, rsv=4)) == CloseCode.TOO_BIG


def calls_for(ws: WebSocketMachine, data: bytes) -> list[int]:
    """The number of events of each call."""
    counts = [len(ws.receive(data, 0.0))]
    while ws.unread:
        counts.append(len(ws.receive(b"", 0.0)))
    return counts


def test_what_inflates_much_is_read_a_share_at_a_time() -> None:
    frames = client_frame(BINARY, deflated(bytes(1 << 20)), rsv=4) * 30
    assert len(frames) < 65_536
    counts = calls_for(machine(16 << 20, deflate=True), frames)
    assert sum(counts) == 30
    assert max(counts) <= 2
    one = client_frame(BINARY, deflated(bytes(15 << 20)), rsv=4)
    counts = calls_for(machine(16 << 20, deflate=True), one)
    assert sum(counts) == 1
    assert len(counts) >= 4


def test_exactly_the_limit_may_come_out_of_a_message_that_deflating_made_longer() -> None:
    data = bytes((number * 7919) % 251 for number in range(100_000))
    stream = zlib.compressobj(level=0, wbits=-15)
    payload = (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(payload) > len(data)
    (event,) = receive(machine(len(data), deflate=True), client_frame(BINARY, payload, rsv=4))
    assert event == MessageReceived(data, text=False)
    assert failure(machine(len(data) - 1, deflate=True), client_frame(BINARY, payload, rsv=4)) == CloseCode.TOO_BIG


def test_what_is_not_deflated_is_a_bad_payload() -> None:
    ws = machine(deflate=True)
    assert failure(ws, client_frame(TEXT, b"\xff\xff\xff\xff", rsv=4)) == CloseCode.BAD_PAYLOAD


# --- what we say ---


def test_messages_go_out_in_one_frame_each() -> None:
    ws = machine()
    said = ws.text(b"hello") + ws.binary(b"\x00" * 70_000) + ws.ping(b"p") + ws.pong(b"q")
    assert read_frames(said) == (
        [Frame(TEXT, b"hello"), Frame(BINARY, b"\x00" * 70_000), Frame(PING, b"p"), Frame(PONG, b"q")],
        b"",
    )


def test_what_deflates_well_goes_out_compressed() -> None:
    (long, short), _ = read_frames(machine(deflate=True).text(b"x" * 500) + machine(deflate=True).text(b"x"))
    assert (long.rsv, short.rsv) == (4, 0)
    assert zlib.decompressobj(-15).decompress(long.payload + b"\x00\x00\xff\xff") == b"x" * 500


def test_after_our_close_nothing_is_said() -> None:
    ws = machine()
    (frame,), _ = read_frames(ws.close(CloseCode.GOING_AWAY, "bye"))
    assert frame.payload == close_payload(1001, b"bye")
    assert ws.closing and not ws.closed
    assert ws.text(b"x") + ws.binary(b"x") + ws.ping() + ws.pong(b"") + ws.close(CloseCode.NORMAL) == b""


def test_a_reason_is_cut_between_characters_to_what_a_control_frame_holds() -> None:
    (frame,), _ = read_frames(machine().close(CloseCode.INTERNAL, "ü" * 100))
    assert frame.payload[2:] == "ü".encode() * 61


def test_the_answer_to_a_close_without_a_code_has_none() -> None:
    ws = machine()
    assert receive(ws, client_frame(CLOSE)) == [CloseReceived(CloseCode.NO_CODE, "")]
    assert ws.close(CloseCode.NO_CODE) == bytes.fromhex("8800")
    assert ws.closed


def test_a_close_ends_reading() -> None:
    ws = machine()
    closing = client_frame(CLOSE, close_payload(4999, b"why"))
    assert receive(ws, closing, client_frame(TEXT, b"late")) == [CloseReceived(4999, "why")]
    assert ws.receive(client_frame(TEXT, b"later"), 0.0) == []


def test_only_codes_that_mean_something_on_the_wire_may_be_sent() -> None:
    allowed = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
    assert [code for code in range(3000) if may_be_sent(code)] == allowed
    assert may_be_sent(3000) and may_be_sent(4999) and not may_be_sent(5000)
    with pytest.raises(AssertionError, match="1006"):
        machine().close(CloseCode.ABNORMAL)
