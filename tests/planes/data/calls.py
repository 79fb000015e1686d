"""gRPC calls through one hop in this process: an h2 client, a serving connection, runs over pools, scripted runtimes.

What the hop adds is a test's to say; what it must give back is checked at the end of each: every byte that came is
credited once, on both sides, and no stream or timer is left.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from infermesh.core.model.names import NodeId
from infermesh.net.asker import Request
from infermesh.net.http2 import Http2ServerStream, StreamReader
from infermesh.net.http2.endpoint import Http2Endpoint
from infermesh.net.http2.pool import Http2Pool
from infermesh.net.pool import PoolLimits
from infermesh.net.timers import Timers
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.grpc_request import GrpcRequest
from infermesh.planes.data.grpc_writer import GRPC
from infermesh.planes.data.run import Attempt, Run
from infermesh.planes.data.upstream import Upstream
from infermesh.testing.h2_peer import H2Client, H2Peer, H2Server, PeerStream
from infermesh.testing.waiting import wait_until
from tests.net.http2.serving import Served, serving
from wire.http1 import ResponseHead

HEADERS: Final = [("content-type", "application/grpc"), ("te", "trailers")]
OK_HEAD: Final = [(":status", "200"), ("content-type", "application/grpc")]
OK_END: Final = [("grpc-status", "0")]
PATH: Final = "/test.Service/Do"
Script = Callable[[H2Peer], Awaitable[None]]


def message(payload: bytes) -> bytes:
    return b"\x00" + len(payload).to_bytes(4, "big") + payload


@dataclass
class Limits:
    head_timeout_s: float = 30.0
    stall_timeout_s: float = 30.0


@dataclass
class Destination:
    node: NodeId
    pool: Http2Pool


@dataclass
class Host:
    """Allows what it is told to, and writes down what it is told."""

    timers: Timers
    hedging: bool = False
    retrying: bool = True
    ended: list[tuple[str, str]] = field(default_factory=list)
    stale: int = 0
    on_end: Callable[[Run], None] = lambda run: None

    def send(self, run: Run, attempt: Attempt, up: Upstream) -> None:
        request, sender = _of(run)
        sender.send(request, [b"x-infermesh-request-id: 1"], attempt, up)

    def response_lines(self, run: Run, attempt: Attempt, head: ResponseHead) -> list[bytes]:
        return [b"x-infermesh-node: " + attempt.destination.node.encode()]

    def may_hedge(self, run: Run) -> bool:
        return self.hedging

    def may_retry(self, run: Run) -> bool:
        return self.retrying and _of(run)[1].repeatable

    def on_dispatch(self, run: Run, attempt: Attempt) -> None: ...
    def on_first_byte(self, run: Run, attempt: Attempt, head: ResponseHead) -> None: ...
    def on_attempt_end(self, run: Run, attempt: Attempt) -> None:
        assert attempt.verdict is not None
        self.ended.append((attempt.destination.node, attempt.verdict.value))

    def on_stale(self, run: Run, attempt: Attempt) -> None:
        self.stale += 1

    def on_run_end(self, run: Run) -> None:
        self.on_end(run)


def _of(run: Run) -> tuple[Request, GrpcRequest]:
    context = run.context
    assert isinstance(context, tuple)
    request, sender = context
    assert isinstance(request, Request)
    assert isinstance(sender, GrpcRequest)
    return request, sender


class _Work:
    def __init__(self, run: Run) -> None:
        self._run = run

    def on_connection_lost(self) -> None:
        self._run.cancel()


@dataclass
class Hop:
    """The node between client and runtimes."""

    served: Served
    client: H2Client
    host: Host
    pools: list[Http2Pool]
    limits: Limits
    bytes_max: int = 1 << 20
    timeout_s: float = math.inf
    hedge_after_s: float = math.inf
    requests: list[GrpcRequest] = field(default_factory=list)
    ends: int = 0

    def open(self, stream: Http2ServerStream) -> StreamReader:
        now = self.host.timers.now()
        request = GrpcRequest(
            stream,
            self.host.timers,
            bytes_max=self.bytes_max,
            deadline=now + self.timeout_s,
            on_more=lambda: None,
            on_end=self._on_end,
        )
        run = Run(
            self.host,
            stream,
            [Destination(NodeId(f"gpu-{number}"), pool) for number, pool in enumerate(self.pools)],
            writer=GRPC,
            hedge_after_s=self.hedge_after_s,
            first_byte_by=now + min(self.limits.head_timeout_s, self.timeout_s),
            limits=self.limits,
            context=(Request(stream.head, b"", now), request),
            sender=request,
            client_deadline=now + self.timeout_s,
        )
        stream.work = _Work(run)
        request.attach(lambda: None if run.ended else run)
        self.requests.append(request)
        run.start()
        return request

    def conclude(self, run: Run) -> None:
        sender = _of(run)[1]
        stream = run.asker
        assert isinstance(stream, Http2ServerStream)
        sender.release()
        if run.cancelled:
            return
        stream.work = None
        if run.winner is None:
            status = 504 if run.timed_out else 502
            GRPC.refuse(stream, RequestRefused(status, "no_answer", run.failure), b"POST")
        else:
            stream.finish()

    def _on_end(self) -> None:
        self.ends += 1

    async def call(self, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> PeerStream:
        return await self.client.fetch("POST", PATH, body, headers=[*HEADERS, *headers])

    async def ask(self, body: bytes = b"", *, end: bool = False) -> int:
        return await self.client.ask("POST", PATH, body, headers=HEADERS, end=end)

    async def settle(self) -> None:
        """Wait until all calls have ended; then all accounts must be settled."""
        await wait_until(lambda: self.ends == len(self.requests), f"{len(self.requests)} calls have ended")
        assert all(each.limits.bodies.held_bytes == 0 for each in self.served.connections)
        for endpoint in self.endpoints():
            if not endpoint.closed:
                windows = endpoint.machine._session.windows
                missing = endpoint.machine._session.config.connection_window_bytes - (
                    windows.receive_window + windows.uncredited
                )
                assert missing == 0, f"{missing} bytes of {endpoint} were never given back, or given back twice"

    def endpoints(self) -> list[Http2Endpoint]:
        return [*self.served.connections, *(connection for pool in self.pools for connection in pool._all)]


@asynccontextmanager
async def hop(*scripts: Script, settings: dict[int, int] | None = None) -> AsyncIterator[Hop]:
    """`scripts`: the runtimes, best first. `settings`: theirs."""
    failure: Exception | None = None
    async with serving() as served, trio.open_nursery() as nursery:
        servers = [H2Server(script, settings=settings) for script in scripts]
        for server in servers:
            nursery.start_soon(server.run)
        running = served.running
        limits = PoolLimits(connections_max=4, idle_max=4, idle_timeout_s=60, connect_timeout_s=5)
        pools = [Http2Pool(server.address, running.reactor, running.timers, limits=limits) for server in servers]
        host = Host(running.timers)
        async with await H2Client.dial(served.address) as client:
            between = Hop(served, client, host, pools, Limits())
            host.on_end = between.conclude
            served.open_with = between.open
            try:
                yield between
                await between.settle()
            except Exception as error:  # noqa: BLE001 - carried out of the nurseries, and raised again there.
                failure = error
        for pool in pools:
            pool.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def request_on(peer: H2Peer, stream_id: int = 1, size: int | None = None) -> PeerStream:
    """A runtime reads a call: whole, or until `size` bytes of it have come."""
    stream = peer.of(stream_id)
    await peer.read_until(lambda: stream.ended if size is None else len(stream.body) >= size)
    return stream


async def answer_ok(peer: H2Peer, stream_id: int, payload: bytes = b"fine") -> None:
    await peer.send_headers(stream_id, OK_HEAD)
    await peer.send_data(stream_id, message(payload))
    await peer.send_headers(stream_id, OK_END, end=True)


async def stay(peer: H2Peer) -> None:
    """Until the hop closes the connection."""
    await peer.read_until(lambda: False)
