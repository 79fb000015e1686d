"""Our HTTP/2 machine and h2, fed the same bytes: what each saw, and which differences are known.

The caller of both consumes nothing until the end, so that windows run out at the same byte for both, and so that
our output does not depend on how the input was cut. Then our side gives all credit back and answers what was asked.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from fuzz.http2_bytes import Frame, split_frames, written_frames
from fuzz.target import Violation, demand
from wire.http2.config import Http2Config
from wire.http2.connection import Http2Connection
from wire.http2.events import (
    ConnectionEnded,
    DataReceived,
    Drained,
    Event,
    GoawayReceived,
    HeadersReceived,
    InterimReceived,
    PingAcked,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
)
from wire.http2.frames import CONTINUATION, PREFACE, RST_STREAM, encode_frame

# Ended by us, taken by h2: our `why`, and the sentence.
WE_ALONE: Sequence[tuple[str, str]] = (
    (r"frame of \d+ bytes, \d+ is the limit", "4.2: we say so at the frame's head, h2 once all of it is there"),
    (r"first frame is of type", "3.4: the preface ends with SETTINGS, which MUST be the first frame"),
    (r"RST_STREAM on idle stream", "6.4: a receiver MUST treat this as a connection error"),
    (r"(HEADERS|DATA) on stream \d+, which has ended", "5.1, closed: a connection error of type STREAM_CLOSED"),
    (r"CONTINUATION without a header block", "6.10: a connection error, also on a stream that is closed"),
    (r"more than \d+ in \d+ s", "10.5: what costs us more than the peer may end with ENHANCE_YOUR_CALM"),
    (r"HEADERS with \d+ bytes of padding", "6.2: more than what is left; h2 counts the priority fields as room"),
    (r"more than 2 table size updates", "RFC 7541 4.2: two at most"),
    (r"an integer of more than 5 octets", "RFC 7541 5.1: encodings over an implementation's limit are errors"),
    (r"a table size update after the first field", "RFC 7541 4.2: at the beginning of a block"),
    (r"PUSH_PROMISE from a ", "8.4: MUST be a connection error of type PROTOCOL_ERROR"),
)
# Refused by h2, taken by us: its message, and the sentence.
H2_ALONE: Sequence[tuple[str, str]] = (
    (r".*mismatched :authority and Host", "8.3.1, RFC 3986 6.2.2.1: case and a default port make no difference"),
    (r"TooManyStreamsError", "5.1.2: a stream error, PROTOCOL_ERROR or REFUSED_STREAM"),
    (r"DenialOfServiceError: Oversized header block", "10.5.1: a server MAY answer 431; the block was decoded"),
    (r"ProtocolError: .* invalid padding", "6.1, 6.2: padding may be all that is left of the frame"),
    (r"ProtocolError: .* non-compliant data \(frame of type 8\)", "6.9: an increment of 0 is an error of its stream"),
    (r"ProtocolError: Invalid input .* in state ConnectionState.CLOSED", "6.8: streams go on after a GOAWAY"),
)


@dataclass(slots=True)
class Seen:
    """Events by stream (0: the connection), as (kind, values...). `why` is for people and known differences only."""

    streams: dict[int, list[tuple[object, ...]]] = field(default_factory=dict)
    our_resets: dict[int, int] = field(default_factory=dict)  # Code by stream: RST_STREAM sent for the peer's fault.
    ended: tuple[int, str] | None = None
    output: bytes = b""
    why: str = field(default="", compare=False)

    def add(self, stream_id: int, *values: object) -> None:
        self.streams.setdefault(stream_id, []).append(values)

    @property
    def label(self) -> Hashable:
        kinds = frozenset(values[0] for events in self.streams.values() for values in events)
        return self.ended, kinds, bool(self.our_resets)


def run_ours(connection: Http2Connection, pieces: Sequence[bytes], *, respond: bool) -> Seen:
    seen = Seen()
    events: list[Event] = []
    for piece in pieces:
        demand(seen.ended is None or not connection.receive(b"", 0.0), "events after the end")
        new = connection.receive(piece, 0.0)
        demand(not (seen.ended and new), "events after the end", new)
        for event in new:
            _see(seen, event)
        events += new
    if respond:
        _answer(connection, events)
    for event in events:
        if isinstance(event, DataReceived):
            connection.credit(event.stream_id, event.flow_bytes)
    while part := connection.take_output():
        seen.output += part
    if not respond:
        demand(seen.output.startswith(PREFACE), "a client that does not begin with the preface", seen.output[:40])
    seen.our_resets = _resets(written_frames(seen.output.removeprefix(PREFACE)))
    demand(not connection.has_output, "output that does not leave")
    if seen.ended:
        demand(connection.closed, "ended, and not closed")
        demand(connection.streams_open == 0, "ended, with streams open", connection.streams_open)
    return seen


def _answer(connection: Http2Connection, events: Sequence[Event]) -> None:
    for number, stream_id in enumerate(event.stream_id for event in events if isinstance(event, HeadersReceived)):
        connection.send_headers(stream_id, [(b":status", b"200"), (b"x-number", b"%d" % number)])
        connection.send_data(stream_id, b"d" * 50, end_stream=bool(number & 1))
        if not number & 1:
            connection.send_headers(stream_id, [(b"grpc-status", b"0")], end_stream=True)


def _see(seen: Seen, event: Event) -> None:
    match event:
        case HeadersReceived():
            seen.add(event.stream_id, "head", _plain(event.fields))
            if event.end_stream:
                seen.add(event.stream_id, "end")
        case InterimReceived():
            seen.add(event.stream_id, "interim", _plain(event.fields))
        case TrailersReceived():
            seen.add(event.stream_id, "trailers", _plain(event.fields))
            seen.add(event.stream_id, "end")
        case DataReceived():
            seen.add(event.stream_id, "data", event.data, event.flow_bytes)
            if event.end_stream:
                seen.add(event.stream_id, "end")
        case StreamReset():
            if event.remote and not event.why.startswith("GOAWAY"):  # h2 leaves those to its caller.
                seen.add(event.stream_id, "reset", event.code)
        case SettingsReceived():
            seen.add(0, "settings", tuple(sorted(event.settings.items())))
        case GoawayReceived():
            seen.add(0, "goaway", event.last_stream_id, event.code, event.debug)
        case ConnectionEnded():
            seen.ended = int(event.code), event.reason
            seen.why = event.why
        case PingAcked() | Drained():
            pass


def _plain(fields: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((bytes(name), bytes(value)) for name, value in fields)


def frames_seen_by_h2(data: bytes, *, client_side: bool, config: Http2Config) -> Seen:
    """h2 with the same settings, fed frame by frame: it forgets the events of a call that raises."""
    theirs = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=client_side, header_encoding=None, validate_inbound_headers=True)
    )
    theirs.local_settings = h2.settings.Settings(
        client=client_side,
        initial_values={
            h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: config.list_bytes_max,
            **({} if client_side else {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: config.streams_max}),
        },
    )
    theirs.initiate_connection()
    # In force once it is acknowledged, as with us.
    theirs.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: config.window_bytes})
    theirs.increment_flow_control_window(config.connection_window_bytes - 65_535)
    theirs.decoder.max_header_list_size = config.list_bytes_max
    if client_side:
        for stream_id in (1, 3, 5):
            theirs.send_headers(stream_id, REQUEST, end_stream=stream_id != 3)
    else:
        theirs.receive_data(PREFACE)
    seen = Seen()
    # Of a frame in part h2 judges the head at once, and we the whole of it.
    for kind, flags, stream_id, payload in split_frames(data)[0]:
        try:
            # Extensions are all one to us; h2 knows one of them, ALTSVC, and what is in it.
            events = theirs.receive_data(
                encode_frame(kind if kind <= CONTINUATION else _UNKNOWN, flags, stream_id, payload)
            )
        except h2.exceptions.ProtocolError as error:
            seen.ended = int(getattr(error, "error_code", 1)), type(error).__name__
            seen.why = f"{type(error).__name__}: {error} (frame of type {kind})"
            break
        for event in events:
            _see_theirs(seen, event)
    seen.our_resets = _resets(split_frames(theirs.data_to_send().removeprefix(PREFACE))[0])
    return seen


def _resets(frames: Sequence[Frame]) -> dict[int, int]:
    return {stream: int.from_bytes(payload, "big") for kind, _, stream, payload in frames if kind == RST_STREAM}


_UNKNOWN = 0xBE
REQUEST = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]


def _see_theirs(seen: Seen, event: h2.events.Event) -> None:
    match event:
        case h2.events.RequestReceived() | h2.events.ResponseReceived():
            seen.add(event.stream_id, "head", _plain(event.headers))
        case h2.events.InformationalResponseReceived():
            seen.add(event.stream_id, "interim", _plain(event.headers))
        case h2.events.TrailersReceived():
            seen.add(event.stream_id, "trailers", _plain(event.headers))
        case h2.events.DataReceived():
            seen.add(event.stream_id, "data", bytes(event.data), event.flow_controlled_length)
        case h2.events.StreamEnded():
            seen.add(event.stream_id, "end")
        case h2.events.StreamReset():
            if event.remote_reset:
                seen.add(event.stream_id, "reset", int(event.error_code))
        case h2.events.ConnectionTerminated():
            seen.add(0, "goaway", event.last_stream_id, int(event.error_code or 0), event.additional_data or b"")
        case _:
            pass


def compare(ours: Seen, theirs: Seen) -> None:
    if ours.ended and not theirs.ended:
        known = any(re.match(pattern, ours.why) for pattern, _ in WE_ALONE)
        demand(known, "ended by us alone", ours.why, ours.ended, theirs.streams)
    elif theirs.ended and not ours.ended:
        # Most faults of a message are faults of its stream (8.1.1); h2 ends the connection for many.
        known = bool(ours.our_resets) or any(re.match(pattern, theirs.why) for pattern, _ in H2_ALONE)
        demand(known, "refused by h2 alone", theirs.why, ours.streams, ours.our_resets)
    cut = bool(ours.ended or theirs.ended)
    for stream_id in sorted({*ours.streams, *theirs.streams} - {0}):
        if stream_id in ours.our_resets or stream_id in theirs.our_resets:
            continue
        a, b = ours.streams.get(stream_id, []), theirs.streams.get(stream_id, [])
        if a != b and not (cut and (a[: len(b)] == b or b[: len(a)] == a)):
            raise Violation(
                f"stream {stream_id}: {a}; h2: {b}; {ours.our_resets} {theirs.our_resets} {ours.why} {theirs.why}"
            )
