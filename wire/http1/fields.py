"""Header fields at a hop: which go no further, and how a head is written.

RFC 9110 section 7.6.1: a proxy removes the fields that Connection lists, and those it knows to be for one
connection only. Framing fields are never copied: the sender of a message writes its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

Field: TypeAlias = tuple[bytes, bytes]

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"content-length",  # Written anew from the framing.
        b"upgrade",
        b"http2-settings",
        b"expect",
    }
)

# Connection must not be able to take these away (RFC 9110 section 7.6.1 forbids listing them).
_NEVER_DROPPED: Final = frozenset({b"host", b"content-type", b"authorization", b"cache-control", b"traceparent"})


def connection_options(values: Sequence[bytes]) -> frozenset[bytes]:
    """The options of all Connection fields, in lower case."""
    return frozenset(option.strip().lower() for value in values for option in value.split(b","))


def forwardable(fields: Iterable[Field], drop: frozenset[bytes] = frozenset()) -> list[Field]:
    """The fields that may pass to the next hop, without those in `drop`."""
    listed = [value for name, value in fields if name == b"connection"]
    if listed:
        drop = drop | (connection_options(listed) - _NEVER_DROPPED)
    gone = HOP_BY_HOP
    return [field for field in fields if field[0] not in gone and field[0] not in drop]


def encode_fields(fields: Iterable[Field]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def encode_request_head(method: bytes, target: bytes, fields: Iterable[Field]) -> bytes:
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, encode_fields(fields))


def encode_response_head(status: int, reason: bytes, fields: Iterable[Field]) -> bytes:
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, encode_fields(fields))
