"""One request's run against scripted runtimes over real sockets: what the client sees and what is left behind."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from infermesh.core.model.names import NodeId
from infermesh.core.model.outcome import Verdict
from infermesh.net.connection import ConnectionLost
from infermesh.net.http1 import Request, ServerConnection, ServerLimits, UpstreamConnection
from infermesh.net.pool import PoolLimits, UpstreamPool
from infermesh.net.timers import Timers
from infermesh.planes.data.heads import upstream_request
from infermesh.planes.data.http1_writer import HTTP1
from infermesh.planes.data.run import Attempt, Run
from infermesh.planes.data.upstream import Upstream
from infermesh.testing.http_peer import HttpPeer, PeerAnswer, PeerRequest, PeerResponse, serve_http_peer
from infermesh.testing.reactors import RunningReactor, running_reactor
from wire.http1 import ResponseHead

SSE = (b"content-type", b"text/event-stream")
CHUNKED = (b"transfer-encoding", b"chunked")


@dataclass
class Limits:
    head_timeout_s: float = 30.0
    stall_timeout_s: float = 30.0


@dataclass
class Destination:
    node: NodeId
    pool: UpstreamPool


@dataclass
class Host:
    """Allows what it is told to, and writes down what it is told."""

    timers: Timers
    hedging: bool = True
    retrying: bool = True
    ended: list[tuple[str, str]] = field(default_factory=list)
    stale: int = 0
    dispatched: int = 0
    on_end: Callable[[Run], None] | None = None

    def send(self, run: Run, attempt: Attempt, up: Upstream) -> None:
        request = run.context
        assert isinstance(request, Request)
        assert isinstance(up, UpstreamConnection)
        up.send(upstream_request(request.head, request.body, []), b"POST", attempt)

    def response_lines(self, run: Run, attempt: Attempt, head: ResponseHead) -> list[bytes]:
        return [b"x-infermesh-node: " + attempt.destination.node.encode()]

    def may_hedge(self, run: Run) -> bool:
        return self.hedging

    def may_retry(self, run: Run) -> bool:
        return self.retrying

    def on_dispatch(self, run: Run, attempt: Attempt) -> None:
        self.dispatched += 1

    def on_first_byte(self, run: Run, attempt: Attempt, head: ResponseHead) -> None: ...

    def on_attempt_end(self, run: Run, attempt: Attempt) -> None:
        assert attempt.verdict is not None
        self.ended.append((attempt.destination.node, attempt.verdict.value))

    def on_stale(self, run: Run, attempt: Attempt) -> None:
        self.stale += 1

    def on_run_end(self, run: Run) -> None:
        assert self.on_end is not None
        self.on_end(run)


class Forwarding:
    """The connection's work: a client that leaves cancels the run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def on_connection_lost(self) -> None:
        self._run.cancel()


@dataclass
class Bench:
    """A client, a serving connection that runs each request over the peers in order, and the books."""

    client: trio.SocketStream
    host: Host
    peers: list[HttpPeer]
    pools: list[UpstreamPool]
    running: RunningReactor
    hedge_after_s: float = math.inf
    first_byte_s: float = math.inf  # The client's deadline.
    connections: list[ServerConnection] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    idle: trio.Event = field(default_factory=trio.Event)

    def run(self, connection: ServerConnection, request: Request) -> None:
        run = Run(
            self.host,
            connection,
            [Destination(NodeId(f"gpu-{number}"), pool) for number, pool in enumerate(self.pools)],
            writer=HTTP1,
            hedge_after_s=self.hedge_after_s,
            first_byte_by=trio.current_time() + min(self.limits.head_timeout_s, self.first_byte_s),
            limits=self.limits,
            context=request,
        )
        self.runs.append(run)
        connection.work = Forwarding(run)
        run.start()

    def conclude(self, run: Run) -> None:
        if not run.cancelled and run.winner is None:
            run.asker.respond(502, [], run.failure.encode())
        elif not run.cancelled:
            run.asker.finish()
        self.idle.set()

    async def ask(self, body: bytes = b"{}", version: bytes = b"1.1") -> None:
        self.idle = trio.Event()
        head = b"POST /v1/completions HTTP/%b\r\nhost: mesh\r\ncontent-length: %d\r\n\r\n"
        await self.client.send_all(head % (version, len(body)) + body)

    async def answer(self) -> bytes:
        """Everything until the run has ended and its connection is idle, or closed."""
        data = b""
        with trio.fail_after(10):
            while True:
                ended = self.idle.is_set() and data
                with trio.move_on_after(0.05) as quiet:
                    piece = await self.client.receive_some()
                    if not piece:
                        return data
                    data += piece
                if ended and quiet.cancelled_caught:
                    return data


