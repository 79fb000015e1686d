"""The state service as peers meet it: over HTTP/2, with whoever their certificate would prove them to be."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.core.trust import PeerIdentity
from infermesh.net.grpc.client import Channel
from infermesh.net.http2 import Http2ServerStream
from infermesh.planes.signal.codec import Heartbeat, gpu_state_message, model_state_message, read_delta
from infermesh.planes.signal.publisher import Publisher, PublisherConfig
from infermesh.planes.signal.state_service import StateService
from infermesh.testing.await_sites import AwaitSites, OnParked
from infermesh.testing.grpc_node import GrpcNode, NodeShape, grpc_node
from infermesh.testing.recorded_log import RecordedLog
from infermesh.testing.waiting import wait_until
from wire.grpc import Code, RpcError
from wire.proto.infermesh.state.v1 import state_pb2 as pb
from wire.proto.infermesh.state.v1.state_grpc import StateServiceStub

ME = NodeId("gpu-a")
START = pb.SubscribeRequest(start=pb.SubscribeStart())
STATE = ModelState(
    node=ME,
    model=ModelName("m"),
    runtime="fake",
    incarnation=1,
    sequence=4,
    source_time=0.0,
    lifecycle=Lifecycle.READY,
)
GPU = GpuState(
    node=ME,
    gpu_uuid="GPU-1",
    sequence=9,
    source_time=0.0,
    name="Fake",
    health=GpuHealth.HEALTHY,
    sm_utilization=0.0,
    memory_used_bytes=0,
    memory_total_bytes=0,
    temperature_c=0.0,
    power_w=0.0,
)


class _Rig:
    """A node's service, what it was told, and a peer's stub."""

    def __init__(self, peer: str | None, config: PublisherConfig) -> None:
        self.log = RecordedLog()
        self.publisher = Publisher(self.log, config)
        self.states: list[ModelState] = []
        self.gpus: list[GpuState] = []
        self.refused: list[str] = []
        self.peer = peer
        self.service = StateService(
            ME,
            self.publisher,
            report=self.states.append,
            report_gpu=self.gpus.append,
            refused=self.refused.append,
        )
        self.node: GrpcNode
        self.stub: StateServiceStub

    def peer_of(self, stream: Http2ServerStream) -> PeerIdentity | None:
        if self.peer is None:
            return None
        return PeerIdentity(node=NodeId(self.peer), trust_domain="test.mesh", not_after=math.inf)

    async def idle(self) -> None:
        await wait_until(lambda: not self.publisher.subscribers, "nobody subscribes")
        assert self.node.log.names() == []


@asynccontextmanager
async def _rig(peer: str | None = "gpu-a", config: PublisherConfig | None = None) -> AsyncIterator[_Rig]:
    rig = _Rig(peer, config or PublisherConfig(heartbeat_s=0.05))
    with trio.fail_after(10):
        async with grpc_node([rig.service], NodeShape(peer_of=rig.peer_of)) as node:
            channel = Channel.to(node.address, node.running.reactor, node.running.timers)
            rig.node, rig.stub = node, StateServiceStub(channel)
            try:
                yield rig
            finally:
                channel.close()


async def _end_of(rig: _Rig, first: Sequence[pb.SubscribeRequest]) -> RpcError:
    async with rig.stub.subscribe() as call:
        for request in first:
            await call.send(request)
        with pytest.raises(RpcError) as caught:
            while await call.receive() is not None:
                pass
    await rig.idle()
    return caught.value


# --- subscribing ---


@pytest.mark.parametrize("peer", ["router", "gpu-a"])
async def test_any_node_may_subscribe_and_gets_states_and_heartbeats(peer: str) -> None:
    async with _rig(peer) as rig:
        rig.publisher.report(STATE)
        async with rig.stub.subscribe() as call:
            await call.send(START)
            first, second = await call.receive(), await call.receive()
            assert first is not None
            assert second is not None
            assert read_delta(first) == STATE
            assert isinstance(read_delta(second), Heartbeat)
            await call.send(pb.SubscribeRequest(ack_position=1))
            assert await call.receive() is not None
        await rig.idle()


@pytest.mark.parametrize("first", [pb.SubscribeRequest(ack_position=3), pb.SubscribeRequest()])
async def test_a_subscriber_that_does_not_begin_with_a_start_is_refused(first: pb.SubscribeRequest) -> None:
    async with _rig() as rig:
        error = await _end_of(rig, [first])
        assert (error.code, "the first message of a subscriber" in error.message) == (Code.INVALID_ARGUMENT, True)


async def test_a_subscriber_that_ends_before_its_start_is_refused() -> None:
    async with _rig() as rig, rig.stub.subscribe() as call:
        await call.finish_sending()
        with pytest.raises(RpcError) as caught:
            await call.receive()
        assert caught.value.code is Code.INVALID_ARGUMENT


async def test_a_subscriber_that_says_nothing_is_refused_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infermesh.planes.signal.state_service._START_WITHIN_S", 0.05)
    async with _rig() as rig:
        assert (await _end_of(rig, [])).code is Code.INVALID_ARGUMENT


async def test_a_subscriber_that_has_said_all_wants_no_more() -> None:
    async with _rig() as rig:
        async with rig.stub.subscribe() as call:
            await call.send(START)
            await call.receive()
            await call.finish_sending()
            while await call.receive() is not None:
                pass
        await rig.idle()


async def test_a_subscriber_above_the_limit_is_refused_and_the_others_go_on() -> None:
    async with _rig(config=PublisherConfig(heartbeat_s=0.05, subscribers_max=1)) as rig:
        async with rig.stub.subscribe() as call, rig.stub.subscribe() as above:
            await call.send(START)
            await call.receive()
            await above.send(START)
            with pytest.raises(RpcError, match="1 subscribers are served already") as caught:
                await above.receive()
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            assert await call.receive() is not None
        await rig.idle()


async def test_a_subscriber_that_takes_nothing_is_cut_off() -> None:
    async with _rig(config=PublisherConfig(heartbeat_s=0.05, stall_s=0.2)) as rig:
        async with rig.stub.subscribe() as call:
            await call.send(START)
            await call.receive()
            # Its inbox takes 64 KiB, and then the window of its stream fills.
            for sequence in range(30_000):
                rig.publisher.report(msgspec.structs.replace(STATE, sequence=sequence, model=ModelName("m" * 200)))
                if sequence % 2 == 0:
                    await trio.lowlevel.checkpoint()
                if rig.log.events:
                    break
            await wait_until(lambda: rig.log.events, "it has stalled")
            assert rig.log.names() == ["state_subscriber_stalled"]
            with pytest.raises(RpcError, match=r"nothing was taken for 0\.2 s") as caught:
                while await call.receive() is not None:
                    pass
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
        await rig.idle()


SITES = AwaitSites(["planes/signal/state_service.py", "planes/signal/publisher.py", "net/grpc/server_call.py"])
SUBSCRIBED_AT = [
    "planes/signal/state_service.py: StateService.subscribe: await requests.receive()",
    "planes/signal/state_service.py: StateService.subscribe: await self._publisher.serve(responses.send, start.start)",
    "planes/signal/state_service.py: _take_acks: async for requests",
    "planes/signal/publisher.py: Publisher._stream: await send(delta)",
    "planes/signal/publisher.py: Publisher._stream: await changed.wait()",
    "net/grpc/server_call.py: ServerCall.send: await pass_turn(self._sent)",
]


@pytest.mark.parametrize("site", SUBSCRIBED_AT)
@pytest.mark.parametrize("how", ["connection", "scope"])
async def test_a_subscriber_that_goes_at_any_moment_leaves_nothing(site: str, how: str) -> None:
    async with _rig() as rig:

        def end(task: trio.lowlevel.Task) -> None:
            [connection] = rig.node.connections
            if how == "connection":
                connection.lose("gone")
            else:
                connection.scope.cancel()

        rig.publisher.report(STATE)
        watch = OnParked(SITES, [SITES.named(site)], end)
        trio.lowlevel.add_instrument(watch)
        try:
            with pytest.raises(RpcError):
                async with rig.stub.subscribe() as call:
                    if "requests.receive" not in site:
                        await call.send(START)
                    while await call.receive() is not None:
                        rig.publisher.report(STATE)
            assert watch.acted.is_set()
        finally:
            trio.lowlevel.remove_instrument(watch)
        await wait_until(lambda: not rig.node.connections, "its connection is gone")
        await rig.idle()
        assert isinstance(await rig.stub.ping(pb.PingRequest()), pb.PingResponse)


# --- reporting ---


async def test_the_node_itself_reports_and_each_report_is_acknowledged() -> None:
    async with _rig() as rig:
        async with rig.stub.report_model_state() as call:
            for sequence in (4, 5):
                await call.send(model_state_message(msgspec.structs.replace(STATE, sequence=sequence)))
                assert await call.receive() == pb.StateAck(sequence=sequence)
            await call.finish_sending()
            assert await call.receive() is None
        async with rig.stub.report_gpu_state() as gpu_call:
            await gpu_call.send(gpu_state_message(GPU))
            assert await gpu_call.receive() == pb.StateAck(sequence=9)
        assert [state.sequence for state in rig.states] == [4, 5]
        assert (rig.gpus, rig.refused) == ([GPU], [])


async def _refusal(rig: _Rig, *messages: pb.ModelState) -> RpcError:
    async with rig.stub.report_model_state() as call:
        with pytest.raises(RpcError) as caught:
            for message in messages:
                await call.send(message)
            while await call.receive() is not None:
                pass
    return caught.value


@pytest.mark.parametrize(("peer", "who"), [("router", "router"), (None, "nobody that is known")])
async def test_another_node_may_not_report(peer: str | None, who: str) -> None:
    async with _rig(peer) as rig:
        error = await _refusal(rig, model_state_message(STATE))
        assert error.code is Code.PERMISSION_DENIED
        assert error.message == f"only node gpu-a itself reports its state here; this is {who}"
        async with rig.stub.report_gpu_state() as call:
            with pytest.raises(RpcError, match="only node gpu-a itself"):
                await call.receive()
        assert (rig.states, rig.gpus, rig.refused) == ([], [], ["other_node", "other_node"])


async def test_a_state_of_another_node_is_not_taken_from_anybody() -> None:
    async with _rig() as rig:
        error = await _refusal(rig, model_state_message(msgspec.structs.replace(STATE, node=NodeId("gpu-b"))))
        assert (error.code, error.message) == (
            Code.PERMISSION_DENIED,
            "a state of node gpu-b was reported to node gpu-a",
        )
        assert (rig.states, rig.refused) == ([], ["other_node"])


def _nan(message: pb.ModelState) -> None:
    message.kv_usage = math.nan


def _nameless(message: pb.ModelState) -> None:
    message.model = ""


@pytest.mark.parametrize(("spoil", "said"), [(_nan, "kv_usage is nan"), (_nameless, "model has 0 characters")])
async def test_a_malformed_report_ends_its_stream_and_what_came_before_counts(
    spoil: Callable[[pb.ModelState], None], said: str
) -> None:
    async with _rig() as rig:
        bad = model_state_message(STATE)
        spoil(bad)
        error = await _refusal(rig, model_state_message(STATE), bad)
        assert error.code is Code.INVALID_ARGUMENT
        assert said in error.message
        assert (rig.states, rig.refused) == ([STATE], ["malformed"])


async def test_a_ping_is_answered() -> None:
    async with _rig("router") as rig:
        assert await rig.stub.ping(pb.PingRequest()) == pb.PingResponse()
