"""How a router reaches one peer's state: gRPC over mutual TLS to its mesh port, on one connection.

Who answers there is checked before a byte is sent (`net.peer_tls`). The stream of states and the pings that measure
the round trip share the connection, which outlives neither its stream nor the certificate that it was admitted with:
a stream that ended by silence may have ended with its connection, which would never say so.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
import trio

from infermesh.core.model.nodes import NodeRecord
from infermesh.net.grpc.client import Channel, ChannelConfig
from infermesh.net.http2.endpoint import EndpointTimes
from infermesh.net.http2.pool import Http2Pool
from infermesh.net.pool import ConnectFailed, PoolLimits, Secure
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from wire.grpc import Code, RpcError
from wire.grpc.service import CallOptions, ClientCall
from wire.limits import STATE_MESSAGE_BYTES_MAX
from wire.proto.infermesh.state.v1 import state_pb2
from wire.proto.infermesh.state.v1.state_grpc import StateServiceStub

_IDLE_S = 3600.0  # The stream keeps it busy.


class DialFailed(Exception):
    """The peer could not be reached. `proven`: something answered there, and it was no living peer."""

    def __init__(self, message: str, *, proven: bool) -> None:
        super().__init__(message)
        self.proven = proven


class StreamEnded(Exception):
    """A stream that was, or was to be, is not: broken off, refused, or its certificate is over."""


class DialTiming(msgspec.Struct, frozen=True, kw_only=True):
    dial_deadline_s: float = 2.0  # Connect and handshake together; `upstream.connect_timeout_s`.
    ping_deadline_s: float = 1.0


class StateStream:
    """What a peer says. `receive` and `ack` raise StreamEnded."""

    __slots__ = ("_call", "connect_s")

    def __init__(self, call: ClientCall[state_pb2.SubscribeRequest, state_pb2.StateDelta], connect_s: float) -> None:
        self._call = call
        self.connect_s = connect_s  # What connecting took, as a first idea of the round trip.

    async def receive(self) -> state_pb2.StateDelta:
        try:
            delta = await self._call.receive()
        except RpcError as error:
            raise StreamEnded(str(error)) from error
        if delta is None:
            raise StreamEnded("the state stream ended")
        return delta

    async def ack(self, position: int) -> None:
        try:
            await self._call.send(state_pb2.SubscribeRequest(ack_position=position))
        except RpcError as error:
            raise StreamEnded(str(error)) from error


class MeshDialer:
    def __init__(
        self,
        peer: NodeRecord,
        reactor: Reactor,
        timers: Timers,
        secure: Secure,
        *,
        timing: DialTiming | None = None,
    ) -> None:
        assert peer.mesh_address is not None, "this very node is not dialled"
        self._timing = timing if timing is not None else DialTiming()
        self._address = str(peer.mesh_address)
        limits = PoolLimits(connections_max=1, idle_timeout_s=_IDLE_S, connect_timeout_s=self._timing.dial_deadline_s)
        address = (peer.mesh_address.host, peer.mesh_address.port)
        # Whether the peer is there is for liveness to say, by the silence of its stream: no pings of HTTP/2 as well.
        times = EndpointTimes(idle_timeout_s=_IDLE_S, ping_after_s=_IDLE_S)
        self._pool = Http2Pool(address, reactor, timers, limits=limits, secure=secure, times=times)
        config = ChannelConfig(message_bytes_max=STATE_MESSAGE_BYTES_MAX)
        self._stub = StateServiceStub(Channel(self._pool, authority=self._address, secure=True, config=config))

    @contextlib.asynccontextmanager
    async def subscribe(self, start: state_pb2.SubscribeStart) -> AsyncIterator[StateStream]:
        """The peer's state stream, from `start` on. Raises DialFailed or StreamEnded."""
        began = trio.current_time()
        try:
            reached = await self._pool.acquire(began + self._timing.dial_deadline_s)
        except ConnectFailed as error:
            raise DialFailed(str(error), proven=not error.timed_out) from error
        connect_s = trio.current_time() - began
        tls = reached.connection.tls
        assert tls is not None
        reached.release()
        try:
            with trio.move_on_at(tls.retire_at) as lifetime:
                try:
                    async with self._stub.subscribe() as call:
                        await call.send(state_pb2.SubscribeRequest(start=start))
                        yield StateStream(call, connect_s)
                except RpcError as error:
                    raise StreamEnded(str(error)) from error
        finally:
            self._pool.drop_all("its state stream has ended")
        if lifetime.cancelled_caught:
            raise StreamEnded(f"{self._address}: the peer's certificate has expired under the connection")

    async def ping(self) -> float:
        """One round trip, in seconds. Raises StreamEnded."""
        began = trio.current_time()
        try:
            await self._stub.ping(state_pb2.PingRequest(), CallOptions(timeout_s=self._timing.ping_deadline_s))
        except RpcError as error:
            if error.code is not Code.UNIMPLEMENTED:  # Whatever it answers has come all the way and back.
                raise StreamEnded(str(error)) from error
        return trio.current_time() - began

    @property
    def sockets(self) -> int:
        return self._pool.sockets

    def close(self) -> None:
        self._pool.close()
