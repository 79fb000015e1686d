"""Each await of a request's life, cancelled there: nothing is left, and the next request is served.

`ROWS` is the table: how to bring a task to an await, and the chain of awaits that it then waits at. The first test
reads the data path's sources and fails for an await that no row and no exception names, so that a new one is noticed.
Each row is then run against a whole mesh, once for each way in which its end can come: the client leaves, trio cancels
the connection's scope, the node is killed or told to stop.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio

from infermesh.emulator import EmulatorConfig
from infermesh.net.http1 import ServerConnection
from infermesh.net.pool import HANDSHAKES_MAX
from infermesh.testing.await_sites import ROOT, AwaitSites, OnParked
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import (
    PATH,
    completion_body,
    completion_request,
    embedding_request,
    expected_text,
    unary_text,
)
from infermesh.testing.mesh import Mesh, MeshNode, running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan
from infermesh.testing.tcp_relay import RelayMode
from infermesh.testing.waiting import wait_until

FILES = (
    "net/connection.py",
    "net/dial.py",
    "net/http1/client.py",
    "net/http1/server.py",
    "net/listener.py",
    "net/pool.py",
    "node/assemble.py",
    "planes/data/busy.py",
    "planes/data/errors.py",
    "planes/data/frontend.py",
    "planes/data/gate.py",
    "planes/data/inference.py",
    "planes/data/local.py",
    "planes/data/models.py",
    "planes/data/peek.py",
    "planes/data/pools.py",
    "planes/data/ports.py",
    "planes/data/router_host.py",
    "planes/data/run.py",
    "planes/data/serving.py",
)
SITES = AwaitSites(FILES)

SERVER = "net/http1/server.py"
SHAKING_HANDS = (
    "net/pool.py: UpstreamPool._open: "
    "await connection.handshake(TlsSession(self._secure.wrap), deadline, self._secure.admit)"
)
SHAKING_HANDS_ON_ACCEPT = (
    "planes/data/ports.py: MeshPort._handshake: await connection.handshake(TlsSession(epoch.accept), deadline, admit)"
)
PARK = "net/connection.py: Connection.park: await wait_task_rescheduled(abort)"
HANDSHAKE = "net/connection.py: Connection.handshake: await self.park()"
SERVE = "net/http1/server.py: ServerConnection.serve: await self.park()"
CALL = "net/http1/server.py: ServerConnection.serve: await self._calls.popleft()()"
TASK = (
    "planes/data/serving.py: serve_connection: await connection.serve()",
    "net/listener.py: Listener._serve_one: await self._serve(sock)",
)
CLIENT_TASK = (*TASK, "planes/data/ports.py: ClientPort.serve: await serve_connection(connection, self._log)")
MESH_TASK = (*TASK, "planes/data/ports.py: MeshPort.serve: await serve_connection(connection, self._log)")
OPENING = (
    *CLIENT_TASK,
    CALL,
    "planes/data/run.py: Run._open_pending: await pool.acquire(self.first_byte_by, fresh=attempt.stale_retried)",
)
ACQUIRE = (
    "net/pool.py: UpstreamPool.acquire: "
    "await self._open(min(deadline, trio.current_time() + self._limits.connect_timeout_s))"
)
DIALLING = (*OPENING, ACQUIRE, "net/pool.py: UpstreamPool._open: await dial(self._address, deadline)")
SUBSCRIBER = (
    *MESH_TASK,
    CALL,
    "node/assemble.py: Node._answer_subscribe.stream: await self._publisher.serve(response)",
)
WAITING = (PARK, SERVE, *CLIENT_TASK)
WAITING_AT_NODE = (PARK, SERVE, *MESH_TASK)
CHEAP = b"GET /health HTTP/1.1\r\nhost: mesh\r\n\r\n"
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: mesh\r\ncontent-length: 400\r\n"
RUNNING = "node/assemble.py: Node.run: async with trio.open_nursery()"

ELSEWHERE = {
    "node/assemble.py: Node.run: await nursery.start(self._runtimes.run)": "before any request",
    "node/assemble.py: Node.run: "
    "await nursery.start(partial(serve_admin, config.admin.listen, self.sources, self.telemetry.log))": (
        "before any request"
    ),
    "node/assemble.py: Node._follow: "
    "await run_subscriber(peer, dialer, reports, self._log, rng=self._rng, config=config)": (
        "tests/planes/signal/test_subscriber.py"
    ),
    "net/dial.py: dial: await _resolve(address)": "tests/net/test_dial.py",
    "net/dial.py: _resolve: await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)": (
        "tests/net/test_dial.py"
    ),
    "net/dial.py: _connect: await trio.lowlevel.checkpoint()": "tests/net/test_dial.py",
    "net/listener.py: Listener.run: await self._accept_some(nursery)": "tests/net/test_listener.py",
    "net/listener.py: Listener._accept_some: await trio.sleep(_NO_DESCRIPTORS_WAIT_S)": "tests/net/test_listener.py",
    "net/connection.py: Connection.drain: await self._drained.wait()": "tests/net/http1/test_server_cancelled.py",
    "net/http1/server.py: StreamedResponse.write: await self._connection.drain()": (
        "tests/net/http1/test_server_cancelled.py"
    ),
    "net/http1/server.py: StreamedResponse.finish: await trio.lowlevel.checkpoint()": (
        "tests/net/http1/test_server_cancelled.py"
    ),
}


@dataclass
class Cast:
    """One mesh, one client that asks, and others that are only there."""

    mesh: Mesh
    stream: trio.SocketStream
    others: list[trio.SocketStream] = field(default_factory=list)
    received: bytes = b""

    async def other(self, request: bytes) -> None:
        stream = await trio.open_tcp_stream(*self.mesh.router.client_address)
        self.others.append(stream)
        await stream.send_all(request)


Traffic = Callable[[Cast], Awaitable[None]]


def sends(*pieces: bytes) -> Traffic:
    async def traffic(cast: Cast) -> None:
        for piece in pieces:
            await cast.stream.send_all(piece)

    return traffic


def frozen(*, stream: bool = False) -> Traffic:
    """Ask an engine that does not come to an end."""

    async def traffic(cast: Cast) -> None:
        cast.mesh.engine.faults.frozen = True
        await cast.stream.send_all(completion_request("asked", 3, stream=stream))

    return traffic


def relayed(mode: RelayMode) -> Traffic:
    async def traffic(cast: Cast) -> None:
        cast.mesh.relays[0].mode = mode
        await cast.stream.send_all(completion_request("asked", 3))

    return traffic


async def in_its_stream(cast: Cast) -> None:
    await cast.stream.send_all(completion_request("asked", 200, stream=True))
    cast.received += bytes(await cast.stream.receive_some())
    cast.mesh.engine.faults.frozen = True


async def unreachable(cast: Cast) -> None:
    """Nobody takes what the kernel has accepted there, so that a further connection gets no answer to its SYN."""
    relay = cast.mesh.relays[0]
    relay.refuse()
    await wait_until(relay.closed.is_set, "the relay listens no more")
    full = trio.socket.socket()
    full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await full.bind(relay.address)
    full.listen(0)
    cast.others.append(trio.SocketStream(full))
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(relay.address)
        cast.others.append(trio.SocketStream(trio.socket.from_stdlib_socket(filler)))
    await cast.stream.send_all(completion_request("asked", 3))


async def behind_others_in_the_pool(cast: Cast) -> None:
    cast.mesh.engine.faults.frozen = True
    await cast.other(completion_request("first", 3))
    await wait_until(lambda: in_flight(cast.mesh), "the only connection is taken")
    await cast.stream.send_all(completion_request("asked", 3))


async def behind_other_handshakes(cast: Cast) -> None:
    cast.mesh.relays[0].mode = RelayMode.SILENT
    for number in range(HANDSHAKES_MAX):
        await cast.other(completion_request(f"other {number}", 3))
    site = SITES.named(SHAKING_HANDS)
    await wait_until(lambda: len(SITES.tasks_at(site)) == HANDSHAKES_MAX, "as many shake hands as may at once")
    await cast.stream.send_all(completion_request("asked", 3))


async def behind_others_at_the_gate(cast: Cast) -> None:
    cast.mesh.engine.faults.frozen = True
    await cast.other(completion_request("first", 3))
    await wait_until(lambda: in_flight(cast.mesh), "the only slot is taken")
    await cast.stream.send_all(completion_request("asked", 3))


async def finished_once(cast: Cast) -> None:
    await cast.stream.send_all(completion_request("asked", 3))
    while b'"usage"' not in cast.received:
        cast.received += bytes(await cast.stream.receive_some())


async def stopped_with_a_request(cast: Cast) -> None:
    cast.mesh.engine.faults.frozen = True
    await cast.stream.send_all(completion_request("asked", 3))
    await wait_until(lambda: in_flight(cast.mesh), "the request is with the engine")
    cast.mesh.router.node.stop()


async def stopped_with_a_last_answer(cast: Cast) -> None:
    """The answer is made, and the router keeps the end of it: the kernel holds little and the client does not read."""
    router = cast.mesh.router.node
    await trio.aclose_forcefully(cast.stream)
    await wait_until(lambda: not router.holdings().sockets, "the wide one is gone")
    narrow = trio.socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await narrow.connect(cast.mesh.router.client_address)
    cast.stream = trio.SocketStream(narrow)
    await wait_until(lambda: router.holdings().sockets, "accepted")
    [connection] = router._reactor.served()
    assert isinstance(connection, ServerConnection)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await cast.stream.send_all(embedding_request(80))
    await wait_until(lambda: router.holdings().unsent_bytes and not router.holdings().requests, "the answer is made")
    router.stop()


async def stopped(cast: Cast) -> None:
    cast.mesh.router.node.stop()


async def resubscribed(cast: Cast) -> None:
    cast.mesh.relays[0].cut()


def in_flight(mesh: Mesh) -> int:
    return mesh.engine.server.drivers[MODEL].in_flight


def generated(mesh: Mesh) -> int:
    return mesh.engine.server.drivers[MODEL].engine.counters.generation_tokens


def requests(mesh: Mesh) -> int:
    return mesh.router.node.holdings().requests


def accepted(mesh: Mesh) -> bool:
    return mesh.router.node.holdings().accepted["client"] > 0


def has_read(mesh: Mesh) -> bool:
    return mesh.router.node.sources.metrics.reactor_events.child().value > 0


def asked(mesh: Mesh) -> bool:
    return mesh.engine.faults.frozen and in_flight(mesh) == 1


def streaming(mesh: Mesh) -> bool:
    return mesh.engine.faults.frozen and in_flight(mesh) == 1 and generated(mesh) > 0


def at_once(mesh: Mesh) -> bool:
    return True


NO_BYSTANDER = MeshPlan(bystander=None)
ONE_SLOT = MeshPlan(gpus=[GpuPlan(engines=[EmulatorConfig(models=(MODEL,), profile="tiny", slots=1)])], bystander=None)
ONE_CONNECTION = MeshPlan(router={"upstream.connections_max": "1", "upstream.pool_idle_max": "1"}, bystander=None)
ROOMY = EmulatorConfig(models=(MODEL,), profile="tiny", slots=64)
RELAYED = MeshPlan(gpus=[GpuPlan(engines=[ROOMY], relayed=True)], bystander=None)

LEAVE, CANCEL, KILL, STOP = "client leaves", "scope is cancelled", "node is killed", "node is stopped"
CUT = "network breaks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`traffic` brings a task to all awaits of `at`; `when`, if given, says which of the moments there is meant."""

    name: str
    at: Sequence[str]
    traffic: Traffic
    when: Callable[[Mesh], bool] | None = None
    plan: MeshPlan = NO_BYSTANDER
    ways: Sequence[str] = (LEAVE, CANCEL, KILL)
    serves_after: bool = True
    stops: bool = False  # The router ends in any case.
    answered: bool = False  # A node that is told to stop answers it first.


