"""What a simulated run is reported as: figures with the completion rate beside every percentile.

A percentile of the requests that completed says nothing without how many did: a policy that loses the slow
half looks fast. So no figure here is without it, and goodput counts what arrived, not what completed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from infermesh.sim.ledger import Ledger, Passage, Status


class Percentiles(msgspec.Struct, frozen=True):
    p50: float
    p90: float
    p99: float
    mean: float


class NodeShare(msgspec.Struct, frozen=True):
    node: str
    speed: float
    requests: int
    busy: float  # Share of the run in which its engine worked.


class FleetReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Percentiles are over the completed requests, `completion_rate` of the arrived ones."""

    policy: str
    seed: int
    routers: int
    arrived: int
    completed: int
    rejected: int
    failed: int
    cancelled: int
    completion_rate: float
    span_s: float
    ttft_ms: Percentiles
    token_gap_ms: Percentiles  # Each request's mean gap between tokens.
    total_ms: Percentiles
    prefix_hit_rate: float  # Prompt tokens found cached, of those of completed requests.
    goodput: float  # Share of the arrived that completed with TTFT and token gap within their objectives.
    ttft_slo_ms: float
    token_gap_slo_ms: float
    preemptions: int
    prediction_error: float  # Median of |actual / predicted - 1| of TTFT.
    late_share: float  # Completed requests slower than their predicted p95: 0.05 when it is right.
    nodes: tuple[NodeShare, ...]


def make_report(
    ledger: Ledger, *, policy: str, seed: int, routers: int, ttft_slo_ms: float, token_gap_slo_ms: float
) -> FleetReport:
    """Call it on what `simulate` returned: that has passed the checks."""
    arrived = len(ledger.passages)
    done = [passage for passage in ledger.passages if passage.status is Status.COMPLETED]
    good = sum(1 for passage in done if passage.ttft_ms <= ttft_slo_ms and passage.token_gap_ms <= token_gap_slo_ms)
    prompt_tokens = sum(passage.request.prompt_tokens for passage in done)
    errors, late = _prediction_quality(done)
    return FleetReport(
        policy=policy,
        seed=seed,
        routers=routers,
        arrived=arrived,
        completed=ledger.counts[Status.COMPLETED],
        rejected=ledger.counts[Status.REJECTED],
        failed=ledger.counts[Status.FAILED],
        cancelled=ledger.counts[Status.CANCELLED],
        completion_rate=_rounded(len(done) / arrived) if arrived else 0.0,
        span_s=_rounded(ledger.span_s),
        ttft_ms=percentiles([passage.ttft_ms for passage in done]),
        token_gap_ms=percentiles([passage.token_gap_ms for passage in done if passage.token_gap_ms]),
        total_ms=percentiles([(passage.ended_s - passage.arrived_s) * 1e3 for passage in done]),
        prefix_hit_rate=_rounded(sum(passage.cached_tokens for passage in done) / max(1, prompt_tokens)),
        goodput=_rounded(good / arrived) if arrived else 0.0,
        ttft_slo_ms=ttft_slo_ms,
        token_gap_slo_ms=token_gap_slo_ms,
        preemptions=ledger.preemptions,
        prediction_error=_rounded(quantile(sorted(errors), 0.5)),
        late_share=_rounded(late / max(1, len(done))),
        nodes=tuple(
            NodeShare(
                spec.name,
                spec.speed,
                sum(1 for passage in ledger.passages if passage.node == spec.name),
                _rounded(busy_s / ledger.span_s) if ledger.span_s else 0.0,
            )
            for spec, busy_s in zip(ledger.nodes, ledger.busy_s.values(), strict=True)
        ),
    )


def percentiles(values: Sequence[float]) -> Percentiles:
    ordered = sorted(values)
    mean = math.fsum(ordered) / len(ordered) if ordered else 0.0
    return Percentiles(
        _rounded(quantile(ordered, 0.5)),
        _rounded(quantile(ordered, 0.9)),
        _rounded(quantile(ordered, 0.99)),
        _rounded(mean),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; 0.0 of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def to_json(reports: Sequence[FleetReport]) -> bytes:
    """One document, the same bytes for the same run."""
    return msgspec.json.format(msgspec.json.encode({"reports": list(reports)}), indent=2)


_COLUMNS = (
    "policy", "done", "ttft p50", "p90", "p99", "gap p50", "p90", "total p90", "hits", "goodput", "preempt", "error",
)  # fmt: skip


def to_text(reports: Sequence[FleetReport]) -> str:
    """A table, milliseconds throughout; `done` is the share of the arrived that the percentiles are over."""
    rows = [_COLUMNS, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    for report in reports:
        shares = "  ".join(
            f"{node.node} x{node.speed:g}: {node.requests} ({node.busy:.0%} busy)" for node in report.nodes
        )
        lines.append(f"{report.policy}: {shares}")
    return "\n".join(lines) + "\n"


def _row(report: FleetReport) -> tuple[str, ...]:
    ttft, gap = report.ttft_ms, report.token_gap_ms
    return (
        report.policy,
        f"{report.completion_rate:.2%}",
        f"{ttft.p50:.0f}",
        f"{ttft.p90:.0f}",
        f"{ttft.p99:.0f}",
        f"{gap.p50:.1f}",
        f"{gap.p90:.1f}",
        f"{report.total_ms.p90:.0f}",
        f"{report.prefix_hit_rate:.1%}",
        f"{report.goodput:.2%}",
        f"{report.preemptions}",
        f"{report.prediction_error:.1%}",
    )


def _prediction_quality(done: Sequence[Passage]) -> tuple[list[float], int]:
    errors: list[float] = []
    late = 0
    for passage in done:
        assert passage.prediction is not None
        errors.append(abs(passage.ttft_ms / passage.prediction.ttft_ms - 1.0))
        late += passage.ttft_ms > passage.prediction.p95_ttft_ms
    return errors, late


def _rounded(value: float) -> float:
    return round(value, 6)
