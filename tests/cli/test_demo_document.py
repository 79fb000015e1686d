"""What a demo run is reported as, and when it counts as a success."""

from __future__ import annotations

import msgspec

from infermesh.cli.admin_shapes import HedgeTotals, NodeTotals, SummaryPage
from infermesh.cli.demo_document import KillTimes, Times, document_lines, make_document
from infermesh.cli.fleet.plan import plan_fleet, ports_needed
from infermesh.cli.replay.ledger import Ledger, Status

PLAN = plan_fleet(2, ports=range(9_000, 9_000 + ports_needed(2)), speed=1.0)
TIMES = Times(started_in_s=2.0, load_s=9.0, duration_s=11.5)
TOTALS = SummaryPage(
    per_node={"gpu-a": NodeTotals(chosen=7, won=6, cancelled=1)},
    hedges=HedgeTotals(fired=2, won=1, lost=1, denied=3),
    cancelled_upstream=4,
)
KILL = KillTimes(node="gpu-a", out_of_choice_s=0.07, down_s=3.0, used_again_s=None)


def _books(*ends: tuple[Status, str, bool]) -> Ledger:
    """(how it ended, on which node, whether its first token had come)"""
    ledger = Ledger()
    for number, (status, node, flowing) in enumerate(ends):
        passage = ledger.open(number=number, at_s=0.0, prompt_tokens=1)
        passage.node, passage.flowing = node, flowing
        if flowing:
            ledger.first_token(passage, 0.1)
        ledger.settle(passage, status, at_s=1.0, cause="" if status is Status.COMPLETED else "broken")
    return ledger


def test_requests_are_our_clients_and_choices_are_the_edges() -> None:
    books = _books((Status.COMPLETED, "gpu-a", True), (Status.CANCELLED, "gpu-b", True))
    document = make_document(books, TOTALS, PLAN, TIMES, None)
    assert (document.requests, document.completed, document.cancelled, document.failed) == (2, 1, 1, 0)
    assert document.choices == {"gpu-a": 7, "gpu-b": 0}
    assert (document.hedges.fired, document.cancelled_upstream, document.emulated) == (2, 4, True)
    assert document.addresses.client == "http://127.0.0.1:9000"
    assert document.addresses.nodes["gpu-b"].engine == "http://127.0.0.1:9008"
    assert document.ttft_ms.p50 == 100.0
    assert document.succeeded
    assert msgspec.json.decode(msgspec.json.encode(document))["kill"] is None


def test_any_failure_is_one_when_nobody_was_killed() -> None:
    assert not make_document(_books((Status.FAILED, "gpu-a", True)), TOTALS, PLAN, TIMES, None).succeeded
    assert not make_document(_books((Status.CLIENT_ERROR, "", False)), TOTALS, PLAN, TIMES, None).succeeded
    assert make_document(_books((Status.REJECTED, "", False)), TOTALS, PLAN, TIMES, None).succeeded


def test_only_streams_that_flowed_from_the_killed_node_may_fail() -> None:
    flowing = (Status.FAILED, "gpu-a", True)
    saved = make_document(_books(flowing, flowing), TOTALS, PLAN, TIMES, KILL)
    assert saved.kill is not None
    assert (saved.kill.failed_flowing, saved.kill.failed_other, saved.succeeded) == (2, 0, True)
    for other in ((Status.FAILED, "gpu-b", True), (Status.FAILED, "gpu-a", False)):
        document = make_document(_books(flowing, other), TOTALS, PLAN, TIMES, KILL)
        assert document.kill is not None
        assert (document.kill.failed_other, document.succeeded) == (1, False)


def test_words_say_the_same() -> None:
    books = _books((Status.COMPLETED, "gpu-b", True), (Status.FAILED, "gpu-a", True))
    lines = [line.plain for line in document_lines(make_document(books, TOTALS, PLAN, TIMES, KILL))]
    assert lines == [
        "2 requests in 9.0 s: completed 1, failed 1, rejected 0, cancelled 0",
        "time to first token: p50 100 ms, p90 100 ms, p99 100 ms",
        "chosen: gpu-a 7, gpu-b 0",
        "hedges: 2 fired, 1 won, 1 lost, 3 denied; 4 cancelled down to the engine",
        (
            "gpu-a was killed: out of choice after 0.07 s, down for 3.0 s, not used again; "
            "failed: 1 streams that flowed from it, 0 others"
        ),
        "1 x broken",
    ]
