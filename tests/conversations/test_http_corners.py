"""Corners of HTTP that a whole mesh must get round: old versions, loops, numbers without a limit, last answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import trio

from infermesh.emulator import EmulatorConfig
from infermesh.testing.bystander import unharmed
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import PATH, completion_body, error_code, event_text, expected_text, unary_text
from infermesh.testing.h11_client import read_answers
from infermesh.testing.http_peer import PeerResponse
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan
from infermesh.testing.scripted_runtime import scripted_runtime
from infermesh.testing.waiting import wait_until


async def exchange(mesh: Mesh, sent: bytes) -> bytes:
    """Everything that comes back until the mesh closes the connection."""
    stream = await trio.open_tcp_stream(*mesh.router.client_address)
    async with stream:
        await stream.send_all(sent)
        return b"".join([piece async for piece in stream])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_client_of_http_1_0_needs_no_host_and_gets_no_chunks(trust: TrustDomain, *, stream: bool) -> None:
    body = completion_body("old", 4, stream=stream)
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted={}):
        received = await exchange(
            mesh, b"POST /v1/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
    head, _, text = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"chunked" not in head
    if stream:
        events = [event.removeprefix("data: ") for event in text.decode().split("\n\n")[:-1]]
        assert events[-1] == "[DONE]"
        assert "".join(map(event_text, events)) == expected_text("old", 4)
    else:
        assert unary_text(text) == expected_text("old", 4)


@pytest.mark.parametrize("via", ["1.1 edge", "1.0 front, HTTP/1.1 edge (infermesh)", "1.1 gpu-a, 1.1\tedge"])
async def test_a_request_that_has_passed_the_router_before_is_refused(trust: TrustDomain, via: str) -> None:
    counted = {"edge bad_requests client loop": 1}
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted), await mesh.client() as client:
        answer = await client.fetch("POST", PATH, completion_body(), [("via", via)])
    assert (answer.status, error_code(answer.body)) == (508, "loop_detected")


@pytest.mark.parametrize("via", ["1.1 edge-2", "1.1 front (edge)", "edge"])
async def test_a_request_that_has_passed_others_is_served(trust: TrustDomain, via: str) -> None:
    async with running_mesh(trust=trust) as mesh, await mesh.client() as client:
        assert (await client.fetch("POST", PATH, completion_body(), [("via", via)])).status == 200


async def test_a_cap_on_tokens_that_no_float_holds_is_passed_on_and_harms_nobody(trust: TrustDomain) -> None:
    body = completion_body("big", 4).replace(b'"max_tokens":4', b'"max_tokens":4' + b"0" * 400)
    async with running_mesh(trust=trust) as mesh, await mesh.client() as client:
        answer = await client.fetch("POST", PATH, body)
        assert answer.status == 400, "the engine's own word on it"
        assert answer.headers["x-infermesh-node"] == "gpu-a"


async def test_a_client_in_many_headers_is_refused_at_the_door_as_set(trust: TrustDomain) -> None:
    plan = MeshPlan(router={"client.head_bytes_max": "1024"})
    counted = {"edge bad_requests client head_oversized": 1}
    async with running_mesh(plan, trust=trust) as mesh, unharmed(mesh, counted=counted):
        received = await exchange(mesh, b"GET /v1/models HTTP/1.1\r\nhost: mesh\r\nx: " + b"y" * 1024 + b"\r\n\r\n")
        [answer] = read_answers(received)
    assert answer.status == 431
    assert json.loads(answer.body)["error"]["code"] == "head_oversized"


@pytest.mark.parametrize("name", ["owner/model-1b", "owner%2Fmodel-1b", "owner%2fmodel%2D1b"])
async def test_a_model_is_found_by_its_name_however_its_path_is_written(trust: TrustDomain, name: str) -> None:
    plan = MeshPlan(gpus=[GpuPlan(engines=[EmulatorConfig(models=("owner/model-1b",), profile="tiny")])])
    async with running_mesh(plan, trust=trust) as mesh, await mesh.client() as client:
        answer = await client.fetch("GET", f"/v1/models/{name}")
        assert json.loads(answer.body)["id"] == "owner/model-1b"
        answer = await client.fetch("GET", "/v1/models/owner%252Fmodel-1b")
        assert (answer.status, error_code(answer.body)) == (404, "model_not_found"), "decoded once"


async def test_requests_that_wait_for_a_slot_are_shown(trust: TrustDomain, nursery: trio.Nursery) -> None:
    free = trio.Event()

    async def slow(response: PeerResponse) -> None:
        await free.wait()
        await response.send(b"{}")

    async with scripted_runtime(slow) as runtime:
        plan = MeshPlan(
            gpus=[GpuPlan(engines=[], runtimes=[replace(runtime, slots=1)])],
            bystander=None,
            router={"admission.overcommit": "1", "hedging.enabled": "false"},
        )
        async with running_mesh(plan, trust=trust) as mesh:
            sources = mesh.router.node.sources
            async with await mesh.client() as one, await mesh.client() as two:
                for client in (one, two):
                    await client.send("POST", PATH, completion_body())
                await wait_until(lambda: sources.metrics.admission_queue_depth.by("model") == {MODEL: 1}, "one waits")
                free.set()
                for client in (one, two):
                    assert (await client.head()).status_code == 200
            assert sources.metrics.admission_queue_depth.by("model") == {MODEL: 0}


@pytest.mark.slow
async def test_a_node_that_stops_lets_a_slow_client_take_its_last_answer_whole(
    trust: TrustDomain, nursery: trio.Nursery
) -> None:
    sent = 0

    async def fill(response: PeerResponse) -> None:
        """Until the client's connection is full and the router keeps the rest."""
        nonlocal sent
        await response.start(200, [(b"transfer-encoding", b"chunked")])
        while not mesh.router.node.holdings().unsent_bytes:
            await response.write(b"y" * 32_768)
            sent += 32_768
            await trio.sleep(0.001)
        await response.finish()

    async with scripted_runtime(fill) as runtime:
        plan = MeshPlan(gpus=[GpuPlan(engines=[], runtimes=[runtime])], bystander=None)
        async with running_mesh(plan, trust=trust) as mesh, await mesh.client() as client:
            await client.send("POST", PATH, completion_body())
            await client.head()
            await wait_until(lambda: not mesh.router.node.holdings().requests, "the answer is made")
            assert mesh.router.node.holdings().unsent_bytes
            nursery.start_soon(mesh.router.stop)
            await trio.sleep(0.1)
            received = 0
            async for piece in client.data():
                received += len(piece)
            assert received == sent
