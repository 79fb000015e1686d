"""The asking side of one HTTP/1.1 connection: a request out, its response relayed as the bytes it is.

One exchange at a time. A `ResponseSink` is told of the head, by a plain call from the reactor, and then says
where the body goes: `relay_to` another connection untouched, or piece by piece to `on_body`. The body's
framing is followed all the while, so that the end is known exactly, a truncated body is told from a whole
one, and bytes beyond the end never reach the client: they end the connection instead.

Duties of the sink: inside `on_head` call `relay_to`, `read_body`, `detach`, or `hold` to decide when the first
bytes of the body come (a runtime may send the head of a stream long before its first token); never block.
"""

from __future__ import annotations

import math
import socket
from typing import Protocol

import msgspec

from infermesh.net.connection import Connection, ConnectionLost
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from wire.errors import RemoteProtocolError
from wire.http1 import (
    ResponseHead,
    UntilCloseBody,
    body_of,
    head_end,
    parse_response_head,
)
from wire.http1.framing import Body, ChunkedBody
from wire.limits import HTTP1_INTERIM_RESPONSES_MAX


class ResponseSink(Protocol):
    def on_interim(self, up: UpstreamConnection, head: ResponseHead) -> None:
        """A 1xx head came; the final one follows."""

    def on_head(self, up: UpstreamConnection, head: ResponseHead) -> None: ...

    def on_first_bytes(self, up: UpstreamConnection) -> None:
        """Body bytes came after `hold`; now choose where they go, as in `on_head`."""

    def on_body(self, up: UpstreamConnection, payload: bytes) -> None:
        """A piece of body after `read_body`, free of its framing."""

    def on_doubt(self, up: UpstreamConnection, why: str) -> None:
        """The peer is held for dead; the connection says nothing of it yet."""

    def on_end(self, up: UpstreamConnection) -> None:
        """The response is whole. The connection has been given back or closed already."""

    def on_failed(self, up: UpstreamConnection, error: ConnectionLost) -> None:
        """The connection broke, or what came was no HTTP. It is closed."""


class ConnectionOwner(Protocol):
    """Who keeps the connection between exchanges: a pool."""

    def give_back(self, up: UpstreamConnection) -> None: ...
    def forget(self, up: UpstreamConnection) -> None: ...


class ExchangeTally(msgspec.Struct):
    """What went through in one exchange; counted on the way at about 0.2 us a read."""

    bytes_in: int = 0
    events: int = 0  # Server-sent events seen, roughly.
    usage: bytes = b""  # The last read that held a usage object.


