"""A page of 64 bytes over HTTP/2 in plain text: `python -m tests.bench.grpc.serve_h2c PORT ours|hypercorn`.

Ours is the HTTP/2 server alone, without the daemon around it; hypercorn runs its trio worker and a bare ASGI
application. Both answer GET and read nothing of it.
"""

from __future__ import annotations

import gc
import socket
import sys
from typing import Any

import trio

PAGE = b"A node with a short queue answers first; the score says which.\r\n"
CONNECTIONS_MAX = 1000


async def serve_hypercorn(port: int) -> None:
    from hypercorn.config import Config
    from hypercorn.trio import serve

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    # Its usual limits would end h2load's connections in the middle of a window.
    config.keep_alive_max_requests = 1_000_000_000
    gc.freeze()
    await serve(application, config)


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for part in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{part}.complete"})
    elif scope["type"] == "http":
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(PAGE))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": PAGE})


async def serve_ours(port: int) -> None:
    from infermesh.net.asker import Request
    from infermesh.net.connection import ConnectionLost
    from infermesh.net.http1 import ServerLimits
    from infermesh.net.http2 import Http2ServerConnection, Http2ServerStream
    from infermesh.net.listener import Listener, listen
    from infermesh.testing.reactors import running_reactor

    class Page:
        def open_stream(self, stream: Http2ServerStream) -> None:
            return None

        def answer(self, stream: Http2ServerStream, request: Request) -> None:
            stream.respond(200, [(b"content-type", b"text/plain")], PAGE)

    async with running_reactor() as running:

        async def serve(sock: socket.socket) -> None:
            connection = Http2ServerConnection(
                sock, running.reactor, running.timers, ServerLimits(), service=Page(), count_fault=lambda reason: None
            )
            try:
                connection.begin()
                with connection.scope:
                    await connection.serve()
            except ConnectionLost:
                pass  # How connections end.
            finally:
                connection.abort()

        listener = Listener(
            listen("127.0.0.1", port),
            serve,
            connections_max=CONNECTIONS_MAX,
            turned_away=b"",
            on_turned_away=lambda: None,
        )
        gc.freeze()
        await listener.run()


if __name__ == "__main__":
    trio.run(serve_ours if sys.argv[2] == "ours" else serve_hypercorn, int(sys.argv[1]))