@asynccontextmanager
async def bench(answers: Sequence[PeerAnswer | None], **changes: float) -> AsyncIterator[Bench]:
    """A peer per answer; None is an address where nobody listens."""
    async with running_reactor() as running, trio.open_nursery() as nursery:
        peers: list[HttpPeer] = []
        pools: list[UpstreamPool] = []
        for answer in answers:
            if answer is None:
                address = ("127.0.0.1", 1)
            else:
                peer: HttpPeer = await nursery.start(serve_http_peer, answer)
                peers.append(peer)
                address = (peer.host, peer.port)
            pools.append(UpstreamPool(address, running.reactor, running.timers, limits=PoolLimits()))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        held = Bench(client, Host(running.timers), peers, pools, running, **changes)  # type: ignore[arg-type]
        held.host.on_end = held.conclude
        connection = ServerConnection(
            ours, running.reactor, running.timers, ServerLimits(), answer=held.run, refuse=lambda _: b""
        )
        held.connections.append(connection)
        nursery.start_soon(_serve, held, connection)
        yield held
        await client.aclose()
        with trio.fail_after(5):
            while not connection.closed:
                await trio.lowlevel.checkpoint()
        assert len(held.host.ended) == held.host.dispatched
        assert all(run.ended for run in held.runs)
        for pool in pools:
            assert pool.open_len == pool.idle_len, "a connection was neither given back nor closed"
            pool.close()
        nursery.cancel_scope.cancel()


async def _serve(held: Bench, connection: ServerConnection) -> None:
    try:
        with connection.scope:
            await connection.serve()
    except ConnectionLost:
        pass
    finally:
        connection.abort()
        held.idle.set()


def says(text: bytes, status: int = 200) -> PeerAnswer:
    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        await response.send(text, status=status)

    return answer


async def never(request: PeerRequest, response: PeerResponse) -> None:
    await response.wait_gone()


async def refuse_to_answer(request: PeerRequest, response: PeerResponse) -> None:
    await response.abort()


async def test_a_response_with_a_length_passes_and_the_connection_is_kept_on_both_sides() -> None:
    async with bench([says(b"hello")]) as held:
        for _ in range(3):
            await held.ask()
            answer = await held.answer()
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"x-infermesh-node: gpu-0\r\n" in answer
            assert answer.endswith(b"\r\n\r\nhello")
        assert held.peers[0].connections == 1
        assert held.host.ended == [("gpu-0", "ok")] * 3


