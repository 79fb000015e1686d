"""Invariant: a request head is refused, or read the same however cut, as h11 reads it, and writes back the same.

Differential: what we accept, h11 accepts with the same method, target, fields and framing (we may be stricter).
From each accepted head all is read that the front door reads: hints (or RequestRefused), a KServe path, an upgrade to
h2c, whose settings start an HTTP/2 connection or are refused.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import h11

from fuzz.target import Target, Violation, agreed, demand
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.h2c import h2c_settings
from infermesh.planes.data.kserve import parse_model_path
from infermesh.planes.data.peek import read_hints
from wire.errors import RemoteProtocolError
from wire.http1 import (
    CHUNKED,
    RequestHead,
    encode_request_head,
    forwardable,
    head_end,
    parse_request_head,
)
from wire.http2.config import Http2Config, Role
from wire.http2.connection import Http2Connection

Outcome = tuple[str, object]
_CONFIG = Http2Config(Role.SERVER)


def read(pieces: Sequence[bytes]) -> Outcome:
    """As a connection reads: what has come is searched for its end after each piece."""
    data = b""
    for piece in pieces:
        data += piece
        try:
            end = head_end(data)
            if end >= 0:
                return "head", (parse_request_head(data[:end]), end)
        except RemoteProtocolError as error:
            return "refused", error.status_hint
    return "waiting", None


def check(data: bytes) -> Hashable:
    kind, value = agreed(data, read)
    if kind != "head":
        return kind, value
    assert isinstance(value, tuple)
    head, end = value
    _same_as_h11(head, data[:end])
    _survives_writing(head)
    try:
        hints = read_hints(head)
    except RequestRefused as error:
        demand(error.status == 400, "a hint refused with another status", error.status)
        return "hint refused", error.code
    demand(hints.deadline_s > 0, "deadline", hints)
    call = parse_model_path(head.path)
    demand(call is None or len(call.model) <= 256, "model", call)
    settings = h2c_settings(head)
    if settings is not None:
        try:
            Http2Connection(_CONFIG, 0.0).start_upgraded(settings, 0.0)
        except RemoteProtocolError:
            return "upgrade refused"
    return kind, head.minor, min(head.framing, 1), head.keep_alive


def _same_as_h11(head: RequestHead, data: bytes) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Violation(f"accepted by us, refused by h11: {error}; {head}") from error
    demand(isinstance(event, h11.Request), "h11 sees no request", event)
    assert isinstance(event, h11.Request)
    fields = [(bytes(name), bytes(value)) for name, value in event.headers]
    ours = [(name, value.strip(b" \t")) for name, value in head.fields]
    demand(fields == _as_h11_lists(ours), "other fields", fields, ours)
    demand(event.method == head.method, "other method", event.method, head.method)
    if event.target[:1] == b"/":
        demand(event.target == head.target, "other target", event.target, head.target)
    lengths = [int(value) for name, value in fields if name == b"content-length"]
    framing = CHUNKED if any(name == b"transfer-encoding" for name, _ in fields) else sum(lengths)
    demand(framing == head.framing, "other framing", framing, head.framing)


def _as_h11_lists(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """h11 writes the value of Transfer-Encoding in lower case."""
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in fields]


def _survives_writing(head: RequestHead) -> None:
    if head.minor:  # We always write HTTP/1.1, and the same fields mean another life of the connection in 1.0.
        again = parse_request_head(encode_request_head(head.method, head.target, head.lines))
        demand(again == head, "written again, another head", head, again)
    # What passes on holds no framing: a body is framed anew, so there is no second reading of it.
    passed = [line for line in forwardable(head.fields, head.lines) if line[:5].lower() != b"host:"]
    onward = parse_request_head(encode_request_head(head.method, head.target, [b"host: mesh", *passed]))
    demand(onward.framing == 0, "framing passed a hop", passed)
    demand(onward.keep_alive, "the end of a connection passed a hop", passed)


def seeds() -> Iterator[bytes]:
    for *lines, body in _SEEDS:
        yield b"\r\n".join([*lines, b"", body])


_JSON = b"Content-Type: application/json"
_UPGRADE = b"Connection: Upgrade"
_SEEDS: Sequence[Sequence[bytes]] = (
    (b"GET / HTTP/1.1", b"Host: a", b""),
    (b"GET / HTTP/1.0", b""),
    (b"GET /hello.txt HTTP/1.1", b"User-Agent: curl/7.64.1", b"Host: www.example.com", b"Accept-Language: en, mi", b""),
    (b"POST /v1/chat/completions HTTP/1.1", b"Host: mesh", _JSON, b"Content-Length: 2", b"{}"),
    (
        b"POST /x HTTP/1.1",
        b"Host: m",
        b"Transfer-Encoding: chunked",
        b"Trailer: a",
        b"Connection: close, TE",
        b"0\r\n\r\n",
    ),
    (b"OPTIONS * HTTP/1.1", b"Host: m:80", b"Expect: 100-continue", b"Content-Length: 5", b"hello"),
    (b"GET http://m/a?b=c HTTP/1.1", b"Host: m", b"Connection: keep-alive", b""),
    (b"GET /chat HTTP/1.1", b"Host: m", b"Upgrade: websocket", _UPGRADE, b"Sec-WebSocket-Version: 13", b""),
    (b"GET / HTTP/1.1", b"Host: m", b"Upgrade: h2c", _UPGRADE + b", HTTP2-Settings", b"HTTP2-Settings: AAMAAABk", b""),
    (b"POST / HTTP/1.1", b"Host: m", b"x-infermesh-priority: high", b"x-infermesh-deadline-ms: 250", b""),
    (b"POST / HTTP/1.1", b"Host: m", b"x-infermesh-tenant: t", b"x-infermesh-hedge: never", b"content-length: 0", b""),
    (b"PRI * HTTP/2.0", b"", b"SM\r\n\r\n"),
)

WORDS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"Host: ",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: ",
    b"Connection: ",
    b"close",
    b"keep-alive",
    b"upgrade",
    b"chunked",
    b"Expect: 100-continue",
    b"http://",
    b"CONNECT ",
    b"OPTIONS ",
    b"x-infermesh-priority: ",
    b"x-infermesh-deadline-ms: ",
    b"batch",
    b"1e3",
    b"nan",
    b"inf",
    b"/v2/models/a%2Fb/versions/1/infer",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQAAP__",
)

TARGET = Target(check=check, seeds=seeds, covers=("wire.http1", "infermesh.planes.data"), words=WORDS)
