"""The opening of a WebSocket as its server sees it: RFC 6455 section 4.2 over HTTP/1.1, RFC 8441 over HTTP/2.

`check_upgrade` and `check_connect` read a request's fields and give an `Opening`, or refuse with the status and the
fields that the answer must have. `accept_fields` gives the fields of the answer that opens it. Values only: who sends
them, and under which status (101, or 200 over HTTP/2), is the caller's.

Not here: who may open one (the caller compares `Opening.origin` with what it allows), and what is said on it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from wire.errors import RemoteProtocolError
from wire.http1 import Field
from wire.limits import WEBSOCKET_EXTENSION_OFFERS_MAX, WEBSOCKET_SUBPROTOCOLS_MAX
from wire.websocket.deflate import DeflateTerms
from wire.websocket.extensions import Offer, parse_offers

VERSION: Final = b"13"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3.
_KEY_BYTES: Final = 16
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class HandshakeRefused(RemoteProtocolError):
    """This request opens no WebSocket. `fields`: what the answer with `status_hint` must have."""

    def __init__(self, message: str, status_hint: int = 400, fields: Sequence[Field] = ()) -> None:
        super().__init__(message, status_hint)
        self.fields = tuple(fields)


class Opening(msgspec.Struct, frozen=True):
    """What a client that wants a WebSocket has said of it."""

    key: bytes  # Empty over HTTP/2, which needs no proof that the server understood.
    origin: bytes | None  # Of a browser: the page that asks. Programs send none.
    subprotocols: tuple[bytes, ...]  # In the client's order of preference.
    offers: tuple[Offer, ...]  # Extensions, likewise.

    def choose(self, known: Collection[bytes]) -> bytes | None:
        """The client's favourite among the subprotocols that we know."""
        return next((name for name in self.subprotocols if name in known), None)


def wants_websocket(fields: Sequence[Field]) -> bool:
    """Whether an HTTP/1.1 request asks for a WebSocket at all. Cheap; most have no `upgrade`."""
    return any(name == b"upgrade" and b"websocket" in _tokens(value) for name, value in fields)


def check_upgrade(method: bytes, minor: int, fields: Sequence[Field]) -> Opening:
    """An HTTP/1.1 request with `Upgrade: websocket`. Raises HandshakeRefused."""
    if method != b"GET":
        raise HandshakeRefused(f"a WebSocket is opened by GET, not {_shown(method)}", 405, [(b"allow", b"GET")])
    if minor < 1:
        raise HandshakeRefused("a WebSocket needs HTTP/1.1; this request is HTTP/1.0")
    if not any(name == b"connection" and b"upgrade" in _tokens(value) for name, value in fields):
        raise HandshakeRefused("upgrade: websocket without connection: upgrade")
    versions = _values(fields, b"sec-websocket-version")
    if versions != [VERSION]:
        # RFC 6455 section 4.4, and RFC 9110 section 15.5.22 for the upgrade that a 426 must name.
        needs = [(b"sec-websocket-version", VERSION), (b"upgrade", b"websocket"), (b"connection", b"upgrade")]
        raise HandshakeRefused(_version_fault(versions), 426, needs)
    keys = _values(fields, b"sec-websocket-key")
    if len(keys) != 1:
        raise HandshakeRefused(f"{len(keys)} sec-websocket-key fields; exactly one is due")
    if not _is_key(keys[0]):
        raise HandshakeRefused(f"sec-websocket-key is {_shown(keys[0])}, not sixteen bytes in base64")
    return _opening(fields, keys[0])


def check_connect(protocol: bytes, fields: Sequence[Field]) -> Opening:
    """An HTTP/2 CONNECT with `:protocol` (RFC 8441). Raises HandshakeRefused.

    A field of HTTP/1.1's handshake that no proxy may have left in (`upgrade`, `connection`) is HTTP/2's to refuse.
    """
    if protocol.lower() != b"websocket":
        # RFC 9220 section 3 says for HTTP/3 what holds here too: an unknown protocol is not implemented.
        raise HandshakeRefused(f"nothing here speaks {_shown(protocol)}; CONNECT is for :protocol websocket", 501)
    versions = _values(fields, b"sec-websocket-version")
    if versions != [VERSION]:
        # Not 426: it would have to name an upgrade, and HTTP/2 has none.
        raise HandshakeRefused(_version_fault(versions), 400, [(b"sec-websocket-version", VERSION)])
    return _opening(fields, b"")


def accept_fields(opening: Opening, *, subprotocol: bytes | None, deflate: DeflateTerms | None) -> list[Field]:
    """The fields of the answer that opens it, in HTTP/1.1 under 101, in HTTP/2 under 200."""
    fields: list[Field] = []
    if opening.key:
        fields += [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
        fields.append((b"sec-websocket-accept", accept_token(opening.key)))
    if subprotocol is not None:
        assert subprotocol in opening.subprotocols, "a subprotocol that the client did not offer"
        fields.append((b"sec-websocket-protocol", subprotocol))
    if deflate is not None:
        fields.append((b"sec-websocket-extensions", deflate.encode()))
    return fields


def accept_token(key: bytes) -> bytes:
    """The proof that the server has read the key as one of a WebSocket (RFC 6455 section 4.2.2, 5.4)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def is_same_origin(origin: bytes, host: bytes) -> bool:
    """Whether the page that asks came from the host that it asks, whatever the scheme (a proxy may end TLS)."""
    return origin.lower().partition(b"://")[2] == host.lower() != b""


def _version_fault(versions: Sequence[bytes]) -> str:
    said = _shown(b", ".join(versions)) if versions else "missing"
    return f"sec-websocket-version is {said}; this server speaks 13"


def _opening(fields: Sequence[Field], key: bytes) -> Opening:
    origins = _values(fields, b"origin")
    if len(origins) > 1:
        raise HandshakeRefused(f"{len(origins)} origin fields; a page has one")
    names: list[bytes] = []
    for value in _values(fields, b"sec-websocket-protocol"):
        names += [part.strip(b" \t") for part in value.split(b",", WEBSOCKET_SUBPROTOCOLS_MAX)]
    if len(names) > WEBSOCKET_SUBPROTOCOLS_MAX:
        raise HandshakeRefused(f"more than {WEBSOCKET_SUBPROTOCOLS_MAX} subprotocols")
    if not all(_TOKEN.fullmatch(name) for name in names) or len(set(names)) != len(names):
        raise HandshakeRefused("sec-websocket-protocol is not a list of different tokens")
    offered = b",".join(_values(fields, b"sec-websocket-extensions"))
    try:
        offers = parse_offers(offered, offers_max=WEBSOCKET_EXTENSION_OFFERS_MAX)
    except ValueError as error:
        raise HandshakeRefused(f"sec-websocket-extensions: {error}") from error
    return Opening(key, origins[0] if origins else None, tuple(names), offers)


def _is_key(value: bytes) -> bool:
    # Strict, and the same again when encoded: base64 has more than one way to write the last four bits.
    try:
        key = base64.b64decode(value, validate=True)
    except binascii.Error:
        return False
    return len(key) == _KEY_BYTES and base64.b64encode(key) == value


def _tokens(value: bytes) -> list[bytes]:
    return [part.strip(b" \t") for part in value.lower().split(b",")]


def _values(fields: Sequence[Field], name: bytes) -> list[bytes]:
    return [value for key, value in fields if key == name]


def _shown(value: bytes) -> str:
    return repr(value[:80])[1:]
