"""`infermesh.state.v1` on the mesh port: routers subscribe, adapters of their own processes report, peers ping.

A subscriber may be any node of the trust domain. An adapter may report for this node alone, with this node's own
identity: whoever holds its key is it. What it reports is taken over like the states of the adapters inside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

import trio
from google.protobuf.message import Message

from infermesh.core.model.names import NodeId
from infermesh.core.model.state import GpuState, ModelState
from infermesh.planes.signal.codec import read_gpu_state, read_model_state
from infermesh.planes.signal.publisher import Publisher, SubscriberStalled, TooManySubscribers
from wire.errors import RemoteProtocolError
from wire.grpc import Code, RpcError
from wire.grpc.service import Receiver, Sender, ServerContext
from wire.proto.infermesh.state.v1 import state_pb2 as pb
from wire.proto.infermesh.state.v1.state_grpc import StateServiceBase

Told = TypeVar("Told", bound=Message)
State = TypeVar("State", ModelState, GpuState)

_START_WITHIN_S = 5.0


class StateService(StateServiceBase):
    def __init__(
        self,
        me: NodeId,
        publisher: Publisher,
        *,
        report: Callable[[ModelState], None],
        report_gpu: Callable[[GpuState], None],
        refused: Callable[[str], None],
    ) -> None:
        """`refused` is told the reason of each report that is not taken, for a metric."""
        self._me = me
        self._publisher = publisher
        self._report = report
        self._report_gpu = report_gpu
        self._refused = refused

    async def subscribe(
        self, requests: Receiver[pb.SubscribeRequest], responses: Sender[pb.StateDelta], context: ServerContext
    ) -> None:
        start: pb.SubscribeRequest | None = None
        with trio.move_on_after(_START_WITHIN_S):
            start = await requests.receive()
        if start is None or start.WhichOneof("request") != "start":
            context.abort(
                Code.INVALID_ARGUMENT, "the first message of a subscriber says where it wants to go on (start)"
            )
        failure: TooManySubscribers | SubscriberStalled | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_take_acks, requests, nursery.cancel_scope)
            try:
                await self._publisher.serve(responses.send, start.start)
            except (TooManySubscribers, SubscriberStalled) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            context.abort(Code.RESOURCE_EXHAUSTED, str(failure))

    async def ping(self, request: pb.PingRequest, context: ServerContext) -> pb.PingResponse:
        return pb.PingResponse()

    async def report_model_state(
        self, requests: Receiver[pb.ModelState], responses: Sender[pb.StateAck], context: ServerContext
    ) -> None:
        self._admit(context)
        async for told in requests:
            state = self._read(read_model_state, told, context)
            self._report(state)
            await responses.send(pb.StateAck(sequence=state.sequence))

    async def report_gpu_state(
        self, requests: Receiver[pb.GpuState], responses: Sender[pb.StateAck], context: ServerContext
    ) -> None:
        self._admit(context)
        async for told in requests:
            state = self._read(read_gpu_state, told, context)
            self._report_gpu(state)
            await responses.send(pb.StateAck(sequence=state.sequence))

    def _admit(self, context: ServerContext) -> None:
        peer = context.peer
        if peer is None or peer.node != self._me:
            self._refused("other_node")
            who = peer.node if peer is not None else "nobody that is known"
            context.abort(Code.PERMISSION_DENIED, f"only node {self._me} itself reports its state here; this is {who}")

    def _read(self, read: Callable[[Told], State], told: Told, context: ServerContext) -> State:
        try:
            state = read(told)
        except RemoteProtocolError as error:
            self._refused("malformed")
            context.abort(Code.INVALID_ARGUMENT, str(error))
        if state.node != self._me:
            self._refused("other_node")
            context.abort(Code.PERMISSION_DENIED, f"a state of node {state.node} was reported to node {self._me}")
        return state


async def _take_acks(requests: Receiver[pb.SubscribeRequest], stream: trio.CancelScope) -> None:
    """Read what the subscriber says until it has said all: then it wants no more."""
    with contextlib.suppress(RpcError):  # The call is over already, and whoever ended it knows why.
        async for _ in requests:
            pass  # That it took a position over is for it to remember; nothing here is kept for it.
    stream.cancel()
