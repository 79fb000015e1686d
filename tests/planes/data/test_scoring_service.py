"""The scoring service on a router of a whole mesh, called as its mesh port calls it; tickets with short leases."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

import pytest
import trio
from google.protobuf.message import Message

from infermesh.core.model.names import ModelName
from infermesh.core.model.outcome import Outcome, Verdict
from infermesh.emulator import EmulatorConfig
from infermesh.planes.data.peek import MODEL_CHARS_MAX
from infermesh.planes.data.scoring_service import BLOCKS_MAX, OUTCOMES_MAX, LeaseRules, ScoringService
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan
from infermesh.testing.waiting import wait_until
from wire.grpc import NO_METADATA, Code, Encoding, Metadata, RpcError
from wire.grpc.metadata import Pair
from wire.proto.infermesh.scoring.v1 import scoring_pb2 as pb

ONE_SLOT = MeshPlan(gpus=[GpuPlan(engines=[EmulatorConfig(models=(MODEL,), profile="tiny", slots=1)])], bystander=None)
FACTS = pb.RequestFacts(model=MODEL, prompt_bytes=4_000, output_tokens_max=100)
OK = pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_OK, first_byte_s=0.1, total_s=1.0)


@dataclass(frozen=True)
class _Peer:
    node: str
    trust_domain: str = "test.mesh"


class _Context:
    """A call's context without a call."""

    path = "/test"
    peer: _Peer | None = _Peer("edge-2")
    metadata: Metadata = NO_METADATA
    deadline = math.inf

    def set_leading(self, pairs: Iterable[Pair]) -> None: ...
    def set_trailing(self, pairs: Iterable[Pair]) -> None: ...
    def set_encoding(self, encoding: Encoding) -> None: ...
    def abort(self, code: Code, message: str, details: Iterable[Message] = ()) -> NoReturn:
        raise RpcError(code, message)


CALL = _Context()


class _Rig:
    def __init__(self, mesh: Mesh, rules: LeaseRules) -> None:
        self.mesh = mesh
        self.told: list[Outcome] = []
        frontend = mesh.router.node.frontend
        assert frontend is not None
        self.gate = frontend.gate
        self.router = frontend.host.router
        self.service = ScoringService(frontend, frontend.host.timers, self.told.append, rules)

    @property
    def inflight(self) -> int:
        return self.gate.inflight(ModelName(MODEL))

    @property
    def waiting(self) -> int:
        return self.gate.queue_len(ModelName(MODEL))

    async def admitted(self) -> pb.Admitted:
        answer = await self.service.admit(pb.AdmitRequest(facts=FACTS), CALL)
        assert answer.HasField("admitted"), answer
        return answer.admitted

    async def report(self, *outcomes: pb.Outcome) -> tuple[int, int]:
        answer = await self.service.report_outcome(pb.ReportOutcomeRequest(outcomes=outcomes), CALL)
        return answer.taken, answer.unknown


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    return TrustDomain(tmp_path_factory.mktemp("trust"))


@asynccontextmanager
async def _rig(trust: TrustDomain, plan: MeshPlan = ONE_SLOT, rules: LeaseRules | None = None) -> AsyncIterator[_Rig]:
    async with running_mesh(plan, trust=trust) as mesh:
        rig = _Rig(mesh, rules or LeaseRules())
        with trio.fail_after(10):
            yield rig
        assert (rig.service.leases, rig.inflight, rig.waiting) == (0, 0, 0)


# --- scores ---


