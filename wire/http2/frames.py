"""HTTP/2 frames as bytes (RFC 9113 sections 4 and 6): numbers, flags, error codes, settings, and how to write each.

Not here: reading. The receiving side unpacks frame heads in its own loop, where a call per frame would be felt;
what it needs of a layout stands here. Duties of the caller: sizes that fit (a payload of at most the peer's
SETTINGS_MAX_FRAME_SIZE, an increment of 1 to 2**31-1); nothing is checked twice.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD_LEN: Final = 9

# Plain numbers, for comparing them is the hottest thing that happens here.
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1  # The same bit, in SETTINGS and PING.
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20  # The PRIORITY flag of HEADERS.

STREAM_ID_MAX: Final = 0x7FFF_FFFF
WINDOW_MAX: Final = 0x7FFF_FFFF
WINDOW_DEFAULT: Final = 65_535
FRAME_BYTES_DEFAULT: Final = 16_384
FRAME_BYTES_LARGEST: Final = 0xFF_FFFF
TABLE_BYTES_DEFAULT: Final = 4_096


class ErrorCode(enum.IntEnum):
    """RFC 9113 section 7. A peer may send others; they count as INTERNAL_ERROR and travel as plain numbers."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(enum.IntEnum):
    """RFC 9113 section 6.5.2, and RFC 8441 section 3."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6
    ENABLE_CONNECT_PROTOCOL = 0x8


# Length and type in one number (length << 8 | type), flags, stream.
FRAME_HEAD: Final = struct.Struct(">LBL")
SETTING_ENTRY: Final = struct.Struct(">HL")
NUMBER: Final = struct.Struct(">L")
_HEAD_AND_NUMBER: Final = struct.Struct(">LBLL")
_GOAWAY: Final = struct.Struct(">LBLLL")

SETTINGS_ACK: Final = FRAME_HEAD.pack(SETTINGS, ACK, 0)


def encode_data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return FRAME_HEAD.pack(len(payload) << 8, flags, stream_id) + payload


def encode_block(stream_id: int, block: bytes, flags: int, frame_bytes_max: int) -> bytes:
    """A header block as HEADERS, and as many CONTINUATION frames as it takes. `flags`: END_STREAM or 0."""
    size = len(block)
    if size <= frame_bytes_max:
        return FRAME_HEAD.pack(size << 8 | HEADERS, flags | END_HEADERS, stream_id) + block
    parts = [FRAME_HEAD.pack(frame_bytes_max << 8 | HEADERS, flags, stream_id), block[:frame_bytes_max]]
    for start in range(frame_bytes_max, size, frame_bytes_max):
        part = block[start : start + frame_bytes_max]
        last = END_HEADERS if start + frame_bytes_max >= size else 0
        parts += [FRAME_HEAD.pack(len(part) << 8 | CONTINUATION, last, stream_id), part]
    return b"".join(parts)


def encode_rst_stream(stream_id: int, code: int) -> bytes:
    return _HEAD_AND_NUMBER.pack(4 << 8 | RST_STREAM, 0, stream_id, code)


def encode_window_update(stream_id: int, increment: int) -> bytes:
    return _HEAD_AND_NUMBER.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def encode_settings(settings: Mapping[int, int]) -> bytes:
    return encode_frame(SETTINGS, 0, 0, b"".join([SETTING_ENTRY.pack(*entry) for entry in settings.items()]))


def encode_ping(payload: bytes, flags: int = 0) -> bytes:
    return FRAME_HEAD.pack(8 << 8 | PING, flags, 0) + payload


def encode_goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    return _GOAWAY.pack((8 + len(debug)) << 8 | GOAWAY, 0, 0, last_stream_id, code) + debug


def encode_frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Any frame at all, legal or not."""
    return FRAME_HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload
