"""A streamed response that is cancelled at each of its awaits: the connection is closed, and its task ends."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import trio

from infermesh.net.connection import BACKLOG_HIGH_BYTES, ConnectionLost
from infermesh.net.http1 import Request, ServerConnection, ServerLimits, SlowCall, StreamedResponse
from infermesh.testing.await_sites import AwaitSites, OnParked
from infermesh.testing.leftovers import descriptors
from infermesh.testing.reactors import running_reactor

SITES = AwaitSites(["net/connection.py", "net/http1/server.py"])
CALL = "net/http1/server.py: ServerConnection.serve: await self._calls.popleft()()"
START = "net/http1/server.py: StreamedResponse.start: await trio.lowlevel.checkpoint()"
WRITE = "net/http1/server.py: StreamedResponse.write: await trio.lowlevel.checkpoint()"
DRAIN = "net/http1/server.py: StreamedResponse.write: await self._connection.drain()"
DRAINED = "net/connection.py: Connection.drain: await self._drained.wait()"
FINISH = "net/http1/server.py: StreamedResponse.finish: await trio.lowlevel.checkpoint()"

Act = Callable[[ServerConnection, socket.socket], None]


def client_leaves(connection: ServerConnection, client: socket.socket) -> None:
    client.close()


def scope_is_cancelled(connection: ServerConnection, client: socket.socket) -> None:
    connection.scope.cancel()


def connection_is_aborted(connection: ServerConnection, client: socket.socket) -> None:
    connection.abort()


async def stream_out(connection: ServerConnection) -> None:
    """More than all buffers between the two take, unless the client reads."""
    response = StreamedResponse(connection)
    await response.start(200, [])
    for _ in range(8):
        await response.write(b"x" * BACKLOG_HIGH_BYTES)
    await response.finish()


async def serve(connection: ServerConnection, ended: trio.Event) -> None:
    try:
        with connection.scope:
            await connection.serve()
    except ConnectionLost:
        pass
    finally:
        connection.abort()
        ended.set()


async def read_all(client: socket.socket) -> None:
    while client.fileno() >= 0:
        try:
            if not client.recv(1 << 20):
                return
        except BlockingIOError:
            try:
                await trio.lowlevel.wait_readable(client)
            except (trio.ClosedResourceError, ValueError):
                return
        except OSError:
            return


@pytest.mark.parametrize("act", [client_leaves, scope_is_cancelled, connection_is_aborted], ids=lambda a: a.__name__)
@pytest.mark.parametrize(
    ("at", "reads"),
    [((START,), False), ((WRITE,), False), ((DRAIN, DRAINED), False), ((FINISH,), True)],
    ids=["start", "write", "drain", "finish"],
)
async def test_cancelled_there_nothing_is_left(at: tuple[str, ...], reads: bool, act: Act) -> None:
    before = descriptors()
    ours, client = socket.socketpair()
    for sock in (ours, client):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def answer(connection: ServerConnection, request: Request) -> SlowCall:
        return lambda: stream_out(connection)

    async with running_reactor() as running, trio.open_nursery() as nursery:
        connection = ServerConnection(
            ours, running.reactor, running.timers, ServerLimits(), answer=answer, refuse=lambda _: b""
        )
        ended = trio.Event()
        watch = OnParked(SITES, map(SITES.named, (CALL, *at)), lambda task: act(connection, client))
        trio.lowlevel.add_instrument(watch)
        nursery.start_soon(serve, connection, ended)
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        if reads:
            nursery.start_soon(read_all, client)
        with trio.fail_after(5):
            await watch.acted.wait()
            await ended.wait()
        trio.lowlevel.remove_instrument(watch)
        assert connection.closed
        assert connection.backlog_len == 0
        nursery.cancel_scope.cancel()
    client.close()
    assert descriptors() <= before