async def test_every_target_is_scored_best_first_as_the_router_itself_would(trust: TrustDomain) -> None:
    async with _rig(trust, MeshPlan(gpus=[GpuPlan(), GpuPlan()])) as rig:
        answer = await rig.service.score_targets(pb.ScoreTargetsRequest(facts=FACTS), CALL)
        assert sorted(candidate.target.node for candidate in answer.candidates) == ["gpu-a", "gpu-b"]
        scores = [candidate.score_ms for candidate in answer.candidates]
        assert scores == sorted(scores)
        best = answer.candidates[0]
        assert best.target.address == f"127.0.0.1:{rig.mesh.gpus[best.target.node == 'gpu-b'].mesh_address[1]}"
        assert best.prediction.ttft_ms > 0
        assert best.prediction.total_ms >= best.prediction.ttft_ms
        assert best.prediction.uncached_tokens > 0
        assert answer.policy
        assert answer.view_version == rig.mesh.router.node.sources.view().version
        one = await rig.service.score_targets(pb.ScoreTargetsRequest(facts=FACTS, candidates_max=1), CALL)
        assert len(one.candidates) == 1
        assert rig.router.inflight(next(iter(rig.mesh.router.node.sources.view().targets))) == 0


async def test_a_target_that_may_not_be_chosen_is_named_with_its_reason(trust: TrustDomain) -> None:
    async with _rig(trust, MeshPlan(gpus=[GpuPlan(), GpuPlan()])) as rig:
        await rig.mesh.gpus[1].kill()
        await rig.mesh.wait_out(1)
        answer = await rig.service.score_targets(pb.ScoreTargetsRequest(facts=FACTS), CALL)
        assert [candidate.target.node for candidate in answer.candidates] == ["gpu-a"]
        [excluded] = answer.excluded
        assert (excluded.target.node, "dead" in excluded.reason) == ("gpu-b", True)


IMPOSSIBLE: list[tuple[pb.RequestFacts, Code, str]] = [
    (pb.RequestFacts(), Code.INVALID_ARGUMENT, "facts.model must be a name"),
    (pb.RequestFacts(model="m" * (MODEL_CHARS_MAX + 1)), Code.INVALID_ARGUMENT, "facts.model must be a name"),
    (pb.RequestFacts(model="unheard-of"), Code.NOT_FOUND, "no node of this fleet serves 'unheard-of'"),
    (pb.RequestFacts(model=MODEL, blocks=[1] * (BLOCKS_MAX + 1)), Code.INVALID_ARGUMENT, "facts.blocks has 4097"),
    (pb.RequestFacts(model=MODEL, first_byte_within_s=math.nan), Code.INVALID_ARGUMENT, "first_byte_within_s is nan"),
    (pb.RequestFacts(model=MODEL, first_byte_within_s=-1.0), Code.INVALID_ARGUMENT, "first_byte_within_s is -1.0"),
    (pb.RequestFacts(model=MODEL, first_byte_within_s=1e9), Code.INVALID_ARGUMENT, "first_byte_within_s is 1000000"),
]


async def test_facts_that_cannot_be_are_refused_by_both_methods(trust: TrustDomain) -> None:
    async with _rig(trust) as rig:
        for facts, code, said in IMPOSSIBLE:
            with pytest.raises(RpcError, match=said) as caught:
                await rig.service.score_targets(pb.ScoreTargetsRequest(facts=facts), CALL)
            assert caught.value.code is code
            with pytest.raises(RpcError, match=said):
                await rig.service.admit(pb.AdmitRequest(facts=facts), CALL)
        largest = pb.RequestFacts(
            model=MODEL, blocks=[1] * BLOCKS_MAX, first_byte_within_s=86_400.0, prompt_bytes=2**63
        )
        assert (await rig.service.score_targets(pb.ScoreTargetsRequest(facts=largest), CALL)).candidates


# --- admission ---


async def test_whoever_is_let_in_holds_a_slot_until_its_request_is_over(trust: TrustDomain) -> None:
    async with _rig(trust) as rig:
        admitted = await rig.admitted()
        assert (admitted.lease_s, rig.inflight, rig.service.leases) == (600.0, 1, 1)
        outcome = pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_SERVER_ERROR, ticket=admitted.ticket)
        assert await rig.report(outcome) == (1, 0)
        assert rig.inflight == 1  # Not its last attempt.
        outcome.verdict, outcome.final = pb.VERDICT_OK, True
        assert await rig.report(outcome) == (1, 0)
        assert rig.inflight == 0
        assert [told.verdict for told in rig.told] == [Verdict.SERVER_ERROR, Verdict.OK]
        assert await rig.report(outcome) == (0, 1)  # The ticket is out no more.


