"""`infermesh.scoring.v1`: what this router knows, for those that route without a meshd of their own beside them.

ScoreTargets shows every target with its prediction and changes nothing. Admit puts the caller's request into the very
line that this router's clients stand in; who is let in holds a slot under a ticket until ReportOutcome says that the
request is over, or until the lease has run out, since a caller may be gone for good. ReportOutcome feeds outlier
ejection; predictions learn from this router's own requests and from the state streams alone.

Served on the mesh port: who asks has a certificate of the trust domain, and any node of it may ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, assert_never

import msgspec
import trio

from infermesh.core.model.names import ModelName, NodeId, target_key
from infermesh.core.model.outcome import Outcome, Verdict
from infermesh.core.model.request import Priority, RequestFacts
from infermesh.core.model.targets import Target
from infermesh.core.routing.arrival import Arrival
from infermesh.core.routing.effects import Admit, RefusalReason, Refuse
from infermesh.core.routing.plan import Candidate
from infermesh.net.timers import Entry, Timers
from infermesh.planes.data.frontend import Frontend
from infermesh.planes.data.inference import slot_ms
from infermesh.planes.data.peek import MODEL_CHARS_MAX, TENANT_CHARS_MAX
from wire.grpc import Code
from wire.grpc.service import ServerContext
from wire.proto.infermesh.scoring.v1 import scoring_pb2 as pb
from wire.proto.infermesh.scoring.v1.scoring_grpc import ScoringServiceBase

BLOCKS_MAX: Final = 4_096
OUTCOMES_MAX: Final = 1_000
_DETAIL_CHARS_MAX: Final = 200
_REPLICA_MAX: Final = 9_999
_SECONDS_MAX: Final = 86_400.0
_COUNT_MAX: Final = 1_000_000

_PRIORITIES: Final = {
    pb.PRIORITY_SYSTEM: Priority.SYSTEM,
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    pb.PRIORITY_DEFAULT: Priority.DEFAULT,
    pb.PRIORITY_BULK: Priority.BULK,
}
_REASONS: Final = {
    RefusalReason.QUEUE_FULL: pb.REFUSAL_REASON_QUEUE_FULL,
    RefusalReason.DEADLINE: pb.REFUSAL_REASON_DEADLINE,
    RefusalReason.SHED: pb.REFUSAL_REASON_SHED,
    RefusalReason.NO_CAPACITY: pb.REFUSAL_REASON_NO_CAPACITY,
    RefusalReason.EXPIRED: pb.REFUSAL_REASON_EXPIRED,
}
_VERDICTS: Final = {
    pb.VERDICT_OK: Verdict.OK,
    pb.VERDICT_CLIENT_ERROR: Verdict.CLIENT_ERROR,
    pb.VERDICT_SERVER_ERROR: Verdict.SERVER_ERROR,
    pb.VERDICT_CONNECT_FAILED: Verdict.CONNECT_FAILED,
    pb.VERDICT_BROKEN: Verdict.BROKEN,
    pb.VERDICT_TIMED_OUT: Verdict.TIMED_OUT,
    pb.VERDICT_CANCELLED: Verdict.CANCELLED,
}


class LeaseRules(msgspec.Struct, frozen=True, kw_only=True):
    """`lease_s`: a ticket of which nothing is heard is given back after this. `leases_max`: tickets held at once."""

    lease_s: float = 600.0
    leases_max: int = 4_096


class ScoringService(ScoringServiceBase):
    def __init__(
        self, frontend: Frontend, timers: Timers, post: Callable[[Outcome], None], rules: LeaseRules | None = None
    ) -> None:
        """`post` takes outcomes to the kernel."""
        self._frontend = frontend
        self._timers = timers
        self._post = post
        self._rules = rules if rules is not None else LeaseRules()
        self._leases: dict[int, _Lease] = {}

    @property
    def leases(self) -> int:
        """Slots that callers of Admit hold now."""
        return len(self._leases)

    async def score_targets(self, request: pb.ScoreTargetsRequest, context: ServerContext) -> pb.ScoreTargetsResponse:
        facts = self._facts(request.facts, context)
        view = self._frontend.view
        plan = self._frontend.host.router.score_all(facts, self._timers.now())
        count = request.candidates_max or len(plan.candidates)
        return pb.ScoreTargetsResponse(
            candidates=[self._candidate(candidate) for candidate in plan.candidates[:count]],
            excluded=[
                pb.Excluded(target=self._target(target), reason=target.unavailable)
                for _, target in sorted(view.targets.items())
                if target.model == facts.model and target.unavailable
            ],
            hedge_after_s=None if math.isinf(plan.hedge_after_s) else plan.hedge_after_s,
            policy=plan.policy,
            view_version=view.version,
        )

    async def admit(self, request: pb.AdmitRequest, context: ServerContext) -> pb.AdmitResponse:
        facts = self._facts(request.facts, context)
        rules = self._rules
        if len(self._leases) >= rules.leases_max:
            text = f"{len(self._leases)} tickets are out; report how their requests ended (ReportOutcome, final)"
            context.abort(Code.RESOURCE_EXHAUSTED, text)
        gate = self._frontend.gate
        arrived_at = self._timers.now()
        waiter = _Waiter()
        ticket = gate.ticket()
        effect = gate.arrive(self._arrival(ticket, facts, request), waiter)
        try:
            if effect is None:
                await waiter.told.wait()
                effect = waiter.effect
                assert effect is not None
            # Nobody would hear of a lease that is given now: its slot would be lost until it runs out.
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            effect = effect or waiter.effect
            if effect is None:
                gate.go(ticket)
            elif isinstance(effect, Admit):
                gate.leave(ticket)  # Let in and cancelled in the same turn.
            raise
        waited_ms = (self._timers.now() - arrived_at) * 1e3
        match effect:
            case Admit():
                self._leases[ticket] = _Lease(self, ticket, _node_of(context))
                self._timers.arm(self._leases[ticket], self._timers.now() + rules.lease_s)
                admitted = pb.Admitted(ticket=ticket, lease_s=rules.lease_s)
                return pb.AdmitResponse(admitted=admitted, waited_ms=waited_ms)
            case Refuse():
                refused = pb.Refused(reason=_REASONS[effect.reason], retry_after_s=effect.retry_after_s)
                return pb.AdmitResponse(refused=refused, waited_ms=waited_ms)
            case _:
                assert_never(effect)

    async def report_outcome(
        self, request: pb.ReportOutcomeRequest, context: ServerContext
    ) -> pb.ReportOutcomeResponse:
        if len(request.outcomes) > OUTCOMES_MAX:
            text = f"{len(request.outcomes)} outcomes in one call; at most {OUTCOMES_MAX} are taken"
            context.abort(Code.INVALID_ARGUMENT, text)
        # All are looked at before the first is taken: a call is done whole or not at all.
        outcomes = [self._outcome(told, number, context) for number, told in enumerate(request.outcomes)]
        targets = self._frontend.view.targets
        taken = 0
        for told, outcome in zip(request.outcomes, outcomes, strict=True):
            known = outcome.target in targets
            if known:
                self._post(outcome)
            if told.ticket and told.final and not self._give_back(told.ticket, _node_of(context)):
                known = False
            taken += known
        return pb.ReportOutcomeResponse(taken=taken, unknown=len(outcomes) - taken)

    def release(self, ticket: int) -> bool:
        """Give a slot back. False: the ticket is not, or no longer, out."""
        lease = self._leases.pop(ticket, None)
        if lease is None:
            return False
        self._timers.disarm(lease)
        self._frontend.gate.leave(ticket)
        return True

    def _give_back(self, ticket: int, node: str) -> bool:
        """A ticket is a small number, so only the node that was given it can give it back."""
        lease = self._leases.get(ticket)
        return lease is not None and lease.node == node and self.release(ticket)

    # --- reading what was asked ---

    def _facts(self, told: pb.RequestFacts, context: ServerContext) -> RequestFacts:
        """Aborts the call for what cannot be."""
        if not told.model or len(told.model) > MODEL_CHARS_MAX:
            context.abort(Code.INVALID_ARGUMENT, f"facts.model must be a name of 1 to {MODEL_CHARS_MAX} characters")
        if told.model not in self._frontend.view.eligible:
            context.abort(Code.NOT_FOUND, f"no node of this fleet serves '{told.model}'")
        if len(told.blocks) > BLOCKS_MAX:
            context.abort(Code.INVALID_ARGUMENT, f"facts.blocks has {len(told.blocks)}; at most {BLOCKS_MAX} are taken")
        within_s = told.first_byte_within_s
        if not 0.0 <= within_s <= _SECONDS_MAX:
            context.abort(Code.INVALID_ARGUMENT, f"facts.first_byte_within_s is {within_s}; 0 to {_SECONDS_MAX:.0f}")
        return RequestFacts(
            model=ModelName(told.model),
            prompt_bytes=min(told.prompt_bytes, 1 << 40),
            output_tokens_max=min(told.output_tokens_max, 1 << 31),
            stream=told.stream,
            blocks=tuple(told.blocks),
            priority=_PRIORITIES.get(told.priority, Priority.DEFAULT),
            tenant=told.tenant[:TENANT_CHARS_MAX],
            deadline=self._timers.now() + within_s if within_s else math.inf,
            may_hedge=not told.forbid_hedge,
        )

    def _arrival(self, ticket: int, facts: RequestFacts, request: pb.AdmitRequest) -> Arrival:
        """With this router's own prediction where the caller has none."""
        ttft_ms, work_ms = request.predicted_ttft_ms, request.work_ms
        if not (ttft_ms > 0 and work_ms > 0):
            plan = self._frontend.host.router.score_all(facts, self._timers.now())
            first = plan.candidates[0].prediction if plan.candidates else None
            ttft_ms = ttft_ms if ttft_ms > 0 else (first.ttft_ms if first else 0.0)
            work_ms = work_ms if work_ms > 0 else (slot_ms(first) if first else 0.0)
        return Arrival(
            ticket=ticket,
            model=facts.model,
            priority=facts.priority,
            tenant=facts.tenant,
            deadline=facts.deadline,
            predicted_ttft_ms=ttft_ms,
            work_ms=work_ms,
        )

    def _outcome(self, told: pb.Outcome, number: int, context: ServerContext) -> Outcome:
        verdict = _VERDICTS.get(told.verdict)
        where = f"outcomes[{number}]"
        if verdict is None:
            context.abort(Code.INVALID_ARGUMENT, f"{where}.verdict is {told.verdict}: none that is known")
        if not (0.0 <= told.first_byte_s <= _SECONDS_MAX and 0.0 <= told.total_s <= _SECONDS_MAX):
            times = f"first_byte_s {told.first_byte_s}, total_s {told.total_s}"
            context.abort(Code.INVALID_ARGUMENT, f"{where}: {times}; 0 to {_SECONDS_MAX:.0f} is allowed")
        if told.replica > _REPLICA_MAX or told.count > _COUNT_MAX:
            text = f"{where}: replica {told.replica}, count {told.count}; at most {_REPLICA_MAX} and {_COUNT_MAX}"
            context.abort(Code.INVALID_ARGUMENT, text)
        detail = "".join(mark for mark in told.detail[:_DETAIL_CHARS_MAX] if mark.isprintable())
        return Outcome(
            target=target_key(NodeId(told.node), ModelName(told.model), told.replica),
            verdict=verdict,
            first_byte_s=told.first_byte_s,
            total_s=told.total_s,
            count=max(1, told.count) if verdict is Verdict.OK else 1,
            detail=detail,
        )

    # --- saying what is known ---

    def _candidate(self, candidate: Candidate) -> pb.Candidate:
        prediction = candidate.prediction
        said = {name: getattr(prediction, name) for name in prediction.__struct_fields__}
        return pb.Candidate(
            target=self._target(candidate.target), score_ms=candidate.score_ms, prediction=pb.Prediction(**said)
        )

    def _target(self, target: Target) -> pb.Target:
        record = self._frontend.view.nodes.get(target.node)
        address = record.mesh_address if record is not None else None
        return pb.Target(
            node=target.node,
            model=target.model,
            replica=target.state.replica,
            address=str(address) if address is not None else "",
            zone=target.zone,
            suspect=target.suspect,
        )


class _Waiter:
    """A call of Admit in the line."""

    __slots__ = ("effect", "told")

    def __init__(self) -> None:
        self.effect: Admit | Refuse | None = None
        self.told = trio.Event()

    def on_admission(self, effect: Admit | Refuse) -> None:
        self.effect = effect
        self.told.set()

    def give_up(self) -> None:
        """Nothing of it can have failed."""


def _node_of(context: ServerContext) -> str:
    return context.peer.node if context.peer is not None else ""


class _Lease:
    """A ticket that is out."""

    __slots__ = ("_service", "_ticket", "deadline", "node", "timer")

    def __init__(self, service: ScoringService, ticket: int, node: str) -> None:
        self._service = service
        self.node = node  # Who was given it.
        self._ticket = ticket
        self.deadline = math.inf
        self.timer: Entry | None = None

    def on_deadline(self, now: float) -> None:
        self._service.release(self._ticket)
