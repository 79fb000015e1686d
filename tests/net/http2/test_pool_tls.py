"""The pool over TLS: HTTP/2 is negotiated or there is no connection, tickets are kept, and what has ended retires."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from infermesh.net.http2 import Http2Pool
from infermesh.net.pool import ConnectFailed, PoolLimits
from infermesh.net.tls_session import TlsSession
from infermesh.testing.h2_peer import H2Server
from infermesh.testing.reactors import running_reactor
from tests.net.http2.asking import Asking, echo, get


class Trusting:
    """TLS towards a server of `authority`."""

    def __init__(self, authority: trustme.CA) -> None:
        self._context = ssl.create_default_context()
        authority.configure_trust(self._context)
        self._context.set_alpn_protocols(["h2", "http/1.1"])
        self.remembered = 0
        self.failures: list[str] = []
        self.retire_at = math.inf

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self._context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")

    def admit(self, tls: TlsSession) -> None:
        tls.retire_at = self.retire_at

    def remember(self, tls: TlsSession) -> None:
        session = tls.object.session
        assert session is not None
        assert session.has_ticket
        self.remembered += 1

    def failed(self, why: str) -> None:
        self.failures.append(why)


@asynccontextmanager
async def asking_over_tls(protocol: str) -> AsyncIterator[tuple[Asking, Trusting]]:
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    server_side.set_alpn_protocols([protocol])
    secure = Trusting(authority)
    server = H2Server(echo)
    async with running_reactor() as running, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.run(tls=server_side))
        pool = Http2Pool(server.address, running.reactor, running.timers, limits=PoolLimits(), secure=secure)
        with trio.fail_after(10):
            yield Asking(running, pool, server), secure
        pool.close()
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_exchanges_over_tls() -> None:
    body = bytes(range(256)) * 4_096
    async with asking_over_tls("h2") as (here, secure):
        for _ in range(3):
            assert bytes((await here.fetch(get(), body)).body) == body
        assert (here.server.connections, secure.remembered, secure.failures) == (1, 1, [])


async def test_a_peer_that_does_not_choose_http2_is_no_peer() -> None:
    async with asking_over_tls("http/1.1") as (here, secure):
        with pytest.raises(ConnectFailed, match="required 'h2'"):
            await here.stream()
        assert here.pool.open_len == 0
        assert len(secure.failures) == 1


async def test_when_the_peers_certificate_has_ended_its_connection_gets_nothing_new() -> None:
    async with asking_over_tls("h2") as (here, secure):
        secure.retire_at = trio.current_time() + 0.1
        await here.fetch(get())
        await trio.sleep_until(secure.retire_at)
        secure.retire_at = math.inf
        assert here.pool.take_idle() is None
        await here.fetch(get())
        assert here.server.connections == 2


async def test_whoever_waits_for_a_connection_that_times_out_is_told_that_too() -> None:
    """It proves nothing of the peer, no matter who of them began to dial."""
    # The kernel takes the connection, and nobody answers the handshake.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        late: list[bool] = []
        async with running_reactor() as running:
            limits = PoolLimits(connect_timeout_s=0.1)
            secure = Trusting(trustme.CA())
            pool = Http2Pool(listener.getsockname(), running.reactor, running.timers, limits=limits, secure=secure)

            async def acquire() -> None:
                with pytest.raises(ConnectFailed) as caught:
                    await pool.acquire(trio.current_time() + 5)
                late.append(caught.value.timed_out)

            async with trio.open_nursery() as both:
                both.start_soon(acquire)
                both.start_soon(acquire)
        assert late == [True, True]
