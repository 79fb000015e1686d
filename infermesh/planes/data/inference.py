"""One inference request of a client, from its facts to the last byte of its answer.

Its way in one direction: a plan from `core.routing`, a slot from admission, a `Run` over the plan's candidates, a
record in the ledger. Each step is a plain call: from the reactor when its request or an answer's bytes arrive, from
the gate when its turn comes, from the timers when it is late. It ends exactly once, in `_end`, and whatever it holds
then is given back: its place in the queue or its slot, its attempts, its asker's turn.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

from infermesh.core.model.outcome import Verdict
from infermesh.core.routing.arrival import Arrival
from infermesh.core.routing.effects import Admit, RefusalReason, Refuse
from infermesh.core.routing.plan import Plan, Prediction
from infermesh.net.asker import Asker
from infermesh.planes.data.busy import Busy
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.gate import Gate
from infermesh.planes.data.record import Ending, RequestRecord
from infermesh.planes.data.router_host import RequestContext, RouterDestination, RouterHost, nobody_waits
from infermesh.planes.data.run import Run, RunLimits
from infermesh.planes.data.writer import AnswerWriter
from wire.http1 import Field

_REPLAN_AFTER_S: Final = 0.05  # After so long in the queue the fleet is another one.


class InferenceParts(Protocol):
    """What all inferences of a router share."""

    host: RouterHost
    gate: Gate
    limits: RunLimits
    busy: Busy
    attempts_max: int


class Inference:
    __slots__ = ("_asker", "_context", "_parts", "_plan", "_run", "_ticket", "_writer")

    def __init__(self, parts: InferenceParts, asker: Asker, writer: AnswerWriter, context: RequestContext) -> None:
        self._parts = parts
        self._asker = asker
        self._writer = writer
        self._context = context
        self._ticket = 0  # 0: neither waiting nor admitted.
        self._plan: Plan | None = None
        self._run: Run | None = None
        context.on_run_end = self.on_run_end

    def begin(self) -> None:
        """Be counted, and run, wait or be refused."""
        parts, record, facts = self._parts, self._context.record, self._context.facts
        parts.busy.enter()
        parts.host.ledger.arrived(record)
        self._asker.work = self
        plan = self._make_plan()
        first = plan.candidates[0].prediction if plan.candidates else None
        self._ticket = parts.gate.ticket()
        effect = parts.gate.arrive(
            Arrival(
                ticket=self._ticket,
                model=facts.model,
                priority=facts.priority,
                tenant=facts.tenant,
                deadline=facts.deadline,
                predicted_ttft_ms=first.ttft_ms if first else 0.0,
                work_ms=slot_ms(first) if first else 0.0,
            ),
            self,
        )
        if effect is not None:
            self.on_admission(effect)

    def on_admission(self, effect: Admit | Refuse) -> None:
        """From the gate, at once or when the turn has come."""
        record = self._context.record
        if isinstance(effect, Refuse):
            self._ticket = 0
            record.ending, record.reason = Ending.REJECTED, effect.reason.value
            self._refuse(_refusal_of(effect, record.model))
            return
        now = self._parts.host.timers.now()
        record.queue_wait_s = now - record.received_at
        self._parts.host.ledger.waited(record)
        plan = self._plan
        assert plan is not None
        if not plan.candidates or now - record.chosen_at > _REPLAN_AFTER_S:
            plan = self._make_plan()
        self._start_run(plan, now)

    def on_run_end(self, run: Run) -> None:
        """From the run, when nothing of it is left."""
        record = self._context.record
        winner = run.winner
        if run.cancelled:
            if run.timed_out:
                record.ending, record.status, record.reason = Ending.FAILED, 504, "timed_out"
            else:
                record.ending, record.status = Ending.CANCELLED, 499
            self._end()
        elif winner is None:
            self._refuse(self._no_answer(run, record))
        else:
            status = record.status = winner.status
            if winner.verdict is Verdict.BROKEN:
                record.ending, record.reason = Ending.FAILED, "broken_stream"
            elif status < 400:
                record.ending = Ending.COMPLETED
            else:
                record.ending = Ending.INVALID if status < 500 else Ending.FAILED
            self._end()
            self._asker.finish()

    @property
    def run(self) -> Run | None:
        """While its attempts are under way."""
        return self._run

    def give_up(self) -> None:
        """From the gate, after a defect: the asker takes everything behind it along."""
        self._asker.lose("a defect on this node, see connection_crashed in its log")

    def on_connection_lost(self) -> None:
        """From the asker: the client is gone."""
        if self._run is not None:
            self._run.cancel()
        else:
            record = self._context.record
            record.ending, record.status = Ending.CANCELLED, 499
            self._leave_queue()

    def expire(self) -> None:
        """From whoever keeps the client's deadline: it has passed, whatever has come. The asker is not told."""
        if self._run is not None:
            self._run.timed_out = True
            self._run.cancel("the client's deadline has passed")
        else:
            record = self._context.record
            record.ending, record.status, record.reason = Ending.FAILED, 504, "timed_out"
            self._leave_queue()

    # --- inside ---

    def _leave_queue(self) -> None:
        ticket, self._ticket = self._ticket, 0
        if ticket:
            self._parts.gate.go(ticket)
        self._end()

    def _make_plan(self) -> Plan:
        record = self._context.record
        began = self._parts.host.timers.now()
        plan = self._parts.host.router.plan(self._context.facts, began)
        self._plan = record.plan = plan
        record.chosen_at = self._parts.host.timers.now()
        record.choice_s = record.chosen_at - began
        self._parts.host.ledger.chosen(record)
        return plan

    def _start_run(self, plan: Plan, now: float) -> None:
        record, facts, parts = self._context.record, self._context.facts, self._parts
        destinations = self._destinations(plan)
        if not destinations:
            record.ending, record.reason = Ending.FAILED, "no_target"
            text = f"no node can serve '{facts.model}' at this moment; try again shortly"
            self._refuse(RequestRefused(503, "no_target", text, param="model", retry_after_s=1.0))
            return
        parts.host.on_request(facts.model)
        self._run = Run(
            parts.host,
            self._asker,
            destinations,
            writer=self._writer,
            hedge_after_s=plan.hedge_after_s if len(destinations) > 1 else math.inf,
            first_byte_by=min(facts.deadline, now + parts.limits.head_timeout_s),
            limits=parts.limits,
            context=self._context,
            sender=self._context.sender,
            client_deadline=facts.deadline,
        )
        self._run.start()

    def _destinations(self, plan: Plan) -> list[RouterDestination]:
        found: list[RouterDestination] = []
        pools, sender = self._parts.host.pools, self._context.sender
        for candidate in plan.candidates:
            pool = sender.pool_to(pools, candidate.target)
            if pool is not None:
                found.append(RouterDestination(candidate, pool))
                if len(found) == self._parts.attempts_max:
                    break
        return found

    def _no_answer(self, run: Run, record: RequestRecord) -> RequestRefused:
        record.ending = Ending.FAILED
        if run.timed_out:
            record.reason = "timed_out"
            return RequestRefused(504, "timed_out", f"no answer began in time; last: {run.failure}")
        record.reason = "no_answer"
        tried = len(run.attempts)
        text = f"no node answered after {tried} attempt{'s' if tried != 1 else ''}; last: {run.failure}"
        return RequestRefused(502, "no_answer", text)

    def _refuse(self, refused: RequestRefused) -> None:
        record = self._context.record
        record.status = refused.status
        fields: list[Field] = [(b"x-infermesh-request-id", self._context.name.request_id)]
        if record.attempts:
            fields.append((b"x-infermesh-attempts", b"%d" % len(record.attempts)))
        self._end()
        self._writer.refuse(self._asker, refused, self._context.request.head.method, fields)

    def _end(self) -> None:
        """The books are closed; the asker's turn is the caller's to end."""
        self._run = None
        self._context.on_run_end = nobody_waits
        if self._asker.work is self:
            self._asker.work = None
        self._context.sender.release()
        self._parts.host.ledger.ended(self._context.record, self._parts.host.timers.now())
        self._parts.busy.leave()
        ticket, self._ticket = self._ticket, 0
        if ticket:
            self._parts.gate.leave(ticket)


def slot_ms(prediction: Prediction) -> float:
    """How long the request will hold its slot. Without the wait for one, which is admission's to add, and without
    penalties, which compare targets and take no time: with them a full fleet would promise room far too late."""
    return prediction.network_ms + prediction.prefill_ms + prediction.decode_ms


def _refusal_of(effect: Refuse, model: str) -> RequestRefused:
    seconds = effect.retry_after_s
    if effect.reason is RefusalReason.NO_CAPACITY:
        text = f"no node can serve '{model}' at this moment; try again in {seconds:.0f} s"
        return RequestRefused(503, effect.reason.value, text, param="model", retry_after_s=seconds)
    why = {
        RefusalReason.QUEUE_FULL: "the queue is full",
        RefusalReason.DEADLINE: "its first byte could not come within the deadline",
        RefusalReason.SHED: "more urgent requests took its place in the queue",
        RefusalReason.EXPIRED: "no slot came free within its deadline",
    }[effect.reason]
    text = f"the fleet is busy with '{model}' and {why}; try again in {seconds:.0f} s"
    return RequestRefused(429, effect.reason.value, text, retry_after_s=seconds)
