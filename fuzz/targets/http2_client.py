"""Invariant: whatever a server sends, our client tells the same however cut, in legal frames, and agrees with h2.

Input: frames of a server. Three requests are under way: streams 1 and 5 whole, stream 3 with content still to come.
Known differences to h2 stand in `fuzz.http2_compared`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from fuzz.http2_bytes import CONTROL, RESPONSE, Frame, changed_frames, joined
from fuzz.http2_compared import REQUEST, Seen, compare, frames_seen_by_h2, run_ours
from fuzz.target import Target, agreed
from wire.http2.config import Http2Config, Role
from wire.http2.connection import Http2Connection
from wire.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PRIORITIZED,
    PUSH_PROMISE,
    SETTINGS,
)

CONFIG = Http2Config(Role.CLIENT, window_bytes=100, connection_window_bytes=70_000, list_bytes_max=1_000)


def run(pieces: Sequence[bytes]) -> Seen:
    connection = Http2Connection(CONFIG, 0.0)
    connection.start()
    for _ in range(3):
        stream_id = connection.open_stream()
        connection.send_headers(stream_id, REQUEST, end_stream=stream_id != 3)
    connection.send_data(3, b"part")
    return run_ours(connection, list(pieces), respond=False)


def check(data: bytes) -> Hashable:
    ours = agreed(data, run)
    compare(ours, frames_seen_by_h2(data, client_side=True, config=CONFIG))
    return ours.label


RESPONSES = (
    RESPONSE,
    b"\x89",
    b"\x08\x03100",
    b"\x08\x03103\x00\x04link\x01x",
    b"\x08\x03101",
    b"\x88\x0f\x0d\x0210",
    b"\x8b\x0f\x0d\x015",
    b"\x88\x5f\x10application/grpc",
    b"\x88\x00\x0bgrpc-status\x010",
    b"\x00\x0bgrpc-status\x010\x00\x0cgrpc-message\x01x",
    b"\x88\x82",
    b"\x00\x01x\x01y\x88",
    b"\x08\x0220",
    b"\x88\x00\x0aconnection\x05close",
    b"\x88\x00\x01X\x01y",
    b"\x88\x40\x01x\x01y",
    b"\xbe",
    b"\x3f\xe1\x1f\x88",
    b"\x88\x00\x01x" + b"\x7f\xe1\x07" + b"v" * 1120,
    b"\x88\x0f\x0d\x0210\x0f\x0d\x0211",
)
PIECES: Sequence[Frame] = (
    *CONTROL,
    *[(HEADERS, END_HEADERS, 1, block) for block in RESPONSES],
    *[(HEADERS, END_HEADERS | END_STREAM, 1, block) for block in RESPONSES],
    (HEADERS, END_HEADERS | PRIORITIZED, 1, b"\x00\x00\x00\x00\x10" + RESPONSE),
    (HEADERS, END_HEADERS | PADDED, 1, b"\x02" + RESPONSE + b"\x00\x00"),
    (HEADERS, 0, 1, RESPONSE[:2]),
    (CONTINUATION, END_HEADERS, 1, RESPONSE[2:]),
    (PUSH_PROMISE, END_HEADERS, 1, b"\x00\x00\x00\x02\x82\x86\x84\x41\x01a"),
    (SETTINGS, 0, 0, b"\x00\x08\x00\x00\x00\x01"),
)


def seeds() -> Iterator[bytes]:
    settings: Frame = (SETTINGS, 0, 0, b"")
    head = END_HEADERS | END_STREAM
    yield joined([settings, (HEADERS, END_HEADERS, 1, RESPONSE), (DATA, END_STREAM, 1, b"hello")])
    yield joined(
        [settings, (HEADERS, 1, 1, RESPONSE[:1]), (CONTINUATION, 0, 1, b""), (CONTINUATION, 4, 1, RESPONSE[1:])]
    )
    yield joined([settings, *CONTROL])
    for block in RESPONSES:
        first: Frame = (HEADERS, END_HEADERS, 3, block)
        yield joined([settings, (HEADERS, head, 1, block), first, (DATA, 0, 3, b"x" * 10), (HEADERS, head, 3, block)])


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.http2",),
    words=(*RESPONSES, joined([(SETTINGS, 0, 0, b"")])),
    mutate=changed_frames(PIECES, RESPONSES),
    input_bytes_max=1500,
)
