"""The harness itself: it comes up, parts of it die and come back, and nothing that is left escapes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from infermesh.emulator import EmulatorConfig
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import PATH, completion_body, expected_text, unary_text
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import GpuPlan, MeshPlan
from infermesh.testing.waiting import NeverSo, wait_until

SMALL = MeshPlan(bystander=None)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    folder: Path = tmp_path_factory.mktemp("trust")
    return TrustDomain(folder)


async def ask(mesh: Mesh, *, model: str = "emulated-8b") -> int:
    async with await mesh.client() as client:
        answer = await client.fetch("POST", PATH, completion_body("hello", model=model))
        if answer.status == 200:
            assert unary_text(answer.body) == expected_text("hello", 4)
        return answer.status


async def test_a_mesh_serves_through_every_one_of_its_nodes(trust: TrustDomain) -> None:
    engines = [EmulatorConfig(models=(model,), profile="tiny") for model in ("model-a", "model-b")]
    plan = MeshPlan(gpus=[GpuPlan(engines=[engine]) for engine in engines])
    async with running_mesh(plan, trust=trust) as mesh:
        assert [node.name for node in mesh.nodes] == ["edge", "gpu-a", "gpu-b"]
        for model in ("model-a", "model-b"):
            assert await ask(mesh, model=model) == 200


async def test_a_mesh_without_a_trust_domain_makes_its_own() -> None:
    async with running_mesh(SMALL) as mesh:
        assert await ask(mesh) == 200


@pytest.mark.slow
async def test_a_node_that_was_killed_comes_back_on_its_port(trust: TrustDomain) -> None:
    async with running_mesh(SMALL, trust=trust) as mesh:
        address = mesh.gpus[0].mesh_address
        await mesh.gpus[0].kill()
        assert not mesh.gpus[0].running
        await mesh.wait_out(0)
        await mesh.gpus[0].start()
        assert mesh.gpus[0].mesh_address == address
        await mesh.wait_ready()
        assert await ask(mesh) == 200


async def test_a_router_that_was_stopped_comes_back_on_its_port(trust: TrustDomain) -> None:
    async with running_mesh(SMALL, trust=trust) as mesh:
        await mesh.router.stop()
        await mesh.router.start()
        await mesh.wait_ready()
        assert await ask(mesh) == 200


async def test_an_engine_may_die_and_come_back_while_its_node_lives(trust: TrustDomain) -> None:
    async with running_mesh(SMALL, trust=trust) as mesh:
        await mesh.engine.kill()
        assert await ask(mesh) == 502
        await mesh.engine.start()
        assert await ask(mesh) == 200


async def test_a_failure_in_the_block_comes_out_as_it_is(trust: TrustDomain) -> None:
    with pytest.raises(ZeroDivisionError):
        async with running_mesh(SMALL, trust=trust):
            raise ZeroDivisionError


async def test_a_request_that_is_left_is_named_on_every_node_that_holds_it(trust: TrustDomain) -> None:
    async with running_mesh(SMALL, trust=trust) as mesh, await mesh.client() as client:
        mesh.engine.faults.frozen = True
        await client.send("POST", PATH, completion_body())
        await wait_until(lambda: mesh.engine.server.drivers["emulated-8b"].in_flight, "it is with the engine")
        with pytest.raises(NeverSo) as caught:
            await mesh.wait_quiet(clients=1, within_s=0.01)
        for part in ("edge: 1 requests", "edge: 1 admitted", "gpu-a: 1 forwarded", "engine 0 of gpu-a: 1 requests"):
            assert part in str(caught.value)
        mesh.engine.faults.frozen = False


async def test_a_connection_that_is_left_is_named(trust: TrustDomain) -> None:
    async with running_mesh(SMALL, trust=trust) as mesh, await trio.open_tcp_stream(*mesh.router.client_address):
        await mesh.wait_quiet(clients=1)
        with pytest.raises(NeverSo, match=r"connections accepted by the router: \{'client': 1, 'mesh': 0\}"):
            await mesh.wait_quiet(within_s=0.01)


async def test_a_task_that_is_left_is_found(trust: TrustDomain) -> None:
    async with running_mesh(SMALL, trust=trust) as mesh:
        assert mesh.leftovers.found() == []
        listener = mesh.router.task
        assert listener is not None
        [nursery] = listener.child_nurseries
        with trio.CancelScope() as scope:
            nursery.start_soon(stay, scope)
            assert mesh.leftovers.found() == [f"edge: 1 more tasks {__name__}.stay"]
            scope.cancel()
        await mesh.wait_quiet()


async def stay(scope: trio.CancelScope) -> None:
    while not scope.cancel_called:
        await trio.lowlevel.checkpoint()


async def test_an_error_in_a_nodes_log_fails_the_block(trust: TrustDomain) -> None:
    with pytest.raises(AssertionError, match="a node logged an error"):
        async with running_mesh(SMALL, trust=trust) as mesh:
            mesh.router.node.telemetry.log.error("something_broke")
