"""gRPC services behind a port of their own, in this process or in a thread, for tests and benches.

Not the daemon: no mesh, nothing else on the port. In plain TCP, or over mutual TLS as a node's mesh port is.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from infermesh.core.trust import PeerIdentity
from infermesh.net.connection import ConnectionLost
from infermesh.net.grpc.server import GrpcPort, GrpcServices, PeerOf
from infermesh.net.grpc.server_call import GrpcLimits
from infermesh.net.http1 import ServerLimits
from infermesh.net.http2 import Http2ServerConnection
from infermesh.net.http2.server_stream import Http2ServerStream
from infermesh.net.listener import Listener, listen
from infermesh.net.tls import TlsEpoch, admit_peer
from infermesh.net.tls_session import TlsSession
from infermesh.testing.reactors import RunningReactor, running_reactor
from infermesh.testing.recorded_log import RecordedLog
from wire.grpc.service import Service
from wire.grpc.status import Code
from wire.http2.config import Http2Config


@dataclass
class GrpcNode:
    """What is served, and what was seen of it."""

    running: RunningReactor
    services: GrpcServices
    log: RecordedLog
    address: tuple[str, int] = ("", 0)
    connections: list[Http2ServerConnection] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    ended: list[tuple[str, Code]] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"


@dataclass(frozen=True, kw_only=True)
class NodeShape:
    """How a node is set up. `epoch`: over mutual TLS, where the peer's certificate says who it is (not `peer_of`)."""

    grpc: GrpcLimits = field(default_factory=GrpcLimits)
    limits: ServerLimits = field(default_factory=ServerLimits)
    http2: Http2Config | None = None
    peer_of: PeerOf = lambda stream: None
    epoch: TlsEpoch | None = None


_HANDSHAKE_WITHIN_S = 5.0
_USUAL = NodeShape()


@asynccontextmanager
async def grpc_node(
    services: Sequence[Service], shape: NodeShape = _USUAL, *, at: tuple[str, int] = ("127.0.0.1", 0)
) -> AsyncIterator[GrpcNode]:
    """Inside, `services` are served at `address`; at the end nothing of it may be left."""
    async with running_reactor() as running:
        log = RecordedLog()
        ended: list[tuple[str, Code]] = []
        peers: dict[object, PeerIdentity] = {}  # By connection; empty without TLS.

        def peer_of(stream: Http2ServerStream) -> PeerIdentity:
            return peers[stream.connection]

        def on_ended(path: str, code: Code, took_s: float) -> None:
            ended.append((path, code))

        who = peer_of if shape.epoch is not None else shape.peer_of
        behind = GrpcServices(services, log, shape.grpc, peer_of=who, on_ended=on_ended)
        node = GrpcNode(running, behind, log, ended=ended)
        port = GrpcPort(node.services)

        async def serve(sock: socket.socket) -> None:
            connection = Http2ServerConnection(
                sock,
                running.reactor,
                running.timers,
                shape.limits,
                service=port,
                count_fault=node.faults.append,
                http2=shape.http2,
            )
            node.connections.append(connection)

            def admit(tls: TlsSession) -> None:
                peers[connection] = _admitted(tls, shape.epoch)

            try:
                if shape.epoch is not None:
                    by = trio.current_time() + _HANDSHAKE_WITHIN_S
                    await connection.handshake(TlsSession(shape.epoch.accept), by, admit)
                connection.begin()
                with connection.scope:
                    await connection.serve()
            except ConnectionLost:
                pass  # How connections end.
            finally:
                connection.abort()
                peers.pop(connection, None)
                node.connections.remove(connection)

        listener = Listener(listen(*at), serve, connections_max=1000, turned_away=b"", on_turned_away=lambda: None)
        node.address = listener.address
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run)
            yield node
            nursery.cancel_scope.cancel()


def _admitted(tls: TlsSession, epoch: TlsEpoch | None) -> PeerIdentity:
    assert epoch is not None
    domain = epoch.identity.trust_domain
    return admit_peer(tls.object, trust_domain=domain, expected_node=None, now_unix=time.time())
