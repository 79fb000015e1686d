"""A fleet that is full: who is let in is served in time, who is not is told a time that comes true."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio

from infermesh.emulator import EmulatorConfig
from infermesh.testing.bystander import fault_counts
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import PATH, completion_body, error_code, expected_text, unary_text
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan
from infermesh.testing.waiting import wait_until

TOKENS = 25
DEADLINE_S = 2.5
CLIENTS = 110
# Two slots at 2 ms a token: 40 requests a second, and a queue of one second in front of them.
SLOW = EmulatorConfig(models=(MODEL,), profile="tiny", speed=0.5, slots=2)
PLAN = MeshPlan(gpus=[GpuPlan(engines=[SLOW])], router={"admission.queue_len_max": "40"}, bystander=None)


@dataclass
class Told:
    """What the clients of a burst met."""

    first_byte_s: list[float] = field(default_factory=list)  # Of those served, at whichever try.
    retry_after_s: list[int] = field(default_factory=list)  # Of those refused.
    refused_again: int = 0  # Of those who waited as long as they were told.
    late: int = 0


async def insist(mesh: Mesh, name: str, told: Told) -> None:
    """A client that does what it is told: it waits for as long as Retry-After says, and comes back."""
    async with await mesh.client() as client:
        for attempt in range(4):
            began = trio.current_time()
            headers = [("x-infermesh-deadline-ms", str(DEADLINE_S * 1e3))]
            answer = await client.fetch("POST", PATH, completion_body(name, TOKENS), headers)
            if answer.status == 200:
                assert unary_text(answer.body) == expected_text(name, TOKENS)
                told.first_byte_s.append(trio.current_time() - began)
                return
            assert answer.status == 429, answer
            assert error_code(answer.body) in ("queue_full", "deadline", "shed", "expired")
            if attempt:
                told.refused_again += 1
            told.retry_after_s.append(int(answer.headers["retry-after"]))
            await trio.sleep(told.retry_after_s[-1])
    raise AssertionError(f"{name} was refused four times")


@pytest.mark.slow
async def test_a_full_fleet_serves_whom_it_takes_in_time_and_tells_the_others_when(trust: TrustDomain) -> None:
    told = Told()
    async with running_mesh(PLAN, trust=trust) as mesh:
        async with await mesh.client() as client:
            for number in range(20):  # What a request costs here is learnt, as it would be in a fleet that has run.
                await client.fetch("POST", PATH, completion_body(f"usual {number}", TOKENS))
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(insist, mesh, f"client {number}", told)
        assert len(told.first_byte_s) == CLIENTS
        assert max(told.first_byte_s) < DEADLINE_S
        # The queue holds a second, the burst is more than two: many had to come back, and found room when they did.
        assert len(told.retry_after_s) >= CLIENTS - 2 - 40 - 20
        # Nine in ten on a quiet machine; a busy one drains more slowly than it said it would.
        assert told.refused_again <= 0.25 * len(told.retry_after_s)
        assert max(told.retry_after_s) <= 8
        rejected = {name: count for name, count in fault_counts(mesh).items() if "rejected" in name}
        assert sum(rejected.values()) == len(told.retry_after_s)
        assert not [name for name in fault_counts(mesh) if "inferences" in name], "nobody failed"


async def test_who_could_not_be_served_by_its_deadline_is_refused_at_once(trust: TrustDomain) -> None:
    async with (
        running_mesh(PLAN, trust=trust) as mesh,
        await mesh.client() as first,
        await mesh.client() as second,
        await mesh.client() as third,
    ):
        mesh.engine.faults.frozen = True
        await first.send("POST", PATH, completion_body("one", TOKENS))
        await second.send("POST", PATH, completion_body("two", TOKENS))
        await wait_until(lambda: mesh.router.node.holdings().admitted == 2, "both slots are taken")
        answer = await third.fetch("POST", PATH, completion_body(), [("x-infermesh-deadline-ms", "1")])
        assert answer.status == 429
        assert error_code(answer.body) == "deadline"
        assert int(answer.headers["retry-after"]) >= 1
        mesh.engine.faults.frozen = False
        assert (await first.head()).status_code == (await second.head()).status_code == 200
        assert fault_counts(mesh) == {f"edge requests_rejected {MODEL} deadline": 1}


async def test_a_more_urgent_request_takes_the_place_of_one_that_waits(trust: TrustDomain) -> None:
    one_place = MeshPlan(gpus=PLAN.gpus, router={"admission.queue_len_max": "1"}, bystander=None)
    async with (
        running_mesh(one_place, trust=trust) as mesh,
        await mesh.client() as first,
        await mesh.client() as second,
        await mesh.client() as bulk,
        await mesh.client() as urgent,
    ):
        mesh.engine.faults.frozen = True
        await first.send("POST", PATH, completion_body("one", TOKENS))
        await second.send("POST", PATH, completion_body("two", TOKENS))
        await wait_until(lambda: mesh.router.node.holdings().admitted == 2, "both slots are taken")
        await bulk.send("POST", PATH, completion_body("bulk", TOKENS), [("x-infermesh-priority", "bulk")])
        await wait_until(lambda: mesh.router.node.holdings().waiting == 1, "one waits")
        await urgent.send("POST", PATH, completion_body("urgent"), [("x-infermesh-priority", "interactive")])
        refused = await bulk.head()
        assert refused.status_code == 429
        assert b"retry-after" in dict(refused.headers)
        mesh.engine.faults.frozen = False
        assert [(await client.head()).status_code for client in (first, second, urgent)] == [200, 200, 200]
        assert fault_counts(mesh) == {f"edge requests_rejected {MODEL} shed": 1}


async def test_without_any_node_a_request_waits_for_a_moment_and_is_told_when_to_come_back(trust: TrustDomain) -> None:
    plan = MeshPlan(router={"admission.queue_wait_max_s": "0.1"}, bystander=None)
    async with running_mesh(plan, trust=trust) as mesh, await mesh.client() as client:
        await mesh.gpus[0].kill()
        await mesh.wait_out(0)
        answer = await client.fetch("POST", PATH, completion_body())
        assert answer.status == 503
        assert error_code(answer.body) == "no_capacity"
        assert int(answer.headers["retry-after"]) >= 1
        assert fault_counts(mesh) == {f"edge requests_rejected {MODEL} no_capacity": 1}
