"""Our gRPC server in a thread of this process, for clients that bring threads of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from infermesh.net.grpc.health import HealthService
from infermesh.net.grpc.reflection import with_reflection
from infermesh.net.grpc.server_call import GrpcLimits
from infermesh.testing.grpc_echo import EchoService
from infermesh.testing.grpc_node import GrpcNode, NodeShape, grpc_node
from infermesh.testing.threaded import ThreadedServer
from wire.proto.infermesh.scoring.v1.scoring_grpc import ScoringServiceBase
from wire.proto.infermesh.state.v1.state_grpc import StateServiceBase

MESSAGE_BYTES_MAX = (16 << 20) + 64


@dataclass
class OurServer:
    """What a test sees from its own thread: plain reads, and calls handed over to the server's loop."""

    node: GrpcNode
    echo: EchoService
    health: HealthService
    token: trio.lowlevel.TrioToken

    @property
    def target(self) -> str:
        return self.node.target

    def wind_down(self) -> None:
        """GOAWAY on every connection there is now."""

        def all_of_them() -> None:
            for connection in list(self.node.connections):
                connection.wind_down()

        trio.from_thread.run_sync(all_of_them, trio_token=self.token)

    def set_serving(self, service: str, *, serving: bool) -> None:
        def do() -> None:
            self.health.set_serving(service, serving=serving)

        trio.from_thread.run_sync(do, trio_token=self.token)


@contextmanager
def our_server(shape: NodeShape | None = None) -> Iterator[OurServer]:
    shape = shape or NodeShape(grpc=GrpcLimits(message_bytes_max=MESSAGE_BYTES_MAX))

    async def serve(*, task_status: trio.TaskStatus[OurServer]) -> None:
        echo, health = EchoService(), HealthService()
        services = with_reflection([echo, health, ScoringServiceBase(), StateServiceBase()])
        async with grpc_node(services, shape) as node:
            task_status.started(OurServer(node, echo, health, trio.lowlevel.current_trio_token()))
            await trio.sleep_forever()

    with ThreadedServer[OurServer](serve) as started:
        yield started
