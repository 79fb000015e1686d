"""W3C Trace Context (https://www.w3.org/TR/trace-context-1/): `traceparent` and `tracestate`, read and written.

Reading never fails a request: what is invalid is dropped and the trace starts anew, as the standard asks. Ids
are handed in by the caller; nothing here draws randomness.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from wire.limits import (
    TRACESTATE_BYTES_MAX,
    TRACESTATE_KEY_CHARS_MAX,
    TRACESTATE_MEMBERS_MAX,
    TRACESTATE_VALUE_CHARS_MAX,
)

__all__ = ["Traceparent", "encode_traceparent", "parse_traceparent", "parse_tracestate"]

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY: Final = re.compile(rb"[a-z][a-z0-9_\-*/]*|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}")
_VALUE: Final = re.compile(rb"[\x20-\x2b\x2d-\x3c\x3e-\x7e]*[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_ZERO_TRACE: Final = b"0" * 32
_ZERO_SPAN: Final = b"0" * 16


class Traceparent(msgspec.Struct, frozen=True):
    trace_id: bytes  # 32 lower-case hexadecimal digits.
    span_id: bytes  # 16 of them: the span that called us.
    sampled: bool


def parse_traceparent(values: Sequence[bytes]) -> Traceparent | None:
    """The one valid traceparent among the fields' values; None when there is none, several or a broken one."""
    if len(values) != 1:
        return None
    match = _TRACEPARENT.fullmatch(values[0].strip(b" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    if trace_id == _ZERO_TRACE or span_id == _ZERO_SPAN:
        return None
    return Traceparent(trace_id, span_id, bool(int(flags, 16) & 1))


def encode_traceparent(trace_id: bytes, span_id: bytes, *, sampled: bool) -> bytes:
    return b"00-%b-%b-%b" % (trace_id, span_id, b"01" if sampled else b"00")


def parse_tracestate(values: Iterable[bytes]) -> bytes:
    """All tracestate fields joined in order, as one value; empty when any member is invalid or too many are there.

    The caller drops it when traceparent was not valid (section 3.3: no tracestate without a traceparent).
    """
    members: list[bytes] = []
    seen: set[bytes] = set()
    for member in b",".join(values).split(b","):
        stripped = member.strip(b" \t")
        if not stripped:
            continue
        key, equals, value = stripped.partition(b"=")
        if not equals or len(key) > TRACESTATE_KEY_CHARS_MAX or len(value) > TRACESTATE_VALUE_CHARS_MAX:
            return b""
        if _KEY.fullmatch(key) is None or _VALUE.fullmatch(value) is None:
            return b""
        if key in seen:
            continue
        seen.add(key)
        members.append(stripped)
        if len(members) > TRACESTATE_MEMBERS_MAX:
            return b""
    joined = b",".join(members)
    return joined if len(joined) <= TRACESTATE_BYTES_MAX else b""
