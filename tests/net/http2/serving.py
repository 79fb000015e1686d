"""A listening HTTP/2 server for these tests, its service made of a function, and what it counted."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from infermesh.net.asker import Request, SlowCall
from infermesh.net.connection import ConnectionLost
from infermesh.net.http1 import Refusal, ServerLimits
from infermesh.net.http2 import Http2ServerConnection, Http2ServerStream, StreamReader
from infermesh.net.listener import Listener, listen
from infermesh.net.tls_session import TlsSession
from infermesh.testing.reactors import RunningReactor, running_reactor
from wire.http2.config import Http2Config

Answer = Callable[[Http2ServerStream, Request], "SlowCall | None"]
Refuse = Callable[[Http2ServerStream, Refusal], None]
Open = Callable[[Http2ServerStream], "StreamReader | None"]


def hello(stream: Http2ServerStream, request: Request) -> SlowCall | None:
    """What most of these tests are served."""
    head = request.head
    match head.path:
        case b"/echo":
            stream.respond(200, [(b"x-method", head.method)], request.body)
        case b"/big":
            stream.respond(200, [], b"x" * int(head.target.partition(b"?")[2]))
        case b"/slow":

            async def call() -> None:
                await trio.lowlevel.checkpoint()
                stream.respond(200, [], b"slowly")

            return call
        case b"/never":
            pass
        case b"/defect":
            raise ZeroDivisionError("a defect")
        case _:
            stream.respond(200, [(b"content-type", b"text/plain")], b"hello", method=head.method)
    return None


@dataclass
class Served:
    """A service out of two functions, and everything that was counted of it."""

    running: RunningReactor
    answer_with: Answer = hello
    open_with: Open = lambda stream: None
    faults: list[str] = field(default_factory=list)
    connections: list[Http2ServerConnection] = field(default_factory=list)
    streams: list[Http2ServerStream] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    address: tuple[str, int] = ("", 0)

    def answer(self, stream: Http2ServerStream, request: Request) -> SlowCall | None:
        return self.answer_with(stream, request)

    def open_stream(self, stream: Http2ServerStream) -> StreamReader | None:
        self.streams.append(stream)
        return self.open_with(stream)

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(5):
            while not holds():
                await trio.sleep(0.001)


@asynccontextmanager
async def serving(
    answer: Answer = hello,
    *,
    open_stream: Open | None = None,
    limits: ServerLimits | None = None,
    config: Http2Config | None = None,
    refuse: Refuse | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Served]:
    """Inside, a server listens at `address`; at the end nothing of it may be left."""
    async with running_reactor() as running:
        served = Served(running, answer, open_stream or (lambda stream: None))

        async def serve(sock: socket.socket) -> None:
            connection = Http2ServerConnection(
                sock,
                running.reactor,
                running.timers,
                limits or ServerLimits(),
                service=served,
                count_fault=served.faults.append,
                http2=config,
                refuse=refuse,
            )
            served.connections.append(connection)
            try:
                if tls is not None:
                    session = TlsSession(lambda i, o: tls.wrap_bio(i, o, server_side=True))
                    await connection.handshake(session, trio.current_time() + 5, lambda _: None)
                connection.begin()
                with connection.scope:
                    await connection.serve()
            except ConnectionLost as lost:
                served.endings.append(str(lost))
            except Exception as error:  # noqa: BLE001 - the task's edge, as in production.
                served.endings.append(repr(error))
            finally:
                connection.abort()

        listener = Listener(
            listen("127.0.0.1", 0), serve, connections_max=1000, turned_away=b"", on_turned_away=lambda: None
        )
        served.address = listener.address
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            with trio.fail_after(20):
                yield served
            nursery.cancel_scope.cancel()
