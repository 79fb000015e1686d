"""Count, log, trace and remember requests: one place where a request's record turns into what people see.

Counters are bumped as things happen; logs and spans are written when a request has ended, successes by sample
and failures always. The last records stay for `mesh explain`, oldest dropped first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.outcome import Verdict
from infermesh.observe.families import Distribution, Value
from infermesh.observe.logs import Logger, RequestSampling
from infermesh.observe.metrics import Metrics
from infermesh.observe.tracing import Tracer
from infermesh.planes.data.record import AttemptRecord, Ending, RequestRecord

RECORDS_KEPT_MAX: Final = 1000

_RESULTS: Final = {
    Ending.COMPLETED: "ok",
    Ending.INVALID: "client_error",
    Ending.FAILED: "failed",
    Ending.CANCELLED: "cancelled",
}


class _ModelCounters:
    """The children of one model, resolved once."""

    __slots__ = ("in_flight", "queue_wait", "requests")

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.requests: Value = metrics.requests.child(model=model)
        self.in_flight: Value = metrics.requests_in_flight.child(model=model)
        self.queue_wait: Distribution = metrics.queue_wait.child(model=model)


class _AnswerCounters:
    """The children of one model on one node, resolved once."""

    __slots__ = ("first_token", "latency", "ok", "prompt_tokens", "tokens")

    def __init__(self, metrics: Metrics, model: str, runtime: str, node: str) -> None:
        self.ok: Value = metrics.inferences.child(model=model, runtime=runtime, node=node, result="ok")
        self.latency: Distribution = metrics.inference_latency.child(model=model, runtime=runtime, node=node)
        self.first_token: Distribution = metrics.time_to_first_token.child(model=model, runtime=runtime, node=node)
        self.tokens: Value = metrics.tokens_generated.child(model=model, runtime=runtime, node=node)
        self.prompt_tokens: Value = metrics.prompt_tokens.child(model=model, runtime=runtime, node=node)


class Ledger:
    """Owned by the data plane; used from its thread only."""

    def __init__(self, metrics: Metrics, log: Logger, tracer: Tracer, sampling: RequestSampling) -> None:
        self.metrics = metrics
        self.tracer = tracer
        self._log = log
        self._sampling = sampling
        self._records: deque[RequestRecord] = deque(maxlen=RECORDS_KEPT_MAX)
        self._models: dict[str, _ModelCounters] = {}
        self._answers: dict[tuple[str, str, str], _AnswerCounters] = {}
        self._chosen: dict[tuple[str, str], Value] = {}
        self._verdicts: dict[tuple[str, Verdict], Value] = {}
        self._choice: Distribution = metrics.choice.child()

    # --- on the way ---

    def arrived(self, record: RequestRecord) -> None:
        """An inference request for a model that the fleet knows."""
        counters = self._models.get(record.model)
        if counters is None:
            counters = self._models[record.model] = _ModelCounters(self.metrics, record.model)
        counters.requests.value += 1
        counters.in_flight.value += 1
        self._records.append(record)

    def bad_request(self, port: str, reason: str) -> None:
        self.metrics.bad_requests.child(port=port, reason=reason).value += 1

    def chosen(self, record: RequestRecord) -> None:
        self._choice.observe(record.choice_s)

    def waited(self, record: RequestRecord) -> None:
        self._models[record.model].queue_wait.observe(record.queue_wait_s)

    def dispatched(self, model: ModelName, attempt: AttemptRecord) -> None:
        key = (model, attempt.node)
        counter = self._chosen.get(key)
        if counter is None:
            counter = self._chosen[key] = self.metrics.target_chosen.child(model=model, node=attempt.node)
        counter.value += 1
        if attempt.hedge:
            self.hedge(model, "fired")

    def hedge(self, model: ModelName, result: str) -> None:
        self.metrics.hedges.child(model=model, result=result).value += 1

    def retried(self, model: ModelName, verdict: Verdict) -> None:
        self.metrics.retries.child(model=model, verdict=verdict.value).value += 1

    def stale(self, node: NodeId) -> None:
        self.metrics.stale_connection_retries.child(node=node).value += 1

    def attempt_ended(self, attempt: AttemptRecord, *, cancel_reason: str) -> None:
        verdict = attempt.verdict
        assert verdict is not None
        key = (attempt.node, verdict)
        counter = self._verdicts.get(key)
        if counter is None:
            counter = self._verdicts[key] = self.metrics.upstream_attempts.child(
                node=attempt.node, verdict=verdict.value
            )
        counter.value += 1
        if cancel_reason:
            self.metrics.cancelled_upstream.child(node=attempt.node, reason=cancel_reason).value += 1

    # --- at the end ---

    def ended(self, record: RequestRecord, now: float) -> None:
        """The one end of a request that `arrived`."""
        assert record.ending is not None
        assert record.ended_at == 0.0, "a request ends once"
        record.ended_at = now
        model = record.model
        self._models[model].in_flight.value -= 1
        ending = record.ending
        if ending is Ending.COMPLETED:
            self._completed(record, now)
        elif ending is Ending.REJECTED:
            self.metrics.requests_rejected.child(model=model, reason=record.reason).value += 1
        else:
            self.metrics.inferences.child(
                model=model, runtime=record.runtime, node=record.winner or "", result=_RESULTS[ending]
            ).value += 1
        if self._sampling.wants(failed=ending is Ending.FAILED):
            self._write(record, now)
        if record.sampled:
            self._trace(record, now)

    def find(self, request_id: str) -> RequestRecord | None:
        for record in reversed(self._records):
            if record.request_id == request_id:
                return record
        return None

    def recent(self, records_max: int) -> Iterator[RequestRecord]:
        """Newest first."""
        for number, record in enumerate(reversed(self._records)):
            if number == records_max:
                return
            yield record

    # --- inside ---

    def _completed(self, record: RequestRecord, now: float) -> None:
        key = (record.model, record.runtime, record.winner or "")
        counters = self._answers.get(key)
        if counters is None:
            counters = self._answers[key] = _AnswerCounters(self.metrics, *key)
        counters.ok.value += 1
        counters.latency.observe(now - record.received_at)
        first_s = record.first_byte_at - record.received_at
        counters.first_token.observe(first_s)
        self.metrics.recent_time_to_first_token.add(first_s)
        counters.tokens.value += record.output_tokens
        counters.prompt_tokens.value += record.prompt_tokens

    def _write(self, record: RequestRecord, now: float) -> None:
        assert record.ending is not None
        write = self._log.warning if record.ending is Ending.FAILED else self._log.info
        write(
            "request_ended",
            request_id=record.request_id,
            trace_id=record.trace_id.decode(),
            span_id=record.span_id.decode(),
            route=record.route,
            protocol=record.protocol,
            model=record.model,
            ending=record.ending.value,
            status=record.status,
            reason=record.reason,
            target=record.winner or "",
            attempts=len(record.attempts),
            queue_wait_ms=round(record.queue_wait_s * 1e3, 3),
            first_byte_ms=round(max(0.0, record.first_byte_at - record.received_at) * 1e3, 3),
            total_ms=round((now - record.received_at) * 1e3, 3),
            output_tokens=record.output_tokens,
        )

    def _trace(self, record: RequestRecord, now: float) -> None:
        """Spans by DESIGN 4: the request, and in it the choice, the wait and each attempt's computing."""
        tracer = self.tracer
        offset = tracer.unix_offset_s(now)
        root = record.span_id

        def span(name: str, began: float, ended: float, **attributes: str | int | float | bool) -> None:
            tracer.record(
                name,
                int((began + offset) * 1e9),
                int((ended + offset) * 1e9),
                record.trace_id,
                tracer.new_span_id(),
                root,
                attributes=attributes,
            )

        if record.chosen_at:
            span("router.choose", record.chosen_at - record.choice_s, record.chosen_at)
        if record.queue_wait_s:
            span("queue_wait", record.received_at, record.received_at + record.queue_wait_s)
        for attempt in record.attempts:
            ended = attempt.dispatched_at + attempt.total_s if attempt.total_s else now
            verdict = attempt.verdict.value if attempt.verdict else ""
            span("compute", attempt.dispatched_at, ended, node=attempt.node, verdict=verdict, hedge=attempt.hedge)
        tracer.record(
            "request",
            int((record.received_at + offset) * 1e9),
            int((now + offset) * 1e9),
            record.trace_id,
            root,
            record.parent_span_id,
            attributes={"model": record.model, "status": record.status, "request_id": record.request_id},
        )
