"""A pool towards a server of these tests, and a sink that keeps what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from infermesh.net.connection import ConnectionLost
from infermesh.net.http2 import Http2Pool, Http2UpstreamStream
from infermesh.net.http2.client import CLIENT_CONFIG
from infermesh.net.http2.endpoint import EndpointTimes
from infermesh.net.pool import PoolLimits
from infermesh.testing.h2_peer import H2Peer, H2Server
from infermesh.testing.reactors import RunningReactor, running_reactor
from wire.http1 import Field, ResponseHead
from wire.http2.config import Http2Config


def get(path: bytes = b"/", *more: Field) -> list[Field]:
    return [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"test"), (b":path", path), *more]


def post(path: bytes = b"/", *more: Field) -> list[Field]:
    return [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"test"), (b":path", path), *more]


class Sink:
    """Reads every body to the end and keeps what it is told."""

    def __init__(self) -> None:
        self.interim: list[int] = []
        self.heads: list[ResponseHead] = []
        self.body = bytearray()
        self.doubts: list[str] = []
        self.failures: list[str] = []
        self.ends = 0
        self.ended = trio.Event()
        self.hold = False

    def on_interim(self, up: Http2UpstreamStream, head: ResponseHead) -> None:
        self.interim.append(head.status)

    def on_head(self, up: Http2UpstreamStream, head: ResponseHead) -> None:
        self.heads.append(head)
        if self.hold:
            up.hold()
        else:
            up.read_body()

    def on_first_bytes(self, up: Http2UpstreamStream) -> None:
        assert self.hold
        up.read_body()

    def on_body(self, up: Http2UpstreamStream, payload: bytes) -> None:
        self.body += payload

    def on_doubt(self, up: Http2UpstreamStream, why: str) -> None:
        self.doubts.append(why)

    def on_end(self, up: Http2UpstreamStream) -> None:
        self.ends += 1
        self.ended.set()

    def on_failed(self, up: Http2UpstreamStream, error: ConnectionLost) -> None:
        self.failures.append(str(error))
        self.ended.set()


@dataclass
class Asking:
    running: RunningReactor
    pool: Http2Pool
    server: H2Server

    async def stream(self, *, fresh: bool = False) -> Http2UpstreamStream:
        up = None if fresh else self.pool.take_idle()
        return up or await self.pool.acquire(trio.current_time() + 5, fresh=fresh)

    async def fetch(self, fields: list[Field], body: bytes = b"", sink: Sink | None = None) -> Sink:
        sink = sink or Sink()
        (await self.stream()).open(fields, sink, data=body)
        await sink.ended.wait()
        return sink

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(5):
            while not holds():
                await trio.sleep(0.001)


@asynccontextmanager
async def asking(
    script: Callable[[H2Peer], Awaitable[None]],
    *,
    settings: dict[int, int] | None = None,
    limits: PoolLimits | None = None,
    config: Http2Config = CLIENT_CONFIG,
    times: EndpointTimes | None = None,
) -> AsyncIterator[Asking]:
    """A pool towards a server by `h2` that follows `script`; at the end it is closed and nothing may be left."""
    server = H2Server(script, settings=settings)
    async with running_reactor() as running, trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        pool = Http2Pool(
            server.address, running.reactor, running.timers, limits=limits or PoolLimits(), config=config, times=times
        )
        try:
            with trio.fail_after(20):
                yield Asking(running, pool, server)
        finally:
            pool.close()
            nursery.cancel_scope.cancel()


async def echo(peer: H2Peer, *, after: int = 0) -> None:
    """Answers every request on a stream after that one with its body, or with `hello`."""
    answered = {stream_id for stream_id in peer.streams if stream_id <= after}
    while not peer.over:
        for stream in list(peer.streams.values()):
            if stream.ended and stream.stream_id not in answered:
                answered.add(stream.stream_id)
                await peer.send_headers(stream.stream_id, [(":status", "200"), ("x-path", stream.headers[":path"])])
                await peer.send_data(stream.stream_id, bytes(stream.body) or b"hello", end=True)
        await peer.read()
