"""A router's way to a peer's state, against a mesh port in small: the real services over mutual TLS."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.nodes import Address, NodeRecord, NodeState, Role
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.net.peer_tls import PeerTls
from infermesh.net.tls import HTTP2_ALPN, TlsEpoch
from infermesh.planes.signal.codec import Heartbeat, read_delta
from infermesh.planes.signal.mesh_dialer import DialFailed, DialTiming, MeshDialer, StreamEnded
from infermesh.planes.signal.publisher import Publisher, PublisherConfig
from infermesh.planes.signal.state_service import StateService
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.grpc_node import GrpcNode, NodeShape, grpc_node
from infermesh.testing.recorded_log import RecordedLog
from infermesh.testing.tcp_relay import RelayMode, TcpRelay, serve_tcp_relay
from infermesh.testing.waiting import wait_until
from wire.grpc.service import Receiver, Sender, ServerContext, Service
from wire.limits import STATE_MESSAGE_BYTES_MAX
from wire.proto.infermesh.state.v1.state_grpc import StateServiceBase
from wire.proto.infermesh.state.v1.state_pb2 import ModelState as ModelStateMessage
from wire.proto.infermesh.state.v1.state_pb2 import StateDelta, SubscribeRequest, SubscribeStart

NOWHERE = SubscribeStart()
STATE = ModelState(
    node=NodeId("gpu-a"),
    model=ModelName("m"),
    runtime="fake",
    incarnation=1,
    sequence=1,
    source_time=0.0,
    lifecycle=Lifecycle.READY,
)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    return TrustDomain(tmp_path_factory.mktemp("trust"))


class _Node:
    """A GPU node reduced to its mesh port, and the router's side towards it."""

    def __init__(self, domain: TrustDomain, served: GrpcNode, publisher: Publisher) -> None:
        self.domain = domain
        self.served = served
        self.publisher = publisher
        self.failed: list[str] = []
        self.dialers: list[MeshDialer] = []

    def dialer(
        self,
        *,
        node: str = "gpu-a",
        epoch: Callable[[], TlsEpoch] | None = None,
        unix_time: Callable[[], float] = time.time,
        address: tuple[str, int] | None = None,
        timing: DialTiming | None = None,
    ) -> MeshDialer:
        record = NodeRecord(
            node=NodeId(node),
            mesh_address=Address(*(address or self.served.address)),
            roles=frozenset({Role.GPU}),
            zone="",
            state=NodeState.JOINING,
            since=0.0,
        )
        own = self.domain.epoch("router")
        secure = PeerTls(
            NodeId(node),
            epoch or (lambda: own),
            lambda peer, why: self.failed.append(f"{peer}: {why}"),
            alpn=HTTP2_ALPN,
            unix_time=unix_time,
        )
        running = self.served.running
        timing = timing or DialTiming(dial_deadline_s=5.0)
        self.dialers.append(MeshDialer(record, running.reactor, running.timers, secure, timing=timing))
        return self.dialers[-1]


@asynccontextmanager
async def _node(
    domain: TrustDomain, name: str = "gpu-a", services: Sequence[Service] | None = None
) -> AsyncIterator[_Node]:
    """At its end every connection is closed, and no subscriber is left."""
    publisher = Publisher(RecordedLog(), PublisherConfig(heartbeat_s=0.05))
    state = StateService(
        NodeId(name), publisher, report=publisher.report, report_gpu=publisher.report_gpu, refused=lambda reason: None
    )
    shape = NodeShape(epoch=domain.epoch(name))
    with trio.fail_after(10):
        async with grpc_node([state] if services is None else services, shape) as served:
            node = _Node(domain, served, publisher)
            yield node
            for dialer in node.dialers:
                dialer.close()
                assert dialer.sockets == 0
            await wait_until(lambda: not served.connections, "nobody is connected")
            assert publisher.subscribers == 0
            assert served.log.names() == []


