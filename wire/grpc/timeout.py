"""`grpc-timeout`: at most eight digits and a unit (grpc/grpc doc/PROTOCOL-HTTP2.md, "Timeout").

The value is what remains at the moment of sending. It is rounded down: a deadline must never grow from hop to hop.
"""

from __future__ import annotations

import math
import re
from typing import Final

from wire.errors import LocalProtocolError, RemoteProtocolError

_SYNTAX: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_VALUE_MAX: Final = 99_999_999
# Finest first: the finest unit that holds the value loses least of it.
_UNITS: Final = ((b"n", 1e9), (b"u", 1e6), (b"m", 1e3), (b"S", 1.0), (b"M", 1 / 60), (b"H", 1 / 3600))
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e3, b"u": 1e6, b"n": 1e9}


def parse_timeout(value: bytes) -> float:
    """Seconds. Raises RemoteProtocolError for anything but one to eight digits and one of H M S m u n."""
    match = _SYNTAX.fullmatch(value)
    if match is None:
        raise RemoteProtocolError(
            f"grpc-timeout {value[:40]!r} is not 1 to 8 digits followed by one of H M S m u n (such as 250m)"
        )
    return _seconds(int(match[1]), match[2])


def encode_timeout(seconds: float) -> bytes:
    """What remains until the deadline. Nothing left, or less than a nanosecond: fail the call here instead."""
    if not seconds >= 1e-9:
        raise LocalProtocolError(f"{seconds} s remain: the deadline has passed, do not send the call")
    for unit, per_second in _UNITS:
        scaled = seconds * per_second
        if scaled < _VALUE_MAX:
            value = int(scaled)
            # Multiplying may have rounded up to the next whole number.
            if _seconds(value, unit) > seconds:
                value -= 1
            if value:
                return b"%d%b" % (value, unit)
    if math.isinf(seconds):
        raise LocalProtocolError("a call without a deadline has no grpc-timeout: leave the field out")
    return b"%dH" % _VALUE_MAX  # 11,415 years.


def _seconds(value: int, unit: bytes) -> float:
    # Divided where it can be, so that 250m is exactly 0.25.
    return value * _SECONDS[unit] if unit in b"HMS" else value / _SECONDS[unit]
