"""A server that answers calls as it is told, well or badly, and a channel of ours that calls it.

The frames are made by `h2` where h2 lets them pass, so that the server is somebody else's reading of the RFC.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from google.protobuf.wrappers_pb2 import BytesValue

from infermesh.net.grpc.client import Channel, ChannelConfig
from infermesh.net.http2 import EndpointTimes
from infermesh.testing.grpc_echo import SAY
from infermesh.testing.h2_peer import H2Peer, H2Server, PeerStream
from infermesh.testing.reactors import RunningReactor, running_reactor
from tests.conformance.grpc.calling import framed, packed
from wire.grpc import RpcError
from wire.grpc.service import CallOptions

Headers = list[tuple[str, str]]
HEAD: Headers = [(":status", "200"), ("content-type", "application/grpc")]
OK: Headers = [("grpc-status", "0")]
Script = Callable[["Asked"], Awaitable[None]]


@dataclass
class Asked:
    """One call as it arrived whole, and how to answer it."""

    peer: H2Peer
    stream: PeerStream
    number: int  # Counted over all connections, from 1.

    async def head(self, *extra: tuple[str, str]) -> None:
        await self.peer.send_headers(self.stream.stream_id, [*HEAD, *extra])

    async def body(self, data: bytes, *, end: bool = False) -> None:
        await self.peer.send_data(self.stream.stream_id, data, end=end)

    async def message(self, value: bytes) -> None:
        await self.body(framed(packed(value)))

    async def end(self, headers: Headers) -> None:
        await self.peer.send_headers(self.stream.stream_id, headers, end=True)

    async def reset(self, code: int) -> None:
        await self.peer.reset(self.stream.stream_id, code)

    async def answer(self, value: bytes = b"fine") -> None:
        await self.head()
        await self.message(value)
        await self.end(OK)


@dataclass
class Calling:
    channel: Channel
    running: RunningReactor
    server: H2Server
    asked: list[PeerStream] = field(default_factory=list)

    async def say(self, value: bytes = b"hi", timeout_s: float = math.inf) -> bytes:
        answer = await self.channel.unary(SAY, BytesValue(value=value), CallOptions(timeout_s=timeout_s))
        return answer.value

    async def failure(self, timeout_s: float = math.inf) -> RpcError:
        try:
            answer = await self.say(timeout_s=timeout_s)
        except RpcError as error:
            return error
        raise AssertionError(f"the call went well: {answer!r}")


@asynccontextmanager
async def calling(
    script: Script, *, whole: bool = True, config: ChannelConfig | None = None, times: EndpointTimes | None = None
) -> AsyncIterator[Calling]:
    """`script` is run for each call once it is there `whole`, or at its head."""
    seen: list[PeerStream] = []

    async def serve(peer: H2Peer) -> None:
        begun: set[int] = set()
        while not peer.over:
            for stream in list(peer.streams.values()):
                if stream.stream_id not in begun and stream.headers and (stream.ended or not whole):
                    begun.add(stream.stream_id)
                    seen.append(stream)
                    await script(Asked(peer, stream, len(seen)))
            await peer.read()

    server = H2Server(serve)
    async with running_reactor() as running, trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        channel = Channel.to(server.address, running.reactor, running.timers, config=config, times=times)
        try:
            with trio.fail_after(20):
                yield Calling(channel, running, server, seen)
        finally:
            channel.close()
            nursery.cancel_scope.cancel()
