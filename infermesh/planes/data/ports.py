"""The two listening ports of the data plane: what happens to a socket between accept and its first request.

The client port takes anybody and plain HTTP/1.1. The mesh port takes nodes of the own trust domain, over TLS 1.3
with certificates on both sides: who the peer is stands firm before one byte of a request is read, and a connection
does not outlive the certificate that opened it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping

import trio

from infermesh.net.connection import ConnectionLost
from infermesh.net.http1 import Answer, Refusal, Request, ServerConnection, ServerLimits, SlowCall
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.net.tls import TlsEpoch, admit_peer
from infermesh.net.tls_session import TlsSession
from infermesh.observe.logs import Logger
from infermesh.observe.metrics import Metrics
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.handshake_faults import handshake_fault
from infermesh.planes.data.serving import counted_refusals, refusing, serve_connection


class ClientPort:
    """Plain HTTP/1.1 for clients."""

    name = "client"

    def __init__(
        self, reactor: Reactor, timers: Timers, limits: ServerLimits, answer: Answer, *, metrics: Metrics, log: Logger
    ) -> None:
        self._reactor = reactor
        self._timers = timers
        self._limits = limits
        self._answer = refusing(answer)
        self._log = log
        self._refuse = _counting(metrics, self.name)

    async def serve(self, sock: socket.socket) -> None:
        connection = ServerConnection(
            sock, self._reactor, self._timers, self._limits, answer=self._answer, refuse=self._refuse
        )
        await serve_connection(connection, self._log)


class MeshPort:
    """Mutual TLS for nodes: `answers` by path (the state stream), `otherwise` for all else (forwarded requests)."""

    name = "mesh"

    def __init__(
        self,
        reactor: Reactor,
        timers: Timers,
        limits: ServerLimits,
        *,
        epoch: Callable[[], TlsEpoch],
        handshake_timeout_s: float,
        answers: Mapping[bytes, Answer],
        otherwise: Answer,
        metrics: Metrics,
        log: Logger,
    ) -> None:
        self._reactor = reactor
        self._timers = timers
        self._limits = limits
        self._epoch = epoch
        self._handshake_timeout_s = handshake_timeout_s
        self._answer = refusing(_dispatch(answers, otherwise))
        self._metrics = metrics
        self._log = log
        self._refuse = _counting(metrics, self.name)

    async def serve(self, sock: socket.socket) -> None:
        connection = ServerConnection(
            sock, self._reactor, self._timers, self._limits, answer=self._answer, refuse=self._refuse
        )
        try:
            await self._handshake(connection)
        except ConnectionLost:
            return
        await serve_connection(connection, self._log)

    async def _handshake(self, connection: ServerConnection) -> None:
        epoch = self._epoch()

        def admit(tls: TlsSession) -> None:
            now_unix = time.time()
            peer = admit_peer(
                tls.object, trust_domain=epoch.identity.trust_domain, expected_node=None, now_unix=now_unix
            )
            connection.scope.deadline = trio.current_time() + max(0.0, peer.not_after - now_unix)

        try:
            deadline = trio.current_time() + self._handshake_timeout_s
            await connection.handshake(TlsSession(epoch.accept), deadline, admit)
        except ConnectionLost as error:
            reason = handshake_fault(str(error))
            self._metrics.tls_handshakes_failed.child(port=self.name, reason=reason).value += 1
            # A health check that only connects is no event; anything else is worth a line.
            if reason != "closed":
                self._log.warning("handshake_failed", port=self.name, reason=reason, detail=str(error))
            raise


def answer_no_runtime(connection: ServerConnection, request: Request) -> None:
    """What a node without runtimes says to whatever else is asked of its mesh port."""
    raise RequestRefused(404, "no_runtime", "this node has no runtimes: its roles do not include gpu")


def _dispatch(answers: Mapping[bytes, Answer], otherwise: Answer) -> Answer:
    def answer(connection: ServerConnection, request: Request) -> SlowCall | None:
        return answers.get(request.head.path, otherwise)(connection, request)

    return answer


def _counting(metrics: Metrics, port: str) -> Callable[[Refusal], bytes]:
    def count(reason: str) -> None:
        metrics.bad_requests.child(port=port, reason=reason).value += 1

    return counted_refusals(count)
