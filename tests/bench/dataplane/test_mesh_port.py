"""The fake GPU node, asked the way a router asks."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from infermesh.core.model.names import NodeId
from infermesh.core.model.nodes import Address, NodeRecord, NodeState, Role
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.net.peer_tls import PeerTls
from infermesh.net.tls import HTTP2_ALPN, TlsEpoch
from infermesh.planes.data.heads import parse_load
from infermesh.planes.signal.codec import Delta, Heartbeat, read_delta
from infermesh.planes.signal.mesh_dialer import MeshDialer
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.reactors import running_reactor
from tests.bench.dataplane.backend import Fleet
from tests.bench.dataplane.loop import Loop
from tests.bench.dataplane.mesh_port import MeshPort
from tests.bench.dataplane.messages import MODEL, UNARY_BODY, request_body
from wire.proto.infermesh.state.v1.state_pb2 import SubscribeStart

pytestmark = pytest.mark.slow


def while_served(tmp_path: Path, ask: Callable[[int, TrustDomain], None]) -> None:
    """`ask` runs in a thread of its own while the loop serves in this one."""
    domain = TrustDomain(tmp_path)
    loop = Loop()
    port = MeshPort(loop, Fleet(loop), domain.node("gpu-0").folder).port
    thread = threading.Thread(target=ask, args=(port, domain))
    thread.start()
    assert loop.run_until(lambda: not thread.is_alive(), 10)
    thread.join()
    loop.close()


def test_its_state_reaches_a_router(tmp_path: Path) -> None:
    deltas: list[Delta | None] = []
    rtts_s: list[float] = []

    async def follow(port: int, epoch: TlsEpoch) -> None:
        node = NodeId("gpu-0")
        record = NodeRecord(
            node=node,
            mesh_address=Address("127.0.0.1", port),
            roles=frozenset({Role.GPU}),
            zone="",
            state=NodeState.JOINING,
            since=0.0,
        )
        async with running_reactor() as running:
            secure = PeerTls(node, lambda: epoch, lambda peer, why: None, alpn=HTTP2_ALPN)
            dialer = MeshDialer(record, running.reactor, running.timers, secure)
            with trio.fail_after(5):
                async with dialer.subscribe(SubscribeStart()) as stream:
                    deltas.extend([read_delta(await stream.receive()) for _ in range(4)])
                    rtts_s.append(await dialer.ping())
            dialer.close()

    while_served(tmp_path, lambda port, domain: trio.run(partial(follow, port, domain.epoch("router"))))
    assert [type(delta) for delta in deltas] == [ModelState, Heartbeat] * 2
    state = deltas[0]
    assert isinstance(state, ModelState)
    assert (state.node, state.model, state.lifecycle) == ("gpu-0", MODEL, Lifecycle.READY)
    assert len(rtts_s) == 1


def test_it_answers_requests_with_its_load(tmp_path: Path) -> None:
    answers: list[tuple[int, str, bytes]] = []

    def ask(port: int, domain: TrustDomain) -> None:
        router = domain.node("router")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False  # A node's name is in its SPIFFE id, which is the router's to check.
        tls.load_verify_locations(router.ca_file)
        tls.load_cert_chain(router.certificate_file, router.key_file)
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=tls)
        try:
            connection.request("POST", "/v1/chat/completions", request_body("u0", stream=False))
            answer = connection.getresponse()
            answers.append((answer.status, answer.headers["x-infermesh-load"], answer.read()))
        finally:
            connection.close()

    while_served(tmp_path, ask)
    [(status, load, body)] = answers
    assert (status, body) == (200, UNARY_BODY)
    assert parse_load(load.encode()) is not None