async def test_the_next_waits_in_the_line_that_clients_stand_in(trust: TrustDomain) -> None:
    async with _rig(trust) as rig, trio.open_nursery() as nursery:
        first = await rig.admitted()
        second: list[pb.AdmitResponse] = []

        async def ask() -> None:
            second.append(await rig.service.admit(pb.AdmitRequest(facts=FACTS, predicted_ttft_ms=5, work_ms=10), CALL))

        nursery.start_soon(ask)
        await wait_until(lambda: rig.waiting == 1, "it waits")
        assert second == []
        rig.service.release(first.ticket)
        await wait_until(lambda: second, "it is let in")
        assert second[0].waited_ms > 0
        assert second[0].admitted.ticket != first.ticket
        rig.service.release(second[0].admitted.ticket)


async def test_a_refusal_says_why_and_when_to_come_back(trust: TrustDomain) -> None:
    async with _rig(trust) as rig:
        first = await rig.admitted()
        hurried = pb.RequestFacts(model=MODEL, first_byte_within_s=0.001)
        request = pb.AdmitRequest(facts=hurried, predicted_ttft_ms=500, work_ms=1000)
        answer = await rig.service.admit(request, CALL)
        assert answer.WhichOneof("decision") == "refused"
        assert answer.refused.reason == pb.REFUSAL_REASON_DEADLINE
        assert answer.refused.retry_after_s > 0
        rig.service.release(first.ticket)


async def test_a_ticket_of_which_nothing_is_heard_is_given_back(trust: TrustDomain) -> None:
    async with _rig(trust, rules=LeaseRules(lease_s=0.05)) as rig:
        admitted = await rig.admitted()
        assert admitted.lease_s == 0.05
        await wait_until(lambda: rig.inflight == 0, "its lease has run out")
        final = pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_OK, ticket=admitted.ticket, final=True)
        assert await rig.report(final) == (0, 1)


async def test_a_ticket_is_given_back_by_the_node_alone_that_was_given_it(trust: TrustDomain) -> None:
    async with _rig(trust) as rig:
        admitted = await rig.admitted()
        final = pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_OK, ticket=admitted.ticket, final=True)
        report = pb.ReportOutcomeRequest(outcomes=[final])
        stranger = _Context()
        stranger.peer = _Peer("gpu-b")
        assert (await rig.service.report_outcome(report, stranger)).taken == 0
        assert rig.inflight == 1
        assert (await rig.service.report_outcome(report, CALL)).taken == 1
        assert rig.inflight == 0


async def test_tickets_that_are_out_have_a_limit(trust: TrustDomain) -> None:
    async with _rig(trust, MeshPlan(), rules=LeaseRules(leases_max=2)) as rig:
        tickets = [(await rig.admitted()).ticket for _ in range(2)]
        with pytest.raises(RpcError, match="2 tickets are out; report how") as caught:
            await rig.admitted()
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        rig.service.release(tickets.pop())
        tickets.append((await rig.admitted()).ticket)
        for ticket in tickets:
            rig.service.release(ticket)


async def test_a_caller_that_gives_up_in_the_line_leaves_it(trust: TrustDomain) -> None:
    async with _rig(trust) as rig:
        first = await rig.admitted()
        with trio.move_on_after(0.05) as scope:
            await rig.admitted()
        assert scope.cancelled_caught
        assert (rig.waiting, rig.inflight) == (0, 1)
        rig.service.release(first.ticket)


