from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.nodes import Address, NodeRecord, NodeState, Role
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.trust import RefusalReason
from infermesh.net.fetch import FetchError
from infermesh.net.tls import PeerRefused
from infermesh.planes.signal.codec import Heartbeat, decode_delta
from infermesh.planes.signal.mesh_dialer import DialTiming, MeshDialer, SubscriptionRefusedError
from infermesh.planes.signal.publisher import PING_PATH, SUBSCRIBE_PATH, Publisher, PublisherConfig
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer
from infermesh.testing.recorded_log import RecordedLog
from wire.proto.delimited import DelimitedDecoder

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
    """A GPU node reduced to its mesh port."""

    def __init__(self, domain: TrustDomain, peer: HttpPeer, publisher: Publisher) -> None:
        self.domain = domain
        self.peer = peer
        self.publisher = publisher

    def dialer(self, me: str = "router", *, unix_time_s: float | None = None, node: str = "gpu-a") -> MeshDialer:
        record = NodeRecord(
            node=NodeId(node),
            mesh_address=Address("127.0.0.1", self.peer.port),
            roles=frozenset({Role.GPU}),
            zone="",
            state=NodeState.JOINING,
            since=0.0,
        )
        epoch = self.domain.epoch(me)
        clock = time.time if unix_time_s is None else lambda: unix_time_s
        return MeshDialer(record, lambda: epoch, timing=DialTiming(dial_deadline_s=5.0), unix_time=clock)


@asynccontextmanager
async def _node(domain: TrustDomain, name: str = "gpu-a") -> AsyncIterator[_Node]:
    publisher = Publisher(RecordedLog(), PublisherConfig(heartbeat_s=0.05))

    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        if request.target == SUBSCRIBE_PATH and request.method == "POST":
            await publisher.serve(response)
        elif request.target == PING_PATH:
            await response.send()
        else:
            await response.send(status=404)

    async with trio.open_nursery() as nursery:
        serve = partial(serve_http_peer, answer, tls=domain.epoch(name).server)
        peer: HttpPeer = await nursery.start(serve)
        yield _Node(domain, peer, publisher)
        nursery.cancel_scope.cancel()


async def test_a_stream_over_mutual_tls_carries_states_and_heartbeats(domain: TrustDomain) -> None:
    async with _node(domain) as node:
        node.publisher.report(STATE)
        dialer = node.dialer()
        with trio.fail_after(5):
            async with dialer.subscribe() as stream:
                decoder = DelimitedDecoder()
                deltas: list[object] = []
                while len(deltas) < 3:
                    deltas += [decode_delta(message) for message in decoder.feed(await stream.receive())]
                assert deltas[0] == STATE
                assert [type(delta) for delta in deltas[1:]] == [Heartbeat, Heartbeat]
                assert stream.connect_s > 0.0
                assert stream.peer_certificate == domain.node("gpu-a").der
            await dialer.aclose()
            await node.peer.wait_nobody()
        assert node.publisher.subscribers == 0


async def test_another_node_at_that_address_is_refused_before_it_is_asked_anything(domain: TrustDomain) -> None:
    async with _node(domain, "gpu-b") as node:
        dialer = node.dialer(node="gpu-a")
        with pytest.raises(PeerRefused) as caught:
            async with dialer.subscribe():
                raise AssertionError("this is not the node that was dialled")
        assert caught.value.reason is RefusalReason.NODE
        with pytest.raises(PeerRefused):
            await dialer.ping()
        assert node.peer.requests == []


async def test_a_node_of_another_authority_is_an_error_of_the_dial(domain: TrustDomain) -> None:
    async with _node(domain.other) as stranger:
        node = _Node(domain, stranger.peer, stranger.publisher)
        with pytest.raises(FetchError, match="certificate verify failed"):
            async with node.dialer().subscribe():
                raise AssertionError("nobody here may be trusted")


async def test_an_answer_that_is_no_state_stream_is_told_apart(domain: TrustDomain) -> None:
    async def not_found(request: PeerRequest, response: PeerResponse) -> None:
        await response.send(b"no such page", status=404)

    async def web_page(request: PeerRequest, response: PeerResponse) -> None:
        await response.send(b"<html>", headers=[(b"content-type", b"text/html")])

    for answer, status in ((not_found, "404"), (web_page, "200")):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_http_peer, answer, tls=domain.epoch("gpu-a").server)
            peer: HttpPeer = await nursery.start(serve)
            node = _Node(domain, peer, Publisher(RecordedLog()))
            with pytest.raises(SubscriptionRefusedError, match=f"answered {status}, a state stream was expected"):
                async with node.dialer().subscribe():
                    raise AssertionError("there is no stream")
            nursery.cancel_scope.cancel()


async def test_a_ping_measures_one_round_trip_without_the_handshake(domain: TrustDomain) -> None:
    async with _node(domain) as node:
        dialer = node.dialer()
        rtts_s = [await dialer.ping() for _ in range(3)]
        assert all(0.0 < rtt_s < 1.0 for rtt_s in rtts_s)
        # The first one was repeated, because it had paid for the connection.
        assert (len(node.peer.requests), node.peer.connections) == (4, 1)
        await dialer.aclose()
        with trio.fail_after(5):
            await node.peer.wait_nobody()


async def test_a_stream_does_not_outlive_the_certificate_it_was_admitted_with(domain: TrustDomain) -> None:
    async with _node(domain) as node:
        expires_unix_s = domain.identity("gpu-a").not_after
        dialer = node.dialer(unix_time_s=expires_unix_s - 0.2)
        began = trio.current_time()
        with trio.fail_after(5), pytest.raises(FetchError, match="certificate has expired under the connection"):
            async with dialer.subscribe() as stream:
                while await stream.receive():
                    pass
        assert 0.2 <= trio.current_time() - began < 2.0


async def test_a_renewed_identity_is_used_by_the_next_dial(domain: TrustDomain) -> None:
    async with _node(domain) as node:
        epochs = [domain.epoch("router"), domain.epoch("router")]
        used: list[int] = []

        def current() -> int:
            used.append(len(used) // 2)
            return used[-1]

        dialer = MeshDialer(
            NodeRecord(
                node=NodeId("gpu-a"),
                mesh_address=Address("127.0.0.1", node.peer.port),
                roles=frozenset({Role.GPU}),
                zone="",
                state=NodeState.JOINING,
                since=0.0,
            ),
            lambda: epochs[current()],
        )
        for _ in range(4):
            await dialer.ping()
        assert node.peer.connections == 2
        await dialer.aclose()
