"""The serving side over TLS: what comes with the end of a handshake, and what does not come after it."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from infermesh.core.model.names import NodeId
from infermesh.net.connection import ConnectionLost
from infermesh.net.http1 import Refusal, Request, ServerConnection, ServerLimits
from infermesh.net.reactor import READ
from infermesh.net.tls import TlsEpoch
from infermesh.net.tls_session import TlsSession
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.reactors import running_reactor


@pytest.fixture(scope="module")
def epochs(tmp_path_factory: pytest.TempPathFactory) -> tuple[TlsEpoch, TlsEpoch]:
    domain = TrustDomain(tmp_path_factory.mktemp("trust"))
    return domain.epoch("gpu-a"), domain.epoch("edge")


@dataclass
class Shaking:
    """A server in its handshake, and a client that moves its bytes by hand."""

    client: trio.SocketStream
    sock: socket.socket  # The client's, for what must not wait.
    tls: TlsSession
    connection: ServerConnection
    requests: list[Request] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    ending: str = ""
    ended: trio.Event = field(default_factory=trio.Event)

    async def last_flight(self) -> bytes:
        """Everything up to the client's last message of the handshake, which is returned and not sent."""
        await self.client.send_all(self.tls.handshake())
        while True:
            flight = self.tls.handshake(await self.client.receive_some())
            if self.tls.ready:
                return flight


@asynccontextmanager
async def shaking(
    epochs: tuple[TlsEpoch, TlsEpoch], limits: ServerLimits, *, handshake_s: float = 5.0
) -> AsyncIterator[Shaking]:
    server, client = epochs
    async with running_reactor() as running:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        requests: list[Request] = []
        refusals: list[Refusal] = []

        def answer(connection: ServerConnection, request: Request) -> None:
            requests.append(request)
            connection.respond(200, [], request.body)

        def refuse(refusal: Refusal) -> bytes:
            refusals.append(refusal)
            return b"HTTP/1.1 %d X\r\n\r\n" % refusal.status

        connection = ServerConnection(ours, running.reactor, running.timers, limits, answer=answer, refuse=refuse)
        session = TlsSession(lambda incoming, outgoing: client.connect(NodeId("gpu-a"), incoming, outgoing))
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        held = Shaking(stream, theirs, session, connection, requests, refusals)

        def admit(tls: TlsSession) -> None:
            assert not connection.closed

        async def serve() -> None:
            try:
                deadline = trio.current_time() + handshake_s
                await connection.handshake(TlsSession(server.accept), deadline, admit)
                await connection.serve()
            except ConnectionLost as error:
                held.ending = str(error)
            finally:
                connection.abort()
                held.ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with trio.fail_after(10):
                yield held
                await held.ended.wait()
        await stream.aclose()


async def test_a_request_that_comes_with_the_end_of_the_handshake_is_served(epochs: tuple[TlsEpoch, TlsEpoch]) -> None:
    async with shaking(epochs, ServerLimits()) as held:
        flight = await held.last_flight()
        await held.client.send_all(flight + held.tls.encrypt(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"))
        answer = b""
        while b"200 OK" not in answer:
            answer += held.tls.decrypt(await held.client.receive_some())
        await held.client.aclose()


async def test_garbage_with_the_end_of_the_handshake_ends_the_connection_and_is_no_defect_of_ours(
    epochs: tuple[TlsEpoch, TlsEpoch],
) -> None:
    async with shaking(epochs, ServerLimits()) as held:
        await held.client.send_all(await held.last_flight() + b"\x17\x03\x03\x00\x20" + b"x" * 32)
        await held.ended.wait()
        assert held.requests == []


async def test_a_head_that_begins_with_the_end_of_the_handshake_is_timed_too(
    epochs: tuple[TlsEpoch, TlsEpoch],
) -> None:
    async with shaking(epochs, ServerLimits(head_timeout_s=0.05)) as held:
        await held.client.send_all(await held.last_flight() + held.tls.encrypt(b"GET / HTTP/1.1\r\n"))
        while await held.client.receive_some():
            pass
        assert [refusal.reason for refusal in held.refusals] == ["head_timed_out"]
        await held.client.aclose()


async def test_a_peer_that_shakes_hands_and_asks_nothing_is_closed_like_an_idle_one(
    epochs: tuple[TlsEpoch, TlsEpoch],
) -> None:
    async with shaking(epochs, ServerLimits(idle_timeout_s=0.05)) as held:
        await held.client.send_all(await held.last_flight())
        await held.ended.wait()


async def test_a_handshake_that_does_not_end_is_cut_at_its_deadline_and_says_so(
    epochs: tuple[TlsEpoch, TlsEpoch],
) -> None:
    async with shaking(epochs, ServerLimits(), handshake_s=0.05) as held:
        await held.client.send_all(held.tls.handshake()[:10])
        await held.ended.wait()
        assert "deadline" in held.ending


async def test_a_connection_that_is_lost_between_handshake_and_task_is_lost(epochs: tuple[TlsEpoch, TlsEpoch]) -> None:
    async with shaking(epochs, ServerLimits()) as held:
        held.sock.send(await held.last_flight())
        # Both in one turn of the reactor: the task has not run in between.
        held.connection.on_event(READ)
        assert held.connection.tls is not None
        assert held.connection.tls.ready
        held.connection.lose("reset")
        await held.ended.wait()
        assert "right after" in held.ending


async def test_the_tls_session_of_a_connection_that_has_ended_does_not_wait_for_the_collector(
    epochs: tuple[TlsEpoch, TlsEpoch],
) -> None:
    async with shaking(epochs, ServerLimits()) as held:
        await held.client.send_all(await held.last_flight())
        await trio.testing.wait_all_tasks_blocked()
        assert held.connection.tls is not None
        session = weakref.ref(held.connection.tls.object)
        await held.client.aclose()
    gc.disable()
    try:
        del held
        assert session() is None
    finally:
        gc.enable()
