"""What a replay showed: counts first, then figures, each percentile with the completion rate beside it.

Pure. Figures of a run whose books do not add up are refused (`Ledger.check`). Percentiles are over the completed
requests, goodput over all that arrived.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from infermesh.cli.replay.ledger import Ledger, Passage, Status
from infermesh.sim.report import quantile

# Sent so much later than planned, and the figures are of this machine as much as of the server.
SEND_LAG_WARNED_S = 0.1


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    p50: float
    p90: float
    p99: float
    mean: float
    max: float


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that completed with TTFT and mean gap between tokens within their objectives."""

    ttft_slo_ms: float
    itl_slo_ms: float
    requests: int
    share: float  # Of those that arrived.
    per_s: float


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    arrived: int
    completed: int
    rejected: int
    failed: int
    cancelled: int
    client_errors: int
    completion_rate: float
    causes: dict[str, dict[str, int]]  # By status: why, and how many.
    examples: dict[str, str]  # By cause: what one of them was told.
    duration_s: float
    offered_per_s: float
    completed_per_s: float
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    ttft_ms: Spread
    itl_ms: Spread
    total_ms: Spread
    goodput: Goodput
    send_lag_ms: Spread
    retry_after_s: Spread | None  # Of the rejected ones; None where none said it.
    nodes: dict[str, int]  # Completed by each, where the server says which.
    extra_attempts: int  # Beyond the first, of completed requests.
    flowing_failures: int  # Failed ones whose first token had come.


def make_report(ledger: Ledger, *, sent: int, ttft_slo_ms: float, itl_slo_ms: float) -> ReplayReport:
    """Raises ConservationError when the books do not add up. `sent`: arrivals whose moment came."""
    ledger.check(sent=sent)
    assert not ledger.forgotten, "figures are made of whole books"
    done = ledger.of(Status.COMPLETED)
    arrived, duration_s = ledger.arrived, ledger.ended_s
    good = sum(1 for passage in done if _is_good(passage, ttft_slo_ms, itl_slo_ms))
    tokens = sum(passage.tokens for passage in done)
    waits = [passage.retry_after_s for passage in ledger.of(Status.REJECTED) if passage.retry_after_s is not None]
    last_s = max((passage.at_s for passage in ledger.passages), default=0.0)
    return ReplayReport(
        arrived=arrived,
        completed=len(done),
        rejected=ledger.settled[Status.REJECTED],
        failed=ledger.settled[Status.FAILED],
        cancelled=ledger.settled[Status.CANCELLED],
        client_errors=ledger.settled[Status.CLIENT_ERROR],
        completion_rate=_ratio(len(done), arrived),
        causes=_causes(ledger),
        examples={
            passage.cause: passage.detail
            for passage in reversed(ledger.passages)
            if passage.detail and passage.status is not Status.COMPLETED
        },
        duration_s=round(duration_s, 3),
        offered_per_s=_ratio(arrived, last_s),
        completed_per_s=_ratio(len(done), duration_s),
        prompt_tokens=sum(passage.prompt_tokens for passage in done),
        output_tokens=tokens,
        output_tokens_per_s=_ratio(tokens, duration_s),
        ttft_ms=spread_of([passage.ttft_s * 1e3 for passage in done if passage.ttft_s is not None]),
        itl_ms=spread_of([gap_s * 1e3 for gap_s in ledger.gaps_s]),
        total_ms=spread_of([passage.total_s * 1e3 for passage in done]),
        goodput=Goodput(
            ttft_slo_ms=ttft_slo_ms,
            itl_slo_ms=itl_slo_ms,
            requests=good,
            share=_ratio(good, arrived),
            per_s=_ratio(good, duration_s),
        ),
        send_lag_ms=spread_of([passage.send_lag_s * 1e3 for passage in ledger.passages]),
        retry_after_s=spread_of(waits) if waits else None,
        nodes=dict(sorted(Counter(passage.node for passage in done if passage.node).items())),
        extra_attempts=sum(max(0, passage.attempts - 1) for passage in done),
        flowing_failures=sum(passage.flowing for passage in ledger.of(Status.FAILED)),
    )


def spread_of(values: Sequence[float]) -> Spread:
    ordered = sorted(values)
    mean = math.fsum(ordered) / len(ordered) if ordered else 0.0
    p50, p90, p99 = (round(quantile(ordered, share), 3) for share in (0.5, 0.9, 0.99))
    return Spread(p50=p50, p90=p90, p99=p99, mean=round(mean, 3), max=round(ordered[-1], 3) if ordered else 0.0)


def warnings_of(report: ReplayReport) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    if report.send_lag_ms.p99 > SEND_LAG_WARNED_S * 1e3:
        found.append(
            f"1 % of the requests went out over {report.send_lag_ms.p99:,.0f} ms late: this machine is the bottleneck, "
            "and its delay is in the figures; use less --speed or another machine"
        )
    if report.client_errors:
        causes = ", ".join(f"{cause}: {count:,}" for cause, count in report.causes["client_error"].items())
        found.append(f"{report.client_errors:,} were this client's own errors ({causes}), not the server's")
    return found


def _is_good(passage: Passage, ttft_slo_ms: float, itl_slo_ms: float) -> bool:
    in_time = passage.ttft_s is not None and passage.ttft_s * 1e3 <= ttft_slo_ms
    return in_time and passage.mean_gap_s * 1e3 <= itl_slo_ms


def _causes(ledger: Ledger) -> dict[str, dict[str, int]]:
    causes: dict[str, dict[str, int]] = {}
    for status in Status:
        counted = Counter(passage.cause for passage in ledger.of(status) if passage.cause)
        if counted:
            causes[status.value] = dict(counted.most_common())
    return causes


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0
