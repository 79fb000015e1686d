"""The two listening ports of the data plane: what happens to a socket between accept and its first request.

The client port takes anybody: HTTP/1.1, HTTP/2 by prior knowledge or upgrade and, where it has a certificate, both over
TLS by ALPN, told apart by the first byte. The mesh port takes nodes of the own trust domain, over TLS 1.3 with
certificates on both sides: who the peer is stands firm before one byte of a request is read, and a connection does not
outlive the certificate that opened it.

Every connection begins as HTTP/1.1's, whose first bytes or ALPN may hand its socket to HTTP/2.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import trio

from infermesh.core.trust import PeerIdentity
from infermesh.net.asker import Asker, Request, SlowCall
from infermesh.net.connection import ConnectionLost
from infermesh.net.http1 import Answer, Refusal, ServerConnection, ServerLimits
from infermesh.net.http2 import SERVER_CONFIG, Http2ServerConnection
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.net.tls import HTTP2_ALPN, TlsEpoch, admit_peer
from infermesh.net.tls_session import TlsSession
from infermesh.observe.logs import Logger
from infermesh.observe.metrics import Metrics
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.h2c import SWITCHING, h2c_settings
from infermesh.planes.data.handshake_faults import handshake_fault
from infermesh.planes.data.serving import counted_refusals, refusing, serve_connection
from infermesh.planes.data.streams import PortStreams, refuse_stream
from infermesh.planes.data.writer import AnswerWriter
from wire.errors import RemoteProtocolError
from wire.http2 import Http2Config
from wire.limits import HTTP2_HEADER_BLOCK_BYTES_MAX

# What many clients do comes together on the connections between nodes: thousands of them may cancel in one moment, and
# whoever reads slowly is the router's to cut off. Heads are as large as a client's, and what the router adds to them.
_CLIENTS: Final = 20  # Budgets of so many: 4,000 resets in 30 s, or twice what was finished.
_BUDGETS: Final = SERVER_CONFIG.abuse
MESH_CONFIG: Final = replace(
    SERVER_CONFIG,
    list_bytes_max=HTTP2_HEADER_BLOCK_BYTES_MAX,
    stalled_s=600.0,
    abuse=replace(
        _BUDGETS,
        resets_received_max=_CLIENTS * _BUDGETS.resets_received_max,
        own_resets_max=_CLIENTS * _BUDGETS.own_resets_max,
        closed_frames_max=_CLIENTS * _BUDGETS.closed_frames_max,
        window_updates_max=_CLIENTS * _BUDGETS.window_updates_max,
    ),
)
_TLS_RECORD: Final = b"\x16"  # The first byte of a ClientHello; no request begins with it.


@dataclass(frozen=True, slots=True, kw_only=True)
class PortParts:
    """What both ports are made of."""

    reactor: Reactor
    timers: Timers
    limits: ServerLimits
    metrics: Metrics
    log: Logger
    handshake_timeout_s: float


class _Port:
    name = ""

    def __init__(self, parts: PortParts, http2: Http2Config) -> None:
        self._parts = parts
        self._refuse = _counting(parts.metrics, self.name)
        self._http2 = http2

    def _connection(
        self, sock: socket.socket, answer: Answer, streams: Callable[[], PortStreams] | None
    ) -> ServerConnection:
        """`streams`: what is behind HTTP/2 for a client that begins with it; None: it is not spoken."""
        parts = self._parts

        def on_preface(connection: ServerConnection, rest: bytes) -> Http2ServerConnection:
            assert streams is not None
            if connection.tls is not None and not _chose_http2(connection.tls):
                raise RemoteProtocolError("HTTP/2 over TLS must be negotiated (ALPN h2, RFC 9113 section 3.3)")
            return self._to_http2(connection, streams(), rest)

        return ServerConnection(
            sock,
            parts.reactor,
            parts.timers,
            parts.limits,
            answer=answer,
            refuse=self._refuse,
            on_preface=on_preface if streams is not None else None,
        )

    def _to_http2(self, connection: ServerConnection, streams: PortStreams, rest: bytes) -> Http2ServerConnection:
        successor = self._successor(connection, streams)
        successor.begin(rest)
        return successor

    def _successor(self, connection: ServerConnection, streams: PortStreams) -> Http2ServerConnection:
        parts = self._parts
        successor = Http2ServerConnection(
            connection.sock,
            parts.reactor,
            parts.timers,
            parts.limits,
            service=streams,
            count_fault=self.count_fault,
            refuse=refuse_stream,
            http2=self._http2,
            predecessor=connection,
        )
        successor.scope = connection.scope
        return successor

    def _begin_negotiated(
        self, connection: ServerConnection, tls: TlsSession, streams: Callable[[], PortStreams]
    ) -> None:
        """Once the peer is admitted and before its first byte is read, which may have come with the handshake."""
        if _chose_http2(tls):
            connection.switch_to(lambda old, rest: self._to_http2(old, streams(), rest))

    def count_fault(self, reason: str) -> None:
        self._parts.metrics.bad_requests.child(port=self.name, reason=reason).value += 1

    async def _handshake(
        self, connection: ServerConnection, tls: TlsSession, admit: Callable[[TlsSession], None]
    ) -> None:
        """Raises ConnectionLost; whatever is behind it has been counted and logged."""
        parts = self._parts
        try:
            await connection.handshake(tls, trio.current_time() + parts.handshake_timeout_s, admit)
        except ConnectionLost as error:
            reason = handshake_fault(str(error))
            parts.metrics.tls_handshakes_failed.child(port=self.name, reason=reason).value += 1
            # A health check that only connects is no event; anything else is worth a line.
            if reason != "closed":
                parts.log.warning("handshake_failed", port=self.name, reason=reason, detail=str(error))
            raise


class ClientPort(_Port):
    name = "client"

    def __init__(
        self,
        parts: PortParts,
        answer: Answer,
        streams: PortStreams,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        plaintext: bool = True,
        h2c_upgrade: bool = True,
    ) -> None:
        """`tls`: makes it speak TLS to whoever begins with it; `plaintext`: others are served as well; `h2c_upgrade`: a
        request in plain text may ask for an answer over HTTP/2."""
        super().__init__(parts, replace(SERVER_CONFIG, extended_connect=True, stalled_s=parts.limits.send_timeout_s))
        self._answer = refusing(self._upgrading(answer) if h2c_upgrade else answer)
        self._streams = streams
        self._tls = tls
        self._plaintext = plaintext

    async def serve(self, sock: socket.socket) -> None:
        secure = False
        if self._tls is not None:
            with trio.move_on_after(self._parts.limits.idle_timeout_s) as silence:
                secure = await _begins_with_tls(sock)
            if silence.cancelled_caught:
                return  # It has not said a word.
        if secure:
            await self._serve_secure(sock)
            return
        plain = self._plaintext or self._tls is None
        answer = self._answer if plain else refusing(_want_tls)
        connection = self._connection(sock, answer, self._behind if plain else None)
        await serve_connection(connection, self._parts.log)

    async def _serve_secure(self, sock: socket.socket) -> None:
        assert self._tls is not None
        context = self._tls()
        connection = self._connection(sock, self._answer, self._behind)

        def admit(session: TlsSession) -> None:
            """Clients are not asked for certificates."""
            self._begin_negotiated(connection, session, self._behind)

        async def handshake() -> None:
            tls = TlsSession(lambda incoming, outgoing: context.wrap_bio(incoming, outgoing, server_side=True))
            await self._handshake(connection, tls, admit)

        await serve_connection(connection, self._parts.log, prepare=handshake)

    def _behind(self) -> PortStreams:
        return self._streams

    def _upgrading(self, answer: Answer) -> Answer:
        def answer_or_upgrade(connection: ServerConnection, request: Request) -> SlowCall | None:
            settings = h2c_settings(request.head) if connection.tls is None else None
            if settings is None:
                return answer(connection, request)
            connection.write(SWITCHING)
            connection.switch_to(lambda old, rest: self._to_upgraded(old, request, settings, rest))
            return None

        return answer_or_upgrade

    def _to_upgraded(
        self, connection: ServerConnection, request: Request, settings: bytes, rest: bytes
    ) -> Http2ServerConnection:
        successor = self._successor(connection, self._streams)
        successor.begin_upgraded(request, settings, rest)
        return successor


class MeshPort(_Port):
    """Mutual TLS for nodes. `streams`: what is behind HTTP/2 for a peer; `answer` is HTTP/1.1's."""

    name = "mesh"

    def __init__(
        self,
        parts: PortParts,
        *,
        epoch: Callable[[], TlsEpoch],
        answer: Answer,
        streams: Callable[[PeerIdentity], PortStreams],
    ) -> None:
        super().__init__(parts, MESH_CONFIG)
        self._epoch = epoch
        self._answer = refusing(answer)
        self._streams = streams

    async def serve(self, sock: socket.socket) -> None:
        peers: list[PeerIdentity] = []

        def streams() -> PortStreams:
            return self._streams(peers[0])

        connection = self._connection(sock, self._answer, streams)
        epoch = self._epoch()

        def admit(session: TlsSession) -> None:
            now_unix = time.time()
            peer = admit_peer(
                session.object, trust_domain=epoch.identity.trust_domain, expected_node=None, now_unix=now_unix
            )
            connection.scope.deadline = trio.current_time() + max(0.0, peer.not_after - now_unix)
            peers.append(peer)
            self._begin_negotiated(connection, session, streams)

        async def handshake() -> None:
            await self._handshake(connection, TlsSession(epoch.accept), admit)

        await serve_connection(connection, self._parts.log, prepare=handshake)


def answer_no_runtime(asker: Asker, request: Request, writer: AnswerWriter | None = None) -> None:
    """What a node without runtimes says to whatever else is asked of its mesh port."""
    raise RequestRefused(404, "no_runtime", "this node has no runtimes: its roles do not include gpu")


async def _begins_with_tls(sock: socket.socket) -> bool:
    await trio.lowlevel.wait_readable(sock)
    try:
        return sock.recv(1, socket.MSG_PEEK) == _TLS_RECORD
    except OSError:
        return False  # Gone already; whoever reads next finds out.


def _chose_http2(tls: TlsSession) -> bool:
    return tls.object.selected_alpn_protocol() == HTTP2_ALPN


def _want_tls(connection: ServerConnection, request: Request) -> None:
    connection.keep_alive = False
    raise RequestRefused(400, "tls_required", "this port speaks TLS only (client.plaintext)")


def _counting(metrics: Metrics, port: str) -> Callable[[Refusal], bytes]:
    def count(reason: str) -> None:
        metrics.bad_requests.child(port=port, reason=reason).value += 1

    return counted_refusals(count)
