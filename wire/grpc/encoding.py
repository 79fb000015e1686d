"""Message compression by name: `grpc-encoding` and `grpc-accept-encoding` (grpc/grpc doc/compression.md)."""

from __future__ import annotations

import enum
from typing import Final


class Encoding(enum.StrEnum):
    IDENTITY = "identity"
    GZIP = "gzip"
    DEFLATE = "deflate"  # The zlib format of RFC 1950, as in HTTP.


_BY_NAME: Final = {encoding.value.encode(): encoding for encoding in Encoding}
ACCEPT_ENCODING: Final = b",".join(sorted(_BY_NAME))
"""What we can read, for `grpc-accept-encoding`."""


def parse_encoding(value: bytes) -> Encoding | None:
    """None: one that we do not have (UNIMPLEMENTED)."""
    return _BY_NAME.get(value)


def parse_accept(value: bytes | None) -> frozenset[Encoding]:
    """What the peer reads. Identity always; names unknown to us are passed over."""
    names = [part.strip(b" \t") for part in value.split(b",")] if value else []
    return frozenset({Encoding.IDENTITY, *(_BY_NAME[name] for name in names if name in _BY_NAME)})
