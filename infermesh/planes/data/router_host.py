"""What a run asks of a router: budgets, the bytes of each attempt, and the books kept of it.

Everything here is a plain call on the request path. The router core, the ledger and the kernel learn of each
attempt exactly once at its start, at its first byte and at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from infermesh.core.model.names import ModelName, NodeId, TargetKey
from infermesh.core.model.outcome import Outcome, Verdict
from infermesh.core.model.request import RequestFacts
from infermesh.core.routing.budget import HedgeBudget, RetryBudget
from infermesh.core.routing.load import Lease
from infermesh.core.routing.plan import Candidate
from infermesh.core.routing.router import Router
from infermesh.net.asker import Request
from infermesh.net.timers import Timers
from infermesh.planes.data.heads import parse_load
from infermesh.planes.data.identity import RequestName
from infermesh.planes.data.ledger import Ledger
from infermesh.planes.data.pools import Pools
from infermesh.planes.data.record import AttemptRecord, RequestRecord
from infermesh.planes.data.run import Attempt, Destination, Run
from infermesh.planes.data.sender import HTTP1_OUT, RequestSender
from infermesh.planes.data.upstream import Upstream, UpstreamSource
from wire.http1 import ResponseHead
from wire.sse import usage_tokens

_SUCCESSES_EVERY_S: Final = 0.02


class RouterDestination:
    """One candidate of a plan, with the pool that leads to it."""

    __slots__ = ("candidate", "node", "pool")

    def __init__(self, candidate: Candidate, pool: UpstreamSource) -> None:
        self.candidate = candidate
        self.node: NodeId = candidate.target.node
        self.pool = pool


class RequestContext:
    """One request as the router's parts know it."""

    __slots__ = ("facts", "name", "on_run_end", "record", "request", "sender")

    def __init__(
        self,
        request: Request,
        facts: RequestFacts,
        record: RequestRecord,
        name: RequestName,
        sender: RequestSender = HTTP1_OUT,
    ) -> None:
        self.request = request
        self.sender = sender
        self.facts = facts
        self.record = record
        self.name = name
        self.on_run_end: Callable[[Run], None] = nobody_waits