@pytest.mark.parametrize("admitted_first", [True, False])
async def test_let_in_and_cancelled_in_the_same_turn_no_slot_is_lost(
    trust: TrustDomain, *, admitted_first: bool
) -> None:
    async with _rig(trust) as rig:
        first = await rig.admitted()
        scope = trio.CancelScope()

        async def ask() -> None:
            with scope:
                await rig.admitted()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_until(lambda: rig.waiting == 1, "it waits")
            turn: list[Callable[[], object]] = [lambda: rig.service.release(first.ticket), scope.cancel]
            for act in turn if admitted_first else reversed(turn):
                act()
        assert scope.cancelled_caught
        assert (rig.inflight, rig.waiting, rig.service.leases) == (0, 0, 0)


async def test_a_caller_that_has_gone_before_it_is_let_in_at_once_gets_no_lease(trust: TrustDomain) -> None:
    async with _rig(trust) as rig:
        with trio.CancelScope() as scope:
            scope.cancel()
            await rig.admitted()
        assert scope.cancelled_caught
        assert (rig.inflight, rig.service.leases) == (0, 0)


# --- outcomes ---


async def test_outcomes_reach_the_kernel_as_they_were_told(trust: TrustDomain) -> None:
    async with _rig(trust) as rig:
        bad = pb.Outcome(
            node="gpu-a",
            model=MODEL,
            verdict=pb.VERDICT_BROKEN,
            total_s=2.5,
            count=7,
            detail="cut\n\x1b[2J" + "x" * 300,
        )
        many = pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_OK, count=7)
        assert await rig.report(OK, bad, many) == (3, 0)
        first, second, third = rig.told
        assert (first.verdict, first.first_byte_s, first.total_s, first.count) == (Verdict.OK, 0.1, 1.0, 1)
        assert (second.verdict, second.total_s, second.count) == (Verdict.BROKEN, 2.5, 1)
        assert second.detail.startswith("cut[2Jxxx")  # What does not print is left out.
        assert len(second.detail) <= 200
        assert third.count == 7


async def test_targets_that_nobody_knows_are_counted_and_passed_over(trust: TrustDomain) -> None:
    async with _rig(trust) as rig:
        elsewhere = pb.Outcome(node="gpu-z", model=MODEL, verdict=pb.VERDICT_OK)
        other_replica = pb.Outcome(node="gpu-a", model=MODEL, replica=3, verdict=pb.VERDICT_OK)
        assert await rig.report(elsewhere, OK, other_replica) == (1, 2)
        assert len(rig.told) == 1


WRONG: list[tuple[pb.Outcome, str]] = [
    (pb.Outcome(node="gpu-a", model=MODEL), r"outcomes\[1\].verdict is 0"),
    (
        pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_OK, first_byte_s=math.nan),
        r"outcomes\[1\]: first_byte_s",
    ),
    (pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_OK, total_s=-1.0), "total_s -1.0"),
    (pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_OK, total_s=86_401.0), "total_s 86401.0"),
    (pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_OK, replica=10_000), "replica 10000"),
    (pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_OK, count=1_000_001), "count 1000001"),
]


async def test_a_report_with_one_mistake_is_refused_whole(trust: TrustDomain) -> None:
    async with _rig(trust) as rig:
        admitted = await rig.admitted()
        final = pb.Outcome(node="gpu-a", model=MODEL, verdict=pb.VERDICT_OK, ticket=admitted.ticket, final=True)
        for wrong, said in WRONG:
            with pytest.raises(RpcError, match=said) as caught:
                await rig.report(final, wrong)
            assert caught.value.code is Code.INVALID_ARGUMENT
        assert (rig.told, rig.inflight) == ([], 1)
        assert await rig.report(final) == (1, 0)


async def test_outcomes_in_one_call_have_a_limit(trust: TrustDomain) -> None:
    async with _rig(trust) as rig:
        assert await rig.report(*[OK] * OUTCOMES_MAX) == (OUTCOMES_MAX, 0)
        with pytest.raises(RpcError, match="1001 outcomes in one call"):
            await rig.report(*[OK] * (OUTCOMES_MAX + 1))
