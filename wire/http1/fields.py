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
_USUAL_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b""})
_NEVER_DROPPED: Final = frozenset({b"host", b"content-type", b"authorization", b"cache-control", b"traceparent"})


def connection_options(values: Sequence[bytes]) -> frozenset[bytes]:
    """The options of all Connection fields, in lower case."""
    return frozenset(option.strip().lower() for value in values for option in value.split(b","))


def forwardable(fields: Sequence[Field], lines: Sequence[bytes], drop: frozenset[bytes] = HOP_BY_HOP) -> list[bytes]:
    """The lines of a head that may pass to the next hop. `drop` must hold HOP_BY_HOP, and may hold more.

    Without lines, those of a head that came over HTTP/2, they are written here.
    """
    if fields and not lines:
        lines = [b"%b: %b" % field for field in fields]
    kept: list[bytes] = []
    listed: list[bytes] = []
    for field, line in zip(fields, lines, strict=True):
        if field[0] not in drop:
            kept.append(line)
        elif field[0] == b"connection":
            listed.append(field[1])
    if listed:
        gone = connection_options(listed) - _NEVER_DROPPED
        if not gone <= _USUAL_OPTIONS:
            kept = [line for line in kept if line.partition(b":")[0].lower() not in gone]
    return kept


def encode_fields(fields: Iterable[Field]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def encode_request_head(method: bytes, target: bytes, lines: Iterable[bytes]) -> bytes:
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), *lines, b"", b""])


def encode_response_head(status: int, reason: bytes, fields: Iterable[Field]) -> bytes:
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, encode_fields(fields))


def encode_relayed_head(status: int, reason: bytes, lines: Iterable[bytes]) -> bytes:
    """A response head out of lines, ours and passed-on ones."""
    return b"\r\n".join([b"HTTP/1.1 %d %b" % (status, reason), *lines, b"", b""])
