"""What stands behind the two ports of the data plane, put together: HTTP, gRPC, WebSockets, the node's own services."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace

from infermesh.core.trust import PeerIdentity
from infermesh.net.body_budget import BodyBudget
from infermesh.net.http1 import ServerLimits
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.net.tls import TlsEpoch
from infermesh.node.config import NodeConfig
from infermesh.observe.logs import Logger
from infermesh.observe.metrics import Metrics
from infermesh.planes.data.frontend import Frontend
from infermesh.planes.data.grpc_frontend import GrpcFrontend
from infermesh.planes.data.grpc_local import GrpcLocal
from infermesh.planes.data.http2_writer import HTTP2, HTTP2_HOP
from infermesh.planes.data.local import LocalPlane
from infermesh.planes.data.ports import ClientPort, MeshPort, PortParts, answer_no_runtime
from infermesh.planes.data.streams import OwnServices, PortStreams
from wire.limits import HTTP1_HEAD_BYTES_MAX


@dataclass(frozen=True, slots=True)
class PortMakers:
    """Of one node. `services`: its own gRPC services, which both ports have."""

    config: NodeConfig
    reactor: Reactor
    timers: Timers
    metrics: Metrics
    log: Logger
    bodies: BodyBudget

    def client(self, frontend: Frontend, services: OwnServices | None, client_tls: ssl.SSLContext | None) -> ClientPort:
        section = self.config.client
        calls = GrpcFrontend(frontend, self.timers, body_bytes_max=section.body_bytes_max)
        streams = PortStreams(frontend.answer, HTTP2, calls=calls, services=services, sockets=frontend.websockets)
        context = client_tls
        return ClientPort(
            self._parts(_limits(self.config, self.bodies)),
            frontend.answer,
            streams,
            tls=(lambda: context) if context is not None else None,
            plaintext=section.plaintext,
            h2c_upgrade=section.h2c_upgrade,
        )

    def mesh(
        self,
        local: LocalPlane | None,
        services: OwnServices | None,
        *,
        epoch: Callable[[], TlsEpoch],
    ) -> MeshPort:
        calls = None
        if local is not None:
            calls = GrpcLocal(local, self.timers, body_bytes_max=self.config.client.body_bytes_max)
        answer = local.answer if local is not None else answer_no_runtime

        def streams(peer: PeerIdentity) -> PortStreams:
            return PortStreams(answer, HTTP2_HOP, calls=calls, services=services, peer=peer)

        # Its heads are a client's and what a router adds, so the wire's own limit is theirs.
        limits = replace(_limits(self.config, self.bodies), head_bytes_max=HTTP1_HEAD_BYTES_MAX)
        return MeshPort(self._parts(limits), epoch=epoch, answer=answer, streams=streams)

    def _parts(self, limits: ServerLimits) -> PortParts:
        return PortParts(
            reactor=self.reactor,
            timers=self.timers,
            limits=limits,
            metrics=self.metrics,
            log=self.log,
            handshake_timeout_s=self.config.mesh.handshake_timeout_s,
        )


def _limits(config: NodeConfig, bodies: BodyBudget) -> ServerLimits:
    section = config.client
    return ServerLimits(
        head_bytes_max=section.head_bytes_max,
        body_bytes_max=section.body_bytes_max,
        head_timeout_s=section.head_timeout_s,
        body_timeout_s=section.body_timeout_s,
        idle_timeout_s=section.idle_timeout_s,
        send_timeout_s=section.send_timeout_s,
        bodies=bodies,
    )
