"""WebSocket frames from a client's side, right and wrong ones: built by hand, so that nothing keeps a test from lying.

Not a client: what a server may be told, and how what it says is read, frame by frame.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
MASK: Final = b"\x37\xfa\x21\x3d"  # The one of RFC 6455 section 5.7.

UPGRADE_LINES: Final = (
    b"host: mesh",
    b"upgrade: websocket",
    b"connection: Upgrade",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",  # RFC 6455 section 1.3, as is the answer to it.
    b"sec-websocket-version: 13",
)
ACCEPT: Final = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@dataclass(frozen=True, slots=True)
class Frame:
    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def close_code(self) -> int:
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005


def upgrade_request(path: bytes = b"/", *more: bytes, without: bytes = b"") -> bytes:
    """A GET that opens a WebSocket; `without` leaves out the lines that begin so."""
    lines = [line for line in (*UPGRADE_LINES, *more) if not (without and line.startswith(without))]
    return b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (path, b"\r\n".join(lines))


def client_frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = MASK, declared: int = -1
) -> bytes:
    """`mask` None: unmasked, which a client may not be. `declared`: a length that need not be true."""
    length = len(payload) if declared < 0 else declared
    masked = 0 if mask is None else 0x80
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if length <= 125:
        head += bytes([masked | length])
    elif length <= 0xFFFF:
        head += struct.pack("!BH", masked | 126, length)
    else:
        head += struct.pack("!BQ", masked | 127, length)
    return head + payload if mask is None else head + mask + xor(payload, mask)


def close_payload(code: int, reason: bytes = b"") -> bytes:
    return struct.pack("!H", code) + reason


def xor(payload: bytes, mask: bytes) -> bytes:
    if not payload:
        return b""
    whole = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(payload), "big")


def read_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames of a server, and what is left of the bytes. A masked one is an error."""
    frames: list[Frame] = []
    at = 0
    while len(data) - at >= 2:
        first, second = data[at], data[at + 1]
        assert not second & 0x80, "a server does not mask"
        length, start = second & 0x7F, at + 2
        if length == 126:
            length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
        elif length == 127:
            length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        if len(data) < start + length:
            break
        frames.append(Frame(first & 0x0F, data[start : start + length], bool(first & 0x80), first >> 4 & 0x7))
        at = start + length
    return frames, data[at:]
