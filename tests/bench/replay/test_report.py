"""The replay benchmark's own report, by small cases whose answers are known."""

from __future__ import annotations

import msgspec
import pytest

from infermesh.cli.admin_shapes import SummaryPage
from infermesh.cli.replay.ledger import Ledger, Status
from infermesh.cli.replay.report import ReplayReport, make_report
from infermesh.sim.node import make_nodes
from infermesh.sim.trace import TraceRequest
from tests.bench.replay.arm import Arm, CpuShares, NodeShare, busy_s
from tests.bench.replay.books import EngineTotals
from tests.bench.replay.report import Contest, Ratio, document_of, ratios_of, render
from tests.bench.replay.slices import SliceOptions, cut

PIECE = cut(
    "t.csv",
    [TraceRequest(float(number), 100, 10, ()) for number in range(10)],
    0,
    1_000.0,
    SliceOptions(load=0.5, seconds=2.0, output_tokens_max=0),
)
SHARE = NodeShare(chosen=10, won=10, busy=0.5, prompt_tokens=1_000, cached_tokens=250, preemptions=0)


def replayed(ttft_s: float) -> ReplayReport:
    """Ten requests, each with the same time to its first token."""
    ledger = Ledger()
    for number in range(10):
        passage = ledger.open(number=number, at_s=float(number), prompt_tokens=100)
        ledger.first_token(passage, ttft_s)
        ledger.settle(passage, Status.COMPLETED, at_s=number + 2.0 * ttft_s)
    return make_report(ledger, sent=10, ttft_slo_ms=250.0, itl_slo_ms=100.0)


def arm(policy: str, number: int, ttft_s: float, *, foreign: float = 0.0, fault: str = "") -> Arm:
    return Arm(
        policy=policy,
        round=number,
        clients=replayed(ttft_s),
        router=SummaryPage(),
        nodes={"gpu-a": SHARE},
        cpu=CpuShares(client=0.1, router=0.1, gpus=0.1, foreign=foreign, cores=2),
        faults=[fault] if fault else [],
    )


def contest(*arms: Arm) -> Contest:
    return Contest(trace="t.csv", load=0.5, baseline="round_robin", slices=[PIECE], arms=list(arms), foretold=[])


QUIET = contest(
    arm("predicted_ms", 0, 0.2),
    arm("round_robin", 0, 0.4),
    # The second round is played the other way round.
    arm("round_robin", 1, 0.2),
    arm("predicted_ms", 1, 0.2),
    arm("predicted_ms", 2, 0.1),
    arm("round_robin", 2, 0.4),
)


def test_ratios_are_taken_within_a_round_and_their_median_over_the_rounds() -> None:
    ratio = ratios_of(QUIET)["predicted_ms"]["ttft_p90_ms"]
    assert ratio == Ratio(rounds=[0.5, 1.0, 0.25], median=0.5, foretold=None)


def test_something_over_nothing_is_infinite_and_nothing_over_nothing_is_even() -> None:
    ratios = ratios_of(contest(arm("predicted_ms", 0, 0.2), arm("round_robin", 0, 0.4)))["predicted_ms"]
    assert ratios["goodput"].rounds == [float("inf")]
    assert ratios["gap_p99_ms"].rounds == [1.0]


def test_books_that_do_not_add_up_leave_no_figures() -> None:
    broken = contest(arm("predicted_ms", 0, 0.2, fault="arrived: 10 by the clients, 9 by the router"), *QUIET.arms[1:2])
    text = render(broken, {"gpu-a": "h100"})
    assert "INVALID predicted_ms, round 1: arrived: 10 by the clients, 9 by the router" in text
    assert "ttft" not in text
    document = document_of(broken)
    assert (document["valid"], document["medians"], document["ratios"]) == (False, {}, {})
    with pytest.raises(AssertionError, match="add up"):
        ratios_of(broken)


def test_the_tables_show_medians_ratios_and_shares() -> None:
    text = render(QUIET, {"gpu-a": "h100"})
    assert "t.csv at load 0.5: 10 requests in 2 s" in text
    assert "100%, busy 50%" in text
    assert "0.50 1.00 0.25 [0.50]" in text
    assert "NOISY" not in text


def test_what_did_not_complete_is_told_with_its_reason() -> None:
    report = msgspec.structs.replace(
        replayed(0.2), causes={"client_error": {"http 400": 2}}, examples={"http 400": "too long"}
    )
    bad = msgspec.structs.replace(arm("predicted_ms", 0, 0.2), clients=report)
    text = render(contest(bad, arm("round_robin", 0, 0.4)), {"gpu-a": "h100"})
    assert "predicted_ms: 2 not completed, http 400: too long\n" in text


def test_a_machine_that_was_busy_with_something_else_is_said_to_be() -> None:
    assert "NOISY: other work used up to 0.80 cores" in render(
        contest(arm("predicted_ms", 0, 0.2, foreign=0.8), arm("round_robin", 0, 0.4)), {"gpu-a": "h100"}
    )


def test_the_document_is_json_and_holds_every_arm() -> None:
    document = msgspec.json.decode(msgspec.json.encode(document_of(QUIET)))
    assert [each["policy"] for each in document["arms"]] == [each.policy for each in QUIET.arms]
    assert document["arms"][0]["prefix_hit_rate"] == 0.25
    assert "arrivals" not in document["slices"][0]


def test_an_engine_is_busy_for_what_its_steps_cost() -> None:
    (spec,) = make_nodes("h100:2")
    engine = EngineTotals(steps=10, generation_tokens=100, prefix_query_tokens=3_000, prefix_hit_tokens=1_000)
    # 10 x 15 + 100 x 0.2 + 2,000 x 0.063 ms, at twice the speed.
    assert busy_s(spec, engine) == pytest.approx(0.148)