ROWS = (
    Row(name="before a request", at=WAITING, traffic=sends(), when=accepted, ways=(LEAVE, CANCEL, KILL, STOP)),
    Row(name="inside a head", at=WAITING, traffic=sends(HEAD), when=has_read),
    Row(name="inside a body", at=WAITING, traffic=sends(HEAD + b"\r\n{"), when=has_read),
    Row(
        name="taking turns with others",
        at=(
            *CLIENT_TASK,
            CALL,
            "net/http1/server.py: ServerConnection._advance_later: await trio.lowlevel.checkpoint()",
        ),
        traffic=sends(CHEAP * 40),
    ),
    Row(
        name="waiting for a slot",
        at=WAITING,
        traffic=behind_others_at_the_gate,
        when=lambda mesh: mesh.router.node.holdings().waiting == 1,
        plan=ONE_SLOT,
        ways=(LEAVE, CANCEL, KILL, STOP),
        answered=True,
    ),
    Row(
        name="waiting for a connection",
        at=(*OPENING, "net/pool.py: UpstreamPool.acquire: await self._freed.park()"),
        traffic=behind_others_in_the_pool,
        plan=ONE_CONNECTION,
        ways=(LEAVE, CANCEL, KILL, STOP),
        answered=True,
    ),
    Row(
        name="dialling",
        at=(
            *DIALLING,
            "net/dial.py: dial: await _connect(sock, target)",
            "net/dial.py: _connect: await trio.lowlevel.wait_writable(sock)",
        ),
        traffic=unreachable,
        when=lambda mesh: mesh.relays[0].closed.is_set(),
        plan=RELAYED,
        serves_after=False,
    ),
    Row(
        name="waiting to shake hands",
        at=(*OPENING, ACQUIRE, "net/pool.py: UpstreamPool._open: async with self._handshakes"),
        traffic=behind_other_handshakes,
        when=lambda mesh: requests(mesh) == HANDSHAKES_MAX + 1,  # It comes by there without waiting, too.
        plan=RELAYED,
    ),
    Row(
        name="shaking hands",
        at=(
            *OPENING,
            ACQUIRE,
            SHAKING_HANDS,
            HANDSHAKE,
            PARK,
        ),
        traffic=relayed(RelayMode.SILENT),
        plan=RELAYED,
    ),
    Row(
        name="shaking hands on accept",
        at=(
            "net/listener.py: Listener._serve_one: await self._serve(sock)",
            "planes/data/ports.py: MeshPort.serve: await self._handshake(connection)",
            SHAKING_HANDS_ON_ACCEPT,
            HANDSHAKE,
            PARK,
        ),
        traffic=sends(completion_request("asked", 3)),
        ways=(LEAVE, KILL, STOP),
    ),
    Row(
        name="before the first byte",
        at=WAITING,
        traffic=frozen(),
        when=asked,
        ways=(LEAVE, CANCEL, KILL, STOP),
        answered=True,
    ),
    Row(name="before the first byte of a stream", at=WAITING, traffic=frozen(stream=True), when=asked),
    Row(name="before the first byte, at the node", at=WAITING_AT_NODE, traffic=frozen(), when=asked),
    Row(
        name="in a stream",
        at=WAITING,
        traffic=in_its_stream,
        when=streaming,
        ways=(LEAVE, CANCEL, KILL, STOP),
        answered=True,
    ),
    Row(name="in a stream, at the node", at=WAITING_AT_NODE, traffic=in_its_stream, when=streaming),
    Row(
        name="between two requests",
        at=WAITING,
        traffic=finished_once,
        when=lambda mesh: generated(mesh) >= 3 and requests(mesh) == 0,
        ways=(LEAVE, CANCEL, KILL, STOP),
    ),
    Row(
        name="answering a subscriber's head",
        at=(*SUBSCRIBER, "net/http1/server.py: StreamedResponse.start: await trio.lowlevel.checkpoint()"),
        traffic=resubscribed,
        plan=RELAYED,
        ways=(CUT, CANCEL, KILL),
    ),
    Row(
        name="answering a subscriber",
        at=(*SUBSCRIBER, "net/http1/server.py: StreamedResponse.write: await trio.lowlevel.checkpoint()"),
        traffic=resubscribed,
        plan=RELAYED,
        ways=(CUT, CANCEL, KILL),
    ),
    Row(
        name="listening",
        at=("net/listener.py: Listener.run: await wait_readable(self._sock)",),
        traffic=sends(),
        when=at_once,
        ways=(KILL, STOP),
    ),
    Row(
        name="running",
        at=("node/assemble.py: Node.run: await self._stopping.wait()",),
        traffic=sends(),
        when=at_once,
        ways=(KILL, STOP),
    ),
    Row(
        name="draining",
        at=(
            "node/assemble.py: Node.run: await self._drain(listeners)",
            "node/assemble.py: Node._drain: await self._busy.wait_idle()",
            "planes/data/busy.py: Busy.wait_idle: await self._idle.wait()",
        ),
        traffic=stopped_with_a_request,
        ways=(LEAVE, KILL),
        stops=True,
    ),
    Row(
        name="draining a port",
        at=("net/listener.py: Listener.run: async with trio.open_nursery()",),
        traffic=stopped_with_a_request,
        ways=(LEAVE, KILL),
        stops=True,
    ),
    Row(
        name="draining a last answer",
        at=(
            "node/assemble.py: Node.run: await self._drain(listeners)",
            "node/assemble.py: Node._drain: await trio.sleep(_UNSENT_LOOK_S)",
        ),
        traffic=stopped_with_a_last_answer,
        ways=(LEAVE, KILL),
        stops=True,
    ),
    Row(name="ending", at=(RUNNING,), traffic=stopped, ways=(KILL,)),
)


