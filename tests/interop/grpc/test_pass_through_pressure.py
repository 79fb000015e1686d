"""Whoever reads slowly slows the one who writes, end to end: nothing between them keeps more than it may."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Final

import pytest
import trio

from infermesh.testing.certificates import TrustDomain
from infermesh.testing.waiting import wait_until
from tests.interop.grpc.calling import OF_MODEL, TIMEOUT_S, Client, GrpcMesh, grpc_mesh

pytestmark = [pytest.mark.slow, pytest.mark.interop]
KIB: Final = 1 << 10
MIB: Final = 1 << 20
PIECE: Final = 16 * KIB
QUIET_S: Final = 0.3
# Of one stream at one node: its window, twice what is queued before its source is paused, what one socket's backlog
# holds, and a read.
PER_NODE_BYTES_MAX: Final = 512 * KIB + 2 * 64 * KIB + 256 * KIB + 64 * KIB
# grpcio's own windows at either end, and what kernels keep of six sockets.
ENDS_BYTES_MAX: Final = 16 * MIB


class Meter:
    """The most that the nodes have kept for peers that do not take it, looked at in each step of their loop."""

    def __init__(self, mesh: GrpcMesh) -> None:
        self._nodes = mesh.mesh.nodes
        self.most = {node.name: 0 for node in self._nodes}

    def look(self) -> None:
        for node in self._nodes:
            self.most[node.name] = max(self.most[node.name], node.node.holdings().unsent_bytes)

    async def run(self) -> None:
        while True:
            self.look()
            await trio.sleep(0.001)


async def quiet(count: Meter, mesh: GrpcMesh, what: str) -> int:
    """Until the runtime's or the client's count of `what` stands still; returns it."""
    last, since = -1, trio.current_time()

    def still() -> bool:
        nonlocal last, since
        count.look()
        now = mesh.runtime.methods.seen[what]
        if now != last:
            last, since = now, trio.current_time()
        return trio.current_time() - since > QUIET_S and now > 0

    await wait_until(still, f"{what} stands still", within_s=TIMEOUT_S)
    return last


async def test_a_client_that_does_not_read_stops_the_runtime(trust: TrustDomain) -> None:
    async with grpc_mesh(trust) as mesh, trio.open_nursery() as nursery:
        meter = Meter(mesh)
        nursery.start_soon(meter.run)
        looked = threading.Event()

        def ask(client: Client) -> None:
            call = client.counting("Pour")(b"", metadata=OF_MODEL, timeout=TIMEOUT_S)
            next(call)
            looked.wait(TIMEOUT_S)
            began = time.monotonic()
            client.say()  # On the same connection, and not held up by the other.
            took_s = time.monotonic() - began
            assert took_s < 1.0
            for _ in range(1000):
                next(call)
            call.cancel()

        async def watch() -> None:
            poured = await quiet(meter, mesh, "poured")
            looked.set()
            assert poured * PIECE <= ENDS_BYTES_MAX + 2 * PER_NODE_BYTES_MAX

        nursery.start_soon(watch)
        await mesh.call(ask)
        assert mesh.runtime.methods.seen["poured"] >= 1000
        assert meter.most["edge"] <= PER_NODE_BYTES_MAX, meter.most
        assert meter.most["gpu-a"] <= PER_NODE_BYTES_MAX, meter.most
        assert max(meter.most.values()) > 0
        nursery.cancel_scope.cancel()


async def test_a_runtime_that_does_not_read_stops_the_client(trust: TrustDomain) -> None:
    """What is kept in case that another node must be tried is bounded too; past that the call has one attempt."""
    kept_max = 256 * KIB
    pieces = 4000
    settings = {"client.body_bytes_max": str(kept_max)}
    async with grpc_mesh(trust, router=settings) as mesh, trio.open_nursery() as nursery:
        methods = mesh.runtime.methods
        meter = Meter(mesh)
        nursery.start_soon(meter.run)

        def pour() -> Iterator[bytes]:
            for _ in range(pieces):
                methods.count("said")
                yield bytes(PIECE)

        async def watch() -> None:
            said = await quiet(meter, mesh, "said")
            assert said < pieces
            assert said * PIECE <= ENDS_BYTES_MAX + 2 * PER_NODE_BYTES_MAX
            methods.count("thirsty")

        nursery.start_soon(watch)
        answer = await mesh.call(lambda client: client.joining("Drink")(pour(), metadata=OF_MODEL, timeout=TIMEOUT_S))
        assert answer == b"%d" % (pieces * PIECE)
        assert meter.most["edge"] <= PER_NODE_BYTES_MAX, meter.most
        assert meter.most["gpu-a"] <= PER_NODE_BYTES_MAX, meter.most
        nursery.cancel_scope.cancel()
