"""A WebSocket server that says back whatever it is told, for clients and suites that we did not write.

Each message goes back as it came, text as text, binary as binary. What carries it is the real thing: listener, reactor,
`net.http1`, `net.http2` (with prior knowledge) and `net.websocket`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from functools import partial

import trio

from infermesh.net.asker import Request
from infermesh.net.connection import ConnectionLost
from infermesh.net.http1 import Refusal, ServerConnection, ServerLimits, Successor
from infermesh.net.http2 import Http2ServerConnection, Http2ServerStream, StreamReader
from infermesh.net.listener import Listener, listen
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.net.websocket import REFUSED, WebSocket, WebSocketConfig, open_websocket, open_websocket_stream
from wire.http1 import encode_response_head
from wire.http2 import Http2Config, Role
from wire.websocket import HandshakeRefused, check_connect, check_upgrade

_HTTP2 = Http2Config(role=Role.SERVER, extended_connect=True)


@dataclass(slots=True)
class EchoReader:
    socket: WebSocket
    closings: list[tuple[int, str]]

    def on_message(self, data: bytes, *, text: bool) -> None:
        if text:
            self.socket.send_text(data)
        else:
            self.socket.send_binary(data)

    def on_closing(self, code: int, reason: str) -> None:
        self.closings.append((code, reason))


@dataclass(slots=True)
class EchoServer:
    """`faults`: the labels of what peers did wrong. `closings`: code and reason of each WebSocket that ended."""

    address: tuple[str, int] = ("", 0)
    faults: list[str] = field(default_factory=list)
    closings: list[tuple[int, str]] = field(default_factory=list)
    crashes: list[Exception] = field(default_factory=list)
    open: list[WebSocket] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Echo:
    server: EchoServer
    config: WebSocketConfig
    reactor: Reactor
    timers: Timers
    subprotocols: tuple[bytes, ...]

    async def serve(self, sock: socket.socket) -> None:
        connection = ServerConnection(
            sock,
            self.reactor,
            self.timers,
            ServerLimits(),
            answer=self.upgrade,
            refuse=self.refuse,
            on_preface=self.begin_http2,
        )
        speaker: Successor | None = connection
        try:
            with connection.scope:
                while speaker is not None:
                    await speaker.serve()
                    speaker = connection.successor if speaker is connection else None
        except ConnectionLost:
            pass
        finally:
            connection.abort()
            if connection.successor is not None:
                connection.successor.abort()

    def begin_http2(self, old: ServerConnection, rest: bytes) -> Http2ServerConnection:
        new = Http2ServerConnection(
            old.sock,
            self.reactor,
            self.timers,
            ServerLimits(),
            service=self,
            count_fault=self.server.faults.append,
            http2=_HTTP2,
            predecessor=old,
        )
        new.begin(rest)
        return new

    def answer(self, stream: Http2ServerStream, request: Request) -> None:
        stream.respond(404, [])

    def open_stream(self, stream: Http2ServerStream) -> StreamReader | None:
        if not stream.protocol:
            return None
        try:
            opening = check_connect(stream.protocol, stream.head.fields)
        except HandshakeRefused as refused:
            stream.respond(refused.status_hint, refused.fields, str(refused).encode())
            return REFUSED
        opened = open_websocket_stream(
            stream,
            opening,
            self.config,
            reader=lambda socket: EchoReader(socket, self.server.closings),
            subprotocol=opening.choose(self.subprotocols),
            count_fault=self.server.faults.append,
        )
        self.server.open.append(opened.socket)
        return opened

    def upgrade(self, connection: ServerConnection, request: Request) -> None:
        head = request.head
        try:
            opening = check_upgrade(head.method, head.minor, head.fields)
        except HandshakeRefused as refused:
            connection.respond(refused.status_hint, refused.fields, str(refused).encode(), method=head.method)
            return
        opened = open_websocket(
            connection,
            opening,
            self.config,
            reader=lambda socket: EchoReader(socket, self.server.closings),
            subprotocol=opening.choose(self.subprotocols),
            count_fault=self.server.faults.append,
        )
        self.server.open.append(opened)

    def refuse(self, refusal: Refusal) -> bytes:
        self.server.faults.append(refusal.reason)
        return encode_response_head(refusal.status, b"Refused", [(b"content-length", b"0"), (b"connection", b"close")])


async def serve_echo(
    config: WebSocketConfig,
    *,
    port: int = 0,
    subprotocols: tuple[bytes, ...] = (),
    task_status: trio.TaskStatus[EchoServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on the loopback address until cancelled. Nothing that a peer does may end it."""
    server = EchoServer()
    reactor = Reactor(on_crash=server.crashes.append)
    timers = Timers(on_crash=server.crashes.append)
    echo = _Echo(server, config, reactor, timers, subprotocols)
    listener = Listener(
        listen("127.0.0.1", port),
        echo.serve,
        connections_max=1000,
        turned_away=b"",
        on_turned_away=partial(server.faults.append, "turned_away"),
    )
    server.address = listener.address
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        nursery.start_soon(timers.run)
        nursery.start_soon(listener.run)
        task_status.started(server)
