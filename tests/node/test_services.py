"""Which services a node has on which port, and who its methods are told is asking: on the ports of a whole mesh."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import trio

from infermesh.core.model.names import NodeId
from infermesh.net.grpc.client import Channel
from infermesh.net.peer_tls import PeerTls
from infermesh.net.tls import HTTP2_ALPN
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.mesh import Mesh, MeshNode, running_mesh
from infermesh.testing.mesh_plan import MODEL, MeshPlan
from infermesh.testing.reactors import running_reactor
from wire.grpc import Code, RpcError
from wire.grpc.service import CallOptions
from wire.proto.grpc.health.v1.health_grpc import HealthStub
from wire.proto.grpc.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from wire.proto.grpc.reflection.v1 import reflection_pb2
from wire.proto.grpc.reflection.v1.reflection_grpc import ServerReflectionStub
from wire.proto.infermesh.scoring.v1 import scoring_pb2
from wire.proto.infermesh.scoring.v1.scoring_grpc import ScoringServiceStub
from wire.proto.infermesh.state.v1 import state_pb2
from wire.proto.infermesh.state.v1.state_grpc import StateServiceStub

HEALTH = "grpc.health.v1.Health"
REFLECTION = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
SCORING, STATE = "infermesh.scoring.v1.ScoringService", "infermesh.state.v1.StateService"
WITHIN = CallOptions(timeout_s=5.0)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    return TrustDomain(tmp_path_factory.mktemp("trust"))


@asynccontextmanager
async def _mesh(trust: TrustDomain) -> AsyncIterator[Mesh]:
    async with running_mesh(MeshPlan(bystander=None), trust=trust) as mesh:
        with trio.fail_after(10):
            yield mesh


@asynccontextmanager
async def _of_nodes(node: MeshNode, trust: TrustDomain, me: str) -> AsyncIterator[Channel]:
    """A channel to a mesh port, as node `me`."""
    epoch = trust.epoch(me)
    async with running_reactor() as running:
        secure = PeerTls(NodeId(node.name), lambda: epoch, lambda peer, why: None, alpn=HTTP2_ALPN)
        channel = Channel.to(node.mesh_address, running.reactor, running.timers, secure=secure)
        try:
            yield channel
        finally:
            channel.close()


@asynccontextmanager
async def _of_clients(node: MeshNode) -> AsyncIterator[Channel]:
    async with running_reactor() as running:
        channel = Channel.to(node.client_address, running.reactor, running.timers)
        try:
            yield channel
        finally:
            channel.close()


async def _listed(channel: Channel) -> list[str]:
    async with ServerReflectionStub(channel).server_reflection_info(WITHIN) as call:
        await call.send(reflection_pb2.ServerReflectionRequest(list_services="*"))
        answer = await call.receive()
        assert answer is not None
        return sorted(service.name for service in answer.list_services_response.service)


async def _healthy(channel: Channel, services: Iterable[str]) -> list[str]:
    found = []
    for service in services:
        try:
            answer = await HealthStub(channel).check(HealthCheckRequest(service=service), WITHIN)
        except RpcError as error:
            assert error.code is Code.NOT_FOUND
        else:
            assert answer.status == HealthCheckResponse.SERVING
            found.append(service)
    return found


async def test_a_router_has_all_services_for_nodes_and_only_the_general_ones_for_clients(trust: TrustDomain) -> None:
    async with _mesh(trust) as mesh:
        async with _of_nodes(mesh.router, trust, "gpu-a") as channel:
            assert await _listed(channel) == sorted([HEALTH, *REFLECTION, SCORING, STATE])
            assert await _healthy(channel, ["", SCORING, STATE]) == ["", SCORING, STATE]
        async with _of_clients(mesh.router) as channel:
            assert await _listed(channel) == sorted([HEALTH, *REFLECTION])
            assert await _healthy(channel, ["", SCORING, STATE]) == [""]


async def test_a_node_that_does_not_route_has_no_scores(trust: TrustDomain) -> None:
    async with _mesh(trust) as mesh, _of_nodes(mesh.gpus[0], trust, "edge") as channel:
        assert await _listed(channel) == sorted([HEALTH, *REFLECTION, STATE])
        with pytest.raises(RpcError, match=f"no service '{SCORING}' here") as caught:
            await ScoringServiceStub(channel).score_targets(scoring_pb2.ScoreTargetsRequest(), WITHIN)
        assert caught.value.code is Code.UNIMPLEMENTED


async def test_the_meshs_own_services_are_not_passed_through_for_clients(trust: TrustDomain) -> None:
    async with _mesh(trust) as mesh, _of_clients(mesh.router) as channel:
        with pytest.raises(RpcError, match=f"no service '{STATE}' here") as caught:
            await StateServiceStub(channel).ping(state_pb2.PingRequest(), WITHIN)
        assert caught.value.code is Code.UNIMPLEMENTED


async def test_methods_are_told_the_node_that_the_certificate_names(trust: TrustDomain) -> None:
    async with _mesh(trust) as mesh:
        for me, code in (("edge", Code.PERMISSION_DENIED), ("gpu-a", Code.INVALID_ARGUMENT)):
            async with _of_nodes(mesh.gpus[0], trust, me) as channel:
                async with StateServiceStub(channel).report_model_state(WITHIN) as call:
                    await call.send(state_pb2.ModelState())  # Malformed: only the node itself gets so far.
                    with pytest.raises(RpcError) as caught:
                        await call.receive()
                assert caught.value.code is code
        metrics = mesh.gpus[0].node.sources.metrics
        assert metrics.state_subscribers.child().value == 1
        refused = metrics.reports_refused
        assert [refused.child(reason=reason).value for reason in ("wrong_node", "malformed")] == [1, 1]


async def test_scores_come_over_the_mesh_port_of_a_router(trust: TrustDomain) -> None:
    async with _mesh(trust) as mesh, _of_nodes(mesh.router, trust, "laptop") as channel:
        facts = scoring_pb2.RequestFacts(model=MODEL)
        answer = await ScoringServiceStub(channel).score_targets(scoring_pb2.ScoreTargetsRequest(facts=facts), WITHIN)
        assert [candidate.target.node for candidate in answer.candidates] == ["gpu-a"]


async def test_a_node_that_is_told_to_stop_says_so_to_whoever_watches(trust: TrustDomain) -> None:
    async with (
        _mesh(trust) as mesh,
        _of_nodes(mesh.router, trust, "gpu-a") as channel,
        HealthStub(channel).watch(HealthCheckRequest(service=SCORING), WITHIN) as call,
    ):
        first = await call.receive()
        assert first is not None
        assert first.status == HealthCheckResponse.SERVING
        mesh.router.node.stop()
        second = await call.receive()
        assert second is not None
        assert second.status == HealthCheckResponse.NOT_SERVING
