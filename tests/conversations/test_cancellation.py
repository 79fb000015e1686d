"""Each await of a request's life, cancelled there: nothing is left, and the next request is served.

`ROWS` is the table: how to bring a task to an await, and the chain of awaits that it then waits at. The first test
reads the data path's sources and fails for an await that no row and no exception names, so that a new one is noticed.
Each row is then run against a whole mesh, once for each way in which its end can come: the client leaves, trio cancels
the connection's scope, the node is killed or told to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest
import trio

from infermesh.emulator import EmulatorConfig
from infermesh.net.http1 import ServerConnection
from infermesh.net.http2 import Http2ServerConnection
from infermesh.net.pool import HANDSHAKES_MAX
from infermesh.net.websocket.http1 import WebSocketConnection
from infermesh.testing.await_sites import ROOT, OnParked
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import PATH, completion_body, completion_request, expected_text, unary_text
from infermesh.testing.mesh import Mesh, MeshNode, running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan
from infermesh.testing.tcp_relay import RelayMode
from infermesh.testing.waiting import wait_until
from infermesh.testing.websocket_frames import TEXT, client_frame, upgrade_request
from tests.conversations.cancellation_sites import (
    ACQUIRE,
    CALL,
    CLIENT_TASK,
    DIALLING,
    ELSEWHERE,
    FILES,
    HANDSHAKE,
    OPENING,
    PARK,
    RUNNING,
    SHAKING_HANDS,
    SHAKING_HANDS_ON_ACCEPT,
    SHAKING_HANDS_ON_ACCEPT_TASK,
    SITES,
    SUBSCRIBER,
    SUBSCRIBER_ACKS,
    SUBSCRIBER_ANSWERED,
    SUBSCRIBER_SENT,
    WAITING,
    WAITING_AT_NODE,
    WEBSOCKET_OPENING,
    WEBSOCKET_WAITING,
)
from tests.conversations.cancellation_traffic import (
    Cast,
    Traffic,
    accepted,
    asked,
    at_once,
    behind_other_handshakes,
    behind_others_at_the_gate,
    behind_others_in_the_pool,
    finished_once,
    frozen,
    generated,
    has_read,
    in_its_stream,
    relayed,
    requests,
    resubscribed,
    sends,
    stopped,
    stopped_with_a_last_answer,
    stopped_with_a_request,
    streaming,
    unreachable,
)

CHEAP = b"GET /health HTTP/1.1\r\nhost: mesh\r\n\r\n"
ASKED_PATH = b"/v1/completions"
ASKED_MESSAGE = client_frame(TEXT, completion_body("asked", 3, stream=True))
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: mesh\r\ncontent-length: 400\r\n"
NO_BYSTANDER = MeshPlan(bystander=None)
ONE_SLOT = MeshPlan(gpus=[GpuPlan(engines=[EmulatorConfig(models=(MODEL,), profile="tiny", slots=1)])], bystander=None)
ONE_CONNECTION = MeshPlan(router={"upstream.connections_max": "1", "upstream.pool_idle_max": "1"}, bystander=None)
ROOMY = EmulatorConfig(models=(MODEL,), profile="tiny", slots=64)
RELAYED = MeshPlan(gpus=[GpuPlan(engines=[ROOMY], relayed=True)], bystander=None)
# A stream of messages gives trio its turn at every sixteenth.
BEATING = replace(RELAYED, settings={"membership.heartbeat_s": "0.05"})

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
            *SHAKING_HANDS_ON_ACCEPT_TASK,
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
    *(
        Row(name=name, at=at, traffic=resubscribed, plan=BEATING, ways=(CUT, CANCEL, KILL))
        for name, at in (
            (
                "answering a subscriber",
                (*SUBSCRIBER, SUBSCRIBER_SENT),
            ),
            (
                "answered a subscriber",
                (*SUBSCRIBER, SUBSCRIBER_ANSWERED),
            ),
            ("hearing a subscriber", (SUBSCRIBER_ACKS,)),
        )
    ),
    Row(
        name="before a request on a WebSocket",
        at=WEBSOCKET_WAITING,
        traffic=sends(upgrade_request(ASKED_PATH)),
        ways=(LEAVE, CANCEL, KILL, STOP),
    ),
    Row(
        name="shaking hands for a request on a WebSocket",
        at=(*WEBSOCKET_OPENING, ACQUIRE, SHAKING_HANDS, HANDSHAKE, PARK),
        traffic=relayed(RelayMode.SILENT, upgrade_request(ASKED_PATH) + ASKED_MESSAGE),
        plan=RELAYED,
    ),
    Row(
        name="in a stream on a WebSocket",
        at=WEBSOCKET_WAITING,
        traffic=frozen(upgrade_request(ASKED_PATH) + ASKED_MESSAGE),
        when=asked,
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
        for pattern in ("planes/data/*.py", "net/http1/*.py", "net/websocket/*.py")
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
            scope_of(task).cancel()
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


def scope_of(task: trio.lowlevel.Task) -> trio.CancelScope:
    """Of the connection that it serves, or a stream of it, or a part of one."""
    above: trio.lowlevel.Task | None = task
    while above is not None:
        for frame, _ in above.iter_await_frames():
            for name in ("connection", "self"):
                found = frame.f_locals.get(name)
                if isinstance(found, ServerConnection | Http2ServerConnection):
                    return found.scope
        above = above.parent_nursery.parent_task if above.parent_nursery is not None else None
    raise AssertionError(f"{task.name} serves no connection")


def connection_of(task: trio.lowlevel.Task) -> ServerConnection:
    for frame, _ in task.iter_await_frames():
        connection = frame.f_locals.get("connection")
        if isinstance(connection, ServerConnection):
            return connection
    raise AssertionError(f"{task.name} serves no connection")


def serves(cast: Cast, task: trio.lowlevel.Task) -> bool:
    connection = connection_of(task)
    successor = connection.successor
    closed = successor.closed if isinstance(successor, WebSocketConnection) else connection.closed
    return not closed and connection.sock.getpeername() == cast.stream.socket.getsockname()


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


async def test_a_connection_that_comes_free_for_a_request_that_has_just_gone_is_given_back(trust: TrustDomain) -> None:
    """Its task is woken with the connection and cancelled in the same turn, before it can run."""
    site = SITES.named("net/pool.py: UpstreamPool.acquire: await self._freed.park()")
    async with running_mesh(ONE_CONNECTION, trust=trust) as mesh:
        cast = Cast(mesh, await trio.open_tcp_stream(*mesh.router.client_address))
        with trio.fail_after(10):
            await behind_others_in_the_pool(cast)
            await wait_until(lambda: SITES.tasks_at(site), "it waits for the connection")
            [waiting] = SITES.tasks_at(site)
            connection = connection_of(waiting)
            aborting = AbortWhenIdle(mesh, connection)
            trio.lowlevel.add_instrument(aborting)
            mesh.engine.faults.frozen = False
            await aborting.done.wait()
            trio.lowlevel.remove_instrument(aborting)
        for stream in (cast.stream, *cast.others):
            await trio.aclose_forcefully(stream)
        await assert_back_to_the_start(mesh, [], serves_after=True)


class AbortWhenIdle(trio.abc.Instrument):
    """Aborts a client's connection in the step in which the pool towards gpu-a has an idle one again."""

    def __init__(self, mesh: Mesh, connection: ServerConnection) -> None:
        self._mesh = mesh
        self._connection = connection
        self.done = trio.Event()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self.done.is_set() and self._mesh.router.node.holdings().upstream["gpu-a"] == (0, 1):
            self._connection.abort()
            self.done.set()
