"""Ways to bring a request to a certain moment of its life and leave it there, and how to tell that it is there."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from infermesh.net.http1 import ServerConnection
from infermesh.net.pool import HANDSHAKES_MAX
from infermesh.testing.completions import completion_request, embedding_request
from infermesh.testing.mesh import Mesh
from infermesh.testing.mesh_plan import MODEL
from infermesh.testing.tcp_relay import RelayMode
from infermesh.testing.waiting import wait_until
from tests.conversations.cancellation_sites import SHAKING_HANDS, SITES


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


def frozen(request: bytes = b"", *, stream: bool = False) -> Traffic:
    """Ask an engine that does not come to an end; by `request`, if given."""

    async def traffic(cast: Cast) -> None:
        cast.mesh.engine.faults.frozen = True
        await cast.stream.send_all(request or completion_request("asked", 3, stream=stream))

    return traffic


def relayed(mode: RelayMode, request: bytes = b"") -> Traffic:
    async def traffic(cast: Cast) -> None:
        cast.mesh.relays[0].mode = mode
        await cast.stream.send_all(request or completion_request("asked", 3))

    return traffic


async def in_its_stream(cast: Cast) -> None:
    await cast.stream.send_all(completion_request("asked", 100, stream=True))
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
    await wait_until(lambda: not router.holdings().accepted["client"], "the wide one is gone")
    narrow = trio.socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await narrow.connect(cast.mesh.router.client_address)
    cast.stream = trio.SocketStream(narrow)
    await wait_until(lambda: any(isinstance(each, ServerConnection) for each in router._reactor.served()), "accepted")
    [connection] = [each for each in router._reactor.served() if isinstance(each, ServerConnection)]
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
