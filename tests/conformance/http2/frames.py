"""HTTP/2 frames as bytes (RFC 9113 sections 4 and 6), right or wrong: what a peer with bad manners sends.

On purpose a second reading of the RFC, without `wire.http2`: a suite that encodes with the code under test cannot
find what both misread. Nothing is checked here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
FRAME_BYTES: Final = 16_384  # What every endpoint must take, and ours is not to exceed unasked.
WINDOW: Final = 65_535
WINDOW_MAX: Final = 2**31 - 1
STREAM_MAX: Final = 2**31 - 1


class Kind(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    NO_RFC7540_PRIORITIES = 9


_KINDS: Final = {int(kind): kind.name for kind in Kind}
_CODES: Final = {int(code): code.name for code in Code}

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20


@dataclass(frozen=True, slots=True)
class Frame:
    """One received frame. `kind` is a number: what is unknown has one too."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def is_ack(self) -> bool:
        return bool(self.flags & ACK)

    @property
    def ends_stream(self) -> bool:
        return self.kind in (Kind.DATA, Kind.HEADERS) and bool(self.flags & END_STREAM)

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        assert self.kind in (Kind.RST_STREAM, Kind.GOAWAY), self
        return int.from_bytes(self.payload[-4:] if self.kind == Kind.RST_STREAM else self.payload[4:8], "big")

    @property
    def last_stream_id(self) -> int:
        assert self.kind == Kind.GOAWAY, self
        return int.from_bytes(self.payload[:4], "big")

    def __str__(self) -> str:
        name = _KINDS.get(self.kind, f"type {self.kind}")
        code = ""
        if self.kind in (Kind.RST_STREAM, Kind.GOAWAY):
            code = f" {_CODES.get(self.code, self.code)}"
        debug = f" {self.payload[8:][:120]!r}" if self.kind == Kind.GOAWAY else ""
        return f"{name}{code} stream {self.stream_id} flags {self.flags:#x} {len(self.payload)} octets{debug}"


def take_frame(buffer: bytearray) -> Frame | None:
    """The first whole frame of the buffer, taken off it."""
    if len(buffer) < HEAD_BYTES:
        return None
    end = HEAD_BYTES + int.from_bytes(buffer[:3], "big")
    if len(buffer) < end:
        return None
    stream_id = int.from_bytes(buffer[5:9], "big") & STREAM_MAX
    found = Frame(buffer[3], buffer[4], stream_id, bytes(buffer[HEAD_BYTES:end]))
    del buffer[:end]
    return found


# --- one function for each type; `frame` for what no function would write ---


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Any frame at all. `stream_id` may carry the reserved bit."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


def data(stream_id: int, payload: bytes = b"", *, end: bool = False, padding: int | None = None) -> bytes:
    flags = END_STREAM if end else 0
    if padding is not None:
        flags |= PADDED
        payload = bytes([padding]) + payload + bytes(padding)
    return frame(Kind.DATA, flags, stream_id, payload)


def headers(stream_id: int, block: bytes, *, end: bool = False, whole: bool = True) -> bytes:
    """`end`: END_STREAM. `whole`: END_HEADERS."""
    return frame(Kind.HEADERS, (END_STREAM if end else 0) | (END_HEADERS if whole else 0), stream_id, block)


def continuation(stream_id: int, block: bytes, *, whole: bool = True) -> bytes:
    return frame(Kind.CONTINUATION, END_HEADERS if whole else 0, stream_id, block)


def priority_fields(depends_on: int = 0, *, exclusive: bool = False, weight: int = 16) -> bytes:
    """The five octets of a dependency. `weight` is from 1 to 256, as the RFC counts them."""
    return struct.pack(">IB", depends_on | (1 << 31 if exclusive else 0), weight - 1)


def priority(stream_id: int, depends_on: int = 0, *, exclusive: bool = False, weight: int = 16) -> bytes:
    return frame(Kind.PRIORITY, 0, stream_id, priority_fields(depends_on, exclusive=exclusive, weight=weight))


def rst_stream(stream_id: int, code: int = Code.CANCEL) -> bytes:
    return frame(Kind.RST_STREAM, 0, stream_id, struct.pack(">I", code))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def settings_ack() -> bytes:
    return frame(Kind.SETTINGS, ACK, 0)


def push_promise(stream_id: int, promised_id: int, block: bytes) -> bytes:
    return frame(Kind.PUSH_PROMISE, END_HEADERS, stream_id, struct.pack(">I", promised_id) + block)


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    return frame(Kind.PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int = 0, code: int = Code.NO_ERROR, debug: bytes = b"") -> bytes:
    return frame(Kind.GOAWAY, 0, 0, struct.pack(">II", last_stream_id, code) + debug)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, 0, stream_id, struct.pack(">I", increment))
