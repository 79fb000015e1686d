"""A slow node: second copies within their budget, whole answers, and losers that are cancelled down to the engine."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
import trio

from infermesh.emulator import EmulatorConfig, Faults
from infermesh.planes.data.record import RequestRecord
from infermesh.testing.bystander import fault_counts
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import PATH, completion_body, event_text, expected_text, unary_text
from infermesh.testing.h11_client import H11Client
from infermesh.testing.mesh import Mesh, MeshEngine, running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan, gpu_name
from infermesh.testing.waiting import NeverSo, wait_until

TOKENS = 4
ABORT_SEEN_S = 0.05
ENGINE = GpuPlan(engines=[EmulatorConfig(models=(MODEL,), profile="tiny")])
PLAN = MeshPlan(gpus=[ENGINE, ENGINE, ENGINE], router={"hedging.floor_ms": "25"}, bystander=None)


async def ask(client: H11Client, name: str, *, stream: bool) -> str:
    """One request, named towards the engines as well; asserts that its answer is whole. Returns the router's name."""
    with trio.fail_after(20):
        return await _ask(client, name, stream=stream)


async def _ask(client: H11Client, name: str, *, stream: bool) -> str:
    headers = [("x-request-id", name)]
    if not stream:
        answer = await client.fetch("POST", PATH, completion_body(name, TOKENS), headers)
        assert answer.status == 200, answer
        assert unary_text(answer.body) == expected_text(name, TOKENS)
        return answer.headers["x-infermesh-request-id"]
    await client.send("POST", PATH, completion_body(name, TOKENS, stream=True), headers)
    head = await client.head()
    assert head.status_code == 200, head
    events = [event async for event in client.events()]
    assert events[-1] == "[DONE]"
    assert "".join(map(event_text, events)) == expected_text(name, TOKENS)
    client.machine.start_next_cycle()
    return dict(head.headers)[b"x-infermesh-request-id"].decode()


async def ask_a_frozen_engine(mesh: Mesh, client: H11Client, name: str, *, stream: bool) -> str:
    """The first engine that sees it freezes with it, until the answer came from elsewhere, or none will come."""
    engines = [engines[0] for engines in mesh.engines]
    hedges = mesh.router.node.telemetry.metrics.hedges
    denied = hedges.sum(result="denied")

    async def freeze_the_first() -> None:
        await wait_until(lambda: any(busy(engine) for engine in engines), "an engine has it", within_s=20)
        first = next(engine for engine in engines if busy(engine))
        for engine in engines:
            engine.faults.frozen = engine is first
        with suppress(NeverSo):
            await wait_until(lambda: hedges.sum(result="denied") > denied, "a hedge was denied", within_s=2)
        thaw(mesh)

    for engine in engines:
        engine.faults.frozen = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(freeze_the_first)
        request_id = await ask(client, name, stream=stream)
        nursery.cancel_scope.cancel()
    thaw(mesh)
    return request_id


def busy(engine: MeshEngine) -> bool:
    return engine.server.drivers[MODEL].in_flight > 0


def thaw(mesh: Mesh) -> None:
    for engines in mesh.engines:
        engines[0].faults.frozen = False


def record_of(mesh: Mesh, request_id: str) -> RequestRecord:
    found = mesh.router.node.telemetry.ledger.find(request_id)
    assert found is not None
    return found


