"""Clients that go away at every moment of their request: everything behind them ends, down to the engine."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from infermesh.emulator import EmulatorConfig
from infermesh.net.connection import BACKLOG_HIGH_BYTES, READ_BYTES
from infermesh.testing.bystander import unharmed
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import PATH, completion_body, completion_request, embedding_request
from infermesh.testing.h11_client import H11Client
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan
from infermesh.testing.tcp_relay import RelayMode
from infermesh.testing.waiting import wait_until

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: mesh\r\ncontent-length: 400\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
Leave = Callable[[trio.SocketStream], Awaitable[None]]


async def close(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def reset(stream: trio.SocketStream) -> None:
    H11Client(stream).reset()


async def half_close(stream: trio.SocketStream) -> None:
    """A client that closes its sending half is taken for gone: the router hangs up as well."""
    await stream.send_eof()
    with trio.fail_after(5):
        while await stream.receive_some():
            pass
    await stream.aclose()


WAYS = [close, reset, half_close]


@asynccontextmanager
async def connected(mesh: Mesh) -> AsyncGenerator[trio.SocketStream, None]:
    async with await trio.open_tcp_stream(*mesh.router.client_address) as stream:
        yield stream


def events(mesh: Mesh) -> float:
    """How often the router's reactor served a socket. A frozen bystander and idle connections make none."""
    return mesh.router.node.sources.metrics.reactor_events.child().value


def way_id(value: object) -> str:
    return getattr(value, "__name__", str(value))


@dataclass(frozen=True, slots=True)
class Moment:
    name: str
    sent: bytes
    counted: str  # The reason it is counted under; "" for none.
    answered: bytes = b""


BEFORE = (
    Moment("without a word", b"", ""),
    Moment("after an empty line", b"\r\n", ""),
    Moment("inside the first line", b"POST /v1/comp", "truncated"),
    Moment("inside the head", HEAD, "truncated"),
    Moment("after the head", HEAD + b"\r\n", "truncated"),
    Moment("waiting to be told to go on", HEAD + b"expect: 100-continue\r\n\r\n", "truncated", CONTINUE),
    Moment("inside the body", HEAD + b"\r\n" + b'{"model":', "truncated"),
    Moment(
        "inside a chunk", b"POST / HTTP/1.1\r\nhost: mesh\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{", "truncated"
    ),
)


