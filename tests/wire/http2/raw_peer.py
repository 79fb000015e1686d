"""A peer that sends frames by hand, legal or not, for the tests of wire.http2: nothing of it comes from there.

`serving` and `asking` give our end of a connection whose beginning is over and whose output has been taken.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from wire.http1 import Field
from wire.http2 import ConnectionEnded, Event, Http2Config, Http2Connection, Role, StreamReset

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 1
ACK: Final = 1
END_HEADERS: Final = 4
PADDED: Final = 8
PRIORITIZED: Final = 0x20

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET: Final[list[Field]] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"mesh.test"),
]
POST: Final[list[Field]] = [(b":method", b"POST"), *GET[1:]]
OK: Final[list[Field]] = [(b":status", b"200")]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream_id) + payload


def frames_of(data: bytes) -> list[Frame]:
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        found.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        assert len(data) >= 9 + length, "a frame was cut off"
        data = data[9 + length :]
    return found


def block(fields: Sequence[Field]) -> bytes:
    """Literals without indexing (RFC 7541 section 6.2.2): the same bytes in any state of the tables."""
    return b"".join([b"\x00" + _string(name) + _string(value) for name, value in fields])


def _string(text: bytes) -> bytes:
    if len(text) < 0x7F:
        return bytes((len(text),)) + text
    rest = len(text) - 0x7F
    length = b"\x7f"
    while rest >= 0x80:
        length += bytes((rest & 0x7F | 0x80,))
        rest >>= 7
    return length + bytes((rest,)) + text


def head(stream_id: int, fields: Sequence[Field] = GET, *, end: bool = True) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream_id, block(fields))


def content(stream_id: int, payload: bytes = b"x", *, end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream_id, payload)


def rst(stream_id: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream_id, struct.pack(">I", code))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", increment))


def settings(**values: int) -> bytes:
    """By name: table, push, streams, window, frame, list, connect; x9 is the setting 9."""
    names = {"table": 1, "push": 2, "streams": 3, "window": 4, "frame": 5, "list": 6, "connect": 8}
    entries = [struct.pack(">HI", names.get(name) or int(name[1:]), value) for name, value in values.items()]
    return frame(SETTINGS, 0, 0, b"".join(entries))


def goaway(last: int, code: int = 0, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + debug)


SETTINGS_ACK: Final = frame(SETTINGS, ACK)


def config(role: Role, **changes: Any) -> Http2Config:
    made = Http2Config(role, **changes)
    made.validate()
    return made


def serving(*, peer: bytes | None = None, **changes: Any) -> Http2Connection:
    connection = Http2Connection(config(Role.SERVER, **changes), 0.0)
    connection.start()
    connection.receive(PREFACE + (settings() if peer is None else peer) + SETTINGS_ACK, 0.0)
    take_all(connection)
    return connection


def asking(*requests: Sequence[Field], peer: bytes | None = None, end: bool = True, **changes: Any) -> Http2Connection:
    """A client that has sent these requests, on streams 1, 3, 5..."""
    connection = Http2Connection(config(Role.CLIENT, **changes), 0.0)
    connection.start()
    connection.receive((settings() if peer is None else peer) + SETTINGS_ACK, 0.0)
    for request in requests:
        connection.send_headers(connection.open_stream(), request, end_stream=end)
    take_all(connection)
    return connection


def take_all(connection: Http2Connection) -> bytes:
    output = b""
    while connection.has_output:
        output += connection.take_output()
    assert connection.take_output() == b""
    return output


def taken(connection: Http2Connection, kind: int) -> list[Frame]:
    """The frames of one kind that leave now; the others are taken as well."""
    return [found for found in frames_of(take_all(connection)) if found.kind == kind]


# What a peer's bytes led to: ("connection", code) or ("stream", id, code), or () when it was no fault.
Verdict = tuple[object, ...]


def judge(connection: Http2Connection, data: bytes, now: float = 0.0) -> tuple[Verdict, list[Event]]:
    """Feed bytes; the fault that they are to us, by what we send, which must agree with the events."""
    events = connection.receive(data, now)
    output = frames_of(take_all(connection))
    ended = [event for event in events if isinstance(event, ConnectionEnded)]
    gone = [int.from_bytes(found.payload[4:8], "big") for found in output if found.kind == GOAWAY]
    assert [event.code for event in ended] == gone
    if gone:
        assert events[-1] is ended[0]
        assert output[-1].kind == GOAWAY
        return ("connection", gone[0]), events
    resets = [(found.stream_id, int.from_bytes(found.payload, "big")) for found in output if found.kind == RST_STREAM]
    for event in events:
        if isinstance(event, StreamReset) and not event.remote:
            assert (event.stream_id, event.code) in resets
    assert len(resets) <= 1
    return ("stream", *resets[0]) if resets else (), events
