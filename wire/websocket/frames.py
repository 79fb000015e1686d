"""Frames as a server writes them (RFC 6455 section 5.2): unmasked, each message in one frame.

byte 0   FIN RSV1 RSV2 RSV3 opcode(4)
byte 1   MASK=0 length(7): up to 125; 126: two more bytes follow; 127: eight more
"""

from __future__ import annotations

import struct
from typing import Final

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
CONTROL_BYTES_MAX: Final = 125

_FIN: Final = 0x80
_RSV1: Final = 0x40
_short: Final = struct.Struct("!BB").pack
_medium: Final = struct.Struct("!BBH").pack
_long: Final = struct.Struct("!BBQ").pack


def encode_frame(opcode: int, payload: bytes, *, compressed: bool = False) -> bytes:
    """`compressed`: the payload is a whole message, deflated (RFC 7692 section 7.2.1)."""
    first = _FIN | opcode | (_RSV1 if compressed else 0)
    length = len(payload)
    if length <= 125:
        return _short(first, length) + payload
    assert opcode < CLOSE, f"a control frame of {length} bytes; 125 are allowed"
    if length <= 0xFFFF:
        return _medium(first, 126, length) + payload
    return _long(first, 127, length) + payload
