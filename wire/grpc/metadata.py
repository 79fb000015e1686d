"""Custom metadata: names and values of an application, as header fields (grpc/grpc doc/PROTOCOL-HTTP2.md).

A name that ends in `-bin` holds bytes, in base64 on the wire; every other holds printable ASCII. Names repeat, and
order among equal names is kept. What comes in is taken as far as it can be read: a value that cannot be is dropped,
since one bad pair must not cost the call. What goes out is checked: a bad pair there is our own mistake.

Binary values joined by a comma on the way are split again before they are decoded, each one by itself.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Final

from wire.errors import LocalProtocolError
from wire.http1 import Field

Pair = tuple[str, str | bytes]

_NAME: Final = re.compile(r"[0-9a-z_.\-]+")
_TEXT: Final = re.compile(rb"[ -~]*")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]*")
# The protocol's own. `grpc-` is reserved as a whole; the rest means something to HTTP.
_RESERVED: Final = frozenset(
    {
        b"content-type",
        b"content-length",
        b"te",
        b"host",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
        b"trailer",
    }
)
# These come from the application although they begin with `grpc-`: hints of retry that it may read.
_READABLE: Final = frozenset(
    {b"grpc-previous-rpc-attempts", b"grpc-retry-pushback-ms", b"grpc-trace-bin", b"grpc-tags-bin"}
)


class Metadata:
    """An ordered list of pairs that is never changed. Iterating gives (name, value), value by value."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self._pairs = tuple(pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metadata) and self._pairs == other._pairs

    def __repr__(self) -> str:
        # Names only: values are other people's secrets.
        return f"Metadata({', '.join(name for name, _ in self._pairs)})"

    def text(self, name: str) -> str | None:
        """The first value of a name that holds text."""
        for key, value in self._pairs:
            if key == name and isinstance(value, str):
                return value
        return None

    def binary(self, name: str) -> bytes | None:
        """The first value of a name that ends in `-bin`."""
        for key, value in self._pairs:
            if key == name and isinstance(value, bytes):
                return value
        return None

    def all(self, name: str) -> list[str | bytes]:
        return [value for key, value in self._pairs if key == name]


NO_METADATA: Final = Metadata()


def encode_metadata(metadata: Iterable[Pair]) -> list[Field]:
    """Fields for the wire. Raises LocalProtocolError that names the pair which cannot be sent, and why."""
    return [_encode_pair(name, value) for name, value in metadata]


def decode_metadata(fields: Iterable[Field]) -> Metadata:
    """The application's pairs of a header block: what belongs to HTTP or gRPC itself is left out."""
    pairs: list[Pair] = []
    for name, value in fields:
        if name in _RESERVED or name[:1] == b":":
            continue
        if name[:5] == b"grpc-" and name not in _READABLE:
            continue
        text = name.decode("latin-1")
        if _NAME.fullmatch(text) is None:
            continue  # Legal in HTTP, not here; the application could not send it back.
        if name[-4:] == b"-bin":
            pairs += [(text, raw) for part in value.split(b",") if (raw := decode_binary(part)) is not None]
        elif _TEXT.fullmatch(value) is not None:
            pairs.append((text, value.strip(b" ").decode("ascii")))
    return Metadata(pairs) if pairs else NO_METADATA


def encode_binary(value: bytes) -> bytes:
    """Base64 without padding, as the protocol asks of senders."""
    return base64.b64encode(value).rstrip(b"=")


def decode_binary(value: bytes) -> bytes | None:
    """One value in base64, padded or not; None if it is neither."""
    value = value.strip(b" \t")
    bare = value.rstrip(b"=")
    padding = -len(bare) % 4
    if padding == 3 or len(value) - len(bare) not in (0, padding) or _BASE64.fullmatch(bare) is None:
        return None
    try:
        return binascii.a2b_base64(bare + b"=" * padding)
    except binascii.Error:
        return None


def _encode_pair(name: str, value: str | bytes) -> Field:
    if _NAME.fullmatch(name) is None:
        raise LocalProtocolError(f"metadata name {name!r}: only 0-9 a-z _ . and - may be used")
    raw = name.encode()
    if raw in _RESERVED or (raw[:5] == b"grpc-" and raw not in _READABLE):
        raise LocalProtocolError(f"metadata name {name!r} is reserved for the protocol")
    if name.endswith("-bin"):
        if not isinstance(value, bytes):
            raise LocalProtocolError(f"metadata {name!r} ends in -bin: its value must be bytes, not text")
        return raw, encode_binary(value)
    if not isinstance(value, str):
        raise LocalProtocolError(f"metadata {name!r} holds bytes: its name must end in -bin")
    text = value.encode("utf-8", "surrogateescape")
    if _TEXT.fullmatch(text) is None:
        raise LocalProtocolError(f"metadata {name!r}: its value is not printable ASCII; send it under {name}-bin")
    return raw, text