async def test_a_stream_arrives_event_by_event_before_its_end() -> None:
    go_on = trio.Event()

    async def stream(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await response.write(b"data: 1\n\n")
        await go_on.wait()
        await response.write(b"data: [DONE]\n\n")
        await response.finish()

    async with bench([stream]) as held:
        await held.ask()
        with trio.fail_after(5):
            first = await held.client.receive_some()
            if not first.endswith(b"data: 1\n\n\r\n"):
                first += await held.client.receive_some()
        assert first.endswith(b"data: 1\n\n\r\n")
        go_on.set()
        assert (await held.answer()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_the_head_of_a_stream_is_kept_until_its_first_event_and_goes_out_with_it() -> None:
    go_on = trio.Event()

    async def stream(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await go_on.wait()
        await response.write(b"data: 1\n\n")
        await response.finish()

    async with bench([stream]) as held:
        await held.ask()
        with trio.move_on_after(0.2) as waited:
            await held.client.receive_some()
        assert waited.cancelled_caught
        go_on.set()
        first = await held.client.receive_some()
        assert first.startswith(b"HTTP/1.1 200")
        assert b"data: 1" in first


@pytest.mark.parametrize("first", [None, refuse_to_answer, says(b"broken", 503)])
async def test_a_target_that_fails_before_its_first_byte_is_replaced_by_the_next(first: PeerAnswer | None) -> None:
    async with bench([first, says(b"second")]) as held:
        await held.ask()
        answer = await held.answer()
        assert b"x-infermesh-node: gpu-1\r\n" in answer
        assert answer.endswith(b"second")
        assert held.host.ended[1] == ("gpu-1", "ok")


async def test_without_a_retry_budget_the_first_failure_is_the_answer() -> None:
    async with bench([says(b"broken", 503), says(b"second")]) as held:
        held.host.retrying = False
        await held.ask()
        answer = await held.answer()
        assert answer.startswith(b"HTTP/1.1 503")
        assert answer.endswith(b"broken")


async def test_a_clients_own_error_is_passed_on_and_not_tried_again() -> None:
    async with bench([says(b"no such thing", 400), says(b"second")]) as held:
        await held.ask()
        assert (await held.answer()).startswith(b"HTTP/1.1 400")
        assert held.host.ended == [("gpu-0", "client_error")]


async def test_when_every_target_fails_the_last_reason_is_told() -> None:
    async with bench([None, refuse_to_answer]) as held:
        await held.ask()
        answer = await held.answer()
        assert answer.startswith(b"HTTP/1.1 502")
        assert b"gpu-1: closed by the peer" in answer


async def test_a_slow_target_is_hedged_and_the_loser_is_cancelled_down_to_its_runtime() -> None:
    async with bench([never, says(b"quick")], hedge_after_s=0.05) as held:
        await held.ask()
        assert (await held.answer()).endswith(b"quick")
        with trio.fail_after(1):
            await held.peers[0].wait_nobody()
        assert sorted(held.host.ended) == [("gpu-0", "cancelled"), ("gpu-1", "ok")]


async def test_a_denied_hedge_leaves_the_first_attempt_alone() -> None:
    release = trio.Event()

    async def slow(request: PeerRequest, response: PeerResponse) -> None:
        await release.wait()
        await response.send(b"slow")

    async with bench([slow, says(b"quick")], hedge_after_s=0.05) as held:
        held.host.hedging = False
        await held.ask()
        await trio.sleep(0.15)
        assert held.peers[1].requests == []
        release.set()
        assert (await held.answer()).endswith(b"slow")


async def test_a_first_answer_during_the_hedges_connecting_wins_and_stops_the_connecting() -> None:
    """The backup's address takes the connection and never shakes hands: the wait for it must not delay anybody."""
    release = trio.Event()

    async def slow(request: PeerRequest, response: PeerResponse) -> None:
        await release.wait()
        await response.send(b"slow")

    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:  # The accept queue is full now: a further connection stays in SYN_SENT.
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    async with bench([slow, None], hedge_after_s=0.05) as held:
        held.pools[1] = UpstreamPool(
            full.getsockname(), held.running.reactor, held.running.timers, limits=PoolLimits(connect_timeout_s=30)
        )
        await held.ask()
        await trio.sleep(0.2)
        assert held.pools[1].open_len == 1
        release.set()
        with trio.fail_after(1):
            assert (await held.answer()).endswith(b"slow")
        assert held.pools[1].open_len == 0
    for sock in [full, *fillers]:
        sock.close()


async def test_a_stale_kept_connection_is_replaced_without_counting_as_a_failure() -> None:
    async def once(request: PeerRequest, response: PeerResponse) -> None:
        if len(held.peers[0].requests) == 2 and request.connection == 1:
            await response.abort()
        else:
            await response.send(b"fine")

    async with bench([once]) as held:
        for _ in range(2):
            await held.ask()
            assert (await held.answer()).endswith(b"fine")
        assert held.host.stale == 1
        assert held.host.ended == [("gpu-0", "ok")] * 2


async def test_a_stream_that_breaks_ends_in_an_error_event_and_without_a_clean_end() -> None:
    async def broken(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await response.write(b"data: 1\n\n")
        await trio.sleep(0.02)
        await response.send_raw(b"20\r\ndata: half of a ch")
        await trio.sleep(0.02)
        await response.abort()

    async with bench([broken, says(b"never asked")]) as held:
        await held.ask()
        answer = await held.answer()
        assert b"data: 1\n\n" in answer
        assert b'"code":"stream_broken"' in answer
        assert not answer.endswith(b"0\r\n\r\n")
        assert held.host.ended == [("gpu-0", "broken")]
        # What a strict client makes of it: whole chunks, then a connection that ended too early.
        body = answer.partition(b"\r\n\r\n")[2]
        from wire.http1 import ChunkedBody

        framing = ChunkedBody()
        assert framing.feed(body) == len(body)
        assert not framing.done
        assert framing.missing_bytes == 0


async def test_a_truncated_length_never_looks_complete() -> None:
    async def short(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
        await trio.sleep(0.02)
        await response.abort()

    async with bench([short]) as held:
        await held.ask()
        answer = await held.answer()
        assert b"content-length: 100\r\n" in answer
        assert answer.endswith(b"only this")
        assert held.host.ended == [("gpu-0", "broken")]


async def test_bytes_beyond_the_end_never_reach_the_client_and_end_the_connection() -> None:
    async def poisoned(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\npoison")
        await response.wait_gone()

    async with bench([poisoned]) as held:
        await held.ask()
        answer = await held.answer()
        assert answer.endswith(b"ok")
        assert held.pools[0].open_len == 0


@pytest.mark.parametrize(
    "head",
    [
        b"complete garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
    ],
)
async def test_garbage_from_a_runtime_is_a_bad_gateway_and_the_next_target_is_tried(head: bytes) -> None:
    async def garbage(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(head)
        await response.wait_gone()

    async with bench([garbage, says(b"fine")]) as held:
        await held.ask()
        assert (await held.answer()).endswith(b"fine")
        assert held.host.ended[0] == ("gpu-0", "broken")


async def test_no_first_byte_in_time_is_a_time_out() -> None:
    async with bench([never]) as held:
        held.limits.head_timeout_s = 0.1
        await held.ask()
        assert (await held.answer()).startswith(b"HTTP/1.1 502")
        assert held.host.ended == [("gpu-0", Verdict.TIMED_OUT.value)]


async def test_a_stream_that_stalls_is_broken_off() -> None:
    async def stalling(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await response.write(b"data: 1\n\n")
        await response.wait_gone()

    async with bench([stalling]) as held:
        held.limits.stall_timeout_s = 0.1
        await held.ask()
        answer = await held.answer()
        assert b"stall_timeout_s" in answer
        with trio.fail_after(1):
            await held.peers[0].wait_nobody()


async def test_a_body_that_ends_with_the_connection_becomes_chunks() -> None:
    async def until_close(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await response.abort()

    async with bench([until_close]) as held:
        await held.ask()
        answer = await held.answer()
        assert b"transfer-encoding: chunked\r\n" in answer
        assert answer.endswith(b"5\r\nhello\r\n0\r\n\r\n")


async def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    async def stream(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await response.write(b"data: 1\n\n")
        await response.finish()

    async with bench([stream]) as held:
        await held.ask(version=b"1.0")
        answer = await held.answer()
        assert b"chunked" not in answer
        assert answer.endswith(b"\r\n\r\ndata: 1\n\n")


async def test_early_hints_pass_before_the_answer() -> None:
    async def hinting(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        )

    async with bench([hinting]) as held:
        await held.ask()
        answer = await held.answer()
        assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("when", ["connecting", "waiting", "holding", "streaming", "hedged"])
async def test_a_client_that_leaves_cancels_everything_behind_it(when: str) -> None:
    async def upstream(request: PeerRequest, response: PeerResponse) -> None:
        if when in ("holding", "streaming"):
            await response.start(200, [SSE, CHUNKED])
        if when == "streaming":
            await response.write(b"data: 1\n\n")
        await response.wait_gone()

    answers = [upstream, never] if when == "hedged" else [upstream]
    async with bench(answers, hedge_after_s=0.02 if when == "hedged" else math.inf) as held:
        await held.ask()
        if when == "streaming":
            await held.client.receive_some()
        elif when != "connecting":
            with trio.fail_after(5):
                while not all(peer.requests for peer in held.peers):
                    await trio.sleep(0.01)
        await held.client.aclose()
        with trio.fail_after(1):
            for peer in held.peers:
                await peer.wait_nobody()
        await held.idle.wait()
        verdicts = {verdict for _, verdict in held.host.ended}
        assert verdicts <= {"cancelled"}
        assert len(held.host.ended) == held.host.dispatched


async def test_a_defect_at_the_end_of_an_answer_ends_its_request_and_frees_what_it_held() -> None:
    async with bench([says(b"fine")]) as held:

        def broken(run: Run, attempt: Attempt) -> None:
            held.host.on_attempt_end = kept  # type: ignore[method-assign]
            raise ZeroDivisionError("a defect")

        kept = held.host.on_attempt_end
        held.host.on_attempt_end = broken  # type: ignore[method-assign]
        held.host.dispatched -= 1  # Its end is the one that the defect swallows.
        await held.ask()
        with trio.fail_after(5):
            await held.idle.wait()
        assert [type(error) for error in held.running.crashes] == [ZeroDivisionError]
        held.running.crashes.clear()
        assert held.runs[0].ended
