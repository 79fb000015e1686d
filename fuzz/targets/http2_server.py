"""Invariant: whatever a client sends, our server tells the same however cut, in legal frames, and agrees with h2.

Input: frames behind the preface. No exception, one end at most, and after it nothing. Where h2 and we differ, the
difference stands in `WE_ALONE` or `H2_ALONE` with the sentence of the RFC.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from fuzz.http2_bytes import CONTROL, GET, POST, Frame, changed_frames, joined
from fuzz.http2_compared import Seen, compare, frames_seen_by_h2, run_ours
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
    PREFACE,
    PRIORITIZED,
    RST_STREAM,
    SETTINGS,
)

CONFIG = Http2Config(Role.SERVER, streams_max=4, window_bytes=100, connection_window_bytes=70_000, list_bytes_max=1_000)


def run(pieces: Sequence[bytes]) -> Seen:
    connection = Http2Connection(CONFIG, 0.0)
    connection.start()
    return run_ours(connection, [PREFACE, *pieces], respond=True)


def check(data: bytes) -> Hashable:
    ours = agreed(data, run)
    compare(ours, frames_seen_by_h2(data, client_side=False, config=CONFIG))
    return ours.label


REQUESTS = (
    GET,
    POST,
    POST + b"\x0f\x0d\x0210",
    GET + b"\x40\x02te\x08trailers\x00\x01x\x01y",
    b"\x82\x86\x84",
    b"\x82\x86\x44\x02/a\x41\x01a\x66\x01b",
    GET + b"\x66\x01a",
    GET + b"\x00\x0aconnection\x05close",
    GET + b"\x00\x01X\x01y",
    b"\x82\x84\x86\x00\x01x\x01y\x41\x01a",
    b"\x42\x07CONNECT\x41\x03a:1",
    b"\x42\x07CONNECT\x00\x09:protocol\x09websocket\x86\x84\x41\x01a",
    b"\x42\x07OPTIONS\x86\x44\x01*\x41\x01a",
    b"\xbe",
    b"\x20" + GET,
    b"\x3f\xe1\x1f" + GET,
    GET + b"\x00\x01x" + b"\x7f\xe1\x07" + b"v" * 1120,
    b"\x00\x01x\x01y",
    GET + b"\x60\x03a=b\x60\x03c=d",
    b"\xff\xff\xff\xff\xff\x0f",
)
PIECES: Sequence[Frame] = (
    *CONTROL,
    *[(HEADERS, END_HEADERS, 1, block) for block in REQUESTS],
    *[(HEADERS, END_HEADERS | END_STREAM, 1, block) for block in REQUESTS[:4]],
    (HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01x\x01y"),
    (HEADERS, END_HEADERS | PRIORITIZED, 1, b"\x00\x00\x00\x00\x10" + GET),
    (HEADERS, END_HEADERS | PADDED, 1, b"\x02" + GET + b"\x00\x00"),
    (HEADERS, 0, 1, GET[:3]),
    (CONTINUATION, END_HEADERS, 1, GET[3:]),
    (RST_STREAM, 0, 1, b"\x00\x00\x00\x00"),
)


def seeds() -> Iterator[bytes]:
    settings: Frame = (SETTINGS, 0, 0, b"")
    head = END_HEADERS | END_STREAM
    yield joined([settings, (HEADERS, head, 1, GET)])
    yield joined([settings, (HEADERS, END_HEADERS, 1, POST), (DATA, 0, 1, b"hello"), (DATA, END_STREAM, 1, b"")])
    yield joined([settings, (HEADERS, END_HEADERS, 1, POST), (HEADERS, head, 1, b"\x00\x01x\x01y")])
    yield joined([settings, (HEADERS, 1, 1, GET[:2]), (CONTINUATION, 0, 1, b""), (CONTINUATION, 4, 1, GET[2:])])
    yield joined([settings, *[(HEADERS, END_HEADERS, number, POST) for number in (1, 3, 5, 7, 9, 11)]])
    yield joined([settings, *CONTROL])
    for block in REQUESTS:
        yield joined(
            [settings, (HEADERS, head, 1, block), (HEADERS, END_HEADERS, 3, block), (RST_STREAM, 0, 3, bytes(4))]
        )


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.http2",),
    words=(*REQUESTS, joined([(SETTINGS, 0, 0, b"")])),
    mutate=changed_frames(PIECES, REQUESTS),
    input_bytes_max=1500,
)