def test_every_await_of_a_requests_life_is_in_the_table() -> None:
    named = {site for row in ROWS for site in row.at} | ELSEWHERE.keys()
    found = set(map(str, SITES.all()))
    assert found - named == set(), "an await that no test cancels at: add a row, or say where it is tested"
    assert named - found == set(), "an await that is there no more"


def test_every_folder_file_that_waits_is_looked_at() -> None:
    """A new file of the data plane is either in FILES or fails here."""
    folder = ROOT / "infermesh"
    waiting = {
        path.relative_to(folder).as_posix()
        for pattern in ("planes/data/*.py", "net/http1/*.py")
        for path in folder.glob(pattern)
        if "await " in path.read_text("utf-8")
    }
    assert waiting <= set(FILES)


CASES = [
    # A network that breaks is dialled again after a second.
    pytest.param(row, way, id=f"{row.name}, {way}", marks=[pytest.mark.slow] if way == CUT else [])
    for row in ROWS
    for way in row.ways
]


@pytest.mark.parametrize(("row", "way"), CASES)
async def test_cancelled_there_nothing_is_left(trust: TrustDomain, row: Row, way: str) -> None:
    async with running_mesh(row.plan, trust=trust) as mesh:
        ended = [mesh.router] if row.stops else []
        cast = Cast(mesh, await trio.open_tcp_stream(*mesh.router.client_address))
        watch = OnParked(
            SITES,
            [SITES.named(name) for name in row.at],
            lambda task: act(cast, way, task, ended),
            when=None if row.when is None else lambda: row.when is not None and row.when(mesh),
            where=partial(serves, cast) if set(CLIENT_TASK) <= set(row.at) else None,
        )
        trio.lowlevel.add_instrument(watch)
        try:
            with trio.fail_after(10):
                await tolerant(row.traffic, cast)
                await watch.acted.wait()
                if mesh.router in ended or (way == CANCEL and set(CLIENT_TASK) <= set(row.at)):
                    await tolerant(read_to_the_end, cast)
        finally:
            trio.lowlevel.remove_instrument(watch)
            for stream in (cast.stream, *cast.others):
                await trio.aclose_forcefully(stream)
        if way == STOP and row.answered:
            assert cast.received.startswith(b"HTTP/1.1 200 OK")
            assert cast.received.endswith((b"}", b"data: [DONE]\n\n\r\n0\r\n\r\n")), cast.received[-40:]
        await assert_back_to_the_start(mesh, ended, serves_after=row.serves_after)


def act(cast: Cast, way: str, task: trio.lowlevel.Task, ended: list[MeshNode]) -> None:
    owner = owner_of(cast.mesh, task)
    match way:
        case "client leaves":
            cast.stream.socket.close()
        case "network breaks":
            cast.mesh.relays[0].cut()
        case "scope is cancelled":
            connection_of(task).scope.cancel()
        case "node is killed":
            ended.append(owner)
            owner.end()
        case "node is stopped":
            ended.append(owner)
            owner.node.stop()
            cast.mesh.engine.faults.frozen = False
        case _:
            raise AssertionError(way)


def owner_of(mesh: Mesh, task: trio.lowlevel.Task) -> MeshNode:
    kept = {id(node.task): node for node in mesh.nodes}
    above: trio.lowlevel.Task | None = task
    while above is not None:
        if id(above) in kept:
            return kept[id(above)]
        above = above.parent_nursery.parent_task if above.parent_nursery is not None else None
    raise AssertionError(f"{task.name} is of no node")


def connection_of(task: trio.lowlevel.Task) -> ServerConnection:
    for frame, _ in task.iter_await_frames():
        connection = frame.f_locals.get("connection")
        if isinstance(connection, ServerConnection):
            return connection
    raise AssertionError(f"{task.name} serves no connection")


def serves(cast: Cast, task: trio.lowlevel.Task) -> bool:
    connection = connection_of(task)
    return not connection.closed and connection.sock.getpeername() == cast.stream.socket.getsockname()


async def tolerant(traffic: Traffic, cast: Cast) -> None:
    """The end of its connection may come at any moment of it."""
    try:
        await traffic(cast)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def read_to_the_end(cast: Cast) -> None:
    while piece := await cast.stream.receive_some():
        cast.received += bytes(piece)


async def assert_back_to_the_start(mesh: Mesh, ended: list[MeshNode], *, serves_after: bool) -> None:
    for node in ended:
        await wait_until(lambda: not node.running, f"{node.name} is down")  # noqa: B023 - awaited here.
    for node in mesh.nodes:
        if not node.running:
            held = node.node.holdings()
            assert (held.sockets, held.requests, held.waiting, held.admitted, held.attempts) == (0, 0, 0, 0, 0)
            assert set(held.accepted.values()) == {0}
    for relay in mesh.relays.values():
        relay.mode = RelayMode.PASS
    mesh.engine.faults.frozen = False
    await mesh.wait_quiet()
    if not serves_after:
        return
    for node in mesh.nodes:
        if not node.running:
            await node.start()
    await mesh.wait_ready()
    async with await mesh.client() as client:
        answer = await client.fetch("POST", PATH, completion_body("afterwards"))
        assert unary_text(answer.body) == expected_text("afterwards", 4)
