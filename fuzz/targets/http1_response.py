"""Invariant: a response with its body ends at the same byte however cut, where h11 finds its end, or is refused.

The first byte of the input chooses the request's method (GET or HEAD), the rest is what a runtime sends.
Differential: where we find head and body whole, h11 finds the same status, fields and payload.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import h11

from fuzz.target import Target, Violation, agreed, demand
from wire.errors import RemoteProtocolError
from wire.http1 import (
    UNTIL_CLOSE,
    ChunkedBody,
    ResponseHead,
    body_of,
    encode_relayed_head,
    forwardable,
    head_end,
    parse_response_head,
)

Outcome = tuple[str, ResponseHead | None, int]


def read(pieces: Sequence[bytes], method: bytes) -> Outcome:
    """("head" or "body" or "done", the head, how many bytes belong to the message), as a relay reads it."""
    data = b""
    pieces = list(pieces)
    head: ResponseHead | None = None
    taken = 0
    for number, piece in enumerate(pieces):
        data += piece
        try:
            end = head_end(data)
            if end < 0:
                continue
            head = parse_response_head(data[:end], request_method=method)
            body = body_of(head.framing)
            taken = end + body.feed(data[end:])
            for later in pieces[number + 1 :]:
                if not body.done:
                    taken += body.feed(later)
        except RemoteProtocolError as error:
            return f"refused {error.status_hint}", None, 0
        return "done" if body.done else "body", head, taken
    return "waiting", None, 0


def check(data: bytes) -> Hashable:
    method = b"HEAD" if data[:1] == b"H" else b"GET"
    data = data[1:]
    kind, head, taken = agreed(data, lambda pieces: read(pieces, method))
    if head is None:
        return kind
    demand(taken <= len(data), "more bytes taken than came", taken)
    if head.status != 101:  # Without its Upgrade field it is no answer to anything.
        _survives_a_hop(head, method)
    if head.status >= 200 and kind == "done":
        _same_as_h11(head, data, taken, method)
    return kind, head.status // 100, min(head.framing, 1), head.keep_alive


def _same_as_h11(head: ResponseHead, data: bytes, taken: int, method: bytes) -> None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    payload = b""
    try:
        response = connection.next_event()
        demand(isinstance(response, h11.Response), "h11 sees no response", response)
        assert isinstance(response, h11.Response)
        while isinstance(event := connection.next_event(), h11.Data):
            payload += event.data
    except h11.RemoteProtocolError as error:
        if not head.framing and "Only Transfer-Encoding: chunked" in str(error):
            return  # To HEAD, or with 304, it is about another message (RFC 9112 section 6.1), and goes no further.
        raise Violation(f"accepted by us, refused by h11: {error}; {head}") from error
    demand(isinstance(event, h11.EndOfMessage), "h11 sees no end", event, head)
    demand(response.status_code == head.status, "other status", response.status_code, head.status)
    fields = [(bytes(name), bytes(value)) for name, value in response.headers]
    ours = [(name, value.strip(b" \t")) for name, value in head.fields]
    ours = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in ours]
    demand(fields == ours, "other fields", fields, ours)
    demand(connection.trailing_data[0] == data[taken:], "another end", connection.trailing_data, data[taken:])
    body = body_of(head.framing, keep_payload=True)
    start = data.index(b"\r\n\r\n") + 4
    body.feed(data[start:])
    ours_payload = body.take_payload() if isinstance(body, ChunkedBody) else data[start:taken]
    demand(payload == ours_payload, "other payload", payload, ours_payload)


def _survives_a_hop(head: ResponseHead, method: bytes) -> None:
    again = encode_relayed_head(head.status, head.reason, [*forwardable(head.fields, head.lines)])
    onward = parse_response_head(again, request_method=method)
    demand((onward.status, onward.reason) == (head.status, head.reason), "another status behind a hop", onward)
    demand(onward.framing in (0, UNTIL_CLOSE), "framing passed a hop", onward)


def seeds() -> Iterator[bytes]:
    yield b"GHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n"
    yield b"HHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    yield b"GHTTP/1.1 204 No Content\r\n\r\n"
    yield b"GHTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 9\r\n\r\n"
    yield b"GHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    yield b"GHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    yield b"GHTTP/1.0 200 OK\r\nServer: x\r\n\r\nuntil the end"
    yield (
        b"GHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: keep-alive\r\n\r\n"
        b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    )
    yield b"GHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nx-sum: 1\r\n\r\nNEXT"
    yield b"GHTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    yield b"GHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.http1",),
    words=(
        b"\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 ",
        b"HTTP/1.0 ",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked",
        b"Connection: ",
        b"close",
        b"0\r\n\r\n",
        b" 204 ",
        b" 304 ",
        b" 100 ",
        b"1\r\nx\r\n",
    ),
)