async def test_a_stream_over_mutual_tls_carries_states_and_heartbeats(domain: TrustDomain) -> None:
    async with _node(domain) as node:
        node.publisher.report(STATE)
        async with node.dialer().subscribe(NOWHERE) as stream:
            deltas = [await stream.receive() for _ in range(3)]
            assert read_delta(deltas[0]) == STATE
            assert [type(read_delta(delta)) for delta in deltas[1:]] == [Heartbeat, Heartbeat]
            assert {(delta.epoch, delta.position) for delta in deltas} == {(node.publisher.epoch, 1)}
            assert stream.connect_s > 0.0
            await stream.ack(1)
            assert node.publisher.subscribers == 1


async def test_a_stream_goes_on_where_it_is_told_to(domain: TrustDomain) -> None:
    async with _node(domain) as node:
        node.publisher.report(STATE)
        start = SubscribeStart(epoch=node.publisher.epoch, resume_after=1)
        async with node.dialer().subscribe(start) as stream:
            assert isinstance(read_delta(await stream.receive()), Heartbeat)


async def test_the_connection_ends_with_its_stream(domain: TrustDomain) -> None:
    async with _node(domain) as node:
        dialer = node.dialer()
        for _ in range(2):
            async with dialer.subscribe(NOWHERE) as stream:
                await stream.receive()
                assert (dialer.sockets, len(node.served.connections)) == (1, 1)
            assert dialer.sockets == 0
            await wait_until(lambda: not node.served.connections, "gone there, too")


async def test_a_stream_after_one_that_fell_silent_does_not_hang_on_the_same_dead_connection(
    domain: TrustDomain,
) -> None:
    async with _node(domain) as node, trio.open_nursery() as nursery:
        relay: TcpRelay = await nursery.start(serve_tcp_relay, node.served.address)
        dialer = node.dialer(address=relay.address)
        async with dialer.subscribe(NOWHERE) as stream:
            await stream.receive()
            relay.stop_after_bytes = 0
            with trio.move_on_after(0.3) as silent:
                while True:
                    await stream.receive()
            assert silent.cancelled_caught
        relay.stop_after_bytes = None
        async with dialer.subscribe(NOWHERE) as stream:
            await stream.receive()
        nursery.cancel_scope.cancel()


async def test_another_node_at_that_address_is_refused_before_it_is_asked_anything(domain: TrustDomain) -> None:
    async with _node(domain, "gpu-b") as node:
        dialer = node.dialer(node="gpu-a")
        with pytest.raises(DialFailed, match=r"peer refused \(node\)") as caught:
            async with dialer.subscribe(NOWHERE):
                raise AssertionError("this is not the node that was dialled")
        assert caught.value.proven
        with pytest.raises(StreamEnded, match=r"peer refused \(node\)"):
            await dialer.ping()
        assert node.served.ended == []
        assert len(node.failed) == 2


async def test_a_node_of_another_authority_proves_that_the_peer_is_not_there(domain: TrustDomain) -> None:
    async with _node(domain.other) as stranger:
        node = _Node(domain, stranger.served, stranger.publisher)
        with pytest.raises(DialFailed, match="certificate verify failed") as caught:
            async with node.dialer().subscribe(NOWHERE):
                raise AssertionError("nobody here may be trusted")
        assert caught.value.proven


async def test_a_refused_dial_is_proof_and_one_that_nobody_answers_is_none(domain: TrustDomain) -> None:
    async with _node(domain) as node, trio.open_nursery() as nursery:
        relay: TcpRelay = await nursery.start(serve_tcp_relay, node.served.address)
        relay.mode = RelayMode.SILENT
        dialer = node.dialer(address=relay.address, timing=DialTiming(dial_deadline_s=0.1))
        with pytest.raises(DialFailed) as caught:
            async with dialer.subscribe(NOWHERE):
                raise AssertionError("nobody shakes hands")
        assert not caught.value.proven
        relay.refuse()
        await relay.closed.wait()
        with pytest.raises(DialFailed, match="refused") as caught:
            async with dialer.subscribe(NOWHERE):
                raise AssertionError("nobody listens")
        assert caught.value.proven
        nursery.cancel_scope.cancel()