class UpstreamConnection(Connection):
    __slots__ = (
        "_body",
        "_buffer",
        "_head",
        "_holding",
        "_interim",
        "_method",
        "_owner",
        "_sink",
        "_to",
        "exchanges",
        "tally",
    )

    def __init__(self, sock: socket.socket, reactor: Reactor, timers: Timers, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._sink: ResponseSink | None = None
        self._method = b""
        self._buffer = b""
        self._head: ResponseHead | None = None
        self._body: Body | None = None
        self._holding = False
        self._interim = 0
        self._to: Connection | None = None
        self.exchanges = 0
        self.tally = ExchangeTally()
        super().__init__(sock, reactor, timers)

    @property
    def reused(self) -> bool:
        """Whether this exchange is not the connection's first: then its death may be no more than staleness."""
        return self.exchanges > 1

    @property
    def body(self) -> Body | None:
        """The body under way, for whoever must know how far it came."""
        return self._body

    @property
    def has_body_bytes(self) -> bool:
        """Whether bytes of the body came with the head."""
        return bool(self._buffer)

    def send(self, request: bytes, method: bytes, sink: ResponseSink) -> None:
        """Start an exchange. A connection that turns out broken tells the sink, now or later."""
        assert self._sink is None, "an exchange is under way"
        self._sink = sink
        self._method = method
        self._head = None
        self._body = None
        self._holding = False
        self._interim = 0
        self.exchanges += 1
        self.tally = ExchangeTally()
        self.deadline = math.inf
        if self.closed:
            self.on_lost(ConnectionLost("closed before the request was sent"))
        else:
            self.write(request)

    def hold(self) -> None:
        """Keep the head to ourselves until the body begins: `on_first_bytes` tells."""
        self._holding = True

    def relay_to(self, connection: Connection, first: bytes) -> None:
        """Send `first` (our own head) and then the body, byte for byte, with back-pressure."""
        self._to = connection
        self._begin_body(first)

    def read_body(self) -> None:
        """Give the body to `on_body` without its framing."""
        self._to = None
        if isinstance(self._body, ChunkedBody):
            self._body.payload = []
        self._begin_body(b"")

    def release(self) -> None:
        """No exchange is begun after all: back to its owner."""
        self._owner.give_back(self)

    def detach(self) -> None:
        """Close without a word to the sink: the exchange is abandoned (a lost race, a client gone)."""
        self._sink = None
        self._to = None
        self.abort()
        self._owner.forget(self)

    def doubt(self, why: str) -> None:
        """Tell whoever uses it, if anybody does, that the peer is held for dead."""
        if self._sink is not None:
            self._sink.on_doubt(self, why)

    # --- bytes ---

    def on_bytes(self, data: bytes) -> None:
        body = self._body
        if body is None:
            self._on_head_bytes(data)
            return
        if self._holding:
            self._holding = False
            self._buffer = data
            self.tally.bytes_in += len(data)
            assert self._sink is not None
            self._sink.on_first_bytes(self)
            return
        size = len(data)
        try:
            taken = body.feed(data)
        except RemoteProtocolError as error:
            self.lose(f"malformed body: {error}")
            return
        if taken != size:
            data = data[:taken]
        tally = self.tally
        tally.bytes_in += taken
        tally.events += data.count(b"data: ")
        if b'"usage"' in data:
            tally.usage = data
        to = self._to
        if to is not None:
            to.write(data, self)
        else:
            self._pass_payload(body, data)
        if body.done and not self.closed:
            self._complete(clean=taken == size)

    def _on_head_bytes(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self.lose("bytes that nobody asked for")
            return
        self.tally.bytes_in += len(data)
        self._buffer = buffer = self._buffer + data if self._buffer else data
        try:
            end = head_end(buffer)
            if end < 0:
                return
            head = parse_response_head(buffer[:end], request_method=self._method)
        except RemoteProtocolError as error:
            self.lose(f"malformed response: {error}")
            return
        self._buffer = buffer[end:]
        if head.status < 200:
            self._on_interim(sink, head)
            return
        self._head = head
        self._body = body_of(head.framing)
        sink.on_head(self, head)

    def _on_interim(self, sink: ResponseSink, head: ResponseHead) -> None:
        self._interim += 1
        if head.status == 101 or self._interim > HTTP1_INTERIM_RESPONSES_MAX:
            self.lose(f"status {head.status} where a final response was due")
            return
        sink.on_interim(self, head)
        rest, self._buffer = self._buffer, b""
        if rest and not self.closed:
            self._on_head_bytes(rest)

    def _begin_body(self, first: bytes) -> None:
        """Pass on what came with the head, in one write with `first`: one segment, no delay (reference: Nagle)."""
        body, rest = self._body, self._buffer
        assert body is not None
        self._buffer = b""
        taken = 0
        if rest and not body.done:
            try:
                taken = body.feed(rest)
            except RemoteProtocolError as error:
                if self._to is not None:
                    self._to.write(first)  # Whatever is said of this now must not come before our own head.
                self.lose(f"malformed body: {error}")
                return
        data = rest[:taken]
        self.tally.events += data.count(b"data: ")
        if b'"usage"' in data:
            self.tally.usage = data
        if self._to is not None:
            self._to.write(first + data, self)
        elif data:
            self._pass_payload(body, data)
        if body.done and not self.closed:
            self._complete(clean=taken == len(rest))

    def _pass_payload(self, body: Body, data: bytes) -> None:
        sink = self._sink
        assert sink is not None
        if isinstance(body, ChunkedBody):
            data = body.take_payload()
        if data:
            sink.on_body(self, data)

    def _complete(self, *, clean: bool) -> None:
        sink, head = self._sink, self._head
        assert sink is not None
        assert head is not None
        self._sink = None
        self._to = None
        self._body = None
        if clean and head.keep_alive and self.backlog_len == 0:
            self.resume()
            self._owner.give_back(self)
        else:
            # Bytes beyond the end belong to nobody's request (response queue poisoning).
            self.close()
            self._owner.forget(self)
        sink.on_end(self)

    # --- endings ---

    def on_eof(self) -> None:
        if isinstance(self._body, UntilCloseBody):
            self._body.done = True
            if self._holding:  # An empty body: the head is all there is to pass on.
                self._holding = False
                assert self._sink is not None
                self._sink.on_first_bytes(self)
            else:
                self._complete(clean=False)
            return
        self.lose("closed by the peer before its response was whole" if self._sink else "closed by the peer")

    def on_lost(self, error: ConnectionLost) -> None:
        sink, self._sink = self._sink, None
        self._to = None
        self._owner.forget(self)
        if sink is not None:
            sink.on_failed(self, error)

    def on_deadline(self, now: float) -> None:
        if self.tls is not None and not self.tls.ready:
            self.lose("no TLS handshake in time (connect_timeout_s)")
        elif self._sink is None:  # Idle in its pool for long enough.
            self.close()
            self._owner.forget(self)
