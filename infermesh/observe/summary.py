"""One page of totals from the metrics: what `/v1/summary`, the demo's table and its JSON document show.

Every request taken ends in exactly one of completed, failed, rejected and cancelled, so
`requests == completed + failed + rejected + cancelled + in_flight` at any moment between two bumps.
"""

from __future__ import annotations

import msgspec

from infermesh.observe.metrics import Metrics


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    p50: float
    p90: float
    p99: float


class NodeTotals(msgspec.Struct, frozen=True, kw_only=True):
    chosen: int
    won: int
    cancelled: int


class HedgeTotals(msgspec.Struct, frozen=True, kw_only=True):
    fired: int
    won: int
    lost: int
    denied: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Since the start of this process; the quantiles are exact over the last 10,000 first tokens."""

    requests: int
    completed: int
    failed: int
    rejected: int
    cancelled: int
    in_flight: int
    ttft_ms: Quantiles
    per_node: dict[str, NodeTotals]
    hedges: HedgeTotals
    cancelled_upstream: int


def summarize(metrics: Metrics) -> Summary:
    results = metrics.inferences.by("result")
    hedges = metrics.hedges.by("result")
    p50, p90, p99 = metrics.recent_time_to_first_token.quantiles((0.5, 0.9, 0.99))
    return Summary(
        requests=int(metrics.requests.sum()),
        # A 4xx of the runtime is an answer: the exchange completed, the client was told what it did wrong.
        completed=int(results.get("ok", 0) + results.get("client_error", 0)),
        failed=int(results.get("failed", 0)),
        rejected=int(metrics.requests_rejected.sum()),
        cancelled=int(results.get("cancelled", 0)),
        in_flight=int(metrics.requests_in_flight.sum()),
        ttft_ms=Quantiles(p50=_ms(p50), p90=_ms(p90), p99=_ms(p99)),
        per_node=_per_node(metrics),
        hedges=HedgeTotals(
            fired=int(hedges.get("fired", 0)),
            won=int(hedges.get("won", 0)),
            lost=int(hedges.get("lost", 0)),
            denied=int(hedges.get("denied", 0)),
        ),
        cancelled_upstream=int(metrics.cancelled_upstream.sum()),
    )


def _per_node(metrics: Metrics) -> dict[str, NodeTotals]:
    chosen = metrics.target_chosen.by("node")
    answered = metrics.upstream_attempts.by("node", verdict="ok")
    refused = metrics.upstream_attempts.by("node", verdict="client_error")
    cancelled = metrics.upstream_attempts.by("node", verdict="cancelled")
    return {
        node: NodeTotals(
            chosen=int(chosen.get(node, 0)),
            won=int(answered.get(node, 0) + refused.get(node, 0)),
            cancelled=int(cancelled.get(node, 0)),
        )
        for node in sorted(chosen.keys() | answered.keys())
    }


def _ms(value_s: float) -> float:
    return round(value_s * 1000.0, 3)
