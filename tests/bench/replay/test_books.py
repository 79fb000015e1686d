"""The replay benchmark's own books, by small cases whose answers are known."""

from __future__ import annotations

import msgspec
import pytest

from infermesh.cli.admin_shapes import HedgeTotals, NodeTotals, SummaryPage
from infermesh.cli.replay.ledger import Ledger, Status
from infermesh.cli.replay.report import ReplayReport, make_report
from tests.bench.replay.books import EngineTotals, engine_since, faults_of, summary_since

ROUTER = SummaryPage(
    requests=3,
    completed=2,
    rejected=1,
    per_node={"gpu-a": NodeTotals(chosen=2, won=1, cancelled=1), "gpu-b": NodeTotals(chosen=1, won=1)},
    hedges=HedgeTotals(fired=1, won=1),
)
# The hedge's loser on gpu-a was aborted.
ENGINES = {
    "gpu-a": EngineTotals(submitted=2, completed=1, aborted_total=1),
    "gpu-b": EngineTotals(submitted=1, completed=1),
}


def clients(last: Status = Status.REJECTED) -> ReplayReport:
    """Two completed, one on each node; the third was not."""
    ledger = Ledger()
    for number, status in enumerate((Status.COMPLETED, Status.COMPLETED, last)):
        passage = ledger.open(number=number, at_s=float(number), prompt_tokens=10)
        passage.node = ("gpu-a", "gpu-b", "")[number]
        ledger.settle(passage, status, at_s=number + 1.0)
    return make_report(ledger, sent=3, ttft_slo_ms=1.0, itl_slo_ms=1.0)


def test_books_that_agree_on_all_three_sides_have_no_fault() -> None:
    assert faults_of(clients(), ROUTER, ENGINES) == []


@pytest.mark.parametrize("field", ["requests", "completed", "rejected", "failed", "cancelled"])
def test_a_request_that_clients_and_router_count_differently_is_a_fault(field: str) -> None:
    router = msgspec.structs.replace(ROUTER, **{field: getattr(ROUTER, field) + 1})
    faults = faults_of(clients(), router, ENGINES)
    name = "arrived" if field == "requests" else field
    assert any(fault.startswith(f"{name}: ") for fault in faults), faults


def test_a_request_that_the_router_still_counts_is_a_fault() -> None:
    faults = faults_of(clients(), msgspec.structs.replace(ROUTER, in_flight=1), ENGINES)
    assert faults == ["router: 3 came, 3 ended, 1 are said to be in flight"]


def test_a_slot_that_the_engine_still_holds_is_a_fault() -> None:
    engines = {**ENGINES, "gpu-b": EngineTotals(submitted=1, completed=1, running=1)}
    assert faults_of(clients(), ROUTER, engines) == ["gpu-b: 1 still run and 0 wait"]


def test_an_answer_that_no_engine_gave_is_a_fault() -> None:
    engines = {**ENGINES, "gpu-b": EngineTotals()}
    faults = faults_of(clients(), ROUTER, engines)
    assert "gpu-b: 1 sent, 0 refused, 0 given to the engine, 0 completed there, 1 answered from there" in faults


def test_a_request_that_the_engine_neither_completed_nor_aborted_is_a_fault() -> None:
    engines = {**ENGINES, "gpu-a": EngineTotals(submitted=2, completed=1)}
    assert faults_of(clients(), ROUTER, engines) == ["gpu-a: the engine was given 2, completed 1 and aborted 0"]


def test_a_hedge_may_lose_before_it_reached_its_engine_but_nothing_else_may() -> None:
    engines = {**ENGINES, "gpu-a": EngineTotals(submitted=1, completed=1)}
    assert faults_of(clients(), ROUTER, engines) == []
    router = msgspec.structs.replace(ROUTER, per_node={**ROUTER.per_node, "gpu-a": NodeTotals(chosen=2, won=1)})
    assert faults_of(clients(), router, engines) == ["gpu-a: 1 never reached the engine, and only 0 were cancelled"]


def test_a_request_that_a_node_refused_as_wrongly_asked_never_reached_its_engine() -> None:
    per_node = {**ROUTER.per_node, "gpu-b": NodeTotals(chosen=2, won=2)}
    router = msgspec.structs.replace(ROUTER, completed=3, rejected=0, per_node=per_node)
    assert faults_of(clients(Status.CLIENT_ERROR), router, ENGINES) == []
    router = msgspec.structs.replace(router, per_node=ROUTER.per_node)
    faults = faults_of(clients(Status.CLIENT_ERROR), router, ENGINES)
    assert faults == ["1 were refused as wrongly asked by the clients, 0 by the router"]


def test_totals_of_a_time_are_differences_and_gauges_are_as_they_are() -> None:
    later = SummaryPage(requests=5, completed=4, rejected=1, in_flight=1, per_node={"gpu-a": NodeTotals(chosen=4)})
    moved = summary_since(ROUTER, later)
    assert (moved.requests, moved.completed, moved.rejected, moved.in_flight) == (2, 2, 0, 1)
    assert moved.per_node == {"gpu-a": NodeTotals(chosen=2, won=-1, cancelled=-1)}
    engine = engine_since(ENGINES["gpu-a"], EngineTotals(running=3, submitted=7, completed=1, aborted_total=1))
    assert engine == EngineTotals(running=3, submitted=5)
