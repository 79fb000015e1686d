"""The client port from accept to the first request: which protocol is spoken, with TLS and without, and its every end.

Cancelled at each await here: what `ELSEWHERE` in tests/conversations/cancellation_sites.py names for this file.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from infermesh.core.model.names import NodeId
from infermesh.net.asker import Asker, Request, SlowCall
from infermesh.net.http1 import ServerConnection, ServerLimits
from infermesh.net.listener import Listener, listen
from infermesh.net.tls import HTTP1_ALPN, HTTP2_ALPN
from infermesh.node.client_tls import load_client_tls
from infermesh.node.config_sections import ClientSection
from infermesh.observe.metrics import Metrics
from infermesh.planes.data.http2_writer import HTTP2
from infermesh.planes.data.ports import ClientPort, PortParts
from infermesh.planes.data.streams import PortStreams
from infermesh.planes.data.writer import AnswerWriter
from infermesh.testing.await_sites import AwaitSites, OnParked
from infermesh.testing.h2_peer import H2Client
from infermesh.testing.reactors import RunningReactor, running_reactor
from infermesh.testing.recorded_log import RecordedLog
from infermesh.testing.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nhost: mesh\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: mesh\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
)
SITES = AwaitSites(["planes/data/ports.py", "planes/data/serving.py", "net/connection.py", "net/http2/server.py"])
WAITING = (
    "planes/data/ports.py: ClientPort.serve: await _begins_with_tls(sock)",
    "planes/data/ports.py: _begins_with_tls: await trio.lowlevel.wait_readable(sock)",
)
SHAKING_HANDS = (
    "planes/data/ports.py: ClientPort.serve: await self._serve_secure(sock)",
    (
        "planes/data/ports.py: ClientPort._serve_secure: "
        "await serve_connection(connection, self._parts.log, prepare=handshake)"
    ),
    "planes/data/serving.py: serve_connection: await prepare()",
    "planes/data/ports.py: ClientPort._serve_secure.handshake: await self._handshake(connection, tls, admit)",
    (
        "planes/data/ports.py: _Port._handshake: "
        "await connection.handshake(tls, trio.current_time() + parts.handshake_timeout_s, admit)"
    ),
    "net/connection.py: Connection.handshake: await self.park()",
)
SERVING_HTTP2 = (
    "planes/data/serving.py: serve_connection: await speaker.serve()",
    "net/http2/server.py: Http2ServerConnection.serve: await self.park()",
)


def said(asker: Asker, request: Request, writer: AnswerWriter | None = None) -> SlowCall | None:
    """Every answer says by which protocol it goes."""
    body = b"1" if isinstance(asker, ServerConnection) else b"2"
    asker.respond(200, [], body + request.body, method=request.head.method)
    return None


@dataclass
class Port:
    running: RunningReactor
    address: tuple[str, int]
    metrics: Metrics
    log: RecordedLog
    trusting: ssl.SSLContext
    listener: Listener

    def context(self, *protocols: str) -> ssl.SSLContext:
        if protocols:
            self.trusting.set_alpn_protocols(list(protocols))
        return self.trusting

    async def plain(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address)

    async def secure(self, *protocols: str) -> trio.SSLStream[trio.SocketStream]:
        stream = trio.SSLStream(
            await self.plain(), self.context(*protocols), server_hostname="127.0.0.1", https_compatible=True
        )
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    def count(self, name: str, **labels: str) -> float:
        return float(getattr(self.metrics, name).child(**labels).value)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def port(
    authority: trustme.CA | None = None,
    *,
    plaintext: bool = False,
    h2c_upgrade: bool = True,
    limits: ServerLimits | None = None,
) -> AsyncIterator[Port]:
    """A client port on its own, over TLS where there is an authority; at the end nothing of it may be left."""
    trusting = ssl.create_default_context()
    failure: Exception | None = None
    async with running_reactor() as running:
        context: ssl.SSLContext | None = None
        if authority is not None:
            authority.configure_trust(trusting)
            with authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.tempfile() as path:
                context = load_client_tls(ClientSection(certificate_file=Path(path), key_file=Path(path)))
        metrics, log = Metrics(NodeId("edge"), "1"), RecordedLog()
        parts = PortParts(
            reactor=running.reactor,
            timers=running.timers,
            limits=limits or ServerLimits(),
            metrics=metrics,
            log=log,  # type: ignore[arg-type]
            handshake_timeout_s=1.0,
        )
        streams = PortStreams(said, HTTP2, calls=None, services=None)
        made = ClientPort(
            parts,
            said,
            streams,
            tls=(lambda: context) if context else None,
            plaintext=plaintext,
            h2c_upgrade=h2c_upgrade,
        )
        listener = Listener(
            listen("127.0.0.1", 0), made.serve, connections_max=100, turned_away=b"", on_turned_away=lambda: None
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            between = Port(running, listener.address, metrics, log, trusting, listener)
            try:
                with trio.fail_after(10):
                    yield between
                    await wait_until(lambda: not listener.connections, lambda: f"{listener.connections} are gone")
            except Exception as error:  # noqa: BLE001 - carried out of the nurseries, and raised again there.
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def read_all(stream: trio.abc.Stream) -> bytes:
    data = b""
    try:
        while piece := await stream.receive_some():
            data += bytes(piece)
    except trio.BrokenResourceError:
        pass  # Ended without a goodbye: what came is what matters.
    return data


async def exchange(stream: trio.abc.Stream, request: bytes = GET) -> bytes:
    """One answer over HTTP/1.1."""
    await stream.send_all(request)
    data = b""
    while b"\r\n\r\n" not in data or not data.partition(b"\r\n\r\n")[2]:
        piece = bytes(await stream.receive_some())
        assert piece, data
        data += piece
    return data


async def over_http2(stream: trio.abc.Stream) -> bytes:
    async with H2Client(stream) as client:
        await client.start()
        return bytes((await client.fetch("POST", "/", b"!")).body)


# --- which protocol ---


async def test_without_tls_both_protocols_are_spoken() -> None:
    async with port() as served:
        async with await served.plain() as stream:
            assert (await exchange(stream)).endswith(b"\r\n\r\n1")
        assert await over_http2(await served.plain()) == b"2!"


@pytest.mark.parametrize(
    ("offered", "chosen", "body"),
    [
        ((HTTP2_ALPN, HTTP1_ALPN), HTTP2_ALPN, b"2"),
        ((HTTP1_ALPN, HTTP2_ALPN), HTTP2_ALPN, b"2"),
        ((HTTP1_ALPN,), HTTP1_ALPN, b"1"),
        ((), None, b"1"),
    ],
)
async def test_over_tls_the_client_says_by_alpn_what_it_speaks(
    authority: trustme.CA, offered: Sequence[str], chosen: str | None, body: bytes
) -> None:
    async with port(authority) as served:
        stream = await served.secure(*offered)
        assert stream.selected_alpn_protocol() == chosen
        if chosen == HTTP2_ALPN:
            assert await over_http2(stream) == b"2!"
        else:
            async with stream:
                assert (await exchange(stream)).endswith(b"\r\n\r\n" + body)


async def test_http2_that_was_not_negotiated_is_not_spoken_over_tls(authority: trustme.CA) -> None:
    async with port(authority) as served, await served.secure(HTTP1_ALPN) as stream:
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        answer = await read_all(stream)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert served.count("bad_requests", port="client", reason="protocol") + served.count(
            "bad_requests", port="client", reason="malformed"
        )


async def test_plain_text_on_a_port_with_tls_is_refused_and_says_why(authority: trustme.CA) -> None:
    async with port(authority) as served:
        async with await served.plain() as stream:
            await stream.send_all(GET)
            answer = await read_all(stream)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"client.plaintext" in answer
        async with await served.plain() as stream:
            await stream.send_all(UPGRADE)
            assert b"client.plaintext" in await read_all(stream)
        async with await served.plain() as stream:
            await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
            assert (await read_all(stream)).startswith(b"HTTP/1.1 ")


async def test_plain_text_is_served_on_the_same_port_where_that_is_allowed(authority: trustme.CA) -> None:
    async with port(authority, plaintext=True) as served:
        async with await served.plain() as stream:
            assert (await exchange(stream)).endswith(b"1")
        assert await over_http2(await served.plain()) == b"2!"
        assert await over_http2(await served.secure(HTTP2_ALPN)) == b"2!"


async def test_an_upgrade_is_answered_over_http2_and_goes_on_there() -> None:
    async with port() as served:
        stream = await served.plain()
        await stream.send_all(UPGRADE)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += bytes(await stream.receive_some(1))
        assert head.startswith(b"HTTP/1.1 101 ")
        async with H2Client(stream) as client:
            client.machine.initiate_upgrade_connection()
            await client.flush()
            assert bytes((await client.answer(1)).body) == b"2"
            assert bytes((await client.fetch("POST", "/", b"!")).body) == b"2!"


async def test_an_upgrade_is_not_taken_where_it_is_switched_off() -> None:
    async with port(h2c_upgrade=False) as served, await served.plain() as stream:
        assert (await exchange(stream, UPGRADE)).endswith(b"1")


async def test_an_upgrade_is_not_taken_over_tls(authority: trustme.CA) -> None:
    async with port(authority) as served, await served.secure(HTTP1_ALPN) as stream:
        assert (await exchange(stream, UPGRADE)).endswith(b"1")


# --- how it ends ---


async def test_a_client_that_says_nothing_is_let_go_of(authority: trustme.CA) -> None:
    async with port(authority, limits=ServerLimits(idle_timeout_s=0.05)) as served, await served.plain() as stream:
        assert await read_all(stream) == b""
        assert served.log.names() == []


async def test_a_client_that_leaves_before_a_word_is_no_event(authority: trustme.CA) -> None:
    async with port(authority) as served:
        for way in (trio.aclose_forcefully, lambda stream: stream.send_eof()):
            stream = await served.plain()
            await wait_until(lambda: served.listener.connections == 1, "it is accepted")
            await way(stream)
            await wait_until(lambda: served.listener.connections == 0, "it is gone")
            await trio.aclose_forcefully(stream)
        assert served.log.names() == []


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x00\x05hello", b"\x16", b"\x16\x03\x01\x00\x00"])
async def test_a_handshake_that_is_none_is_counted_and_ends(authority: trustme.CA, sent: bytes) -> None:
    async with port(authority) as served, await served.plain() as stream:
        await stream.send_all(sent)
        await read_all(stream)
        await wait_until(lambda: served.log.names() == ["handshake_failed"], "it is logged")
        [fields] = served.log.fields_of("handshake_failed")
        assert fields["port"] == "client"
        assert served.count("tls_handshakes_failed", port="client", reason=str(fields["reason"])) == 1


async def test_a_client_that_does_not_trust_us_is_counted(authority: trustme.CA) -> None:
    async with port(authority) as served:
        served.trusting = ssl.create_default_context()
        with pytest.raises(trio.BrokenResourceError):
            await served.secure(HTTP2_ALPN)
        await wait_until(
            lambda: served.count("tls_handshakes_failed", port="client", reason="closed") == 1, "it is counted"
        )


# --- cancelled at each await ---


async def saying_nothing(served: Port) -> trio.abc.Stream:
    return await served.plain()


async def half_a_hello(served: Port) -> trio.abc.Stream:
    stream = await served.plain()
    await stream.send_all(b"\x16\x03\x01")
    return stream


async def speaking_http2(served: Port) -> trio.abc.Stream:
    stream = await served.secure(HTTP2_ALPN)
    client = H2Client(stream)
    await client.start()
    await client.ask("POST", "/", b"", end=False)
    return stream


PLACES = [
    pytest.param(WAITING, saying_nothing, id="before the first byte"),
    pytest.param(SHAKING_HANDS, half_a_hello, id="shaking hands"),
    pytest.param(SERVING_HTTP2, speaking_http2, id="over HTTP/2"),
]


@pytest.mark.parametrize("way", ["client leaves", "port ends"])
@pytest.mark.parametrize(("sites", "begin"), PLACES)
async def test_cancelled_there_nothing_is_left(
    authority: trustme.CA, sites: Sequence[str], begin: Callable[[Port], Any], way: str
) -> None:
    async with port(authority) as served, trio.open_nursery() as nursery:
        made: list[trio.abc.Stream] = []

        def act(task: trio.lowlevel.Task) -> None:
            if way == "client leaves":
                stream = made[0].transport_stream if isinstance(made[0], trio.SSLStream) else made[0]
                assert isinstance(stream, trio.SocketStream)
                stream.socket.close()
            else:
                scope_of(task).cancel()

        watch = OnParked(SITES, [SITES.named(site) for site in sites], act, when=lambda: bool(made))
        trio.lowlevel.add_instrument(watch)
        try:
            made.append(await begin(served))
            await watch.acted.wait()
        finally:
            trio.lowlevel.remove_instrument(watch)
        await wait_until(lambda: served.listener.connections == 0, "the connection is gone")
        assert len(served.running.reactor) == 0
        await trio.aclose_forcefully(made[0])
        if way == "client leaves":
            assert await over_http2(await served.secure(HTTP2_ALPN)) == b"2!"
        assert "connection_crashed" not in served.log.names()
        nursery.cancel_scope.cancel()


def scope_of(task: trio.lowlevel.Task) -> trio.CancelScope:
    """Of the nursery that the connection's task lives in: the port's."""
    above = task.parent_nursery
    while above is not None and "Listener" not in above.parent_task.name:
        above = above.parent_task.parent_nursery
    assert above is not None
    return above.cancel_scope
