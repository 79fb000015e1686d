"""Close codes (RFC 6455 section 7.4 and its registry): those that this code says, and those that may be said at all."""

from __future__ import annotations

import enum


class CloseCode(enum.IntEnum):
    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    NO_CODE = 1005  # Never on the wire: the peer's close frame was empty.
    ABNORMAL = 1006  # Never on the wire: there was no close frame.
    BAD_PAYLOAD = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    TRY_AGAIN_LATER = 1013


def may_be_sent(code: int) -> bool:
    """Whether a close frame may carry it: the registered ones, and the ranges of libraries and applications."""
    return code in _REGISTERED or 3000 <= code <= 4999


_REGISTERED = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
