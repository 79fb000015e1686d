"""A small HTTP/1.1 server for tests: it answers with whatever its `answer` function says, right or wrong.

h11 over trio, plain or TLS, on a free port of the loopback. One function answers every request; it may wait,
stream, break off, or send bytes that are no HTTP at all. Not a server for users: no limits, no deadlines.

The response object has the three methods that the state publisher asks of the daemon's own server.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import h11
import trio


class PeerRequest:
    """One request as it came in, its body complete. `connection` counts connections from 1."""

    def __init__(self, head: h11.Request, body: bytes, connection: int) -> None:
        self.method = head.method.decode()
        self.target = head.target.decode()
        self.headers = [(bytes(name), bytes(value)) for name, value in head.headers]
        self.body = body
        self.connection = connection


class PeerResponse:
    """What an answer function writes to: `start`, any number of `write`, `finish`; or `send` for all in one."""

    def __init__(self, stream: trio.abc.Stream, machine: h11.Connection) -> None:
        self._stream = stream
        self._machine = machine

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        await self._send(h11.Response(status_code=status, headers=list(headers)))

    async def write(self, data: bytes) -> None:
        await self._send(h11.Data(data=data))

    async def finish(self) -> None:
        await self._send(h11.EndOfMessage())

    async def send(self, body: bytes = b"", *, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """A whole answer in one piece."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        if body:
            await self.write(body)
        await self.finish()

    async def send_raw(self, data: bytes) -> None:
        """Bytes as they are, whatever they say. Afterwards it can only abort."""
        await self._stream.send_all(data)

    async def abort(self) -> None:
        """Close the connection here and now."""
        await trio.aclose_forcefully(self._stream)

    async def wait_gone(self) -> None:
        """Until the client closes its end: what a runtime that watches for disconnects would see."""
        try:
            while await self._stream.receive_some():
                pass
        except trio.BrokenResourceError:
            return

    async def _send(self, event: h11.Event) -> None:
        await self._stream.send_all(self._machine.send(event) or b"")


PeerAnswer = Callable[[PeerRequest, PeerResponse], Awaitable[None]]


class HttpPeer:
    """A running server: where it is, and what it has seen."""

    def __init__(self, *, port: int, secure: bool) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.base_url = f"{'https' if secure else 'http'}://{self.host}:{port}"
        self.connections = 0
        self.requests: list[PeerRequest] = []
        self.connections_open = 0
        self._nobody = trio.Event()
        self._nobody.set()

    async def wait_nobody(self) -> None:
        """Until no client is connected."""
        await self._nobody.wait()

    def opened(self) -> None:
        self.connections += 1
        self.connections_open += 1
        if self.connections_open == 1:
            self._nobody = trio.Event()

    def closed(self) -> None:
        self.connections_open -= 1
        if self.connections_open == 0:
            self._nobody.set()


async def serve_http_peer(
    answer: PeerAnswer,
    *,
    tls: ssl.SSLContext | None = None,
    port: int = 0,
    task_status: trio.TaskStatus[HttpPeer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. `await nursery.start(serve_http_peer, answer)` gives the HttpPeer."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    peer = HttpPeer(port=listeners[0].socket.getsockname()[1], secure=tls is not None)
    task_status.started(peer)
    await trio.serve_listeners(partial(_serve_connection, peer, answer, tls), listeners)


async def _serve_connection(
    peer: HttpPeer, answer: PeerAnswer, tls: ssl.SSLContext | None, raw: trio.SocketStream
) -> None:
    stream: trio.abc.Stream = raw
    if tls is not None:
        stream = trio.SSLStream(raw, tls, server_side=True, https_compatible=True)
    peer.opened()
    try:
        await _serve_requests(peer, answer, stream, peer.connections)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
        pass  # The client went away, or the answer broke off: both are what tests are about.
    finally:
        peer.closed()
        await trio.aclose_forcefully(stream)


async def _serve_requests(peer: HttpPeer, answer: PeerAnswer, stream: trio.abc.Stream, connection: int) -> None:
    machine = h11.Connection(our_role=h11.SERVER)
    while True:
        head = await _next_event(machine, stream)
        if not isinstance(head, h11.Request):
            return
        body = b""
        while isinstance(event := await _next_event(machine, stream), h11.Data):
            body += bytes(event.data)
        request = PeerRequest(head, body, connection)
        peer.requests.append(request)
        await answer(request, PeerResponse(stream, machine))
        # h11 refuses to begin the next cycle when this answer is not finished or said "close".
        machine.start_next_cycle()


async def _next_event(machine: h11.Connection, stream: trio.abc.Stream) -> object:
    while True:
        event = machine.next_event()
        if event is not h11.NEED_DATA:
            return event
        machine.receive_data(bytes(await stream.receive_some(65_536)))
