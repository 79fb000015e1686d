"""Cancellation at every await of the pool: each is named here, and the table is held against the sources."""

from __future__ import annotations

import socket
import ssl

import h2.settings
import trio

from infermesh.net.http2 import Http2Pool
from infermesh.net.http2.client import CLIENT_CONFIG
from infermesh.net.pool import PoolLimits
from infermesh.net.tls_session import TlsSession
from infermesh.testing.await_sites import AwaitSites, OnParked
from infermesh.testing.leftovers import descriptors
from infermesh.testing.reactors import running_reactor
from tests.net.http2.asking import Sink, asking, echo, get

SITES = AwaitSites([f"net/http2/{name}.py" for name in ("client", "client_stream", "pool")])

POOL = "net/http2/pool.py: Http2Pool."
OPEN = POOL + "acquire: await self._open()"
SHARE = POOL + "acquire: await opening.done.wait()"
WAIT = POOL + "acquire: await self._freed.park()"
DIAL = POOL + "_open: await dial(self._address, deadline)"
SHAKE = POOL + "_open: await connection.handshake(TlsSession(self._secure.wrap), deadline, self._admit)"

TESTED = {OPEN, SHARE, WAIT, DIAL, SHAKE}


def test_every_await_of_the_asking_side_is_in_the_table() -> None:
    assert {str(site) for site in SITES.all()} == TESTED


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
