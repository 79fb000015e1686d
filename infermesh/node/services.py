"""The gRPC services of a node itself, by port: health and reflection on both, the mesh's own for nodes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from infermesh.core.trust import PeerIdentity
from infermesh.net.grpc.health import HealthService
from infermesh.net.grpc.reflection import with_reflection
from infermesh.net.grpc.server import GrpcServices
from infermesh.net.http2 import Http2ServerStream
from infermesh.observe.logs import Logger
from infermesh.planes.data.streams import PortStreams
from wire.grpc.service import Service

# No runtime serves these: asked where they are not served, they must not be taken for a model's.
_OF_THE_MESH: Final = (b"/infermesh.state.", b"/infermesh.scoring.")


class NodeServices:
    def __init__(self, log: Logger, mesh_services: Sequence[Service]) -> None:
        """`mesh_services`: for nodes of the trust domain, on the mesh port."""
        self._healths = (HealthService(), HealthService())  # Each port's own: a service is listed where it is served.
        of_clients, of_nodes = self._healths
        for service in mesh_services:
            of_nodes.set_serving(service.name)
        self.client = GrpcServices(with_reflection([of_clients]), log, reserved=_OF_THE_MESH)
        self.mesh = GrpcServices(
            with_reflection([of_nodes, *mesh_services]), log, peer_of=_peer_of, reserved=_OF_THE_MESH
        )

    def shut_down(self) -> None:
        """Not serving from now on: watchers go elsewhere, while what runs may finish."""
        for health in self._healths:
            health.shut_down()


def _peer_of(stream: Http2ServerStream) -> PeerIdentity | None:
    behind = stream.connection.service
    assert isinstance(behind, PortStreams)
    return behind.peer
