"""Cancellation at every await of the serving side: each is named here, and the table is held against the sources."""

from __future__ import annotations

import socket
from collections.abc import Callable

import h2.errors
import pytest
import trio

from infermesh.net.asker import Request, SlowCall
from infermesh.net.http1 import ServerLimits
from infermesh.net.http2 import Http2ServerConnection, Http2ServerStream
from infermesh.testing.await_sites import AwaitSites, OnParked
from infermesh.testing.h2_peer import H2Client
from infermesh.testing.leftovers import descriptors
from infermesh.testing.reactors import running_reactor
from tests.net.http2.serving import Served, serving

FILES = ("endpoint", "heads", "server", "server_stream", "stream")
SITES = AwaitSites([f"net/http2/{name}.py" for name in FILES])

SERVER = "net/http2/server.py: Http2ServerConnection.serve: "
NURSERY = SERVER + "async with trio.open_nursery()"
PARK = SERVER + "await self.park()"
CALL = "net/http2/server_stream.py: Http2ServerStream.run_calls: await self._calls.popleft()()"
DRAIN = "net/http2/stream.py: Http2Stream.drain: await self._room.wait()"

TESTED = {NURSERY, PARK, CALL, DRAIN}

Act = Callable[[Served, H2Client], None]


def test_every_await_of_the_package_is_in_the_table() -> None:
    assert {str(site) for site in SITES.all()} == TESTED


# --- the serving side ---


def the_client_leaves(served: Served, client: H2Client) -> None:
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.socket.close()


def the_scope_is_cancelled(served: Served, client: H2Client) -> None:
    served.connections[0].scope.cancel()


def the_connection_is_aborted(served: Served, client: H2Client) -> None:
    served.connections[0].abort()


async def stream_out(stream: Http2ServerStream) -> None:
    """More than the client's window."""
    stream.send_head([(b":status", b"200")])
    for _ in range(8):
        stream.send_data(b"x" * 65_536)
        await stream.drain()
    stream.finish()


class Working:
    lost = 0

    def on_connection_lost(self) -> None:
        self.lost += 1


@pytest.mark.parametrize(
    "act", [the_client_leaves, the_scope_is_cancelled, the_connection_is_aborted], ids=lambda act: act.__name__
)
@pytest.mark.parametrize("at", [(PARK,), (NURSERY,), (CALL,), (CALL, DRAIN)], ids=["park", "nursery", "call", "drain"])
async def test_the_end_of_a_connection_there_leaves_nothing(at: tuple[str, ...], act: Act) -> None:
    before = descriptors()
    works: list[Working] = []

    def answer(stream: Http2ServerStream, request: Request) -> SlowCall | None:
        works.append(Working())
        stream.work = works[-1]
        if request.head.path == b"/wait":
            return lambda: stream_out(stream) if DRAIN in at else trio.sleep_forever()
        return None

    async with serving(answer) as served, await H2Client.dial(served.address, credits=False) as client:
        for path in ("/wait", "/", "/wait"):
            await client.ask("GET", path)
        await served.wait_until(lambda: len(works) == 3)
        # The nursery is waited for only once the connection is lost: who ends it then comes second.
        first = the_connection_is_aborted if NURSERY in at else act
        watch = OnParked(SITES, map(SITES.named, at[-1:]), lambda task: act(served, client), when=lambda: True)
        trio.lowlevel.add_instrument(watch)
        if NURSERY in at:
            first(served, client)
        with trio.fail_after(5):
            if NURSERY not in at:
                await watch.acted.wait()
            await served.wait_until(lambda: bool(served.endings) or served.connections[0].scope.cancelled_caught)
        trio.lowlevel.remove_instrument(watch)
        assert served.connections[0].closed
        assert [work.lost for work in works] == [1, 1, 1]
    assert descriptors() <= before


@pytest.mark.parametrize("at", [(CALL,), (CALL, DRAIN)], ids=["call", "drain"])
async def test_cancelling_one_stream_there_resets_it_and_no_other(at: tuple[str, ...]) -> None:
    def answer(stream: Http2ServerStream, request: Request) -> SlowCall | None:
        if request.head.path == b"/wait":
            return lambda: stream_out(stream) if DRAIN in at else trio.sleep_forever()
        stream.respond(200, [], b"other")
        return None

    async with serving(answer) as served, await H2Client.dial(served.address, credits=False) as client:
        await client.ask("GET", "/wait")
        await client.ask("GET", "/wait")
        await served.wait_until(lambda: len(served.streams) == 2 and all(s.scope for s in served.streams))

        def cancel(task: trio.lowlevel.Task) -> None:
            scope = served.streams[0].scope
            assert scope is not None
            scope.cancel()

        watch = OnParked(SITES, map(SITES.named, at), cancel, when=lambda: True)
        trio.lowlevel.add_instrument(watch)
        assert (await client.answer(1)).reset == h2.errors.ErrorCodes.CANCEL
        trio.lowlevel.remove_instrument(watch)
        assert not served.streams[1].closed
        client.machine.increment_flow_control_window(1_000_000)
        assert bytes((await client.fetch("GET", "/")).body) == b"other"


async def test_a_connection_that_is_cancelled_before_it_is_served_is_closed() -> None:
    async with running_reactor() as running:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        served = Served(running)
        connection = Http2ServerConnection(
            ours, running.reactor, running.timers, ServerLimits(), service=served, count_fault=served.faults.append
        )
        connection.begin()
        connection.scope.cancel()
        with connection.scope:
            await connection.serve()
        assert connection.closed
        theirs.close()
