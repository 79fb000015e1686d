"""A gRPC call's end at each of its waits, through a whole mesh: nothing is left, and the next call is served.

The chain of awaits below a connection is tested where it is (tests/net/http2); here it is what a call waits for, on
which node, and who ends it. A router that is told to stop is in tests/interop/grpc: `h2` reads no answers after GOAWAY.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from infermesh.net.http2 import Http2ServerConnection
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.h2_peer import H2Client, H2Peer, PeerStream
from infermesh.testing.kserve_runtime import MODEL, scripted_grpc_runtime
from infermesh.testing.mesh import Mesh, MeshNode, running_mesh
from infermesh.testing.mesh_plan import GpuPlan, MeshPlan
from infermesh.testing.tcp_relay import RelayMode
from infermesh.testing.waiting import wait_until

HEADERS = [("content-type", "application/grpc"), ("te", "trailers")]
OF_MODEL = [*HEADERS, ("x-infermesh-model", MODEL)]
PATH = "/test.Service/Do"
INFER = "/inference.GRPCInferenceService/ModelInfer"
OK_HEAD = [(":status", "200"), ("content-type", "application/grpc")]
MESSAGE = b"\x00\x00\x00\x00\x01x"
LEAVE, RESET, CANCEL, KILL = "client leaves", "client resets", "scope is cancelled", "router dies"
KILL_GPU = "node dies"


@dataclass
class Runtime:
    """Answers calls once it may; counts what it sees."""

    may_answer: trio.Event = field(default_factory=trio.Event)
    head_first: bool = False
    calls: int = 0
    cancelled: int = 0

    async def serve(self, peer: H2Peer) -> None:
        async with trio.open_nursery() as nursery:
            seen: set[int] = set()
            reset: set[int] = set()
            while not peer.over:
                await peer.read()
                for stream in list(peer.streams.values()):
                    if stream.reset is not None and stream.stream_id not in reset:
                        reset.add(stream.stream_id)
                        self.cancelled += 1
                    elif stream.ended and stream.stream_id not in seen:
                        seen.add(stream.stream_id)
                        self.calls += 1
                        nursery.start_soon(self._answer, peer, stream)
            nursery.cancel_scope.cancel()

    async def _answer(self, peer: H2Peer, stream: PeerStream) -> None:
        if stream.reset is not None:
            return
        head_first = self.head_first
        if head_first:
            await peer.send_headers(stream.stream_id, OK_HEAD)
            await peer.send_data(stream.stream_id, MESSAGE)
        await self.may_answer.wait()
        if stream.reset is not None or peer.over:
            return
        if not head_first:
            await peer.send_headers(stream.stream_id, OK_HEAD)
        await peer.send_data(stream.stream_id, MESSAGE)
        await peer.send_headers(stream.stream_id, [("grpc-status", "0")], end=True)


@dataclass
class Cast:
    mesh: Mesh
    runtime: Runtime
    client: H2Client
    stream_id: int = 0
    others: list[H2Client] = field(default_factory=list)

    async def ask(self, *, path: str = PATH, end: bool = True) -> None:
        headers = HEADERS if path == INFER else OF_MODEL
        self.stream_id = await self.client.ask("POST", path, MESSAGE if end else b"", headers=headers, end=end)

    @property
    def holdings_requests(self) -> int:
        return self.mesh.router.node.holdings().requests


@asynccontextmanager
async def cast(trust: TrustDomain, *, slots: int = 8, relayed: bool = False) -> AsyncIterator[Cast]:
    runtime = Runtime()
    async with scripted_grpc_runtime(runtime.serve, slots=slots) as at:
        plan = MeshPlan(gpus=[GpuPlan(engines=(), runtimes=[at], relayed=relayed)], bystander=None)
        async with (
            running_mesh(plan, trust=trust) as mesh,
            await H2Client.dial(mesh.router.client_address) as client,
        ):
            try:
                yield Cast(mesh, runtime, client)
            finally:
                await trio.aclose_forcefully(client.stream)


# --- how to come there ---


async def waits_for_its_first_message(cast: Cast) -> None:
    await cast.ask(path=INFER, end=False)
    await wait_until(lambda: any(streams_of(cast.mesh.router)), "the call's head has come")


async def waits_for_its_client(cast: Cast) -> None:
    """Its model is known, its messages are not there yet."""
    await cast.ask(end=False)
    await wait_until(lambda: cast.mesh.gpus[0].node.holdings().requests == 1, "it is with the node")


async def waits_for_a_slot(cast: Cast) -> None:
    other = await H2Client.dial(cast.mesh.router.client_address)
    cast.others.append(other)
    await other.ask("POST", PATH, MESSAGE, headers=OF_MODEL)
    await wait_until(lambda: cast.runtime.calls == 1, "the only slot is taken")
    await cast.ask()
    await wait_until(lambda: cast.mesh.router.node.holdings().waiting == 1, "it waits")


async def waits_for_a_connection(cast: Cast) -> None:
    cast.mesh.relays[0].mode = RelayMode.SILENT
    await cast.ask()
    await wait_until(lambda: cast.holdings_requests == 1, "it has come")


async def waits_for_its_answer(cast: Cast) -> None:
    await cast.ask()
    await wait_until(lambda: cast.runtime.calls == 1, "it is with the runtime")


async def is_being_answered(cast: Cast) -> None:
    cast.runtime.head_first = True
    await cast.ask()
    answer = cast.client.of(cast.stream_id)
    await cast.client.read_until(lambda: bool(answer.body))


def streams_of(node: MeshNode) -> list[int]:
    served = [each for each in node.node._reactor.served() if isinstance(each, Http2ServerConnection)]
    return [len(each._streams) for each in served]


# --- how it ends there ---


async def end(cast: Cast, way: str) -> None:
    mesh = cast.mesh
    match way:
        case "client leaves":
            await trio.aclose_forcefully(cast.client.stream)
        case "client resets":
            await cast.client.reset(cast.stream_id)
        case "scope is cancelled":
            [connection] = [
                each
                for each in mesh.router.node._reactor.served()
                if isinstance(each, Http2ServerConnection)
                and each.sock.getpeername() == cast.client.stream.socket.getsockname()  # type: ignore[attr-defined]
            ]
            connection.scope.cancel()
        case "router dies":
            await mesh.router.kill()
        case "node dies":
            await mesh.gpus[0].kill()
        case _:
            raise AssertionError(way)


@dataclass(frozen=True)
class Row:
    traffic: Callable[[Cast], Awaitable[None]]
    ways: tuple[str, ...] = (LEAVE, RESET, CANCEL, KILL)
    slots: int = 8
    relayed: bool = False
    reaches_runtime: bool = False


ROWS = (
    Row(waits_for_its_first_message),
    Row(waits_for_its_client, (LEAVE, RESET, CANCEL, KILL, KILL_GPU)),
    Row(waits_for_a_slot, slots=1),
    Row(waits_for_a_connection, relayed=True),
    Row(waits_for_its_answer, (LEAVE, RESET, CANCEL, KILL, KILL_GPU), reaches_runtime=True),
    Row(is_being_answered, (LEAVE, RESET, CANCEL, KILL, KILL_GPU), reaches_runtime=True),
)


@pytest.mark.parametrize(
    ("row", "way"), [pytest.param(row, way, id=f"{row.traffic.__name__}, {way}") for row in ROWS for way in row.ways]
)
async def test_ended_there_nothing_is_left(trust: TrustDomain, row: Row, way: str) -> None:
    async with cast(trust, slots=row.slots, relayed=row.relayed) as here:
        mesh, runtime = here.mesh, here.runtime
        with trio.fail_after(10):
            await row.traffic(here)
            await end(here, way)
            if row.reaches_runtime:
                await wait_until(lambda: runtime.cancelled or way in (KILL, KILL_GPU), "the runtime is told")
            if way == KILL_GPU:
                answer = await here.client.answer(here.stream_id)
                said = {**answer.headers, **answer.trailers}
                assert answer.ended
                assert said["grpc-status"] == "14"
            runtime.may_answer.set()
        await trio.aclose_forcefully(here.client.stream)
        for other in here.others:
            await trio.aclose_forcefully(other.stream)
        for relay in mesh.relays.values():
            relay.mode = RelayMode.PASS
        for node in mesh.nodes:
            if not node.running:
                held = node.node.holdings()
                assert (held.sockets, held.requests, held.waiting, held.admitted, held.attempts) == (0, 0, 0, 0, 0)
        await mesh.wait_quiet()
        for node in mesh.nodes:
            if not node.running:
                await node.start()
        await mesh.wait_ready()
        async with await H2Client.dial(mesh.router.client_address) as again:
            answer = await again.fetch("POST", PATH, MESSAGE, headers=OF_MODEL)
            assert answer.trailers == {"grpc-status": "0"}