class RouterHost:
    def __init__(
        self,
        router: Router,
        ledger: Ledger,
        pools: Pools,
        timers: Timers,
        *,
        hedges: HedgeBudget,
        retries: RetryBudget,
        pseudonym: str,
        post: Callable[[Outcome], None],
    ) -> None:
        self.router = router
        self.ledger = ledger
        self.pools = pools
        self.timers = timers
        self._hedges = hedges
        self._retries = retries
        self.pseudonym = pseudonym
        self._via = b"via: 1.1 " + pseudonym.encode()
        self._post = post
        # Per target: successes not told yet, and when the next ones are due. As large as the fleet.
        self._successes: dict[TargetKey, list[float]] = {}

    def on_request(self, model: ModelName) -> None:
        """A request that was admitted: it earns its share of the budgets."""
        self._hedges.on_request(model)
        self._retries.on_request(model)

    def forget(self, model: ModelName) -> None:
        """The model left the fleet."""
        self._hedges.forget(model)
        self._retries.forget(model)

    # --- for Run ---

    def send(self, run: Run, attempt: Attempt, up: Upstream) -> None:
        context, lease = run.context, attempt.lease
        assert isinstance(context, RequestContext)
        assert isinstance(lease, Lease)
        target = lease.target
        lines = context.name.lines()
        lines.append(b"x-infermesh-model: " + target.model.encode())
        if target.state.replica:
            lines.append(b"x-infermesh-replica: %d" % target.state.replica)
        lines.append(self._via)
        context.sender.send(context.request, lines, attempt, up)

    def response_lines(self, run: Run, attempt: Attempt, head: ResponseHead) -> list[bytes]:
        context = run.context
        assert isinstance(context, RequestContext)
        return [
            b"x-infermesh-request-id: " + context.name.request_id,
            b"x-infermesh-node: " + attempt.destination.node.encode(),
            b"x-infermesh-attempts: %d" % len(run.attempts),
        ]

    def may_hedge(self, run: Run) -> bool:
        """Within the budget, and onto a node that is not as loaded as the first."""
        context = _context(run)
        if not (context.sender.repeatable and context.sender.complete):
            return False
        model = context.facts.model
        backup = run.race.next_target
        first = run.attempts[-1].destination
        allowed = backup is not None and self._hedges.may_hedge(model) and self._load(backup) < self._load(first)
        if not allowed:
            self.ledger.hedge(model, "denied")
        return allowed

    def may_retry(self, run: Run) -> bool:
        context = _context(run)
        return context.sender.repeatable and self._retries.may_retry(context.facts.model)

    def on_dispatch(self, run: Run, attempt: Attempt) -> None:
        context, destination = run.context, attempt.destination
        assert isinstance(context, RequestContext)
        assert isinstance(destination, RouterDestination)
        model = context.facts.model
        if attempt.hedge:
            self._hedges.on_hedge(model)
        elif attempt.number and self._retries.may_retry(model):
            self._retries.on_retry(model)
            previous = run.attempts[-2].verdict
            self.ledger.retried(model, previous or Verdict.BROKEN)
        attempt.lease = self.router.dispatched(destination.candidate, context.facts, attempt.dispatched_at)
        kept = AttemptRecord(attempt.number, destination.node, attempt.hedge, attempt.dispatched_at)
        attempt.record = kept
        context.record.attempts.append(kept)
        self.ledger.dispatched(model, kept)

    def on_first_byte(self, run: Run, attempt: Attempt, head: ResponseHead) -> None:
        context, lease = run.context, attempt.lease
        assert isinstance(context, RequestContext)
        assert isinstance(lease, Lease)
        record = context.record
        record.first_byte_at = attempt.first_byte_at
        record.winner = attempt.destination.node
        record.runtime = lease.target.state.runtime
        load = head.value(b"x-infermesh-load")
        hint = parse_load(load) if load is not None else None
        if head.status < 400:
            self.router.first_byte(lease, attempt.first_byte_at, hint)
        elif hint is not None:
            self.router.on_hint(lease.target.key, hint, attempt.first_byte_at)

    def on_attempt_end(self, run: Run, attempt: Attempt) -> None:
        context, lease, kept, verdict = run.context, attempt.lease, attempt.record, attempt.verdict
        assert isinstance(context, RequestContext)
        assert isinstance(lease, Lease)
        assert kept is not None
        assert verdict is not None
        now = self.timers.now()
        kept.verdict = verdict
        kept.detail = attempt.detail
        kept.total_s = now - attempt.dispatched_at
        if attempt.first_byte_at:
            kept.first_byte_s = attempt.first_byte_at - attempt.dispatched_at
        prompt_tokens = output_tokens = 0
        if attempt is run.winner and attempt.up is not None:
            tally = attempt.up.tally
            prompt_tokens, output_tokens = usage_tokens(tally.usage)
            record = context.record
            record.prompt_tokens = prompt_tokens
            # Without usage each event is about one token, but for the last one, which says [DONE].
            record.output_tokens = output_tokens or max(0, tally.events - 1)
        self.router.finished(lease, now, verdict, output_tokens, prompt_tokens)
        self.ledger.attempt_ended(kept, cancel_reason=_cancel_reason(run) if verdict is Verdict.CANCELLED else "")
        if len(run.attempts) > 1 and attempt is run.winner:
            self._count_hedge(run, context.facts.model)
        self._tell(lease.target.key, verdict, kept, now)

    def on_stale(self, run: Run, attempt: Attempt) -> None:
        self.ledger.stale(attempt.destination.node)

    def on_run_end(self, run: Run) -> None:
        context = run.context
        assert isinstance(context, RequestContext)
        context.on_run_end(run)

    # --- inside ---

    def _tell(self, key: TargetKey, verdict: Verdict, kept: AttemptRecord, now: float) -> None:
        """Post an outcome to the kernel: successes together, whatever else at once and in its order."""
        told = self._successes.get(key)
        if told is None:
            told = self._successes[key] = [0, 0.0]
        if verdict is Verdict.OK:
            told[0] += 1
            if now < told[1]:
                return
        if told[0]:
            self._post(
                Outcome(target=key, verdict=Verdict.OK, first_byte_s=0.0, total_s=kept.total_s, count=int(told[0]))
            )
            told[0], told[1] = 0, now + _SUCCESSES_EVERY_S
        if verdict is not Verdict.OK:
            self._post(
                Outcome(
                    target=key,
                    verdict=verdict,
                    first_byte_s=kept.first_byte_s,
                    total_s=kept.total_s,
                    detail=kept.detail,
                )
            )

    def _load(self, destination: Destination) -> float:
        target = _candidate(destination).target
        return self.router.inflight(target.key) / max(1, target.state.slots)

    def _count_hedge(self, run: Run, model: ModelName) -> None:
        hedges = [attempt for attempt in run.attempts if attempt.hedge]
        for hedge in hedges:
            self.ledger.hedge(model, "won" if hedge is run.winner else "lost")


def _cancel_reason(run: Run) -> str:
    if run.timed_out:
        return "deadline"
    return "client_gone" if run.cancelled else "hedge_lost"


def nobody_waits(run: Run) -> None:
    """The end of a run before its request begins, or after it ended: a defect."""
    raise AssertionError("a run whose request does not wait for it")


def _candidate(destination: Destination) -> Candidate:
    assert isinstance(destination, RouterDestination)
    return destination.candidate


def _context(run: Run) -> RequestContext:
    context = run.context
    assert isinstance(context, RequestContext)
    return context
