"""Choices in words and numbers: what `mesh score` and `mesh explain` show, as plain JSON values.

Every number is the one that decided, or that would decide now; nothing is computed anew for show.
"""

from __future__ import annotations

from infermesh.core.model.targets import RoutingView
from infermesh.core.routing.plan import Candidate, Plan
from infermesh.planes.data.record import AttemptRecord, RequestRecord

Json = dict[str, object]


def candidate_value(candidate: Candidate) -> Json:
    prediction = candidate.prediction
    return {
        "node": candidate.target.node,
        "target": candidate.target.key,
        "score_ms": round(candidate.score_ms, 3),
        "ttft_ms": round(prediction.ttft_ms, 3),
        "total_ms": round(prediction.total_ms, 3),
        "breakdown": {
            "network_ms": round(prediction.network_ms, 3),
            "queue_ms": round(prediction.queue_ms, 3),
            "prefill_ms": round(prediction.prefill_ms, 3),
            "decode_ms": round(prediction.decode_ms, 3),
            "penalty_ms": round(prediction.penalty_ms, 3),
            "others_ms": round(prediction.others_ms, 3),
        },
        "low_ms": round(prediction.low_ms, 3),
        "high_ms": round(prediction.high_ms, 3),
        "p95_ttft_ms": round(prediction.p95_ttft_ms, 3),
        "cached_tokens": prediction.cached_tokens,
        "uncached_tokens": prediction.uncached_tokens,
        "signal_age_s": round(prediction.signal_age_s, 4),
        "own_inflight": prediction.own_inflight,
        "correction": round(prediction.correction, 4),
    }


def excluded_values(view: RoutingView, model: str) -> list[Json]:
    """The targets of a model that may not be chosen now, and why."""
    return [
        {"node": target.node, "target": key, "reason": target.unavailable}
        for key, target in sorted(view.targets.items())
        if target.model == model and target.unavailable
    ]


def score_value(view: RoutingView, model: str, plan: Plan) -> Json:
    return {
        "model": model,
        "policy": plan.policy,
        "candidates": [candidate_value(candidate) for candidate in plan.candidates],
        "excluded": excluded_values(view, model),
    }


def attempt_value(attempt: AttemptRecord) -> Json:
    return {
        "attempt": attempt.number,
        "node": attempt.node,
        "verdict": attempt.verdict.value if attempt.verdict else "running",
        "first_byte_ms": round(attempt.first_byte_s * 1e3, 3),
        "total_ms": round(attempt.total_s * 1e3, 3),
        "hedge": attempt.hedge,
        "detail": attempt.detail,
    }


def record_value(record: RequestRecord, view: RoutingView, unix_offset_s: float) -> Json:
    """One request, whole. `unix_offset_s` turns monotonic times into Unix times."""
    plan = record.plan
    return {
        "request_id": record.request_id,
        "route": record.route,
        "protocol": record.protocol,
        "model": record.model,
        "trace_id": record.trace_id.decode(),
        "received_unix_s": round(record.received_at + unix_offset_s, 6),
        "priority": record.priority.name.lower(),
        "tenant": record.tenant,
        "queue_wait_ms": round(record.queue_wait_s * 1e3, 3),
        "first_byte_ms": round(max(0.0, record.first_byte_at - record.received_at) * 1e3, 3),
        "total_ms": round(max(0.0, record.ended_at - record.received_at) * 1e3, 3),
        "policy": plan.policy if plan else "",
        "candidates": [candidate_value(candidate) for candidate in plan.candidates] if plan else [],
        "attempts": [attempt_value(attempt) for attempt in record.attempts],
        "status": record.status,
        "ending": record.ending.value if record.ending else "running",
        "reason": record.reason,
        "winner": record.winner or "",
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "excluded": excluded_values(view, record.model),
    }