async def test_a_peer_without_the_service_is_no_dead_peer(domain: TrustDomain) -> None:
    async with _node(domain, services=[_Silent()]) as node:
        with pytest.raises(StreamEnded, match="UNIMPLEMENTED"):
            async with node.dialer().subscribe(NOWHERE) as stream:
                await stream.receive()
        assert 0.0 < await node.dialer().ping() < 1.0  # What it answers has come all the way and back.


async def test_a_stream_that_the_peer_ends_in_good_order_is_over_as_well(domain: TrustDomain) -> None:
    async with _node(domain, services=[_OneMessage(b"")]) as node, node.dialer().subscribe(NOWHERE) as stream:
        await stream.receive()
        with pytest.raises(StreamEnded, match="the state stream ended"):
            await stream.receive()


async def test_a_message_above_the_limit_of_states_ends_the_stream(domain: TrustDomain) -> None:
    largest = b"x" * (STATE_MESSAGE_BYTES_MAX - 20)
    async with _node(domain, services=[_OneMessage(largest)]) as node, node.dialer().subscribe(NOWHERE) as stream:
        await stream.receive()
    async with _node(domain, services=[_OneMessage(largest + b"x" * 40)]) as node:
        with pytest.raises(StreamEnded, match="RESOURCE_EXHAUSTED"):
            async with node.dialer().subscribe(NOWHERE) as stream:
                await stream.receive()


async def test_a_ping_measures_one_round_trip_on_the_streams_own_connection(domain: TrustDomain) -> None:
    async with _node(domain) as node:
        dialer = node.dialer()
        async with dialer.subscribe(NOWHERE) as stream:
            await stream.receive()
            rtts_s = [await dialer.ping() for _ in range(3)]
            assert all(0.0 < rtt_s < 1.0 for rtt_s in rtts_s)
            assert (dialer.sockets, len(node.served.connections)) == (1, 1)


async def test_a_stream_does_not_outlive_the_certificate_it_was_admitted_with(domain: TrustDomain) -> None:
    async with _node(domain) as node:
        expires_unix_s = domain.identity("gpu-a").not_after
        dialer = node.dialer(unix_time=lambda: expires_unix_s - 0.2)
        began = trio.current_time()
        with pytest.raises(StreamEnded, match="certificate has expired under the connection"):
            async with dialer.subscribe(NOWHERE) as stream:
                while True:
                    await stream.receive()
        assert 0.1 <= trio.current_time() - began < 2.0
        assert dialer.sockets == 0


async def test_a_renewed_identity_is_used_by_the_next_dial(domain: TrustDomain) -> None:
    async with _node(domain) as node:
        epochs = [domain.epoch("router"), domain.epoch("router-2")]
        dialer = node.dialer(epoch=lambda: epochs[0])
        for _ in range(2):
            async with dialer.subscribe(NOWHERE) as stream:
                await stream.receive()
                [connection] = node.served.connections
                assert connection.tls is not None
                certificate = connection.tls.object.getpeercert(True)
            del epochs[0:1]
            epochs.append(epochs[0])
            await wait_until(lambda: not node.served.connections, "gone")
        assert certificate == domain.node("router-2").der


class _Silent(StateServiceBase):
    """Serves no method."""


class _OneMessage(StateServiceBase):
    def __init__(self, padding: bytes) -> None:
        self._padding = padding.decode()

    async def subscribe(
        self, requests: Receiver[SubscribeRequest], responses: Sender[StateDelta], context: ServerContext
    ) -> None:
        await responses.send(StateDelta(model_state=ModelStateMessage(model=self._padding)))
