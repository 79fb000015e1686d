"""Cancellation at every await of this package: each is named here, and the table is held against the sources."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import h2.errors
import pytest
import trio

from infermesh.net.asker import Request, SlowCall
from infermesh.net.http1 import ServerLimits
from infermesh.net.http2 import Http2Pool, Http2ServerConnection, Http2ServerStream
from infermesh.net.http2.client import CLIENT_CONFIG
from infermesh.net.pool import PoolLimits
from infermesh.net.tls_session import TlsSession
from infermesh.testing.await_sites import AwaitSites, OnParked
from infermesh.testing.h2_peer import H2Client
from infermesh.testing.leftovers import descriptors
from infermesh.testing.reactors import running_reactor
from tests.net.http2.asking import Sink, asking, echo, get
from tests.net.http2.serving import Served, serving

FILES = ("client", "client_stream", "endpoint", "heads", "pool", "server", "server_stream", "stream")
SITES = AwaitSites([f"net/http2/{name}.py" for name in FILES] + ["net/connection.py", "net/dial.py"])

SERVER = "net/http2/server.py: Http2ServerConnection.serve: "
NURSERY = SERVER + "async with trio.open_nursery()"
PARK = SERVER + "await self.park()"
CALL = "net/http2/server_stream.py: Http2ServerStream.run_calls: await self._calls.popleft()()"
DRAIN = "net/http2/stream.py: Http2Stream.drain: await self._room.wait()"
POOL = "net/http2/pool.py: Http2Pool."
OPEN = POOL + "acquire: await self._open()"
SHARE = POOL + "acquire: await opening.done.wait()"
WAIT = POOL + "acquire: await self._freed.park()"
DIAL = POOL + "_open: await dial(self._address, deadline)"
SHAKE = POOL + "_open: await connection.handshake(TlsSession(self._secure.wrap), deadline, self._admit)"

TESTED = {
    NURSERY: "serving",
    PARK: "serving",
    CALL: "serving",
    DRAIN: "serving",
    OPEN: "pool",
    SHARE: "pool",
    WAIT: "pool",
    DIAL: "pool",
    SHAKE: "pool",
}

Act = Callable[[Served, H2Client], None]


def test_every_await_of_the_package_is_in_the_table() -> None:
    assert {str(site) for site in SITES.all() if "/http2/" in site.file} == TESTED.keys()


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


# --- the pool ---


async def _cancelled_at(pool: Http2Pool, *at: str) -> None:
    """Ask for a stream, and be cancelled as soon as that waits there."""

    async def acquire() -> None:
        await pool.acquire(trio.current_time() + 5)

    with trio.CancelScope() as scope, trio.fail_after(5):
        watch = OnParked(SITES, map(SITES.named, at), lambda task: scope.cancel())
        trio.lowlevel.add_instrument(watch)
        await acquire()
    trio.lowlevel.remove_instrument(watch)
    assert scope.cancelled_caught


async def test_cancelled_while_it_dials_nothing_is_left_and_the_next_one_dials() -> None:
    async with asking(echo) as here:
        before = descriptors()
        await _cancelled_at(here.pool, OPEN, DIAL)
        assert here.pool.open_len == 0
        assert descriptors() <= before
        assert bytes((await here.fetch(get())).body) == b"hello"


async def test_whoever_shares_an_opening_goes_on_when_the_opener_is_cancelled() -> None:
    async with asking(echo) as here, trio.open_nursery() as nursery:
        sink = Sink()

        async def share() -> None:
            up = await here.pool.acquire(trio.current_time() + 5)
            up.open(get(), sink)

        async def be_cancelled() -> None:
            with trio.CancelScope() as scope:
                watch = OnParked(
                    SITES, map(SITES.named, (OPEN, DIAL)), lambda task: scope.cancel(), when=lambda: opened.is_set()
                )
                trio.lowlevel.add_instrument(watch)
                nursery.start_soon(share)
                opened.set()
                await here.pool.acquire(trio.current_time() + 5)
            trio.lowlevel.remove_instrument(watch)

        opened = trio.Event()
        await be_cancelled()
        await sink.ended.wait()
        assert bytes(sink.body) == b"hello"
        assert here.pool.open_len == 1


async def test_cancelled_while_it_shares_an_opening_the_opener_goes_on() -> None:
    async with asking(echo) as here, trio.open_nursery() as nursery:
        done = trio.Event()

        async def fetch() -> None:
            await here.fetch(get())
            done.set()

        nursery.start_soon(fetch)
        await trio.sleep(0)
        await _cancelled_at(here.pool, SHARE)
        await done.wait()


async def test_cancelled_while_it_waits_for_room_the_room_goes_to_the_next() -> None:
    limits = PoolLimits(connections_max=1)
    settings = {int(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS): 1}
    async with asking(echo, limits=limits, settings=settings) as here:
        await here.fetch(get())
        held = await here.stream()
        await _cancelled_at(here.pool, WAIT)
        held.release()
        assert bytes((await here.fetch(get())).body) == b"hello"


async def test_cancelled_in_the_handshake_nothing_is_left() -> None:
    """The peer accepts and says nothing."""

    class Silent:
        failures = 0

        def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(incoming, outgoing, server_hostname="test")

        def admit(self, tls: TlsSession) -> None: ...
        def remember(self, tls: TlsSession) -> None: ...
        def failed(self, why: str) -> None:
            self.failures += 1

    secure = Silent()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with running_reactor() as running:
            before = descriptors()
            pool = Http2Pool(
                listener.getsockname()[:2],
                running.reactor,
                running.timers,
                limits=PoolLimits(),
                secure=secure,
                config=CLIENT_CONFIG,
            )
            await _cancelled_at(pool, OPEN, SHAKE)
            assert (pool.open_len, secure.failures) == (0, 0)
            assert descriptors() <= before


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