@pytest.mark.parametrize("leave", WAYS, ids=way_id)
@pytest.mark.parametrize("moment", BEFORE, ids=lambda moment: moment.name)
async def test_a_client_that_leaves_before_its_request_is_whole(
    trust: TrustDomain, moment: Moment, leave: Leave
) -> None:
    counted = {f"edge bad_requests client {moment.counted}": 1} if moment.counted else {}
    async with (
        running_mesh(trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        connected(mesh) as stream,
    ):
        before = events(mesh)
        await stream.send_all(moment.sent)
        # A reset would throw away what is still in the kernel.
        await wait_until(lambda: not moment.sent or events(mesh) > before, "the router has read it")
        assert (await stream.receive_some() if moment.answered else b"") == moment.answered
        await leave(stream)


CANCELLED_BEFORE_FIRST_BYTE = {
    f"edge inferences {MODEL} - - cancelled": 1,
    "edge upstream_attempts gpu-a cancelled": 1,
    "edge cancelled_upstream gpu-a client_gone": 1,
    "gpu-a upstream_attempts gpu-a cancelled": 1,
    "gpu-a cancelled_upstream gpu-a client_gone": 1,
}
CANCELLED_IN_THE_STREAM = {
    name.replace(f"{MODEL} - -", f"{MODEL} emulated gpu-a"): count
    for name, count in CANCELLED_BEFORE_FIRST_BYTE.items()
}


@pytest.mark.parametrize("leave", WAYS, ids=way_id)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_client_that_leaves_before_the_first_byte_aborts_its_request_on_the_engine(
    trust: TrustDomain, leave: Leave, stream: bool
) -> None:
    async with (
        running_mesh(trust=trust) as mesh,
        unharmed(mesh, counted=CANCELLED_BEFORE_FIRST_BYTE),
        connected(mesh) as client,
    ):
        mesh.engine.faults.frozen = True
        driver = mesh.engine.server.drivers[MODEL]
        await client.send_all(completion_request(stream=stream))
        await wait_until(lambda: driver.in_flight, "the request is with the engine")
        await leave(client)
        await wait_until(lambda: driver.aborts, "the engine was told")
        mesh.engine.faults.frozen = False


@pytest.mark.parametrize("leave", WAYS, ids=way_id)
async def test_a_client_that_leaves_inside_its_stream_aborts_it_on_the_engine(trust: TrustDomain, leave: Leave) -> None:
    async with (
        running_mesh(trust=trust) as mesh,
        unharmed(mesh, counted=CANCELLED_IN_THE_STREAM),
        connected(mesh) as stream,
    ):
        driver = mesh.engine.server.drivers[MODEL]
        await stream.send_all(completion_request(tokens=4_000, stream=True))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
        await leave(stream)
        await wait_until(lambda: driver.aborts, "the engine was told")
        assert driver.aborts[0].tokens < 4_000


@pytest.mark.parametrize("leave", WAYS, ids=way_id)
async def test_a_client_that_leaves_while_it_waits_for_a_slot_gives_its_place_up(
    trust: TrustDomain, leave: Leave
) -> None:
    plan = MeshPlan(gpus=[GpuPlan(engines=[EmulatorConfig(models=(MODEL,), profile="tiny", slots=1)])])
    async with (
        running_mesh(plan, trust=trust) as mesh,
        unharmed(mesh, counted={f"edge inferences {MODEL} - - cancelled": 1}),
        connected(mesh) as stream,
        await mesh.client() as first,
        await mesh.client() as third,
    ):
        mesh.engine.faults.frozen = True
        await first.send("POST", PATH, completion_body("first"))
        await wait_until(lambda: mesh.engine.server.drivers[MODEL].in_flight, "the only slot is taken")
        await stream.send_all(completion_request("second"))
        await wait_until(lambda: mesh.router.node.holdings().waiting == 1, "it waits")
        await leave(stream)
        await wait_until(lambda: mesh.router.node.holdings().waiting == 0, "it waits no more")
        await third.send("POST", PATH, completion_body("third"))
        mesh.engine.faults.frozen = False
        assert (await first.head()).status_code == (await third.head()).status_code == 200
        assert mesh.engine.server.stats.models[MODEL].submitted == 2


@pytest.mark.parametrize("leave", WAYS, ids=way_id)
async def test_a_client_that_leaves_gives_its_connection_to_a_node_to_the_next_in_line(
    trust: TrustDomain, leave: Leave
) -> None:
    """Its own is closed, to cancel what it asked for; the next one may open another in its place."""
    plan = MeshPlan(
        gpus=[GpuPlan(), GpuPlan(engines=())],
        bystander=1,
        router={"upstream.connections_max": "1", "upstream.pool_idle_max": "1"},
    )
    async with (
        running_mesh(plan, trust=trust) as mesh,
        unharmed(mesh, counted=CANCELLED_BEFORE_FIRST_BYTE),
        connected(mesh) as stream,
        await mesh.client() as second,
    ):
        mesh.engine.faults.frozen = True
        await stream.send_all(completion_request("first"))
        await wait_until(lambda: mesh.engine.server.drivers[MODEL].in_flight, "the only connection is taken")
        await second.send("POST", PATH, completion_body("second"))
        await wait_until(lambda: mesh.router.node.holdings().attempts == 3, "both and the bystander are under way")
        await leave(stream)
        mesh.engine.faults.frozen = False
        with trio.fail_after(5):
            assert (await second.head()).status_code == 200


@pytest.mark.parametrize("leave", WAYS, ids=way_id)
async def test_a_client_that_leaves_while_the_router_shakes_hands_with_a_node_stops_that(
    trust: TrustDomain, leave: Leave
) -> None:
    counted = {name: count for name, count in CANCELLED_BEFORE_FIRST_BYTE.items() if name.startswith("edge")}
    async with (
        running_mesh(MeshPlan(gpus=[GpuPlan(relayed=True)]), trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        connected(mesh) as stream,
    ):
        relay = mesh.relays[0]
        relay.mode, open_before = RelayMode.SILENT, relay.connections
        await stream.send_all(completion_request())
        await wait_until(lambda: relay.connections > open_before, "the router has dialled")
        await leave(stream)
        await wait_until(lambda: relay.connections == open_before, "the router has hung up")


async def reading_nothing(mesh: Mesh) -> trio.SocketStream:
    """A client that has asked for an answer larger than all buffers on its way, and reads none of it."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(mesh.router.client_address)
    stream = trio.SocketStream(sock)
    await stream.send_all(embedding_request(24_000))
    return stream


TALKATIVE = GpuPlan(engines=[EmulatorConfig(models=(MODEL,), profile="h100", speed=10_000.0, unsent_bytes_max=1 << 26)])


@pytest.mark.slow
@pytest.mark.parametrize("leave", [close, reset], ids=way_id)
async def test_a_client_that_reads_nothing_holds_up_its_own_answer_alone_and_may_leave(
    trust: TrustDomain, leave: Leave
) -> None:
    async with (
        running_mesh(MeshPlan(gpus=[TALKATIVE]), trust=trust) as mesh,
        unharmed(mesh, counted=CANCELLED_IN_THE_STREAM),
    ):
        stream = await reading_nothing(mesh)
        nodes = (mesh.router.node, mesh.gpus[0].node)
        await wait_until(
            lambda: all(node.holdings().unsent_bytes > BACKLOG_HIGH_BYTES for node in nodes), "backed up", within_s=20
        )
        for node in nodes:
            # The mark, one read beyond it, and what TLS and a head add to that.
            assert node.holdings().unsent_bytes < BACKLOG_HIGH_BYTES + READ_BYTES + 4096
        await leave(stream)


@pytest.mark.slow
async def test_a_client_that_takes_nothing_for_long_is_cut_off_and_counted(trust: TrustDomain) -> None:
    plan = MeshPlan(gpus=[TALKATIVE], router={"client.send_timeout_s": "0.2"})
    counted = {**CANCELLED_IN_THE_STREAM, "edge bad_requests client send_timed_out": 1}
    async with (
        running_mesh(plan, trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        await reading_nothing(mesh),
    ):
        refused = mesh.router.node.telemetry.metrics.bad_requests
        await wait_until(lambda: refused.sum(reason="send_timed_out"), "the router gave up", within_s=20)
