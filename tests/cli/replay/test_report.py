"""Figures from the books: right, never without the completion rate, and never from books that do not add up."""

from __future__ import annotations

import msgspec
import pytest

from infermesh.cli.replay.ledger import ConservationError, Ledger, Status
from infermesh.cli.replay.report import make_report, spread_of, warnings_of


def _books() -> Ledger:
    """Ten completed with TTFT 0.1 to 1.0 s, five rejected, two failed, one cancelled, two of our own errors."""
    ledger = Ledger()
    ends = (
        [(Status.COMPLETED, "")] * 10
        + [(Status.REJECTED, "http 429")] * 5
        + [(Status.FAILED, "broken"), (Status.FAILED, "http 500")]
        + [(Status.CANCELLED, "planned")]
        + [(Status.CLIENT_ERROR, "EMFILE")] * 2
    )
    for number, (status, cause) in enumerate(ends):
        passage = ledger.open(number=number, at_s=number / 2, prompt_tokens=100)
        if status is Status.COMPLETED:
            ledger.first_token(passage, (number + 1) / 10)
            passage.tokens = 11
            passage.mean_gap_s = 0.02 * (number + 1)
            passage.node = "gpu-a" if number % 3 else "gpu-b"
            passage.attempts = 2 if number == 4 else 1
        if status is Status.REJECTED:
            passage.retry_after_s = 2.0
        passage.flowing = cause == "broken"
        ledger.settle(passage, status, at_s=number / 2 + 1.5, cause=cause, detail=f"why {number}" if cause else "")
    return ledger


def test_counts_and_figures_are_those_of_the_books() -> None:
    report = make_report(_books(), sent=20, ttft_slo_ms=500.0, itl_slo_ms=60.0)
    assert (report.arrived, report.completed, report.rejected) == (20, 10, 5)
    assert (report.failed, report.cancelled, report.client_errors) == (2, 1, 2)
    assert report.completion_rate == 0.5
    assert report.causes == {
        "rejected": {"http 429": 5},
        "failed": {"broken": 1, "http 500": 1},
        "cancelled": {"planned": 1},
        "client_error": {"EMFILE": 2},
    }
    assert report.examples["http 429"] == "why 10"
    assert (report.ttft_ms.p50, report.ttft_ms.p90, report.ttft_ms.p99) == (500.0, 900.0, 1000.0)
    assert (report.ttft_ms.mean, report.ttft_ms.max) == (550.0, 1000.0)
    # TTFT up to 0.5 s are the first five, mean gaps up to 60 ms the first three.
    assert (report.goodput.requests, report.goodput.share) == (3, 0.15)
    assert report.duration_s == 11.0
    assert report.output_tokens_per_s == 10.0
    assert report.nodes == {"gpu-a": 6, "gpu-b": 4}
    assert (report.extra_attempts, report.flowing_failures) == (1, 1)
    assert report.retry_after_s is not None
    assert report.retry_after_s.p50 == 2.0


def test_no_figure_without_conservation() -> None:
    ledger = _books()
    ledger.passages.pop()
    with pytest.raises(ConservationError):
        make_report(ledger, sent=20, ttft_slo_ms=1.0, itl_slo_ms=1.0)


def test_nothing_arrived_is_all_zero() -> None:
    report = make_report(Ledger(), sent=0, ttft_slo_ms=1.0, itl_slo_ms=1.0)
    assert (report.arrived, report.completion_rate, report.ttft_ms.p99, report.goodput.per_s) == (0, 0.0, 0.0, 0.0)


def test_a_reader_is_warned_of_a_slow_client_and_of_its_errors() -> None:
    report = make_report(_books(), sent=20, ttft_slo_ms=1.0, itl_slo_ms=1.0)
    assert warnings_of(report) == ["2 were this client's own errors (EMFILE: 2), not the server's"]
    late = msgspec.structs.replace(report, send_lag_ms=spread_of([250.0]), client_errors=0)
    assert warnings_of(late)[0].startswith("1 % of the requests went out over 250 ms late: this machine")


def test_a_spread_of_nothing_is_zero() -> None:
    assert spread_of([]).max == 0.0
