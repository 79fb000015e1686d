"""The gRPC services of a node itself, by port: health and reflection on both, the mesh's own for nodes only."""

from __future__ import annotations

from collections.abc import Sequence

from infermesh.core.trust import PeerIdentity
from infermesh.net.grpc.health import HealthService
from infermesh.net.grpc.reflection import with_reflection
from infermesh.net.grpc.server import GrpcServices
from infermesh.net.http2 import Http2ServerStream
from infermesh.observe.logs import Logger
from infermesh.planes.data.streams import PortStreams
from wire.grpc.service import Service


class NodeServices:
    def __init__(self, log: Logger, mesh_services: Sequence[Service]) -> None:
        """`mesh_services`: for nodes of the trust domain, on the mesh port."""
        self._health = HealthService()
        for service in mesh_services:
            self._health.set_serving(service.name)
        self.client = GrpcServices(with_reflection([self._health]), log)
        self.mesh = GrpcServices(with_reflection([self._health, *mesh_services]), log, peer_of=_peer_of)

    def shut_down(self) -> None:
        """Not serving from now on: watchers go elsewhere, while what runs may finish."""
        self._health.shut_down()


def _peer_of(stream: Http2ServerStream) -> PeerIdentity | None:
    behind = stream.connection.service
    assert isinstance(behind, PortStreams)
    return behind.peer