def abort_delays_s(mesh: Mesh, records: dict[str, RequestRecord]) -> dict[str, float]:
    """By request: from the moment when its winner's first byte came until a loser's engine was told."""
    to_unix_s = time.time() - trio.current_time()
    aborts = [abort for engines in mesh.engines for abort in engines[0].server.stats.aborts]
    return {
        name: abort.unix_s - (records[name].first_byte_at + to_unix_s)
        for abort in aborts
        for name in [abort.request_id.removeprefix("cmpl-")]
        if name in records
    }


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_requests_whose_engine_freezes_are_hedged_within_the_budget_and_lose_nothing(
    trust: TrustDomain, stream: bool
) -> None:
    count, frozen_every = 240, 30
    records: dict[str, RequestRecord] = {}
    frozen: set[str] = set()
    async with running_mesh(PLAN, trust=trust) as mesh, await mesh.client() as client:
        for number in range(count):
            name = f"request-{number}"
            if number % frozen_every == frozen_every - 1:
                frozen.add(name)
                request_id = await ask_a_frozen_engine(mesh, client, name, stream=stream)
            else:
                request_id = await ask(client, name, stream=stream)
            records[name] = record_of(mesh, request_id)
        await mesh.wait_quiet(clients=1)
        hedged = {name: record for name, record in records.items() if len(record.attempts) > 1}
        hedges = fault_counts(mesh)
        # Not each of them: where requests were slow for other reasons the budget may be spent.
        assert len(hedged.keys() & frozen) >= len(frozen) // 2
        for record in hedged.values():
            # On a busy machine the first copy may still win against its hedge.
            losers = [attempt for attempt in record.attempts if attempt.node != record.winner]
            assert [attempt.verdict for attempt in losers] == ["cancelled"]
        # Extra work: each hedge is at most one more request.
        assert hedges[f"edge hedges {MODEL} fired"] == len(hedged)
        assert len(hedged) <= 1 + 0.05 * count
        delays = abort_delays_s(mesh, hedged)
        # On a busy machine another one may be hedged as well, and its loser may be done before it is cancelled.
        assert delays.keys() >= hedged.keys() & frozen, "each loser on a frozen engine was aborted there"
        assert max(delays.values()) < ABORT_SEEN_S, sorted(delays.values())


@pytest.mark.slow
async def test_a_node_that_turns_slow_is_hedged_at_first_and_avoided_then(trust: TrustDomain) -> None:
    count = 200
    async with running_mesh(PLAN, trust=trust) as mesh, await mesh.client() as client:
        for number in range(40):
            await ask(client, f"warm-{number}", stream=True)
        slow = favourite(mesh)
        mesh.engines[slow][0].faults.slow_factor = 100.0
        records = {}
        for number in range(count):
            name = f"request-{number}"
            records[name] = record_of(mesh, await ask(client, name, stream=True))
        mesh.engines[slow][0].faults.slow_factor = 1.0
        await mesh.wait_quiet(clients=1)
        hedged = {name: record for name, record in records.items() if len(record.attempts) > 1}
        to_slow = [record for record in records.values() if record.attempts[0].node == gpu_name(slow)]
        assert to_slow
        assert len(to_slow) < count / 5, "it is avoided"
        assert hedged
        assert len(hedged) <= 1 + 0.05 * (count + 40)
        delays = abort_delays_s(mesh, hedged)
        assert max(delays.values()) < ABORT_SEEN_S, sorted(delays.values())


def favourite(mesh: Mesh) -> int:
    """The node that the next request would go to."""
    score = mesh.router.node.sources.score(MODEL, 2, TOKENS)
    assert score is not None
    candidates = score["candidates"]
    assert isinstance(candidates, list)
    return [gpu_name(index) for index in range(len(mesh.gpus))].index(candidates[0]["node"])


@pytest.mark.slow
async def test_a_hedge_beyond_the_budget_is_denied_and_the_first_attempt_goes_on(trust: TrustDomain) -> None:
    plan = MeshPlan(gpus=[ENGINE, ENGINE], router={"hedging.floor_ms": "10", "hedging.budget": "0"}, bystander=None)
    async with running_mesh(plan, trust=trust) as mesh, await mesh.client() as client:
        for engines in mesh.engines:
            engines[0].faults.frozen = True
        await client.send("POST", PATH, completion_body("patience", TOKENS))
        denied = mesh.router.node.telemetry.metrics.hedges
        await wait_until(lambda: denied.sum(result="denied"), "a hedge was thought of")
        for engines in mesh.engines:
            engines[0].faults.frozen = False
        assert (await client.head()).status_code == 200
        assert sum(engines[0].server.stats.models[MODEL].submitted for engines in mesh.engines) == 1


@pytest.mark.slow
async def test_a_client_may_forbid_a_second_copy(trust: TrustDomain) -> None:
    plan = MeshPlan(gpus=[ENGINE, ENGINE], router={"hedging.floor_ms": "10"}, bystander=None)
    async with running_mesh(plan, trust=trust) as mesh, await mesh.client() as client:
        for engines in mesh.engines:
            engines[0].faults.become(Faults(requests_left=1, stuck=True))
        headers = [("x-infermesh-hedge", "never"), ("x-infermesh-deadline-ms", "200")]
        answer = await client.fetch("POST", PATH, completion_body("once", TOKENS), headers)
        assert answer.status == 504
        assert answer.headers["x-infermesh-attempts"] == "1"
