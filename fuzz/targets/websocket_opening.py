"""Invariant: any fields open a WebSocket, as wsproto reads them, or are refused; the answer is made of fields.

Input: lines of `name: value`, the first line the method (over HTTP/1.1) or, after `:`, the `:protocol` (over HTTP/2).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator

from wsproto import ConnectionType, WSConnection
from wsproto.events import Request
from wsproto.utilities import RemoteProtocolError as TheirRefusal
from wsproto.utilities import generate_accept_token

from fuzz.target import Target, Violation, demand
from wire.http1 import Field
from wire.websocket import (
    DeflateConfig,
    HandshakeRefused,
    Opening,
    accept_fields,
    agree,
    check_connect,
    check_upgrade,
    is_same_origin,
    wants_websocket,
)

_PLAIN = re.compile(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?|")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_NOT_FOR_WSPROTO = (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade")
_CONFIG = DeflateConfig(keep_our_window=True, keep_their_window=True)


def check(data: bytes) -> Hashable:
    first, _, rest = data.partition(b"\n")
    # As a head's parser hands them on: names are tokens in lower case, values visible bytes without blanks around.
    pairs = [line.partition(b":") for line in rest.split(b"\n")]
    fields = [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]
    fields = [field for field in fields if _NAME.fullmatch(field[0]) and _PLAIN.fullmatch(field[1])]
    wants = wants_websocket(fields)
    try:
        opening = check_connect(first[1:], fields) if first[:1] == b":" else check_upgrade(first, 1, fields)
    except HandshakeRefused as error:
        demand(error.status_hint in (400, 405, 426, 501), "refused with another status", error.status_hint)
        demand(str(error).isprintable(), "a refusal that does not print", str(error))
        return "refused", error.status_hint, wants
    if opening.origin is not None:
        is_same_origin(opening.origin, b"a")
    terms = agree(opening.offers, _CONFIG)
    answer = accept_fields(opening, subprotocol=opening.choose(opening.subprotocols), deflate=terms)
    for name, value in answer:
        demand(_NAME.fullmatch(name) and _PLAIN.fullmatch(value), "no header field", name, value)
    if opening.key and wants:
        _as_wsproto_reads(fields, opening, answer)
    return "opened", bool(opening.key), terms is not None, bool(opening.subprotocols)


def _as_wsproto_reads(fields: list[Field], opening: Opening, answer: list[Field]) -> None:
    connection = WSConnection(ConnectionType.SERVER)
    # It looks at the last of several Connection and Upgrade fields; ours may be a list over all of them.
    lines = b"".join(b"%b: %b\r\n" % field for field in fields if field[0] not in _NOT_FOR_WSPROTO)
    lines += b"connection: upgrade\r\nupgrade: websocket\r\n"
    try:
        connection.receive_data(b"GET / HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n")
        request = next(iter(connection.events()))
    except TheirRefusal as error:
        raise Violation(f"opened by us, refused by wsproto: {error}; {fields}") from error
    demand(isinstance(request, Request), "wsproto sees no request", request)
    assert isinstance(request, Request)
    theirs = [name.encode() for name in request.subprotocols]
    demand(theirs == list(opening.subprotocols), "other subprotocols", theirs, opening.subprotocols)
    token = dict(answer)[b"sec-websocket-accept"]
    demand(token == generate_accept_token(opening.key), "another proof", token, opening.key)


def seeds() -> Iterator[bytes]:
    head = b"upgrade: websocket\nconnection: Upgrade\nsec-websocket-version: 13\n"
    key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\n"
    yield b"GET\n" + head + key + b"origin: http://example.com\nsec-websocket-protocol: chat, superchat"
    yield (
        b"GET\n" + head + key + b'sec-websocket-extensions: permessage-deflate; client_max_window_bits, x-webkit;a="b"'
    )
    yield (
        b"GET\n" + head + key + b"sec-websocket-extensions: permessage-deflate; server_max_window_bits=10; "
        b"server_no_context_takeover; client_no_context_takeover; client_max_window_bits=8"
    )
    yield b":websocket\nsec-websocket-version: 13\nsec-websocket-protocol: a\norigin: https://a"
    yield b"POST\n" + head
    yield b":other\n"
    yield b"GET\n" + head.replace(b"13", b"8") + key
    yield b"GET\n" + head + key.replace(b"Q==", b"R==") + b"sec-websocket-extensions: ,, a ; b = c"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.websocket.handshake", "wire.websocket.extensions", "wire.websocket.deflate"),
    words=(
        b"\nupgrade: websocket",
        b"\nconnection: upgrade",
        b"\nsec-websocket-version: 13",
        b"\nsec-websocket-key: ",
        b"\nsec-websocket-protocol: ",
        b"\nsec-websocket-extensions: permessage-deflate",
        b"; server_max_window_bits=",
        b"; client_max_window_bits",
        b"; server_no_context_takeover",
        b"\norigin: ",
        b", ",
        b'"',
    ),
    input_bytes_max=1024,
)
