"""A mesh with runtimes that speak gRPC, and grpcio's client in front of it, in threads of the test.

`async with grpc_mesh() as mesh:` and then `await mesh.call(ask)`, where `ask(client)` is an ordinary function that may
block: it runs beside the trio loop in which the nodes live.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
import trio

from infermesh.testing.certificates import TrustDomain
from infermesh.testing.kserve_runtime import MODEL
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import GpuPlan, MeshPlan, Settings
from tests.interop.grpc.runtime import SERVICE, KServeRuntime, Options, kserve_runtime

T = TypeVar("T")
TIMEOUT_S: Final = 20.0
_UNLIMITED: Final = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),  # What is tried again here is tried by the router.
    ("grpc.use_local_subchannel_pool", 1),
]
OF_MODEL: Final = (("x-infermesh-model", MODEL),)


class Client:
    """grpcio's channel to a router. Methods take bytes and give bytes."""

    def __init__(self, address: tuple[str, int], options: Options = ()) -> None:
        self._address = address
        self.channel = grpc.insecure_channel(f"{address[0]}:{address[1]}", options=[*_UNLIMITED, *options])
        self._others: list[Client] = []

    def another(self) -> Client:
        """One with a connection of its own, closed with this one."""
        self._others.append(Client(self._address))
        return self._others[-1]

    def close(self) -> None:
        for client in self._others:
            client.close()
        self.channel.close()

    def unary(self, name: str) -> Any:
        return self.channel.unary_unary(_path(name))

    def counting(self, name: str) -> Any:
        return self.channel.unary_stream(_path(name))

    def joining(self, name: str) -> Any:
        return self.channel.stream_unary(_path(name))

    def chatting(self, name: str) -> Any:
        return self.channel.stream_stream(_path(name))

    def say(self, message: bytes = b"hi", **more: Any) -> bytes:
        """The plainest call there is."""
        answer: bytes = self.unary("Say")(message, metadata=OF_MODEL, timeout=TIMEOUT_S, **more)
        return answer


def _path(name: str) -> str:
    return name if name.startswith("/") else SERVICE + name


@dataclass
class GrpcMesh:
    mesh: Mesh
    runtimes: list[KServeRuntime]

    @property
    def runtime(self) -> KServeRuntime:
        return self.runtimes[0]

    async def call(self, ask: Callable[[Client], T], *, options: Options = ()) -> T:
        """`ask` in a thread, with a client of its own that is closed afterwards."""

        def run() -> T:
            client = Client(self.mesh.router.client_address, options)
            try:
                return ask(client)
            finally:
                client.close()

        return await trio.to_thread.run_sync(run)


@asynccontextmanager
async def grpc_mesh(
    trust: TrustDomain,
    *,
    nodes: int = 1,
    slots: int = 64,
    router: Settings | None = None,
    server_options: Options = (),
    gpus: Sequence[GpuPlan] = (),
) -> AsyncIterator[GrpcMesh]:
    """A router and `nodes` GPU nodes, each with a runtime of its own that serves `MODEL`; `gpus`: their other keys."""
    async with AsyncExitStack() as stack:
        runtimes = [
            await stack.enter_async_context(kserve_runtime(slots=slots, options=server_options)) for _ in range(nodes)
        ]
        plan = MeshPlan(
            gpus=[GpuPlan(engines=(), runtimes=[runtime.at]) for runtime in runtimes],
            router=router or {},
            bystander=None,
        )
        mesh = await stack.enter_async_context(running_mesh(plan, trust=trust))
        yield GrpcMesh(mesh, runtimes)


def code_of(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """How a call that fails ends."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("the call went well")
