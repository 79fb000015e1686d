"""Answers of runtimes over HTTP/1.1 to clients over HTTP/2: what passes, what is dropped, and how it breaks off."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import h2.errors
import pytest
import trio
import trio.testing

from infermesh.core.model.names import NodeId
from infermesh.net.asker import Request
from infermesh.net.http1 import UpstreamConnection
from infermesh.net.http2 import Http2ServerStream
from infermesh.net.pool import PoolLimits, UpstreamPool
from infermesh.net.timers import Timers
from infermesh.planes.data.heads import upstream_request
from infermesh.planes.data.http2_writer import HTTP2, HTTP2_HOP, Http2Writer
from infermesh.planes.data.run import Attempt, Run
from infermesh.planes.data.upstream import Upstream
from infermesh.testing.h2_peer import H2Client
from infermesh.testing.http_peer import HttpPeer, PeerAnswer, PeerRequest, PeerResponse, serve_http_peer
from infermesh.testing.waiting import wait_until
from tests.net.http2.serving import Served, serving
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
    timers: Timers
    verdicts: list[str] = field(default_factory=list)
    ends: int = 0

    def send(self, run: Run, attempt: Attempt, up: Upstream) -> None:
        request = run.context
        assert isinstance(request, Request)
        assert isinstance(up, UpstreamConnection)
        up.send(upstream_request(request.head, request.body, []), request.head.method, attempt)

    def response_lines(self, run: Run, attempt: Attempt, head: ResponseHead) -> list[bytes]:
        return [b"x-infermesh-node: " + attempt.destination.node.encode()]

    def may_hedge(self, run: Run) -> bool:
        return False

    def may_retry(self, run: Run) -> bool:
        return False

    def on_dispatch(self, run: Run, attempt: Attempt) -> None: ...
    def on_first_byte(self, run: Run, attempt: Attempt, head: ResponseHead) -> None: ...
    def on_attempt_end(self, run: Run, attempt: Attempt) -> None:
        assert attempt.verdict is not None
        self.verdicts.append(attempt.verdict.value)

    def on_stale(self, run: Run, attempt: Attempt) -> None: ...
    def on_run_end(self, run: Run) -> None:
        self.ends += 1
        run.asker.work = None
        if run.winner is None and not run.cancelled:
            run.asker.respond(502, [], run.failure.encode())
        elif not run.cancelled:
            run.asker.finish()


@dataclass
class Bench:
    served: Served
    client: H2Client
    host: Host
    peer: HttpPeer


@asynccontextmanager
async def bench(answer: PeerAnswer, writer: Http2Writer = HTTP2) -> AsyncIterator[Bench]:
    """One call after the other, each through a run to a scripted runtime."""
    async with serving() as served, trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(partial(serve_http_peer, answer))
        running = served.running
        limits = PoolLimits(connections_max=4, idle_max=4, idle_timeout_s=60, connect_timeout_s=5)
        pool = UpstreamPool((peer.host, peer.port), running.reactor, running.timers, limits=limits)
        host = Host(running.timers)

        def run(stream: Http2ServerStream, request: Request) -> None:
            made = Run(
                host,
                stream,
                [Destination(NodeId("gpu-0"), pool)],
                writer=writer,
                hedge_after_s=math.inf,
                first_byte_by=math.inf,
                limits=Limits(),
                context=request,
            )
            stream.work = Cancels(made)
            made.start()

        served.answer_with = run
        async with await H2Client.dial(served.address) as client:
            yield Bench(served, client, host, peer)
        pool.close()
        nursery.cancel_scope.cancel()


class Cancels:
    def __init__(self, run: Run) -> None:
        self._run = run

    def on_connection_lost(self) -> None:
        self._run.cancel()


async def test_a_head_passes_but_for_what_is_of_its_hop() -> None:
    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        headers = [
            (b"Content-Type", b"application/json"),
            (b"Connection", b"x-hop"),
            (b"X-Hop", b"1"),
            (b"Keep-Alive", b"timeout=5"),
            (b"X-Own", b"2"),
            (b"x-infermesh-load", b"i=1"),
            (b"x-infermesh-node", b"liar"),
        ]
        await response.send(b"{}", headers=headers)

    async with bench(answer) as hop:
        got = await hop.client.fetch("POST", "/", b"{}")
    assert got.headers == {
        ":status": "200",
        "content-type": "application/json",
        "x-own": "2",
        "x-infermesh-node": "gpu-0",
        "content-length": "2",
    }
    assert bytes(got.body) == b"{}"
    assert got.ended


@pytest.mark.parametrize("kind", ["length", "chunked", "until close", "none"])
async def test_a_body_ends_with_its_stream_however_it_was_framed(kind: str) -> None:
    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        match kind:
            case "length":
                await response.send(b"whole")
            case "chunked":
                await response.start(200, [CHUNKED])
                for piece in (b"who", b"le"):
                    await response.write(piece)
                await response.finish()
            case "until close":
                await response.send_raw(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nwhole")
                await response.abort()
            case _:
                await response.send_raw(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with bench(answer) as hop:
        got = await hop.client.fetch("POST", "/", b"{}")
        assert got.ended
        assert got.reset is None
        assert "transfer-encoding" not in got.headers
        assert bytes(got.body) == (b"" if kind == "none" else b"whole")
        assert hop.host.verdicts == ["ok"]


async def test_a_head_request_has_a_length_and_no_body() -> None:
    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")

    async with bench(answer) as hop:
        got = await hop.client.fetch("HEAD", "/")
    assert got.ended
    assert bytes(got.body) == b""


async def test_interim_answers_pass() -> None:
    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\nx-infermesh-load: i=1\r\n\r\n")
        await response.send(b"ok")

    async with bench(answer) as hop:
        got = await hop.client.fetch("POST", "/", b"{}")
    assert got.interim == [{":status": "103", "link": "</x>"}]
    assert got.status == 200


@pytest.mark.parametrize("last_words", [True, False])
async def test_a_stream_that_breaks_off_ends_with_an_error_event_and_a_reset(*, last_words: bool) -> None:
    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await response.write(b"data: one\n\n")
        await response.abort()

    async with bench(answer, HTTP2 if last_words else HTTP2_HOP) as hop:
        got = await hop.client.fetch("POST", "/", b"{}")
        assert got.reset == h2.errors.ErrorCodes.INTERNAL_ERROR
        assert not got.ended
        body = bytes(got.body)
        assert body.startswith(b"data: one\n\n")
        rest = body.removeprefix(b"data: one\n\n").strip()
        assert bool(rest) is last_words
        if last_words:
            assert json.loads(rest.removeprefix(b"data: "))["error"]["code"] == "stream_broken"
        await wait_until(lambda: hop.host.ends == 1, "its run has ended")
        assert hop.host.verdicts == ["broken"]


async def test_a_body_that_breaks_off_and_is_no_stream_of_events_ends_with_a_reset_alone() -> None:
    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await response.abort()

    async with bench(answer) as hop:
        got = await hop.client.fetch("POST", "/", b"{}")
    assert got.reset == h2.errors.ErrorCodes.INTERNAL_ERROR
    assert bytes(got.body) == b"half"


async def test_a_client_that_reads_slowly_stops_the_runtime() -> None:
    written = 0

    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        nonlocal written
        await response.start(200, [CHUNKED])
        for _ in range(400):
            await response.write(bytes(65_536))
            written += 65_536
        await response.finish()

    async with bench(answer) as hop:
        client = hop.client
        client.credits = False
        stream_id = await client.ask("POST", "/", b"{}")
        await client.read_until(lambda: len(client.of(stream_id).body) >= 65_535)
        [connection] = hop.served.connections
        await wait_until(lambda: connection.unsent_len > 65_536, "the hop keeps what may wait")
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert connection.unsent_len < 4 * 65_536
        assert written < 400 * 65_536
        await client.reset(stream_id)
        await wait_until(lambda: hop.host.ends == 1, "its run has ended")
        assert hop.host.verdicts == ["cancelled"]


async def test_a_client_can_read_the_error_event_before_its_stream_is_reset() -> None:
    """Many clients, curl for one, throw away what they have not given to anybody when the reset comes."""

    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await response.write(b"data: one\n\n")
        await response.abort()

    async with bench(answer) as hop:
        client = hop.client
        got = client.of(await client.ask("POST", "/", b"{}"))
        await client.read_until(lambda: b"stream_broken" in got.body)
        resets = [got.reset]
        await client.read_until(lambda: got.reset is not None)
        assert [*resets, got.reset] == [None, h2.errors.ErrorCodes.INTERNAL_ERROR]
        await wait_until(lambda: not hop.served.connections[0].machine.streams_open, "nothing is left of it")


async def test_a_client_that_reads_late_gets_the_error_event_behind_what_came_before() -> None:
    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await response.write(b"data: %b\n\n" % bytes(50_000))
        await response.write(b"data: %b\n\n" % bytes(30_000))
        await response.abort()

    async with bench(answer) as hop:
        client = hop.client
        client.credits = False
        got = client.of(await client.ask("POST", "/", b"{}"))
        await client.read_until(lambda: len(got.body) == 65_535)
        await wait_until(lambda: hop.host.ends == 1, "its run has ended")
        assert got.reset is None
        for target in (got.stream_id, None):
            client.machine.increment_flow_control_window(1 << 20, target)
        await client.flush()
        await client.read_until(lambda: got.reset is not None)
        assert b"stream_broken" in got.body[-300:]
